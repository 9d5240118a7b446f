//! The writer: one thread, its connections, and a record of every write.
//!
//! It parses each answer for real and keeps what it sent: it is made for tens of thousands of writes a second, not for
//! the millions of the read generator.

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::limits::{DEPTH_MAX, DRAIN_TIMEOUT, EVENTS_PER_WAIT, RESPONSE_HEAD_BYTES_MAX, TURN_TIMEOUT, WRITES_MAX};
use crate::load::{Faults, Pace};
use crate::process::host;
use crate::scan::{Fault, Head, parse_head};
use crate::writes::plan::{Mix, Operation, Plan};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use uuid::Uuid;

/// What to write, and how fast.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to.
    pub address: SocketAddr,
    /// For `Authorization: Bearer`.
    pub token: String,
    /// Connections.
    pub connections_count: usize,
    /// Writes in a block.
    pub depth: usize,
    /// Writes per second, open loop. `None`: closed loop, the next block when the whole one is answered.
    pub rate: Option<f64>,
    /// Which operations.
    pub mix: Mix,
    /// Pinned to this CPU.
    pub cpu: Option<usize>,
    /// Decides which todos are changed.
    pub seed: u64,
}

/// One write.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// What it did.
    pub operation: Operation,
    /// When it was due (open loop) or sent.
    pub due_ns: u64,
    /// When it was handed to the socket; a create's title says the same.
    pub sent_ns: u64,
    /// When its answer was read; 0 without one.
    pub answered_ns: u64,
    /// Of the answer; 0 without one.
    pub status: u16,
    /// The id in a 202; nil otherwise.
    pub id: Uuid,
}

impl Write {
    /// The server promised that it is durable.
    pub fn is_acknowledged(&self) -> bool {
        self.status == 202
    }
}

/// What a writer did.
#[derive(Debug)]
pub struct Report {
    /// In the order in which they were sent.
    pub writes: Vec<Write>,
    /// Lost connections and missing answers; another status than 202 is no fault but stands in its record.
    pub faults: Faults,
}

impl Report {
    /// Acknowledged within a window of the monotonic clock.
    pub fn acknowledged_within(&self, begin_ns: u64, end_ns: u64) -> impl Iterator<Item = &Write> {
        let is_within =
            move |write: &&Write| write.is_acknowledged() && (begin_ns..end_ns).contains(&write.answered_ns);
        self.writes.iter().filter(is_within)
    }

    /// Answered, but not 202.
    pub fn refused_count(&self) -> usize {
        self.writes.iter().filter(|write| write.status != 0 && !write.is_acknowledged()).count()
    }
}

/// Writes until `stop` is set, then waits for what is in flight.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<Report> {
    if options.depth == 0 || options.depth > DEPTH_MAX || options.connections_count == 0 {
        return Err(Error::Unusable(format!("depth is 1 to {DEPTH_MAX}, and a writer needs a connection")));
    }
    if let Some(cpu) = options.cpu {
        host::pin_thread(&[cpu])?;
    }
    host::need_descriptors(options.connections_count + 64)?;
    let mut writer = Writer::connect(options)?;
    if writer.pace.is_none() {
        for index in 0..writer.connections.len() {
            writer.send_block(index, None);
        }
    }
    while !stop.load(Ordering::Relaxed) && writer.writes.len() < WRITES_MAX {
        if writer.connections.iter().all(|connection| connection.socket.is_none()) {
            break;
        }
        writer.turn()?;
    }
    writer.is_ending = true;
    let deadline_ns = clock::now_ns() + clock::duration_ns(DRAIN_TIMEOUT);
    while writer.pending_count() > 0 && clock::now_ns() < deadline_ns {
        writer.turn()?;
    }
    let pending_count = writer.pending_count();
    if pending_count > 0 {
        writer.faults.unanswered += pending_count as u64;
        writer.faults.first.get_or_insert_with(|| format!("no answer to a write within {DRAIN_TIMEOUT:?}"));
    }
    Ok(Report { writes: writer.writes, faults: writer.faults })
}

struct Writer {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    connections: Vec<Connection>,
    idle: VecDeque<usize>,
    plan: Plan,
    depth: usize,
    /// Blocks; `None` in the closed loop.
    pace: Option<Pace>,
    is_ending: bool,
    writes: Vec<Write>,
    faults: Faults,
}

struct Connection {
    /// `None` once the connection is given up.
    socket: Option<TcpStream>,
    /// Indexes of the writes that wait for their answers.
    pending: VecDeque<usize>,
    /// The current block; what is before `output_sent` has left.
    output: Vec<u8>,
    output_sent: usize,
    /// Bytes of answers that are not complete.
    input: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("the server closed a write connection")]
    Closed,
    #[error("an answer to no write")]
    Unasked,
    #[error("a 202 without an id")]
    NoId,
    #[error("{0}")]
    System(#[from] Errno),
}

impl Writer {
    fn connect(options: &Options) -> Result<Writer> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("creating an epoll")?;
        let mut connections = Vec::with_capacity(options.connections_count);
        for index in 0..options.connections_count {
            let socket = TcpStream::connect(options.address).context(format!("connecting to {}", options.address))?;
            let ready = socket.set_nodelay(true).and_then(|()| socket.set_nonblocking(true));
            ready.context("preparing a write connection")?;
            let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&epoll, &socket, epoll::EventData::new_u64(index as u64), interest)
                .context("watching a write connection")?;
            connections.push(Connection {
                socket: Some(socket),
                pending: VecDeque::new(),
                output: Vec::new(),
                output_sent: 0,
                input: Vec::new(),
            });
        }
        Ok(Writer {
            epoll,
            events: Vec::with_capacity(EVENTS_PER_WAIT),
            idle: (0..connections.len()).collect(),
            connections,
            plan: Plan::new(options.mix, &options.address.to_string(), &options.token, options.seed),
            depth: options.depth,
            pace: options.rate.map(|rate| Pace::new(clock::now_ns(), rate / options.depth as f64)),
            is_ending: false,
            writes: Vec::new(),
            faults: Faults::default(),
        })
    }

    fn turn(&mut self) -> Result<()> {
        self.send_due_blocks();
        let turn_ns = clock::duration_ns(TURN_TIMEOUT);
        let is_waiting_for_pace = !self.is_ending && !self.idle.is_empty();
        let wait_ns = match &self.pace {
            Some(pace) if is_waiting_for_pace => pace.next_ns().saturating_sub(clock::now_ns()).min(turn_ns),
            _ => turn_ns,
        };
        self.events.clear();
        let room = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, room, Some(&clock::timespec(wait_ns))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for answers to writes"),
        }
        for position in 0..self.events.len() {
            let index = self.events[position].data.u64() as usize;
            if let Err(lost) = self.handle(index) {
                self.give_up(index, &lost);
            }
        }
        Ok(())
    }

    fn send_due_blocks(&mut self) {
        let now_ns = clock::now_ns();
        while !self.is_ending
            && let Some(pace) = &mut self.pace
            && let Some(&index) = self.idle.front()
            && let Some(due_ns) = pace.take_due(now_ns)
        {
            self.idle.pop_front();
            self.send_block(index, Some(due_ns));
        }
    }

    fn send_block(&mut self, index: usize, due_ns: Option<u64>) {
        let connection = &mut self.connections[index];
        if connection.socket.is_none() {
            return;
        }
        connection.output.clear();
        connection.output_sent = 0;
        for _ in 0..self.depth {
            let sent_ns = clock::now_ns();
            let operation = self.plan.append_next(sent_ns, &mut connection.output);
            connection.pending.push_back(self.writes.len());
            self.writes.push(Write {
                operation,
                due_ns: due_ns.unwrap_or(sent_ns),
                sent_ns,
                answered_ns: 0,
                status: 0,
                id: Uuid::nil(),
            });
        }
        if let Err(lost) = connection.send() {
            self.give_up(index, &lost);
        }
    }

    fn handle(&mut self, index: usize) -> Result<(), Lost> {
        let connection = &mut self.connections[index];
        connection.send()?;
        let was_pending = !connection.pending.is_empty();
        let is_at_end = connection.receive()?;
        let mut consumed = 0;
        while let Some((head, body)) = next_answer(&connection.input[consumed..])? {
            let write = connection.pending.pop_front().and_then(|index| self.writes.get_mut(index));
            let write = write.ok_or(Lost::Unasked)?;
            write.answered_ns = clock::now_ns();
            write.status = head.status;
            if head.status == 202 {
                write.id = id_of(body).ok_or(Lost::NoId)?;
                if write.operation == Operation::Create {
                    self.plan.created(write.id);
                }
            }
            consumed += head.head_bytes + head.body_bytes;
        }
        connection.input.drain(..consumed);
        if is_at_end {
            return Err(Lost::Closed);
        }
        if was_pending && connection.pending.is_empty() && !self.is_ending {
            match self.pace {
                None => self.send_block(index, None),
                Some(_) => self.idle.push_back(index),
            }
        }
        Ok(())
    }

    #[cold]
    fn give_up(&mut self, index: usize, lost: &Lost) {
        let connection = &mut self.connections[index];
        connection.socket = None;
        self.faults.connections_lost += 1;
        self.faults.unanswered += connection.pending.len() as u64;
        connection.pending.clear();
        self.faults.first.get_or_insert_with(|| lost.to_string());
    }

    fn pending_count(&self) -> usize {
        self.connections.iter().map(|connection| connection.pending.len()).sum()
    }
}

impl Connection {
    fn send(&mut self) -> Result<(), Lost> {
        let Some(socket) = &self.socket else { return Ok(()) };
        while self.output_sent < self.output.len() {
            let rest = &self.output[self.output_sent..];
            match retry_on_intr(|| send(socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
                Ok(sent_bytes) => self.output_sent += sent_bytes,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads all that is here; whether the stream is at its end.
    fn receive(&mut self) -> Result<bool, Lost> {
        let Some(socket) = &self.socket else { return Ok(false) };
        let mut chunk = [0; 16 * 1024];
        loop {
            match retry_on_intr(|| recv(socket, &mut chunk, RecvFlags::DONTWAIT)) {
                Ok((_, 0)) => return Ok(true),
                Ok((_, count)) => self.input.extend_from_slice(&chunk[..count]),
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The complete answer at the front of `input`; an answer to a write is small.
fn next_answer(input: &[u8]) -> Result<Option<(Head, &[u8])>, Fault> {
    if input.is_empty() {
        return Ok(None);
    }
    let Some(head) = parse_head(input)? else { return Ok(None) };
    if head.body_bytes > RESPONSE_HEAD_BYTES_MAX {
        return Err(Fault::Malformed);
    }
    let body = input[head.head_bytes..].get(..head.body_bytes);
    Ok(body.map(|body| (head, body)))
}

/// The id of `{"id":"…"}`.
fn id_of(body: &[u8]) -> Option<Uuid> {
    #[derive(serde::Deserialize)]
    struct Accepted<'b> {
        id: &'b str,
    }
    let accepted: Accepted = serde_json::from_slice(body).ok()?;
    Uuid::try_parse(accepted.id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        let id = "01932c5e-7a3b-7def-8123-456789abcdef";
        let table = [
            (format!("{{\"id\":\"{id}\"}}"), Uuid::try_parse(id).ok()),
            ("{\"id\":\"7\"}".into(), None),
            ("{}".into(), None),
            (String::new(), None),
        ];
        for (body, expected) in table {
            assert_eq!(id_of(body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn every_prefix_of_an_answer_is_partial() {
        let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\n\r\n{}\n";
        for length in 0..answer.len() {
            assert!(matches!(next_answer(&answer[..length]), Ok(None)), "{length}");
        }
        let (head, body) = next_answer(answer).unwrap().unwrap();
        assert_eq!((head.status, body), (202, &b"{}\n"[..]));
    }
}
