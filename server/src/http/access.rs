//! What the access log is made of: a shard picks requests and puts a fixed-size record of each into its ring; the other
//! side of the ring puts them into words. A full ring drops the record and counts it: a slow disk slows nobody.
//!
//! Picked are all that are refused (400 and above) and one in so many of the others. A request that is not picked costs a
//! subtraction, equal ones that are answered at once cost one together.
//!
//! An answer is made where the request line is no longer known, and a deferred one long after it. So there are two steps:
//! [`Access::answered`] notes an answer that is due, and the connection, which has the line or has kept it, takes it from
//! there and calls [`Access::record`] before the next is noted.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use memchr::memchr2;
use rtrb::Producer;

use crate::counters::Count;
use crate::http::reject::Reject;
use crate::http::syntax::is_token;
use crate::limits::{ACCESS_METHOD_BYTES_MAX, ACCESS_TARGET_BYTES_MAX};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Unix milliseconds at which it was answered, at most [`crate::limits::TICK_MS`] behind.
    pub at_ms: u64,
    /// Who asked; `None` where the socket did not tell any more. Port 0 where a proxy has named the address.
    pub client: Option<SocketAddr>,
    /// What was asked.
    pub line: RequestLine,
    /// How it was answered.
    pub answer: Answer,
}

/// What is known of a request line. Never a byte of anything else: the values of fields are nobody's to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestLine {
    /// A token; empty where nothing was understood.
    pub method: ArrayVec<u8, ACCESS_METHOD_BYTES_MAX>,
    /// Path and query as they were sent, any bytes; empty where they are not known.
    pub target: ArrayVec<u8, ACCESS_TARGET_BYTES_MAX>,
    /// The target goes on.
    pub is_truncated: bool,
    /// Both digits of `HTTP/1.1`.
    pub version: Option<[u8; 2]>,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Bytes of one answer's body, 0 for HEAD.
    pub body_bytes: u64,
    /// Equal requests that were answered at once, with this one; at least 1.
    pub requests: u64,
    /// The last segment of the problem's type, of one that was refused.
    pub problem: Option<&'static str>,
    /// It stands for so many; 0 for one that is here because it was refused.
    pub sample: u32,
}

impl Answer {
    /// One answer that is no refusal.
    pub fn good(status: u16, body_bytes: u64) -> Answer {
        Answer { status, body_bytes, requests: 1, problem: None, sample: 0 }
    }

    /// One that is.
    pub fn refused(reject: Reject, body_bytes: u64) -> Answer {
        Answer { problem: Some(Reject::slug(reject.index())), ..Answer::good(reject.status(), body_bytes) }
    }
}

impl RequestLine {
    /// Reads what the first line of `input` says, however it goes on: a head that was refused or has not come whole too.
    ///
    /// Nothing is taken from a line that does not begin with a method, and no target that neither begins as one nor is
    /// followed by a version: what else may stand there (a field, a body, another protocol) may be secret.
    pub fn of(input: &[u8]) -> RequestLine {
        let input = input.strip_prefix(b"\r\n").unwrap_or(input);
        let line = memchr2(b'\r', b'\n', input).map_or(input, |end| &input[..end]);
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (method, target, version) = (words.next().unwrap_or_default(), words.next(), words.next());
        let version = version.and_then(version_of);
        let mut known = RequestLine { version, ..RequestLine::default() };
        // A method that has no space behind it yet may be anything.
        let Some(target) = target.filter(|_| is_token(method) && method.len() <= ACCESS_METHOD_BYTES_MAX) else {
            return RequestLine::default();
        };
        known.method.extend(method.iter().copied());
        if matches!(target.first(), Some(b'/' | b'*')) || version.is_some() {
            let target = without_authority(target);
            let kept = &target[..target.len().min(ACCESS_TARGET_BYTES_MAX)];
            known.target.extend(kept.iter().copied());
            known.is_truncated = kept.len() < target.len();
        }
        known
    }
}

fn version_of(word: &[u8]) -> Option<[u8; 2]> {
    match word {
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => Some([*major, *minor]),
        _ => None,
    }
}

/// Path and query of an absolute URI, whose authority may hold a password; host and port of a bare authority.
fn without_authority(target: &[u8]) -> &[u8] {
    if matches!(target.first(), Some(b'/' | b'*')) {
        return target;
    }
    match target.windows(3).position(|bytes| bytes == b"://") {
        Some(colon) => {
            let behind = &target[colon + 3..];
            memchr2(b'/', b'?', behind).map_or(b"/", |path| &behind[path..])
        }
        None => memchr::memrchr(b'@', target).map_or(target, |at| &target[at + 1..]),
    }
}

/// One shard's side of the log.
pub struct Access {
    /// Requests until the next is picked; 0 < left between two answers. Out of reach where none is.
    left: i64,
    /// One request in so many is picked; 0 picks none.
    sample: u32,
    /// An answer that is to be recorded.
    due: Option<Answer>,
    /// `None`: there is no log.
    ring: Option<Producer<Record>>,
    /// By the number of the connection. In here, and not with each connection, whose size would grow for nothing.
    clients: Vec<Option<SocketAddr>>,
}

/// More requests than any process answers.
const NEVER: i64 = i64::MAX;

impl Access {
    /// No log: nothing is picked.
    pub fn off() -> Access {
        Access { left: NEVER, sample: 0, due: None, ring: None, clients: Vec::new() }
    }

    /// Records go into `ring`: one request in `sample` (0: none), and all that are refused.
    pub fn new(ring: Producer<Record>, sample: u32) -> Access {
        let left = if sample == 0 { NEVER } else { i64::from(sample) };
        Access { left, sample, ring: Some(ring), ..Access::off() }
    }

    /// Whether there is a log.
    pub fn is_on(&self) -> bool {
        self.ring.is_some()
    }

    /// Who has the connection with this number from here on.
    pub fn set_client(&mut self, number: u32, client: Option<SocketAddr>) {
        let at = number as usize;
        if self.clients.len() <= at {
            self.clients.resize(at + 1, None);
        }
        self.clients[at] = client;
    }

    /// A proxy has named who has the connection with this number; the port there is not known.
    #[cold]
    pub fn name_client(&mut self, number: u32, address: IpAddr) {
        if self.is_on() {
            self.set_client(number, Some(SocketAddr::new(address, 0)));
        }
    }

    /// Counts `times` equal requests, answered at once; whether one of them is picked.
    #[inline]
    pub fn picks(&mut self, times: u64) -> bool {
        // A turn answers fewer than a million.
        self.left -= times as i64;
        self.left <= 0 && self.begin_next()
    }

    #[cold]
    fn begin_next(&mut self) -> bool {
        let sample = i64::from(self.sample);
        if sample == 0 {
            self.left = NEVER;
            return false;
        }
        // What was answered past the one that is picked counts for the next. Several that were due at once are one.
        self.left = sample + self.left % sample;
        true
    }

    /// A request has been answered; notes it when it is to be recorded.
    #[inline]
    pub fn answered(&mut self, answer: Answer) {
        let is_picked = self.picks(1);
        if is_picked || answer.status >= 400 {
            self.note(answer, is_picked);
        }
    }

    #[cold]
    fn note(&mut self, answer: Answer, is_picked: bool) {
        debug_assert!(self.due.is_none(), "the one before is taken first");
        if self.is_on() {
            let sample = if is_picked && answer.status < 400 { self.sample } else { 0 };
            self.due = Some(Answer { sample, ..answer });
        }
    }

    /// A good answer to `requests` of which one was picked.
    pub fn note_picked(&mut self, answer: Answer, requests: u64) {
        self.note(Answer { requests, ..answer }, true);
    }

    /// Whether an answer waits to be recorded.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.due.is_some()
    }

    /// The answer that is to be recorded.
    pub fn take_due(&mut self) -> Option<Answer> {
        self.due.take()
    }

    /// Puts a record into the ring, or counts it in `dropped` when that is full. Allocates nothing.
    #[cold]
    pub fn record(&mut self, number: u32, line: &RequestLine, answer: Answer, at_ms: u64, dropped: &Count) {
        let client = self.clients.get(number as usize).copied().flatten();
        if let Some(ring) = &mut self.ring
            && ring.push(Record { at_ms, client, line: line.clone(), answer }).is_err()
        {
            dropped.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use rtrb::RingBuffer;

    use super::*;

    fn access(sample: u32) -> Access {
        Access::new(RingBuffer::new(4).0, sample)
    }

    #[test]
    fn one_in_so_many_is_picked_whatever_comes_at_once() {
        for sample in [1, 2, 7, 1_024] {
            for times in [1, 3, 80, 1_024, 5_000] {
                let mut access = access(sample);
                let batches = 20_000;
                let picked = (0..batches).filter(|_| access.picks(times)).count() as u64;
                let due = (batches * times / u64::from(sample)).min(batches);
                assert!(picked.abs_diff(due) <= 1, "1 in {sample}, {times} at once: {picked} of {due}");
            }
        }
    }

    #[test]
    fn refusals_are_all_due_and_good_answers_when_they_are_picked() {
        let due = |access: &mut Access, status| {
            access.answered(Answer::good(status, 5));
            access.take_due().map(|answer| answer.sample)
        };
        let mut third = access(3);
        let answers = [200, 200, 200, 404, 503, 200, 202, 304, 400];
        let expected = [None, None, Some(3), Some(0), Some(0), Some(3), None, None, Some(0)];
        assert_eq!(answers.map(|status| due(&mut third, status)), expected, "a refusal that is picked is no sample");
        let mut errors = access(0);
        assert!((0..10_000).all(|_| due(&mut errors, 200).is_none() && due(&mut errors, 401) == Some(0)));
        let mut off = Access::off();
        assert!((0..10_000).all(|_| due(&mut off, 200).is_none() && due(&mut off, 500).is_none()));
    }

    #[test]
    fn a_full_ring_drops_and_counts() {
        let (producer, mut consumer) = RingBuffer::new(2);
        let (mut access, dropped) = (Access::new(producer, 1), Count::default());
        let client = "[2001:db8::7]:4711".parse().ok();
        access.set_client(3, client);
        let line = RequestLine::of(b"GET / HTTP/1.1\r\n");
        let mut record = |status| access.record(3, &line, Answer::good(status, 0), 9, &dropped);
        [200, 201, 202, 203].into_iter().for_each(&mut record);
        assert_eq!(dropped.get(), 2);
        let expected = |status| Record { at_ms: 9, client, line: line.clone(), answer: Answer::good(status, 0) };
        assert_eq!([consumer.pop(), consumer.pop()].map(Result::unwrap), [expected(200), expected(201)]);
        record(204);
        assert_eq!((consumer.pop(), dropped.get()), (Ok(expected(204)), 2), "it goes on when there is room");
    }

    #[test]
    fn request_lines() {
        let long = format!("/{}", "a".repeat(127));
        let over = format!("{long}b");
        let table: [(&str, &str, &str, Option<&str>); 19] = [
            ("GET /todos?limit=1 HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/todos?limit=1", Some("11")),
            ("\r\nHEAD / HTTP/1.0\r\n", "HEAD", "/", Some("10")),
            ("OPTIONS * HTTP/1.1\r\n", "OPTIONS", "*", Some("11")),
            ("GET / HTTP/2.0\r\n", "GET", "/", Some("20")),
            ("GET todos HTTP/1.1\r\n", "GET", "todos", Some("11")),
            // Begun, or cut short.
            ("GET /tod", "GET", "/tod", None),
            ("GET /a\nX: secret", "GET", "/a", None),
            ("GET /a\rX: secret", "GET", "/a", None),
            ("GET /a b secret\r\n", "GET", "/a", None),
            ("GET", "", "", None),
            // No request lines.
            ("", "", "", None),
            ("Authorization: Bearer secret\r\n", "", "", None),
            ("Bearer secret\r\n", "Bearer", "", None),
            ("\u{16}\u{3}\u{1} /secret HTTP/1.1", "", "", None),
            ("AMETHODTHATISLONG / HTTP/1.1\r\n", "", "", None),
            // Without the authority, and what it may hold.
            ("GET http://me:secret@a/b?c HTTP/1.1\r\n", "GET", "/b?c", Some("11")),
            ("GET http://me:secret@a HTTP/1.1\r\n", "GET", "/", Some("11")),
            ("GET http://me:secret@a?b HTTP/1.1\r\n", "GET", "?b", Some("11")),
            ("CONNECT me:secret@a:443 HTTP/1.1\r\n", "CONNECT", "a:443", Some("11")),
        ];
        for (input, method, target, version) in table {
            check(input, method, target, false, version);
        }
        check(&format!("GET {long} HTTP/1.1\r\n"), "GET", &long, false, Some("11"));
        check(&format!("GET {over} HTTP/1.1\r\n"), "GET", &long, true, Some("11"));
    }

    fn check(input: &str, method: &str, target: &str, is_truncated: bool, version: Option<&str>) {
        let line = RequestLine::of(input.as_bytes());
        let digits = version.map(|digits| <[u8; 2]>::try_from(digits.as_bytes()).expect("two"));
        assert_eq!((&*line.method, &*line.target), (method.as_bytes(), target.as_bytes()), "{input}");
        assert_eq!((line.is_truncated, line.version), (is_truncated, digits), "{input}");
        assert!(!String::from_utf8_lossy(&line.target).contains("secret"), "{input}");
    }
}
