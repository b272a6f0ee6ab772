//! The waits of the plan, as numbers: without timers, and with randomness as an argument.
//!
//! Each wait takes a random number from 0 up to 1, so that agents that started together spread.

use std::time::Duration;

/// Factor of the back-off's bound per failure. Konnectivity's.
const GROWTH: f64 = 1.5;

/// Part by which a steady wait is shorter or longer. Konnectivity's.
const SPREAD: f64 = 0.1;

/// Least interval, whatever the flags say: each attempt is a handshake.
const LEAST: Duration = Duration::from_millis(10);

/// Searches per interval while servers are missing. Fewer, and the last of five servers behind a load
/// balancer that picks at random is found after ten seconds and more; with more, a fleet of thousands
/// overwhelms the servers that are left with handshakes.
const RAPID: u32 = 4;

/// First wait of an endpoint that led to a server already held, which doubles with each look.
/// Shorter, and every alias costs handshakes; longer, and a server new on it is found late.
const RARE: Duration = Duration::from_secs(30);

/// Largest of these waits, and of the back-off of an address in a Lease.
const RAREST: Duration = Duration::from_secs(600);

/// Time between attempts to move a tunnel from h2 to QUIC. Shorter, and networks without UDP
/// pay for handshakes in vain; longer, and tunnels stay on h2.
const UPGRADE: Duration = Duration::from_secs(600);

/// First pause for which QUIC is not tried where h2 works, after a tunnel on it fell silent. It
/// doubles with each. Shorter, and networks that drop QUIC's flows cost a tunnel each time;
/// longer, and agents stay on h2 after a blackout.
const SHUNNED: Duration = Duration::from_secs(60);

/// Largest of these pauses.
const LONGEST_SHUNNED: Duration = Duration::from_secs(3600);

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

    /// The interval, spread.
    pub(super) fn steady(self, random: f64) -> Duration {
        spread(self.interval, random)
    }

    /// The back-off after failures in a row; 0 is a lost tunnel. From nothing to a bound, so that
    /// a thousand agents that lost one server come back soon, but not at one time.
    pub(super) fn backoff(self, failures: u32, random: f64) -> Duration {
        self.grown(failures.saturating_sub(1)).mul_f64(random)
    }

    /// The back-off of an address that no operator has listed, which may never be reached from here. It grows
    /// beyond the flags' cap.
    pub(super) fn patient(self, failures: u32, random: f64) -> Duration {
        Self { cap: self.cap.max(RAREST), ..self }.backoff(failures, random)
    }

    /// The wait before a search that is likely to find a server: a fraction of the interval, spread from
    /// half of it to one and a half.
    pub(super) fn rapid(self, random: f64) -> Duration {
        (self.interval / RAPID).mul_f64(0.5 + random).max(LEAST)
    }

    /// The interval, grown `steps` times and spread.
    pub(super) fn slowed(self, steps: u32, random: f64) -> Duration {
        spread(self.grown(steps), random)
    }

    /// The wait after `looks` at a server already held.
    pub(super) fn rare(self, looks: u32, random: f64) -> Duration {
        spread(RARE.saturating_mul(1 << looks.min(16)).min(RAREST), random).max(self.steady(random))
    }

    /// The wait before a tunnel's next upgrade.
    pub(super) fn upgrade(random: f64) -> Duration {
        spread(UPGRADE, random)
    }

    /// The pause without QUIC after so many silences.
    pub(super) fn shunned(silences: u32, random: f64) -> Duration {
        let doublings = silences.saturating_sub(1).min(16);
        spread(SHUNNED.saturating_mul(1 << doublings).min(LONGEST_SHUNNED), random)
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
        assert_eq!((pace.patient(4, 1.0), pace.patient(100, 1.0)), (pace.backoff(4, 1.0), RAREST));
        assert_eq!((pace.slowed(0, 0.5), pace.slowed(100, 0.5)), (ms(1_000), ms(10_000)));
        assert_eq!((pace.rapid(0.0), pace.rapid(0.5)), (ms(125), ms(250)));
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
            prop_assert!(pace.rapid(random) <= longest && pace.rapid(random) >= LEAST);
            prop_assert!(pace.steady(random) <= longest && pace.steady(random) >= ms(9));
            prop_assert!(pace.rare(n, random) >= RARE.mul_f64(1.0 - SPREAD));
            prop_assert!(pace.rare(n, random) <= RAREST.mul_f64(1.0 + SPREAD).max(longest));
        }
    }
}
