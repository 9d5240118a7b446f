//! A request body's payload, as it comes: by length (RFC 9112 6.2) or by chunks (RFC 9112 7.1).
//!
//! The state is a few numbers, so a body may come in any pieces. Nothing behind the body is ever taken.
//! After an error the state has no meaning: the connection ends.

use super::head::Framing;
use super::reject::Reject;
use super::syntax;
use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILER_BYTES_MAX};

/// The rest of a body that is still to come.
#[derive(Clone, Debug)]
pub enum Body {
    /// So many bytes as they are.
    Length {
        /// `0 <= remaining <= payload_bytes_max`
        remaining: u64,
    },
    /// Chunks.
    Chunked(Chunked),
}

/// What one call has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the input that belonged to the body. `consumed == input.len()` unless `done`.
    pub consumed: usize,
    /// Whether the body has ended.
    pub done: bool,
}

impl Body {
    /// The body that `framing` announces, with at most `payload_bytes_max` bytes of payload.
    ///
    /// # Errors
    /// [`Reject::BodyTooLarge`] where the length alone says so, before a byte of it is read.
    pub fn new(framing: Framing, payload_bytes_max: usize) -> Result<Body, Reject> {
        let payload_bytes_max = payload_bytes_max as u64;
        match framing {
            Framing::None => Ok(Body::Length { remaining: 0 }),
            Framing::Length(length) if length > payload_bytes_max => Err(Reject::BodyTooLarge),
            Framing::Length(length) => Ok(Body::Length { remaining: length }),
            Framing::Chunked => Ok(Body::Chunked(Chunked::new(payload_bytes_max))),
        }
    }

    /// Takes what is here of the body, and appends its payload to `payload`.
    ///
    /// # Errors
    /// A fault in the framing (400, 431), or more payload than allowed (413).
    pub fn read(&mut self, input: &[u8], payload: &mut Vec<u8>) -> Result<Progress, Reject> {
        self.advance(input, Some(payload))
    }

    /// Takes what is here of the body and drops it, under the same bounds.
    ///
    /// # Errors
    /// As [`Body::read`].
    pub fn discard(&mut self, input: &[u8]) -> Result<Progress, Reject> {
        self.advance(input, None)
    }

    /// Whether the body has ended. True from the start for a body of length 0.
    pub fn is_done(&self) -> bool {
        match self {
            Body::Length { remaining } => *remaining == 0,
            Body::Chunked(chunked) => chunked.state == State::Done,
        }
    }

    fn advance(&mut self, input: &[u8], payload: Option<&mut Vec<u8>>) -> Result<Progress, Reject> {
        match self {
            Body::Length { remaining } => {
                let part = take_part(remaining, input);
                if let Some(payload) = payload {
                    payload.extend_from_slice(part);
                }
                Ok(Progress { consumed: part.len(), done: *remaining == 0 })
            }
            Body::Chunked(chunked) => chunked.decode(input, payload),
        }
    }
}

/// A chunked body's state between two pieces of it.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    /// In `Size` what the digits say so far, in `Data` what is to come of the chunk.
    size: u64,
    /// `0 <= size_digits <= CHUNK_SIZE_DIGITS_MAX`
    size_digits: u8,
    /// Payload of the chunks begun so far. `0 <= payload_bytes <= payload_bytes_max`
    payload_bytes: u64,
    payload_bytes_max: u64,
    /// `0 <= extension_bytes <= CHUNK_EXTENSION_BYTES_MAX`
    extension_bytes: usize,
    /// `0 <= trailer_bytes <= TRAILER_BYTES_MAX`
    trailer_bytes: usize,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A digit of the chunk size, or what ends it.
    Size,
    /// Space before the semicolon of an extension.
    ExtensionSpace,
    /// Inside an extension.
    Extension,
    /// The LF of the size line.
    SizeLineFeed,
    /// Payload.
    Data,
    /// The CR behind the payload of a chunk.
    DataCarriageReturn,
    /// The LF behind that.
    DataLineFeed,
    /// The first byte of a trailer field, or of the empty line that ends the body.
    TrailerStart,
    /// Inside the name of a trailer field.
    TrailerName,
    /// Inside its value.
    TrailerValue,
    /// The LF behind it.
    TrailerLineFeed,
    /// The LF of the empty line.
    EndLineFeed,
    /// None: the body has ended.
    Done,
}

impl Chunked {
    fn new(payload_bytes_max: u64) -> Chunked {
        Chunked {
            state: State::Size,
            size: 0,
            size_digits: 0,
            payload_bytes: 0,
            payload_bytes_max,
            extension_bytes: 0,
            trailer_bytes: 0,
        }
    }

    fn decode(&mut self, input: &[u8], mut payload: Option<&mut Vec<u8>>) -> Result<Progress, Reject> {
        let mut consumed = 0;
        while self.state != State::Done && consumed < input.len() {
            if self.state == State::Data {
                let part = take_part(&mut self.size, &input[consumed..]);
                if let Some(payload) = payload.as_deref_mut() {
                    payload.extend_from_slice(part);
                }
                consumed += part.len();
                if self.size == 0 {
                    self.state = State::DataCarriageReturn;
                }
            } else {
                self.state = self.step(input[consumed])?;
                consumed += 1;
            }
        }
        Ok(Progress { consumed, done: self.state == State::Done })
    }

    /// The state behind `byte`, which is no payload.
    fn step(&mut self, byte: u8) -> Result<State, Reject> {
        match (self.state, byte) {
            (State::Size, byte) => self.step_size(byte),

            // Nothing inside an extension can move the end of its line, so its grammar is not looked
            // at beyond that: no control bytes, no bare CR or LF.
            (State::ExtensionSpace, b' ' | b'\t') => self.extend(State::ExtensionSpace),
            (State::ExtensionSpace, b';') => self.extend(State::Extension),
            (State::Extension, b'\r') => Ok(State::SizeLineFeed),
            (State::Extension, byte) if syntax::is(syntax::FIELD_VALUE, byte) => self.extend(State::Extension),

            (State::SizeLineFeed, b'\n') => Ok(if self.size == 0 { State::TrailerStart } else { State::Data }),
            (State::DataCarriageReturn, b'\r') => Ok(State::DataLineFeed),
            (State::DataLineFeed, b'\n') => {
                self.size_digits = 0;
                Ok(State::Size)
            }

            // Trailer fields are checked like header fields, then dropped: merging them would let a
            // length or a Host in behind the decision on them (RFC 9110 6.5.1).
            (State::TrailerStart, b'\r') => self.trail(State::EndLineFeed),
            (State::TrailerStart | State::TrailerName, byte) if syntax::is(syntax::TOKEN, byte) => {
                self.trail(State::TrailerName)
            }
            (State::TrailerName, b':') => self.trail(State::TrailerValue),
            (State::TrailerValue, b'\r') => self.trail(State::TrailerLineFeed),
            (State::TrailerValue, byte) if syntax::is(syntax::FIELD_VALUE, byte) => self.trail(State::TrailerValue),
            (State::TrailerLineFeed, b'\n') => self.trail(State::TrailerStart),
            (State::EndLineFeed, b'\n') => self.trail(State::Done),

            (
                State::TrailerStart
                | State::TrailerName
                | State::TrailerValue
                | State::TrailerLineFeed
                | State::EndLineFeed,
                _,
            ) => Err(Reject::Trailer),
            _ => Err(Reject::Chunk),
        }
    }

    fn step_size(&mut self, byte: u8) -> Result<State, Reject> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            if self.size_digits == CHUNK_SIZE_DIGITS_MAX {
                return Err(Reject::Chunk);
            }
            self.size = if self.size_digits == 0 { 0 } else { self.size << 4 } | u64::from(digit);
            self.size_digits += 1;
            return Ok(State::Size);
        }
        if self.size_digits == 0 {
            return Err(Reject::Chunk);
        }
        let next = match byte {
            b'\r' => State::SizeLineFeed,
            b' ' | b'\t' => self.extend(State::ExtensionSpace)?,
            b';' => self.extend(State::Extension)?,
            _ => return Err(Reject::Chunk),
        };
        self.payload_bytes = self.payload_bytes.saturating_add(self.size);
        if self.payload_bytes > self.payload_bytes_max {
            return Err(Reject::BodyTooLarge);
        }
        Ok(next)
    }

    fn extend(&mut self, next: State) -> Result<State, Reject> {
        self.extension_bytes += 1;
        if self.extension_bytes > CHUNK_EXTENSION_BYTES_MAX { Err(Reject::Chunk) } else { Ok(next) }
    }

    fn trail(&mut self, next: State) -> Result<State, Reject> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX { Err(Reject::TrailersTooLarge) } else { Ok(next) }
    }
}

/// The first `remaining` bytes of `input`, or all of it where it is shorter; counts them off.
fn take_part<'i>(remaining: &mut u64, input: &'i [u8]) -> &'i [u8] {
    let length = usize::try_from(*remaining).map_or(input.len(), |remaining| remaining.min(input.len()));
    *remaining -= length as u64;
    &input[..length]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::fuzzing;

    const PAYLOAD_BYTES_MAX: usize = 64;

    fn read(input: &[u8]) -> Result<(Vec<u8>, Progress), Reject> {
        let mut payload = Vec::new();
        let progress = Body::new(Framing::Chunked, PAYLOAD_BYTES_MAX)?.read(input, &mut payload)?;
        Ok((payload, progress))
    }

    /// A whole body: its payload, and that each prefix of it is partial. What follows it stays.
    fn check(name: &str, input: &str, payload: &str) {
        let whole = (payload.as_bytes().to_vec(), Progress { consumed: input.len(), done: true });
        assert_eq!(read(input.as_bytes()), Ok(whole.clone()), "{name}");
        assert_eq!(read(format!("{input}GET /").as_bytes()), Ok(whole), "{name}, and what follows");
        for length in 0..input.len() {
            let (part, progress) = read(&input.as_bytes()[..length]).unwrap();
            assert_eq!(progress, Progress { consumed: length, done: false }, "{name}, {length} bytes");
            assert!(payload.as_bytes().starts_with(&part), "{name}, {length} bytes");
        }
    }

    fn check_reject(name: &str, input: &str, expected: Reject) {
        assert_eq!(read(input.as_bytes()), Err(expected), "{name}");
        assert!(expected.closes(), "{name}: the next request cannot be found");
        // However many bytes it takes to see it, the reason is the same.
        let mut body = Body::new(Framing::Chunked, PAYLOAD_BYTES_MAX).unwrap();
        let bytewise = input.as_bytes().chunks(1).find_map(|byte| body.discard(byte).err());
        assert_eq!(bytewise, Some(expected), "{name}, byte by byte");
    }

    #[test]
    fn chunked_bodies() {
        check("nothing", "0\r\n\r\n", "");
        check("one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello");
        check("two chunks", "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", "hello!");
        check("either case", "a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789");
        check("leading zeros", "0000000000000001\r\nx\r\n0000\r\n\r\n", "x");
        check("payload that looks like framing", "7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n\r\n");
        check("an extension", "1;a=b;c\r\nx\r\n0;d\r\n\r\n", "x");
        check("a quoted extension", "1 ; a=\"b;c\" \r\nx\r\n0\r\n\r\n", "x");
        check("trailers", "0\r\nA: b\r\nC:\r\n\r\n", "");
        check("a trailer that is a length", "0\r\nContent-Length: 5\r\n\r\n", "");
        check("as much as allowed", &format!("40\r\n{}\r\n0\r\n\r\n", "x".repeat(64)), &"x".repeat(64));
    }

    #[test]
    fn chunk_faults() {
        for size in ["", "-1", "+1", " 1", "0x1", "g", "1 ", "1\t", "1 2", "1,", "00000000000000001", "_1"] {
            check_reject(size, &format!("{size}\r\nx\r\n0\r\n\r\n"), Reject::Chunk);
        }
        check_reject("bare LF behind a size", "1\nx\r\n0\r\n\r\n", Reject::Chunk);
        check_reject("bare CR behind a size", "1\rx\r\n0\r\n\r\n", Reject::Chunk);
        check_reject("bare LF in an extension", "1;a\nx\r\n0\r\n\r\n", Reject::Chunk);
        check_reject("bare CR in an extension", "1;a\rb\r\nx\r\n0\r\n\r\n", Reject::Chunk);
        check_reject("control byte in an extension", "1;a\0\r\nx\r\n0\r\n\r\n", Reject::Chunk);
        check_reject("bare LF behind the data", "1\r\nx\n0\r\n\r\n", Reject::Chunk);
        check_reject("too much data", "1\r\nxy\r\n0\r\n\r\n", Reject::Chunk);
        check_reject("no CRLF behind the data", "1\r\nx0\r\n\r\n", Reject::Chunk);
        check_reject("a size of 64 bits", "ffffffffffffffff\r\n", Reject::BodyTooLarge);
        check_reject("one byte over", "41\r\n", Reject::BodyTooLarge);
        check_reject("one byte over in two chunks", "1\r\nx\r\n40\r\n", Reject::BodyTooLarge);
        check_reject("sizes that wrap around", "1\r\nx\r\nffffffffffffffff\r\n", Reject::BodyTooLarge);
    }

    #[test]
    fn trailer_faults() {
        check_reject("no colon", "0\r\nA\r\n\r\n", Reject::Trailer);
        check_reject("no name", "0\r\n: a\r\n\r\n", Reject::Trailer);
        check_reject("a space before the colon", "0\r\nA : b\r\n\r\n", Reject::Trailer);
        check_reject("a folded line", "0\r\nA: b\r\n c\r\n\r\n", Reject::Trailer);
        check_reject("a control byte", "0\r\nA: \0\r\n\r\n", Reject::Trailer);
        check_reject("bare LF", "0\r\nA: b\n\r\n", Reject::Trailer);
        check_reject("bare LF for the end", "0\r\n\n", Reject::Trailer);
        check_reject("bare CR for the end", "0\r\n\rG", Reject::Trailer);
    }

    #[test]
    fn bounds() {
        let extension = |bytes: usize| format!("0;{}\r\n\r\n", "a".repeat(bytes - 1));
        assert!(read(extension(CHUNK_EXTENSION_BYTES_MAX).as_bytes()).is_ok());
        check_reject("extension", &extension(CHUNK_EXTENSION_BYTES_MAX + 1), Reject::Chunk);
        // In all, so that many small ones are no way around it.
        let chunks = "1;aaaaaaa\r\nx\r\n".repeat(PAYLOAD_BYTES_MAX);
        let many = |bytes: usize| format!("{chunks}0;{}\r\n\r\n", "a".repeat(bytes - 1));
        assert!(read(many(CHUNK_EXTENSION_BYTES_MAX - 8 * PAYLOAD_BYTES_MAX).as_bytes()).is_ok());
        check_reject("extensions", &many(CHUNK_EXTENSION_BYTES_MAX - 8 * PAYLOAD_BYTES_MAX + 1), Reject::Chunk);

        let trailer = |bytes: usize| format!("0\r\nA:{}\r\n\r\n", "a".repeat(bytes - 6));
        assert!(read(trailer(TRAILER_BYTES_MAX).as_bytes()).is_ok());
        check_reject("trailer", &trailer(TRAILER_BYTES_MAX + 1), Reject::TrailersTooLarge);
    }

    #[test]
    fn bodies_with_a_length() {
        let length = |length, max| Body::new(Framing::Length(length), max);
        assert_eq!(length(6, 5).map(|body| body.is_done()), Err(Reject::BodyTooLarge));
        assert_eq!(length(u64::MAX, 5).map(|body| body.is_done()), Err(Reject::BodyTooLarge));
        assert!(length(0, 5).unwrap().is_done());
        assert!(Body::new(Framing::None, 0).unwrap().is_done());

        let mut payload = Vec::new();
        let mut body = length(5, 5).unwrap();
        assert_eq!(body.read(b"ab", &mut payload), Ok(Progress { consumed: 2, done: false }));
        assert_eq!(body.discard(b"c"), Ok(Progress { consumed: 1, done: false }));
        assert_eq!(body.read(b"", &mut payload), Ok(Progress { consumed: 0, done: false }));
        assert_eq!(body.read(b"deGET /", &mut payload), Ok(Progress { consumed: 2, done: true }));
        assert_eq!(body.read(b"GET /", &mut payload), Ok(Progress { consumed: 0, done: true }));
        assert_eq!(payload, b"abde");
    }

    #[test]
    fn any_one_byte_changed_is_refused_or_explained() {
        // Both begin with the count of pieces, see the fuzz target.
        for body in [
            &b"\x02\x03\x07a;b=\"c\"\r\n0123456789\r\n1\r\nx\r\n0\r\nA: b\r\n\r\nGET"[..],
            b"\x001 ;\tx\r\ny\r\n00\r\n\r\n",
        ] {
            for index in 0..body.len() {
                for byte in 0..=255 {
                    let mut changed = body.to_vec();
                    changed[index] = byte;
                    fuzzing::chunked(&changed);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn assembled_bodies_mean_what_the_oracle_says(
            pieces in prop::collection::vec(0..20u8, 0..16),
            parts in prop::collection::vec(prop::sample::select(&[
                "0", "1", "5", "a", "fff", "1001", ";a", " ", "\t;b=\"c\"", "\r\n", "\r\n", "\r\n", "\n", "\r", "x", "hello",
                "0123456789", "A: b", "A : b", ":", "0\r\n\r\n",
            ][..]), 0..12),
        ) {
            let mut data = vec![pieces.len() as u8];
            data.extend(pieces);
            data.extend(parts.concat().bytes());
            fuzzing::chunked(&data);
        }

        #[test]
        fn what_is_encoded_is_decoded(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..10),
            lengths in prop::collection::vec(1..9usize, 1..8),
        ) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend(format!("{:x}\r\n", chunk.len()).bytes());
                input.extend(chunk);
                input.extend(b"\r\n");
            }
            input.extend(b"0\r\n\r\n");

            let mut body = Body::new(Framing::Chunked, 400).unwrap();
            let mut payload = Vec::new();
            let mut left = &input[..];
            for length in lengths.iter().cycle() {
                let (part, behind) = left.split_at(left.len().min(*length));
                left = behind;
                if body.read(part, &mut payload).unwrap().done {
                    break;
                }
            }
            prop_assert!(left.is_empty());
            prop_assert_eq!(payload, chunks.concat());
        }
    }
}
