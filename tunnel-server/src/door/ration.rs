//! The rate of processor time for work that anybody can cause. What peers with a certificate cause is
//! given back, so that they wait only while others come, or many come at once.

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

/// The work of a whole handshake. QUIC does it elsewhere, where it is not measured.
pub(super) const HANDSHAKE: Duration = Duration::from_millis(1);

/// The work of one of the three turns of a handshake before it is measured.
const TURN: Duration = Duration::from_micros(350);

/// Longest wait for a turn. A handshake takes three; together they are less than its limit of time.
const LONGEST: Duration = Duration::from_secs(1);

/// Shares a rate of work. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Ration(Arc<Mutex<Option<Instant>>>);

impl Ration {
    /// Runs `work` within the rate. Its time is that of its polls, and given back if its result `earns`
    /// that.
    pub(super) async fn share<F: Future>(&self, work: F, earns: impl Fn(&F::Output) -> bool) -> F::Output {
        let (mut work, mut spent) = (pin!(work), Duration::ZERO);
        loop {
            self.wait(TURN).await;
            let mut first = true;
            // Ready at each poll but the first one, to ask for its turn.
            let polled = poll_fn(|cx| {
                if !std::mem::take(&mut first) {
                    return Poll::Ready(None);
                }
                let began = Instant::now();
                let polled = work.as_mut().poll(cx);
                let took = began.elapsed();
                self.pay(took);
                self.give_back(TURN);
                spent += took;
                polled.map(Some)
            });
            if let Some(done) = polled.await {
                if earns(&done) {
                    self.give_back(spent);
                }
                return done;
            }
        }
    }

    /// Waits for the turn of so much work.
    pub(super) async fn wait(&self, work: Duration) {
        let now = Instant::now();
        let turn = self.turn(now, work);
        if turn > now {
            sleep_until(turn).await;
        }
    }

    /// Takes a turn for work that comes at `now`.
    fn turn(&self, now: Instant, work: Duration) -> Instant {
        let mut paid = self.paid();
        // A turn that was left unused does not make all others wait.
        let begin = paid.map_or(now, |paid| paid.max(now).min(now + LONGEST));
        *paid = Some(begin + work * PER_WORK);
        begin.checked_sub(BURST * PER_WORK).map_or(now, |turn| turn.max(now))
    }

    fn pay(&self, work: Duration) {
        let mut paid = self.paid();
        *paid = paid.map(|paid| paid + work * PER_WORK);
    }

    /// Gives back the time of work that had its turn.
    pub(super) fn give_back(&self, work: Duration) {
        let mut paid = self.paid();
        *paid = paid.and_then(|paid| paid.checked_sub(work * PER_WORK));
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
            ration.wait(HANDSHAKE).await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "a burst waits for nothing");
        for _ in 0..1000 {
            ration.wait(HANDSHAKE).await;
        }
        let took = began.elapsed();
        assert!((1900..=2100).contains(&took.as_millis()), "a second of work took {took:?}");
        tokio::time::advance(Duration::from_secs(60)).await;
        let later = Instant::now();
        for _ in 0..25 {
            ration.wait(HANDSHAKE).await;
        }
        assert_eq!(later.elapsed(), Duration::ZERO, "the burst is there again");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_earns_its_work_delays_nobody() {
        let (ration, began) = (Ration::default(), Instant::now());
        for _ in 0..1000 {
            ration.wait(HANDSHAKE).await;
            ration.give_back(HANDSHAKE);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn the_work_of_polls_is_measured_and_given_back_to_those_that_earn_it() {
        let owed = async |earns: bool| {
            let ration = Ration::default();
            let work = async {
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(100) {
                    std::hint::spin_loop();
                }
            };
            ration.share(work, move |()| earns).await;
            let paid = *ration.paid();
            paid.unwrap().saturating_duration_since(Instant::now())
        };
        assert_eq!(owed(true).await, Duration::ZERO);
        assert!(!owed(false).await.is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_nobody_uses_delay_others_for_a_bounded_time() {
        let (ration, began) = (Ration::default(), Instant::now());
        (0..100_000).for_each(|_| _ = ration.turn(began, HANDSHAKE));
        ration.wait(HANDSHAKE).await;
        assert!(began.elapsed() <= LONGEST, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_waits_for_its_peer_costs_nothing() {
        let ration = Ration::default();
        let (answer, question) = tokio::sync::oneshot::channel();
        let answering = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            answer.send(7).unwrap();
        };
        let (answered, ()) = tokio::join!(ration.share(question, |_| false), answering);
        assert_eq!(answered, Ok(7));
        let began = Instant::now();
        ration.wait(HANDSHAKE).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
