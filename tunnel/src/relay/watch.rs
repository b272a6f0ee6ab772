//! How long the bytes of a direction wait for their sink.
//!
//! A write that is taken at once costs nothing here, and a wait costs two looks
//! at the clock. That a wait has become a stall is noticed when the relay looks
//! at what stands still, which it does every few seconds.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};
use tokio::time::Instant;

use super::Budget;

/// A sink that takes nothing for this long is stalled. Konnectivity's clients
/// give a connection up after as long, so it is where trouble begins.
pub const STALL: Duration = Duration::from_secs(10);

/// What connections of one kind share in one direction, metrics above all.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Bytes that the sink took.
    pub bytes: IntCounter,
    /// Directions whose sink takes nothing now, however short that is.
    pub waiting: Option<IntGauge>,
    /// Seconds that each such wait took, once it is over. Writes that are taken
    /// at once are not in it: looking at the clock for each would cost more than
    /// many of them do.
    pub waits: Option<Histogram>,
    /// Directions whose sink takes nothing now, for [`STALL`] or longer.
    pub stalled: IntGauge,
    /// How often that began.
    pub stalls: IntCounter,
    /// What all of the process that stand still may keep. Here, because a relay has
    /// this at hand and no room for more.
    pub budget: Arc<Budget>,
}

/// Watches the sink of one direction. What it counts as open ends with it.
pub(super) struct Watch<'a> {
    lane: &'a Lane,
    /// The wait that goes on.
    since: Option<Instant>,
    /// It has become a stall.
    stalled: bool,
}

impl<'a> Watch<'a> {
    pub(super) const fn new(lane: &'a Lane) -> Self {
        Self { lane, since: None, stalled: false }
    }

    pub(super) fn budget(&self) -> &'a Budget {
        &self.lane.budget
    }

    /// The sink took `n` bytes.
    pub(super) fn took(&self, n: usize) {
        self.lane.bytes.inc_by(n as u64);
    }

    /// The sink takes no more for now; `took` whether it took some just before.
    pub(super) fn waits(&mut self, took: bool) {
        if took {
            self.ends();
        }
        if self.since.is_none() {
            self.since = Some(Instant::now());
            if let Some(waiting) = &self.lane.waiting {
                waiting.inc();
            }
        }
    }

    /// When the wait began that goes on.
    pub(super) const fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Sees whether the wait has become a stall by now.
    pub(super) fn look(&mut self, now: Instant) {
        if !self.stalled && self.since.is_some_and(|since| now - since >= STALL) {
            self.stalled = true;
            self.lane.stalled.inc();
            self.lane.stalls.inc();
        }
    }

    /// The sink takes bytes again, or nobody waits for it any more.
    pub(super) fn ends(&mut self) {
        let Some(since) = self.since.take() else { return };
        if let Some(waiting) = &self.lane.waiting {
            waiting.dec();
        }
        if let Some(waits) = &self.lane.waits {
            waits.observe(since.elapsed().as_secs_f64());
        }
        if std::mem::take(&mut self.stalled) {
            self.lane.stalled.dec();
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.ends();
    }
}
