//! Turns of work that anybody may ask for, on the thread that carries traffic.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep_until};

/// The rest after each turn, as a multiple of its work. With a smaller one, a few scrapers that ask again and
/// again take a good part of the time of traffic on small machines; with a larger one, two monitoring systems
/// that ask at once wait noticeably.
const REST: u32 = 9;

/// One piece of work at a time, and a rest after each. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Rested>>);

/// When the rest after the last turn is over.
#[derive(Debug, Default)]
struct Rested(Option<Instant>);

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(MutexGuard<'a, Rested>);

impl Turns {
    /// Waits for a turn, in order. Cancel safe.
    pub(super) async fn next(&self) -> Turn<'_> {
        let rested = self.0.lock().await;
        if let Some(at) = rested.0 {
            sleep_until(at).await;
        }
        Turn(rested)
    }
}

impl Turn<'_> {
    /// Ends the turn, whose work took so long.
    pub(super) fn end(mut self, took: Duration) {
        self.0.0 = Some(Instant::now() + took * REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::JoinSet;
    use tokio::time::advance;

    const WORK: Duration = Duration::from_millis(2);

    #[tokio::test(start_paused = true)]
    async fn work_takes_a_tenth_of_the_time_however_many_ask() {
        let (turns, began, mut asking) = (Turns::default(), Instant::now(), JoinSet::new());
        for _ in 0..50 {
            let turns = turns.clone();
            asking.spawn(async move {
                let turn = turns.next().await;
                advance(WORK).await;
                turn.end(WORK);
            });
        }
        while let Some(done) = asking.join_next().await {
            done.unwrap();
        }
        assert!(began.elapsed() >= WORK * (50 + 49 * REST), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_seldom_or_gives_up_delays_nobody() {
        let turns = Turns::default();
        turns.next().await.end(WORK);
        advance(WORK * REST).await;
        let began = Instant::now();
        drop(turns.next().await);
        assert!(tokio::time::timeout(Duration::ZERO, turns.next()).await.is_ok());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
