//! Tells the access log what has become of a request. Where it was answered at once its bytes are still here; what waits for
//! its body or for an outcome keeps its line until then.

use super::{Connection, Purpose};
use crate::http::access::{Answer, RequestLine};
use crate::http::site::Site;
use crate::snapshot::response::{Found, Query, find};

impl Connection {
    /// Requests that wait in the group: more than before means that the one just looked at does.
    pub(super) fn members_count(&self) -> usize {
        self.group.as_ref().map_or(0, |group| group.members_count())
    }

    /// The request whose head `bytes` are, or begin with, has been looked at.
    pub(super) fn tell(&mut self, bytes: &[u8], members_before: usize, site: &mut Site) {
        if site.access.is_due() {
            self.record(&RequestLine::of(bytes), site);
        } else if site.access.is_on() && self.is_waiting(members_before) {
            self.keep(Box::new(RequestLine::of(bytes)), members_before);
        }
    }

    /// The same, of a request whose body is here, and whose line was kept.
    pub(super) fn tell_kept(&mut self, line: Option<Box<RequestLine>>, members_before: usize, site: &mut Site) {
        if site.access.is_due() {
            self.tell_answered(line, site);
        } else if let Some(line) = line {
            self.keep(line, members_before);
        }
    }

    /// A request whose line was kept has been answered.
    pub(super) fn tell_answered(&mut self, line: Option<Box<RequestLine>>, site: &mut Site) {
        if site.access.is_due() {
            self.record(&line.unwrap_or_default(), site);
        }
    }

    /// The same, of one with the head that this connection sent last.
    pub(super) fn tell_known(&mut self, site: &mut Site) {
        if !site.access.is_due() && (!site.access.is_on() || self.group.is_none()) {
            return;
        }
        let line = site.known.get(self.known).map(|known| RequestLine::of(known.bytes())).unwrap_or_default();
        if site.access.is_due() {
            self.record(&line, site);
        } else {
            self.keep(Box::new(line), 0);
        }
    }

    /// One of so many ready-made answers to the head that this connection sent last was picked.
    #[cold]
    pub(super) fn tell_run(&mut self, query: Query, requests: u64, site: &mut Site) {
        let body_bytes = match find(&site.held.snapshot, query) {
            Found::Whole(slice) | Found::Short(slice) => slice.body_bytes(),
            Found::Below | Found::Absent => unreachable!("what is ready-made was found"),
        };
        site.access.note_picked(Answer::good(200, body_bytes), requests);
        self.tell_known(site);
    }

    fn is_waiting(&self, members_before: usize) -> bool {
        self.members_count() > members_before || self.body.is_some()
    }

    /// Keeps the line with what it waits for: the group, or its body.
    fn keep(&mut self, line: Box<RequestLine>, members_before: usize) {
        match (&mut self.group, &mut self.body) {
            (Some(group), _) if group.members_count() > members_before => group.keep_line(line),
            (_, Some(body)) if matches!(body.purpose, Purpose::Write { .. }) => body.line = Some(line),
            _ => {}
        }
    }

    #[cold]
    fn record(&mut self, line: &RequestLine, site: &mut Site) {
        let Site { access, now, counters, .. } = site;
        if let Some(answer) = access.take_due() {
            access.record(self.number, line, answer, now.wall_ms, &counters.access_dropped);
        }
    }
}
