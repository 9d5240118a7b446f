//! Answers a whole input one request at a time: no turns, no table of heads, nothing ready-made, no groups. It is given
//! what the driver has seen (which data was current at which byte of the output, what was handed over and what became
//! of it) and checks each byte that the machine has sent.
//!
//! Heads, bodies and routes are read by the same functions as in the machine: those have oracles of their own.

use todo_proto::command::{Operation, TodoCommand};
use todo_proto::id::ItemId;
use todo_proto::todo::{parse_fields, parse_patch};
use todo_worker::exposition::Format;

use super::super::group::{DeferredAnswer, Page, WriteOutcome};
use super::world::{BEARER, KEYS, STORE_ID, Version, WALL_MS};
use crate::http::body::Body;
use crate::http::condition::if_none_match;
use crate::http::date::HttpDate;
use crate::http::head::{Find, Framing, Head, Method, asks_head_only, find_end};
use crate::http::idempotency;
use crate::http::reject::{Envelope, Persistence, Reject};
use crate::http::route::{Allow, Route, check_write, route};
use crate::limits::{LIST_LIMIT_MAX, REQUEST_BODY_BYTES_MAX};
use crate::snapshot::response::Query;

/// What was current from a byte of the output on.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Bytes that had been answered before.
    pub output_start: usize,
    /// Index of the data's version.
    pub version: usize,
    /// Unix time in seconds.
    pub second: u64,
}

/// What left the machine for the control plane, and what came back if anything did.
#[derive(Debug)]
pub enum Handed {
    /// One command of a group.
    Write(TodoCommand, Option<WriteOutcome>),
    /// A read below the floor.
    Read(Query, Option<DeferredAnswer>),
    /// A page.
    Page(Page, Option<DeferredAnswer>),
    /// The connection, for which there was no place.
    Events(Option<Reject>),
}

/// Everything that happened on one connection.
pub struct Record<'a> {
    /// The data.
    pub versions: &'static [Version],
    /// What the client has sent.
    pub input: &'a [u8],
    /// What the client has been sent.
    pub output: &'a [u8],
    /// Whether that is all: false when the connection was cut with something owed or awaited.
    pub is_complete: bool,
    /// In order of `output_start`; of equal ones the last is the one that put something there.
    pub moments: &'a [Moment],
    /// In order.
    pub handed: &'a [Handed],
}

/// Where the input leaves the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing of a request has come.
    Between,
    /// A head, or the body of a write, has begun.
    Within {
        /// What has come of it asks for HEAD.
        head_only: bool,
    },
    /// A body that nobody reads has begun.
    Discarding,
    /// An answer has closed it.
    Closed,
}

/// Checks the record; where the input leaves the connection, and how many answers it had. An incomplete record is
/// checked as far as it goes.
pub fn check(record: &Record<'_>) -> (End, usize) {
    let mut check = Check { record, at: 0, sent: 0, handed: record.handed.iter(), answers_count: 0, is_cut: false };
    let end = loop {
        if let Some(end) = check.request() {
            break end;
        }
    };
    if !check.is_cut && record.is_complete {
        if let End::Within { head_only } = end
            && check.sent < record.output.len()
        {
            // The driver knows whether time ran out; a 408 is the only thing that may stand here.
            check.refuse(Reject::RequestTimeout, Form { head_only, persistence: Persistence::Close });
        }
        assert_eq!(check.sent, record.output.len(), "more was sent: {}", text(&record.output[check.sent..]));
        assert!(check.handed.next().is_none(), "more was handed over");
    }
    (end, check.answers_count)
}

/// Whether `output` ends with the answer to a request that took too long.
pub fn ends_with_timeout(output: &[u8]) -> bool {
    text(output).contains("HTTP/1.1 408 ")
}

struct Check<'a> {
    record: &'a Record<'a>,
    /// Bytes of the input that are answered.
    at: usize,
    /// Bytes of the output that are checked.
    sent: usize,
    handed: std::slice::Iter<'a, Handed>,
    answers_count: usize,
    /// The record ends within what is being checked.
    is_cut: bool,
}

#[derive(Clone, Copy)]
struct Form {
    head_only: bool,
    persistence: Persistence,
}

/// A body that begins at the front of what is left.
enum Whole {
    Here { payload: Vec<u8>, bytes: usize },
    Partial,
    Refused(Reject),
}

impl<'a> Check<'a> {
    /// The next request; where it leaves the connection if that is not before another one.
    fn request(&mut self) -> Option<End> {
        let rest = &self.record.input[self.at..];
        let head_only = asks_head_only(rest);
        let closing = Form { head_only, persistence: Persistence::Close };
        let (start, end) = match find_end(rest, 0) {
            Ok(Find::Complete { start, end }) => (start, end),
            Ok(Find::Partial { begun: true }) => return Some(End::Within { head_only }),
            Ok(Find::Partial { begun: false }) => return Some(End::Between),
            Err(reject) => return self.refuse(reject, closing),
        };
        let head = match Head::parse(&rest[start..end]) {
            Ok(head) => head,
            Err(reject) => return self.refuse(reject, closing),
        };
        self.at += end;
        let persistence = match (head.keep_alive, head.keep_alive_echo) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::KeepAliveEcho,
            (true, false) => Persistence::KeepAlive,
        };
        let form = Form { head_only: head.method == Method::Head, persistence };
        let body = whole_body(head.framing, &rest[end..]);
        match route(&head, LIST_LIMIT_MAX) {
            Ok(route @ (Route::Create | Route::Replace(_) | Route::Patch(_) | Route::Delete(_))) => {
                self.write(&head, route, form, body)
            }
            routed => self.unread(&head, form, &body, |check, form| match routed {
                Ok(route) => check.read(route, &head, form),
                Err(reject) => check.refuse(reject, form),
            }),
        }
    }

    /// A request that is answered without its body, which is then read over.
    fn unread(
        &mut self,
        head: &Head<'_>,
        form: Form,
        body: &Whole,
        answer: impl FnOnce(&mut Check<'a>, Form) -> Option<End>,
    ) -> Option<End> {
        let has_body = !matches!(head.framing, Framing::None | Framing::Length(0));
        let is_unreadable = matches!(head.framing, Framing::Length(length) if length > 64 * 1024);
        // Who waits for a 100 may or may not send the body after this answer.
        let closes = is_unreadable || (has_body && head.expect_continue);
        let form = if closes { Form { persistence: Persistence::Close, ..form } } else { form };
        if let Some(end) = answer(self, form) {
            return Some(end);
        }
        match body {
            Whole::Here { bytes, .. } => {
                self.at += bytes;
                None
            }
            Whole::Partial => Some(End::Discarding),
            Whole::Refused(_) => Some(End::Closed),
        }
    }

    fn write(&mut self, head: &Head<'_>, route: Route, form: Form, body: Whole) -> Option<End> {
        let id = match door(head, route) {
            Ok(id) => id,
            Err(reject) => return self.unread(head, form, &body, |check, form| check.refuse(reject, form)),
        };
        if matches!(head.framing, Framing::Length(length) if length > 64 * 1024) {
            return self.refuse(Reject::BodyTooLarge, form);
        }
        if head.expect_continue {
            // Whether the body was there when the head was is not the oracle's to know.
            let rest = &self.record.output[self.sent..];
            let told = b"HTTP/1.1 100 Continue\r\n\r\n";
            if rest.starts_with(told) {
                self.sent += told.len();
            } else if !self.record.is_complete && told.starts_with(rest) {
                self.is_cut = true;
                return Some(End::Closed);
            }
        }
        let payload = match body {
            Whole::Here { payload, bytes } => {
                self.at += bytes;
                payload
            }
            Whole::Partial => return Some(End::Within { head_only: false }),
            Whole::Refused(reject) => return self.refuse(reject, form),
        };
        let operation = match route {
            Route::Create => parse_fields(&payload).map(Operation::Create),
            Route::Replace(_) => parse_fields(&payload).map(Operation::Replace),
            Route::Patch(_) => parse_patch(&payload).map(Operation::Patch),
            _ => Ok(Operation::Delete),
        };
        let operation = match operation {
            Ok(operation) => operation,
            Err(fault) => return self.refuse(Reject::Invalid(fault.reason()), form),
        };
        let Some(Handed::Write(command, outcome)) = self.next_handed() else { return self.cut() };
        assert_eq!(command.operation, operation);
        assert_eq!((&*command.subject, command.received_at_ms), ("ann", WALL_MS));
        match id {
            Some(id) => assert_eq!(command.id, id),
            None => assert!((WALL_MS..WALL_MS + 10).contains(&command.id.time_ms()), "{}", command.id),
        }
        let id = command.id;
        match outcome {
            None => self.cut(),
            Some(WriteOutcome::Refused(reject)) => {
                let extra = if *reject == Reject::OutcomeUnknown && route == Route::Create {
                    format!("Idempotency-Key: {id}\r\n")
                } else {
                    String::new()
                };
                self.refuse_with(*reject, form, &extra)
            }
            Some(WriteOutcome::Acknowledged) => {
                let location = match route {
                    Route::Create => format!("Location: /todos/{id}\r\n"),
                    _ => String::new(),
                };
                let body = format!("{{\"id\":\"{id}\"}}");
                let date = self.date();
                let head = format!(
                    "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{date}{location}",
                    body.len()
                );
                self.answer(&head, form, body.as_bytes())
            }
        }
    }

    fn read(&mut self, route: Route, head: &Head<'_>, form: Form) -> Option<End> {
        let version = &self.record.versions[self.moment().version];
        let is_whole = version.floor == ItemId::ZERO;
        match route {
            Route::All => {
                let items: Vec<_> = version.items.iter().map(|(_, json)| json.as_slice()).collect();
                self.items(&items, true, "", head, form)
            }
            Route::Item(id) if !is_whole && id < version.floor => self.deferred(Query::Item(id), head, form),
            Route::Item(id) => match version.items.iter().find(|(other, _)| *other == id) {
                Some((_, json)) => self.items(&[json], false, "", head, form),
                None => self.refuse(Reject::NotFound, form),
            },
            Route::List { limit, after } => {
                let behind = version.items.iter().filter(|(id, _)| after.is_none_or(|after| *id < after));
                let items: Vec<_> = behind.map(|(_, json)| json.as_slice()).take(limit as usize).collect();
                let is_short = !is_whole && items.len() < limit as usize;
                if is_short && items.is_empty() {
                    return self.deferred(Query::List { limit, after }, head, form);
                }
                let link = format!("Link: </todos?after={}&limit={limit}>; rel=\"next\"\r\n", version.floor);
                self.items(&items, true, if is_short { &link } else { "" }, head, form)
            }
            Route::Health => {
                let date = self.date();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 16\r\n{date}");
                self.answer(&head, form, b"{\"status\":\"ok\"}\n")
            }
            Route::Page(page) => {
                let (date, body) = (self.date(), page.body());
                let (media_type, length, fields) = (page.content_type(), body.len(), page.fields());
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n{date}{fields}"
                );
                self.answer(&head, form, &body)
            }
            Route::Ready => self.page(Page::Ready, head, form),
            Route::Metrics => self.page(Page::Metrics(Format::of_accept(head.accept)), head, form),
            Route::Events if form.head_only => {
                let date = self.date();
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{date}Cache-Control: no-store\r\nX-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\n"
                );
                self.answer(&head, form, b"")
            }
            Route::Events => match self.next_handed() {
                Some(Handed::Events(Some(reject))) => {
                    let reject = *reject;
                    self.refuse(reject, form)
                }
                _ => self.cut(),
            },
            Route::Options(allow) => {
                let head = format!("HTTP/1.1 204 No Content\r\n{}{}", self.date(), allow_lines(allow));
                self.answer(&head, form, b"")
            }
            Route::Create | Route::Replace(_) | Route::Patch(_) | Route::Delete(_) => unreachable!("a write"),
        }
    }

    /// A list, or one item bare.
    fn items(&mut self, items: &[&[u8]], is_list: bool, extra: &str, head: &Head<'_>, form: Form) -> Option<End> {
        let mut sum = 0u64;
        for json in items {
            sum = sum.wrapping_add(siphasher::sip::SipHasher24::new_with_key(&STORE_ID).hash(json));
        }
        let count = if is_list { format!("-{:x}", items.len()) } else { String::new() };
        let tag = format!("\"{sum:016x}{count}-i\"");
        let body = if is_list { [b"[", items.join(&b","[..]).as_slice(), b"]"].concat() } else { items[0].to_vec() };
        let vary = if is_list && body.len() >= 8192 { "Vary: Accept-Encoding\r\n" } else { "" };
        self.conditional("application/json", &tag, vary, extra, &body, head, form)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one answer, each used once")]
    fn conditional(
        &mut self,
        content_type: &str,
        tag: &str,
        vary: &str,
        extra: &str,
        body: &[u8],
        head: &Head<'_>,
        form: Form,
    ) -> Option<End> {
        let date = self.date();
        if if_none_match(head.if_none_match(), tag.as_bytes()) {
            let head = format!("HTTP/1.1 304 Not Modified\r\n{date}ETag: {tag}\r\n{vary}{extra}");
            return self.answer(&head, form, b"");
        }
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{date}ETag: {tag}\r\n{vary}{extra}"
        );
        self.answer(&head, form, body)
    }

    fn deferred(&mut self, query: Query, head: &Head<'_>, form: Form) -> Option<End> {
        let Some(Handed::Read(handed, answer)) = self.next_handed() else { return self.cut() };
        assert_eq!(*handed, query);
        self.deferred_answer(answer.as_ref(), matches!(query, Query::List { .. }), head, form)
    }

    fn page(&mut self, page: Page, head: &Head<'_>, form: Form) -> Option<End> {
        let Some(Handed::Page(handed, answer)) = self.next_handed() else { return self.cut() };
        assert_eq!(*handed, page);
        self.deferred_answer(answer.as_ref(), false, head, form)
    }

    fn deferred_answer(
        &mut self,
        answer: Option<&DeferredAnswer>,
        is_list: bool,
        head: &Head<'_>,
        form: Form,
    ) -> Option<End> {
        match answer {
            None => self.cut(),
            Some(DeferredAnswer::Reject(reject)) => self.refuse(*reject, form),
            Some(DeferredAnswer::Body { status, content_type, extra, etag, body }) => {
                let vary = if is_list && body.len() >= 8192 { "Vary: Accept-Encoding\r\n" } else { "" };
                if let Some(tag) = etag {
                    assert_eq!(*status, 200, "only what is there has a validator");
                    return self.conditional(content_type, &text(tag.as_bytes()), vary, extra, body, head, form);
                }
                let reason = if *status == 200 { "200 OK" } else { "503 Service Unavailable" };
                let date = self.date();
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{date}{vary}{extra}"
                );
                self.answer(&head, form, body)
            }
        }
    }

    fn refuse(&mut self, reject: Reject, form: Form) -> Option<End> {
        self.refuse_with(reject, form, "")
    }

    fn refuse_with(&mut self, reject: Reject, form: Form, extra: &str) -> Option<End> {
        let date = HttpDate::at(self.moment().second);
        let persistence = if reject.closes() { Persistence::Close } else { form.persistence };
        let mut expected = Vec::new();
        let envelope = Envelope {
            date: date.bytes(),
            persistence,
            head_only: form.head_only,
            extra_fields: extra.as_bytes(),
            origin_lines: b"",
        };
        reject.write(&envelope, &mut expected);
        self.expect(&expected, persistence)
    }

    /// An answer with this head, but for `Connection` and the empty line.
    fn answer(&mut self, head: &str, form: Form, body: &[u8]) -> Option<End> {
        let mut expected = head.as_bytes().to_vec();
        expected.extend_from_slice(match form.persistence {
            Persistence::KeepAlive => b"\r\n",
            Persistence::KeepAliveEcho => b"Connection: keep-alive\r\n\r\n",
            Persistence::Close => b"Connection: close\r\n\r\n",
        });
        if !form.head_only {
            expected.extend_from_slice(body);
        }
        self.expect(&expected, form.persistence)
    }

    fn expect(&mut self, expected: &[u8], persistence: Persistence) -> Option<End> {
        let sent = &self.record.output[self.sent..];
        let length = if self.record.is_complete { expected.len() } else { expected.len().min(sent.len()) };
        assert!(
            sent.get(..length) == Some(&expected[..length]),
            "at {} of the output\nsent     {:?}\nexpected {:?}",
            self.sent,
            text(&sent[..sent.len().min(700)]),
            text(&expected[..expected.len().min(700)]),
        );
        if length < expected.len() {
            self.is_cut = true;
            return Some(End::Closed);
        }
        self.sent += length;
        self.answers_count += 1;
        (persistence == Persistence::Close).then_some(End::Closed)
    }

    /// The record ends before an answer that waits for the control plane.
    fn cut(&mut self) -> Option<End> {
        assert!(!self.record.is_complete, "nothing was handed over, or nothing came back");
        self.is_cut = true;
        Some(End::Closed)
    }

    fn next_handed(&mut self) -> Option<&'a Handed> {
        self.handed.next()
    }

    /// The `Date` line of the answer that begins here.
    fn date(&self) -> String {
        format!("Date: {}\r\n", text(HttpDate::at(self.moment().second).bytes()))
    }

    /// What was current when the next byte of the output was put there.
    fn moment(&self) -> Moment {
        let moments = self.record.moments;
        let after = moments.partition_point(|moment| moment.output_start <= self.sent);
        moments[after - 1]
    }
}

/// Everything about a write that is decided before its body; its id where the request names one.
fn door(head: &Head<'_>, route: Route) -> Result<Option<ItemId>, Reject> {
    if head.authorization != Some(BEARER.as_bytes()) {
        KEYS.verify(head.authorization, WALL_MS / 1000)?;
    }
    check_write(route, head)?;
    match (route, head.idempotency_key) {
        (Route::Create, Some(key)) => idempotency::key(key, WALL_MS).map(Some),
        (Route::Create, None) => Ok(None),
        (Route::Replace(id) | Route::Patch(id) | Route::Delete(id), _) => {
            if id.time_ms() > WALL_MS + 60_000 {
                Err(Reject::NotFound)
            } else {
                Ok(Some(id))
            }
        }
        _ => unreachable!("only writes come here"),
    }
}

fn whole_body(framing: Framing, rest: &[u8]) -> Whole {
    let mut payload = Vec::new();
    let read = Body::new(framing, REQUEST_BODY_BYTES_MAX).and_then(|mut body| body.read(rest, &mut payload));
    match read {
        Ok(progress) if progress.done => Whole::Here { payload, bytes: progress.consumed },
        Ok(_) => Whole::Partial,
        Err(reject) => Whole::Refused(reject),
    }
}

fn allow_lines(allow: Allow) -> &'static str {
    match allow {
        Allow::List => "Allow: GET, HEAD, POST, OPTIONS\r\n",
        Allow::Item => concat!(
            "Allow: GET, HEAD, PUT, PATCH, DELETE, OPTIONS\r\n",
            "Accept-Patch: application/merge-patch+json, application/json\r\n"
        ),
        Allow::Probe => "Allow: GET, HEAD, OPTIONS\r\n",
        Allow::Server => "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n",
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
