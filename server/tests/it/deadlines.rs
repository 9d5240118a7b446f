//! Deadlines: 408 once a request has begun, silence for who is idle, and everything in all, not per read.

use std::time::{Duration, Instant};

use crate::harness::{Client, Options, PATIENCE, Server, Silence, eventually, get, with_fields};

/// Deadlines so short that a test can wait for them, each different enough to be told apart.
fn start() -> Server {
    let options = Options::new().flag("--idle-timeout-ms", 700).flag("--head-timeout-ms", 1_000);
    options.flag("--body-timeout-ms", 1_300).start()
}

/// Waits for what the server does after `at_least`, and well before anything else could be the cause.
fn after(at_least: u64, begun: Instant, what: &str) {
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_millis(at_least), "{what} came after {waited:?}");
    assert!(waited < Duration::from_millis(at_least) + PATIENCE / 10, "{what} came after {waited:?} only");
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let server = start();
    let begun = Instant::now();
    let mut silent = server.connect();
    let mut once = server.connect();
    assert_eq!(once.ask(&get("/health")).status, 200);
    let mut often = server.connect();
    for _ in 0..5 {
        assert_eq!(often.ask(&get("/health")).status, 200);
    }
    silent.expect_close();
    once.expect_close();
    often.expect_close();
    after(700, begun, "the close");
    // Empty lines before a request do not begin one.
    let mut polite = server.connect();
    polite.send(b"\r\n");
    polite.expect_close();
}

#[test]
fn who_is_not_idle_is_not_closed() {
    let server = start();
    let mut client = server.connect();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_500) {
        assert_eq!(client.ask(&get("/health")).status, 200);
        assert_eq!(client.silence(Duration::from_millis(50)), Silence::Open);
    }
}

#[test]
fn a_slow_head_is_408_in_all_and_not_per_read() {
    let server = start();
    let request = get("/todos?limit=10");
    let mut client = server.connect();
    let begun = Instant::now();
    // Five seconds of bytes, the last one never: a deadline per read would come far too late.
    let mut bytes = request[..request.len() - 1].chunks(1);
    while !client.is_answered_within(Duration::from_millis(100)) {
        assert!(begun.elapsed() < PATIENCE, "no answer");
        bytes.next().into_iter().for_each(|byte| client.send(byte));
    }
    let response = client.response(false);
    assert!(response.status == 408 && response.closes(), "{response}");
    assert_eq!(response.problem(), "request-timeout");
    after(1_000, begun, "408");
    client.expect_close();
}

#[test]
fn a_slow_body_is_408() {
    let server = start();
    let authorization = server.authorization();
    let fields = [("Authorization", authorization.as_str()), ("Content-Length", "100")];
    let mut client = server.connect();
    let begun = Instant::now();
    client.send(&with_fields("POST", "/todos", &fields));
    client.send(b"{\"title\":");
    let response = client.response(false);
    assert!(response.status == 408 && response.closes(), "{response}");
    after(1_300, begun, "408");
    client.expect_close();
    assert_eq!(server.metric("todo_writes_total{outcome=\"acknowledged\"}"), 0.0);
}

/// The answers before it are given, and a busy connection (which reads in another way) has the same deadline.
#[test]
fn a_head_that_begins_behind_answers_has_its_deadline_too() {
    let server = start();
    let mut client = server.connect();
    for _ in 0..10 {
        assert_eq!(client.ask(&get("/todos?limit=10")).status, 200);
    }
    let begun = Instant::now();
    let mut stream = get("/todos?limit=10").repeat(3);
    stream.extend_from_slice(b"GET /to");
    client.send(&stream);
    assert!(client.responses(3).iter().all(|answer| answer.status == 200));
    assert_eq!(client.response(false).status, 408);
    after(1_000, begun, "408");
    client.expect_close();
}

/// A client that neither reads the last answer nor ends its side does not keep the connection for ever.
#[test]
fn a_linger_has_an_end() {
    let server = Options::new().start();
    let mut client = server.connect();
    assert_eq!(client.ask(b"nonsense\r\n\r\n").status, 400);
    client.expect_close();
    // The client's side stays open all the while; the one that asks is open too.
    eventually("the connection is given up", || server.metric("todo_connections") <= 1.0);
    drop::<Client>(client);
}
