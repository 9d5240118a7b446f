//! The smallest client that can tell what a server answered: raw bytes out, one response in.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Longer than any deadline of the server, so that a silent server fails a check instead of hanging it.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name (lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(candidate, _)| candidate == name).map(|(_, value)| value.as_str())
    }
}

/// A connection to the port on 127.0.0.1.
pub fn connect(port: u16) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|error| format!("port {port}: {error}"))?;
    stream.set_read_timeout(Some(READ_TIMEOUT)).map_err(|error| format!("port {port}: {error}"))?;
    Ok(stream)
}

/// One kept-alive connection.
pub struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects to the port on 127.0.0.1.
    pub fn connect(port: u16) -> Result<Client, String> {
        connect(port).map(|stream| Client { stream })
    }

    /// One request and its response. `headers` and `body` are put in as they are.
    pub fn request(&mut self, method: &str, target: &str, headers: &str, body: &str) -> Result<Response, String> {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}{length}\r\n{body}");
        self.stream.write_all(request.as_bytes()).map_err(|error| format!("sending: {error}"))?;
        read_response(&self.stream, method == "HEAD")
    }
}

impl Client {
    /// Sends bytes as they are and reads one response.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Response, String> {
        self.stream.write_all(request).map_err(|error| format!("sending: {error}"))?;
        read_response(&self.stream, request.starts_with(b"HEAD "))
    }

    /// Waits until the other side ends the connection, with nothing more said.
    pub fn wait_for_end(&mut self, within: Duration) -> Result<(), String> {
        self.stream.set_read_timeout(Some(within)).map_err(|error| format!("a timeout: {error}"))?;
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err("something was said that nobody asked for".to_owned()),
            Err(error) => Err(format!("no end: {error}")),
        }
    }
}

/// Sends `request` on a connection of its own and reads one response.
pub fn exchange(port: u16, request: &[u8]) -> Result<Response, String> {
    let mut stream = connect(port)?;
    stream.write_all(request).map_err(|error| format!("sending: {error}"))?;
    read_response(&stream, request.starts_with(b"HEAD "))
}

/// Reads one response; `head_only` when it answers a HEAD request.
pub fn read_response(stream: impl Read, head_only: bool) -> Result<Response, String> {
    let mut reader = BufReader::new(stream);
    let status_line = read_line(&mut reader)?;
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("no status line: {status_line:?}"))?;
    let mut response = Response { status, headers: Vec::new(), body: Vec::new() };
    loop {
        let line = read_line(&mut reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| format!("no header line: {line:?}"))?;
        response.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if !head_only && !matches!(status, 100..=199 | 204 | 304) {
        let length = response.header("content-length").and_then(|length| length.parse().ok());
        let length = length.ok_or_else(|| format!("status {status} without Content-Length"))?;
        response.body = vec![0; length];
        reader.read_exact(&mut response.body).map_err(|error| format!("body of status {status}: {error}"))?;
    }
    Ok(response)
}

fn read_line(reader: &mut impl BufRead) -> Result<String, String> {
    let mut line = String::new();
    reader.read_line(&mut line).map_err(|error| format!("reading a response: {error}"))?;
    line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| format!("the answer ends within a line: {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_read_to_their_end() {
        let bytes = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nX-Y:  z \r\n\r\n{}rest";
        let response = read_response(&bytes[..], false).expect("a response");
        assert_eq!((response.status, response.header("x-y"), &response.body[..]), (404, Some("z"), &b"{}"[..]));
        assert_eq!(read_response(&bytes[..], true).expect("a head").body, b"");
        let unmodified = read_response(&b"HTTP/1.1 304 Not Modified\r\n\r\n"[..], false).expect("no body");
        assert_eq!(unmodified.status, 304);
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        for bytes in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 5",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"SSH-2.0\r\n\r\n",
        ] {
            assert!(read_response(bytes, false).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
