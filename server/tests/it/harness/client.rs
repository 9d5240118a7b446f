//! A client that sends bytes as it is told to and reads answers without forgiving anything.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::PATIENCE;

/// One connection.
pub struct Client {
    stream: TcpStream,
    received: VecDeque<u8>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// The status line and every field line, each without its CRLF.
    pub lines: Vec<String>,
    pub body: Vec<u8>,
}

/// How a connection was found when nothing more was to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// The server has ended its side.
    Closed,
    /// The server has reset the connection.
    Reset,
    /// It is open, and nothing came in the time given.
    Open,
}

impl Client {
    /// Connects to `address`.
    pub fn connect(address: SocketAddr) -> Client {
        Client::from_stream(TcpStream::connect_timeout(&address, PATIENCE).expect("the server accepts"))
    }

    /// Connects from another address of this machine.
    pub fn connect_from(source: impl Into<IpAddr>, address: SocketAddr) -> Client {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(source.into(), 0).into()).expect("an address of this machine");
        socket.connect_timeout(&address.into(), PATIENCE).expect("the server accepts");
        Client::from_stream(socket.into())
    }

    /// Connects with a receive buffer of about `bytes`: the kernel takes little ahead of what is read.
    pub fn with_receive_buffer(address: SocketAddr, bytes: usize) -> Client {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("a buffer size");
        socket.connect_timeout(&address.into(), PATIENCE).expect("the server accepts");
        Client::from_stream(socket.into())
    }

    fn from_stream(stream: TcpStream) -> Client {
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Client { stream, received: VecDeque::new() }
    }

    /// Sends bytes as they are; the server must take them.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Sends bytes to a server that may have gone; whether it took them.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write_all(bytes) {
            Ok(()) => true,
            Err(error) if is_end(&error) => false,
            Err(error) => panic!("neither taken nor refused: {error}"),
        }
    }

    /// Sends what the server takes without being read from; how many bytes that was. Ends when nothing was taken for
    /// `silence`.
    pub fn send_until_blocked(&mut self, bytes: &[u8], silence: Duration) -> usize {
        self.stream.set_write_timeout(Some(silence)).expect("a timeout");
        let mut taken = 0;
        while let Ok(count @ 1..) = self.stream.write(&bytes[taken % bytes.len()..]) {
            taken += count;
        }
        taken
    }

    /// Sends a request and reads its answer. It must be the only one.
    pub fn ask(&mut self, request: &[u8]) -> Response {
        self.send(request);
        let response = self.response(request.starts_with(b"HEAD "));
        assert!(self.received.is_empty(), "one request has one answer");
        response
    }

    /// Reads one answer; `to_head` when it answers a HEAD request, so that its length speaks of a body that is not there.
    pub fn response(&mut self, to_head: bool) -> Response {
        let lines = self.head();
        let mut response = Response { status: status(&lines[0]), lines, body: Vec::new() };
        response.check_head();
        let has_body = !to_head && response.status >= 200 && !matches!(response.status, 204 | 304);
        if has_body {
            let length = response.length().expect("a body has a length");
            response.body = self.bytes(length);
        }
        response
    }

    /// Reads one answer, or finds that the connection was ended instead; one that is cut off is no answer.
    pub fn try_response(&mut self) -> Option<Response> {
        let mut buffer = [0; 16 * 1024];
        loop {
            if let Some((response, length)) = whole_response(self.received.make_contiguous()) {
                self.received.drain(..length);
                return Some(response);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.received.extend(&buffer[..count]),
                Err(error) if is_end(&error) => return None,
                Err(error) => panic!("neither an answer nor an end: {error}"),
            }
        }
    }

    /// Reads `count` answers to anything but HEAD.
    pub fn responses(&mut self, count: usize) -> Vec<Response> {
        (0..count).map(|_| self.response(false)).collect()
    }

    /// Reads a head alone: what follows is read by [`Client::bytes`].
    pub fn head(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                assert!(!lines.is_empty(), "a head begins with a status line");
                return lines;
            }
            lines.push(line);
        }
    }

    /// Reads exactly `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            assert!(self.fill() > 0, "the connection ended {} bytes early", count - self.received.len());
        }
        self.received.drain(..count).collect()
    }

    /// Reads at most `count` bytes, as many as one read brings.
    pub fn some_bytes(&mut self, count: usize) -> std::io::Result<usize> {
        assert!(self.received.is_empty(), "not behind a whole answer");
        let mut buffer = vec![0; count];
        self.stream.read(&mut buffer)
    }

    /// Whether the first byte of an answer comes in time; it is not read.
    pub fn is_answered_within(&mut self, at_most: Duration) -> bool {
        self.stream.set_read_timeout(Some(at_most)).expect("a timeout");
        let is_answered = matches!(self.stream.peek(&mut [0]), Ok(1));
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        is_answered
    }

    /// Waits until the server ends the connection or `at_most` has passed; nothing may come before that.
    pub fn silence(&mut self, at_most: Duration) -> Silence {
        assert!(self.received.is_empty(), "nothing more was to come");
        self.stream.set_read_timeout(Some(at_most)).expect("a timeout");
        let mut byte = [0];
        let silence = match self.stream.read(&mut byte) {
            Ok(0) => Silence::Closed,
            Ok(_) => panic!("nothing more was to come, and byte {} came", byte[0]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Silence::Open,
            Err(error) if is_end(&error) => Silence::Reset,
            Err(error) => panic!("{error}"),
        };
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        silence
    }

    /// The server must end the connection, after nothing more.
    pub fn expect_close(&mut self) {
        assert_eq!(self.silence(PATIENCE), Silence::Closed);
    }

    /// Reads until the server ends the connection, however it does; how many bytes came.
    pub fn drain(&mut self) -> usize {
        let mut bytes = self.received.drain(..).count();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return bytes,
                Ok(count) => bytes += count,
                Err(error) if is_end(&error) => return bytes,
                Err(error) => panic!("neither bytes nor an end: {error}"),
            }
        }
    }

    /// Ends the client's side: nothing more will be sent.
    pub fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).expect("the connection is there");
    }

    /// Ends the connection with a reset, whatever is on its way.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).expect("the connection is there");
    }

    /// The bytes' other end, for a thread that writes while this one reads.
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().expect("a descriptor")
    }

    fn line(&mut self) -> String {
        let mut searched = 0;
        loop {
            if let Some(end) = self.received.iter().skip(searched).position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=searched + end).collect();
                let line = line.strip_suffix(b"\r\n").expect("a line ends in CRLF");
                assert!(line.iter().all(|byte| (0x20..0x7f).contains(byte)), "a line is visible ASCII");
                return String::from_utf8_lossy(line).into_owned();
            }
            searched = self.received.len();
            assert!(self.fill() > 0, "the connection ended within a head");
        }
    }

    fn fill(&mut self) -> usize {
        let mut buffer = [0; 64 * 1024];
        let count = self.stream.read(&mut buffer).expect("the server answers");
        self.received.extend(&buffer[..count]);
        count
    }
}

impl Response {
    /// The value of the field of that name, which may be there only once.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.lines[1..].iter().filter_map(|line| {
            let (field, value) = line.split_once(": ")?;
            field.eq_ignore_ascii_case(name).then_some(value)
        });
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice");
        value
    }

    /// Names of the fields, in their order.
    pub fn field_names(&self) -> Vec<&str> {
        self.lines[1..].iter().filter_map(|line| Some(line.split_once(": ")?.0)).collect()
    }

    /// `Content-Length`, which may be written in digits only.
    pub fn length(&self) -> Option<usize> {
        self.field("Content-Length").map(|digits| {
            assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{digits}");
            digits.parse().expect("a length")
        })
    }

    /// Whether the server says that it closes.
    pub fn closes(&self) -> bool {
        self.field("Connection") == Some("close")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// The sum of what `/metrics` has of a family, or, as `name{label="value"}`, of its series with these labels among
    /// theirs.
    pub fn metric(&self, wanted: &str) -> f64 {
        let text = std::str::from_utf8(&self.body).expect("text");
        let (wanted_name, wanted_labels) = name_and_labels(wanted);
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = name_and_labels(series);
            let is_it = name == wanted_name && wanted_labels.iter().all(|label| labels.contains(label));
            is_it.then(|| value.parse::<f64>().expect("a number"))
        });
        values.sum()
    }

    /// The `id` of a 202.
    pub fn accepted(&self) -> String {
        assert_eq!(self.status, 202, "{self}");
        self.json()["id"].as_str().expect("an id").to_owned()
    }

    /// The slug of the problem that this answer is about, every promise of a problem checked.
    pub fn problem(&self) -> String {
        assert_eq!(self.field("Content-Type"), Some("application/problem+json"), "{self}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self}");
        for member in ["title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {self}");
        }
        let slug = problem["type"].as_str().and_then(|slug| slug.strip_prefix("/problems/"));
        slug.unwrap_or_else(|| panic!("no type: {self}")).to_owned()
    }

    fn check_head(&self) {
        for line in &self.lines[1..] {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line}"));
            let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            assert!(is_token && !name.is_empty() && value == value.trim() && !value.is_empty(), "{line}");
        }
        assert_eq!(self.field("Transfer-Encoding"), None, "{self}");
        if self.status < 200 {
            assert_eq!(self.lines.len(), 1, "nothing beside an interim status: {self}");
            return;
        }
        let date = self.field("Date").expect("a final answer has a Date");
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
        if matches!(self.status, 204 | 304) {
            assert_eq!((self.field("Content-Length"), self.field("Content-Type")), (None, None), "{self}");
        }
    }
}

impl std::fmt::Display for Response {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let body = &self.body[..self.body.len().min(500)];
        write!(formatter, "{}\n\n{}", self.lines.join("\n"), String::from_utf8_lossy(body))
    }
}

fn status(line: &str) -> u16 {
    let code = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.split_once(' '));
    let code = code.and_then(|(code, reason)| (code.len() == 3 && !reason.is_empty()).then(|| code.parse().ok()));
    code.flatten().unwrap_or_else(|| panic!("no status line: {line}"))
}

/// The answer at the front of `bytes`, if all of it is there, and its length with its head.
fn whole_response(bytes: &[u8]) -> Option<(Response, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).expect("a head is ASCII");
    let lines: Vec<String> = head.split("\r\n").map(str::to_owned).collect();
    let mut response = Response { status: status(&lines[0]), lines, body: Vec::new() };
    response.check_head();
    let length = end + 4 + response.length().unwrap_or(0);
    response.body = bytes.get(end + 4..length)?.to_vec();
    Some((response, length))
}

/// Whether an error says that the other side has gone.
fn is_end(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Of `name{label="value",…}`. No value of a label has a comma.
fn name_and_labels(series: &str) -> (&str, Vec<&str>) {
    match series.strip_suffix('}').and_then(|series| series.split_once('{')) {
        Some((name, labels)) => (name, labels.split(',').collect()),
        None => (series, Vec::new()),
    }
}
