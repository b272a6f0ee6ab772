//! How long to wait, as numbers: no timers, no randomness of its own.
//!
//! Every wait takes a random number from 0 up to 1, so that agents that began
//! together do not stay together.

use std::time::Duration;

/// A wait grows by this much with every failure, as Konnectivity's does.
const GROWTH: f64 = 1.5;

/// A steady wait is this much shorter or longer, as Konnectivity's is.
const SPREAD: f64 = 0.1;

/// No interval is shorter, whatever the flags say: an attempt is a handshake.
const LEAST: Duration = Duration::from_millis(10);

/// First wait before an address is looked at again that is known to lead to a
/// server to which there is a tunnel already.
const RARE: Duration = Duration::from_secs(30);

/// That wait doubles with every look, up to this.
const RAREST: Duration = Duration::from_secs(600);

/// The pace of one agent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    interval: Duration,
    cap: Duration,
}

impl Pace {
    pub(super) fn new(interval: Duration, cap: Duration) -> Self {
        let interval = interval.max(LEAST);
        Self { interval, cap: cap.max(interval) }
    }

    /// The interval, a little shorter or longer.
    pub(super) fn steady(self, random: f64) -> Duration {
        spread(self.interval, random)
    }

    /// After so many failures in a row (none: a tunnel that was lost). Anything
    /// between nothing and a bound: a thousand agents that lost one server come
    /// back at once, but not in one moment.
    pub(super) fn backoff(self, failures: u32, random: f64) -> Duration {
        self.grown(failures.saturating_sub(1)).mul_f64(random)
    }

    /// The interval, grown so often.
    pub(super) fn slowed(self, steps: u32, random: f64) -> Duration {
        spread(self.grown(steps), random)
    }

    /// After so many looks at what is known already.
    pub(super) fn rare(self, looks: u32, random: f64) -> Duration {
        spread(RARE.saturating_mul(1 << looks.min(16)).min(RAREST), random).max(self.steady(random))
    }

    fn grown(self, steps: u32) -> Duration {
        // 64 steps are a factor of 10^11.
        let grown = self.interval.as_secs_f64() * GROWTH.powi(steps.min(64).cast_signed());
        Duration::try_from_secs_f64(grown).unwrap_or(self.cap).min(self.cap)
    }
}

fn spread(wait: Duration, random: f64) -> Duration {
    wait.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn waits_by_the_default_flags() {
        let pace = Pace::new(ms(1_000), ms(10_000));
        assert_eq!((pace.steady(0.0), pace.steady(0.5)), (ms(900), ms(1_000)));
        let longest = |failures| pace.backoff(failures, 1.0).as_millis();
        // The first retry is quick, whether a tunnel was lost or an attempt failed.
        let bounds: Vec<_> = (0..9).map(longest).collect();
        assert_eq!(bounds, [1000, 1000, 1500, 2250, 3375, 5062, 7593, 10_000, 10_000]);
        assert_eq!(pace.backoff(5, 0.0), Duration::ZERO);
        assert_eq!((pace.slowed(0, 0.5), pace.slowed(100, 0.5)), (ms(1_000), ms(10_000)));
        assert_eq!((pace.rare(0, 0.5), pace.rare(1, 0.5)), (RARE, 2 * RARE));
    }

    proptest! {
        #[test]
        fn no_wait_is_out_of_bounds(
            interval in 0..100_000_u64,
            cap in 0..100_000_u64,
            n in any::<u32>(),
            random in 0.0..1.0,
        ) {
            let pace = Pace::new(ms(interval), ms(cap));
            let longest = ms(cap.max(interval).max(10)).mul_f64(1.0 + SPREAD);
            prop_assert!(pace.backoff(n, random) <= longest);
            prop_assert!(pace.slowed(n, random) <= longest && pace.slowed(n, random) >= ms(9));
            prop_assert!(pace.steady(random) <= longest && pace.steady(random) >= ms(9));
            prop_assert!(pace.rare(n, random) >= RARE.mul_f64(1.0 - SPREAD));
            prop_assert!(pace.rare(n, random) <= RAREST.mul_f64(1.0 + SPREAD).max(longest));
        }
    }
}
