//! The byte classes of RFC 9110 and RFC 3986, and comma-separated lists.

use memchr::memchr_iter;

/// `tchar` (RFC 9110 5.6.2): methods, field names, list members.
pub const TOKEN: u8 = 1 << 0;
/// Field values (RFC 9110 5.5): visible bytes, space, tab and `obs-text`.
pub const FIELD_VALUE: u8 = 1 << 1;
/// `reg-name` (RFC 3986 3.2.2), with the percent sign.
pub const HOST_NAME: u8 = 1 << 2;
/// `pchar` and the slash (RFC 3986 3.3), with the percent sign.
pub const PATH: u8 = 1 << 3;
/// `query` (RFC 3986 3.4), with the percent sign.
pub const QUERY: u8 = 1 << 4;

/// Whether `byte` belongs to `class`.
#[inline]
pub fn is(class: u8, byte: u8) -> bool {
    CLASSES[usize::from(byte)] & class != 0
}

/// Whether every byte belongs to `class`. True of no bytes.
pub fn all(class: u8, bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| is(class, byte))
}

/// Whether `bytes` is a `token`: at least one byte, all of them `tchar`.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(TOKEN, bytes)
}

/// Whether every percent sign is followed by two hexadecimal digits (RFC 3986 2.1).
pub fn percent_encoding_is_complete(bytes: &[u8]) -> bool {
    memchr_iter(b'%', bytes)
        .all(|index| bytes.get(index + 1..index + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)))
}

/// Without the spaces and tabs at both ends (`OWS`, RFC 9110 5.6.3).
pub fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The members of a list whose members hold no quoted strings (RFC 9110 5.6.1), trimmed. An empty
/// member comes out empty: whether that is allowed is the caller's to say.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim)
}

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    mark(&mut table, b"!#$%&'*+-.^_`|~", TOKEN);
    // sub-delims, the rest of unreserved, and the sign that opens an encoded byte
    mark(&mut table, b"!$&'()*+,;=-._~%", HOST_NAME | PATH | QUERY);
    mark(&mut table, b":@/", PATH | QUERY);
    mark(&mut table, b"?", QUERY);
    mark(&mut table, b"\t", FIELD_VALUE);
    let mut byte = 0;
    while byte < 256 {
        if (byte as u8).is_ascii_alphanumeric() {
            table[byte] |= TOKEN | HOST_NAME | PATH | QUERY;
        }
        if byte >= 0x20 && byte != 0x7f {
            table[byte] |= FIELD_VALUE;
        }
        byte += 1;
    }
    table
}

const fn mark(table: &mut [u8; 256], members: &[u8], class: u8) {
    let mut index = 0;
    while index < members.len() {
        table[members[index] as usize] |= class;
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_the_grammar() {
        let letters_and_digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let unreserved = format!("{letters_and_digits}-._~");
        let sub_delims = "!$&'()*+,;=";
        let printable: String = ('\x20'..='\x7e').collect();
        let check = |class: u8, members: String, above_ascii: bool| {
            for byte in 0..=255u8 {
                let expected = if byte < 0x80 { members.as_bytes().contains(&byte) } else { above_ascii };
                assert_eq!(is(class, byte), expected, "class {class}, byte {byte:#04x}");
            }
        };
        check(TOKEN, format!("{letters_and_digits}!#$%&'*+-.^_`|~"), false);
        check(HOST_NAME, format!("{unreserved}{sub_delims}%"), false);
        check(PATH, format!("{unreserved}{sub_delims}%:@/"), false);
        check(QUERY, format!("{unreserved}{sub_delims}%:@/?"), false);
        check(FIELD_VALUE, format!("{printable}\t"), true);
    }

    #[test]
    fn percent_encoding() {
        for good in ["", "a", "%41", "%aF%00", "a%2Fb"] {
            assert!(percent_encoding_is_complete(good.as_bytes()), "{good}");
        }
        for bad in ["%", "%4", "%4g", "%g4", "a%", "%41%", "%%41"] {
            assert!(!percent_encoding_is_complete(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn lists() {
        let check = |value: &str, expected: &[&str]| {
            let found: Vec<_> = members(value.as_bytes()).map(|member| str::from_utf8(member).unwrap()).collect();
            assert_eq!(found, expected, "{value:?}");
        };
        check("a", &["a"]);
        check(" a ,\tb", &["a", "b"]);
        check("a,,b,", &["a", "", "b", ""]);
        check("", &[""]);
        check(" \t ", &[""]);
    }
}
