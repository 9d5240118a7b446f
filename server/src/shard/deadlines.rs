//! When connections must be looked at: a timing wheel, so that a sweep costs what has expired and a request costs
//! nothing. An entry is a promise to look, not the deadline itself: who has been active meanwhile is entered again.

use crate::limits::{WHEEL_SLOT_MS, WHEEL_SLOTS};

/// Names a connection of this shard; the generation tells it from a later one in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerKey {
    /// Place in the shard's table.
    pub index: u32,
    /// Counts the connections of that shard.
    pub generation: u32,
}

/// The wheel of one shard.
pub struct Deadlines {
    slots: Vec<Vec<PeerKey>>,
    /// Number of the first slot that has not expired.
    next_slot: u64,
}

impl Deadlines {
    /// A wheel that begins at `now_ms`.
    pub fn new(now_ms: u64) -> Deadlines {
        Deadlines { slots: vec![Vec::new(); WHEEL_SLOTS], next_slot: now_ms / WHEEL_SLOT_MS }
    }

    /// Looks at `key` no earlier than `at_ms`, at most one slot later; beyond the wheel's horizon, at the horizon.
    pub fn arm(&mut self, key: PeerKey, at_ms: u64) {
        let slot = (at_ms / WHEEL_SLOT_MS + 1).clamp(self.next_slot, self.next_slot + WHEEL_SLOTS as u64 - 1);
        self.slots[slot as usize % WHEEL_SLOTS].push(key);
    }

    /// Takes one slot that has expired by `now_ms`; `None` when none has.
    pub fn expire(&mut self, now_ms: u64) -> Option<Vec<PeerKey>> {
        if now_ms / WHEEL_SLOT_MS < self.next_slot {
            return None;
        }
        let slot = self.next_slot as usize % WHEEL_SLOTS;
        self.next_slot += 1;
        Some(std::mem::take(&mut self.slots[slot]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> PeerKey {
        PeerKey { index, generation: 0 }
    }

    fn expired(deadlines: &mut Deadlines, now_ms: u64) -> Vec<u32> {
        std::iter::from_fn(|| deadlines.expire(now_ms)).flatten().map(|key| key.index).collect()
    }

    #[test]
    fn nothing_expires_early_and_everything_within_two_slots() {
        let start = 10_000;
        for at in (start..start + 3 * WHEEL_SLOT_MS).step_by(17) {
            let mut deadlines = Deadlines::new(start);
            deadlines.arm(key(7), at);
            for now in (start..at).step_by(13) {
                assert!(expired(&mut deadlines, now).is_empty(), "armed for {at}, asked at {now}");
            }
            assert_eq!(expired(&mut deadlines, at + 2 * WHEEL_SLOT_MS), [7], "armed for {at}");
        }
    }

    #[test]
    fn the_past_and_the_far_future_are_kept() {
        let mut deadlines = Deadlines::new(50_000);
        deadlines.arm(key(1), 0);
        deadlines.arm(key(2), u64::MAX / 2);
        assert_eq!(expired(&mut deadlines, 50_000 + WHEEL_SLOT_MS), [1]);
        let horizon = 50_000 + (WHEEL_SLOTS as u64 + 1) * WHEEL_SLOT_MS;
        assert_eq!(expired(&mut deadlines, horizon), [2]);
    }
}
