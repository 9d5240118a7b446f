//! The deferred group: what memory cannot answer, handed over as one message and answered in request order.

use todo_proto::command::TodoCommand;
use todo_proto::id::ItemId;

use crate::counters::RouteKind;
use crate::http::reject::Reject;
use crate::http::reply::Form;
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
        etag: Option<ETag>,
        /// The body.
        body: Vec<u8>,
    },
    /// An error.
    Reject(Reject),
}

/// What waits for outcomes, in request order.
pub(super) struct Group {
    pub(super) members: Vec<Member>,
    /// What is to be handed over; taken once.
    pub(super) deferred: Option<Deferred>,
    /// Outcomes that are still to come.
    pub(super) waiting: usize,
    pub(super) bytes: usize,
    /// The last member closes the connection.
    pub(super) closes: bool,
}

pub(super) struct Member {
    pub(super) form: Form,
    pub(super) kind: RouteKind,
    pub(super) content: MemberContent,
}

pub(super) enum MemberContent {
    Command { id: ItemId, is_create: bool, outcome: Option<WriteOutcome> },
    Refused(Reject),
    Other(Option<DeferredAnswer>),
}
