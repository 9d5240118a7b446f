//! Finds the responses in a stream of bytes: pure, no I/O.
//!
//! ```text
//! for each response:
//!     are the next bytes the head that was read last?  then its length is known: skip head and body
//!     else parse the head for real, check it, and remember it
//! ```
//!
//! Every head is looked at, byte by byte, by one comparison. Only Date and `ETag` change in a server's list head, so the
//! real parse runs once a second, and once per connection after each write.

use crate::limits::RESPONSE_HEAD_BYTES_MAX;

/// What a server did wrong on a connection. The connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// No HTTP/1.1 response head begins here: the response before it had another length than it said.
    #[error("no HTTP/1.1 response head where one must begin")]
    Malformed,
    /// Another status than the one expected.
    #[error("status {0}")]
    Status(u16),
    /// No single, decimal Content-Length.
    #[error("no usable Content-Length")]
    NoLength,
    /// The head does not end within the bound.
    #[error("response head over {RESPONSE_HEAD_BYTES_MAX} bytes")]
    HeadTooLarge,
    /// A Content-Length beside a Transfer-Encoding (RFC 9112, 6.3).
    #[error("Content-Length beside Transfer-Encoding")]
    TwoLengths,
    /// A Transfer-Encoding that is not plainly `chunked`.
    #[error("a Transfer-Encoding other than chunked")]
    Coding,
    /// A chunk without a size, or that does not end where its size says.
    #[error("a malformed chunk")]
    Chunk,
    /// A 101 that nobody asked for.
    #[error("an upgrade that nobody asked for")]
    Upgrade,
    /// `Connection: close` where the connection was to be kept.
    #[error("the server announced that it closes")]
    Closing,
}

/// What a complete response head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// 100 to 999.
    pub status: u16,
    /// Bytes of the head, the empty line included.
    pub head_bytes: usize,
    /// Content-Length.
    pub body_bytes: usize,
    /// `Connection: close` was said.
    pub closes: bool,
}

/// Parses the head at the front of `bytes`; `None` while it is incomplete.
pub fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() > RESPONSE_HEAD_BYTES_MAX => return Err(Fault::HeadTooLarge),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Fault::Malformed),
    };
    if head_bytes > RESPONSE_HEAD_BYTES_MAX {
        return Err(Fault::HeadTooLarge);
    }
    let mut lengths = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = lengths.next().and_then(|header| decimal(header.value));
    let chunked = response.headers.iter().any(|header| header.name.eq_ignore_ascii_case("transfer-encoding"));
    let (Some(body_bytes), None, false) = (length, lengths.next(), chunked) else { return Err(Fault::NoLength) };
    let closes = response
        .headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("connection") && header.value.eq_ignore_ascii_case(b"close"));
    match (response.version, response.code) {
        (Some(1), Some(status)) => Ok(Some(Head { status, head_bytes, body_bytes, closes })),
        _ => Err(Fault::Malformed),
    }
}

/// Who wants to see bodies; [`Unseen`] does not, and then they are not even copied where that pays.
pub trait Bodies {
    /// Whether the bytes of bodies are needed at all.
    const WANTED: bool;
    /// What follows belongs to this connection, whose current block left at `sent_ns`.
    fn select(&mut self, connection_index: usize, sent_ns: u64);
    /// The next bytes of the current body.
    fn fragment(&mut self, bytes: &[u8]);
    /// The current body is complete.
    fn end(&mut self);
}

/// Skips bodies.
pub struct Unseen;

impl Bodies for Unseen {
    const WANTED: bool = false;
    fn select(&mut self, _connection_index: usize, _sent_ns: u64) {}
    fn fragment(&mut self, _bytes: &[u8]) {}
    fn end(&mut self) {}
}

/// The last head that was parsed, shared by all connections of a thread.
pub struct KnownHead {
    status_expected: u16,
    head: Vec<u8>,
    body_bytes: usize,
}

impl KnownHead {
    /// Nothing learned yet; every response must have this status.
    pub fn new(status_expected: u16) -> KnownHead {
        KnownHead { status_expected, head: Vec::new(), body_bytes: 0 }
    }

    /// Content-Length of the responses seen last; 0 before the first.
    pub fn body_bytes(&self) -> usize {
        self.body_bytes
    }

    fn matches(&self, input: &[u8]) -> bool {
        !self.head.is_empty() && input.starts_with(&self.head)
    }

    #[cold]
    fn learn(&mut self, head: &Head, bytes: &[u8]) -> Result<(), Fault> {
        if head.status != self.status_expected {
            return Err(Fault::Status(head.status));
        }
        if head.closes {
            return Err(Fault::Closing);
        }
        self.head.clear();
        self.head.extend_from_slice(bytes);
        self.body_bytes = head.body_bytes;
        Ok(())
    }
}

/// Where one connection stands in its stream of responses.
#[derive(Default)]
pub struct Scanner {
    /// Bytes of the current body that have not come; 0 between responses.
    body_remaining: usize,
    /// The front of a head that came in pieces; empty when none did.
    head_front: Vec<u8>,
}

impl Scanner {
    /// Takes the next bytes of the stream; the number of responses that became complete.
    pub fn scan<B: Bodies>(&mut self, known: &mut KnownHead, mut input: &[u8], bodies: &mut B) -> Result<usize, Fault> {
        let mut completed = 0;
        loop {
            if self.body_remaining > 0 {
                let (body, rest) = input.split_at(self.body_remaining.min(input.len()));
                bodies.fragment(body);
                input = rest;
                self.body_remaining -= body.len();
                if self.body_remaining > 0 {
                    return Ok(completed);
                }
                bodies.end();
                completed += 1;
            }
            let response_bytes = known.head.len() + known.body_bytes;
            while self.head_front.is_empty() && input.len() >= response_bytes && known.matches(input) {
                bodies.fragment(&input[known.head.len()..response_bytes]);
                bodies.end();
                completed += 1;
                input = &input[response_bytes..];
            }
            if input.is_empty() {
                return Ok(completed);
            }
            let Some(taken) = self.take_head(known, input)? else { return Ok(completed) };
            input = &input[taken..];
            if self.body_remaining == 0 {
                bodies.end();
                completed += 1;
            }
        }
    }

    /// `bytes_count` bytes of the current body were dropped unseen; whether that completed the response.
    pub fn skip(&mut self, bytes_count: usize) -> bool {
        debug_assert!(bytes_count <= self.body_remaining);
        self.body_remaining -= bytes_count;
        self.body_remaining == 0
    }

    /// Bytes of the current body that have not come.
    pub fn body_remaining(&self) -> usize {
        self.body_remaining
    }

    /// Takes a head and begins its body: the bytes of `input` it used, or `None` when the head is incomplete.
    fn take_head(&mut self, known: &mut KnownHead, input: &[u8]) -> Result<Option<usize>, Fault> {
        if self.head_front.is_empty() && known.matches(input) {
            self.body_remaining = known.body_bytes;
            return Ok(Some(known.head.len()));
        }
        let front_bytes = self.head_front.len();
        let room = RESPONSE_HEAD_BYTES_MAX + 1 - front_bytes;
        self.head_front.extend_from_slice(&input[..input.len().min(room)]);
        let Some(head) = parse_head(&self.head_front)? else { return Ok(None) };
        known.learn(&head, &self.head_front[..head.head_bytes])?;
        self.head_front.clear();
        self.body_remaining = head.body_bytes;
        // The head ends in `input`, or it would have been complete before.
        Ok(Some(head.head_bytes - front_bytes))
    }
}

/// A length in plain digits.
pub(crate) fn decimal(bytes: &[u8]) -> Option<usize> {
    let digits = !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    if digits { std::str::from_utf8(bytes).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(date: &str, body: &str) -> Vec<u8> {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nDate: {date}\r\n\r\n{body}")
            .into_bytes()
    }

    #[derive(Default)]
    struct Collected {
        current: Vec<u8>,
        complete: Vec<Vec<u8>>,
    }

    impl Bodies for Collected {
        const WANTED: bool = true;
        fn select(&mut self, _connection_index: usize, _sent_ns: u64) {}
        fn fragment(&mut self, bytes: &[u8]) {
            self.current.extend_from_slice(bytes);
        }
        fn end(&mut self) {
            self.complete.push(std::mem::take(&mut self.current));
        }
    }

    /// Bodies seen when the stream comes in the given pieces.
    fn bodies_of(pieces: &[&[u8]]) -> Result<Vec<Vec<u8>>, Fault> {
        let (mut scanner, mut known, mut bodies) = (Scanner::default(), KnownHead::new(200), Collected::default());
        let mut completed = 0;
        for piece in pieces {
            completed += scanner.scan(&mut known, piece, &mut bodies)?;
        }
        assert_eq!(completed, bodies.complete.len());
        Ok(bodies.complete)
    }

    #[test]
    fn every_split_equals_the_whole() {
        // Equal heads, a new date, another length, an empty body: each way through the loop.
        let bodies = ["[1]", "[1]", "[2]", "", "", "[1234567890]", "[1]"];
        let dates = ["a", "a", "b", "b", "b", "c", "a"];
        let stream: Vec<u8> = dates.iter().zip(bodies).flat_map(|(date, body)| response(date, body)).collect();
        let whole = bodies_of(&[&stream]).unwrap();
        assert_eq!(whole, bodies.map(|body| body.as_bytes().to_vec()));
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(bodies_of(&pieces).unwrap(), whole, "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn faults() {
        let ok = String::from_utf8(response("a", "[1]")).unwrap();
        let table = [
            ("body longer than said", format!("{ok}x{ok}"), Fault::Malformed),
            ("body shorter than said", format!("{}{ok}{ok}", &ok[..ok.len() - 1]), Fault::Malformed),
            ("other status", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), Fault::Status(404)),
            ("no length", "HTTP/1.1 200 OK\r\n\r\n".into(), Fault::NoLength),
            ("signed length", "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n".into(), Fault::NoLength),
            (
                "two lengths",
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n".into(),
                Fault::NoLength,
            ),
            ("chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), Fault::NoLength),
            ("closing", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into(), Fault::Closing),
            ("1.0", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".into(), Fault::Malformed),
            ("endless head", format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(9000)), Fault::HeadTooLarge),
            (
                "long head",
                format!("HTTP/1.1 200 OK\r\nA: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(9000)),
                Fault::HeadTooLarge,
            ),
        ];
        for (name, stream, expected) in table {
            assert_eq!(bodies_of(&[stream.as_bytes()]), Err(expected), "{name}");
        }
    }

    #[test]
    fn skipped_bodies_count() {
        let (mut scanner, mut known) = (Scanner::default(), KnownHead::new(200));
        let whole = response("a", "0123456789");
        let head_only = &whole[..whole.len() - 10];
        assert_eq!(scanner.scan(&mut known, head_only, &mut Unseen), Ok(0));
        assert_eq!((scanner.body_remaining(), known.body_bytes()), (10, 10));
        assert!(!scanner.skip(4));
        assert!(scanner.skip(6));
        assert_eq!(scanner.scan(&mut known, &whole, &mut Unseen), Ok(1));
    }
}
