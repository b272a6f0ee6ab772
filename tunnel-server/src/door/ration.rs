//! The rate of processor time for work that anybody can cause.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// The time that has to pass for each second of work. A smaller one lets a flood of handshakes take
/// turns from traffic on small machines; with a larger one, a fleet of a thousand agents takes longer
/// than two seconds to come back.
const PER_WORK: u32 = 2;

/// Work that may be done at once. Less delays single handshakes; more lets a flood delay traffic by as
/// much.
const BURST: Duration = Duration::from_millis(25);

/// The work of one turn before it is measured. QUIC does its work elsewhere, and it stays.
const ASSUMED: Duration = Duration::from_millis(1);

/// Longest wait for a turn. A handshake takes three; together they are less than its limit of time.
const LONGEST: Duration = Duration::from_secs(1);

/// Shares a rate of work. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ration(Arc<Mutex<Option<Instant>>>);

impl Ration {
    /// Runs `work` within the rate. Its time is that of its polls.
    pub(super) async fn share<F: Future>(&self, work: F) -> F::Output {
        let mut work = pin!(work);
        loop {
            self.wait().await;
            let mut first = true;
            // Ready at each poll but the first one, to ask for its turn.
            let polled = poll_fn(|cx| {
                if !std::mem::take(&mut first) {
                    return Poll::Ready(None);
                }
                let began = Instant::now();
                let polled = work.as_mut().poll(cx);
                self.worked(began.elapsed());
                polled.map(Some)
            });
            if let Some(done) = polled.await {
                return done;
            }
        }
    }

    /// Waits for the turn of some work.
    pub(super) async fn wait(&self) {
        let now = Instant::now();
        let turn = self.turn(now);
        if turn > now {
            sleep_until(turn).await;
        }
    }

    /// Takes a turn for work that comes at `now`.
    fn turn(&self, now: Instant) -> Instant {
        let mut paid = self.paid();
        // Whoever left its turn unused does not make all others wait.
        let begin = paid.map_or(now, |paid| paid.max(now).min(now + LONGEST));
        *paid = Some(begin + ASSUMED * PER_WORK);
        begin.checked_sub(BURST * PER_WORK).map_or(now, |turn| turn.max(now))
    }

    /// Corrects the time of work that had its turn.
    fn worked(&self, took: Duration) {
        let mut paid = self.paid();
        *paid = paid.and_then(|paid| (paid + took * PER_WORK).checked_sub(ASSUMED * PER_WORK));
    }

    /// When the work so far is paid for.
    fn paid(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn work_has_a_rate_and_a_burst() {
        let (ration, began) = (Ration::default(), Instant::now());
        for _ in 0..25 {
            ration.wait().await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "a burst waits for nothing");
        for _ in 0..1000 {
            ration.wait().await;
        }
        let took = began.elapsed();
        assert!((1900..=2100).contains(&took.as_millis()), "a second of work took {took:?}");
        tokio::time::advance(Duration::from_secs(60)).await;
        let later = Instant::now();
        for _ in 0..25 {
            ration.wait().await;
        }
        assert_eq!(later.elapsed(), Duration::ZERO, "the burst is there again");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_nobody_uses_delay_others_for_a_bounded_time() {
        let (ration, began) = (Ration::default(), Instant::now());
        (0..100_000).for_each(|_| drop(ration.turn(began)));
        ration.wait().await;
        assert!(began.elapsed() <= LONGEST, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_waits_for_its_peer_costs_nothing() {
        let ration = Ration::default();
        let (answer, question) = tokio::sync::oneshot::channel();
        let waiting = {
            let ration = ration.clone();
            tokio::spawn(async move { ration.share(question).await })
        };
        tokio::time::sleep(Duration::from_secs(5)).await;
        answer.send(7).unwrap();
        assert_eq!(waiting.await.unwrap(), Ok(7));
        let began = Instant::now();
        ration.wait().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
