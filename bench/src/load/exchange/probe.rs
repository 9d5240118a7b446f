//! One request before the load: what its answers look like.

use crate::limits::DRAIN_TIMEOUT;
use crate::load::exchange::{AnswerHead, AnswerReader, KnownAnswer, Request, Step};
use std::io::{Read, Write};
use std::net::TcpStream;

/// Sends the request and reads the head of its answer; `None` for whatever is none. `DRAIN_TIMEOUT` to send, and twice
/// that to read, at most.
pub fn probe(mut socket: TcpStream, request: &Request) -> Option<AnswerHead> {
    socket.set_read_timeout(Some(DRAIN_TIMEOUT)).ok()?;
    socket.set_write_timeout(Some(DRAIN_TIMEOUT)).ok()?;
    socket.write_all(&request.bytes).ok()?;
    let (mut reader, mut known, mut chunk) = (AnswerReader::default(), KnownAnswer::default(), [0; 16 * 1024]);
    let began = std::time::Instant::now();
    while began.elapsed() < DRAIN_TIMEOUT {
        let filled = socket.read(&mut chunk).ok().filter(|&filled| filled > 0)?;
        let mut bytes = &chunk[..filled];
        loop {
            let (taken, step) = reader.advance(bytes, request.is_head, &mut known).ok()?;
            bytes = &bytes[taken..];
            match step {
                Step::Head(head) => return Some(head),
                Step::More => break,
                Step::Interim | Step::Body(_) | Step::End => {}
            }
        }
    }
    None
}
