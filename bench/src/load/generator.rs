//! One generator thread.
//!
//! ```text
//! until the drain is over:
//!     send the blocks that are due (open loop)
//!     wait for readable connections
//!     for each: receive, check, count; is its block complete?  then send the next one (closed loop)
//! ```
//!
//! A trickle sends one request for each answer instead of a block for a block.
//!
//! What the real code adds: edge-triggered events with no `epoll_ctl` after the start; no second `recv` when the first
//! was short or the block is complete (the server owes nothing then); bodies from 16 KiB on dropped in the kernel.

use crate::clock;
use crate::error::{Context, Result};
use crate::limits::{
    DISCARD_BYTES_MAX, DISCARD_BYTES_MIN, DRAIN_TIMEOUT, EVENTS_PER_WAIT, HEAD_READ_BYTES, LATENCY_NS_MAX,
    RECEIVE_BYTES, TURN_TIMEOUT,
};
use crate::load::report::{Mark, Report};
use crate::load::socket::{self, Lost};
use crate::load::{Engine, Faults, Options, Pace, Progress, latency_histogram};
use crate::scan::{Bodies, KnownHead, Scanner};
use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::process::Pid;
use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

struct Connection {
    /// `None` once the connection is given up.
    socket: Option<TcpStream>,
    scanner: Scanner,
    /// Answers that are still owed; 0 when idle.
    outstanding: usize,
    /// Bytes at the end of the block that the socket did not take yet.
    unsent_bytes: usize,
    /// When the current block was due (open loop) or sent (closed loop).
    due_ns: u64,
    sent_ns: u64,
    /// A trickle's requests in flight, oldest first: when each was sent. At most `depth`.
    trickle_ns: VecDeque<u64>,
}

pub struct Generator<B> {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Connections without a block, longest idle first; used by the open loop only.
    idle: VecDeque<usize>,
    /// `depth` requests.
    block: Vec<u8>,
    depth: usize,
    buffer: Vec<u8>,
    /// The address range that dropped bodies are measured against; its pages are never touched.
    discard: Vec<u8>,
    known: KnownHead,
    bodies: B,
    responses: u64,
    faults: Faults,
    latency: Histogram<u64>,
    late_ns_max: u64,
    late: Histogram<u64>,
    /// Since when a connection has been idle without a break.
    idle_since_ns: u64,
    sends: Sends,
    server: Option<Pid>,
    warmup: Duration,
    window: Duration,
    block_rate: Option<f64>,
    trickle: bool,
    progress: Option<(Arc<Progress>, usize)>,
}

/// Who decides when the next block leaves.
enum Sends {
    /// The answer to the one before.
    OnAnswer,
    /// The clock.
    Paced(Pace),
    /// Nobody any more: the window is over.
    Nothing,
}

impl<B: Bodies + Send> Engine for Generator<B> {
    type Done = (Report, B);

    fn run(self, start_ns: u64) -> Result<(Report, B)> {
        self.load(start_ns)
    }
}

impl<B: Bodies> Generator<B> {
    /// Opens all connections.
    pub fn connect(options: &Options, thread_index: usize, connections_count: usize, bodies: B) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("creating an epoll")?;
        let mut connections = Vec::with_capacity(connections_count);
        for index in 0..connections_count {
            let socket = socket::open(&options.address).context(format!("connecting to {}", options.address))?;
            socket::watch(&epoll, &socket, index as u64)?;
            connections.push(Connection {
                socket: Some(socket),
                scanner: Scanner::default(),
                outstanding: 0,
                unsent_bytes: 0,
                due_ns: 0,
                sent_ns: 0,
                trickle_ns: VecDeque::new(),
            });
        }
        let share = connections_count as f64 / options.connections_count as f64;
        Ok(Generator {
            epoll,
            idle: (0..connections_count).collect(),
            connections,
            block: options.request.repeat(options.depth),
            depth: options.depth,
            buffer: vec![0; RECEIVE_BYTES],
            discard: vec![0; DISCARD_BYTES_MAX],
            known: KnownHead::new(options.status_expected),
            bodies,
            responses: 0,
            faults: Faults::default(),
            latency: latency_histogram(),
            late_ns_max: 0,
            late: latency_histogram(),
            idle_since_ns: 0,
            sends: Sends::Nothing,
            // One thread looks at the server's CPU, at the ends of its own window.
            server: options.server.filter(|_| thread_index == 0),
            warmup: options.warmup,
            window: options.window,
            trickle: options.trickle,
            progress: options.progress.clone().map(|progress| (progress, thread_index)),
            block_rate: options.rate.map(|rate| rate * share / options.depth as f64),
        })
    }

    fn load(mut self, start_ns: u64) -> Result<(Report, B)> {
        let begin_ns = start_ns + clock::duration_ns(self.warmup);
        let end_ns = begin_ns + clock::duration_ns(self.window);
        match self.block_rate {
            Some(rate) => self.sends = Sends::Paced(Pace::new(start_ns, rate)),
            None => {
                self.sends = Sends::OnAnswer;
                for index in 0..self.connections.len() {
                    let now_ns = clock::now_ns();
                    self.send_block(index, now_ns, now_ns);
                }
            }
        }
        self.turns_until(begin_ns)?;
        self.latency.reset();
        self.late_ns_max = 0;
        self.late.reset();
        let begin = Mark::now(self.responses, self.server)?;
        self.turns_until(end_ns)?;
        let end = Mark::now(self.responses, self.server)?;
        let (latency, late_ns_max, never_sent) = match std::mem::replace(&mut self.sends, Sends::Nothing) {
            Sends::Paced(pace) => {
                let never_sent = pace.record_never_sent(end_ns.min(end.at_ns), &mut self.latency);
                self.drain(true)?;
                (self.latency, self.late_ns_max, never_sent)
            }
            Sends::OnAnswer | Sends::Nothing => {
                let latency = std::mem::replace(&mut self.latency, latency_histogram());
                self.drain(false)?;
                (latency, self.late_ns_max, 0)
            }
        };
        Ok((Report { begin, end, faults: self.faults, latency, late_ns_max, late: self.late, never_sent }, self.bodies))
    }

    fn turns_until(&mut self, deadline_ns: u64) -> Result<()> {
        let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
        while clock::now_ns() < deadline_ns && self.connections.iter().any(|connection| connection.socket.is_some()) {
            self.turn(&mut events, deadline_ns)?;
        }
        Ok(())
    }

    /// Waits for what is still owed; nothing new is sent. `is_recorded`: what is not answered has a latency too.
    fn drain(&mut self, is_recorded: bool) -> Result<()> {
        let deadline_ns = clock::now_ns() + clock::duration_ns(DRAIN_TIMEOUT);
        let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
        while self.connections.iter().any(|connection| connection.outstanding > 0) && clock::now_ns() < deadline_ns {
            self.turn(&mut events, deadline_ns)?;
        }
        let unanswered: usize = self.connections.iter().map(|connection| connection.outstanding).sum();
        if unanswered > 0 {
            self.faults.unanswered += unanswered as u64;
            self.faults.first.get_or_insert_with(|| format!("no answer within {DRAIN_TIMEOUT:?}"));
        }
        let now_ns = clock::now_ns();
        for connection in self.connections.iter().filter(|connection| is_recorded && connection.outstanding > 0) {
            let waited_ns = now_ns.saturating_sub(connection.due_ns);
            self.latency.saturating_record(waited_ns.min(LATENCY_NS_MAX));
        }
        Ok(())
    }

    fn turn(&mut self, events: &mut Vec<epoll::Event>, deadline_ns: u64) -> Result<()> {
        let mut wake_ns = deadline_ns;
        if let Sends::Paced(_) = self.sends {
            self.send_due_blocks();
        }
        if let Sends::Paced(pace) = &self.sends
            && !self.idle.is_empty()
        {
            wake_ns = wake_ns.min(pace.next_ns());
        }
        let now_ns = clock::now_ns();
        let wait_ns = wake_ns.saturating_sub(now_ns).min(clock::duration_ns(TURN_TIMEOUT));
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&clock::timespec(wait_ns))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for answers"),
        }
        for event in &*events {
            let index = event.data.u64() as usize;
            if let Err(lost) = self.handle(index, event.flags) {
                self.give_up(index, &lost);
            }
        }
        if let Some((progress, thread_index)) = &self.progress {
            progress.tell(*thread_index, self.responses, self.faults.count());
            if progress.is_latency_due(*thread_index, now_ns) {
                progress.tell_latency(*thread_index, self.latency.value_at_quantile(0.99), now_ns);
            }
        }
        Ok(())
    }

    fn send_due_blocks(&mut self) {
        let now_ns = clock::now_ns();
        while let Sends::Paced(pace) = &mut self.sends
            && let Some(&index) = self.idle.front()
            && let Some(due_ns) = pace.take_due(now_ns)
        {
            self.idle.pop_front();
            self.late_ns_max = self.late_ns_max.max(now_ns - due_ns);
            self.late.saturating_record(now_ns.saturating_sub(due_ns.max(self.idle_since_ns)).min(LATENCY_NS_MAX));
            if self.connections[index].socket.is_some() {
                self.send_block(index, due_ns, now_ns);
            }
        }
    }

    fn send_block(&mut self, index: usize, due_ns: u64, now_ns: u64) {
        let connection = &mut self.connections[index];
        connection.outstanding = self.depth;
        connection.unsent_bytes = self.block.len();
        connection.due_ns = due_ns;
        connection.sent_ns = now_ns;
        if self.trickle {
            connection.trickle_ns.clear();
            connection.trickle_ns.extend(std::iter::repeat_n(now_ns, self.depth));
        }
        if let Err(lost) = connection.send(&self.block) {
            self.give_up(index, &lost);
        }
    }

    fn handle(&mut self, index: usize, flags: epoll::EventFlags) -> Result<(), Lost> {
        let connection = &mut self.connections[index];
        if connection.socket.is_none() {
            return Ok(());
        }
        if connection.unsent_bytes > 0 {
            connection.send(&self.block)?;
        }
        // An edge comes once: after one that tells of an end, the socket is read up to that end.
        let ended = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if ended || flags.contains(epoll::EventFlags::IN) { self.receive(index, ended) } else { Ok(()) }
    }

    fn receive(&mut self, index: usize, until_end: bool) -> Result<(), Lost> {
        loop {
            let connection = &mut self.connections[index];
            self.bodies.select(index, connection.sent_ns);
            let received =
                connection.receive(&mut self.buffer, &mut self.discard, &mut self.known, &mut self.bodies)?;
            let Some(Received { completed, drained }) = received else { return Ok(()) };
            self.responses += completed as u64;
            connection.outstanding = connection.outstanding.checked_sub(completed).ok_or(Lost::Unasked)?;
            if self.trickle {
                self.send_for(index, completed)?;
                if drained && !until_end {
                    return Ok(());
                }
                continue;
            }
            if completed > 0 && connection.outstanding == 0 {
                self.end_block(index);
                // Nothing more is owed but what the next block asks for, and that brings an edge of its own.
                if !until_end {
                    return Ok(());
                }
            } else if drained && !until_end {
                return Ok(());
            }
        }
    }

    /// A trickle's answer to so many answers.
    fn send_for(&mut self, index: usize, completed: usize) -> Result<(), Lost> {
        let now_ns = clock::now_ns();
        let connection = &mut self.connections[index];
        for sent_ns in connection.trickle_ns.drain(..completed) {
            self.latency.saturating_record(now_ns.saturating_sub(sent_ns).min(LATENCY_NS_MAX));
        }
        if matches!(self.sends, Sends::Nothing) {
            return Ok(());
        }
        connection.trickle_ns.extend(std::iter::repeat_n(now_ns, completed));
        connection.outstanding += completed;
        // All requests are the same, so what is unsent is always the end of a block.
        connection.unsent_bytes += completed * (self.block.len() / self.depth);
        connection.send(&self.block)
    }

    fn end_block(&mut self, index: usize) {
        let now_ns = clock::now_ns();
        let latency_ns = now_ns.saturating_sub(self.connections[index].due_ns);
        self.latency.saturating_record(latency_ns.min(LATENCY_NS_MAX));
        match self.sends {
            Sends::OnAnswer => self.send_block(index, now_ns, now_ns),
            Sends::Paced(_) => {
                if self.idle.is_empty() {
                    self.idle_since_ns = now_ns;
                }
                self.idle.push_back(index);
            }
            Sends::Nothing => {}
        }
    }

    #[cold]
    fn give_up(&mut self, index: usize, lost: &Lost) {
        let connection = &mut self.connections[index];
        connection.socket = None;
        self.faults.connections_lost += 1;
        self.faults.unanswered += std::mem::take(&mut connection.outstanding) as u64;
        self.faults.first.get_or_insert_with(|| lost.to_string());
    }
}

struct Received {
    completed: usize,
    /// The socket had less than was asked for, so it is empty now.
    drained: bool,
}

impl Connection {
    /// Sends what is left of the block, as much as the socket takes.
    fn send(&mut self, block: &[u8]) -> Result<(), Lost> {
        let Some(socket) = &self.socket else { return Ok(()) };
        self.unsent_bytes -= socket::send_some(socket, &block[block.len() - self.unsent_bytes..])?;
        Ok(())
    }

    /// One `recv`, checked; `None` when there is nothing to receive.
    fn receive<B: Bodies>(
        &mut self,
        buffer: &mut [u8],
        discard: &mut [u8],
        known: &mut KnownHead,
        bodies: &mut B,
    ) -> Result<Option<Received>, Lost> {
        let Some(socket) = &self.socket else { return Ok(None) };
        let body_remaining = self.scanner.body_remaining();
        if !B::WANTED && body_remaining >= DISCARD_BYTES_MIN {
            let asked = body_remaining.min(discard.len());
            let Some(dropped) = receive_bytes(socket, &mut discard[..asked], RecvFlags::TRUNC)? else {
                return Ok(None);
            };
            let completed = usize::from(self.scanner.skip(dropped));
            return Ok(Some(Received { completed, drained: dropped < asked }));
        }
        let heads_only = !B::WANTED && known.body_bytes() >= DISCARD_BYTES_MIN;
        let asked = if heads_only { body_remaining + HEAD_READ_BYTES } else { buffer.len() };
        let Some(filled) = receive_bytes(socket, &mut buffer[..asked], RecvFlags::empty())? else { return Ok(None) };
        let completed = self.scanner.scan(known, &buffer[..filled], bodies)?;
        Ok(Some(Received { completed, drained: filled < asked }))
    }
}

/// Bytes that came; `None` when there are none yet.
fn receive_bytes(socket: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> Result<Option<usize>, Lost> {
    match socket::receive(socket, buffer, flags)? {
        Some(0) => Err(Lost::Closed),
        received => Ok(received),
    }
}
