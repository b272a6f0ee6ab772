//! Counts of each direction: bytes, waits for the sink, and stalls.
//!
//! A wait reads the clock twice, a write that is taken at once not at all. Waits that have
//! become stalls are noticed at the relay's next check.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::budget::Budget;

/// A sink that takes nothing for this long is stalled. Konnectivity's clients give a
/// connection up after the same time. Below it, ordinary pauses count as stalls; above it,
/// clients give up before a stall is counted.
pub(super) const STALL: Duration = Duration::from_secs(10);

/// Counts the events in one direction of relayed connections.
pub trait Counts: Debug + Send + Sync {
    /// The sink took bytes. Called for every batch.
    fn took(&self, _bytes: u64) {}

    /// A sink takes nothing for now. `wait_ended` always follows.
    fn wait_began(&self) {}

    /// The sink takes bytes again, or the connection is over.
    fn wait_ended(&self, _waited: Duration) {}

    /// A wait has lasted for ten seconds. `stall_ended` always follows.
    fn stall_began(&self) {}

    /// A stalled wait is over.
    fn stall_ended(&self) {}
}

/// Counts nothing.
impl Counts for () {}

/// The counts of one direction, shared by connections of one kind.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) counts: Box<dyn Counts>,
    /// The [`Meter`]'s. In both lanes, because a relay refers to each lane and saves a third
    /// reference.
    pub(super) budget: Arc<Budget>,
}

/// Counts and budget, shared by the relays of connections of one kind.
#[derive(Debug)]
pub struct Meter {
    pub(super) up: Lane,
    pub(super) down: Lane,
}

impl Meter {
    /// `up` counts from the near to the far end, `down` the opposite direction.
    pub fn new(up: impl Counts + 'static, down: impl Counts + 'static, budget: Arc<Budget>) -> Self {
        Self {
            up: Lane { counts: Box::new(up), budget: Arc::clone(&budget) },
            down: Lane { counts: Box::new(down), budget },
        }
    }
}

impl Default for Meter {
    /// Counts nothing, and has a budget of its own without a limit.
    fn default() -> Self {
        Self::new((), (), Arc::default())
    }
}

/// Watches the sink of one direction. Dropping it ends the wait and the stall.
pub(super) struct Watch<'a> {
    lane: &'a Lane,
    /// When the current wait began.
    since: Option<Instant>,
    /// The wait has become a stall.
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
        self.lane.counts.took(n as u64);
    }

    /// The sink takes no more for now. With `took` it took some just before.
    pub(super) fn waits(&mut self, took: bool) {
        if took {
            self.ends();
        }
        if self.since.is_none() {
            self.since = Some(Instant::now());
            self.lane.counts.wait_began();
        }
    }

    /// When the current wait began.
    pub(super) const fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Notices a wait that has become a stall.
    pub(super) fn look(&mut self, now: Instant) {
        if !self.stalled && self.since.is_some_and(|since| now - since >= STALL) {
            self.stalled = true;
            self.lane.counts.stall_began();
        }
    }

    /// The sink takes bytes again, or the direction is given up.
    pub(super) fn ends(&mut self) {
        let Some(since) = self.since.take() else { return };
        self.lane.counts.wait_ended(since.elapsed());
        if std::mem::take(&mut self.stalled) {
            self.lane.counts.stall_ended();
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.ends();
    }
}
