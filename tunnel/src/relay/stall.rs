//! Stalled connections: directions whose sink takes nothing.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::budget::{Budget, Held};
use super::direction::Direction;
use super::ending::{Ending, Side};
use super::watch::Watch;
use crate::duplex::{Broken, Duplex};

/// Interval at which a stalled direction is checked. At each check its source is asked
/// whether it has gone, its wait may become a stall ([`STALL`](super::watch::STALL)), and its bytes
/// enter the process's [`Budget`]. Shorter costs timers; longer lets memory grow unseen.
pub(super) const STALL_CHECK: Duration = Duration::from_secs(5);

/// The state of a connection of which a direction is stalled.
pub(super) struct Stall<'a> {
    pub(super) timer: Pin<Box<Sleep>>,
    /// Bytes moved in both directions at the last check.
    pub(super) moved: u64,
    /// When bytes were last seen to move.
    pub(super) since: Instant,
    /// Bytes held by stalled directions at the last check.
    pub(super) held: Option<Held<'a>>,
}

impl<'a> Stall<'a> {
    /// Enters `stalled` in the budget. Returns the connection's ending, if it has to go.
    pub(super) fn account(&mut self, budget: &'a Budget, stalled: Option<Stalled>) -> Option<Ending> {
        let Some(Stalled { since, bytes, side }) = stalled else {
            self.held = None;
            return None;
        };
        if self.held.as_ref().is_none_or(|held| !held.is(since, bytes)) {
            self.held = None;
            self.held = Some(budget.hold(since, bytes));
        }
        let gone = self.held.as_ref().is_some_and(Held::must_go);
        gone.then_some(Ending::Broken { side, why: Broken::Overflow { waiting: bytes } })
    }
}

/// The bytes of directions whose sink has taken nothing for [`STALL_CHECK`]. The opposite
/// direction does not count: a client that never reads may still send.
pub(super) struct Stalled {
    /// When the older direction stopped.
    since: Instant,
    bytes: usize,
    /// The source of the older direction.
    side: Side,
}

impl Stalled {
    pub(super) fn of<N: Duplex, F: Duplex>(
        up: &Direction<'_>,
        down: &Direction<'_>,
        near: &mut N,
        far: &mut F,
        now: Instant,
    ) -> Option<Self> {
        let stalled = |watch: &Watch<'_>| watch.since().filter(|since| now - *since >= STALL_CHECK);
        let up = stalled(&up.watch).map(|since| (since, near.held(up.batch.len()), Side::Near));
        let down = stalled(&down.watch).map(|since| (since, far.held(down.batch.len()), Side::Far));
        let bytes = [&up, &down].into_iter().flatten().map(|(_, bytes, _)| bytes).sum();
        let (since, _, side) = [down, up].into_iter().flatten().min_by_key(|(since, ..)| *since)?;
        Some(Self { since, bytes, side })
    }
}
