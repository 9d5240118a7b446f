//! The door of writes: who asks, what is sent, which item; then the body, and the command it makes.

use todo_proto::command::{Operation, TodoCommand};
use todo_proto::id::ItemId;
use todo_proto::todo::{parse_fields, parse_patch};

use super::group::Group;
use super::requests::is_unreadable;
use super::{Connection, Phase, Purpose, ReadingBody};
use crate::counters::RouteKind;
use crate::http::body::Body;
use crate::http::head::Head;
use crate::http::idempotency;
use crate::http::reject::Reject;
use crate::http::reply::Form;
use crate::http::route::{Route, check_write};
use crate::http::site::Site;
use crate::limits::{ID_AHEAD_MS_MAX, REQUEST_BODY_BYTES_MAX};

/// A write whose body is not known yet.
pub(super) struct Write {
    pub(super) route: Route,
    /// The id that POST creates.
    id: ItemId,
    subject: Box<str>,
}

impl Connection {
    /// A write at the door: decided before its body is parsed. `behind` is what follows the head.
    pub(super) fn on_write(&mut self, head: &Head<'_>, route: Route, form: Form, behind: &[u8], site: &mut Site) {
        let admitted = admit(head, route, site);
        let reader = Body::new(head.framing, REQUEST_BODY_BYTES_MAX);
        let (write, reader) = match admitted.and_then(|write| Ok((write, reader?))) {
            Ok(admitted) => admitted,
            Err(reject) => {
                let form = if is_unreadable(head) { form.closing() } else { form };
                self.refuse(reject, form, RouteKind::of(route), site);
                self.discard_body(head, site);
                return;
            }
        };
        if reader.is_done() {
            self.command(write, &[], form, site);
            return;
        }
        if head.expect_continue && behind.is_empty() {
            self.output.put(b"HTTP/1.1 100 Continue\r\n\r\n", &site.pool);
        }
        let purpose = Purpose::Write { write, form, payload: Vec::new() };
        self.body = Some(Box::new(ReadingBody { reader, purpose, line: None }));
        self.phase = Phase::Body;
        self.began_ms = site.now.tick_ms;
    }

    /// A write whose body is here: the domain looks at it.
    pub(super) fn command(&mut self, write: Write, payload: &[u8], form: Form, site: &mut Site) {
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
        let group = self.group.get_or_insert_with(|| Box::new(Group::of_writes()));
        group.push_command(command, payload.len(), kind, form);
        if group.closes {
            self.phase = Phase::Deferred;
        }
    }
}

pub(super) fn is_write(route: Route) -> bool {
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
    // Last: what is refused for anything else costs its subject nothing.
    if !site.purses.take_write(&subject, site.now.tick_ms) {
        return Err(Reject::WritesTooMany);
    }
    Ok(Write { route, id, subject })
}
