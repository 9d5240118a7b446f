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
