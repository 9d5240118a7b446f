//! Where one connection stands in the answers that come on it, however they are framed: pure, no I/O.
//!
//! ```text
//! head:  equal to the last one of the same request?  then it says the same;  else parse it
//!        1xx: another head follows
//! body:  none (HEAD, 204, 304), so many bytes, chunks and a trailer, or all until the server closes
//! ```
//!
//! `scan` does less and is faster: it takes whole answers of a Content-Length and nothing else.

use crate::limits::{CHUNK_LINE_BYTES_MAX, RESPONSE_HEAD_BYTES_MAX, RESPONSE_HEADERS_MAX};
use crate::scan::{Fault, decimal};

/// How a body ends (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// After so many bytes.
    Length(usize),
    /// After the chunk of no bytes, and its trailer.
    Chunked,
    /// With the connection; only where the head announces that.
    UntilClose,
}

/// What a complete head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// 200 to 999.
    pub status: u16,
    /// How its body ends.
    pub framing: Framing,
    /// `Connection: close` was said.
    pub closes: bool,
    /// A Content-Encoding was applied, so the body is not readable as it is.
    pub is_encoded: bool,
}

/// The head of a request's last answer: equal bytes mean the same.
#[derive(Default)]
pub struct KnownAnswer {
    bytes: Vec<u8>,
    head: Option<AnswerHead>,
}

impl KnownAnswer {
    fn matches(&self, input: &[u8]) -> Option<AnswerHead> {
        self.head.filter(|_| input.starts_with(&self.bytes))
    }
}

/// What came next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'b> {
    /// Nothing that is complete; all bytes were taken.
    More,
    /// A 1xx: the answer itself follows.
    Interim,
    /// A head.
    Head(AnswerHead),
    /// Bytes of the body.
    Body(&'b [u8]),
    /// The answer is complete.
    End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// 1 byte at least.
    Body {
        remaining: usize,
    },
    ChunkSize,
    /// 1 byte at least.
    Chunk {
        remaining: usize,
    },
    ChunkEnd,
    Trailer {
        taken_bytes: usize,
    },
    UntilClose,
    /// Complete, and not yet told.
    Ended,
}

/// One connection's place.
#[derive(Default)]
pub struct AnswerReader {
    state: State,
    /// The front of a head or of a line that came in pieces.
    front: Vec<u8>,
}

impl AnswerReader {
    /// The next step in `bytes`, and how many of them it took. `is_head`: the request was a HEAD.
    pub fn advance<'b>(
        &mut self,
        bytes: &'b [u8],
        is_head: bool,
        known: &mut KnownAnswer,
    ) -> Result<(usize, Step<'b>), Fault> {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            if rest.is_empty() && self.state != State::Ended {
                return Ok((taken, Step::More));
            }
            match self.state {
                State::Head => {
                    let (head_taken, step) = self.take_head(rest, is_head, known)?;
                    return Ok((taken + head_taken, step));
                }
                State::Body { remaining } => {
                    let body = &rest[..remaining.min(rest.len())];
                    self.skip(body.len());
                    return Ok((taken + body.len(), Step::Body(body)));
                }
                State::Chunk { remaining } => {
                    let body = &rest[..remaining.min(rest.len())];
                    self.state = match remaining - body.len() {
                        0 => State::ChunkEnd,
                        remaining => State::Chunk { remaining },
                    };
                    return Ok((taken + body.len(), Step::Body(body)));
                }
                State::UntilClose => return Ok((bytes.len(), Step::Body(rest))),
                State::Ended => {
                    self.state = State::Head;
                    return Ok((taken, Step::End));
                }
                State::ChunkSize | State::ChunkEnd | State::Trailer { .. } => taken += self.take_line(rest)?,
            }
        }
    }

    /// `bytes_count` bytes of a body of known length were dropped unseen.
    pub fn skip(&mut self, bytes_count: usize) {
        let State::Body { remaining } = self.state else { return };
        debug_assert!(bytes_count <= remaining);
        self.state = match remaining - bytes_count {
            0 => State::Ended,
            remaining => State::Body { remaining },
        };
    }

    /// The server closed: whether that completes an answer. Its end is then told by the next `advance`.
    pub fn end_of_stream(&mut self) -> bool {
        let completes = self.state == State::UntilClose;
        if completes {
            self.state = State::Ended;
        }
        completes
    }

    /// Bytes of a body of known length that have not come.
    pub fn body_remaining(&self) -> usize {
        if let State::Body { remaining } = self.state { remaining } else { 0 }
    }

    /// No answer has begun.
    pub fn is_between(&self) -> bool {
        self.state == State::Head && self.front.is_empty()
    }

    fn take_head<'b>(
        &mut self,
        bytes: &'b [u8],
        is_head: bool,
        known: &mut KnownAnswer,
    ) -> Result<(usize, Step<'b>), Fault> {
        if self.front.is_empty()
            && let Some(head) = known.matches(bytes)
        {
            self.begin_body(head.framing);
            return Ok((known.bytes.len(), Step::Head(head)));
        }
        let front_bytes = self.front.len();
        let room = RESPONSE_HEAD_BYTES_MAX + 1 - front_bytes;
        self.front.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let Some((head, head_bytes)) = parse_answer_head(&self.front, is_head)? else {
            return Ok((bytes.len(), Step::More));
        };
        // The head ends in `bytes`, or it would have been complete before.
        let taken = head_bytes - front_bytes;
        let Some(head) = head else {
            self.front.clear();
            return Ok((taken, Step::Interim));
        };
        known.bytes.clear();
        known.bytes.extend_from_slice(&self.front[..head_bytes]);
        known.head = Some(head);
        self.front.clear();
        self.begin_body(head.framing);
        Ok((taken, Step::Head(head)))
    }

    fn begin_body(&mut self, framing: Framing) {
        self.state = match framing {
            Framing::Empty | Framing::Length(0) => State::Ended,
            Framing::Length(remaining) => State::Body { remaining },
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
    }

    /// Takes bytes up to the end of a line around chunks; the line itself when it is complete.
    fn take_line(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        let line_bytes_max = match self.state {
            State::Trailer { taken_bytes } => RESPONSE_HEAD_BYTES_MAX - taken_bytes,
            State::ChunkEnd => 2,
            _ => CHUNK_LINE_BYTES_MAX,
        };
        if self.front.len() + taken > line_bytes_max {
            return Err(Fault::Chunk);
        }
        self.front.extend_from_slice(&bytes[..taken]);
        if end.is_some() {
            let line = self.front.strip_suffix(b"\r\n").ok_or(Fault::Chunk)?;
            self.state = match self.state {
                State::ChunkEnd if line.is_empty() => State::ChunkSize,
                State::ChunkSize => match chunk_size(line)? {
                    0 => State::Trailer { taken_bytes: 0 },
                    remaining => State::Chunk { remaining },
                },
                State::Trailer { .. } if line.is_empty() => State::Ended,
                State::Trailer { taken_bytes } => State::Trailer { taken_bytes: taken_bytes + self.front.len() },
                _ => return Err(Fault::Chunk),
            };
            self.front.clear();
        }
        Ok(taken)
    }
}

/// Hexadecimal digits; what follows a semicolon is an extension.
fn chunk_size(line: &[u8]) -> Result<usize, Fault> {
    let size = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii_end();
    if size.is_empty() || !size.iter().all(u8::is_ascii_hexdigit) {
        return Err(Fault::Chunk);
    }
    std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size, 16).ok()).ok_or(Fault::Chunk)
}

/// Head and its bytes; `None` while it is incomplete. The head itself is `None` for a 1xx.
fn parse_answer_head(bytes: &[u8], is_head: bool) -> Result<Option<(Option<AnswerHead>, usize)>, Fault> {
    let mut headers = [httparse::EMPTY_HEADER; RESPONSE_HEADERS_MAX];
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
    let (Some(1), Some(status)) = (response.version, response.code) else { return Err(Fault::Malformed) };
    match status {
        101 => return Err(Fault::Upgrade),
        0..=199 => return Ok(Some((None, head_bytes))),
        _ => {}
    }
    let values = |name: &'static str| {
        response.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    };
    let closes = values("connection").any(|value| {
        value.split(|&byte| byte == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
    });
    let mut lengths = values("content-length");
    let mut codings = values("transfer-encoding");
    let framing = match (lengths.next(), lengths.next(), codings.next(), codings.next()) {
        (_, Some(_), ..) => return Err(Fault::NoLength),
        (Some(_), _, Some(_), _) => return Err(Fault::TwoLengths),
        (Some(value), ..) => Framing::Length(decimal(value).ok_or(Fault::NoLength)?),
        (None, _, Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        (None, _, Some(_), _) => return Err(Fault::Coding),
        (None, ..) if is_head || matches!(status, 204 | 304) => Framing::Empty,
        (None, ..) if closes => Framing::UntilClose,
        (None, ..) => return Err(Fault::NoLength),
    };
    // What these say of a body is what another answer would have (RFC 9110, 8.6).
    let framing = if is_head || matches!(status, 204 | 304) { Framing::Empty } else { framing };
    let is_encoded = values("content-encoding").any(|value| !value.eq_ignore_ascii_case(b"identity"));
    Ok(Some((Some(AnswerHead { status, framing, closes, is_encoded }), head_bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status and body of each answer, of a stream that comes in pieces; `heads` says which requests were HEAD.
    fn answers(pieces: &[&[u8]], heads: &[bool], ends: bool) -> Result<Vec<(u16, Vec<u8>)>, Fault> {
        let (mut reader, mut known) = (AnswerReader::default(), KnownAnswer::default());
        let (mut complete, mut status, mut body) = (Vec::new(), 0, Vec::new());
        let mut feed = |reader: &mut AnswerReader, mut bytes: &[u8], complete: &mut Vec<_>| -> Result<(), Fault> {
            loop {
                let is_head = heads.get(complete.len()).copied().unwrap_or(false);
                let (taken, step) = reader.advance(bytes, is_head, &mut known)?;
                bytes = &bytes[taken..];
                match step {
                    Step::More => return Ok(()),
                    Step::Interim => {}
                    Step::Head(head) => status = head.status,
                    Step::Body(bytes) => body.extend_from_slice(bytes),
                    Step::End => complete.push((status, std::mem::take(&mut body))),
                }
            }
        };
        for piece in pieces {
            feed(&mut reader, piece, &mut complete)?;
        }
        if ends && reader.end_of_stream() {
            feed(&mut reader, &[], &mut complete)?;
        }
        assert!(reader.is_between(), "{:?}", reader.state);
        Ok(complete)
    }

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]\
        HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[2]\
        HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\
        HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        2;a=b\r\n[3\r\n001\r\n]\r\n0\r\nDigest: x\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\n\
        HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n\
        HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n\
        HTTP/1.1 200 OK\r\nConnection: keep-alive, close\r\n\r\nto the end";

    #[test]
    fn every_split_equals_the_whole() {
        let heads = [false, false, true];
        let whole = answers(&[STREAM], &heads, true).unwrap();
        let expected: [(u16, &[u8]); 8] = [
            (200, b"[1]"),
            (200, b"[2]"),
            (200, b""),
            (200, b"[3]"),
            (204, b""),
            (304, b""),
            (404, b""),
            (200, b"to the end"),
        ];
        assert_eq!(whole, expected.map(|(status, body)| (status, body.to_vec())));
        for first in 0..=STREAM.len() {
            for second in first..=STREAM.len() {
                let pieces = [&STREAM[..first], &STREAM[first..second], &STREAM[second..]];
                assert_eq!(answers(&pieces, &heads, true).unwrap(), whole, "split at {first} and {second}");
            }
        }
    }

    #[test]
    fn faults() {
        let chunked = |body: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let table = [
            ("no length", "HTTP/1.1 200 OK\r\n\r\n".into(), Fault::NoLength),
            ("signed length", "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n".into(), Fault::NoLength),
            (
                "repeated length",
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n".into(),
                Fault::NoLength,
            ),
            (
                "length and chunks",
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
                Fault::TwoLengths,
            ),
            ("other coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".into(), Fault::Coding),
            ("upgrade", "HTTP/1.1 101 Switching Protocols\r\n\r\n".into(), Fault::Upgrade),
            ("body too long", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n12".into(), Fault::Malformed),
            ("1.0", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n".into(), Fault::Malformed),
            ("endless head", format!("HTTP/1.1 200 OK\r\nA: {}", "a".repeat(9000)), Fault::HeadTooLarge),
            ("no size", chunked("\r\n"), Fault::Chunk),
            ("size that is none", chunked("x\r\n"), Fault::Chunk),
            ("huge size", chunked("fffffffffffffffff\r\n"), Fault::Chunk),
            ("bare newline", chunked("3\n[1]"), Fault::Chunk),
            ("chunk too long", chunked("3\r\n[1]x"), Fault::Chunk),
            ("endless size", chunked(&"0".repeat(300)), Fault::Chunk),
            ("endless trailer", chunked(&format!("0\r\n{}", "A: b\r\n".repeat(2000))), Fault::Chunk),
        ];
        for (name, stream, expected) in table {
            // More bytes follow, so that a fault cannot hide behind an end.
            let stream = stream + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            assert_eq!(answers(&[stream.as_bytes()], &[], false), Err(expected), "{name}");
        }
    }

    #[test]
    fn skipped_bytes_complete_an_answer() {
        let (mut reader, mut known) = (AnswerReader::default(), KnownAnswer::default());
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
        assert!(matches!(reader.advance(head, false, &mut known), Ok((_, Step::Head(_)))));
        assert_eq!(reader.body_remaining(), 10);
        reader.skip(4);
        reader.skip(6);
        assert_eq!(reader.advance(&[], false, &mut known), Ok((0, Step::End)));
    }
}
