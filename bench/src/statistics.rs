//! Medians, quartiles and bootstrap intervals: pure, and the same figures for the same seed.

use crate::limits::BOOTSTRAP_RESAMPLES;
use serde::{Deserialize, Serialize};

/// The middle of a set of samples and its halves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    /// A quarter of the samples is lower.
    pub lower: f64,
    /// Half of the samples is lower.
    pub median: f64,
    /// A quarter of the samples is higher.
    pub upper: f64,
}

/// An estimate with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Median of the samples.
    pub median: f64,
    /// 2.5 % of the resampled medians are lower.
    pub low: f64,
    /// 2.5 % of the resampled medians are higher.
    pub high: f64,
}

impl Estimate {
    /// Whether `value` lies within the interval, ends included.
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Whether the whole interval is within `distance` of `value`.
    pub fn is_within(&self, distance: f64, value: f64) -> bool {
        value - distance <= self.low && self.high <= value + distance
    }
}

/// The sample, or the mean of two neighbouring samples, at `fraction` (0 to 1) of the sorted order; `None` without samples.
pub fn quantile(samples: &[f64], fraction: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, fraction)
}

/// The middle sample, or the mean of the two middle ones; `None` without samples.
pub fn median(samples: &[f64]) -> Option<f64> {
    quantile(samples, 0.5)
}

/// Quartiles by linear interpolation; `None` without samples.
pub fn quartiles(samples: &[f64]) -> Option<Quartiles> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |fraction| quantile_of_sorted(&sorted, fraction);
    Some(Quartiles { lower: at(0.25)?, median: at(0.5)?, upper: at(0.75)? })
}

/// The median of the samples with a 95 % percentile-bootstrap interval; `None` without samples.
pub fn bootstrap_median(samples: &[f64], seed: u64) -> Option<Estimate> {
    let estimate = median(samples)?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut resample = vec![0.0; samples.len()];
    let mut medians = Vec::with_capacity(BOOTSTRAP_RESAMPLES);
    for _ in 0..BOOTSTRAP_RESAMPLES {
        resample.fill_with(|| samples[random.usize(..samples.len())]);
        resample.sort_by(f64::total_cmp);
        medians.push(quantile_of_sorted(&resample, 0.5)?);
    }
    medians.sort_by(f64::total_cmp);
    Some(Estimate {
        median: estimate,
        low: quantile_of_sorted(&medians, 0.025)?,
        high: quantile_of_sorted(&medians, 0.975)?,
    })
}

/// `numerator[i] / denominator[i]`: two figures of one round are compared with each other, never with another round's.
pub fn paired_ratios(numerators: &[f64], denominators: &[f64]) -> Vec<f64> {
    assert_eq!(numerators.len(), denominators.len(), "a round lacks a figure");
    numerators.iter().zip(denominators).map(|(numerator, denominator)| numerator / denominator).collect()
}

fn quantile_of_sorted(sorted: &[f64], fraction: f64) -> Option<f64> {
    let position = (sorted.len().checked_sub(1)?) as f64 * fraction;
    let (below, above) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    Some(below + (above - below) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let table: [(&str, &[f64], f64, Option<f64>); 7] = [
            ("none", &[], 0.5, None),
            ("one", &[7.0], 0.99, Some(7.0)),
            ("odd", &[3.0, 1.0, 2.0], 0.5, Some(2.0)),
            ("even", &[4.0, 1.0, 2.0, 3.0], 0.5, Some(2.5)),
            ("lower quarter", &[1.0, 2.0, 3.0, 4.0, 5.0], 0.25, Some(2.0)),
            ("first", &[5.0, 1.0], 0.0, Some(1.0)),
            ("last", &[5.0, 1.0], 1.0, Some(5.0)),
        ];
        for (name, samples, fraction, expected) in table {
            assert_eq!(quantile(samples, fraction), expected, "{name}");
        }
        let expected = Quartiles { lower: 1.5, median: 2.0, upper: 2.5 };
        assert_eq!(quartiles(&[3.0, 1.0, 2.0]), Some(expected));
    }

    #[test]
    fn bootstrap() {
        assert_eq!(bootstrap_median(&[], 1), None);
        let constant = Estimate { median: 2.0, low: 2.0, high: 2.0 };
        assert_eq!(bootstrap_median(&[2.0; 20], 1), Some(constant));

        let samples: Vec<f64> = (0..101).map(f64::from).collect();
        let estimate = bootstrap_median(&samples, 1).unwrap();
        assert_eq!(bootstrap_median(&samples, 1), Some(estimate), "one seed, one result");
        // The order statistics at 50 +- 0.98 * sqrt(101) bound the median of 0..=100 at 95 %.
        assert!((38.0..=42.0).contains(&estimate.low), "{estimate:?}");
        assert!((58.0..=62.0).contains(&estimate.high), "{estimate:?}");
    }

    #[test]
    fn intervals() {
        let estimate = Estimate { median: 1.0, low: 0.99, high: 1.02 };
        let table = [(0.99, true), (1.02, true), (0.98, false), (1.03, false)];
        for (value, expected) in table {
            assert_eq!(estimate.contains(value), expected, "{value}");
        }
        assert!(estimate.is_within(0.02, 1.0) && !estimate.is_within(0.015, 1.0));
    }

    #[test]
    fn ratios_stay_within_their_round() {
        assert_eq!(paired_ratios(&[2.0, 30.0], &[1.0, 10.0]), [2.0, 3.0]);
    }
}
