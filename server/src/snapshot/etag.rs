//! The tag of a slice's bytes.

use arrayvec::ArrayString;

/// An entity tag (RFC 9110 8.8.3) with its quotes. It is strong: equal tags mean equal bytes, on every server of the
/// store and after every restart, because it is made of what is sent and of nothing else.
///
/// `"SUM-COUNT-i"` for a list and `"SUM-i"` for a bare item: the sum of the items' hashes in 16 hexadecimal digits,
/// their count in as many as it needs, and the coding, `i` for identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ETag(ArrayString<{ ETag::BYTES_MAX }>);

impl ETag {
    /// Two quotes, 16 digits, 8 digits, two hyphens, the coding.
    pub const BYTES_MAX: usize = 29;

    pub(super) fn of_list(sum: u64, items_count: u32) -> Self {
        let mut text = ArrayString::new();
        text.push('"');
        push_hexadecimal(&mut text, sum, 16);
        text.push('-');
        push_hexadecimal(&mut text, items_count.into(), (32 - items_count.leading_zeros()).div_ceil(4).max(1));
        text.push_str("-i\"");
        Self(text)
    }

    pub(super) fn of_item(hash: u64) -> Self {
        let mut text = ArrayString::new();
        text.push('"');
        push_hexadecimal(&mut text, hash, 16);
        text.push_str("-i\"");
        Self(text)
    }

    /// The tag as it stands in a field, quotes included.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

fn push_hexadecimal<const BYTES_MAX: usize>(text: &mut ArrayString<BYTES_MAX>, number: u64, digits_count: u32) {
    for digit in (0..digits_count).rev() {
        let value = (number >> (4 * digit)) as usize & 0xf;
        text.push(char::from(b"0123456789abcdef"[value]));
    }
}

#[cfg(test)]
mod tests {
    use super::ETag;

    #[test]
    fn tags_are_written_out() {
        let table: [(ETag, &str); 7] = [
            (ETag::of_list(0, 0), r#""0000000000000000-0-i""#),
            (ETag::of_list(0x1f, 1), r#""000000000000001f-1-i""#),
            (ETag::of_list(0xfedc_ba98_7654_3210, 15), r#""fedcba9876543210-f-i""#),
            (ETag::of_list(1, 16), r#""0000000000000001-10-i""#),
            (ETag::of_list(1, 1000), r#""0000000000000001-3e8-i""#),
            (ETag::of_list(u64::MAX, u32::MAX), r#""ffffffffffffffff-ffffffff-i""#),
            (ETag::of_item(1), r#""0000000000000001-i""#),
        ];
        for (tag, expected) in table {
            assert_eq!(std::str::from_utf8(tag.as_bytes()), Ok(expected));
            assert!(tag.as_bytes().len() <= ETag::BYTES_MAX);
        }
        assert_eq!(ETag::of_list(u64::MAX, u32::MAX).as_bytes().len(), ETag::BYTES_MAX);
    }
}
