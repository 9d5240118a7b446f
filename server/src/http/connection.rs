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
//! 2. A turn ends at [`OUTPUT_BYTES_PER_TURN`]; the rest of the input waits unparsed, so no connection holds its shard.
//! 3. A write joins a group only if its whole request is already here, so a slow body never delays what is complete.
//!    One refused at the door keeps its place in the group, so answers stay in request order.
//! 4. The body of a refused request is read and dropped up to a bound, else the connection closes: no byte of a body is
//!    ever taken for a request.
//! 5. After the last answer the connection lingers (RFC 9112 9.6), so that no reset destroys what was sent.

use todo_proto::command::{Operation, TodoCommand};
use todo_proto::id::ItemId;
use todo_proto::names::ROUTE;
use todo_proto::todo::{parse_fields, parse_patch};

use crate::counters::RouteKind;
use crate::http::body::{Body, Progress};
use crate::http::condition::if_none_match;
use crate::http::head::{self, Find, Framing, Head, Method};
use crate::http::idempotency;
use crate::http::known::{self, KnownIndex};
use crate::http::output::{Output, Transfer};
use crate::http::reject::{Envelope, Persistence, Reject};
use crate::http::reply::{Fields, Form, varies, write_head};
use crate::http::route::{Route, check_write, route};
use crate::http::site::Site;
use crate::limits::{
    COPIED_BODY_BYTES_MAX, DRAIN_BODY_BYTES_MAX, GROUP_BYTES_MAX, GROUP_WRITES_MAX, ID_AHEAD_MS_MAX, KNOWN_REPEATS_MAX,
    LINGER_BYTES_MAX, LINGER_TIMEOUT, PROGRESS_BYTES, REPLY_HEAD_BYTES_MAX, REQUEST_BODY_BYTES_MAX,
};
use crate::snapshot::Slice;
use crate::snapshot::response::{Found, JSON, Query, find};

/// What the mover does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read from the client and give the bytes to [`Connection::receive`].
    Read,
    /// Write what [`Connection::transfer`] gives and tell [`Connection::written`].
    Write,
    /// Call [`Connection::resume`]: there is input that has not been looked at.
    Resume,
    /// Hand [`Connection::take_deferred`] over, if that has not been done, and wait for its outcomes.
    Wait,
    /// Say that nothing more comes, then read and drop until [`Connection::discarded`] says that it is enough.
    Linger,
    /// Close.
    Close,
}

/// What memory cannot answer: handed to the control plane as one message.
#[derive(Debug)]
pub enum Deferred {
    /// Commands to append, answered one outcome each, in order.
    Writes(Vec<TodoCommand>),
    /// A read below the snapshot's floor.
    Read(Query),
    /// A page that the control plane writes.
    Page(Page),
}

/// Pages of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `GET /ready`.
    Ready,
    /// `GET /metrics`.
    Metrics,
}

/// What became of one deferred write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Durable: 202.
    Acknowledged,
    /// Certainly not taken, or not known: the rejection says which.
    Refused(Reject),
}

/// The control plane's answer to a deferred read or page.
#[derive(Debug)]
pub enum DeferredAnswer {
    /// A body with its media type, status and validator, and further head lines.
    Body {
        /// 200, or 503 for a page that says so.
        status: u16,
        /// Media type.
        content_type: &'static str,
        /// Whole head lines with their CRLFs, at most 256 bytes.
        extra: String,
        /// Validator, quoted.
        etag: Option<crate::snapshot::ETag>,
        /// The body.
        body: Vec<u8>,
    },
    /// An error.
    Reject(Reject),
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
    /// Between requests, or within a head.
    Head,
    /// Within a body; `Connection::body` has it.
    Body,
    /// A group is handed over or about to be; nothing is parsed.
    Deferred,
    /// No further request is looked at; what is owed leaves, then it lingers or closes.
    Closing,
}

/// One connection.
pub struct Connection {
    phase: Phase,
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
    /// How much of the unconsumed input has been searched for the end of the head.
    scanned: usize,
    /// More is here of a head than the empty line that may precede it.
    head_begun: bool,
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
    form: Form,
    purpose: Purpose,
}

enum Purpose {
    /// A write that passed the door.
    Write { write: Write, payload: Vec<u8> },
    /// A refused request, already answered or waiting in the group: its body is dropped, up to a bound.
    Discard,
}

/// A write whose body is not known yet.
struct Write {
    route: Route,
    /// The id that POST creates.
    id: ItemId,
    subject: Box<str>,
}

/// What waits for outcomes, in request order.
struct Group {
    members: Vec<Member>,
    /// What is to be handed over; taken once.
    deferred: Option<Deferred>,
    /// Outcomes that are still to come.
    waiting: usize,
    bytes: usize,
    /// The last member closes the connection.
    closes: bool,
}

struct Member {
    form: Form,
    kind: RouteKind,
    content: MemberContent,
}

enum MemberContent {
    Command { id: ItemId, is_create: bool, outcome: Option<WriteOutcome> },
    Refused(Reject),
    Other(Option<DeferredAnswer>),
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
    /// A new connection at `tick_ms`.
    pub fn new(tick_ms: u64) -> Connection {
        Connection {
            phase: Phase::Head,
            starved: true,
            input_ended: false,
            known: None,
            last_head_hash: 0,
            input: Vec::new(),
            input_start: 0,
            scanned: 0,
            head_begun: false,
            began_ms: tick_ms,
            progress_ms: tick_ms,
            progress_bytes: 0,
            output: Output::default(),
            body: None,
            group: None,
        }
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

    /// The client has ended its side: what it is owed still leaves.
    pub fn end_of_input(&mut self, site: &mut Site) {
        self.input_ended = true;
        self.close(site);
    }

    /// The next bytes to write.
    pub fn transfer(&mut self, site: &Site) -> Option<Transfer> {
        self.output.next(&site.pool)
    }

    /// The kernel has taken `count` bytes of the transfer.
    pub fn written(&mut self, count: usize, site: &Site) {
        self.output.written(count);
        self.progress_bytes += count as u64;
        if self.output.is_empty() {
            // What follows (idle time, a linger, the next head) counts from here.
            self.began_ms = site.now.tick_ms;
        } else if self.progress_bytes >= PROGRESS_BYTES {
            self.progress_ms = site.now.tick_ms;
            self.progress_bytes = 0;
        }
    }

    /// What to hand over; once a group. Only when [`is_deferred`](Connection::is_deferred).
    pub fn take_deferred(&mut self) -> Option<Deferred> {
        if self.phase != Phase::Deferred {
            return None;
        }
        self.group.as_mut()?.deferred.take()
    }

    /// The outcome of the group's `place`-th command. Answers are queued when all are in; true then.
    pub fn write_outcome(&mut self, place: usize, outcome: WriteOutcome, site: &mut Site) -> bool {
        let Some(group) = &mut self.group else { return false };
        let commands = group.members.iter_mut().filter_map(|member| match &mut member.content {
            MemberContent::Command { outcome, .. } => Some(outcome),
            _ => None,
        });
        // A place that is not there, or an outcome that is already in, is another group's: dropped.
        if let Some(slot @ None) = commands.into_iter().nth(place) {
            *slot = Some(outcome);
            group.waiting -= 1;
        }
        self.answer_group_if_complete(site)
    }

    /// The answer to a deferred read or page.
    pub fn deferred_answer(&mut self, answer: DeferredAnswer, site: &mut Site) -> bool {
        let Some(group) = &mut self.group else { return false };
        if let Some(Member { content: MemberContent::Other(slot @ None), .. }) = group.members.first_mut() {
            *slot = Some(answer);
            group.waiting -= 1;
        }
        self.answer_group_if_complete(site)
    }

    /// Bytes that came while lingering were dropped; false when that is enough and the connection is to be closed.
    pub fn discarded(&mut self, linger: &mut Linger, count: usize, site: &Site) -> bool {
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
        if self.phase == Phase::Closing || self.is_between_requests() {
            self.close(site);
            return Some(Cut::Idle);
        }
        debug_assert!(self.group.is_none(), "a group is handed over before more input is waited for");
        self.reject(Reject::RequestTimeout, Form::CLOSING, RouteKind::Other, site);
        self.close(site);
        self.turn_done(site);
        Some(Cut::Timeout)
    }

    /// The process is going: an idle connection closes, a busy one after what is asked of it now.
    pub fn drain(&mut self, site: &mut Site) {
        if self.is_between_requests() && self.output.is_empty() {
            self.close(site);
        }
    }

    /// Cuts the connection: nothing more is owed.
    pub fn abandon(&mut self, site: &mut Site) {
        self.output.clear(&site.pool);
        self.input_ended = true;
        self.body = None;
        self.group = None;
        self.close(site);
    }

    /// What the mover does next.
    pub fn next(&self) -> Next {
        if !self.output.is_empty() {
            return Next::Write;
        }
        match self.phase {
            Phase::Deferred => Next::Wait,
            Phase::Closing if self.input_ended => Next::Close,
            Phase::Closing => Next::Linger,
            Phase::Head | Phase::Body if self.starved => Next::Read,
            Phase::Head | Phase::Body => Next::Resume,
        }
    }

    /// Whether a group waits to be handed over or answered.
    pub fn is_deferred(&self) -> bool {
        self.phase == Phase::Deferred
    }

    /// Whether nothing of a request is here and none is being answered.
    pub fn is_between_requests(&self) -> bool {
        self.phase == Phase::Head && self.starved && !self.head_begun
    }

    /// When [`tick`](Connection::tick) would end it, in ticks; `None` while only the control plane can move it on.
    pub fn deadline_ms(&self, site: &Site) -> Option<u64> {
        let rules = &site.rules;
        if !self.output.is_empty() {
            return Some(self.progress_ms + rules.progress_timeout_ms);
        }
        match self.phase {
            Phase::Deferred => None,
            Phase::Closing => Some(self.began_ms + LINGER_TIMEOUT.as_millis() as u64),
            Phase::Head if self.is_between_requests() => Some(self.began_ms + rules.idle_timeout_ms),
            Phase::Head => Some(self.began_ms + rules.head_timeout_ms),
            Phase::Body => Some(self.began_ms + rules.body_timeout_ms),
        }
    }

    /// When its idle time began, in ticks, if it is idle.
    pub fn idle_since_ms(&self) -> Option<u64> {
        (self.is_between_requests() && self.output.is_empty()).then_some(self.began_ms)
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

    /// Keeps what was not consumed.
    fn hold(&mut self, rest: &[u8], site: &mut Site) {
        if !rest.is_empty() && self.phase != Phase::Closing {
            site.input_bytes += rest.len();
            self.input.extend_from_slice(rest);
        }
    }

    fn advance_held(&mut self, site: &mut Site) {
        let input = std::mem::take(&mut self.input);
        let start = std::mem::take(&mut self.input_start);
        let consumed = start + self.advance(&input[start..], site);
        if self.phase == Phase::Closing {
            site.input_bytes -= input.len() - start;
            return;
        }
        site.input_bytes -= consumed - start;
        self.input = input;
        if consumed == self.input.len() {
            // An idle connection holds no buffer.
            self.input = Vec::new();
        } else if self.starved {
            // More will be appended: move what is left to the front once, not on every turn.
            self.input.drain(..consumed);
        } else {
            self.input_start = consumed;
        }
    }

    fn drop_input(&mut self, site: &mut Site) {
        site.input_bytes -= self.input.len() - self.input_start;
        self.input = Vec::new();
        self.input_start = 0;
        self.scanned = 0;
    }

    /// The clock of a client that now owes us nothing but has something to take begins.
    fn turn_done(&mut self, site: &Site) {
        if !self.output.is_empty() {
            self.progress_ms = site.now.tick_ms;
            self.progress_bytes = 0;
        }
    }

    fn close(&mut self, site: &mut Site) {
        self.phase = Phase::Closing;
        self.began_ms = site.now.tick_ms;
        self.drop_input(site);
        self.drop_body(site);
    }

    /// Looks at as much of `input` as this turn allows; how much of it was consumed.
    fn advance(&mut self, input: &[u8], site: &mut Site) -> usize {
        let mut at = 0;
        self.starved = false;
        loop {
            let rest = &input[at..];
            let step = match self.phase {
                _ if self.output.turn_left_bytes() == 0 => Step::Stop,
                Phase::Head if rest.is_empty() => Step::Starved,
                Phase::Head => self.on_head(rest, &mut at, site),
                Phase::Body => self.on_body(rest, &mut at, site),
                Phase::Deferred | Phase::Closing => Step::Stop,
            };
            match step {
                Step::Continue => {}
                Step::Stop => break,
                Step::Starved => {
                    self.starved = true;
                    break;
                }
            }
        }
        if self.group.is_some() && matches!(self.phase, Phase::Head) {
            // Nothing more can join the group now.
            self.phase = Phase::Deferred;
            self.starved = false;
        }
        at
    }

    /// At the beginning of a head.
    fn on_head(&mut self, rest: &[u8], at: &mut usize, site: &mut Site) -> Step {
        if self.group.is_none()
            && !site.draining
            && let Some(consumed) = self.answer_known(rest, site)
        {
            *at += consumed;
            return Step::Continue;
        }
        self.on_new_head(rest, at, site)
    }

    /// Answers what begins with the head that this connection sent last; how many bytes that was.
    fn answer_known(&mut self, rest: &[u8], site: &mut Site) -> Option<usize> {
        let known = site.known.get_mut(self.known)?;
        let times = known.repeats(rest, KNOWN_REPEATS_MAX);
        if times == 0 {
            return None;
        }
        let (head_bytes, query) = (known.len(), known.query);
        let mut hint = known.response_hint;
        let (responses, current) = site.current();
        let ready = responses.ready(query, &mut hint, times, &current);
        if let Some(known) = site.known.get_mut(self.known) {
            known.response_hint = hint;
        }
        let Some(ready) = ready else {
            self.answer_query(query, Form::PLAIN, None, site);
            return Some(head_bytes);
        };
        // At least one, else the largest answer could never leave; then as many as the turn has room for.
        let times = times.min((self.output.turn_left_bytes() / ready.response_bytes).max(1));
        let mut left = times;
        while left > 0 {
            let copies = left.min(ready.copies);
            self.output.push_shared(&ready.buffer, 0, copies * ready.response_bytes, &site.pool);
            left -= copies;
        }
        site.counters.answered(RouteKind::of_query(query), 200, times as u64);
        Some(times * head_bytes)
    }

    #[cold]
    fn on_new_head(&mut self, rest: &[u8], at: &mut usize, site: &mut Site) -> Step {
        let (start, end) = match head::find_end(rest, self.scanned) {
            Ok(Find::Complete { start, end }) => (start, end),
            Ok(Find::Partial { begun }) => {
                self.scanned = rest.len();
                self.head_begun = begun;
                return Step::Starved;
            }
            // Behind a group it is looked at again, when the group is answered.
            Err(_) if self.group.is_some() => return Step::Stop,
            Err(reject) => return self.refuse_and_close(reject, rest, site),
        };
        self.scanned = 0;
        self.head_begun = false;
        let bytes = &rest[start..end];
        let hash = known::hash(bytes);
        if let Some(index) = site.known.find(bytes, hash)
            && self.group.is_none()
            && !site.draining
        {
            self.known = Some(index);
            self.last_head_hash = hash;
            *at += start;
            return Step::Continue;
        }
        let head = match Head::parse(bytes) {
            Ok(head) => head,
            Err(_) if self.group.is_some() => return Step::Stop,
            Err(reject) => return self.refuse_and_close(reject, rest, site),
        };
        let routed = route(&head, site.rules.limit_max);
        if self.group.is_some() && !self.joins_group(&head, &routed, rest.len() - end) {
            return Step::Stop;
        }
        *at += end;
        let form = self.form_of(&head, site);
        match routed {
            Ok(Route::List { limit, after }) => {
                self.on_query(&head, Query::List { limit, after }, form, Some((bytes, hash)), site);
            }
            Ok(Route::Item(id)) => self.on_query(&head, Query::Item(id), form, Some((bytes, hash)), site),
            Ok(route) if is_write(route) => return self.on_write(&head, route, form, &rest[end..], site),
            Ok(route) => self.on_other(route, form, &head, site),
            Err(reject) => self.refuse(reject, form, RouteKind::Other, site),
        }
        self.on_unwanted_body(&head, form, site)
    }

    /// Whether a request behind a group may join it: a write, whole, within the group's bounds.
    fn joins_group(&self, head: &Head<'_>, routed: &Result<Route, Reject>, behind_bytes: usize) -> bool {
        let Some(group) = &self.group else { return true };
        let is_write = matches!(routed, Ok(route) if is_write(*route));
        let is_here = match head.framing {
            Framing::None => true,
            Framing::Length(length) => length <= behind_bytes as u64,
            Framing::Chunked => false,
        };
        is_write
            && is_here
            && matches!(group.deferred, Some(Deferred::Writes(_)))
            && !group.closes
            && group.members.len() < GROUP_WRITES_MAX
            && group.bytes < GROUP_BYTES_MAX
    }

    fn form_of(&self, head: &Head<'_>, site: &Site) -> Form {
        let persistence = match (head.keep_alive && !site.draining, head.keep_alive_echo) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::KeepAliveEcho,
            (true, false) => Persistence::KeepAlive,
        };
        Form { head_only: head.method == Method::Head, persistence }
    }

    // ---- reads ----

    fn on_query(&mut self, head: &Head<'_>, query: Query, form: Form, plain: Option<(&[u8], u64)>, site: &mut Site) {
        if let Some((bytes, hash)) = plain
            && head.is_plain()
            && form == Form::PLAIN
        {
            if hash == self.last_head_hash {
                self.known = Some(site.known.remember(bytes, hash, query));
            }
            self.last_head_hash = hash;
        }
        self.answer_query(query, form, Some(head), site);
    }

    /// Answers a read that is not ready-made, or defers it.
    fn answer_query(&mut self, query: Query, form: Form, head: Option<&Head<'_>>, site: &mut Site) {
        let kind = RouteKind::of_query(query);
        match find(&site.held.snapshot, query) {
            Found::Whole(slice) => self.answer_slice(&slice, kind, form, head, "", site),
            Found::Short(slice) => {
                let Query::List { limit, .. } = query else { unreachable!("only a list can be short") };
                let next = next_link(site.held.snapshot.floor(), limit);
                self.answer_slice(&slice, kind, form, head, &next, site);
            }
            Found::Below => self.defer(Deferred::Read(query), kind, form),
            Found::Absent => self.reject(Reject::NotFound, form, kind, site),
        }
        if form.closes() && self.phase == Phase::Head {
            self.close(site);
        }
    }

    fn answer_slice(
        &mut self,
        slice: &Slice,
        kind: RouteKind,
        form: Form,
        head: Option<&Head<'_>>,
        extra: &str,
        site: &mut Site,
    ) {
        let etag = slice.etag();
        let vary = kind == RouteKind::List && varies(slice.body_bytes());
        let unchanged = head.is_some_and(|head| if_none_match(head.if_none_match(), etag.as_bytes()));
        let status = if unchanged { 304 } else { 200 };
        let has_body = !unchanged && !form.head_only;
        let copied_bytes = if has_body { slice.body_bytes().min(COPIED_BODY_BYTES_MAX as u64 + 1) as usize } else { 0 };
        let is_copied = copied_bytes <= COPIED_BODY_BYTES_MAX;
        let fields = Fields {
            content_type: (!unchanged).then_some(JSON),
            content_length: (!unchanged).then_some(slice.body_bytes()),
            etag: Some(&etag),
            vary,
            extra: extra.as_bytes(),
        };
        let bytes_max = REPLY_HEAD_BYTES_MAX + if is_copied { copied_bytes } else { 0 };
        let Site { pool, date, held, counters, .. } = site;
        self.output.put_with(bytes_max, pool, |out| {
            write_head(out, status, form, date, &fields);
            if has_body && is_copied {
                held.snapshot.copy_into(slice, out);
            }
        });
        if has_body && !is_copied {
            self.output.push_slices(held, slice, pool);
        }
        counters.answered(kind, status, 1);
    }

    // ---- everything else that has no body ----

    fn on_other(&mut self, route: Route, form: Form, head: &Head<'_>, site: &mut Site) {
        let kind = RouteKind::of(route);
        match route {
            Route::All => {
                let slice = site.held.snapshot.all();
                self.answer_slice(&slice, RouteKind::List, form, Some(head), "", site);
            }
            Route::Health => self.answer_text(200, JSON, b"{\"status\":\"ok\"}\n", kind, form, site),
            Route::Ready => self.defer(Deferred::Page(Page::Ready), kind, form),
            Route::Metrics => self.defer(Deferred::Page(Page::Metrics), kind, form),
            Route::Options(allow) => {
                let fields = Fields { extra: allow.fields().as_bytes(), ..Fields::default() };
                let Site { pool, date, counters, .. } = site;
                self.output.put_with(REPLY_HEAD_BYTES_MAX, pool, |out| write_head(out, 204, form, date, &fields));
                counters.answered(kind, 204, 1);
            }
            _ => unreachable!("reads and writes have their own ways"),
        }
        if form.closes() && self.phase == Phase::Head && self.group.is_none() {
            self.close(site);
        }
    }

    fn answer_text(
        &mut self,
        status: u16,
        content_type: &'static str,
        body: &[u8],
        kind: RouteKind,
        form: Form,
        site: &mut Site,
    ) {
        let fields =
            Fields { content_type: Some(content_type), content_length: Some(body.len() as u64), ..Fields::default() };
        let Site { pool, date, counters, .. } = site;
        self.output.put_with(REPLY_HEAD_BYTES_MAX + body.len(), pool, |out| {
            write_head(out, status, form, date, &fields);
            if !form.head_only {
                out.extend_from_slice(body);
            }
        });
        counters.answered(kind, status, 1);
    }

    /// Makes a group of one request that memory cannot answer.
    fn defer(&mut self, deferred: Deferred, kind: RouteKind, form: Form) {
        debug_assert!(self.group.is_none(), "only writes join a group");
        self.group = Some(Box::new(Group {
            members: vec![Member { form, kind, content: MemberContent::Other(None) }],
            deferred: Some(deferred),
            waiting: 1,
            bytes: 0,
            closes: form.closes(),
        }));
        self.phase = Phase::Deferred;
    }

    // ---- writes ----

    /// A write at the door: decided before its body is parsed. `behind` is what follows the head.
    fn on_write(&mut self, head: &Head<'_>, route: Route, form: Form, behind: &[u8], site: &mut Site) -> Step {
        let admitted = admit(head, route, site);
        let reader = Body::new(head.framing, REQUEST_BODY_BYTES_MAX);
        let (write, reader) = match admitted.and_then(|write| Ok((write, reader?))) {
            Ok(admitted) => admitted,
            Err(reject) => {
                self.refuse(reject, form, RouteKind::of(route), site);
                return self.on_unwanted_body(head, form, site);
            }
        };
        if reader.is_done() {
            self.command(write, &[], form, site);
            return Step::Continue;
        }
        if head.expect_continue && behind.is_empty() {
            self.output.put(b"HTTP/1.1 100 Continue\r\n\r\n", &site.pool);
        }
        let purpose = Purpose::Write { write, payload: Vec::new() };
        self.body = Some(Box::new(ReadingBody { reader, form, purpose }));
        self.phase = Phase::Body;
        self.began_ms = site.now.tick_ms;
        Step::Continue
    }

    /// Within a body.
    fn on_body(&mut self, rest: &[u8], at: &mut usize, site: &mut Site) -> Step {
        let body = self.body.as_mut().expect("the phase says that there is one");
        let form = body.form;
        let progress = match &mut body.purpose {
            Purpose::Write { payload, .. } => {
                let before = payload.len();
                let progress = body.reader.read(rest, payload);
                site.input_bytes += payload.len() - before;
                progress
            }
            Purpose::Discard => body.reader.discard(rest),
        };
        let Progress { consumed, done } = match (progress, &body.purpose) {
            (Ok(progress), _) => progress,
            // Its answer is given: a fault in what nobody reads only ends the connection.
            (Err(_), Purpose::Discard) => {
                self.close_after_group(site);
                return Step::Stop;
            }
            (Err(reject), Purpose::Write { write, .. }) => {
                let kind = RouteKind::of(write.route);
                self.drop_body(site);
                self.phase = Phase::Head;
                self.refuse(reject, form.closing(), kind, site);
                return Step::Stop;
            }
        };
        *at += consumed;
        if !done {
            return if rest.len() == consumed { Step::Starved } else { Step::Continue };
        }
        let body = self.body.take().expect("it was there above");
        self.phase = Phase::Head;
        self.began_ms = site.now.tick_ms;
        match body.purpose {
            Purpose::Write { write, payload } => {
                site.input_bytes -= payload.len();
                self.command(write, &payload, form, site);
            }
            Purpose::Discard => {}
        }
        Step::Continue
    }

    fn drop_body(&mut self, site: &mut Site) {
        if let Some(body) = self.body.take()
            && let Purpose::Write { payload, .. } = body.purpose
        {
            site.input_bytes -= payload.len();
        }
    }

    /// A write whose body is here: the domain looks at it.
    fn command(&mut self, write: Write, payload: &[u8], form: Form, site: &mut Site) {
        let kind = RouteKind::of(write.route);
        let operation = match write.route {
            Route::Create => parse_fields(payload).map(Operation::Create),
            Route::Replace(_) => parse_fields(payload).map(Operation::Replace),
            Route::Patch(_) => parse_patch(payload).map(Operation::Patch),
            _ => Ok(Operation::Delete),
        };
        let operation = match operation {
            Ok(operation) => operation,
            Err(fault) => return self.refuse(Reject::Invalid(fault.reason()), form, kind, site),
        };
        let received_at_ms = (site.wall_clock)();
        let command = TodoCommand { id: write.id, operation, subject: write.subject.into_string(), received_at_ms };
        let is_create = matches!(write.route, Route::Create);
        let content = MemberContent::Command { id: write.id, is_create, outcome: None };
        let group = self.group.get_or_insert_with(|| {
            Box::new(Group {
                members: Vec::new(),
                deferred: Some(Deferred::Writes(Vec::new())),
                waiting: 0,
                bytes: 0,
                closes: false,
            })
        });
        let Some(Deferred::Writes(commands)) = &mut group.deferred else {
            unreachable!("a write joins only a group of writes that is not handed over")
        };
        commands.push(command);
        group.members.push(Member { form, kind, content });
        group.waiting += 1;
        group.bytes += payload.len();
        if form.closes() {
            group.closes = true;
            self.phase = Phase::Deferred;
        }
    }

    /// Refuses a request whose connection may go on; in a group it keeps its place.
    fn refuse(&mut self, reject: Reject, form: Form, kind: RouteKind, site: &mut Site) {
        let form = if reject.closes() { form.closing() } else { form };
        match &mut self.group {
            Some(group) => {
                group.members.push(Member { form, kind, content: MemberContent::Refused(reject) });
                group.closes |= form.closes();
                if group.closes {
                    self.phase = Phase::Deferred;
                }
            }
            None => {
                self.reject(reject, form, kind, site);
                if form.closes() {
                    self.close(site);
                }
            }
        }
    }

    /// Refuses a request whose head is not understood: whatever follows it is not either.
    fn refuse_and_close(&mut self, reject: Reject, input: &[u8], site: &mut Site) -> Step {
        let form = Form { head_only: head::asks_head_only(input), ..Form::CLOSING };
        self.reject(reject, form, RouteKind::Other, site);
        self.close(site);
        Step::Stop
    }

    /// Reads and drops the body of a request that is answered without it; closes where that is too much, or where the
    /// client waits to be told to send it, and after this answer may or may not.
    fn on_unwanted_body(&mut self, head: &Head<'_>, form: Form, site: &mut Site) -> Step {
        let Ok(reader) = Body::new(head.framing, DRAIN_BODY_BYTES_MAX) else {
            self.close_after_group(site);
            return Step::Stop;
        };
        if reader.is_done() || matches!(self.phase, Phase::Closing | Phase::Deferred) {
            return Step::Continue;
        }
        if head.expect_continue {
            self.close_after_group(site);
            return Step::Stop;
        }
        self.body = Some(Box::new(ReadingBody { reader, form, purpose: Purpose::Discard }));
        self.phase = Phase::Body;
        self.began_ms = site.now.tick_ms;
        Step::Continue
    }

    /// No further request: after the group's answers, or now.
    fn close_after_group(&mut self, site: &mut Site) {
        match &mut self.group {
            Some(group) => {
                group.closes = true;
                self.phase = Phase::Deferred;
                self.drop_body(site);
            }
            None => self.close(site),
        }
    }

    // ---- answers ----

    fn answer_group_if_complete(&mut self, site: &mut Site) -> bool {
        if self.group.as_ref().is_none_or(|group| group.waiting > 0) {
            return false;
        }
        let group = self.group.take().expect("looked at above");
        self.output.begin_turn();
        for member in group.members {
            self.answer_member(member, site);
        }
        self.phase = Phase::Head;
        self.began_ms = site.now.tick_ms;
        if group.closes {
            self.close(site);
        }
        self.turn_done(site);
        true
    }

    fn answer_member(&mut self, member: Member, site: &mut Site) {
        let Member { form, kind, content } = member;
        match content {
            MemberContent::Command { id, is_create, outcome } => match outcome.expect("the group is complete") {
                WriteOutcome::Acknowledged => self.accepted(id, is_create, kind, form, site),
                WriteOutcome::Refused(reject) => {
                    let again = is_create && reject == Reject::OutcomeUnknown;
                    let extra = if again { idempotency_line(id) } else { String::new() };
                    self.reject_with(reject, form, kind, &extra, site);
                }
            },
            MemberContent::Refused(reject) => self.reject(reject, form, kind, site),
            MemberContent::Other(answer) => match answer.expect("the group is complete") {
                DeferredAnswer::Reject(reject) => self.reject(reject, form, kind, site),
                DeferredAnswer::Body { status, content_type, extra, etag, body } => {
                    let fields = Fields {
                        content_type: Some(content_type),
                        content_length: Some(body.len() as u64),
                        etag: etag.as_ref(),
                        vary: kind == RouteKind::List && varies(body.len() as u64),
                        extra: extra.as_bytes(),
                    };
                    let Site { pool, date, counters, .. } = site;
                    self.output.put_with(REPLY_HEAD_BYTES_MAX + body.len(), pool, |out| {
                        write_head(out, status, form, date, &fields);
                        if !form.head_only {
                            out.extend_from_slice(&body);
                        }
                    });
                    counters.answered(kind, status, 1);
                }
            },
        }
    }

    /// 202: the command is durable.
    fn accepted(&mut self, id: ItemId, is_create: bool, kind: RouteKind, form: Form, site: &mut Site) {
        let hyphenated = id.hyphenated();
        let mut extra = Vec::new();
        if is_create {
            extra.extend_from_slice(b"Location: ");
            extra.extend_from_slice(ROUTE.as_bytes());
            extra.push(b'/');
            extra.extend_from_slice(&hyphenated);
            extra.extend_from_slice(b"\r\n");
        }
        let body_bytes = br#"{"id":""}"#.len() + hyphenated.len();
        let fields = Fields {
            content_type: Some(JSON),
            content_length: Some(body_bytes as u64),
            extra: &extra,
            ..Fields::default()
        };
        let Site { pool, date, counters, .. } = site;
        self.output.put_with(REPLY_HEAD_BYTES_MAX + body_bytes, pool, |out| {
            write_head(out, 202, form, date, &fields);
            out.extend_from_slice(br#"{"id":""#);
            out.extend_from_slice(&hyphenated);
            out.extend_from_slice(br#""}"#);
        });
        counters.answered(kind, 202, 1);
    }

    fn reject(&mut self, reject: Reject, form: Form, kind: RouteKind, site: &mut Site) {
        self.reject_with(reject, form, kind, "", site);
    }

    fn reject_with(&mut self, reject: Reject, form: Form, kind: RouteKind, extra: &str, site: &mut Site) {
        let Site { pool, date, counters, .. } = site;
        let envelope = Envelope {
            date: date.bytes(),
            persistence: form.persistence,
            head_only: form.head_only,
            extra_fields: extra.as_bytes(),
        };
        self.output.put_with(REPLY_HEAD_BYTES_MAX, pool, |out| reject.write(&envelope, out));
        counters.answered(kind, reject.status(), 1);
        counters.rejected(reject);
    }
}

fn is_write(route: Route) -> bool {
    matches!(route, Route::Create | Route::Replace(_) | Route::Patch(_) | Route::Delete(_))
}

/// Everything about a write that can be refused before its body: credentials, media type, coding, id.
fn admit(head: &Head<'_>, route: Route, site: &mut Site) -> Result<Write, Reject> {
    let now_ms = (site.wall_clock)();
    let subject = site.keys.verify(head.authorization, now_ms / 1000)?;
    check_write(route, head)?;
    let id = match (route, head.idempotency_key) {
        (Route::Create, Some(key)) => idempotency::key(key, now_ms)?,
        (Route::Replace(id) | Route::Patch(id) | Route::Delete(id), _) => {
            if id.time_ms() > now_ms + ID_AHEAD_MS_MAX {
                return Err(Reject::NotFound);
            }
            id
        }
        _ => {
            let random = site.random.u128(..);
            site.ids.next(now_ms, random)
        }
    };
    Ok(Write { route, id, subject })
}

/// What was read and dropped after the last answer.
#[derive(Debug, Default)]
pub struct Linger {
    bytes: u64,
}

/// `Link: rel="next"` for a list that goes on below `floor` (RFC 8288).
pub fn next_link(after: ItemId, limit: u32) -> String {
    let hyphenated = after.hyphenated();
    let id = String::from_utf8_lossy(&hyphenated);
    format!("Link: <{}?after={id}&limit={limit}>; rel=\"next\"\r\n", ROUTE)
}

fn idempotency_line(id: ItemId) -> String {
    format!("Idempotency-Key: {}\r\n", String::from_utf8_lossy(&id.hyphenated()))
}

/// Five thousand idle connections are to cost at most 1 KiB each, everything included.
const _: () = assert!(size_of::<Connection>() <= 256);
