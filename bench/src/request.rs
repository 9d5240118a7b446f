//! The requests that are sent, and where to.

use crate::error::{Error, Result};
use std::net::{SocketAddr, ToSocketAddrs};

/// A parsed `http://host:port/path?query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Host and port as written; port 80 when none is.
    pub authority: String,
    /// Path and query; `/` when there is none.
    pub target: String,
}

impl Url {
    /// Only plain `http`, no user information, no fragment.
    pub fn parse(text: &str) -> Result<Url> {
        let refuse = |why: &str| Error::Unusable(format!("{text}: {why}"));
        let rest = text.strip_prefix("http://").ok_or_else(|| refuse("the address must begin with http://"))?;
        let (authority, target) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        if authority.is_empty() || authority.contains('@') {
            return Err(refuse("a host, and no user, is needed"));
        }
        if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(refuse("the path holds what a request line cannot"));
        }
        let has_port =
            authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        Ok(Url { authority, target: target.to_owned() })
    }

    /// The first address the host resolves to.
    pub fn address(&self) -> Result<SocketAddr> {
        let unresolved = |why: String| Error::Unusable(format!("{}: {why}", self.authority));
        let mut addresses = self.authority.to_socket_addrs().map_err(|error| unresolved(error.to_string()))?;
        addresses.next().ok_or_else(|| unresolved("no address".into()))
    }
}

/// A GET of nothing but what HTTP/1.1 demands.
pub fn get(authority: &str, target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into_bytes()
}

/// A complete request with these field lines, each with its CRLF, and a body.
///
/// # Errors
/// A method that is no token.
pub fn with(method: &str, authority: &str, target: &str, field_lines: &str, body: Option<&[u8]>) -> Result<Vec<u8>> {
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(Error::Unusable(format!("{method}: a method is a word such as GET or POST")));
    }
    if method.eq_ignore_ascii_case("HEAD") || method.eq_ignore_ascii_case("CONNECT") {
        return Err(Error::Unusable(format!(
            "{method}: its answers have no body of the length they say; not supported"
        )));
    }
    let length = body.map_or(String::new(), |body| format!("Content-Length: {}\r\n", body.len()));
    let mut request =
        format!("{method} {target} HTTP/1.1\r\nHost: {authority}\r\n{field_lines}{length}\r\n").into_bytes();
    request.extend_from_slice(body.unwrap_or_default());
    Ok(request)
}

/// The target of a list of `limit` todos.
pub fn list_target(limit: usize) -> String {
    format!("/todos?limit={limit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let plain = with("GET", "host:80", "/x", "", None).unwrap();
        assert_eq!(plain, get("host:80", "/x"));
        let post = with("POST", "host:80", "/x", "A: 1\r\n", Some(b"{}")).unwrap();
        assert_eq!(post, b"POST /x HTTP/1.1\r\nHost: host:80\r\nA: 1\r\nContent-Length: 2\r\n\r\n{}");
        for method in ["", "GET /", "HEAD", "CONNECT"] {
            assert!(with(method, "host:80", "/x", "", None).is_err(), "{method}");
        }
    }

    #[test]
    fn urls() {
        let table = [
            ("http://127.0.0.1:8080/todos?limit=10", Some(("127.0.0.1:8080", "/todos?limit=10"))),
            ("http://localhost", Some(("localhost:80", "/"))),
            ("http://[::1]:8080/", Some(("[::1]:8080", "/"))),
            ("https://localhost/", None),
            ("http:///todos", None),
            ("http://user@host/", None),
            ("http://host/a b", None),
            ("http://host/a#b", None),
        ];
        for (text, expected) in table {
            let parsed = Url::parse(text).ok().map(|url| (url.authority, url.target));
            assert_eq!(parsed, expected.map(|(authority, target)| (authority.to_owned(), target.to_owned())), "{text}");
        }
    }
}
