//! A message of which only a part has come: it counts in the budget, and has a limit of time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::duplex::Broken;
use crate::relay::{Budget, SMALL_PART as SMALL};

/// Time for the rest of a larger message. Less cuts peers on slow networks; more keeps the memory.
const LIMIT: Duration = Duration::from_secs(30);

/// The begun message of one peer.
#[derive(Debug)]
pub struct Unfinished {
    budget: Arc<Budget>,
    counted: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Unfinished {
    /// Counts in `budget`.
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { budget, counted: 0, timer: None }
    }

    /// Of the peer nothing more can be read now, and `waiting` bytes of a message are there. Ready when
    /// they have waited for too long, or are too many.
    pub fn poll(&mut self, cx: &mut Context<'_>, waiting: usize) -> Poll<Broken> {
        // Most reads end between messages, and cost nothing.
        let fits = waiting == self.counted || self.budget.count(self.counted, waiting);
        self.counted = waiting;
        if !fits {
            let why = "messages of which only a part has come take too much memory";
            return Poll::Ready(Broken::Protocol(why.to_owned()));
        }
        if waiting <= SMALL {
            self.timer = None;
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + LIMIT)));
        timer.as_mut().poll(cx).map(|()| {
            Broken::Protocol(format!("the rest of a message did not come within {} s", LIMIT.as_secs()))
        })
    }

    /// The message is there.
    pub fn finished(&mut self) {
        if self.counted > 0 {
            self.budget.count(self.counted, 0);
            (self.counted, self.timer) = (0, None);
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.finished();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_large_message_has_a_limit_of_time_and_a_small_one_none() {
        let began = Instant::now();
        let mut large = Unfinished::new(Arc::default());
        let mut waiting = SMALL;
        let ended = poll_fn(|cx| {
            // It grows, and that gains no time.
            waiting += 1;
            large.poll(cx, waiting)
        });
        assert!(matches!(ended.await, Broken::Protocol(why) if why.contains("30 s")));
        assert_eq!(began.elapsed(), LIMIT);
        let mut small = Unfinished::new(Arc::default());
        let ended = tokio::time::timeout(100 * LIMIT, poll_fn(|cx| small.poll(cx, SMALL)));
        assert!(ended.await.is_err());
    }

    #[tokio::test]
    async fn parts_of_messages_count_in_the_budget() {
        let budget = Arc::<Budget>::default();
        budget.set_limit(100_000);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut one, mut other) =
            (Unfinished::new(Arc::clone(&budget)), Unfinished::new(Arc::clone(&budget)));
        assert!(one.poll(&mut cx, 60_000).is_pending());
        assert!(other.poll(&mut cx, 30_000).is_pending());
        assert_eq!(budget.kept(), 90_000);
        assert!(other.poll(&mut cx, 50_000).is_ready());
        drop(other);
        assert!(one.poll(&mut cx, 64_000).is_pending());
        one.finished();
        assert_eq!(budget.kept(), 0);
        assert!(one.poll(&mut cx, 10).is_pending());
        drop(one);
        assert_eq!(budget.kept(), 0);
    }
}
