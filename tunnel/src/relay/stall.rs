//! What is known of a connection of which a direction stands still.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::budget::{Budget, Kept};
use super::direction::Direction;
use super::ending::{Ending, Side};
use super::watch::Watch;
use crate::duplex::{Broken, Duplex};

/// How often a direction that stands still is looked at. Its source is asked
/// whether it has gone away, which it could not say while nothing is received of
/// it; its wait may have become a stall ([`STALL`]); and what it keeps counts
/// against the process' [`Budget`].
pub(super) const STALLED: Duration = Duration::from_secs(5);

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
        // When the sink took something last, if that is long ago.
        let still = |watch: &Watch<'_>| watch.since().filter(|since| now - *since >= STALLED);
        let up = still(&up.watch).map(|since| (since, near.held(up.batch.len()), Side::Near));
        let down = still(&down.watch).map(|since| (since, far.held(down.batch.len()), Side::Far));
        let bytes = [&up, &down].into_iter().flatten().map(|(_, bytes, _)| bytes).sum();
        let (since, _, side) = [down, up].into_iter().flatten().min_by_key(|(since, ..)| *since)?;
        Some(Self { since, bytes, side })
    }
}
