//! The last stream that an agent takes on a tunnel, as GOAWAY names it in HTTP/2.
//!
//! An agent that gives a silent tunnel up tells the server how many streams it has taken, and
//! takes none after them. A dial on a later stream has reached no target and never will, so
//! the server may ask again elsewhere without the risk of a second connection.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Both ends' knowledge of it.
#[derive(Debug, Default)]
pub(super) struct Taken {
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Agents: number of streams taken.
    taken: u64,
    /// Streams from this index on are not taken.
    limit: Option<u64>,
}

impl Taken {
    /// Agents: takes the stream with this index. False if none is taken any more.
    pub(super) fn take(&self, index: u64) -> bool {
        let mut state = self.lock();
        if state.limit.is_some_and(|limit| index >= limit) {
            return false;
        }
        state.taken = state.taken.max(index + 1);
        true
    }

    /// Agents: takes no more. Returns the number of streams taken.
    pub(super) fn stop(&self) -> u64 {
        let mut state = self.lock();
        let taken = state.taken;
        *state.limit.get_or_insert(taken)
    }

    /// Servers: the agent takes so many streams.
    pub(super) fn told(&self, limit: u64) {
        let mut state = self.lock();
        state.limit.get_or_insert(limit);
        drop(state);
        self.told.notify_waiters();
    }

    /// Servers: waits until the agent has said that it does not take the stream with this index.
    /// Cancel safe.
    pub(super) async fn is_left(&self, index: u64) {
        loop {
            // Before the look, so that a word in between is not missed.
            let mut told = std::pin::pin!(self.told.notified());
            told.as_mut().enable();
            if self.lock().limit.is_some_and(|limit| index >= limit) {
                return;
            }
            told.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn an_agent_takes_nothing_behind_the_number_that_it_told() {
        let taken = Taken::default();
        assert!(taken.take(0) && taken.take(1));
        assert_eq!(taken.stop(), 2);
        assert!(!taken.take(2) && !taken.take(3));
        assert_eq!(taken.stop(), 2, "the first word holds");
    }

    #[test]
    fn only_streams_that_were_not_taken_are_left() {
        let taken = Taken::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut first = std::pin::pin!(taken.is_left(1));
        let mut second = std::pin::pin!(taken.is_left(2));
        assert_eq!(first.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!(second.as_mut().poll(&mut context), Poll::Pending);
        taken.told(2);
        assert_eq!(first.as_mut().poll(&mut context), Poll::Pending);
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(()));
        let mut later = std::pin::pin!(taken.is_left(7));
        assert_eq!(later.as_mut().poll(&mut context), Poll::Ready(()));
    }
}
