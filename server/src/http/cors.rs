//! Which pages of other origins may call us from a browser (the Fetch standard, "CORS protocol").
//!
//! Off until an operator names origins, each exactly; then an answer to a request with one of them says so. Nothing else
//! changes: who is not in a browser is not asked where he comes from. An answer with these lines is not the plain one, so it is
//! put together each time, and the plain one costs what it did.

use crate::limits::{CORS_MAX_AGE_SECONDS, CORS_ORIGIN_BYTES_MAX};

/// An origin that may, with what answers to it say. Made when the process starts, and kept as long as it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin {
    origin: String,
    lines: String,
    preflight_lines: String,
}

impl AllowedOrigin {
    /// Of `scheme://host` or `scheme://host:port`, as a browser writes it: in small letters, without a path.
    ///
    /// # Errors
    /// What it must be, as a sentence.
    pub fn parse(text: &str) -> Result<AllowedOrigin, String> {
        let wrong = || {
            format!(
                "`{text}` is no origin: write it as browsers do, such as https://app.example or http://localhost:3000, without a path and in small letters"
            )
        };
        let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
        let is_scheme = scheme == "http" || scheme == "https";
        let is_authority = !authority.is_empty()
            && authority
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:[]".contains(&byte));
        // A browser leaves out the port that goes without saying.
        let is_default =
            (scheme == "http" && authority.ends_with(":80")) || (scheme == "https" && authority.ends_with(":443"));
        if !is_scheme || !is_authority || is_default || text.len() > CORS_ORIGIN_BYTES_MAX {
            return Err(wrong());
        }
        Ok(AllowedOrigin {
            origin: text.to_owned(),
            lines: format!(
                "Access-Control-Allow-Origin: {text}\r\nVary: Origin\r\nAccess-Control-Expose-Headers: ETag, Idempotency-Key, Link, Location, Retry-After\r\n"
            ),
            preflight_lines: format!(
                "Access-Control-Allow-Origin: {text}\r\nVary: Origin\r\nAccess-Control-Allow-Methods: GET, HEAD, POST, PUT, PATCH, DELETE\r\nAccess-Control-Allow-Headers: Authorization, Content-Type, Idempotency-Key, If-None-Match\r\nAccess-Control-Max-Age: {CORS_MAX_AGE_SECONDS}\r\n"
            ),
        })
    }

    /// The one that a request's `Origin` names, byte by byte (RFC 6454 6.2).
    pub fn find(allowed: &'static [AllowedOrigin], origin: Option<&[u8]>) -> Option<&'static AllowedOrigin> {
        let origin = origin?;
        allowed.iter().find(|allowed| allowed.origin.as_bytes() == origin)
    }

    /// The field lines of an answer.
    pub fn lines(&self) -> &str {
        &self.lines
    }

    /// Those of an answer to OPTIONS, which a browser asks first and keeps.
    pub fn preflight_lines(&self) -> &str {
        &self.preflight_lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REPLY_HEAD_BYTES_MAX;

    #[test]
    fn origins_are_as_browsers_write_them() {
        for good in ["https://app.example", "http://localhost:3000", "http://127.0.0.1:8080", "https://[::1]:8443"] {
            assert!(AllowedOrigin::parse(good).is_ok(), "{good}");
        }
        let long = format!("https://{}", "a".repeat(CORS_ORIGIN_BYTES_MAX));
        for bad in [
            "",
            "*",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://App.example",
            "ftp://a",
            "https://a b",
            "https://a\r\nX: y",
            "http://a:80",
            "https://a:443",
            "https://*.example",
            &long,
        ] {
            assert!(AllowedOrigin::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_found_byte_by_byte_or_not_at_all() {
        let allowed: &[AllowedOrigin] =
            Box::leak(["https://a", "https://b:1"].map(|text| AllowedOrigin::parse(text).unwrap()).into());
        let find =
            |origin: &str| AllowedOrigin::find(allowed, Some(origin.as_bytes())).map(|found| found.origin.as_str());
        assert_eq!(find("https://b:1"), Some("https://b:1"));
        for other in ["https://b", "http://a", "https://a.evil", "https://A", "", "null"] {
            assert_eq!(find(other), None, "{other}");
        }
        assert_eq!(AllowedOrigin::find(allowed, None), None);
    }

    #[test]
    fn the_longest_lines_leave_room_for_the_rest_of_a_head() {
        let longest = AllowedOrigin::parse(&format!("https://{}", "a".repeat(CORS_ORIGIN_BYTES_MAX - 8))).unwrap();
        for lines in [longest.lines(), longest.preflight_lines()] {
            assert!(lines.ends_with("\r\n") && lines.len() + 600 < REPLY_HEAD_BYTES_MAX, "{}", lines.len());
        }
    }
}
