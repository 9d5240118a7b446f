//! How long a batch takes, from its bytes being in to its answer being written, without asking the clock for each: one in
//! [`BATCHES_PER_SAMPLE`] is timed, one at a time.

use std::cell::Cell;

use crate::limits::BATCHES_PER_SAMPLE;
use crate::shard::deadlines::PeerKey;

/// Which batch is timed.
pub struct Sampling {
    /// Batches until the next one; 0 < left
    left: Cell<u32>,
    /// Whose batch is being timed, and since when, microseconds.
    timed: Cell<Option<(PeerKey, u64)>>,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { left: Cell::new(BATCHES_PER_SAMPLE), timed: Cell::new(None) }
    }
}

impl Sampling {
    /// A batch of `peer` is in. The clock is asked when it is to be timed.
    pub fn begin(&self, peer: PeerKey, tick_us: fn() -> u64) {
        let left = self.left.get() - 1;
        self.left.set(if left == 0 { BATCHES_PER_SAMPLE } else { left });
        // One that never ends, because its client does not read, makes room for the next.
        if left == 0 {
            self.timed.set(Some((peer, tick_us())));
        }
    }

    /// A batch of `peer` is answered in full, or ends otherwise; how long it took when it was timed.
    pub fn end(&self, peer: PeerKey, tick_us: fn() -> u64) -> Option<u64> {
        let (_, since_us) = self.timed.get().filter(|(timed, _)| *timed == peer)?;
        self.timed.set(None);
        Some(tick_us().saturating_sub(since_us))
    }

    /// The batch of `peer` waits for something else than the shard: its time would say nothing about it.
    pub fn give_up(&self, peer: PeerKey) {
        if self.timed.get().is_some_and(|(timed, _)| timed == peer) {
            self.timed.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: PeerKey = PeerKey { index: 0, generation: 1 };
    const OTHER: PeerKey = PeerKey { index: 1, generation: 1 };

    fn never() -> u64 {
        panic!("the clock is asked only for what is timed")
    }

    #[test]
    fn one_batch_of_many_is_timed() {
        let sampling = Sampling::default();
        for _ in 1..BATCHES_PER_SAMPLE {
            sampling.begin(ONE, never);
            assert_eq!(sampling.end(ONE, never), None);
        }
        sampling.begin(ONE, || 100);
        assert_eq!(sampling.end(OTHER, never), None);
        assert_eq!(sampling.end(ONE, || 130), Some(30));
        assert_eq!(sampling.end(ONE, never), None);
        sampling.begin(ONE, never);
    }

    #[test]
    fn what_waits_elsewhere_is_not_counted() {
        let sampling = Sampling::default();
        (1..BATCHES_PER_SAMPLE).for_each(|_| sampling.begin(ONE, never));
        sampling.begin(ONE, || 100);
        sampling.give_up(OTHER);
        sampling.give_up(ONE);
        assert_eq!(sampling.end(ONE, never), None);
    }
}
