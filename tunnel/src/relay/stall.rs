//! What is known of a connection of which a direction stands still.

use std::pin::Pin;

use tokio::time::{Instant, Sleep};

#[cfg(doc)]
use super::STALLED;
use super::budget::Kept;
use super::{Budget, Direction, Ending, Side};
use crate::duplex::{Broken, Duplex};

/// A time at which something should have moved.
pub(super) struct Stall<'a> {
    pub(super) timer: Pin<Box<Sleep>>,
    /// Bytes moved in both directions when it was set.
    pub(super) moved: u64,
    /// The last time at which more of them were seen.
    pub(super) since: Instant,
    /// What is kept for directions that stand still, since the last look.
    pub(super) kept: Option<Kept<'a>>,
}

impl<'a> Stall<'a> {
    /// Writes down what stands still now. The connection's end, if it is to go.
    pub(super) fn keep(&mut self, budget: &'a Budget, still: Option<Still>) -> Option<Ending> {
        let Some(Still { since, bytes, side }) = still else {
            self.kept = None;
            return None;
        };
        if self.kept.as_ref().is_none_or(|kept| !kept.is(since, bytes)) {
            self.kept = None;
            self.kept = Some(budget.keep(since, bytes));
        }
        let gone = self.kept.as_ref().is_some_and(Kept::must_go);
        gone.then_some(Ending::Broken { side, why: Broken::Overflow { waiting: bytes } })
    }
}

/// What directions keep whose sink has taken nothing for [`STALLED`]. The opposite
/// one does not count: who never reads may still have something to say.
pub(super) struct Still {
    /// When the older of them stopped.
    since: Instant,
    bytes: usize,
    /// Where bytes wait whose direction stopped then.
    side: Side,
}

impl Still {
    pub(super) fn of<N: Duplex, F: Duplex>(
        up: &Direction<'_>,
        down: &Direction<'_>,
        near: &mut N,
        far: &mut F,
        now: Instant,
    ) -> Option<Self> {
        let up = up.still(now).map(|since| (since, near.held(up.batch.len()), Side::Near));
        let down = down.still(now).map(|since| (since, far.held(down.batch.len()), Side::Far));
        let bytes = [&up, &down].into_iter().flatten().map(|(_, bytes, _)| bytes).sum();
        let (since, _, side) = [down, up].into_iter().flatten().min_by_key(|(since, ..)| *since)?;
        Some(Self { since, bytes, side })
    }
}
