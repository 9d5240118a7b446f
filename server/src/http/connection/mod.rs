//! A connection as a pure state machine: bytes in, acknowledgements in, `written`, `tick`; out come bytes to write and
//! one of read, write, resume, wait, linger, close. `shard/connection` only moves bytes between it and a socket.
//!
//! ```text
//! while the turn's bytes are not spent:
//!     if the next bytes are the head this connection sent last: answer it as often as it repeats
//!     else find the end of the head         -> not there: keep what there is, ask for more
//!     parse, route                          -> fault: answer, close
//!     a read that memory answers: answer it
//!     a write: authenticate, read its body, check it, put it into the group
//!     anything else that memory cannot answer: a group of its own
//!     a group is a barrier: hand it over, answer when all its outcomes are in, then go on
//! ```
//!
//! What the real code adds, and what each buys:
//! 1. Equal heads are compared, not parsed, and answered as one slice of one run (`known`, `snapshot::response`):
//!    80 pipelined requests are one parse, 79 comparisons and one write.
//! 2. A turn ends at [`OUTPUT_BYTES_PER_TURN`](crate::limits::OUTPUT_BYTES_PER_TURN); the rest of the input waits
//!    unparsed, so no connection holds its shard.
//! 3. A write joins a group only if its whole request is already here, so a slow body never delays what is complete.
//!    One refused at the door keeps its place in the group, so answers stay in request order.
//! 4. The body of a refused request is read and dropped up to a bound, else the connection closes: no byte of a body is
//!    ever taken for a request.
//! 5. Who may have so many requests and no more is answered those; each behind them is 429, in its place. A run of equal
//!    heads costs one subtraction.
//! 6. After the last answer the connection lingers (RFC 9112 9.6), so that no reset destroys what was sent.

mod admit;
mod answers;
mod group;
mod log;
#[cfg(any(test, fuzzing))]
pub mod proof;
mod requests;

use self::admit::Write;
pub use self::answers::next_link;
use self::group::Group;
pub use self::group::{Deferred, DeferredAnswer, Page, WriteOutcome};
use crate::counters::RouteKind;
use crate::http::access::RequestLine;
use crate::http::body::Body;
use crate::http::head;
use crate::http::known::KnownIndex;
use crate::http::output::{Output, Transfer};
use crate::http::proxy_header::Client;
use crate::http::reject::Reject;
use crate::http::reply::Form;
use crate::http::site::Site;
use crate::limits::{LINGER_BYTES_MAX, LINGER_TIMEOUT, PROGRESS_BYTES};

/// What the mover does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read from the client and give the bytes to [`Connection::receive`].
    Read,
    /// Write what [`Connection::transfer`] gives and tell [`Connection::written`].
    Write,
    /// Call [`Connection::resume`]: there is input that has not been looked at.
    Resume,
    /// Hand [`Connection::take_deferred`] over, if that has not been done, and wait for its outcomes; or, when a write is
    /// held, until it is looked at or the connection is passed on.
    Wait,
    /// Say that nothing more comes, then read and drop until [`Connection::discarded`] says that it is enough.
    Linger,
    /// Close.
    Close,
}

/// Why [`Connection::tick`] ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing was owed: it is closed without a word.
    Idle,
    /// A request had begun: 408 is queued, then it closes.
    Timeout,
    /// The client does not take what it is owed: a reset, so that the kernel does not keep it for minutes.
    Stalled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before the header of the proxy that passes the connection on.
    ProxyHeader,
    /// Between requests, or within a head.
    Head,
    /// Within a body; `Connection::body` has it.
    Body,
    /// A group is handed over or about to be; nothing is parsed.
    Deferred,
    /// A write stands at the front of the input and is not looked at: the process holds its writes for another one.
    Held,
    /// No further request is looked at; what is owed leaves, then it lingers or closes.
    Closing,
}

/// One connection.
pub struct Connection {
    phase: Phase,
    /// Its number in its shard, by which the access log knows its client.
    number: u32,
    /// Who is at the other end. The one address that counts, wherever one is asked for.
    client: Client,
    /// The last input was looked at to its end or to a byte that is missing; more can only come from the client.
    starved: bool,
    /// The client has ended its side.
    input_ended: bool,
    /// The head that this connection sent last, if the shard knows it.
    known: Option<KnownIndex>,
    /// Hash of the last plain head: a second equal one in a row is remembered.
    last_head_hash: u64,
    /// Input that is not consumed; `input[input_start..]`. Empty for a connection that keeps up.
    input: Vec<u8>,
    input_start: usize,
    /// How much of the unconsumed input has been searched for the end of the head: less than a head may have, and two.
    scanned: u32,
    /// More is here of a head than the empty line that may precede it.
    head_begun: bool,
    /// It has sent a whole head.
    has_asked: bool,
    /// When the head, body, linger or idle time began, in ticks.
    began_ms: u64,
    /// When the client last took [`PROGRESS_BYTES`], in ticks, and what it has taken since.
    progress_ms: u64,
    progress_bytes: u64,
    output: Output,
    body: Option<Box<ReadingBody>>,
    group: Option<Box<Group>>,
}

/// A request whose body is being read.
struct ReadingBody {
    reader: Body,
    purpose: Purpose,
    /// For the access log, if there is one, of a request that is not answered yet.
    line: Option<Box<RequestLine>>,
}

enum Purpose {
    /// A write that passed the door.
    Write { write: Write, form: Form, payload: Vec<u8> },
    /// A refused request, already answered or waiting in the group: its body is dropped, up to a bound.
    Discard,
}

/// What one look at the input came to.
enum Step {
    /// Something was consumed; look again.
    Continue,
    /// The rest can only be understood with more bytes.
    Starved,
    /// Nothing more is looked at in this turn.
    Stop,
}

impl Connection {
    /// A new connection at `tick_ms`, by its number in its shard.
    pub fn new(tick_ms: u64, number: u32) -> Connection {
        Connection {
            phase: Phase::Head,
            number,
            client: Client::Direct,
            starved: true,
            input_ended: false,
            known: None,
            last_head_hash: 0,
            input: Vec::new(),
            input_start: 0,
            scanned: 0,
            head_begun: false,
            has_asked: false,
            began_ms: tick_ms,
            progress_ms: tick_ms,
            progress_bytes: 0,
            output: Output::default(),
            body: None,
            group: None,
        }
    }

    /// Says who is at the other end, or that a header is to say it. Before anything is received.
    pub fn set_client(&mut self, client: Client) {
        debug_assert!(self.is_between_requests() && self.input.is_empty(), "nothing has been received");
        self.client = client;
        if client == Client::Awaited {
            self.phase = Phase::ProxyHeader;
        }
    }

    /// The client may not have this connection: says why, and closes. Only after [`Next::Read`] or [`Next::Resume`].
    pub fn turn_away(&mut self, reject: Reject, site: &mut Site) {
        self.reject(reject, Form::CLOSING, RouteKind::Other, site);
        self.tell_answered(None, site);
        self.close(site);
    }

    /// Takes what the client sent. Only after [`Next::Read`].
    pub fn receive(&mut self, bytes: &[u8], site: &mut Site) {
        debug_assert_eq!(self.next(), Next::Read, "bytes come only when they are asked for");
        self.output.begin_turn();
        if self.is_between_requests() {
            self.began_ms = site.now.tick_ms;
        }
        if self.input.is_empty() {
            let consumed = self.advance(bytes, site);
            self.hold(&bytes[consumed..], site);
        } else {
            site.input_bytes += bytes.len();
            self.input.extend_from_slice(bytes);
            self.advance_held(site);
        }
        self.turn_done(site);
    }

    /// Goes on with input that is already here. Only after [`Next::Resume`].
    pub fn resume(&mut self, site: &mut Site) {
        debug_assert_eq!(self.next(), Next::Resume, "there is input that has not been looked at");
        self.output.begin_turn();
        self.advance_held(site);
        self.turn_done(site);
    }

    /// The client has ended its side: what has not come of a request never will. Only after [`Next::Read`].
    pub fn end_of_input(&mut self, site: &mut Site) {
        debug_assert_eq!(self.next(), Next::Read, "it is served to its end before it is asked for more");
        self.input_ended = true;
        if self.phase == Phase::ProxyHeader && !self.input.is_empty() {
            site.counters.proxy_refused.add(1);
        }
        self.close(site);
    }

    /// The next bytes to write.
    pub fn transfer(&mut self, site: &Site) -> Option<Transfer> {
        self.output.next(&site.pool)
    }

    /// The kernel has taken `count` bytes of the transfer.
    pub fn written(&mut self, count: usize, site: &Site) {
        self.output.written(count, &site.pool);
        self.progress_bytes += count as u64;
        if self.output.is_empty() {
            // What follows (idle time, a linger, the next head) counts from here.
            self.began_ms = site.now.tick_ms;
        } else if self.progress_bytes >= PROGRESS_BYTES {
            self.progress_ms = site.now.tick_ms;
            self.progress_bytes = 0;
        }
    }

    /// What to hand over; once a group, and not before the earlier answers have been written.
    pub fn take_deferred(&mut self) -> Option<Deferred> {
        if self.next() != Next::Wait {
            return None;
        }
        self.group.as_mut()?.take_deferred()
    }

    /// The outcome of the group's `place`-th command. Answers are queued when all are in; true then.
    pub fn write_outcome(&mut self, place: usize, outcome: WriteOutcome, site: &mut Site) -> bool {
        let Some(group) = &mut self.group else { return false };
        group.set_outcome(place, outcome);
        self.answer_group_if_complete(site)
    }

    /// The answer to a deferred read or page. True when it is queued.
    pub fn deferred_answer(&mut self, answer: DeferredAnswer, site: &mut Site) -> bool {
        let Some(group) = &mut self.group else { return false };
        group.set_answer(answer);
        self.answer_group_if_complete(site)
    }

    /// Bytes that came while lingering were dropped; false when that is enough and the connection is to be closed.
    pub fn discarded(&self, linger: &mut Linger, count: usize, site: &Site) -> bool {
        linger.bytes += count as u64;
        count > 0
            && linger.bytes <= LINGER_BYTES_MAX as u64
            && site.now.tick_ms < self.began_ms + LINGER_TIMEOUT.as_millis() as u64
    }

    /// Ends what has waited too long. A 408 is queued where one is due.
    pub fn tick(&mut self, site: &mut Site) -> Option<Cut> {
        if site.now.tick_ms < self.deadline_ms(site)? {
            return None;
        }
        if !self.output.is_empty() {
            self.output.clear(&site.pool);
            self.close(site);
            return Some(Cut::Stalled);
        }
        let is_answered = self.body.as_ref().is_some_and(|body| matches!(body.purpose, Purpose::Discard));
        if self.phase == Phase::ProxyHeader {
            self.refuse_proxy(site);
            return Some(Cut::Idle);
        }
        if self.phase == Phase::Closing || self.is_between_requests() || is_answered {
            self.close(site);
            return Some(Cut::Idle);
        }
        debug_assert!(self.group.is_none(), "a group is handed over before more input is waited for");
        let begun = &self.input[self.input_start..];
        let head_only = head::asks_head_only(begun);
        // Within a body what is here is none of the line's.
        let line = match &mut self.body {
            Some(body) => body.line.take(),
            None => site.access.is_on().then(|| Box::new(RequestLine::of(begun))),
        };
        self.reject(Reject::RequestTimeout, Form { head_only, ..Form::CLOSING }, RouteKind::Other, site);
        self.tell_answered(line, site);
        self.close(site);
        self.turn_done(site);
        Some(Cut::Timeout)
    }

    /// The process is going: a connection between two requests takes no further one, another closes behind the answer
    /// to its next. To be called once [`Site::draining`] is set.
    pub fn drain(&mut self, site: &mut Site) {
        if self.is_between_requests() {
            self.close(site);
        }
    }

    /// The connection goes to the control plane, which writes to it from here on: the head of its answer, which goes
    /// first. What has come behind the request is dropped, since nothing behind an answer without end is answered. Only
    /// with [`Deferred::Events`] in hand; [`release`](Connection::release) follows.
    pub fn leave(&mut self, site: &mut Site) -> Vec<u8> {
        debug_assert!(self.next() == Next::Wait, "nothing is owed");
        let head = self.events_head(site);
        let line = self.group.as_mut().and_then(|group| group.take_first_line());
        self.tell_answered(line, site);
        self.close(site);
        head
    }

    /// Looks at the write that was held, if one was.
    pub fn resume_writes(&mut self) {
        if self.phase == Phase::Held {
            self.phase = Phase::Head;
        }
    }

    /// Whether another process can go on with it: it stands before a request or the header of its proxy, whole, begun or
    /// not there yet, and nothing is owed.
    pub fn can_move(&self) -> bool {
        matches!(self.phase, Phase::ProxyHeader | Phase::Head | Phase::Held)
            && self.group.is_none()
            && self.output.is_empty()
    }

    /// What has come and was not looked at, for the process that goes on with it; as a new connection it is left behind.
    /// Only when [`can_move`](Connection::can_move) says so. At most a read buffer and a begun head.
    pub fn take_input(&mut self, site: &mut Site) -> Box<[u8]> {
        debug_assert!(self.can_move(), "nothing of an answer may be left behind");
        let input = self.input[self.input_start..].into();
        self.drop_input(site);
        let phase = if self.phase == Phase::ProxyHeader { Phase::ProxyHeader } else { Phase::Head };
        (self.phase, self.starved, self.head_begun) = (phase, true, false);
        input
    }

    /// Whether it has a write that this process must finish: its body is coming, or its outcome.
    pub fn is_writing(&self) -> bool {
        let has_body = self.body.as_ref().is_some_and(|body| matches!(body.purpose, Purpose::Write { .. }));
        has_body || self.group.as_ref().is_some_and(|group| group.is_of_writes())
    }

    /// Cuts the connection: nothing more is owed.
    pub fn abandon(&mut self, site: &mut Site) {
        self.output.clear(&site.pool);
        self.input_ended = true;
        self.close(site);
    }

    /// What the mover does next.
    pub fn next(&self) -> Next {
        if !self.output.is_empty() {
            return Next::Write;
        }
        match self.phase {
            Phase::Deferred | Phase::Held => Next::Wait,
            Phase::Closing if self.input_ended => Next::Close,
            Phase::Closing => Next::Linger,
            Phase::ProxyHeader | Phase::Head | Phase::Body if self.starved => Next::Read,
            Phase::ProxyHeader | Phase::Head | Phase::Body => Next::Resume,
        }
    }

    /// Who is at the other end, as far as it is known.
    pub fn client(&self) -> Client {
        self.client
    }

    /// Whether a group waits to be handed over or answered.
    pub fn is_deferred(&self) -> bool {
        self.phase == Phase::Deferred
    }

    /// Whether nothing of a request is here and none is being answered.
    pub fn is_between_requests(&self) -> bool {
        self.phase == Phase::Head && self.starved && !self.head_begun
    }

    /// When [`tick`](Connection::tick) would end it, in ticks; `None` while it does not wait for its client.
    pub fn deadline_ms(&self, site: &Site) -> Option<u64> {
        let rules = &site.rules;
        if !self.output.is_empty() {
            return Some(self.progress_ms + rules.progress_timeout_ms);
        }
        match self.phase {
            Phase::Deferred | Phase::Held => None,
            Phase::Closing => Some(self.began_ms + LINGER_TIMEOUT.as_millis() as u64),
            // Its input is here and waits for a turn.
            Phase::ProxyHeader | Phase::Head | Phase::Body if !self.starved => None,
            Phase::Head if self.is_between_requests() => Some(self.began_ms + rules.idle_timeout_ms),
            Phase::ProxyHeader | Phase::Head => Some(self.began_ms + rules.head_timeout_ms),
            Phase::Body => Some(self.began_ms + rules.body_timeout_ms),
        }
    }

    /// Since when it has been without a whole head, in ticks, if nothing else is waited for: since its idle time began, or a
    /// head, or the header of its proxy, that is not whole yet.
    fn headless_since_ms(&self) -> Option<u64> {
        (matches!(self.phase, Phase::ProxyHeader | Phase::Head) && self.starved && self.output.is_empty())
            .then_some(self.began_ms)
    }

    /// The order in which connections make room where there is none: those that have never sent a whole head go before those
    /// that have, and among them who has been without one longest. `None` while a request is in hand.
    pub fn room_order(&self) -> Option<(bool, u64)> {
        Some((self.has_asked, self.headless_since_ms()?))
    }

    /// When its client last took something that it was owed, in ticks, if it is owed anything.
    pub fn owed_since_ms(&self) -> Option<u64> {
        (!self.output.is_empty()).then_some(self.progress_ms)
    }

    /// When its unfinished request began, in ticks, if input is held for one.
    pub fn unfinished_since_ms(&self) -> Option<u64> {
        (!self.input.is_empty() || self.body.is_some()).then_some(self.began_ms)
    }

    /// As [`Output::oldest_held_replaced_bytes`].
    pub fn oldest_held_replaced_bytes(&self) -> Option<u64> {
        self.output.oldest_held_replaced_bytes()
    }

    /// The connection is over: gives back what it held of the shard's.
    pub fn release(&mut self, site: &mut Site) {
        self.output.clear(&site.pool);
        self.drop_input(site);
        self.drop_body(site);
    }

    // ---- input ----

    /// Keeps what was not consumed. What waits for the next turn is soon gone again, so it waits in a buffer of the
    /// pool; what waits for its client or for outcomes may wait long, so it takes no more memory than it needs.
    fn hold(&mut self, rest: &[u8], site: &mut Site) {
        if rest.is_empty() || self.phase == Phase::Closing {
            return;
        }
        site.input_bytes += rest.len();
        if !matches!(self.phase, Phase::Deferred | Phase::Held) && !self.starved {
            self.input = site.pool.take(rest.len());
        }
        self.input.extend_from_slice(rest);
    }

    fn advance_held(&mut self, site: &mut Site) {
        let mut input = std::mem::take(&mut self.input);
        let start = std::mem::take(&mut self.input_start);
        let consumed = start + self.advance(&input[start..], site);
        let is_over = self.phase == Phase::Closing;
        site.input_bytes -= if is_over { input.len() } else { consumed } - start;
        if is_over || consumed == input.len() {
            // An idle connection holds no buffer.
            site.pool.give_back(input);
            return;
        }
        if self.starved {
            // More will be appended: move what is left to the front once, not on every turn.
            input.drain(..consumed);
        } else {
            self.input_start = consumed;
        }
        self.input = input;
    }

    fn drop_input(&mut self, site: &mut Site) {
        site.input_bytes -= self.input.len() - self.input_start;
        site.pool.give_back(std::mem::take(&mut self.input));
        self.input_start = 0;
        self.scanned = 0;
    }

    /// The clock of a client that has something to take begins.
    fn turn_done(&mut self, site: &mut Site) {
        if site.draining && !site.moving && self.is_between_requests() {
            self.close(site);
        }
        if !self.output.is_empty() {
            self.progress_ms = site.now.tick_ms;
            self.progress_bytes = 0;
        }
    }

    /// Nothing further is looked at or waited for; what is owed still leaves.
    fn close(&mut self, site: &mut Site) {
        self.phase = Phase::Closing;
        self.group = None;
        self.began_ms = site.now.tick_ms;
        self.drop_input(site);
        self.drop_body(site);
    }
}

/// What was read and dropped after the last answer.
#[derive(Debug, Default)]
pub struct Linger {
    bytes: u64,
}

/// Five thousand idle connections are to cost at most 1 KiB each, everything included.
const _: () = assert!(size_of::<Connection>() <= 256);
