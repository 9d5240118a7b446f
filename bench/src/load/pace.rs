//! When the blocks of an open loop are due: pure.

use crate::limits::{LATENCY_NS_MAX, NEVER_SENT_VALUES_MAX};
use hdrhistogram::Histogram;

/// A fixed rate, counted from a start so that rounding never adds up.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start_ns: u64,
    interval_ns: f64,
    issued: u64,
}

impl Pace {
    /// The first one is due at once; `rate` blocks a second, above 0.
    pub fn new(start_ns: u64, rate: f64) -> Pace {
        debug_assert!(rate > 0.0);
        Pace { start_ns, interval_ns: 1e9 / rate, issued: 0 }
    }

    /// Takes the next one if it is due: when it was.
    pub fn take_due(&mut self, now_ns: u64) -> Option<u64> {
        let due_ns = self.next_ns();
        (due_ns <= now_ns).then(|| {
            self.issued += 1;
            due_ns
        })
    }

    /// Records how long those that were due before `end_ns` and never left have waited by then; how many they are.
    ///
    /// Left out, a server that answers nothing from some moment on would look as good as before it.
    pub fn record_never_sent(&self, end_ns: u64, latency: &mut Histogram<u64>) -> u64 {
        let Some(waited_ns) = end_ns.checked_sub(self.next_ns() + 1) else { return 0 };
        let count = (waited_ns as f64 / self.interval_ns) as u64 + 1;
        // Each value stands for so many, of which it waited longest.
        let step = count.div_ceil(NEVER_SENT_VALUES_MAX);
        for first in (0..count).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let due_ns = self.due_ns(self.issued + first);
            let value_ns = end_ns.saturating_sub(due_ns).min(LATENCY_NS_MAX);
            latency.saturating_record_n(value_ns, step.min(count - first));
        }
        count
    }

    /// When the next one is due.
    pub fn next_ns(&self) -> u64 {
        self.due_ns(self.issued)
    }

    fn due_ns(&self, index: u64) -> u64 {
        self.start_ns + (index as f64 * self.interval_ns) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_do_not_drift() {
        let mut pace = Pace::new(1_000, 3.0);
        let due: Vec<u64> = std::iter::from_fn(|| pace.take_due(1_000_001_000)).collect();
        assert_eq!(due, [1_000, 333_334_333, 666_667_666, 1_000_001_000]);
        assert_eq!(pace.take_due(1_000_001_000), None);
        assert_eq!(pace.next_ns(), 1_333_334_333);
    }

    #[test]
    fn what_never_left_has_waited() {
        let mut latency = crate::load::latency_histogram();
        let mut pace = Pace::new(0, 1_000.0);
        assert!(pace.take_due(0).is_some() && pace.take_due(5_000_000).is_some());
        // Due at 2, 3 ... 9 ms: what is due at 10 belongs to the time after.
        assert_eq!(pace.record_never_sent(10_000_000, &mut latency), 8);
        // The histogram's smallest value is rounded down.
        let milliseconds = |ns: u64| (ns + 500_000) / 1_000_000;
        assert_eq!((latency.len(), milliseconds(latency.min()), milliseconds(latency.max())), (8, 1, 8));
        assert_eq!(pace.record_never_sent(2_000_000, &mut latency), 0);
        // A million of them are recorded as ten thousand values that stand for all.
        latency.reset();
        let pace = Pace::new(0, 1_000_000.0);
        assert_eq!(pace.record_never_sent(1_000_000_000, &mut latency), 1_000_000);
        assert_eq!(latency.len(), 1_000_000);
        let median_ms = latency.value_at_quantile(0.5) / 1_000_000;
        assert!((498..=502).contains(&median_ms), "{median_ms}");
    }
}
