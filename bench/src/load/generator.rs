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
use crate::error::{Context, Error, Result};
use crate::limits::{
    DISCARD_BYTES_MAX, DISCARD_BYTES_MIN, DRAIN_TIMEOUT, EVENTS_PER_WAIT, HEAD_READ_BYTES, LATENCY_NS_MAX,
    RECEIVE_BYTES, TURN_TIMEOUT,
};
use crate::load::{Faults, Options, Pace, Progress, latency_histogram};
use crate::process::cpu::ProcessCpu;
use crate::scan::{Bodies, Fault, KnownHead, Scanner};
use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::Pid;
use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

/// A look at the counters, at one end of the window.
#[derive(Clone, Copy)]
pub struct Mark {
    pub at_ns: u64,
    pub responses: u64,
    pub own_cpu_ns: u64,
    pub server: Option<ProcessCpu>,
}

/// What one thread saw.
pub struct Report {
    pub begin: Mark,
    pub end: Mark,
    pub faults: Faults,
    pub latency: Histogram<u64>,
    pub late_ns_max: u64,
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("the server closed the connection")]
    Closed,
    #[error("an answer that nobody asked for")]
    Unasked,
    #[error("{0}")]
    System(#[from] Errno),
}

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

impl<B: Bodies> Generator<B> {
    /// Opens all connections.
    pub fn connect(
        options: &Options,
        thread_index: usize,
        connections_count: usize,
        server: Option<Pid>,
        bodies: B,
    ) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("creating an epoll")?;
        let mut connections = Vec::with_capacity(connections_count);
        for index in 0..connections_count {
            let socket = open_socket(options).context(format!("connecting to {}", options.address))?;
            let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &socket, data, interest | epoll::EventFlags::ET).context("watching a connection")?;
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
            sends: Sends::Nothing,
            server,
            warmup: options.warmup,
            window: options.window,
            trickle: options.trickle,
            progress: options.progress.clone().map(|progress| (progress, thread_index)),
            block_rate: options.rate.map(|rate| rate * share / options.depth as f64),
        })
    }

    /// Warm-up, window, drain.
    pub fn run(mut self, start_ns: u64) -> Result<(Report, B)> {
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
        let begin = self.mark()?;
        self.turns_until(end_ns)?;
        let end = self.mark()?;
        let latency = std::mem::replace(&mut self.latency, latency_histogram());
        let late_ns_max = self.late_ns_max;
        self.sends = Sends::Nothing;
        self.drain()?;
        Ok((Report { begin, end, faults: self.faults, latency, late_ns_max }, self.bodies))
    }

    fn turns_until(&mut self, deadline_ns: u64) -> Result<()> {
        let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
        while clock::now_ns() < deadline_ns && self.connections.iter().any(|connection| connection.socket.is_some()) {
            self.turn(&mut events, deadline_ns)?;
        }
        Ok(())
    }

    /// Waits for what is still owed; nothing new is sent.
    fn drain(&mut self) -> Result<()> {
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
        let wait_ns = wake_ns.saturating_sub(clock::now_ns()).min(clock::duration_ns(TURN_TIMEOUT));
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
            progress.tell(*thread_index, self.responses);
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
            Sends::Paced(_) => self.idle.push_back(index),
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

    fn mark(&self) -> Result<Mark> {
        let server = self.server.map(ProcessCpu::read).transpose().map_err(|error| {
            Error::Unusable(format!("the server's CPU time cannot be read, has it ended? ({error})"))
        })?;
        let (at_ns, own_cpu_ns) = (clock::now_ns(), clock::thread_cpu_ns());
        Ok(Mark { at_ns, responses: self.responses, own_cpu_ns, server })
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
        while self.unsent_bytes > 0 {
            let rest = &block[block.len() - self.unsent_bytes..];
            match retry_on_intr(|| send(socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
                Ok(sent_bytes) => self.unsent_bytes -= sent_bytes,
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
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
            let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
            let Some(dropped) = receive_bytes(socket, &mut discard[..asked], flags)? else { return Ok(None) };
            let completed = usize::from(self.scanner.skip(dropped));
            return Ok(Some(Received { completed, drained: dropped < asked }));
        }
        let heads_only = !B::WANTED && known.body_bytes() >= DISCARD_BYTES_MIN;
        let asked = if heads_only { body_remaining + HEAD_READ_BYTES } else { buffer.len() };
        let flags = RecvFlags::DONTWAIT;
        let Some(filled) = receive_bytes(socket, &mut buffer[..asked], flags)? else { return Ok(None) };
        let completed = self.scanner.scan(known, &buffer[..filled], bodies)?;
        Ok(Some(Received { completed, drained: filled < asked }))
    }
}

/// Bytes that came; `None` when there are none yet.
fn receive_bytes(socket: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> Result<Option<usize>, Lost> {
    match retry_on_intr(|| recv(socket, &mut *buffer, flags)) {
        Ok((_, 0)) => Err(Lost::Closed),
        Ok((_, count)) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open_socket(options: &Options) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&options.address, crate::limits::SINGLE_REQUEST_TIMEOUT)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    // A reset at the end: thousands of connections a second in TIME_WAIT would use up the ports.
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}
