//! Looks at input: one request after the other, as far as the turn allows.

use super::admit::is_write;
use super::{Connection, Phase, Purpose, ReadingBody, Step};
use crate::counters::RouteKind;
use crate::http::body::{Body, Progress};
use crate::http::cors::AllowedOrigin;
use crate::http::head::{self, Find, Framing, Head, Method};
use crate::http::known;
use crate::http::proxy_header;
use crate::http::reject::{Persistence, Reject};
use crate::http::reply::Form;
use crate::http::route::{Route, route};
use crate::http::site::Site;
use crate::limits::{DRAIN_BODY_BYTES_MAX, KNOWN_REPEATS_MAX};
use crate::snapshot::response::Query;

impl Connection {
    /// Looks at as much of `input` as this turn allows; how much of it was consumed.
    pub(super) fn advance(&mut self, input: &[u8], site: &mut Site) -> usize {
        let mut at = 0;
        self.starved = false;
        loop {
            let rest = &input[at..];
            let step = match self.phase {
                _ if self.output.turn_left_bytes() == 0 => Step::Stop,
                Phase::Head if rest.is_empty() => Step::Starved,
                Phase::Head => self.on_head(rest, &mut at, site),
                Phase::Body => self.on_body(rest, &mut at, site),
                Phase::ProxyHeader => self.on_proxy_header(rest, &mut at, site),
                Phase::Deferred | Phase::Held | Phase::Closing => Step::Stop,
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
        debug_assert!(self.group.is_none() || self.phase != Phase::Body, "what is read over in a group is here whole");
        if self.group.is_some() && self.phase == Phase::Head {
            // Nothing more can join the group now.
            self.phase = Phase::Deferred;
        }
        at
    }

    /// At the beginning of a connection that a proxy passes on.
    #[cold]
    fn on_proxy_header(&mut self, rest: &[u8], at: &mut usize, site: &mut Site) -> Step {
        match proxy_header::find(rest) {
            Ok(proxy_header::Find::Partial) => Step::Starved,
            Ok(proxy_header::Find::Complete { client, length }) => {
                *at += length;
                self.client = client;
                if let proxy_header::Client::Named(address) = client {
                    site.access.name_client(self.number, address);
                }
                self.phase = Phase::Head;
                // Its idle time counts from here.
                self.began_ms = site.now.tick_ms;
                // The rest is for the next turn: what its client may do is looked up between.
                Step::Stop
            }
            Err(proxy_header::Refused) => {
                self.refuse_proxy(site);
                Step::Stop
            }
        }
    }

    /// Ends a connection that has not begun as it must. Without an answer: who speaks is no client, or not known.
    #[cold]
    pub(super) fn refuse_proxy(&mut self, site: &mut Site) {
        site.counters.proxy_refused.add(1);
        self.input_ended = true;
        self.close(site);
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
        // Who may have no more is answered below, one by one.
        let times = known.repeats(rest, KNOWN_REPEATS_MAX.min(site.requests_left as usize));
        if times == 0 {
            return None;
        }
        let (head_bytes, query) = (known.head_bytes(), known.query);
        let mut hint = known.response_hint;
        let (responses, current) = site.current();
        let ready = responses.ready(query, &mut hint, times, &current);
        if let Some(known) = site.known.get_mut(self.known) {
            known.response_hint = hint;
        }
        // The head may have come in two pieces, the first of which was searched for its end.
        self.scanned = 0;
        self.head_begun = false;
        let Some(ready) = ready else {
            // Counted once and not once an answer, which for a read full of equal requests would be quadratic.
            let mut answered = 0;
            while answered < times && self.phase == Phase::Head && self.output.turn_left_bytes() > 0 {
                self.answer_query(query, Form::PLAIN, None, site);
                self.tell_known(site);
                answered += 1;
            }
            site.requests_left -= answered as u32;
            return Some(answered * head_bytes);
        };
        // At least one, else the largest answer could never leave; then as many as the turn has room for.
        let times = times.min((self.output.turn_left_bytes() / ready.response_bytes).max(1));
        let mut left = times;
        while left > 0 {
            let copies = left.min(ready.copies);
            self.output.push_shared(&ready.buffer, 0, copies * ready.response_bytes, &site.pool);
            left -= copies;
        }
        site.requests_left -= times as u32;
        site.counters.answered(RouteKind::of_query(query), 200, times as u64);
        if site.access.picks(times as u64) {
            self.tell_run(query, times as u64, site);
        }
        Some(times * head_bytes)
    }

    #[cold]
    fn on_new_head(&mut self, rest: &[u8], at: &mut usize, site: &mut Site) -> Step {
        let (start, end) = match head::find_end(rest, self.scanned as usize) {
            Ok(Find::Complete { start, end }) => (start, end),
            Ok(Find::Partial { begun }) => {
                self.scanned = rest.len() as u32;
                self.head_begun = begun;
                return Step::Starved;
            }
            // Behind a group it is looked at again, when the group is answered.
            Err(_) if self.group.is_some() => return Step::Stop,
            Err(reject) => return self.refuse_and_close(reject, rest, site),
        };
        self.scanned = 0;
        self.head_begun = false;
        self.has_asked = true;
        let bytes = &rest[start..end];
        let hash = known::hash(bytes);
        if let Some(index) = site.known.find(bytes, hash)
            && self.group.is_none()
            && !site.draining
            && site.requests_left > 0
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
        let routed = route(&head, site.rules.limit_max).and_then(|route| {
            if site.rules.admin_elsewhere && route.is_administrative() { Err(Reject::NotFound) } else { Ok(route) }
        });
        if self.group.is_some() && !self.joins_group(&head, &routed, rest.len() - end) {
            return Step::Stop;
        }
        if site.holds_writes && self.group.is_none() && routed.is_ok_and(is_write) {
            *at += start;
            self.phase = Phase::Held;
            return Step::Stop;
        }
        *at += end;
        let form = self.form_of(&head, rest.len() - end, site);
        let members_before = self.members_count();
        if !site.take_request() {
            let form = if is_unreadable(&head) { form.closing() } else { form };
            let kind = routed.map_or(RouteKind::Other, RouteKind::of);
            self.refuse(Reject::RequestsTooMany, form, kind, site);
            self.tell(bytes, members_before, site);
            self.discard_body(&head, site);
            return Step::Continue;
        }
        if let Ok(route) = routed
            && is_write(route)
        {
            self.on_write(&head, route, form, &rest[end..], site);
            self.tell(bytes, members_before, site);
            return Step::Continue;
        }
        let form = if is_unreadable(&head) { form.closing() } else { form };
        match routed {
            Ok(Route::List { limit, after }) => {
                self.on_query(&head, Query::List { limit, after }, form, bytes, hash, site);
            }
            Ok(Route::Item(id)) => self.on_query(&head, Query::Item(id), form, bytes, hash, site),
            Ok(route) => self.on_other(route, form, &head, site),
            Err(reject) => self.refuse(reject, form, RouteKind::Other, site),
        }
        self.tell(bytes, members_before, site);
        self.discard_body(&head, site);
        Step::Continue
    }

    /// Whether a request behind a group may join it: a write, whole, within the group's bounds.
    fn joins_group(&self, head: &Head<'_>, routed: &Result<Route, Reject>, behind_bytes: usize) -> bool {
        let body_bytes = match head.framing {
            Framing::None => 0,
            Framing::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Framing::Chunked => return false,
        };
        routed.is_ok_and(is_write)
            && body_bytes <= behind_bytes
            && self.group.as_ref().is_some_and(|group| group.has_room_for(body_bytes))
    }

    /// How the answer to `head` is framed; `behind_bytes` have come behind it. While the process drains the last request
    /// that is here closes the connection, and those before it are answered like any other.
    fn form_of(&self, head: &Head<'_>, behind_bytes: usize, site: &Site) -> Form {
        let is_last = match head.framing {
            Framing::None => behind_bytes == 0,
            Framing::Length(length) => behind_bytes as u64 <= length,
            Framing::Chunked => true,
        };
        let keep_alive = head.keep_alive && !(site.draining && is_last);
        let persistence = match (keep_alive, head.keep_alive_echo) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::KeepAliveEcho,
            (true, false) => Persistence::KeepAlive,
        };
        let origin = AllowedOrigin::find(site.rules.allowed_origins, head.origin);
        Form { head_only: head.method == Method::Head, persistence, origin }
    }

    /// A read; its head is remembered when it is plain and was the last one too.
    fn on_query(&mut self, head: &Head<'_>, query: Query, form: Form, bytes: &[u8], hash: u64, site: &mut Site) {
        if head.is_plain() && form == Form::PLAIN {
            if hash == self.last_head_hash {
                self.known = Some(site.known.remember(bytes, hash, query));
            }
            self.last_head_hash = hash;
        }
        self.answer_query(query, form, Some(head), site);
    }

    /// Within a body.
    fn on_body(&mut self, rest: &[u8], at: &mut usize, site: &mut Site) -> Step {
        let body = self.body.as_mut().expect("the phase says that there is one");
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
                self.close(site);
                return Step::Stop;
            }
            (Err(reject), Purpose::Write { write, form, .. }) => {
                let (kind, form, line) = (RouteKind::of(write.route), *form, body.line.take());
                let members_before = self.members_count();
                self.drop_body(site);
                self.phase = Phase::Head;
                self.refuse(reject, form.closing(), kind, site);
                self.tell_kept(line, members_before, site);
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
            Purpose::Write { write, form, payload } => {
                site.input_bytes -= payload.len();
                let members_before = self.members_count();
                self.command(write, &payload, form, site);
                self.tell_kept(body.line, members_before, site);
            }
            Purpose::Discard => {}
        }
        Step::Continue
    }

    pub(super) fn drop_body(&mut self, site: &mut Site) {
        if let Some(body) = self.body.take()
            && let Purpose::Write { payload, .. } = body.purpose
        {
            site.input_bytes -= payload.len();
        }
    }

    /// Refuses a request whose connection may go on; in a group it keeps its place.
    pub(super) fn refuse(&mut self, reject: Reject, form: Form, kind: RouteKind, site: &mut Site) {
        let form = if reject.closes() { form.closing() } else { form };
        match &mut self.group {
            Some(group) => {
                group.push_refused(reject, kind, form);
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
        self.tell(input, 0, site);
        self.close(site);
        Step::Stop
    }

    /// Reads over the body of a request that is answered, or will be, without it.
    pub(super) fn discard_body(&mut self, head: &Head<'_>, site: &Site) {
        let closes = self.phase == Phase::Closing || self.group.as_ref().is_some_and(|group| group.closes);
        let Ok(reader) = Body::new(head.framing, DRAIN_BODY_BYTES_MAX) else {
            debug_assert!(closes, "who is not read to the end is told so");
            return;
        };
        if closes || reader.is_done() {
            return;
        }
        self.body = Some(Box::new(ReadingBody { reader, purpose: Purpose::Discard, line: None }));
        if self.phase == Phase::Head {
            self.phase = Phase::Body;
            self.began_ms = site.now.tick_ms;
        }
        // Else the body is looked at when the group is answered: until then nothing is.
    }
}

/// Whether an answer without a look at the body must close the connection: there is more of it than is read over, or
/// the client waits to be told to send it, and after this answer may or may not.
pub(super) fn is_unreadable(head: &Head<'_>) -> bool {
    match head.framing {
        Framing::None | Framing::Length(0) => false,
        Framing::Length(length) => length > DRAIN_BODY_BYTES_MAX as u64 || head.expect_continue,
        Framing::Chunked => head.expect_continue,
    }
}
