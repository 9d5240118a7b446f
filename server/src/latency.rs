//! Durations counted in buckets: what a shard has one writer for, and anybody may read.

use crate::counters::Count;

/// Upper bounds of the buckets, microseconds; what took longer is in one more.
pub const LATENCY_BOUNDS_US: [u64; 14] =
    [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 1_000_000];

/// A histogram with a single writer.
#[derive(Debug, Default)]
pub struct Latencies {
    buckets: [Count; LATENCY_BOUNDS_US.len() + 1],
    sum_us: Count,
}

impl Latencies {
    /// One more duration. Only by the one thread that writes it.
    pub fn observe_us(&self, us: u64) {
        let at = LATENCY_BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[at].add(1);
        self.sum_us.add(us);
    }

    /// Bounds in seconds, the last of them unbounded, each with the durations since the one before.
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = LATENCY_BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.buckets.iter().map(Count::get))
    }

    /// All of them together, seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_us.get() as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_in_its_own_bucket() {
        let latencies = Latencies::default();
        for us in [0, 10, 11, 1_000_000, 1_000_001] {
            latencies.observe_us(us);
        }
        let counts: Vec<u64> = latencies.buckets().map(|(_, count)| count).collect();
        assert_eq!(counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert!((latencies.sum_seconds() - 2.000_022).abs() < 1e-9);
        assert!(LATENCY_BOUNDS_US.is_sorted());
    }
}
