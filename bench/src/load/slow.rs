//! Connections that read slowly on purpose, beside a load that is measured.
//!
//! Each asks for a block, takes the answers at its own pace, and asks for the next block when it has them all. They are not
//! part of the outcome: the question is what they do to the others. A server may close them, and they come again.

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::limits::{SINGLE_REQUEST_TIMEOUT, SLOW_CONNECT_TIMEOUT, SLOW_READ_INTERVAL, SLOW_READERS_MAX};
use crate::load::exchange::{AnswerReader, KnownAnswer, Step, Traffic};
use crate::load::{check_bounds, socket};
use crate::process::host;
use rustix::net::RecvFlags;
use serde::Serialize;
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes taken by one read.
const READ_BYTES: usize = 64 * 1024;

/// How many, and how slow.
#[derive(Clone, Debug)]
pub struct SlowReaders {
    /// Where to.
    pub address: SocketAddr,
    /// What they ask for.
    pub traffic: Traffic,
    /// Connections, 1 to `SLOW_READERS_MAX`.
    pub connections_count: usize,
    /// Requests of a block.
    pub depth: usize,
    /// Of each connection, 1 at least.
    pub bytes_per_second: u64,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SlowReport {
    /// All that they read.
    pub bytes: u64,
    /// Answers that they read to the end.
    pub answers: u64,
    /// Connections that the server ended. That is its right, and no fault.
    pub closed: u64,
    /// Connects that failed after the first.
    pub connects_failed: u64,
    /// Answers that were no HTTP.
    pub malformed: u64,
}

/// Runs `work` while they read; they are connected, and have asked, before it begins.
pub fn beside<T>(readers: &SlowReaders, work: impl FnOnce() -> Result<T>) -> Result<(T, SlowReport)> {
    if readers.connections_count == 0 || readers.connections_count > SLOW_READERS_MAX || readers.bytes_per_second == 0 {
        return Err(Error::Unusable(format!(
            "slow readers are 1 to {SLOW_READERS_MAX}, and read a byte a second or more"
        )));
    }
    check_bounds(readers.depth, readers.traffic.request_bytes_max(), None)?;
    host::need_descriptors(readers.connections_count + 64)?;
    let mut reading = Reading::connect(readers)?;
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("slow".into()).spawn_scoped(scope, move || {
            reading.until(stop);
            reading.report
        });
        let thread = thread.context("starting the thread of the slow readers")?;
        let result = work();
        stop.store(true, Ordering::Relaxed);
        let report = thread.join().expect("the slow readers panicked");
        Ok((result?, report))
    })
}

struct Reading<'o> {
    readers: &'o SlowReaders,
    connections: Vec<Option<Reader>>,
    known: Vec<KnownAnswer>,
    random: fastrand::Rng,
    buffer: Vec<u8>,
    report: SlowReport,
}

struct Reader {
    socket: TcpStream,
    reader: AnswerReader,
    /// The requests whose answers have not been read, oldest first.
    pending: VecDeque<usize>,
    /// What the socket has not taken yet.
    output: Vec<u8>,
    /// What may be read by now. Never more than a second's, so that a pause is not made up for.
    allowance_bytes: f64,
}

/// The server ended a connection, or its answer is no HTTP.
enum Ended {
    Closed,
    Malformed,
}

impl<'o> Reading<'o> {
    fn connect(readers: &'o SlowReaders) -> Result<Reading<'o>> {
        let mut reading = Reading {
            readers,
            connections: Vec::with_capacity(readers.connections_count),
            known: std::iter::repeat_with(KnownAnswer::default).take(readers.traffic.requests().len()).collect(),
            random: fastrand::Rng::with_seed(1),
            buffer: vec![0; READ_BYTES],
            report: SlowReport::default(),
        };
        for _ in 0..readers.connections_count {
            let reader = Reader::open(&readers.address, SINGLE_REQUEST_TIMEOUT);
            let mut reader = reader.context(format!("connecting a slow reader to {}", readers.address))?;
            reader.ask(readers, &mut reading.random);
            // What the socket does not take now it is asked to take at each read.
            let is_open = reader.send().is_ok();
            reading.connections.push(is_open.then_some(reader));
        }
        Ok(reading)
    }

    fn until(&mut self, stop: &AtomicBool) {
        let mut before_ns = clock::now_ns();
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(SLOW_READ_INTERVAL);
            let now_ns = clock::now_ns();
            let grown_bytes = (now_ns - before_ns) as f64 / 1e9 * self.readers.bytes_per_second as f64;
            before_ns = now_ns;
            for index in 0..self.connections.len() {
                match self.connections[index].take() {
                    Some(reader) => self.connections[index] = self.read(reader, grown_bytes),
                    None if stop.load(Ordering::Relaxed) => return,
                    None => self.reopen(index),
                }
            }
        }
    }

    /// Reads what is allowed; `None` when the connection has ended.
    fn read(&mut self, mut reader: Reader, grown_bytes: f64) -> Option<Reader> {
        let allowance_bytes_max = (self.readers.bytes_per_second as f64).max(1.0);
        reader.allowance_bytes = (reader.allowance_bytes + grown_bytes).min(allowance_bytes_max);
        match self.read_allowed(&mut reader) {
            Ok(()) => return Some(reader),
            Err(Ended::Closed) => self.report.closed += 1,
            Err(Ended::Malformed) => self.report.malformed += 1,
        }
        None
    }

    fn read_allowed(&mut self, reader: &mut Reader) -> Result<(), Ended> {
        reader.send()?;
        while reader.allowance_bytes >= 1.0 {
            let asked = (reader.allowance_bytes as usize).min(self.buffer.len());
            let received = socket::receive(&reader.socket, &mut self.buffer[..asked], RecvFlags::empty());
            let filled = match received.map_err(|_| Ended::Closed)? {
                None => return Ok(()),
                Some(0) => return Err(Ended::Closed),
                Some(filled) => filled,
            };
            reader.allowance_bytes -= filled as f64;
            self.report.bytes += filled as u64;
            self.report.answers += reader.take(&self.buffer[..filled], &self.readers.traffic, &mut self.known)?;
            if reader.pending.is_empty() {
                reader.ask(self.readers, &mut self.random);
                reader.send()?;
            }
        }
        Ok(())
    }

    fn reopen(&mut self, index: usize) {
        let opened = Reader::open(&self.readers.address, SLOW_CONNECT_TIMEOUT);
        self.report.connects_failed += u64::from(opened.is_err());
        self.connections[index] = opened.ok().and_then(|mut reader| {
            reader.ask(self.readers, &mut self.random);
            reader.send().is_ok().then_some(reader)
        });
    }
}

impl Reader {
    fn open(address: &SocketAddr, timeout: Duration) -> std::io::Result<Reader> {
        let socket = socket::open_slow(*address, timeout)?;
        socket.set_nonblocking(true)?;
        Ok(Reader {
            socket,
            reader: AnswerReader::default(),
            pending: VecDeque::new(),
            output: Vec::new(),
            allowance_bytes: 0.0,
        })
    }

    fn ask(&mut self, readers: &SlowReaders, random: &mut fastrand::Rng) {
        for _ in 0..readers.depth {
            let request_index = readers.traffic.pick(random);
            self.pending.push_back(request_index);
            self.output.extend_from_slice(&readers.traffic.requests()[request_index].bytes);
        }
    }

    fn send(&mut self) -> Result<(), Ended> {
        let sent_bytes = socket::send_some(&self.socket, &self.output).map_err(|_| Ended::Closed)?;
        self.output.drain(..sent_bytes);
        Ok(())
    }

    /// The answers that these bytes completed.
    fn take(&mut self, mut bytes: &[u8], traffic: &Traffic, known: &mut [KnownAnswer]) -> Result<u64, Ended> {
        let mut answers_count = 0;
        while !(bytes.is_empty() && self.pending.is_empty()) {
            let request_index = *self.pending.front().ok_or(Ended::Malformed)?;
            let is_head = traffic.requests()[request_index].is_head;
            let step = self.reader.advance(bytes, is_head, &mut known[request_index]);
            let (taken, step) = step.map_err(|_| Ended::Malformed)?;
            bytes = &bytes[taken..];
            match step {
                Step::More => break,
                Step::Interim | Step::Head(_) | Step::Body(_) => {}
                Step::End => {
                    self.pending.pop_front();
                    answers_count += 1;
                }
            }
        }
        Ok(answers_count)
    }
}
