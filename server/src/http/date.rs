//! The `Date` field (RFC 9110 6.6.1), made once a second.

use std::io::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// Length of an IMF-fixdate (RFC 9110 5.6.7), such as `Sun, 06 Nov 1994 08:49:37 GMT`.
pub const DATE_BYTES: usize = 29;

/// The last second of the year 9999, the last that an IMF-fixdate can say.
const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

/// The value of `Date` for one second.
#[derive(Clone, Debug)]
pub struct HttpDate {
    unix_seconds: u64,
    text: [u8; DATE_BYTES],
}

impl HttpDate {
    /// The date at a Unix time in whole seconds; past the year 9999 it stands still.
    pub fn at(unix_seconds: u64) -> HttpDate {
        let mut text = [0; DATE_BYTES];
        let time = UNIX_EPOCH + Duration::from_secs(unix_seconds.min(UNIX_SECONDS_MAX));
        write!(&mut text[..], "{}", httpdate::HttpDate::from(time)).expect("an IMF-fixdate has 29 bytes");
        HttpDate { unix_seconds, text }
    }

    /// Moves to `unix_seconds`, and says whether that is another second than before: then what was made
    /// with the old date is out of date.
    pub fn advance(&mut self, unix_seconds: u64) -> bool {
        let changed = unix_seconds != self.unix_seconds;
        if changed {
            *self = HttpDate::at(unix_seconds);
        }
        changed
    }

    /// The 29 bytes.
    pub fn bytes(&self) -> &[u8; DATE_BYTES] {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let check = |unix_seconds, expected: &str| {
            assert_eq!(str::from_utf8(HttpDate::at(unix_seconds).bytes()).unwrap(), expected);
        };
        check(0, "Thu, 01 Jan 1970 00:00:00 GMT");
        check(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT");
        check(951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT");
        check(4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT");
        check(UNIX_SECONDS_MAX, "Fri, 31 Dec 9999 23:59:59 GMT");
        check(u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn advances_only_with_the_second() {
        let mut date = HttpDate::at(784_111_777);
        assert!(!date.advance(784_111_777));
        assert!(date.advance(784_111_778));
        assert_eq!(date.bytes(), HttpDate::at(784_111_778).bytes());
        // A clock that is set back is followed.
        assert!(date.advance(784_111_777));
        assert_eq!(date.bytes(), HttpDate::at(784_111_777).bytes());
    }
}
