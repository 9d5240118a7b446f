//! The id of an item: a UUID of version 7, so that the order of ids is the order of creation.

use uuid::{Uuid, Version};

/// A UUID of version 7 as a number: the greatest is the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId(u128);

impl ItemId {
    /// Below every real id.
    pub const ZERO: Self = Self(0);

    /// The id with these 128 bits, whether or not they are a UUID of version 7.
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits)
    }

    /// Reads any textual form of a UUID of version 7 (RFC 9562); everything else is `None`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let uuid = Uuid::try_parse_ascii(text).ok()?;
        (uuid.get_version() == Some(Version::SortRand)).then(|| Self(uuid.as_u128()))
    }

    /// Milliseconds since the Unix epoch: the first 48 bits (RFC 9562 5.7).
    pub const fn time_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::ItemId;

    #[test]
    fn only_a_version_7_is_an_id() {
        let id = ItemId::parse(b"017f22e2-79b0-7cc3-98c4-dc0c0c07398f").expect("the example of RFC 9562 A.6");
        assert_eq!(id.time_ms(), 0x017f_22e2_79b0);
        assert_eq!(ItemId::parse(b"919108f7-52d1-4320-9bac-f847db4148a8"), None);
        assert_eq!(ItemId::parse(b"017f22e2"), None);
    }
}
