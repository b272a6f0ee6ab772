//! How long the bytes of a direction wait for their sink.
//!
//! A write that is taken at once costs nothing here. A wait costs two looks at
//! the clock, and a timer at most once in [`STALL`]: it is not set back when
//! the wait is over, but looks, when it fires, for how long bytes have waited.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use prometheus::{Histogram, IntCounter, IntGauge};
use tokio::time::{Instant, Sleep, sleep_until};

/// A sink that takes nothing for this long is stalled. Konnectivity's clients
/// give a connection up after as long, so it is where trouble begins.
pub const STALL: Duration = Duration::from_secs(10);

/// The metrics of one direction, held for the life of a connection.
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
}

/// Watches the sink of one direction. What it counts as open ends with it.
pub(super) struct Watch<'a> {
    lane: &'a Lane,
    /// The wait that goes on.
    since: Option<Instant>,
    /// Without it, a wait that goes on is a stall.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<'a> Watch<'a> {
    pub(super) const fn new(lane: &'a Lane) -> Self {
        Self { lane, since: None, timer: None }
    }

    /// The sink took `n` bytes.
    pub(super) fn took(&self, n: usize) {
        self.lane.bytes.inc_by(n as u64);
    }

    /// The sink takes no more for now; `took` whether it took some just before.
    /// Wakes the task when that has become a stall.
    pub(super) fn waits(&mut self, cx: &mut Context<'_>, took: bool) {
        if took {
            self.ends();
        }
        let since = match self.since {
            Some(since) => since,
            None => self.begins(),
        };
        while let Some(timer) = &mut self.timer {
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            let due = since + STALL;
            if due <= Instant::now() {
                self.timer = None;
                self.lane.stalled.inc();
                self.lane.stalls.inc();
            } else {
                // It was set for an earlier wait.
                timer.as_mut().reset(due);
            }
        }
    }

    fn begins(&mut self) -> Instant {
        let now = Instant::now();
        self.since = Some(now);
        if let Some(waiting) = &self.lane.waiting {
            waiting.inc();
        }
        self.timer.get_or_insert_with(|| Box::pin(sleep_until(now + STALL)));
        now
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
        if self.timer.is_none() {
            self.lane.stalled.dec();
        }
    }

    /// There is nothing to wait for: an idle connection keeps no timer for
    /// longer than it takes to fire.
    pub(super) fn rests(&mut self) {
        if self.timer.as_ref().is_some_and(|timer| timer.is_elapsed()) {
            self.timer = None;
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.ends();
    }
}
