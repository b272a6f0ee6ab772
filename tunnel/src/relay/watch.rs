//! How long the bytes of a direction wait for their sink.
//!
//! A wait costs two readings of the clock, a write that is taken at once none. The
//! relay looks at waits every few seconds, and then notices those that have become
//! stalls.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Budget;

/// A sink that takes nothing for this long is stalled. Konnectivity's clients give
/// a connection up after the same time. Below it, ordinary pauses would be counted
/// as stalls; above it, clients would give up before a stall is seen.
pub const STALL: Duration = Duration::from_secs(10);

/// Counts what happens in one direction of relayed connections.
pub trait Counts: Debug + Send + Sync {
    /// The sink took so many bytes. Called for every batch.
    fn took(&self, _bytes: u64) {}

    /// A sink takes nothing for now. Always followed by `wait_ended`.
    fn wait_began(&self) {}

    /// The sink takes bytes again, or the connection is over.
    fn wait_ended(&self, _waited: Duration) {}

    /// A wait has lasted for [`STALL`]. Always followed by `stall_ended`.
    fn stall_began(&self) {}

    /// A stalled wait is over.
    fn stall_ended(&self) {}
}

/// Counts nothing.
impl Counts for () {}

/// What connections of one kind share in one direction.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) counts: Box<dyn Counts>,
    /// That of the [`Meter`](super::Meter). In both lanes, because a relay has a
    /// reference to each and no room for a third.
    pub(super) budget: Arc<Budget>,
}

/// Watches the sink of one direction. Its end ends the wait and the stall.
pub(super) struct Watch<'a> {
    lane: &'a Lane,
    /// When the current wait began.
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
        self.lane.counts.took(n as u64);
    }

    /// The sink takes no more for now. `took`: it took some just before.
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

    /// The sink takes bytes again, or nobody waits for it any more.
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
