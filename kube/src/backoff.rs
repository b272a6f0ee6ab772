//! Exponential back-off with full jitter: a value without timers.

use std::time::Duration;

use rand::RngExt as _;

/// Waits between attempts: uniform between zero and a bound that doubles with
/// every failure up to a cap. The jitter spreads thousands of agents that lost
/// the same server.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// Bounds of `first`, twice that, four times that, up to `cap`.
    pub(crate) const fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, failures: 0 }
    }

    /// How long to wait after one more failure.
    pub(crate) fn next_wait(&mut self) -> Duration {
        let bound = self.first.saturating_mul(1 << self.failures.min(20)).min(self.cap);
        self.failures = self.failures.saturating_add(1);
        bound.mul_f64(rand::rng().random::<f64>())
    }

    /// Starts anew after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_stay_under_a_bound_that_doubles_up_to_the_cap() {
        let (first, cap) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, cap);
        for attempt in 0..100 {
            let bound = first.saturating_mul(1 << attempt.min(20)).min(cap);
            assert!(backoff.next_wait() <= bound, "attempt {attempt}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= first);
    }

    #[test]
    fn waits_differ() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(1));
        let waits: std::collections::HashSet<_> = (0..50).map(|_| backoff.next_wait()).collect();
        assert!(waits.len() > 40, "{waits:?}");
    }
}
