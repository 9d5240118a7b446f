//! The requests that are sent, and where to.

use crate::error::{Error, Result};
use crate::headers::is_token_byte;
use crate::limits::SINGLE_REQUEST_TIMEOUT;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};

/// A parsed `http://host:port/path?query`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Host and port as written: what Host says.
    pub host: String,
    /// Host and port; port 80 when none is written.
    pub authority: String,
    /// Path and query; `/` when there is no path.
    pub target: String,
}

impl Url {
    /// Only plain `http`, no user information, no fragment.
    pub fn parse(text: &str) -> Result<Url> {
        let refuse = |why: &str| Error::Unusable(format!("{text}: {why}"));
        if text.starts_with("https://") {
            return Err(refuse("TLS is not spoken: load the server behind whatever ends it"));
        }
        let rest = text.strip_prefix("http://").ok_or_else(|| refuse("the address must begin with http://"))?;
        let (host, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if host.is_empty() || host.contains('@') {
            return Err(refuse("a host, and no user, is needed"));
        }
        // A colon belongs to an IPv6 address up to its bracket, and to the port behind it.
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        if name.contains(':') && !(name.starts_with('[') && name.ends_with(']')) {
            return Err(refuse("an IPv6 address is written in brackets, http://[::1]:8080/"));
        }
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_[:]".contains(&byte)) {
            return Err(refuse("the host is no name and no address"));
        }
        if port.is_some_and(|port| !matches!(port.parse::<u16>(), Ok(1..)) || port.starts_with('+')) {
            return Err(refuse("the port is no number from 1 to 65535"));
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        check_target(&target).map_err(|error| refuse(&error.to_string()))?;
        let authority = if port.is_some() { host.to_owned() } else { format!("{host}:80") };
        Ok(Url { host: host.to_owned(), authority, target })
    }

    /// Connects to the first of the host's addresses that takes a connection: `localhost` is `::1` too, where a server
    /// often does not listen.
    pub fn reach(&self) -> Result<(SocketAddr, TcpStream)> {
        let addresses = self.authority.to_socket_addrs().map_err(|error| {
            Error::Unusable(format!("{}: {error}: is the name right, and does this machine know it?", self.authority))
        })?;
        let mut refused = Vec::new();
        for address in addresses {
            match TcpStream::connect_timeout(&address, SINGLE_REQUEST_TIMEOUT) {
                Ok(socket) => return Ok((address, socket)),
                Err(error) => refused.push(format!("{address}: {error}")),
            }
        }
        Err(Error::Unusable(format!(
            "{} takes no connection ({}): is the server running, and is this its port?",
            self.authority,
            refused.join("; ")
        )))
    }
}

/// What follows the method in a request line.
///
/// # Errors
/// It does not begin with a slash, or holds what a request line cannot.
pub fn check_target(target: &str) -> Result<()> {
    let refuse = |why: &str| Err(Error::Unusable(format!("{target}: {why}")));
    if !target.starts_with('/') {
        return refuse("a path begins with /");
    }
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return refuse("the path holds what a request line cannot: percent-encode it, and leave out a #fragment");
    }
    Ok(())
}

/// A GET of nothing but what HTTP/1.1 demands.
pub fn get(authority: &str, target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: {authority}\r\n\r\n").into_bytes()
}

/// A complete request with these field lines, each with its CRLF, and a body. `host` is what Host says, unless a line is one.
///
/// # Errors
/// A method that is no token, or CONNECT.
pub fn with(method: &str, host: &str, target: &str, field_lines: &str, body: Option<&[u8]>) -> Result<Vec<u8>> {
    if method.is_empty() || !method.bytes().all(is_token_byte) {
        return Err(Error::Unusable(format!("{method}: a method is a word such as GET or POST")));
    }
    if method == "CONNECT" {
        return Err(Error::Unusable("CONNECT: its answers end nowhere; not supported".into()));
    }
    let has_host = field_lines.lines().any(|line| line.get(..5).is_some_and(|name| name.eq_ignore_ascii_case("host:")));
    let host_line = if has_host { String::new() } else { format!("Host: {host}\r\n") };
    let length = body.map_or(String::new(), |body| format!("Content-Length: {}\r\n", body.len()));
    let mut request = format!("{method} {target} HTTP/1.1\r\n{host_line}{field_lines}{length}\r\n").into_bytes();
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
        let elsewhere = with("HEAD", "host:80", "/x", "host: b\r\nA: 1\r\n", None).unwrap();
        assert_eq!(elsewhere, b"HEAD /x HTTP/1.1\r\nhost: b\r\nA: 1\r\n\r\n");
        for method in ["", "GET /", "CONNECT"] {
            assert!(with(method, "host:80", "/x", "", None).is_err(), "{method}");
        }
    }

    #[test]
    fn the_address_that_listens_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let url = Url::parse(&format!("http://localhost:{}/a", address.port())).unwrap();
        assert_eq!(url.reach().unwrap().0, address);
        drop(listener);
        let error = url.reach().unwrap_err().to_string();
        assert!(error.contains("refused") && error.contains("is the server running"), "{error}");
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
            ("http://host?limit=1", Some(("host:80", "/?limit=1"))),
            ("http://[::1]", Some(("[::1]:80", "/"))),
            ("http://::1:8080/", None),
            ("http://host:/", None),
            ("http://host:0/", None),
            ("http://host:65536/", None),
            ("http://host:+1/", None),
            ("http://:80/", None),
            ("http://ho st/", None),
            ("http://host/\u{e4}", None),
            ("host/a", None),
        ];
        for (text, expected) in table {
            let parsed = Url::parse(text).ok().map(|url| (url.authority, url.target));
            assert_eq!(parsed, expected.map(|(authority, target)| (authority.to_owned(), target.to_owned())), "{text}");
        }
    }
}
