//! Request header fields from the command line or a file: checked before anything is sent.

use crate::error::{Error, Result};

/// What a browser sends beside: with request line and Host some 500 bytes.
pub const BROWSER: &str = "\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8
Accept-Language: en-GB,en;q=0.9,de;q=0.8
Accept-Encoding: gzip, deflate, br, zstd
Cache-Control: max-age=0
Sec-Fetch-Dest: document
Sec-Fetch-Mode: navigate
Sec-Fetch-Site: none
Upgrade-Insecure-Requests: 1
";

/// What cannot be chosen, and what to do instead.
const RESERVED: [(&str, &str); 5] = [
    ("content-length", "it is made from the body, leave it out"),
    ("transfer-encoding", "bodies are sent with a Content-Length, leave it out"),
    ("connection", "connections are kept; --requests-per-connection closes them"),
    ("expect", "bodies are sent at once, leave it out"),
    ("upgrade", "only HTTP/1.1 is spoken, leave it out"),
];

/// Checks `Name: value` lines (empty ones and those that begin with `#` are left out) and makes them field lines.
///
/// # Errors
/// A line that is no header field (RFC 9110 5.1, 5.5), one that would change how a request or its connection ends, or
/// more than one Host.
pub fn field_lines(text: &str) -> Result<String> {
    let mut lines = String::new();
    let mut has_host = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let refuse = |why: &str| Error::Unusable(format!("{line}: {why}"));
        let (name, value) = line.split_once(':').ok_or_else(|| refuse("a header is `Name: value`"))?;
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(refuse("the name of a header is letters, digits and hyphens"));
        }
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| name.eq_ignore_ascii_case(reserved)) {
            return Err(refuse(why));
        }
        if name.eq_ignore_ascii_case("host") && std::mem::replace(&mut has_host, true) {
            return Err(refuse("a request has one Host, leave one of them out"));
        }
        let value = value.trim();
        if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
            return Err(refuse("a value holds no control character"));
        }
        lines.push_str(name);
        lines.push_str(": ");
        lines.push_str(value);
        lines.push_str("\r\n");
    }
    Ok(lines)
}

/// RFC 9110 5.6.2.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_fields() {
        let table = [
            ("", Some("")),
            ("Accept: */*", Some("Accept: */*\r\n")),
            ("# said\n\nA:1\r\n b :2", None),
            ("# said\n\nA:1\r\n  B:  2 3 ", Some("A: 1\r\nB: 2 3\r\n")),
            ("no colon", None),
            (": value", None),
            ("Hos t: x", None),
            ("Host: elsewhere", Some("Host: elsewhere\r\n")),
            ("Host: elsewhere\nhost: here", None),
            ("connection: close", None),
            ("Expect: 100-continue", None),
            ("Content-Length: 3", None),
            ("A: x\u{1}y", None),
        ];
        for (text, expected) in table {
            assert_eq!(field_lines(text).ok().as_deref(), expected, "{text:?}");
        }
        let browser = field_lines(BROWSER).unwrap();
        assert!((400..=650).contains(&browser.len()), "{}", browser.len());
    }
}
