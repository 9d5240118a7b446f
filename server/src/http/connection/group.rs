//! The deferred group: what memory cannot answer, handed over as one message and answered in request order.

use todo_proto::command::TodoCommand;
use todo_proto::id::ItemId;
use todo_worker::exposition::Format;

use crate::counters::RouteKind;
use crate::http::access::RequestLine;
use crate::http::reject::Reject;
use crate::http::reply::Form;
use crate::limits::{GROUP_BYTES_MAX, GROUP_WRITES_MAX};
use crate::snapshot::ETag;
use crate::snapshot::response::Query;

/// What memory cannot answer: handed to the control plane as one message.
#[derive(Debug)]
pub enum Deferred {
    /// Commands to append, answered one outcome each, in order.
    Writes(Vec<TodoCommand>),
    /// A read below the snapshot's floor.
    Read(Query),
    /// A page that the control plane writes.
    Page(Page),
    /// The connection itself, which the control plane writes to from here on: [`Connection::leave`](super::Connection::leave).
    Events,
}

/// Pages of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// `GET /ready`.
    Ready,
    /// `GET /metrics`.
    Metrics(Format),
}

/// What became of one deferred write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Durable: 202.
    Acknowledged,
    /// Certainly not taken, or not known: the rejection says which. Not one that closes the connection.
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
        etag: Option<ETag>,
        /// The body.
        body: Vec<u8>,
    },
    /// An error, not one that closes the connection.
    Reject(Reject),
}

/// What waits for outcomes, in request order.
pub(super) struct Group {
    members: Vec<Member>,
    /// What is to be handed over; taken once.
    deferred: Option<Deferred>,
    /// Outcomes that are still to come.
    waiting: usize,
    /// Bytes of its commands' bodies. At most [`GROUP_BYTES_MAX`], or one body.
    bytes: usize,
    /// The last member closes the connection.
    pub(super) closes: bool,
}

pub(super) struct Member {
    pub(super) form: Form,
    pub(super) kind: RouteKind,
    pub(super) content: MemberContent,
    /// For the access log, if there is one.
    pub(super) line: Option<Box<RequestLine>>,
}

pub(super) enum MemberContent {
    /// A write that was handed over.
    Command { id: ItemId, is_create: bool, outcome: Option<WriteOutcome> },
    /// A write that was refused at the door, between others that were not.
    Refused(Reject),
    /// Anything else that was handed over.
    Other {
        /// The values of `If-None-Match`, a line each.
        condition: Option<Box<[u8]>>,
        answer: Option<DeferredAnswer>,
    },
}

impl Group {
    /// The group of one read or page.
    pub(super) fn of_one(deferred: Deferred, kind: RouteKind, form: Form, condition: Option<Box<[u8]>>) -> Group {
        let content = MemberContent::Other { condition, answer: None };
        Group {
            members: vec![Member { form, kind, content, line: None }],
            deferred: Some(deferred),
            waiting: 1,
            bytes: 0,
            closes: form.closes(),
        }
    }

    /// A group of writes, still without any.
    pub(super) fn of_writes() -> Group {
        let deferred = Some(Deferred::Writes(Vec::new()));
        Group { members: Vec::new(), deferred, waiting: 0, bytes: 0, closes: false }
    }

    /// Adds a write whose body had so many bytes.
    pub(super) fn push_command(&mut self, command: TodoCommand, body_bytes: usize, kind: RouteKind, form: Form) {
        let Some(Deferred::Writes(commands)) = &mut self.deferred else {
            unreachable!("a write joins only a group of writes that is not handed over")
        };
        let content = MemberContent::Command { id: command.id, is_create: kind == RouteKind::Create, outcome: None };
        commands.push(command);
        self.members.push(Member { form, kind, content, line: None });
        self.waiting += 1;
        self.bytes += body_bytes;
        self.closes |= form.closes();
    }

    /// Keeps the place of a write that was refused.
    pub(super) fn push_refused(&mut self, reject: Reject, kind: RouteKind, form: Form) {
        self.members.push(Member { form, kind, content: MemberContent::Refused(reject), line: None });
        self.closes |= form.closes();
    }

    /// What is to be handed over, the first time.
    pub(super) fn take_deferred(&mut self) -> Option<Deferred> {
        self.deferred.take()
    }

    /// Takes the outcome of its `place`-th command. A place that is not there, an outcome that is already in, or one
    /// that comes before the group was handed over is another group's: dropped.
    pub(super) fn set_outcome(&mut self, place: usize, outcome: WriteOutcome) {
        let commands = self.members.iter_mut().filter_map(|member| match &mut member.content {
            MemberContent::Command { outcome, .. } => Some(outcome),
            _ => None,
        });
        if self.deferred.is_none()
            && let Some(slot @ None) = commands.into_iter().nth(place)
        {
            *slot = Some(outcome);
            self.waiting -= 1;
        }
    }

    /// Takes the answer to its read or page, under the same conditions.
    pub(super) fn set_answer(&mut self, given: DeferredAnswer) {
        if self.deferred.is_none()
            && let Some(Member { content: MemberContent::Other { answer: answer @ None, .. }, .. }) =
                self.members.first_mut()
        {
            *answer = Some(given);
            self.waiting -= 1;
        }
    }

    /// The last answer says that the connection closes.
    pub(super) fn close_behind(&mut self) {
        self.closes = true;
        if let Some(last) = self.members.last_mut() {
            last.form = last.form.closing();
        }
    }

    /// Keeps the request line of its last member.
    pub(super) fn keep_line(&mut self, line: Box<RequestLine>) {
        if let Some(last) = self.members.last_mut() {
            last.line = Some(line);
        }
    }

    /// The request line of its first member, if one is kept.
    pub(super) fn take_first_line(&mut self) -> Option<Box<RequestLine>> {
        self.members.first_mut().and_then(|member| member.line.take())
    }

    /// How many requests are in it.
    pub(super) fn members_count(&self) -> usize {
        self.members.len()
    }

    /// The first request in it.
    pub(super) fn first(&self) -> Option<&Member> {
        self.members.first()
    }

    pub(super) fn into_members(self) -> Vec<Member> {
        self.members
    }

    /// Whether it is one of writes.
    pub(super) fn is_of_writes(&self) -> bool {
        !matches!(self.members.first(), Some(Member { content: MemberContent::Other { .. }, .. }))
    }

    /// Whether all outcomes are in.
    pub(super) fn is_complete(&self) -> bool {
        self.waiting == 0
    }

    /// Whether a write with a body of so many bytes may join.
    pub(super) fn has_room_for(&self, body_bytes: usize) -> bool {
        matches!(self.deferred, Some(Deferred::Writes(_)))
            && !self.closes
            && self.members.len() < GROUP_WRITES_MAX
            && self.bytes + body_bytes <= GROUP_BYTES_MAX
    }
}
