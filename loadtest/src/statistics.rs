//! Medians and their intervals.
//!
//! Samples are small and their noise is skewed, so the interval is the percentile bootstrap of the median,
//! which supposes no normal distribution.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Resamples of one interval: from seed to seed its ends move by less than its width. More only take longer.
const RESAMPLES: usize = 10_000;

/// Fixed, so that the same blocks always give the same interval.
const SEED: u64 = 0x6c6f_6164;

/// With fewer values than this, not even the interval from the least to the greatest holds the median in 95
/// of 100 cases (1 - 2 / 2^n).
pub(crate) const ENOUGH: usize = 6;

/// The middle value, or the mean of the two in the middle; none without values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    median_in_place(&mut sorted)
}

fn median_in_place(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    if values.is_empty() {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    Some(if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    })
}

/// The ends of the 95 % interval of the median of the population; none without values.
pub(crate) fn interval(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let mut random = StdRng::seed_from_u64(SEED);
    let mut resample = vec![0.0; values.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            resample.fill_with(|| values[random.random_range(0..values.len())]);
            median_in_place(&mut resample)
        })
        .collect();
    medians.sort_unstable_by(f64::total_cmp);
    Some((medians[RESAMPLES / 40], medians[RESAMPLES - 1 - RESAMPLES / 40]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn the_interval_holds_the_median_and_lies_within_the_values() {
        let values = [1.0, 1.1, 0.9, 1.2, 0.8, 1.05, 0.95, 1.0, 1.3, 0.7];
        let (low, high) = interval(&values).unwrap();
        assert!((0.7..1.0).contains(&low) && (1.0..1.3).contains(&high), "{low} {high}");
        assert_eq!(interval(&values), Some((low, high)));
        assert_eq!(interval(&[2.0; 8]), Some((2.0, 2.0)));
        assert_eq!(interval(&[]), None);
    }

    /// The percentile bootstrap is known to fall a little short of 95 in 100 with so few values.
    #[test]
    fn the_interval_holds_the_truth_about_as_often_as_it_says() {
        let mut random = StdRng::seed_from_u64(1);
        let mut held = 0;
        for _ in 0..200 {
            // The median of the logarithm of a uniform value below 1 is -ln 2.
            let sample: Vec<f64> = (0..12).map(|_| random.random_range(f64::EPSILON..1.0).ln()).collect();
            let (low, high) = interval(&sample).unwrap();
            held += u32::from(low <= -std::f64::consts::LN_2 && -std::f64::consts::LN_2 <= high);
        }
        assert!((180..=198).contains(&held), "{held} of 200");
    }
}
