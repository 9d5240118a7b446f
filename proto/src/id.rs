//! Item ids: `UUIDv7`, so that the id is the order.

/// A `UUIDv7` (RFC 9562 5.7) as one number: comparing two compares their time first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(u128);

impl ItemId {
    /// Reads the 36-character hyphenated form, in either case. Anything else, another version and
    /// another variant included, is `None`.
    pub fn parse(text: &[u8]) -> Option<ItemId> {
        if text.len() != 36 {
            return None;
        }
        let mut value: u128 = 0;
        for (index, &byte) in text.iter().enumerate() {
            if matches!(index, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return None;
                }
                continue;
            }
            value = value << 4 | u128::from(char::from(byte).to_digit(16)?);
        }
        let version = value >> 76 & 0xf;
        let variant = value >> 62 & 0b11;
        (version == 7 && variant == 0b10).then_some(ItemId(value))
    }

    /// Milliseconds since the Unix epoch, below 2^48.
    pub fn time_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}
