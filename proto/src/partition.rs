//! Which partition of the log a todo belongs to: Kafka's own rule, so that every client of the topic agrees.

use crate::id::ItemId;

/// The partition of `id` among `partitions_count`: the murmur2 of its canonical form without the sign bit, modulo the
/// count. At least one partition.
pub fn partition_of(id: ItemId, partitions_count: u32) -> u32 {
    (murmur2(&id.hyphenated()) & SIGN_BIT_CLEARED) % partitions_count
}

const SIGN_BIT_CLEARED: u32 = 0x7fff_ffff;
const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;
const SHIFT: u32 = 24;

/// Austin Appleby's 32-bit `MurmurHash2` with the seed of Kafka's default partitioner, over little-endian words.
fn murmur2(bytes: &[u8]) -> u32 {
    let length = u32::try_from(bytes.len()).expect("keys are short");
    let (words, rest) = bytes.as_chunks::<4>();
    let mut hash = words.iter().fold(SEED ^ length, |hash, word| {
        let mixed = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        let mixed = (mixed ^ (mixed >> SHIFT)).wrapping_mul(MULTIPLIER);
        hash.wrapping_mul(MULTIPLIER) ^ mixed
    });
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The values that Kafka's own tests expect of `Utils.murmur2`.
    #[test]
    fn hashes_are_those_of_kafka() {
        let expectations: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, expected) in expectations {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "{key}");
        }
    }

    #[test]
    fn partitions_are_within_their_count_and_all_of_them_used() {
        for count in [1, 3, 32] {
            let mut used = vec![0_u32; count as usize];
            (0..32_000).for_each(|number| {
                used[partition_of(ItemId::from_parts(1_700_000_000_000, number), count) as usize] += 1;
            });
            let share = 32_000 / count;
            assert!(used.iter().all(|todos| (share * 8 / 10..=share * 12 / 10).contains(todos)), "{count}: {used:?}");
        }
    }

    #[test]
    fn the_spelling_of_an_id_does_not_matter() {
        let lower = ItemId::parse(b"018bcfe5-6800-7000-8000-00000000000a").expect("an id");
        let upper = ItemId::parse(b"018BCFE5-6800-7000-8000-00000000000A").expect("an id");
        assert_eq!(partition_of(lower, 32), partition_of(upper, 32));
    }
}
