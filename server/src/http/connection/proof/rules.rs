//! What the RFCs and the issue ask of a connection, a row each.

use std::rc::Rc;
use std::sync::Arc;

use todo_worker::exposition::Format;

use super::super::group::{Deferred, DeferredAnswer, Page, WriteOutcome};
use super::super::{Connection, Cut, Linger, Next};
use super::world::{BEARER, FLOORED, START_TICK_MS, Version, WHOLE, id_at, site};
use crate::admission::purses::Purses;
use crate::admission::{Allowance, Kind, Limits};
use crate::http::access::{Access, Record};
use crate::http::output::{Held, Transfer};
use crate::http::proxy_header;
use crate::http::reject::Reject;
use crate::http::site::{Now, Rules, Site};
use crate::limits::{
    BODY_TIMEOUT, DRAIN_BODY_BYTES_MAX, GROUP_BYTES_MAX, GROUP_WRITES_MAX, HEAD_TIMEOUT, IDLE_TIMEOUT,
    LINGER_BYTES_MAX, LINGER_TIMEOUT, OUTPUT_BYTES_PER_TURN, PROGRESS_BYTES, PROGRESS_TIMEOUT, READ_BUFFER_BYTES,
    REQUEST_BODY_BYTES_MAX,
};
use crate::snapshot::response::Query;

/// One connection, its shard, and a mover that moves everything at once.
struct Client {
    site: Site,
    machine: Connection,
    output: Vec<u8>,
}

impl Client {
    fn new() -> Client {
        Client::of(&WHOLE)
    }

    /// One whose proxy is to say who is there.
    fn of_proxy() -> Client {
        let mut client = Client::new();
        client.machine.set_client(proxy_header::Client::Awaited);
        client
    }

    fn of(versions: &[Version]) -> Client {
        let site = site(versions);
        Client { machine: Connection::new(site.now.tick_ms, 0), site, output: Vec::new() }
    }

    /// Sends as much as is read, and takes what is answered; true when all was read.
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        for piece in bytes.as_ref().chunks(READ_BUFFER_BYTES) {
            if self.machine.next() != Next::Read {
                return false;
            }
            self.machine.receive(piece, &mut self.site);
            self.settle();
        }
        true
    }

    /// Moves until the client, the control plane or time must.
    fn settle(&mut self) {
        loop {
            match self.machine.next() {
                Next::Write => self.write(usize::MAX),
                Next::Resume => self.machine.resume(&mut self.site),
                _ => return,
            }
        }
    }

    /// Takes at most so many bytes of one write.
    fn write(&mut self, bytes_max: usize) {
        let bytes = match self.machine.transfer(&self.site).expect("something is owed") {
            Transfer::Bytes { buffer, start, end } => {
                buffer.bytes()[start..end.min(start.saturating_add(bytes_max))].to_vec()
            }
            Transfer::Slices { held, walk } => walk.next(&held.snapshot, bytes_max).expect("not at its end").0.to_vec(),
        };
        self.output.extend_from_slice(&bytes);
        self.machine.written(bytes.len(), &self.site);
    }

    /// Answers one group with 202s; how many commands it had.
    fn acknowledge(&mut self) -> usize {
        let Some(Deferred::Writes(commands)) = self.machine.take_deferred() else { panic!("no group of writes waits") };
        for place in 0..commands.len() {
            self.machine.write_outcome(place, WriteOutcome::Acknowledged, &mut self.site);
        }
        self.settle();
        commands.len()
    }

    /// Sends everything and answers what is deferred, as long as it is read.
    fn converse(&mut self, reads: &[impl AsRef<[u8]>]) {
        for bytes in reads.iter().flat_map(|bytes| bytes.as_ref().chunks(READ_BUFFER_BYTES)) {
            self.send(bytes);
            while self.machine.next() == Next::Wait {
                match self.machine.take_deferred().expect("nothing was handed over") {
                    Deferred::Writes(commands) => {
                        for place in 0..commands.len() {
                            self.machine.write_outcome(place, WriteOutcome::Acknowledged, &mut self.site);
                        }
                    }
                    Deferred::Read(_) | Deferred::Page(_) | Deferred::Events => {
                        self.machine.deferred_answer(page(b"page"), &mut self.site);
                    }
                }
                self.settle();
            }
        }
    }

    /// Lets time pass, then lets the machine look at it.
    fn pass(&mut self, ms: u64) -> Option<Cut> {
        let now = self.site.now;
        self.site.set_now(Now { tick_ms: now.tick_ms + ms, second: now.second + ms / 1000, ..now });
        self.machine.tick(&mut self.site)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }

    fn statuses(&self) -> Vec<u16> {
        let text = self.text();
        // The words of a refusal may name the version too.
        text.match_indices("HTTP/1.1 ").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
    }
}

/// Everything that is refused, and with a sample of 1 every other answer or run of them, comes to the log with its own
/// request line and nothing else of the request, however late it is answered.
#[test]
fn every_answer_is_told_with_its_own_request_line() {
    let told = |versions: &[Version], pieces: &[&str]| -> Vec<(String, u16, u64)> {
        let mut client = Client::of(versions);
        let (producer, mut consumer) = rtrb::RingBuffer::new(256);
        client.site.access = Access::new(producer, 1);
        client.site.access.set_client(0, "192.0.2.1:7".parse().ok());
        client.converse(pieces);
        client.pass(HEAD_TIMEOUT.max(BODY_TIMEOUT).as_millis() as u64);
        let records: Vec<Record> = std::iter::from_fn(|| consumer.pop().ok()).collect();
        let body_bytes: u64 = records.iter().map(|record| record.answer.body_bytes * record.answer.requests).sum();
        client.settle();
        assert!(client.output.len() as u64 >= body_bytes, "{records:?}");
        let answers: u64 = records.iter().map(|record| record.answer.requests).sum();
        let continued = client.text().matches("100 Continue").count();
        assert_eq!(answers as usize, client.statuses().len() - continued, "{records:?}");
        let line = |record: &Record| {
            assert!(record.at_ms == client.site.now.wall_ms && record.client.is_some());
            let method = String::from_utf8_lossy(&record.line.method).into_owned();
            let line = format!("{method} {}", String::from_utf8_lossy(&record.line.target));
            assert_eq!(record.answer.sample, u32::from(record.answer.status < 400), "{line}");
            assert_eq!(record.answer.problem.is_some(), record.answer.status >= 400, "{line}");
            (line, record.answer.status, record.answer.requests)
        };
        records.iter().map(line).collect()
    };
    let check = |pieces: &[&str], expected: &[(&str, u16, u64)]| {
        let expected: Vec<_> = expected.iter().map(|(line, status, n)| ((*line).to_owned(), *status, *n)).collect();
        assert_eq!(told(&WHOLE, pieces), expected, "{pieces:?}");
    };
    let (list, other) = (get("/todos?limit=1"), get("/todos?limit=2"));
    check(&[&list], &[("GET /todos?limit=1", 200, 1)]);
    // The first two are looked at one by one, the rest of a read is a run.
    let ones = ("GET /todos?limit=1", 200, 1);
    check(&[&list, &list, &list.repeat(80)], &[ones, ones, ("GET /todos?limit=1", 200, 80)]);
    check(&[&[&*list, &other].concat()], &[ones, ("GET /todos?limit=2", 200, 1)]);
    let absent = get(&format!("/todos/{}", id_at(70_000)));
    let absent_line = format!("GET /todos/{}", id_at(70_000));
    check(&[&absent.repeat(5)], &[(absent_line.as_str(), 404, 1); 5]);
    check(&["GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"], &[("GET /x", 400, 1)]);
    check(&["GET /x HTTP/2.0\r\nHost: a\r\n\r\n"], &[("GET /x", 505, 1)]);
    check(&["\u{16}\u{3}\u{1} secret"], &[(" ", 400, 1)]);
    check(&[&format!("GET /{}", "x".repeat(9_000))], &[(&format!("GET /{}", "x".repeat(127)), 414, 1)]);
    check(&[&format!("GET /y HTTP/1.1\r\nX: {}", "x".repeat(9_000))], &[("GET /y", 431, 1)]);
    check(&["GET /slow"], &[("GET /slow", 408, 1)]);
    // Writes: at the door, within their bodies, by their content, and when their outcome is in.
    check(&[&request("POST /todos HTTP/1.1", "", "{}")], &[("POST /todos", 401, 1)]);
    check(&[&post("", TODO)], &[("POST /todos", 202, 1)]);
    check(&[&post("", "[]")], &[("POST /todos", 400, 1)]);
    check(
        &[&[post("", TODO), post("", "[]"), post("", TODO)].concat()],
        &[("POST /todos", 202, 1), ("POST /todos", 400, 1), ("POST /todos", 202, 1)],
    );
    let whole = post("", TODO);
    check(&[&whole[..whole.len() - 1], &whole[whole.len() - 1..]], &[("POST /todos", 202, 1)]);
    check(&[&whole[..whole.len() - 1]], &[("POST /todos", 408, 1)]);
    let fields = format!("Host: a\r\nAuthorization: {}\r\nTransfer-Encoding: chunked", *BEARER);
    let chunked = format!("POST /todos HTTP/1.1\r\n{fields}\r\n\r\n");
    check(&[&chunked, "secret\r\n"], &[("POST /todos", 400, 1)]);
    // Pages and reads that memory does not answer.
    check(&[&get("/ready")], &[("GET /ready", 200, 1)]);
    check(&[&get("/dashboard/events")], &[("GET /dashboard/events", 200, 1)]);
    let below = get(&format!("/todos/{}", id_at(70_000)));
    assert_eq!(told(&FLOORED, &[&below]), [(absent_line, 200, 1)]);
}

/// Whatever has come of it, a connection that owes nothing goes on elsewhere with what was not looked at: the answers are
/// those of one that stayed. Only within a body, or with a group out, it must stay.
#[test]
fn a_connection_moves_at_every_byte() {
    let stream = [get("/todos?limit=2"), "\r\n".into(), get("/todos?limit=2"), post("", TODO), get("/health")].concat();
    let mut stayed = Client::new();
    stayed.converse(&[&stream]);
    assert_eq!(stayed.statuses(), [200, 200, 202, 200]);
    let mut stayed_count = 0;
    for split in 0..=stream.len() {
        let mut client = Client::new();
        client.converse(&[&stream[..split]]);
        let input = if client.machine.can_move() {
            let input = client.machine.take_input(&mut client.site);
            client.machine = Connection::new(client.site.now.tick_ms, 0);
            input
        } else {
            assert!(client.machine.is_writing(), "split at {split}");
            stayed_count += 1;
            Box::default()
        };
        let held_bytes = client.site.input_bytes;
        assert!(held_bytes == 0 || !client.machine.can_move(), "split at {split}: {held_bytes} bytes are left behind");
        client.converse(&[&input, &stream.as_bytes()[split..]]);
        assert_eq!(client.statuses(), stayed.statuses(), "split at {split}");
    }
    assert_eq!(stayed_count, TODO.len(), "from the end of the POST's head to the last byte of its body");
}

/// Behind a proxy: its header, wherever it is cut and whatever comes with it, says who is there, and the rest is HTTP. At
/// every byte another process can go on, and asks for no second header.
#[test]
fn a_proxy_says_who_is_there_before_the_first_request() {
    let headers: [(&[u8], proxy_header::Client); 3] = [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 80\r\n", proxy_header::Client::Named([192, 0, 2, 7].into())),
        (
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\xc6\x33\x64\x01\xc0\0\0\x50",
            proxy_header::Client::Named([192, 0, 2, 7].into()),
        ),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", proxy_header::Client::Direct),
    ];
    for (header, named) in headers {
        let requests = [get("/todos?limit=2"), get("/todos?limit=2"), post("", TODO), get("/health")].concat();
        let stream = [header, requests.as_bytes()].concat();
        for split in 0..=stream.len() {
            for moves in [false, true] {
                let mut client = Client::of_proxy();
                client.converse(&[&stream[..split]]);
                let known = if split < header.len() { proxy_header::Client::Awaited } else { named };
                assert_eq!(client.machine.client(), known, "split at {split}");
                let mut input = Box::default();
                if moves && client.machine.can_move() {
                    input = client.machine.take_input(&mut client.site);
                    assert_eq!(client.site.input_bytes, 0);
                    client.machine = Connection::new(client.site.now.tick_ms, 0);
                    client.machine.set_client(known);
                }
                client.converse(&[&input, &stream[split..]]);
                assert_eq!((client.statuses(), client.machine.client()), (vec![200, 200, 202, 200], named), "{split}");
                assert_eq!(client.site.counters.proxy_refused.get(), 0);
            }
        }
    }
}

/// What is no header ends the connection at once, and silence when its time has passed; without a word, and counted.
#[test]
fn who_begins_without_the_header_is_not_spoken_to() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n",
        b"PROXY TCP4 1\r\n",
        b"\x16\x03\x01",
        b"PROXY\n",
    ] {
        let mut client = Client::of_proxy();
        client.send([bytes, get("/todos").as_bytes()].concat());
        assert_eq!(
            (client.machine.next(), client.output.len(), client.site.input_bytes),
            (Next::Close, 0, 0),
            "{bytes:?}"
        );
        assert_eq!(client.site.counters.proxy_refused.get(), 1);
        assert_eq!(client.machine.client(), proxy_header::Client::Awaited, "nobody was named");
    }
    let head_timeout_ms = HEAD_TIMEOUT.as_millis() as u64;
    for begun in [&b""[..], b"PROXY TCP4 1.2.3.4"] {
        let mut client = Client::of_proxy();
        client.pass(head_timeout_ms - 1);
        client.send(begun);
        assert_eq!((client.pass(1), client.machine.next()), (Some(Cut::Idle), Next::Close), "in all, not per read");
        assert_eq!((client.output.len(), client.site.input_bytes, client.site.counters.proxy_refused.get()), (0, 0, 1));
        // One that says nothing and goes is a look at the port and no fault.
        let mut client = Client::of_proxy();
        client.send(begun);
        client.machine.end_of_input(&mut client.site);
        assert_eq!((client.machine.next(), client.output.len(), client.site.input_bytes), (Next::Close, 0, 0));
        assert_eq!(client.site.counters.proxy_refused.get(), u64::from(!begun.is_empty()));
    }
    // Behind the header the clocks are those of any connection.
    let mut client = Client::of_proxy();
    client.pass(head_timeout_ms - 1);
    client.send("PROXY UNKNOWN\r\n");
    assert_eq!(client.pass(IDLE_TIMEOUT.as_millis() as u64 - 1), None);
    client.send("GET /");
    assert_eq!(client.pass(head_timeout_ms), Some(Cut::Timeout));
    client.settle();
    assert_eq!(client.statuses(), [408]);
    // From elsewhere a header is a request like any other, and a bad one.
    for header in [
        &b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 80\r\n"[..],
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    ] {
        let mut client = Client::new();
        client.send([header, get("/todos?limit=1").as_bytes()].concat());
        assert_eq!((client.statuses(), client.machine.next()), (vec![400], Next::Linger), "{header:?}");
    }
}

/// While writes are held one is not looked at, nor what stands behind it; whoever then goes on, this process or another,
/// finds all of it.
#[test]
fn a_held_write_is_answered_by_whoever_goes_on() {
    for moves in [false, true] {
        let mut client = Client::new();
        client.site.holds_writes = true;
        client.send([get("/todos?limit=2"), post("", TODO), get("/health")].concat());
        assert_eq!((client.statuses(), client.machine.next()), (vec![200], Next::Wait));
        assert!(client.machine.can_move() && !client.machine.is_writing() && client.machine.take_deferred().is_none());
        assert_eq!(client.pass(3_600_000), None, "it waits for us");
        client.site.holds_writes = false;
        if moves {
            let input = client.machine.take_input(&mut client.site);
            assert_eq!((&*input, client.site.input_bytes), ([post("", TODO), get("/health")].concat().as_bytes(), 0));
            client.machine = Connection::new(client.site.now.tick_ms, 0);
            client.send(input);
        } else {
            client.machine.resume_writes();
            client.settle();
        }
        assert_eq!(client.acknowledge(), 1);
        assert_eq!(client.statuses(), [200, 202, 200], "moves: {moves}");
    }
}

/// A write that has begun is finished where it has begun.
#[test]
fn a_write_that_has_begun_is_not_held() {
    let mut client = Client::new();
    let post = post("", TODO);
    client.send(&post[..post.len() - 1]);
    client.site.holds_writes = true;
    assert!(client.machine.is_writing() && !client.machine.can_move());
    client.send(&post[post.len() - 1..]);
    assert!(client.machine.is_writing() && !client.machine.can_move());
    assert_eq!(client.acknowledge(), 1);
    assert!(!client.machine.is_writing() && client.machine.can_move());
}

fn page(body: &[u8]) -> DeferredAnswer {
    DeferredAnswer::Body {
        status: 200,
        content_type: "text/plain",
        extra: String::new(),
        etag: None,
        body: body.to_vec(),
    }
}

fn get(target: &str) -> String {
    request(&format!("GET {target} HTTP/1.1"), "", "")
}

/// A request with a length if it has a body.
fn request(line: &str, fields: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{line}\r\nHost: a\r\n{fields}{length}\r\n{body}")
}

/// A POST with a token.
fn post(fields: &str, body: &str) -> String {
    request("POST /todos HTTP/1.1", &format!("Authorization: {}\r\n{fields}", *BEARER), body)
}

/// A request with a chunked body of one chunk.
fn chunked(line: &str, fields: &str, body: &str) -> String {
    let body = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    format!("{line}\r\nHost: a\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{body}")
}

const TODO: &str = "{\"title\":\"t\"}";

#[test]
fn who_waits_for_a_100_gets_it_only_where_it_helps() {
    let expecting = post("Expect: 100-continue\r\n", TODO);
    let (head, body) = expecting.split_at(expecting.len() - TODO.len());
    let (begun, rest) = expecting.split_at(expecting.len() - 1);
    let old = expecting.replace("HTTP/1.1", "HTTP/1.0");
    let (old_head, old_body) = old.split_at(old.len() - TODO.len());
    let chunked =
        chunked("POST /todos HTTP/1.1", &format!("Expect: 100-Continue\r\nAuthorization: {}\r\n", *BEARER), TODO);
    let (chunked_head, chunked_body) = chunked.split_at(chunked.find("\r\n\r\n").expect("it has a head") + 4);
    let get_health = get("/health");
    let with_health = format!("{get_health}{head}");
    let plain = request("POST /todos HTTP/1.1", "Expect: 100-continue\r\n", TODO);
    let (plain_head, plain_body) = plain.split_at(plain.len() - TODO.len());
    let gzip = post("Expect: 100-continue\r\nContent-Encoding: gzip\r\n", TODO);
    let long = post("Expect: 100-continue\r\n", &"x".repeat(REQUEST_BODY_BYTES_MAX + 1));
    let cases: [(&str, &[&str], &[u16], Next); 13] = [
        ("head, then body", &[head, body], &[100, 202], Next::Read),
        ("all at once", &[&expecting], &[202], Next::Read),
        ("the body has begun", &[begun, rest], &[202], Next::Read),
        ("chunked", &[chunked_head, chunked_body], &[100, 202], Next::Read),
        ("behind another answer", &[&with_health, body], &[200, 100, 202], Next::Read),
        ("in HTTP/1.0", &[old_head, old_body], &[202], Next::Linger),
        ("without a body", &[&post("Expect: 100-continue\r\n", "")], &[400], Next::Read),
        ("refused at the door", &[plain_head, plain_body], &[401], Next::Linger),
        ("refused at the door, the body behind it", &[&plain, &get_health], &[401], Next::Linger),
        ("refused for its coding", &[&gzip[..gzip.len() - TODO.len()]], &[415], Next::Linger),
        ("refused for its length", &[&long[..300]], &[413], Next::Linger),
        ("another expectation", &[&post("Expect: 100-continue, x\r\n", TODO)], &[417], Next::Linger),
        (
            "of a read with a body",
            &[&request("GET /health HTTP/1.1", "Expect: 100-continue\r\n", "x")],
            &[200],
            Next::Linger,
        ),
    ];
    for (name, reads, statuses, next) in cases {
        let mut client = Client::new();
        client.converse(reads);
        assert_eq!((client.statuses().as_slice(), client.machine.next()), (statuses, next), "{name}");
        let closes = next == Next::Linger;
        assert_eq!(client.text().contains("Connection: close"), closes, "{name}: the last answer says so");
    }
}

#[test]
fn a_body_that_nobody_reads_is_never_a_request() {
    let smuggled = get("/todos?limit=1");
    let largest = smuggled.repeat(DRAIN_BODY_BYTES_MAX / smuggled.len());
    let largest = format!("{largest}{}", "\r".repeat(DRAIN_BODY_BYTES_MAX - largest.len()));
    let larger = format!("{largest}\r");
    let bearer = format!("Authorization: {}\r\n", *BEARER);
    let typed = format!("{bearer}Content-Type: text/plain\r\n");
    let far = format!("PUT /todos/{} HTTP/1.1", todo_proto::id::ItemId::from_parts(u64::MAX, 1));
    let cases: [(&str, &str, u16); 12] = [
        ("POST /todos HTTP/1.1", "", 401),
        ("POST /todos HTTP/1.1", &typed, 415),
        (&far, &bearer, 404),
        ("POST /nothing HTTP/1.1", "", 404),
        ("PUT /todos HTTP/1.1", "", 405),
        ("BREW /todos HTTP/1.1", "", 501),
        ("GET /todos?limit=0 HTTP/1.1", "", 400),
        ("GET /health HTTP/1.1", "", 200),
        ("GET /todos?limit=2 HTTP/1.1", "", 200),
        ("OPTIONS * HTTP/1.1", "", 204),
        ("GET /ready HTTP/1.1", "", 200),
        ("GET /metrics HTTP/1.1", "", 200),
    ];
    for (line, fields, status) in cases {
        for body in [smuggled.as_str(), &largest] {
            for framed in [request(line, fields, body), chunked(line, fields, body)] {
                let whole = format!("{framed}{}", get("/health"));
                let mut client = Client::new();
                client.converse(&[&whole]);
                assert_eq!(client.statuses(), [status, 200], "{line}, {} bytes", body.len());
                assert_eq!(client.machine.next(), Next::Read, "{line}");
                // A byte at a time, where that is quick.
                if body.len() < 1_000 {
                    let mut client = Client::new();
                    client.converse(&whole.as_bytes().chunks(1).collect::<Vec<_>>());
                    assert_eq!(client.statuses(), [status, 200], "{line} in single bytes");
                }
            }
        }
        let mut client = Client::new();
        client.converse(&[request(line, fields, &larger), get("/health")]);
        assert_eq!((client.statuses(), client.machine.next()), (vec![status], Next::Linger), "{line}, too much");
        assert!(client.text().contains("Connection: close"), "{line}: it is told so");
        let mut client = Client::new();
        client.converse(&[chunked(line, fields, &larger), get("/health")]);
        assert_eq!((client.statuses(), client.machine.next()), (vec![status], Next::Linger), "{line}, too many chunks");
        assert_eq!(client.site.input_bytes, 0);
    }
}

#[test]
fn what_is_refused_first() {
    let bearer = format!("Authorization: {}\r\n", *BEARER);
    let text = "Content-Type: text/plain\r\n";
    let coded = "Content-Encoding: gzip\r\n";
    let long = "x".repeat(REQUEST_BODY_BYTES_MAX + 1);
    let cases: [(&str, String, u16, Next); 9] = [
        ("no token, a wrong type, too long", request("POST /todos HTTP/1.1", text, &long), 401, Next::Linger),
        ("a wrong type, too long", post(text, &long), 415, Next::Linger),
        ("a coding, no JSON", post(coded, "x"), 415, Next::Read),
        ("too long", post("", &long), 413, Next::Linger),
        ("too long in chunks", chunked("POST /todos HTTP/1.1", &bearer, &long), 413, Next::Linger),
        ("no JSON", post("", "x"), 400, Next::Read),
        (
            "a bad chunk",
            chunked("POST /todos HTTP/1.1", &bearer, TODO).replace("\r\nd\r\n", "\r\ng\r\n"),
            400,
            Next::Linger,
        ),
        ("no token, no JSON", request("POST /todos HTTP/1.1", "", "x"), 401, Next::Read),
        ("another scheme", request("POST /todos HTTP/1.1", "Authorization: Basic YTpi\r\n", TODO), 401, Next::Read),
    ];
    for (name, bytes, status, next) in cases {
        let mut client = Client::new();
        client.converse(&[&bytes]);
        assert_eq!((client.statuses(), client.machine.next()), (vec![status], next), "{name}");
        assert_eq!(status == 401, client.text().contains("WWW-Authenticate: Bearer"), "{name}");
        assert_eq!(client.text().contains("Connection: close"), next == Next::Linger, "{name}");
        assert_eq!(client.site.input_bytes, 0, "{name}");
    }
    let mut client = Client::new();
    let patch = format!("PATCH /todos/{} HTTP/1.1", id_at(1));
    client.converse(&[request(&patch, &format!("{bearer}{text}"), "{}")]);
    assert!(client.text().contains("HTTP/1.1 415 ") && client.text().contains("\r\nAccept-Patch: "));
}

#[test]
fn a_close_ends_the_batch_and_a_fault_does_too() {
    let close = "Connection: x, Close\r\n";
    let health = get("/health");
    let closing = request("GET /todos?limit=1 HTTP/1.1", close, "");
    let ready = request("GET /ready HTTP/1.1", close, "");
    let old = "GET /health HTTP/1.0\r\n\r\n";
    let old_alive = "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let nobody = request("POST /todos HTTP/1.1", close, TODO);
    let upgrade = request("GET /health HTTP/1.1", "Upgrade: h2c\r\n", "");
    let cases: [(&str, &[&str], &[u16], Next); 9] = [
        ("a read", &[&health, &closing, &health], &[200, 200], Next::Linger),
        ("a page", &[&health, &ready, &health], &[200, 200], Next::Linger),
        ("HTTP/1.0", &[&health, old, &health], &[200, 200], Next::Linger),
        ("HTTP/1.0 kept alive", &[old_alive, &health], &[200, 200], Next::Read),
        ("a refused write", &[&health, &nobody, &health], &[200, 401], Next::Linger),
        ("a fault", &[&health, &health, "GET / HTTP/3\r\n\r\n", &health], &[200, 200, 400], Next::Linger),
        ("a fault that is not whole", &[&health, "\n"], &[200, 400], Next::Linger),
        ("another version", &[&health, "GET / HTTP/2.0\r\n\r\n"], &[200, 505], Next::Linger),
        ("an upgrade", &[&upgrade, &health], &[200, 200], Next::Read),
    ];
    for (name, parts, statuses, next) in cases {
        let mut client = Client::new();
        client.converse(&[parts.concat()]);
        assert_eq!((client.statuses().as_slice(), client.machine.next()), (statuses, next), "{name}");
        assert_eq!(client.text().contains("Connection: close"), next == Next::Linger, "{name}");
        assert_eq!(client.text().contains("Connection: keep-alive"), name.contains("kept"), "{name}");
    }
    // Writes: those in front of it are answered, those behind it are never commands.
    let mut client = Client::new();
    client.send([post("", TODO), post(close, TODO), post("", TODO)].concat());
    assert_eq!(client.acknowledge(), 2);
    assert_eq!((client.statuses(), client.machine.next()), (vec![202, 202], Next::Linger));
    let mut client = Client::new();
    client.send([post("", TODO), "garbage\r\n\r\n".to_owned()].concat());
    assert_eq!(client.acknowledge(), 1);
    assert_eq!((client.statuses(), client.machine.next()), (vec![202, 400], Next::Linger));
}

#[test]
fn head_is_the_head_of_get() {
    for target in ["/todos?limit=3", "/todos", "/todos?limit=0", "/nothing", "/health", "/ready", "/metrics"] {
        let (mut whole, mut bare) = (Client::new(), Client::new());
        whole.converse(&[get(target)]);
        bare.converse(&[get(target).replace("GET", "HEAD")]);
        let head = whole.text();
        let head = &head[..head.find("\r\n\r\n").expect("a whole head") + 4];
        assert_eq!(bare.text(), head, "{target}");
    }
    for refused in ["HEAD /todos HTTP/1.1\r\n\r\n", "\r\nHEAD / HTTP/9.0\r\nHost: a\r\n\r\n", "HEAD / HTTP/1.1\n"] {
        let mut client = Client::new();
        client.converse(&[refused]);
        assert!(client.text().ends_with("\r\n\r\n"), "{refused:?} has no body");
        assert_eq!(client.machine.next(), Next::Linger);
    }
}

#[test]
fn a_condition_that_holds_costs_no_body() {
    let mut client = Client::new();
    client.converse(&[get("/todos?limit=150")]);
    let text = client.text();
    let tag = text.split("ETag: ").nth(1).and_then(|rest| rest.split("\r\n").next()).expect("a tag").to_owned();
    let check = |value: &str, status: u16| {
        let mut client = Client::new();
        let conditional = request("GET /todos?limit=150 HTTP/1.1", &format!("If-None-Match: {value}\r\n"), "");
        // Twice the same head, and a known one before: a condition is never remembered away.
        client.converse(&[[get("/todos?limit=150").repeat(3), conditional.repeat(2)].concat()]);
        assert_eq!(client.statuses(), [200, 200, 200, status, status], "{value}");
        if status == 304 {
            let text = client.text();
            let last = &text[text.rfind("HTTP/1.1 304").expect("looked at above")..];
            let date = "Fri, 15 Jan 2027 08:00:00 GMT";
            let expected =
                format!("HTTP/1.1 304 Not Modified\r\nDate: {date}\r\nETag: {tag}\r\nVary: Accept-Encoding\r\n\r\n");
            assert_eq!(last, expected);
        }
    };
    check(&tag, 304);
    check(&format!("\"x\", W/{tag}"), 304);
    check("*", 304);
    check("\"x\"", 200);
    check(&format!("\"x\"\r\nIf-Modified-Since: {}", "Fri, 15 Jan 2100 08:00:00 GMT"), 200);

    // A read below the floor asks its condition of what the store gives.
    let tag = FLOORED[0].snapshot.first(3).etag();
    for (value, status) in [(String::from_utf8_lossy(tag.as_bytes()).into_owned(), 304), ("\"x\"".to_owned(), 200)] {
        let mut client = Client::of(&FLOORED);
        let target = format!("GET /todos/{} HTTP/1.1", id_at(150));
        client.send(request(&target, &format!("If-None-Match: \"y\"\r\nIf-None-Match: {value}\r\n"), ""));
        assert!(matches!(client.machine.take_deferred(), Some(Deferred::Read(Query::Item(id))) if id == id_at(150)));
        let answer = DeferredAnswer::Body {
            status: 200,
            content_type: "application/json",
            extra: String::new(),
            etag: Some(tag),
            body: b"{}".to_vec(),
        };
        assert!(client.machine.deferred_answer(answer, &mut client.site));
        client.settle();
        assert_eq!(client.statuses(), [status]);
        assert_eq!(client.text().ends_with("{}"), status == 200);
    }
}

#[test]
fn a_write_is_a_barrier_and_a_read_behind_it_sees_it() {
    let mut client = Client::new();
    let newest = get("/todos?limit=1");
    client.send([newest.repeat(3), post("", TODO), post("", TODO), newest.clone()].concat());
    assert_eq!(client.statuses(), [200, 200, 200], "what is in front of it is written");
    assert_eq!(client.machine.next(), Next::Wait);
    // The write is published, then acknowledged.
    client.site.held = Rc::new(Held { snapshot: WHOLE[1].snapshot.clone() });
    assert_eq!(client.acknowledge(), 2);
    assert_eq!(client.statuses(), [200, 200, 200, 202, 202, 200]);
    let text = client.text();
    let last = &text[text.rfind("HTTP/1.1 ").expect("an answer")..];
    assert!(last.contains("\"new\""), "its own write: {last}");
    assert_eq!(client.machine.next(), Next::Read);
}

#[test]
fn earlier_answers_leave_before_a_group_is_handed_over() {
    let mut client = Client::new();
    client.machine.receive([get("/health"), post("", TODO)].concat().as_bytes(), &mut client.site);
    assert!(client.machine.is_deferred());
    assert!(client.machine.take_deferred().is_none(), "something is owed");
    assert!(!client.machine.write_outcome(0, WriteOutcome::Acknowledged, &mut client.site), "nothing is handed over");
    client.settle();
    assert_eq!(client.acknowledge(), 1);
    assert_eq!(client.statuses(), [200, 202]);
}

#[test]
fn outcomes_come_in_any_order_and_each_once() {
    let refused = post("Content-Encoding: gzip\r\n", TODO);
    let invalid = post("", "{}");
    let mut client = Client::new();
    client.send([post("", TODO), refused, post("", TODO), invalid, post("", TODO)].concat());
    let Some(Deferred::Writes(commands)) = client.machine.take_deferred() else { panic!("a group waits") };
    assert_eq!(commands.len(), 3, "what is refused at the door is no command");
    assert!(client.machine.take_deferred().is_none(), "handed over once");
    let mut give = |place, outcome| client.machine.write_outcome(place, outcome, &mut client.site);
    assert!(!give(2, WriteOutcome::Refused(Reject::OutcomeUnknown)));
    assert!(!give(2, WriteOutcome::Acknowledged), "it is in already");
    assert!(!give(3, WriteOutcome::Acknowledged), "there is no such command");
    assert!(!give(0, WriteOutcome::Acknowledged));
    assert!(give(1, WriteOutcome::Refused(Reject::NotAppended)));
    assert!(!give(1, WriteOutcome::Acknowledged), "the group is answered");
    client.settle();
    assert_eq!(client.statuses(), [202, 415, 503, 400, 503], "a refused write keeps its place");
    let text = client.text();
    assert!(text.contains(&format!("Location: /todos/{}\r\n", commands[0].id)));
    assert_eq!(text.matches("Retry-After").count(), 1, "an unknown outcome has none");
    assert!(text.contains(&format!("\r\nIdempotency-Key: {}\r\n", commands[2].id)), "what to send again with");
    assert_eq!(client.machine.next(), Next::Read);
}

#[test]
fn a_group_is_bounded_in_number_and_bytes() {
    let mut client = Client::new();
    client.send(post("", TODO).repeat(GROUP_WRITES_MAX + 1));
    assert_eq!(client.acknowledge(), GROUP_WRITES_MAX);
    assert_eq!(client.acknowledge(), 1);

    // Refused ones count, so that what is answered is bounded too.
    let mut client = Client::new();
    client.send([post("", TODO), post("", "{}").repeat(GROUP_WRITES_MAX), post("", TODO)].concat());
    assert_eq!(client.acknowledge(), 1);
    assert_eq!(client.statuses().len(), GROUP_WRITES_MAX + 1, "the last invalid one stands alone");
    assert_eq!(client.acknowledge(), 1);

    // The end of one body comes in the same read as a whole request behind it.
    for (second_bytes, count) in [(GROUP_BYTES_MAX / 2, 2), (GROUP_BYTES_MAX / 2 + 1, 1)] {
        let body = |bytes: usize| format!("{{\"title\":\"t\",\"x\":\"{}\"}}", "y".repeat(bytes - 20));
        let first = post("", &body(GROUP_BYTES_MAX / 2));
        let mut client = Client::new();
        client.send(&first[..first.len() - 9]);
        client.send([&first[first.len() - 9..], &post("", &body(second_bytes))].concat());
        assert_eq!(client.acknowledge(), count, "{second_bytes} bytes more");
    }
}

#[test]
fn a_write_joins_only_when_it_is_here_whole() {
    let second = post("", TODO);
    for length in 1..second.len() {
        let mut client = Client::new();
        client.send([post("", TODO), second[..length].to_owned()].concat());
        assert_eq!(client.acknowledge(), 1, "{length} bytes of the second are here");
        assert_eq!(client.machine.next(), Next::Read);
        client.send(&second[length..]);
        assert_eq!(client.acknowledge(), 1);
        assert_eq!(client.statuses(), [202, 202]);
    }
    let mut client = Client::new();
    let chunked = chunked("POST /todos HTTP/1.1", &format!("Authorization: {}\r\n", *BEARER), TODO);
    client.send([post("", TODO), chunked].concat());
    assert_eq!((client.acknowledge(), client.acknowledge()), (1, 1), "how long a chunked one is nobody knows");
}

#[test]
fn a_read_or_page_goes_alone() {
    let below = get(&format!("/todos/{}", id_at(150)));
    let mut client = Client::of(&FLOORED);
    client.send([below.repeat(2), get("/ready"), post("", TODO), get("/metrics")].concat());
    for expected in ["read", "read", "ready", "write", "metrics"] {
        let found = match client.machine.take_deferred() {
            Some(Deferred::Read(Query::Item(id))) if id == id_at(150) => "read",
            Some(Deferred::Page(Page::Ready)) => "ready",
            Some(Deferred::Page(Page::Metrics(Format::Prometheus))) => "metrics",
            Some(Deferred::Writes(commands)) if commands.len() == 1 => "write",
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected);
        let site = &mut client.site;
        // An answer of the other kind is another group's.
        let moved = if expected == "write" {
            assert!(!client.machine.deferred_answer(page(b"x"), site));
            client.machine.write_outcome(0, WriteOutcome::Acknowledged, site)
        } else {
            assert!(!client.machine.write_outcome(0, WriteOutcome::Acknowledged, site));
            client.machine.deferred_answer(page(b"x"), site)
        };
        assert!(moved);
        client.settle();
    }
    assert_eq!(client.statuses(), [200, 200, 200, 202, 200]);
}

#[test]
fn a_connection_leaves_with_the_head_of_its_answer_and_nothing_else() {
    let mut client = Client::new();
    let events = get("/dashboard/events");
    client.send([get("/todos?limit=1"), events.clone(), get("/todos?limit=1")].concat());
    client.settle();
    assert_eq!(client.statuses(), [200], "what stands before it is answered");
    assert!(matches!(client.machine.take_deferred(), Some(Deferred::Events)));
    let head = String::from_utf8(client.machine.leave(&mut client.site)).expect("text");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"), "{head}");
    assert!(head.ends_with("Connection: close\r\n\r\n") && !head.contains("Content-Length"), "{head}");
    client.machine.release(&mut client.site);
    assert_eq!(client.site.input_bytes, 0, "nothing is held of what came behind it");
    // Where there is no place it is refused like any other, and what came behind it is answered.
    let mut client = Client::new();
    client.send([events, get("/todos?limit=1")].concat());
    assert!(matches!(client.machine.take_deferred(), Some(Deferred::Events)));
    assert!(client.machine.deferred_answer(DeferredAnswer::Reject(Reject::WatchersFull), &mut client.site));
    client.settle();
    assert_eq!(client.statuses(), [503, 200]);
}

#[test]
fn what_is_for_administrators_is_not_here_where_it_is_elsewhere() {
    let mut client = Client::new();
    let rules = Rules { admin_elsewhere: true, ..(*client.site.rules).clone() };
    client.site.rules = Arc::new(rules);
    client.converse(&[[get("/metrics"), get("/dashboard"), get("/dashboard/events"), get("/health")].concat()]);
    assert_eq!(client.statuses(), [404, 404, 404, 200]);
}

/// So many requests as there may be are answered, and each behind them is 429 in its place, whatever it asks; a body is read over,
/// and the connection goes on.
#[test]
fn what_is_beyond_the_allowance_is_refused_in_its_place() {
    let read = get("/todos?limit=2");
    let write = post("", TODO);
    let pieces =
        [&read, &read, &write, &get("/todos?limit=3"), &write, &write, &read, &get("/nothing"), &get("/health")];
    let (stream, count) = (pieces.map(String::as_str).concat(), pieces.len());
    let served = [200, 200, 202, 200, 202, 202, 200, 404, 200];
    let limited = |left: usize| {
        let mut client = Client::new();
        // The shard knows the head from here on.
        client.converse(&[read.repeat(3)]);
        client.output.clear();
        client.site.requests_left = left as u32;
        client
    };
    let check = |mut client: Client, left: usize, name: &str| {
        let expected: Vec<u16> = (0..count).map(|at| if at < left { served[at] } else { 429 }).collect();
        assert_eq!(client.statuses(), expected, "{name}");
        assert_eq!(client.text().matches("Retry-After: 1\r\n").count(), count - left, "{name}");
        let Site { requests_left, requests_refused, .. } = client.site;
        assert_eq!((requests_left, requests_refused as usize), (0, count - left), "{name}");
        client.output.clear();
        client.site.requests_left = 1;
        client.converse(&[&read]);
        assert_eq!(client.statuses(), [200], "{name}: it goes on");
    };
    for left in 0..=count {
        let mut client = limited(left);
        client.converse(&[&stream]);
        check(client, left, &format!("{left} may be"));
    }
    for split in 0..stream.len() {
        let mut client = limited(3);
        client.converse(&[&stream[..split], &stream[split..]]);
        check(client, 3, &format!("split at {split}"));
    }
    for (left, count) in [(0, 10), (1, 10), (100, 500), (5_000, 9_000)] {
        let mut client = limited(left);
        client.converse(&[read.repeat(count)]);
        let statuses = client.statuses();
        assert!(statuses[..left].iter().all(|status| *status == 200), "{left} of {count}");
        assert!(statuses[left..].iter().all(|status| *status == 429), "{left} of {count}");
        assert_eq!(statuses.len(), count);
    }
}

/// A subject that has had its writes gets 429 between others' answers; what another process may look at costs nothing yet.
#[test]
fn a_subject_that_has_written_enough_is_refused_in_its_place() {
    let mut limits = Limits::default();
    let allowance = Allowance { per_second: 1, burst: 2, at_begin: 2, begun_ms: 0, shards_count: 1 };
    limits.allowances[Kind::Writes as usize] = Some(allowance);
    let mut client = Client::new();
    client.site.purses = Purses::new(Arc::new(limits));
    client.site.requests_left = 10;
    client.site.holds_writes = true;
    let write = post("", TODO);
    client.send(&write);
    assert_eq!((client.machine.next(), client.site.requests_left), (Next::Wait, 10), "held");
    client.site.holds_writes = false;
    client.machine.resume_writes();
    client.settle();
    assert_eq!(client.acknowledge(), 1);
    // What is refused for something else is not counted.
    let refused = post("Idempotency-Key: none\r\n", TODO);
    client.converse(&[[&refused, &write, &write, &get("/health")].map(String::as_str).concat()]);
    assert_eq!(client.statuses(), [202, 400, 202, 429, 200]);
    assert!(client.text().contains("/problems/too-many-writes"));
    assert_eq!(client.site.requests_left, 5);
}

#[test]
fn half_closed_clients_are_served_to_the_end() {
    let mut client = Client::new();
    client.send([get("/todos"), post("", TODO), get("/health")].concat());
    client.acknowledge();
    assert_eq!(client.machine.next(), Next::Read, "everything is answered before the end is read");
    client.machine.end_of_input(&mut client.site);
    assert_eq!((client.statuses(), client.machine.next()), (vec![200, 202, 200], Next::Close));
    for partial in ["", "\r\n", "GET", &post("", TODO)[..200]] {
        let mut client = Client::new();
        client.send(partial);
        client.machine.end_of_input(&mut client.site);
        assert_eq!((client.output.len(), client.machine.next()), (0, Next::Close), "{partial:?}");
        assert_eq!(client.site.input_bytes, 0);
    }
}

#[test]
fn deadlines() {
    let (head_ms, body_ms, idle_ms) =
        (HEAD_TIMEOUT.as_millis() as u64, BODY_TIMEOUT.as_millis() as u64, IDLE_TIMEOUT.as_millis() as u64);
    let write = post("", TODO);
    let refused = request("POST /todos HTTP/1.1", "", TODO);
    let known = get("/todos?limit=2");
    let known_in_pieces = [known.repeat(3), known[..20].to_owned()].concat();
    let cases: [(&str, &[&str], u64, Cut); 11] = [
        ("nothing", &[], idle_ms, Cut::Idle),
        ("an empty line", &["\r\n"], idle_ms, Cut::Idle),
        ("an answer", &[&known], idle_ms, Cut::Idle),
        ("a head has begun", &["G"], head_ms, Cut::Timeout),
        ("behind an empty line", &["\r", "\n", "G"], head_ms, Cut::Timeout),
        ("a head has begun behind an answer", &[&known, "G"], head_ms, Cut::Timeout),
        ("a known head came in two pieces", &[&known_in_pieces, &known[20..]], idle_ms, Cut::Idle),
        ("half a known head", &[&known_in_pieces], head_ms, Cut::Timeout),
        ("a body has begun", &[&write[..write.len() - 1]], body_ms, Cut::Timeout),
        ("a body that nobody reads has begun", &[&refused[..refused.len() - 1]], body_ms, Cut::Idle),
        ("a body that nobody reads has ended", &[&refused], idle_ms, Cut::Idle),
    ];
    for (name, reads, ms, cut) in cases {
        let mut client = Client::new();
        for bytes in reads {
            assert!(client.send(bytes), "{name}");
        }
        let before = client.statuses();
        assert_eq!(client.machine.deadline_ms(&client.site), Some(START_TICK_MS + ms), "{name}");
        assert_eq!(client.pass(ms - 1), None, "{name}");
        assert_eq!(client.pass(1), Some(cut), "{name}");
        client.settle();
        assert_eq!(client.machine.next(), Next::Linger, "{name}");
        let said: &[u16] = if cut == Cut::Timeout { &[408] } else { &[] };
        assert_eq!(client.statuses(), [&before, said].concat(), "{name}");
        client.machine.release(&mut client.site);
        assert_eq!(client.site.input_bytes, 0, "{name}");
    }
    let mut client = Client::new();
    client.send("HEAD /");
    client.pass(head_ms);
    client.settle();
    assert!(client.text().starts_with("HTTP/1.1 408 ") && client.text().ends_with("\r\n\r\n"), "HEAD has no body");
    let mut client = Client::new();
    client.send(post("", TODO));
    assert_eq!(client.machine.deadline_ms(&client.site), None, "the control plane has deadlines of its own");
}

#[test]
fn the_deadline_of_a_head_runs_from_its_first_byte() {
    let mut client = Client::new();
    client.pass(40_000);
    for byte in b"GET /todos HTTP/1.1\r\nHost: a\r\n".chunks(1).take(9) {
        client.send(byte);
        assert_eq!(client.pass(1_000), None);
    }
    client.send("x");
    assert_eq!(client.pass(999), None);
    assert_eq!(client.pass(1), Some(Cut::Timeout));
    // A new head has all of its time, however long the connection lives.
    let mut client = Client::new();
    for _ in 0..30 {
        client.send("GET /hea");
        assert_eq!(client.pass(6_000), None);
        client.send("lth HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.pass(6_000), None);
    }
    assert_eq!(client.statuses(), [200; 30]);
}

#[test]
fn a_client_must_take_what_it_is_owed() {
    let timeout_ms = PROGRESS_TIMEOUT.as_millis() as u64;
    let owing = || {
        let mut client = Client::new();
        client.machine.receive(get("/todos").as_bytes(), &mut client.site);
        client
    };
    let take = |client: &mut Client, bytes: u64| {
        let before = client.output.len();
        while client.output.len() < before + bytes as usize {
            client.write(before + bytes as usize - client.output.len());
        }
    };
    let mut client = owing();
    for _ in 0..10 {
        assert_eq!(client.pass(timeout_ms - 1), None);
        take(&mut client, PROGRESS_BYTES);
    }
    assert_eq!(client.pass(timeout_ms), Some(Cut::Stalled));
    assert_eq!((client.machine.next(), client.site.pool.live_bytes()), (Next::Linger, 0), "nothing is owed any more");

    let mut client = owing();
    client.pass(timeout_ms - 1);
    take(&mut client, PROGRESS_BYTES - 1);
    assert_eq!(client.pass(1), Some(Cut::Stalled), "one byte short");

    // All that it is owed is enough, and what it waits for is not its fault.
    let mut client = Client::new();
    client.send(get("/health"));
    assert_eq!(client.pass(timeout_ms + 1), None);
}

#[test]
fn a_turn_is_bounded_and_so_is_what_waits() {
    // Some 20 KB each, the first two put together, the others ready-made.
    let list = get("/todos?limit=150");
    let mut client = Client::new();
    let count = READ_BUFFER_BYTES / list.len();
    client.machine.receive(list.repeat(count).as_bytes(), &mut client.site);
    let mut turns = 0;
    while client.machine.next() != Next::Read {
        let before = client.output.len();
        while client.machine.next() == Next::Write {
            client.write(usize::MAX);
        }
        let turn = client.output.len() - before;
        assert!(turn > 0 && turn < OUTPUT_BYTES_PER_TURN + 25_000, "{turn} bytes");
        turns += 1;
        if client.machine.next() == Next::Resume {
            assert!(client.site.input_bytes > 0 || client.output.len() > count * 10_000);
            client.machine.resume(&mut client.site);
        }
    }
    assert_eq!((client.statuses().len(), client.site.input_bytes), (count, 0));
    assert!(turns >= client.output.len() / (OUTPUT_BYTES_PER_TURN + 25_000));

    // One that is larger than a turn leaves, and alone.
    let mut client = Client::new();
    client.machine.receive(get("/todos").repeat(3).as_bytes(), &mut client.site);
    for answered in 1..=3 {
        while client.machine.next() == Next::Write {
            client.write(usize::MAX);
        }
        assert_eq!(client.statuses().len(), answered);
        if client.machine.next() == Next::Resume {
            client.machine.resume(&mut client.site);
        }
    }
    assert_eq!(client.machine.next(), Next::Read);
}

#[test]
fn lingering_ends_with_the_client_or_its_patience() {
    let closed = || {
        let mut client = Client::new();
        client.send(request("GET /health HTTP/1.1", "Connection: close\r\n", ""));
        assert_eq!(client.machine.next(), Next::Linger);
        client
    };
    let client = closed();
    let mut linger = Linger::default();
    assert!(client.machine.discarded(&mut linger, LINGER_BYTES_MAX, &client.site));
    assert!(!client.machine.discarded(&mut linger, 1, &client.site), "enough bytes");
    assert!(!client.machine.discarded(&mut Linger::default(), 0, &client.site), "it has closed");
    let mut client = closed();
    let linger_ms = LINGER_TIMEOUT.as_millis() as u64;
    assert_eq!(client.pass(linger_ms - 1), None);
    assert!(client.machine.discarded(&mut Linger::default(), 1, &client.site));
    let now = client.site.now;
    client.site.set_now(Now { tick_ms: now.tick_ms + 1, ..now });
    assert!(!client.machine.discarded(&mut Linger::default(), 1, &client.site), "enough time");
    assert_eq!(client.machine.tick(&mut client.site), Some(Cut::Idle));
}

#[test]
fn while_draining_every_connection_ends_behind_an_answer() {
    let drain = |client: &mut Client| {
        client.site.draining = true;
        client.machine.drain(&mut client.site);
    };
    let mut client = Client::new();
    drain(&mut client);
    assert_eq!((client.machine.next(), client.output.len()), (Next::Linger, 0), "idle: without a word");

    // Known heads too.
    let known = get("/todos?limit=1");
    let mut client = Client::new();
    client.send([known.repeat(3), known[..9].to_owned()].concat());
    drain(&mut client);
    assert_eq!(client.machine.next(), Next::Read, "a request has begun");
    client.send(&known[9..]);
    assert_eq!((client.statuses(), client.machine.next()), (vec![200; 4], Next::Linger));
    assert!(client.text().contains("Connection: close"));

    let mut client = Client::new();
    client.machine.receive(known.as_bytes(), &mut client.site);
    drain(&mut client);
    client.settle();
    assert_eq!((client.statuses(), client.machine.next()), (vec![200], Next::Linger), "what is owed leaves");

    let mut client = Client::new();
    client.send(post("", TODO));
    drain(&mut client);
    assert_eq!(client.acknowledge(), 1);
    assert_eq!((client.statuses(), client.machine.next()), (vec![202], Next::Linger));
    assert!(client.text().contains("Connection: close"));

    let mut client = Client::new();
    client.send([post("", TODO), known.clone()].concat());
    drain(&mut client);
    client.acknowledge();
    assert_eq!((client.statuses(), client.machine.next()), (vec![202, 200], Next::Linger), "what is here is answered");
    assert_eq!(client.text().matches("Connection: close").count(), 1);

    let mut client = Client::new();
    let refused = request("POST /todos HTTP/1.1", "", TODO);
    client.send(&refused[..refused.len() - 1]);
    drain(&mut client);
    client.send(&refused[refused.len() - 1..]);
    assert_eq!((client.statuses(), client.machine.next()), (vec![401], Next::Linger));
}

/// A connection that was cut while its group was out once came back to life with the outcomes.
#[test]
fn nothing_comes_back_to_a_connection_that_is_cut() {
    let mut client = Client::new();
    client.send(post("", TODO));
    assert!(client.machine.take_deferred().is_some());
    client.machine.abandon(&mut client.site);
    assert!(!client.machine.write_outcome(0, WriteOutcome::Acknowledged, &mut client.site));
    assert!(!client.machine.deferred_answer(page(b"x"), &mut client.site));
    assert_eq!(client.machine.next(), Next::Close);
    assert_eq!(client.machine.tick(&mut client.site), None);

    let write = post("", TODO);
    for sent in [&write[..20], &write[..write.len() - 1], &get("/todos")] {
        let mut client = Client::new();
        client.machine.receive(sent.as_bytes(), &mut client.site);
        assert!(client.site.input_bytes > 0 || client.machine.owed_since_ms().is_some());
        client.machine.abandon(&mut client.site);
        assert_eq!((client.site.input_bytes, client.site.pool.live_bytes()), (0, 0));
        assert_eq!(client.machine.next(), Next::Close);
    }
}

/// After a known head in two pieces the search for the end of the next head once began behind it.
#[test]
fn a_known_head_in_two_pieces_leaves_nothing_behind() {
    let known = get("/todos?limit=1&a-parameter-that-makes-this-head-longer-than-the-next-one");
    let short = "GET /health HTTP/1.0\r\n\r\n";
    let mut client = Client::new();
    client.send(known.repeat(3));
    client.send(&known[..known.len() - 1]);
    client.send([&known[known.len() - 1..], short].concat());
    assert_eq!((client.statuses(), client.machine.next()), (vec![200; 5], Next::Linger));
}

#[test]
fn the_shard_is_told_what_it_may_cut() {
    let mut client = Client::new();
    assert_eq!(client.machine.headless_since_ms(), Some(START_TICK_MS));
    client.pass(500);
    client.machine.receive(get("/todos").as_bytes(), &mut client.site);
    let snapshot_replaced = client.site.held.snapshot.replaced_bytes();
    assert_eq!(client.machine.headless_since_ms(), None);
    assert_eq!(client.machine.owed_since_ms(), Some(START_TICK_MS + 500));
    assert_eq!(client.machine.oldest_held_replaced_bytes(), Some(snapshot_replaced), "it leaves as slices");
    client.pass(100);
    client.settle();
    assert_eq!(client.machine.headless_since_ms(), Some(START_TICK_MS + 600));
    assert_eq!((client.machine.owed_since_ms(), client.machine.oldest_held_replaced_bytes()), (None, None));
    client.pass(100);
    client.send("GET");
    assert_eq!(client.machine.unfinished_since_ms(), Some(START_TICK_MS + 700));
    assert_eq!(
        client.machine.headless_since_ms(),
        Some(START_TICK_MS + 700),
        "a head that is not whole is not activity"
    );
    client.pass(100);
    client.send(" /todos?limit=1 HTTP/1.1\r\n");
    assert_eq!(client.machine.headless_since_ms(), Some(START_TICK_MS + 700), "nor is more of it");
}
