//! Item ids: `UUIDv7` (RFC 9562 section 5.7). Time stands first, so the order of ids is the order of creation.

use std::fmt;

use uuid::{Uuid, Variant};

/// An item's id. Ordered by its bytes, so by time, then by its random bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(u128);

/// Makes new ids that never go back, whatever the clock does. One per shard: the 74 random bits keep several sources
/// apart.
#[derive(Debug, Default)]
pub struct IdSource {
    last: Option<ItemId>,
}

/// Bits of an id below its time: version, 12 random, variant, 62 random.
const BELOW_TIME_BITS: u32 = 80;
const TIME_MS_MAX: u64 = (1 << 48) - 1;
/// Random bits of an id, as one number.
const RANDOM_BITS: u32 = 74;
const RANDOM_MAX: u128 = (1 << RANDOM_BITS) - 1;
const LOW_RANDOM_BITS: u32 = 62;
const LOW_RANDOM_MAX: u128 = (1 << LOW_RANDOM_BITS) - 1;

impl ItemId {
    /// Below every id; names no item.
    pub const ZERO: Self = Self(0);
    /// Above every id; names no item.
    pub const MAX: Self = Self(u128::MAX);

    /// Reads the 36 characters of the hyphenated form, in either case. `None` when they are anything else, or a UUID of
    /// another version or variant.
    pub fn parse(text: &[u8]) -> Option<Self> {
        // The parser also knows forms with braces or a prefix, and none of them has 36 characters.
        if text.len() != 36 {
            return None;
        }
        let id = Self(Uuid::try_parse_ascii(text).ok()?.as_u128());
        id.is_version_7().then_some(id)
    }

    /// Puts an id together. `time_ms` is cut to 48 bits at its maximum, `random` to its low 74 bits.
    pub const fn from_parts(time_ms: u64, random: u128) -> Self {
        let time = if time_ms > TIME_MS_MAX { TIME_MS_MAX } else { time_ms } as u128;
        let random = random & RANDOM_MAX;
        let high = random >> LOW_RANDOM_BITS;
        let low = random & LOW_RANDOM_MAX;
        Self(time << BELOW_TIME_BITS | 0x7 << 76 | high << 64 | 0b10 << LOW_RANDOM_BITS | low)
    }

    /// Takes 128 bits as they are, the time uppermost.
    pub const fn from_u128(number: u128) -> Self {
        Self(number)
    }

    /// Takes 16 bytes as they are; [`is_version_7`](Self::is_version_7) tells whether they are an id.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The 16 bytes, most significant first: their order is the order of ids.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Milliseconds since the Unix epoch, below 2^48.
    pub const fn time_ms(self) -> u64 {
        (self.0 >> BELOW_TIME_BITS) as u64
    }

    /// Whether version and variant are those of a `UUIDv7`.
    pub fn is_version_7(self) -> bool {
        let uuid = self.uuid();
        uuid.get_version_num() == 7 && uuid.get_variant() == Variant::RFC4122
    }

    /// The canonical form: 36 characters, lower case.
    pub fn hyphenated(self) -> [u8; 36] {
        let mut text = [0; 36];
        self.uuid().hyphenated().encode_lower(&mut text);
        text
    }

    const fn uuid(self) -> Uuid {
        Uuid::from_u128(self.0)
    }

    const fn random(self) -> u128 {
        (self.0 >> 64 & 0xfff) << LOW_RANDOM_BITS | self.0 & LOW_RANDOM_MAX
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid().hyphenated().fmt(formatter)
    }
}

impl fmt::Debug for ItemId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl IdSource {
    /// The next id: at `now_ms` with the low 74 bits of `random`, or, while the clock stands or goes back, a random
    /// step above the last one (RFC 9562 section 6.2, method 2), so that ids stay hard to guess.
    pub fn next(&mut self, now_ms: u64, random: u128) -> ItemId {
        let id = match self.last {
            Some(last) if now_ms <= last.time_ms() => above(last, random),
            _ => ItemId::from_parts(now_ms, random),
        };
        self.last = Some(id);
        id
    }
}

/// An id above `last` by a step of 1 to 2^32, in its millisecond or, when that has no room left, in the next.
fn above(last: ItemId, random: u128) -> ItemId {
    let step = (random & 0xffff_ffff) + 1;
    match last.random() + step {
        bits if bits <= RANDOM_MAX => ItemId::from_parts(last.time_ms(), bits),
        _ => ItemId::from_parts(last.time_ms() + 1, random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_hyphenated_version_7() {
        let cases: [(&str, &str, bool); 11] = [
            ("lower case", "018f4e2a-7b1c-7def-8123-456789abcdef", true),
            ("upper case", "018F4E2A-7B1C-7DEF-8123-456789ABCDEF", true),
            ("variant b", "018f4e2a-7b1c-7def-b123-456789abcdef", true),
            ("version 4", "018f4e2a-7b1c-4def-8123-456789abcdef", false),
            ("variant of Microsoft", "018f4e2a-7b1c-7def-c123-456789abcdef", false),
            ("variant of the nineties", "018f4e2a-7b1c-7def-7123-456789abcdef", false),
            ("hyphen moved", "018f4e2a7-b1c-7def-8123-456789abcdef", false),
            ("no hyphens, padded", "018f4e2a7b1c7def8123456789abcdef    ", false),
            ("not hexadecimal", "018f4e2a-7b1c-7def-8123-456789abcdeg", false),
            ("braces", "{018f4e2a-7b1c-7def-8123-456789abcdef}", false),
            ("empty", "", false),
        ];
        for (name, text, expected) in cases {
            let id = ItemId::parse(text.as_bytes());
            assert_eq!(id.is_some(), expected, "{name}");
            if let Some(id) = id {
                assert_eq!(id.hyphenated().as_slice(), text.to_lowercase().as_bytes(), "{name}");
                assert_eq!(ItemId::from_bytes(id.to_bytes()), id, "{name}");
                assert_eq!(id.time_ms(), 0x018f_4e2a_7b1c, "{name}");
            }
        }
    }

    #[test]
    fn parts_come_back() {
        for random in [0, 1, RANDOM_MAX, RANDOM_MAX / 3] {
            let id = ItemId::from_parts(1_700_000_000_000, random);
            assert!(id.is_version_7());
            assert_eq!((id.time_ms(), id.random()), (1_700_000_000_000, random));
        }
        assert_eq!(ItemId::from_parts(u64::MAX, 0).time_ms(), TIME_MS_MAX);
    }

    #[test]
    fn a_source_never_goes_back() {
        let mut source = IdSource::default();
        let mut last = ItemId::ZERO;
        let clock = [5, 5, 6, 6, 6, 3, 0, 7, 7];
        for (now_ms, random) in clock.into_iter().zip([RANDOM_MAX, 9, RANDOM_MAX, 0, u128::MAX, 1, 2, 3, 0]) {
            let id = source.next(now_ms, random);
            assert!(id > last && id.is_version_7(), "{id} after {last}");
            last = id;
        }
        assert_eq!(last.time_ms(), 7);
    }
}
