//! Moves bytes between a client that is given and a machine, in any way that a mover could: every split of the input,
//! every short write, every order of outcomes, data and time that change between two calls. Then asks the oracle.

use std::fmt;
use std::rc::Rc;

use super::super::group::{Deferred, DeferredAnswer, WriteOutcome};
use super::super::{Connection, Cut, Linger, Next};
use super::oracle::{self, End, Handed, Moment, Record};
use super::world::{BEARER, FLOORED, Version, WHOLE, site};
use crate::http::output::{Held, Transfer};
use crate::http::reject::Reject;
use crate::http::site::{Now, Site};
use crate::limits::{INPUT_BYTES_MAX, OUTPUT_BYTES_PER_TURN, READ_BUFFER_BYTES};

/// What the client sends, and how its bytes and those of the answers travel.
pub struct Plan<'a> {
    /// All that the client sends.
    pub input: &'a [u8],
    /// Lengths of the first reads; behind them the choices decide.
    pub pieces: &'a [usize],
    /// What is decided on the way, a byte a decision. Behind the last one everything moves at once and in order.
    pub choices: &'a [u8],
    /// Whether memory has the newest items only.
    pub is_floored: bool,
    /// What the client does behind its last byte: end its side, or fall silent.
    pub ends: bool,
    /// Whether time may pass on the way, so that deadlines do.
    pub has_deadlines: bool,
}

impl fmt::Debug for Plan<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { input, pieces, choices, is_floored, ends, has_deadlines } = self;
        let input = input.escape_ascii();
        write!(
            formatter,
            "\"{input}\" pieces {pieces:?} choices {choices:?} floored {is_floored} ends {ends} deadlines {has_deadlines}"
        )
    }
}

/// Runs the plan twice on one shard, so that the second connection finds the first one's heads and responses, and
/// panics where the machine contradicts itself or the oracle.
pub fn drive(plan: &Plan<'_>) {
    let versions: &'static [Version] = if plan.is_floored { &FLOORED } else { &WHOLE };
    let mut site = site(versions);
    let mut choices = Choices { bytes: plan.choices };
    for _ in 0..2 {
        let answers_before = answers_counted(&site);
        let outcome = Drive::new(plan, versions, &mut choices, &mut site).run();
        let (end, answers_count) = oracle::check(&Record {
            versions,
            input: &plan.input[..outcome.given],
            output: &outcome.output,
            is_complete: outcome.stop != Stop::Stalled,
            moments: &outcome.moments,
            handed: &outcome.handed,
        });
        match outcome.stop {
            Stop::Lingered => assert_eq!(end, End::Closed),
            Stop::Ended => assert!(end != End::Closed, "the client ended first, and no answer closed"),
            Stop::Idle => assert!(matches!(end, End::Between | End::Discarding), "idle, but {end:?}"),
            Stop::TimedOut => assert!(matches!(end, End::Within { .. }), "408, but {end:?}"),
            Stop::Stalled => {}
        }
        if outcome.stop != Stop::Stalled {
            assert_eq!(answers_counted(&site) - answers_before, answers_count as u64, "every answer is counted once");
        }
        assert_eq!(site.input_bytes, 0, "no input is held");
        assert_eq!(site.pool.live_bytes(), site.responses.bytes(), "only what is ready-made is alive");
    }
}

/// An `Authorization` value that comes through the door of writes.
pub fn bearer() -> &'static str {
    &BEARER
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// An answer closed it.
    Lingered,
    /// The client did.
    Ended,
    /// It was closed without a word.
    Idle,
    /// With a 408.
    TimedOut,
    /// With something owed.
    Stalled,
}

struct Outcome {
    stop: Stop,
    /// Bytes of the input that were given.
    given: usize,
    output: Vec<u8>,
    moments: Vec<Moment>,
    handed: Vec<Handed>,
}

/// A stream of decisions.
struct Choices<'a> {
    bytes: &'a [u8],
}

impl Choices<'_> {
    /// A number below `count`; 0 when all decisions are used up.
    fn below(&mut self, count: usize) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else { return 0 };
        self.bytes = rest;
        usize::from(*first) % count
    }

    /// 1 to `bytes_max` bytes: all of them, few, or many.
    fn length(&mut self, bytes_max: usize) -> usize {
        let length = match self.below(256) {
            0 => bytes_max,
            few @ 1..128 => few,
            many => (many - 127) * (many - 127) * 4,
        };
        length.min(bytes_max)
    }
}

struct Drive<'a, 'c> {
    plan: &'a Plan<'a>,
    versions: &'static [Version],
    choices: &'a mut Choices<'c>,
    site: &'a mut Site,
    machine: Connection,
    pieces: &'a [usize],
    given: usize,
    output: Vec<u8>,
    moments: Vec<Moment>,
    handed: Vec<Handed>,
    /// Index in `handed` of each outcome that is still to come, with its place in the group.
    waiting: Vec<(usize, usize)>,
    version: usize,
}

impl<'a, 'c> Drive<'a, 'c> {
    fn new(plan: &'a Plan<'a>, versions: &'static [Version], choices: &'a mut Choices<'c>, site: &'a mut Site) -> Self {
        let version = versions.iter().position(|version| version.snapshot.version() == site.held.snapshot.version());
        Drive {
            plan,
            versions,
            choices,
            machine: Connection::new(site.now.tick_ms, 0),
            site,
            pieces: plan.pieces,
            given: 0,
            output: Vec::new(),
            moments: Vec::new(),
            handed: Vec::new(),
            waiting: Vec::new(),
            version: version.expect("the site has one of them"),
        }
    }

    fn run(mut self) -> Outcome {
        // Each step moves a byte of input, of output, an outcome, or the phase.
        let mut steps_left = 100_000 + 4 * self.plan.input.len();
        let mut before = None;
        let stop = loop {
            steps_left = steps_left.checked_sub(1).expect("nobody can move");
            let next = self.machine.next();
            assert!(before != Some(Next::Resume) || next != Next::Resume, "resumed, and nothing came of it");
            before = Some(next);
            if let Some(stop) = self.pass_time() {
                break stop;
            }
            if self.machine.next() != next {
                // A deadline has passed.
                continue;
            }
            self.assert_bounds();
            assert!(!self.site.access.is_due(), "an answer is due and nobody has told of it");
            match next {
                Next::Read if self.given == self.plan.input.len() => {
                    if let Some(stop) = self.end_of_input() {
                        break stop;
                    }
                }
                Next::Read => self.read(),
                Next::Write => {
                    if let Some(stop) = self.write() {
                        break stop;
                    }
                }
                Next::Resume => self.call(Connection::resume),
                Next::Wait => self.wait(),
                Next::Linger => break self.linger(),
                Next::Close => break Stop::Ended,
            }
        };
        assert!(stop == Stop::Stalled || self.machine.output.is_empty(), "something is owed");
        self.machine.release(self.site);
        Outcome { stop, given: self.given, output: self.output, moments: self.moments, handed: self.handed }
    }

    /// Calls the machine with the data and time that are now current.
    fn call<T>(&mut self, call: impl FnOnce(&mut Connection, &mut Site) -> T) -> T {
        match self.choices.below(16) {
            1 => self.version = (self.version + 1).min(self.versions.len() - 1),
            2 => {
                let second = self.site.now.second + 1;
                self.site.set_now(Now { second, ..self.site.now });
            }
            _ => {}
        }
        if self.site.held.snapshot.version() != self.versions[self.version].snapshot.version() {
            self.site.held = Rc::new(Held { snapshot: self.versions[self.version].snapshot.clone() });
        }
        self.moments.push(Moment {
            output_start: self.output.len() + self.machine.output.owed_bytes() as usize,
            version: self.version,
            second: self.site.now.second,
        });
        call(&mut self.machine, self.site)
    }

    fn read(&mut self) {
        let left = &self.plan.input[self.given..];
        let bytes_max = left.len().min(READ_BUFFER_BYTES);
        let length = match self.pieces.split_first() {
            Some((length, rest)) => {
                self.pieces = rest;
                (*length).min(bytes_max)
            }
            None => self.choices.length(bytes_max),
        };
        self.given += length;
        self.call(|machine, site| machine.receive(&left[..length], site));
    }

    /// Writes once. Time may pass while the write is pending.
    fn write(&mut self) -> Option<Stop> {
        let transfer = self.machine.transfer(self.site).expect("something is owed");
        let bytes = match transfer {
            Transfer::Bytes { buffer, start, end } => {
                assert!(start < end && end - start <= OUTPUT_BYTES_PER_TURN);
                let length = self.choices.length(end - start);
                buffer.bytes()[start..start + length].to_vec()
            }
            Transfer::Slices { held, walk } => {
                let length = self.choices.length(OUTPUT_BYTES_PER_TURN);
                let (mut walk, mut bytes) = (walk, Vec::new());
                while bytes.len() < length
                    && let Some((piece, rest)) = walk.next(&held.snapshot, length - bytes.len())
                {
                    bytes.extend_from_slice(piece);
                    walk = rest;
                }
                bytes
            }
        };
        assert!(!bytes.is_empty(), "a write of nothing");
        let stop = self.pass_time();
        if stop.is_none() {
            self.output.extend_from_slice(&bytes);
            self.machine.written(bytes.len(), self.site);
        }
        stop
    }

    /// Takes what is to be handed over, or gives one outcome back, or something that is nobody's.
    fn wait(&mut self) {
        if let Some(deferred) = self.machine.take_deferred() {
            assert!(self.waiting.is_empty(), "a second group before the first is answered");
            self.take(deferred);
            return;
        }
        assert!(!self.waiting.is_empty(), "it waits for nothing");
        if self.choices.below(8) == 7 {
            let moved = self.call(|machine, site| machine.write_outcome(70, WriteOutcome::Acknowledged, site));
            assert!(!moved, "an outcome of no command was taken");
            return;
        }
        let at = self.choices.below(self.waiting.len());
        let (index, place) = self.waiting.swap_remove(at);
        let is_last = self.waiting.is_empty();
        let kind = self.choices.below(8);
        let has_moved = match &self.handed[index] {
            Handed::Write(..) => {
                let outcome = match kind {
                    6 => WriteOutcome::Refused(Reject::NotAppended),
                    7 => WriteOutcome::Refused(Reject::OutcomeUnknown),
                    _ => WriteOutcome::Acknowledged,
                };
                let Handed::Write(_, slot) = &mut self.handed[index] else { unreachable!("looked at above") };
                *slot = Some(outcome);
                self.call(|machine, site| machine.write_outcome(place, outcome, site))
            }
            Handed::Read(..) => {
                let (kept, given) = (self.answer(kind, true), self.answer(kind, true));
                let Handed::Read(_, slot) = &mut self.handed[index] else { unreachable!("looked at above") };
                *slot = Some(kept);
                self.call(|machine, site| machine.deferred_answer(given, site))
            }
            Handed::Events(..) => {
                self.handed[index] = Handed::Events(Some(Reject::WatchersFull));
                self.call(|machine, site| machine.deferred_answer(DeferredAnswer::Reject(Reject::WatchersFull), site))
            }
            Handed::Page(..) => {
                let (kept, given) = (self.answer(kind, false), self.answer(kind, false));
                let Handed::Page(_, slot) = &mut self.handed[index] else { unreachable!("looked at above") };
                *slot = Some(kept);
                self.call(|machine, site| machine.deferred_answer(given, site))
            }
        };
        assert_eq!(has_moved, is_last, "a group is answered when its last outcome is in");
    }

    fn take(&mut self, deferred: Deferred) {
        let first = self.handed.len();
        match deferred {
            Deferred::Writes(commands) => {
                assert!((1..=crate::limits::GROUP_WRITES_MAX).contains(&commands.len()));
                self.handed.extend(commands.into_iter().map(|command| Handed::Write(command, None)));
            }
            Deferred::Read(query, ..) => self.handed.push(Handed::Read(query, None)),
            Deferred::Page(page) => self.handed.push(Handed::Page(page, None)),
            Deferred::Events => self.handed.push(Handed::Events(None)),
        }
        self.waiting = (first..self.handed.len()).zip(0..).collect();
    }

    fn answer(&self, kind: usize, is_read: bool) -> DeferredAnswer {
        if kind == 7 {
            return DeferredAnswer::Reject(if is_read { Reject::NotFound } else { Reject::StoreUnavailable });
        }
        DeferredAnswer::Body {
            status: if !is_read && kind == 6 { 503 } else { 200 },
            content_type: if is_read { "application/json" } else { "text/plain" },
            extra: if kind > 3 { "Link: </todos?after=x&limit=9>; rel=\"next\"\r\n".to_owned() } else { String::new() },
            etag: is_read.then(|| self.versions[0].snapshot.first(1).etag()),
            body: vec![b'o'; if kind == 1 { 10_000 } else { kind }],
        }
    }

    /// The client has sent all that it has to send.
    fn end_of_input(&mut self) -> Option<Stop> {
        if self.plan.ends {
            self.machine.end_of_input(self.site);
            return None;
        }
        let deadline_ms = self.machine.deadline_ms(self.site).expect("who reads has a deadline");
        assert!(self.site.now.tick_ms < deadline_ms, "a deadline that has passed");
        self.advance(deadline_ms - 1 - self.site.now.tick_ms);
        assert_eq!(self.machine.tick(self.site), None, "a cut before the deadline");
        self.advance(1);
        self.cut()
    }

    fn pass_time(&mut self) -> Option<Stop> {
        if !self.plan.has_deadlines || self.machine.next() == Next::Close {
            return None;
        }
        match self.choices.below(32) {
            1 => self.advance(1_000),
            2 => self.advance(9_000),
            3 => self.advance(31_000),
            _ => {}
        }
        self.cut()
    }

    fn advance(&mut self, ms: u64) {
        let now = self.site.now;
        self.site.set_now(Now { tick_ms: now.tick_ms + ms, second: now.second + ms / 1_000, ..now });
    }

    /// Lets the machine look at the time.
    fn cut(&mut self) -> Option<Stop> {
        let is_due = self.machine.deadline_ms(self.site).is_some_and(|at_ms| at_ms <= self.site.now.tick_ms);
        let is_lingering = self.machine.next() == Next::Linger;
        let was_owed = !self.machine.output.is_empty();
        let cut = self.call(Connection::tick);
        assert_eq!(cut.is_some(), is_due, "what is due is cut, and nothing else");
        match cut? {
            Cut::Idle if is_lingering => Some(Stop::Lingered),
            Cut::Idle => Some(Stop::Idle),
            Cut::Stalled => {
                assert!(was_owed);
                Some(Stop::Stalled)
            }
            Cut::Timeout => {
                while self.machine.next() == Next::Write {
                    if let Some(stop) = self.write() {
                        return Some(stop);
                    }
                }
                assert_eq!(self.machine.next(), Next::Linger);
                assert!(oracle::ends_with_timeout(&self.output));
                Some(Stop::TimedOut)
            }
        }
    }

    fn linger(&mut self) -> Stop {
        let mut linger = Linger::default();
        let count = (self.plan.input.len() - self.given).min(READ_BUFFER_BYTES);
        assert_eq!(self.machine.discarded(&mut linger, count, self.site), count > 0);
        Stop::Lingered
    }

    fn assert_bounds(&self) {
        assert!(self.site.input_bytes <= self.plan.input.len() && self.site.input_bytes < INPUT_BYTES_MAX);
        let next = self.machine.next();
        assert_eq!(next == Next::Write, !self.machine.output.is_empty());
        assert_eq!(self.machine.deadline_ms(self.site).is_none(), matches!(next, Next::Wait | Next::Resume));
        if self.machine.headless_since_ms().is_some() {
            assert_eq!(next, Next::Read);
            let is_idle = self.machine.is_between_requests();
            assert!(!is_idle || self.machine.input.len() <= 2, "an idle connection holds no more than an empty line");
        }
    }
}

/// Answers that the shard has counted.
fn answers_counted(site: &Site) -> u64 {
    site.counters.requests().map(|(_, _, count)| count).sum()
}
