//! The dashboard's stream of figures: a connection that is no shard's any more, as many as there are places; and the address for
//! metrics and dashboard.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use todo_server::limits::DASHBOARD_STREAMS_MAX;

use crate::harness::{Client, Options, Response, Server, eventually, get, with_fields};

const EVENTS: &str = "/dashboard/events";

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

/// A client whose stream has begun, with the lines of its head.
fn watch(address: SocketAddr) -> (Client, Vec<String>) {
    let mut client = Client::connect(address);
    client.send(&get(EVENTS));
    let head = client.head();
    assert_eq!(head[0], "HTTP/1.1 200 OK");
    assert!(head.iter().any(|line| line.eq_ignore_ascii_case("Content-Type: text/event-stream")), "{head:?}");
    (client, head)
}

/// The lines of the next event, which ends with an empty one.
fn event(client: &mut Client) -> Vec<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\n\n") {
        bytes.extend(client.bytes(1));
    }
    let event = String::from_utf8(bytes).expect("text");
    event.trim_end().lines().map(str::to_owned).collect()
}

/// The value of a series in an event.
fn figure(event: &[String], name: &str) -> f64 {
    let of_name = |line: &&String| line.starts_with(&format!("data: {name}"));
    let values = event.iter().filter(of_name).filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<f64>().expect("a number")).sum()
}

#[test]
fn figures_come_again_and_again_over_a_connection_that_is_no_shards() {
    let server = Server::start();
    let mut reader = server.connect();
    // What was sent before it is answered before it, by the same connection.
    let mut client = server.connect();
    client.send(&[get("/todos?limit=1"), get(EVENTS), get("/todos?limit=1")].concat());
    assert_eq!(client.response(false).status, 200);
    let head = client.head();
    assert!(head.contains(&"Connection: close".to_owned()) && head.contains(&"Cache-Control: no-store".to_owned()));
    let first = event(&mut client);
    assert!(first[0].starts_with("id: ") && first[1] == "event: figures", "{first:?}");
    assert!(!first.iter().any(|line| line.contains('#')), "no comments: {first:?}");
    for _ in 0..10 {
        reader.ask(&get("/todos?limit=1"));
    }
    let second = event(&mut client);
    let requests = |event: &[String]| figure(event, "todo_requests_total");
    assert!(requests(&second) >= requests(&first) + 10.0, "{second:?}");
    assert!(second[0] > first[0], "the id is the time");
    // Two connections are the shards': the reader's, and the one that asks now.
    drop(reader);
    eventually("the watcher is not counted", || server.metric("todo_connections") <= 1.0);
    event(&mut client);
}

#[test]
fn one_watcher_too_many_is_told_when_to_come_again() {
    let server = Server::start();
    let mut watchers: Vec<_> = (0..DASHBOARD_STREAMS_MAX).map(|_| watch(server.address).0).collect();
    let mut refused = server.connect();
    let answer = refused.ask(&get(EVENTS));
    assert_eq!((answer.status, answer.field("Retry-After")), (503, Some("1")));
    assert!(text(&answer).contains("/problems/watchers-full"), "{answer}");
    assert_eq!(refused.ask(&get("/todos?limit=1")).status, 200, "the connection goes on");
    // Who goes makes room, be it without a word.
    watchers.pop();
    eventually("a place is free", || {
        let mut client = server.connect();
        client.send(&get(EVENTS));
        client.head()[0] == "HTTP/1.1 200 OK"
    });
    assert!(server.metric("todo_rejects_total{problem=\"watchers-full\"}") >= 1.0);
}

#[test]
fn a_head_of_the_stream_has_no_stream() {
    let server = Server::start();
    let mut client = server.connect();
    let answer = client.ask(&with_fields("HEAD", EVENTS, &[]));
    assert_eq!((answer.status, answer.field("Content-Type")), (200, Some("text/event-stream")));
    assert_eq!(client.ask(&get("/health")).status, 200, "the connection goes on");
}

/// A watcher holds nothing up, and its stream ends in good order, so that its page finds the successor.
#[test]
fn streams_end_when_the_process_goes() {
    let mut server = Server::start();
    let (mut client, _) = watch(server.address);
    event(&mut client);
    server.signal(Signal::TERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("the drain timeout has passed"), "{log}");
    client.drain();
}

#[test]
fn metrics_and_dashboard_can_have_an_address_of_their_own() {
    let server = Options::new().flag("--admin-addr", "127.0.0.1:0").start();
    let line = server.summary.lines().find_map(|line| line.strip_prefix("  admin ")).expect("it is said");
    let address = line.split("http://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
    let admin: SocketAddr = address.parse().expect("an address");
    let mut public = server.connect();
    for target in ["/metrics", "/dashboard", EVENTS] {
        assert_eq!(public.ask(&get(target)).status, 404, "{target}");
    }
    assert_eq!(public.ask(&get("/ready")).status, 200);
    let mut client = Client::connect(admin);
    let page = client.ask(&get("/metrics"));
    assert_eq!((page.status, page.field("content-type")), (200, Some("text/plain; version=0.0.4; charset=utf-8")));
    assert!(text(&page).contains("todo_requests_total{"), "{page}");
    let page = client.ask(&get("/dashboard"));
    assert!(page.field("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
    assert!(text(&page).contains("<h1>Todo server</h1>"));
    assert_eq!(client.ask(&get("/ready")).status, 200);
    assert_eq!(client.ask(&get("/todos")).status, 404, "no reads here");
    let mut watcher = Client::connect(admin);
    watcher.send(&get(EVENTS));
    assert_eq!(watcher.head()[0], "HTTP/1.1 200 OK");
    assert!(watcher.is_answered_within(Duration::from_secs(30)), "an event comes");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let output = crate::harness::run(folder.path(), &["--http-port", "0", "--admin-addr", &address]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ADMIN_ADDR") && said.contains(&address), "{said}");
}

#[test]
fn figures_come_in_the_format_that_is_asked_for() {
    let server = Server::start();
    let mut client = server.connect();
    let plain = client.ask(&get("/metrics"));
    assert_eq!(plain.field("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(text(&plain).contains("# TYPE todo_requests_total counter\n") && !text(&plain).contains("# EOF"));
    assert_eq!(plain.field("Vary"), Some("Accept"));
    let open =
        client.ask(&with_fields("GET", "/metrics", &[("Accept", "application/openmetrics-text; version=1.0.0")]));
    assert_eq!(open.field("Content-Type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(text(&open).contains("# TYPE todo_requests counter\n") && text(&open).ends_with("\n# EOF\n"));
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "todo_build{"] {
        assert!(text(&open).contains(&format!("\n{name}")), "{name}");
    }
}

/// Metrics and dashboard go over to the process that takes this one's place, and who watched finds it.
#[cfg(target_os = "linux")]
#[test]
fn a_successor_has_the_address_and_the_watchers() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let admin: SocketAddr = ([127, 0, 0, 1], port).into();
    let mut server = Options::new().flag("--admin-addr", admin).start();
    let (mut watcher, _) = watch(admin);
    server.upgrade(&[]);
    server.wait_for_the_old_one();
    watcher.drain();
    assert_eq!(Client::connect(admin).ask(&get("/metrics")).status, 200, "the new one answers");
    watch(admin);
}
