//! `If-None-Match` (RFC 9110 13.1.2).

use super::syntax::trim;

/// Whether a representation with the tag `etag` (quoted, as it is sent) is one the client has: then
/// the answer to a GET or HEAD is 304. `values` are the field's lines in order. Only for a
/// representation that exists: `*` matches each.
///
/// Tags are compared weakly (RFC 9110 8.8.3.2). A malformed list matches nothing, so the answer is the
/// whole representation, which is right for every client.
pub fn if_none_match<'a>(values: impl Iterator<Item = &'a [u8]>, etag: &[u8]) -> bool {
    let mut found = false;
    let mut members = 0;
    let mut any = false;
    for value in values {
        let mut rest = trim(value);
        // One turn is one member with the comma behind it; an empty member is allowed and skipped.
        while !rest.is_empty() {
            if let Some(behind) = rest.strip_prefix(b",") {
                rest = trim(behind);
                continue;
            }
            members += 1;
            if let Some(behind) = rest.strip_prefix(b"*") {
                any = true;
                rest = behind;
            } else if let Some((tag, behind)) = entity_tag(rest) {
                found |= tag == etag;
                rest = behind;
            } else {
                return false;
            }
            rest = trim(rest);
            if !rest.is_empty() && rest[0] != b',' {
                return false;
            }
        }
    }
    // `*` is not a member of a list: it is the whole value or a mistake.
    if any { members == 1 } else { found }
}

/// The opaque tag, quotes included, at the front of `bytes`, and what stands behind it. The weak prefix
/// is dropped: it does not count here.
fn entity_tag(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let opaque = bytes.strip_prefix(b"W/").unwrap_or(bytes);
    let inside = opaque.strip_prefix(b"\"")?;
    let length = inside.iter().position(|&byte| !matches!(byte, 0x21 | 0x23..=0x7e | 0x80..))?;
    (inside[length] == b'"').then(|| opaque.split_at(length + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str], expected: bool) {
        let lines = values.iter().map(|value| value.as_bytes());
        assert_eq!(if_none_match(lines, b"\"abc\""), expected, "{values:?}");
    }

    #[test]
    fn matches() {
        check(&["\"abc\""], true);
        check(&["W/\"abc\""], true);
        check(&["\"x\", \"abc\""], true);
        check(&["\"abc\",\"x\""], true);
        check(&["\"x\"", "\"abc\""], true);
        check(&["*"], true);
        check(&[" * "], true);
        check(&[", ,\"abc\",,"], true);
        check(&["\"with,comma\", \"abc\""], true);
        check(&["\"\", \"abc\""], true);
        check(&["\"\u{e9}\", \"abc\""], true);
    }

    #[test]
    fn does_not_match() {
        check(&[], false);
        check(&[""], false);
        check(&[","], false);
        check(&["\"x\""], false);
        check(&["\"ABC\""], false);
        check(&["\"ab\""], false);
        check(&["\"abc,\""], false);
    }

    #[test]
    fn malformed_matches_nothing() {
        check(&["abc"], false);
        check(&["\"abc"], false);
        check(&["\"abc\" \"x\""], false);
        check(&["\"abc\"x"], false);
        check(&["\"abc\", x"], false);
        check(&["\"abc\"", "x"], false);
        check(&["w/\"abc\""], false);
        check(&["W/ \"abc\""], false);
        check(&["*, \"abc\""], false);
        check(&["\"abc\", *"], false);
        check(&["*", "*"], false);
        check(&["**"], false);
        check(&["\"a b\", \"abc\""], false);
    }
}
