//! One generator thread of exchanges.
//!
//! ```text
//! until the drain is over:
//!     send the blocks that are due (open loop); look after connections that are being opened
//!     wait for events
//!     for each: receive; step by step: match a head with the oldest pending request, keep or drop its body, check it
//!         all answered?  close and open again (that many requests), or send the next block, or be idle
//! ```
//!
//! What the real code adds: a socket may be replaced while its bytes are taken, told by its generation; bodies that nobody
//! looks into are dropped in the kernel from 16 KiB on.

use crate::clock;
use crate::error::{Context, Result};
use crate::limits::{
    DISCARD_BYTES_MAX, DISCARD_BYTES_MIN, DRAIN_TIMEOUT, EVENTS_PER_WAIT, LATENCY_NS_MAX, RECEIVE_BYTES,
    RECONNECT_LOOK, RECONNECT_PAUSE, RECONNECT_TIMEOUT, TURN_TIMEOUT,
};
use crate::load::exchange::answer::{AnswerHead, Framing, KnownAnswer, Step};
use crate::load::exchange::checks::{Checks, Keep, Wrong};
use crate::load::exchange::connection::{Connection, Link, Pending};
use crate::load::exchange::{Exchanges, Options};
use crate::load::report::{Mark, Report};
use crate::load::socket::{self, Lost};
use crate::load::{Engine, Faults, Pace, latency_histogram};
use crate::scan::Fault;
use hdrhistogram::Histogram;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::collections::VecDeque;
use std::io;

pub struct Generator<'o> {
    options: &'o Options,
    thread_index: usize,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Open connections that are owed nothing, longest idle first; used by the open loop only.
    idle: VecDeque<usize>,
    /// By request: the head of its last answer.
    known: Vec<KnownAnswer>,
    checks: Checks,
    random: fastrand::Rng,
    buffer: Vec<u8>,
    /// The address range that dropped bodies are measured against; its pages are never touched.
    discard: Vec<u8>,
    /// Good answers.
    responses: u64,
    exchanges: Exchanges,
    faults: Faults,
    latency: Histogram<u64>,
    late_ns_max: u64,
    late: Histogram<u64>,
    /// Since when a connection has been idle without a break.
    idle_since_ns: u64,
    sends: Sends,
    /// When connections that are being opened are looked at next.
    look_ns: u64,
}

/// Who decides when the next request leaves.
enum Sends {
    /// An answer.
    OnAnswer,
    /// The clock.
    Paced(Pace),
    /// Nobody any more: the window is over.
    Nothing,
}

/// What one `recv` brought.
enum Received {
    /// Nothing yet.
    Nothing,
    /// The end of the stream.
    End,
    /// Bytes, all taken.
    Bytes {
        /// The socket had less than was asked for, so it is empty now.
        drained: bool,
    },
}

impl Engine for Generator<'_> {
    type Done = (Report, Exchanges);

    fn run(mut self, start_ns: u64) -> Result<(Report, Exchanges)> {
        let begin_ns = start_ns + clock::duration_ns(self.options.warmup);
        let end_ns = begin_ns + clock::duration_ns(self.options.window);
        self.begin(start_ns);
        self.turns_until(begin_ns)?;
        self.latency.reset();
        self.late_ns_max = 0;
        self.late.reset();
        let server = self.options.server.filter(|_| self.thread_index == 0);
        let begin = Mark::now(self.responses, server)?;
        self.turns_until(end_ns)?;
        let end = Mark::now(self.responses, server)?;
        let (latency, never_sent) = match std::mem::replace(&mut self.sends, Sends::Nothing) {
            Sends::Paced(pace) => {
                let never_sent = pace.record_never_sent(end_ns.min(end.at_ns), &mut self.latency);
                self.drain(true)?;
                (self.latency, never_sent)
            }
            Sends::OnAnswer | Sends::Nothing => {
                let latency = std::mem::replace(&mut self.latency, latency_histogram());
                self.drain(false)?;
                (latency, 0)
            }
        };
        let Checks { json_checked, newest_checked, unread, .. } = self.checks;
        let exchanges = Exchanges { json_checked, newest_checked, unread, ..self.exchanges };
        let (faults, late_ns_max, late) = (self.faults, self.late_ns_max, self.late);
        Ok((Report { begin, end, faults, latency, late_ns_max, late, never_sent }, exchanges))
    }
}

impl<'o> Generator<'o> {
    /// Opens all connections.
    pub fn connect(options: &'o Options, thread_index: usize, connections_count: usize) -> Result<Self> {
        let requests_count = options.traffic.requests().len();
        let mut generator = Generator {
            options,
            thread_index,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).context("creating an epoll")?,
            connections: Vec::with_capacity(connections_count),
            idle: VecDeque::new(),
            known: std::iter::repeat_with(KnownAnswer::default).take(requests_count).collect(),
            checks: Checks::new(options.json_every, options.newest_never_back),
            random: fastrand::Rng::with_seed(options.seed.wrapping_add(thread_index as u64)),
            buffer: vec![0; RECEIVE_BYTES],
            discard: vec![0; DISCARD_BYTES_MAX],
            responses: 0,
            exchanges: Exchanges::new(requests_count),
            faults: Faults::default(),
            latency: latency_histogram(),
            late_ns_max: 0,
            late: latency_histogram(),
            idle_since_ns: 0,
            sends: Sends::Nothing,
            look_ns: 0,
        };
        for index in 0..connections_count {
            let since_ns = clock::now_ns();
            let socket = socket::open(&options.address).context(format!("connecting to {}", options.address))?;
            generator.exchanges.connect_latency.saturating_record(clock::now_ns() - since_ns);
            socket::watch(&generator.epoll, &socket, index as u64)?;
            generator.connections.push(Connection::new(Link::Open(socket), options.traffic.lists_count()));
        }
        Ok(generator)
    }

    fn begin(&mut self, start_ns: u64) {
        self.sends = match self.options.rate {
            Some(rate) => {
                let share = self.connections.len() as f64 / self.options.connections_count as f64;
                Sends::Paced(Pace::new(start_ns, rate * share / self.options.depth as f64))
            }
            None => Sends::OnAnswer,
        };
        for index in 0..self.connections.len() {
            self.be_ready(index);
        }
    }

    fn turns_until(&mut self, deadline_ns: u64) -> Result<()> {
        let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
        let is_usable = |connection: &Connection| !matches!(connection.link, Link::Lost);
        while clock::now_ns() < deadline_ns && self.connections.iter().any(is_usable) {
            self.turn(&mut events, deadline_ns)?;
        }
        Ok(())
    }

    /// Waits for what is still owed; nothing new is sent. `is_recorded`: what is not answered has a latency too.
    fn drain(&mut self, is_recorded: bool) -> Result<()> {
        let deadline_ns = clock::now_ns() + clock::duration_ns(DRAIN_TIMEOUT);
        let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
        while self.connections.iter().any(|connection| !connection.pending.is_empty()) && clock::now_ns() < deadline_ns
        {
            self.turn(&mut events, deadline_ns)?;
        }
        let now_ns = clock::now_ns();
        for connection in &self.connections {
            self.faults.unanswered += connection.pending.len() as u64;
            if let Some(pending) = connection.pending.front() {
                self.faults.first.get_or_insert_with(|| format!("no answer within {DRAIN_TIMEOUT:?}"));
                if is_recorded {
                    let waited_ns = now_ns.saturating_sub(pending.due_ns);
                    self.latency.saturating_record(waited_ns.min(LATENCY_NS_MAX));
                }
            }
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
        if now_ns >= self.look_ns && !matches!(self.sends, Sends::Nothing) {
            self.look_after_opening(now_ns);
        }
        let wait_ns = wake_ns.saturating_sub(now_ns).min(clock::duration_ns(TURN_TIMEOUT));
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&clock::timespec(wait_ns))) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for answers"),
        }
        for event in &*events {
            // A closed socket leaves no event behind, and each has one in a batch: this is the connection's present one.
            let index = event.data.u64() as usize;
            if let Err(lost) = self.handle(index, event.flags) {
                self.give_up(index, &lost);
            }
        }
        if let Some(progress) = &self.options.progress {
            progress.tell(self.thread_index, self.responses, self.faults.count());
            if progress.is_latency_due(self.thread_index, now_ns) {
                progress.tell_latency(self.thread_index, self.latency.value_at_quantile(0.99), now_ns);
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
            self.send_block(index, due_ns);
        }
    }

    /// Sends a block; a shorter one when the connection is to close before its end.
    fn send_block(&mut self, index: usize, due_ns: u64) {
        let connection = &self.connections[index];
        debug_assert!(matches!(connection.link, Link::Open(_)) && connection.pending.is_empty());
        let room = self.requests_left(index);
        for _ in 0..room.min(self.options.depth as u64) {
            self.queue(index, due_ns);
        }
        if let Err(error) = self.connections[index].flush() {
            self.give_up(index, &error.into());
        }
    }

    fn queue(&mut self, index: usize, due_ns: u64) {
        let request_index = self.options.traffic.pick(&mut self.random);
        let request = &self.options.traffic.requests()[request_index];
        self.connections[index].queue(Pending { request_index, due_ns }, &request.bytes);
    }

    /// Requests that the connection may still send on its socket.
    fn requests_left(&self, index: usize) -> u64 {
        let sent = self.connections[index].requests_count;
        self.options.requests_per_connection.map_or(u64::MAX, |count| count.saturating_sub(sent))
    }

    fn handle(&mut self, index: usize, flags: epoll::EventFlags) -> Result<(), Lost> {
        // An edge comes once: after one that tells of an end, the socket is read up to that end.
        let ended = flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        match &self.connections[index].link {
            Link::Pausing { .. } | Link::Lost => Ok(()),
            Link::Opening { socket, since_ns } => {
                let since_ns = *since_ns;
                match socket.take_error() {
                    Ok(None) => self.be_open(index, since_ns),
                    Ok(Some(error)) | Err(error) => self.connect_failed(index, error),
                }
                Ok(())
            }
            Link::Open(_) => {
                // An answer may have come before the end, which no request can leave after.
                if !ended {
                    self.connections[index].flush()?;
                }
                if ended || flags.contains(epoll::EventFlags::IN) { self.receive(index, ended) } else { Ok(()) }
            }
        }
    }

    fn receive(&mut self, index: usize, until_end: bool) -> Result<(), Lost> {
        let generation = self.connections[index].generation;
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = self.receive_once(index, &mut buffer);
            self.buffer = buffer;
            match received? {
                Received::Nothing => return Ok(()),
                Received::End => return self.end_of_stream(index),
                Received::Bytes { drained } => {
                    let connection = &self.connections[index];
                    let is_replaced = connection.generation != generation;
                    if is_replaced || (drained && !until_end) {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn receive_once(&mut self, index: usize, buffer: &mut [u8]) -> Result<Received, Lost> {
        let connection = &mut self.connections[index];
        let Link::Open(socket) = &connection.link else { return Ok(Received::Nothing) };
        let body_remaining = connection.reader.body_remaining();
        if connection.kept.keep == Keep::Nothing && body_remaining >= DISCARD_BYTES_MIN {
            let asked = body_remaining.min(self.discard.len());
            return match socket::receive(socket, &mut self.discard[..asked], RecvFlags::TRUNC)? {
                None => Ok(Received::Nothing),
                Some(0) => Ok(Received::End),
                Some(dropped) => {
                    connection.reader.skip(dropped);
                    self.take(index, &[])?;
                    Ok(Received::Bytes { drained: dropped < asked })
                }
            };
        }
        match socket::receive(socket, buffer, RecvFlags::empty())? {
            None => Ok(Received::Nothing),
            Some(0) => Ok(Received::End),
            Some(filled) => {
                self.take(index, &buffer[..filled])?;
                Ok(Received::Bytes { drained: filled < buffer.len() })
            }
        }
    }

    /// Takes bytes of the stream, then sends what their answers allow.
    fn take(&mut self, index: usize, mut bytes: &[u8]) -> Result<(), Lost> {
        let now_ns = clock::now_ns();
        let mut answers_count: u64 = 0;
        loop {
            let connection = &mut self.connections[index];
            if connection.pending.is_empty() && bytes.is_empty() {
                break;
            }
            let request_index = connection.owed()?.request_index;
            let request = &self.options.traffic.requests()[request_index];
            let known = &mut self.known[request_index];
            let (taken, step) = connection.reader.advance(bytes, request.is_head, known)?;
            bytes = &bytes[taken..];
            match step {
                Step::More => break,
                Step::Interim => {}
                Step::Head(head) => {
                    let has_body = !matches!(head.framing, Framing::Empty | Framing::Length(0));
                    let is_list = self.options.traffic.list_of(request_index).is_some();
                    let is_looked_into = has_body && request.expected.accepts(head.status);
                    connection.kept.begin(if is_looked_into {
                        self.checks.keep(&head, is_list)
                    } else {
                        Keep::Nothing
                    });
                    connection.head = Some(head);
                }
                Step::Body(body) => connection.kept.extend(body),
                Step::End => {
                    answers_count += 1;
                    if self.end_answer(index, now_ns) {
                        return self.close_as_announced(index);
                    }
                }
            }
        }
        if answers_count > 0 {
            self.go_on(index, answers_count, now_ns)?;
        }
        Ok(())
    }

    /// Counts and checks an answer; whether it announced the end of its connection.
    fn end_answer(&mut self, index: usize, now_ns: u64) -> bool {
        let connection = &mut self.connections[index];
        let (Some(Pending { request_index, due_ns }), Some(AnswerHead { status, closes, .. })) =
            (connection.pending.pop_front(), connection.head.take())
        else {
            unreachable!("an answer ends only after its head, which was matched with a request");
        };
        connection.answers_count += 1;
        if self.options.trickle || connection.pending.is_empty() {
            self.latency.saturating_record(now_ns.saturating_sub(due_ns).min(LATENCY_NS_MAX));
        }
        let request = &self.options.traffic.requests()[request_index];
        let counts = &mut self.exchanges.requests[request_index];
        counts.answers += 1;
        self.exchanges.non_2xx += u64::from(!(200..300).contains(&status));
        if !request.expected.accepts(status) {
            counts.wrong_status += 1;
            self.faults.wrong_status += 1;
            self.faults.first.get_or_insert_with(|| format!("{request}: status {status}"));
            return closes;
        }
        let newest = self.options.traffic.list_of(request_index).map(|list| &mut connection.newest[list]);
        match self.checks.inspect(&connection.kept, newest) {
            Ok(()) => self.responses += 1,
            Err(wrong) => {
                match wrong {
                    Wrong::Json(_) => self.faults.invalid_json += 1,
                    Wrong::WentBack { .. } => self.faults.went_back += 1,
                }
                self.faults.first.get_or_insert_with(|| format!("{request}: {wrong}"));
            }
        }
        closes
    }

    /// After so many answers: what is sent for them.
    fn go_on(&mut self, index: usize, answers_count: u64, now_ns: u64) -> Result<(), Lost> {
        if self.options.trickle && matches!(self.sends, Sends::OnAnswer) {
            for _ in 0..answers_count.min(self.requests_left(index)) {
                self.queue(index, now_ns);
            }
            self.connections[index].flush()?;
        }
        if self.connections[index].pending.is_empty() {
            if self.requests_left(index) == 0 {
                self.reopen(index);
            } else {
                self.be_ready(index);
            }
        }
        Ok(())
    }

    /// An open connection that is owed nothing.
    fn be_ready(&mut self, index: usize) {
        match self.sends {
            Sends::OnAnswer => self.send_block(index, clock::now_ns()),
            Sends::Paced(_) => {
                if self.idle.is_empty() {
                    self.idle_since_ns = clock::now_ns();
                }
                self.idle.push_back(index);
            }
            Sends::Nothing => {}
        }
    }

    #[cold]
    fn end_of_stream(&mut self, index: usize) -> Result<(), Lost> {
        let connection = &mut self.connections[index];
        if connection.reader.end_of_stream() {
            // It was announced: its end is told now.
            return self.take(index, &[]);
        }
        let owes_nothing = connection.pending.is_empty() && connection.reader.is_between();
        if owes_nothing && (self.options.reconnects || matches!(self.sends, Sends::Nothing)) {
            self.exchanges.closed_by_server += 1;
            self.open_after_end(index);
            return Ok(());
        }
        Err(Lost::Closed)
    }

    /// `Connection: close` in an answer that is complete.
    #[cold]
    fn close_as_announced(&mut self, index: usize) -> Result<(), Lost> {
        let was_to_close = self.requests_left(index) == 0 && self.connections[index].pending.is_empty();
        if !self.options.reconnects && !was_to_close {
            return Err(Fault::Closing.into());
        }
        self.exchanges.closed_by_server += 1;
        self.exchanges.cut_off += self.connections[index].pending.len() as u64;
        self.open_after_end(index);
        Ok(())
    }

    #[cold]
    fn give_up(&mut self, index: usize, lost: &Lost) {
        self.faults.connections_lost += 1;
        self.faults.unanswered += self.connections[index].pending.len() as u64;
        self.faults.first.get_or_insert_with(|| lost.to_string());
        if self.options.reconnects {
            self.open_after_end(index);
        } else {
            self.relink(index, Link::Lost);
        }
    }

    #[cold]
    fn connect_failed(&mut self, index: usize, error: io::Error) {
        self.exchanges.connects_failed += 1;
        self.give_up(index, &Lost::Connect(error));
    }

    /// Opens again: at once, or after a pause where nothing was answered, lest a server that closes is flooded.
    fn open_after_end(&mut self, index: usize) {
        if self.connections[index].answers_count > 0 {
            self.reopen(index);
        } else {
            let until_ns = clock::now_ns() + clock::duration_ns(RECONNECT_PAUSE);
            self.relink(index, Link::Pausing { until_ns });
        }
    }

    fn reopen(&mut self, index: usize) {
        if matches!(self.sends, Sends::Nothing) {
            return self.relink(index, Link::Lost);
        }
        let since_ns = clock::now_ns();
        // The old socket is closed first, so that the server never has more of them than connections were asked for.
        self.relink(index, Link::Lost);
        let opened = socket::begin_open(&self.options.address).and_then(|(socket, is_open)| {
            socket::watch(&self.epoll, &socket, index as u64).map_err(|error| io::Error::other(error.to_string()))?;
            Ok((socket, is_open))
        });
        match opened {
            Ok((socket, is_open)) => {
                self.connections[index].link = Link::Opening { socket, since_ns };
                if is_open {
                    self.be_open(index, since_ns);
                }
            }
            Err(error) => self.connect_failed(index, error),
        }
    }

    fn be_open(&mut self, index: usize, since_ns: u64) {
        self.exchanges.reconnects += 1;
        let took_ns = clock::now_ns().saturating_sub(since_ns);
        self.exchanges.connect_latency.saturating_record(took_ns.min(LATENCY_NS_MAX));
        let link = &mut self.connections[index].link;
        if let Link::Opening { socket, .. } = std::mem::replace(link, Link::Lost) {
            *link = Link::Open(socket);
        }
        self.be_ready(index);
    }

    /// A connection of another socket, or of none, is not idle.
    fn relink(&mut self, index: usize, link: Link) {
        if !self.idle.is_empty() {
            self.idle.retain(|&idle| idle != index);
        }
        self.connections[index].relink(link);
    }

    /// Those that pause are opened, those that take too long are given up.
    fn look_after_opening(&mut self, now_ns: u64) {
        self.look_ns = now_ns + clock::duration_ns(RECONNECT_LOOK);
        for index in 0..self.connections.len() {
            match self.connections[index].link {
                Link::Pausing { until_ns } if until_ns <= now_ns => self.reopen(index),
                Link::Opening { since_ns, .. } if now_ns > since_ns + clock::duration_ns(RECONNECT_TIMEOUT) => {
                    self.connect_failed(index, io::ErrorKind::TimedOut.into());
                }
                _ => {}
            }
        }
    }
}
