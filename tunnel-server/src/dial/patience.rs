//! The wait for an agent in place of one that has just left.
//!
//! A node's agent that is restarted or upgraded is gone for a second or two. A dial for its targets
//! waits that long, and fails then as it would have failed at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tunnel_proto::target::Target;

use super::{Asking, Dialer};
use crate::agents::AgentTunnel;

/// Time since an agent left, within which dials wait for its successor. With less, dials fail while a
/// pod is replaced; with more, dials to a dead node are slow for longer.
const RECENT: Duration = Duration::from_secs(5);

/// Longest wait of a dial. With less, dials fail while an agent restarts; more delays the error that a
/// client would use to try another way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Dials that wait at once. With fewer, dials fail when many nodes' agents restart together; more is
/// memory, and work at each look.
pub(super) const WAITERS: usize = 1024;

/// Time between two looks. All waiters look together, so that one of them brings the routes up to date
/// for all. Less costs the server time while many agents come back; more delays dials.
const LOOK: Duration = Duration::from_millis(50);

impl Dialer {
    /// Whether an agent that served `target` left within [`RECENT`].
    pub(super) fn has_just_left(&self, target: &Target) -> bool {
        self.registry.has_left_within(RECENT, target.host(), |routes| self.router.serves(routes, target))
    }

    /// Waits for another agent than `not` that serves the target of a dial. `None` after [`PATIENCE`] or
    /// at the dial's deadline, and at once if too many dials wait. Cancel safe.
    pub(super) async fn successor(
        &self,
        asking: &Asking<'_>,
        not: Option<&Arc<AgentTunnel>>,
    ) -> Option<Arc<AgentTunnel>> {
        let _permit = self.waiters.try_acquire().ok()?;
        let until = asking.deadline.min(Instant::now() + PATIENCE);
        let look = || self.pick_of(&self.registry.view(), asking.target, not);
        // Boxed, because it is rare and part of the connection's task.
        let found = Box::pin(looked_for(self.began, until, look)).await;
        self.metrics.dial_waited(found.is_some());
        found
    }
}

/// Looks at the multiples of [`LOOK`] since `began`, until something is found.
async fn looked_for<T>(began: Instant, until: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        let looks = began.elapsed().as_millis() / LOOK.as_millis() + 1;
        let next = began + LOOK.saturating_mul(u32::try_from(looks).unwrap_or(u32::MAX));
        sleep_until(next.min(until)).await;
        let found = look();
        if found.is_some() || next >= until {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_waiters_look_together_and_until_the_end() {
        let began = Instant::now();
        tokio::time::advance(Duration::from_millis(120)).await;
        let (start, mut looks) = (Instant::now(), Vec::new());
        let never = looked_for(began, start + PATIENCE, || {
            looks.push(began.elapsed().as_millis());
            None::<()>
        });
        assert_eq!(never.await, None);
        assert_eq!(start.elapsed(), PATIENCE);
        assert_eq!(looks[..2], [150, 200]);
        assert_eq!(looks[looks.len() - 2..], [2100, 2120]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_after_a_while_is_found() {
        let start = Instant::now();
        let there = || (start.elapsed() >= Duration::from_millis(1010)).then_some("agent");
        assert_eq!(looked_for(start, start + PATIENCE, there).await, Some("agent"));
        assert_eq!(start.elapsed(), Duration::from_millis(1050));
    }
}
