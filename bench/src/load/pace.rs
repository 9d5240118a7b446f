//! When the blocks of an open loop are due: pure.

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

    /// When the next one is due.
    pub fn next_ns(&self) -> u64 {
        self.start_ns + (self.issued as f64 * self.interval_ns) as u64
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
}
