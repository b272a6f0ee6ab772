//! A token bucket, without timers.

use std::time::Duration;

use tokio::time::Instant;

/// Lets `qps` requests per second through, and up to `burst` unused ones at once.
#[derive(Debug)]
pub(crate) struct Bucket {
    qps: f64,
    burst: f64,
    /// Below zero while requests wait.
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket. `qps` is above 0.
    pub(crate) fn new(qps: f32, burst: u32, now: Instant) -> Self {
        let burst = f64::from(burst.max(1));
        Self { qps: f64::from(qps), burst, left: burst, at: now }
    }

    /// The wait of the next request. `None` when it is over `patience`: the request
    /// must not be made and has taken no token.
    pub(crate) fn take(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let left = (self.left + passed * self.qps).min(self.burst);
        self.at = self.at.max(now);
        self.left = left;
        let wait = Duration::try_from_secs_f64(((1.0 - left) / self.qps).max(0.0)).ok()?;
        if wait > patience {
            return None;
        }
        self.left = left - 1.0;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn a_burst_goes_at_once_and_the_rest_waits() {
        let now = Instant::now();
        let mut bucket = Bucket::new(5.0, 10, now);
        for _ in 0..10 {
            assert_eq!(bucket.take(now, PATIENCE), Some(Duration::ZERO));
        }
        for place in 1..=10_u32 {
            let wait = bucket.take(now, PATIENCE).unwrap();
            assert_eq!(wait.as_millis(), u128::from(place * 200));
        }
        assert_eq!(bucket.take(now, PATIENCE), None, "the queue is as long as patience allows");
        assert_eq!(bucket.take(now, PATIENCE), None);
        // Refused requests have not made the queue longer.
        let later = now + Duration::from_secs(2);
        assert_eq!(bucket.take(later, PATIENCE).map(|wait| wait.as_millis()), Some(200));
    }

    #[tokio::test]
    async fn unused_requests_are_kept_up_to_the_burst() {
        let now = Instant::now();
        let mut bucket = Bucket::new(5.0, 2, now);
        let much_later = now + Duration::from_secs(3600);
        assert_eq!(bucket.take(much_later, Duration::ZERO), Some(Duration::ZERO));
        assert_eq!(bucket.take(much_later, Duration::ZERO), Some(Duration::ZERO));
        assert_eq!(bucket.take(much_later, Duration::ZERO), None);
        // An earlier time adds nothing.
        assert_eq!(bucket.take(now, Duration::ZERO), None);
    }
}
