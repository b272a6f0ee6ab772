//! Seeded random numbers and schedules, which are the same in two runs and at both ends of a connection.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::payload::Payload;

/// Random numbers from a seed.
#[derive(Debug, Clone)]
pub(crate) struct Random(Payload);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Payload::new(seed))
    }

    /// The sequence of one member of a family, unlike that of any other.
    pub(crate) fn member(seed: u64, family: u64, number: u64) -> Self {
        let mut mixed = Self::new(seed ^ family.wrapping_mul(0xd6e8_feb8_6659_fd93));
        Self::new(mixed.next() ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    pub(crate) fn next(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// From 0 (inclusive) to 1 (exclusive).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    pub(crate) fn duration(&mut self, milliseconds: RangeInclusive<u64>) -> Duration {
        let (least, most) = (milliseconds.start() * 1000, milliseconds.end() * 1000);
        Duration::from_micros(self.within(least..=most))
    }

    /// The gap to the next event of a Poisson process.
    fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.unit()).ln())
    }
}

/// The gaps between events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gaps {
    /// Each as long as the mean.
    Steady,
    /// Those of a Poisson process with this mean.
    Poisson,
}

/// Moments, as times since the start.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    gaps: Gaps,
    mean: Duration,
    /// Events in one moment.
    burst: RangeInclusive<u64>,
    left: u64,
    at: Option<Duration>,
    random: Random,
}

impl Schedule {
    pub(crate) fn new(gaps: Gaps, mean: Duration, random: Random) -> Self {
        Self { gaps, mean: mean.max(Duration::from_micros(1)), burst: 1..=1, left: 0, at: None, random }
    }

    /// Has several events in each moment.
    pub(crate) fn in_bursts(mut self, of: RangeInclusive<u64>) -> Self {
        self.burst = of;
        self
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    /// Never `None`.
    fn next(&mut self) -> Option<Duration> {
        if self.left == 0 {
            self.left = self.random.within(self.burst.clone());
            let gap = match (self.gaps, self.at) {
                // A random phase, so that schedules are not in step.
                (Gaps::Steady, None) => self.mean.mul_f64(self.random.unit()),
                (Gaps::Steady, Some(_)) => self.mean,
                (Gaps::Poisson, _) => self.random.exponential(self.mean),
            };
            self.at = Some(self.at.unwrap_or_default() + gap);
        }
        self.left -= 1;
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: Duration = Duration::from_millis(10);

    fn offsets(schedule: Schedule, count: usize) -> Vec<Duration> {
        schedule.take(count).collect()
    }

    #[test]
    fn one_seed_gives_one_schedule() {
        for gaps in [Gaps::Steady, Gaps::Poisson] {
            let of = |seed| offsets(Schedule::new(gaps, MEAN, Random::new(seed)), 1000);
            assert_eq!(of(7), of(7));
            assert_ne!(of(7), of(8));
            assert!(of(7).is_sorted());
        }
        assert_ne!(Random::member(1, 2, 3).next(), Random::member(1, 3, 2).next());
    }

    #[test]
    fn steady_gaps_are_equal_and_begin_within_the_first() {
        let offsets = offsets(Schedule::new(Gaps::Steady, MEAN, Random::new(1)), 100);
        assert!(offsets[0] < MEAN);
        assert!(offsets.windows(2).all(|pair| pair[1] - pair[0] == MEAN));
    }

    #[test]
    fn poisson_gaps_have_their_mean_and_spread() {
        let offsets = offsets(Schedule::new(Gaps::Poisson, MEAN, Random::new(1)), 20_000);
        let gaps: Vec<f64> =
            offsets.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() / 0.01).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.95..1.05).contains(&mean) && (0.9..1.1).contains(&variance), "{mean} {variance}");
    }

    #[test]
    fn bursts_share_a_moment() {
        let schedule = Schedule::new(Gaps::Poisson, MEAN, Random::new(3)).in_bursts(5..=20);
        let mut sizes = std::collections::BTreeMap::<Duration, u64>::new();
        for at in schedule.take(10_000) {
            *sizes.entry(at).or_default() += 1;
        }
        sizes.pop_last();
        assert!(sizes.len() > 300 && sizes.values().all(|size| (5..=20).contains(size)));
        assert!(sizes.values().any(|size| *size == 5) && sizes.values().any(|size| *size == 20));
    }

    #[test]
    fn numbers_stay_in_their_range() {
        let mut random = Random::new(1);
        for _ in 0..10_000 {
            assert!((3..=5).contains(&random.within(3..=5)));
            assert!((0.0..1.0).contains(&random.unit()));
        }
        assert!(random.duration(2..=3) >= Duration::from_millis(2));
    }
}
