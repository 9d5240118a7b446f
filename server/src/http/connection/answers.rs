//! Puts answers together, in the connection's output.

use todo_proto::id::ItemId;
use todo_proto::names::ROUTE;
use todo_worker::exposition::Format;

use super::Connection;
use super::Phase;
use super::group::{Deferred, DeferredAnswer, Group, Member, MemberContent, Page, WriteOutcome};
use crate::counters::RouteKind;
use crate::http::access::Answer;
use crate::http::condition::if_none_match;
use crate::http::cors::AllowedOrigin;
use crate::http::head::Head;
use crate::http::reject::{Envelope, Reject};
use crate::http::reply::{Fields, Form, varies, write_head};
use crate::http::route::Route;
use crate::http::site::Site;
use crate::limits::{COPIED_BODY_BYTES_MAX, REPLY_HEAD_BYTES_MAX};
use crate::snapshot::Slice;
use crate::snapshot::response::{Found, JSON, Query, find};

/// What answers `/dashboard/events`: server-sent events, of which no proxy keeps or gathers any.
const EVENTS: Fields<'_> = Fields {
    content_type: Some("text/event-stream"),
    content_length: None,
    etag: None,
    vary: false,
    extra: b"Cache-Control: no-store\r\nX-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\n",
    is_preflight: false,
};

impl Connection {
    /// Answers a read that is not ready-made, or defers it.
    pub(super) fn answer_query(&mut self, query: Query, form: Form, head: Option<&Head<'_>>, site: &mut Site) {
        let kind = RouteKind::of_query(query);
        match find(&site.held.snapshot, query) {
            Found::Whole(slice) => self.answer_slice(&slice, kind, form, head, "", site),
            Found::Short(slice) => {
                let Query::List { limit, .. } = query else { unreachable!("only a list can be short") };
                let next = next_link(site.held.snapshot.floor(), limit);
                self.answer_slice(&slice, kind, form, head, &next, site);
            }
            Found::Below => {
                let condition = head.filter(|head| head.has_condition()).map(condition_lines);
                self.defer(Deferred::Read(query), kind, form, condition);
            }
            Found::Absent => self.reject(Reject::NotFound, form, kind, site),
        }
        if form.closes() && self.phase == Phase::Head {
            self.close(site);
        }
    }

    pub(super) fn answer_slice(
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
            ..Fields::default()
        };
        let bytes_max = REPLY_HEAD_BYTES_MAX + if is_copied { copied_bytes } else { 0 };
        let Site { pool, date, held, counters, access, .. } = site;
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
        access.answered(Answer::good(status, if has_body { slice.body_bytes() } else { 0 }));
    }

    pub(super) fn on_other(&mut self, route: Route, form: Form, head: &Head<'_>, site: &mut Site) {
        let kind = RouteKind::of(route);
        match route {
            Route::All if !site.held.snapshot.is_loaded() => self.reject(Reject::StoreUnavailable, form, kind, site),
            Route::All => {
                let slice = site.held.snapshot.all();
                self.answer_slice(&slice, RouteKind::List, form, Some(head), "", site);
            }
            Route::Health => self.answer_text(JSON, "", b"{\"status\":\"ok\"}\n", kind, form, site),
            Route::Page(page) => {
                self.answer_text(page.content_type(), page.fields(), &page.body(), kind, form, site);
            }
            Route::Ready => self.defer(Deferred::Page(Page::Ready), kind, form, None),
            Route::Metrics => {
                let format = Format::of_accept(head.accept);
                self.defer(Deferred::Page(Page::Metrics(format)), kind, form, None);
            }
            Route::Events if form.head_only => {
                let Site { pool, date, counters, access, .. } = site;
                self.output.put_with(REPLY_HEAD_BYTES_MAX, pool, |out| write_head(out, 200, form, date, &EVENTS));
                counters.answered(kind, 200, 1);
                access.answered(Answer::good(200, 0));
            }
            Route::Events => self.defer(Deferred::Events, kind, form, None),
            Route::Options(allow) => {
                let preflight = form.origin.map_or("", AllowedOrigin::preflight_lines);
                let extra = [allow.fields(), preflight].concat();
                let fields = Fields { extra: extra.as_bytes(), is_preflight: true, ..Fields::default() };
                let Site { pool, date, counters, access, .. } = site;
                self.output.put_with(REPLY_HEAD_BYTES_MAX, pool, |out| write_head(out, 204, form, date, &fields));
                counters.answered(kind, 204, 1);
                access.answered(Answer::good(204, 0));
            }
            _ => unreachable!("reads and writes have their own ways"),
        }
        if form.closes() && self.phase == Phase::Head && self.group.is_none() {
            self.close(site);
        }
    }

    /// The head of an answer without end, which closes the connection when it comes to one.
    pub(super) fn events_head(&self, site: &mut Site) -> Vec<u8> {
        let member = self.group.as_ref().and_then(|group| group.first());
        let form = member.map_or(Form::CLOSING, |member| member.form.closing());
        let mut head = Vec::with_capacity(REPLY_HEAD_BYTES_MAX);
        write_head(&mut head, 200, form, &site.date, &EVENTS);
        site.counters.answered(RouteKind::Page, 200, 1);
        site.access.answered(Answer::good(200, 0));
        head
    }

    pub(super) fn answer_text(
        &mut self,
        content_type: &'static str,
        extra: &str,
        body: &[u8],
        kind: RouteKind,
        form: Form,
        site: &mut Site,
    ) {
        let fields = Fields {
            content_type: Some(content_type),
            content_length: Some(body.len() as u64),
            extra: extra.as_bytes(),
            ..Fields::default()
        };
        let Site { pool, date, counters, access, .. } = site;
        self.output.put_with(REPLY_HEAD_BYTES_MAX + body.len(), pool, |out| {
            write_head(out, 200, form, date, &fields);
            if !form.head_only {
                out.extend_from_slice(body);
            }
        });
        counters.answered(kind, 200, 1);
        access.answered(Answer::good(200, if form.head_only { 0 } else { body.len() as u64 }));
    }

    /// Makes a group of one request that memory cannot answer.
    fn defer(&mut self, deferred: Deferred, kind: RouteKind, form: Form, condition: Option<Box<[u8]>>) {
        debug_assert!(self.group.is_none(), "only writes join a group");
        self.group = Some(Box::new(Group::of_one(deferred, kind, form, condition)));
        self.phase = Phase::Deferred;
    }

    pub(super) fn answer_group_if_complete(&mut self, site: &mut Site) -> bool {
        let Some(mut group) = self.group.take_if(|group| group.is_complete()) else { return false };
        if site.draining && self.input.is_empty() && self.body.is_none() {
            group.close_behind();
        }
        let closes = group.closes;
        for mut member in group.into_members() {
            let line = member.line.take();
            self.answer_member(member, site);
            self.tell_answered(line, site);
        }
        self.phase = if self.body.is_some() { Phase::Body } else { Phase::Head };
        self.began_ms = site.now.tick_ms;
        if closes {
            self.close(site);
        }
        self.turn_done(site);
        true
    }

    pub(super) fn answer_member(&mut self, member: Member, site: &mut Site) {
        let Member { form, kind, content, .. } = member;
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
            MemberContent::Other { condition, answer } => match answer.expect("the group is complete") {
                DeferredAnswer::Reject(reject) => self.reject(reject, form, kind, site),
                DeferredAnswer::Body { status, content_type, extra, etag, body } => {
                    let lines = condition.iter().flat_map(|lines| lines.split(|byte| *byte == b'\n'));
                    let unchanged = etag.is_some_and(|etag| if_none_match(lines, etag.as_bytes()));
                    let status = if unchanged { 304 } else { status };
                    let fields = Fields {
                        content_type: (!unchanged).then_some(content_type),
                        content_length: (!unchanged).then_some(body.len() as u64),
                        etag: etag.as_ref(),
                        vary: kind == RouteKind::List && varies(body.len() as u64),
                        extra: extra.as_bytes(),
                        ..Fields::default()
                    };
                    let has_body = !unchanged && !form.head_only;
                    let Site { pool, date, counters, access, .. } = site;
                    self.output.put_with(REPLY_HEAD_BYTES_MAX + body.len(), pool, |out| {
                        write_head(out, status, form, date, &fields);
                        if has_body {
                            out.extend_from_slice(&body);
                        }
                    });
                    counters.answered(kind, status, 1);
                    access.answered(Answer::good(status, if has_body { body.len() as u64 } else { 0 }));
                }
            },
        }
    }

    /// 202: the command is durable.
    pub(super) fn accepted(&mut self, id: ItemId, is_create: bool, kind: RouteKind, form: Form, site: &mut Site) {
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
        let Site { pool, date, counters, access, .. } = site;
        self.output.put_with(REPLY_HEAD_BYTES_MAX + body_bytes, pool, |out| {
            write_head(out, 202, form, date, &fields);
            out.extend_from_slice(br#"{"id":""#);
            out.extend_from_slice(&hyphenated);
            out.extend_from_slice(br#""}"#);
        });
        counters.answered(kind, 202, 1);
        access.answered(Answer::good(202, body_bytes as u64));
    }

    pub(super) fn reject(&mut self, reject: Reject, form: Form, kind: RouteKind, site: &mut Site) {
        self.reject_with(reject, form, kind, "", site);
    }

    pub(super) fn reject_with(&mut self, reject: Reject, form: Form, kind: RouteKind, extra: &str, site: &mut Site) {
        let Site { pool, date, counters, access, .. } = site;
        let envelope = Envelope {
            date: date.bytes(),
            persistence: form.persistence,
            head_only: form.head_only,
            extra_fields: extra.as_bytes(),
            origin_lines: form.origin_lines().as_bytes(),
        };
        let body_bytes: usize = reject.body().iter().map(|piece| piece.len()).sum();
        self.output.put_with(REPLY_HEAD_BYTES_MAX + body_bytes, pool, |out| reject.write(&envelope, out));
        counters.answered(kind, reject.status(), 1);
        counters.rejected(reject);
        access.answered(Answer::refused(reject, if form.head_only { 0 } else { body_bytes as u64 }));
    }
}

/// `Link: rel="next"` for a list that goes on below `floor` (RFC 8288).
pub fn next_link(after: ItemId, limit: u32) -> String {
    let hyphenated = after.hyphenated();
    let id = String::from_utf8_lossy(&hyphenated);
    format!("Link: <{ROUTE}?after={id}&limit={limit}>; rel=\"next\"\r\n")
}

fn idempotency_line(id: ItemId) -> String {
    format!("Idempotency-Key: {}\r\n", String::from_utf8_lossy(&id.hyphenated()))
}

/// The values of `If-None-Match`, a line each: what a deferred read must keep of its head.
fn condition_lines(head: &Head<'_>) -> Box<[u8]> {
    let lines: Vec<&[u8]> = head.if_none_match().collect();
    lines.join(&b'\n').into()
}
