//! The reading half of the API, route by route, as a client sees it.

use std::time::Duration;

use crate::harness::{Client, Options, Response, Server, Todo, eventually, get, request, with_fields};

const JSON: &str = "application/json";

/// Exactly the head that the design promises: benchmarks and peers count on its size.
#[test]
fn the_plain_head_of_a_list_holds_nothing_else() {
    let server = Server::start();
    let mut client = server.connect();
    // The third and later ones are ready-made, from a head that is remembered.
    for _ in 0..5 {
        let small = client.ask(&get("/todos?limit=10"));
        assert_eq!(small.lines[0], "HTTP/1.1 200 OK");
        assert_eq!(small.field_names(), ["Content-Type", "Content-Length", "Date", "ETag"]);
        assert_eq!(small.field("Content-Type"), Some(JSON));
        assert!(small.body.len() < 8 * 1024 && Todo::list(&small.body).len() == 10, "{small}");
        let large = client.ask(&get("/todos?limit=100"));
        assert_eq!(large.field_names(), ["Content-Type", "Content-Length", "Date", "ETag", "Vary"]);
        assert_eq!(large.field("Vary"), Some("Accept-Encoding"));
        assert!(large.body.len() >= 8 * 1024 && Todo::list(&large.body).len() == 100, "{large}");
    }
}

#[test]
fn every_route_answers_as_the_table_says() {
    let server = Server::start();
    let mut client = server.connect();
    let id = first_todos(&mut client, 1).remove(0).id;
    let item = format!("/todos/{id}");
    let absent = "/todos/01890a5d-ac96-774b-bcce-b302099a8057";
    let list_allow = "GET, HEAD, POST, OPTIONS";
    let item_allow = "GET, HEAD, PUT, PATCH, DELETE, OPTIONS";
    let probe_allow = "GET, HEAD, OPTIONS";
    // method, target, status, a field and its value
    let table: &[(&str, &str, u16, &str, Option<&str>)] = &[
        ("GET", "/todos", 200, "Content-Type", Some(JSON)),
        ("GET", "/todos?limit=3", 200, "Content-Type", Some(JSON)),
        ("GET", "/todos?%6Cimit=%33&other=1", 200, "Content-Type", Some(JSON)),
        ("GET", "http://example.org/todos?limit=1", 200, "Content-Type", Some(JSON)),
        ("GET", &item, 200, "Content-Type", Some(JSON)),
        ("GET", absent, 404, "Content-Type", Some("application/problem+json")),
        ("GET", "/todos/17", 404, "ETag", None),
        ("GET", "/todos/", 404, "ETag", None),
        ("GET", "//", 404, "ETag", None),
        ("GET", "/", 200, "Content-Type", Some("text/html; charset=utf-8")),
        ("GET", "/openapi.json", 200, "Content-Type", Some(JSON)),
        ("GET", "/problems/not-found", 200, "Content-Type", Some("text/html; charset=utf-8")),
        ("GET", "/problems/no-such", 404, "ETag", None),
        ("GET", "/dashboard", 200, "X-Content-Type-Options", Some("nosniff")),
        ("GET", "/health", 200, "Content-Type", Some(JSON)),
        ("GET", "/ready", 200, "Cache-Control", Some("no-store")),
        ("GET", "/metrics", 200, "Cache-Control", Some("no-store")),
        ("OPTIONS", "/todos", 204, "Allow", Some(list_allow)),
        ("OPTIONS", &item, 204, "Allow", Some(item_allow)),
        ("OPTIONS", "/health", 204, "Allow", Some(probe_allow)),
        ("OPTIONS", "*", 204, "Allow", Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")),
        ("PUT", "/todos", 405, "Allow", Some(list_allow)),
        ("DELETE", "/todos", 405, "Allow", Some(list_allow)),
        ("POST", &item, 405, "Allow", Some(item_allow)),
        ("POST", "/ready", 405, "Allow", Some(probe_allow)),
        ("BREW", "/todos", 501, "Content-Type", Some("application/problem+json")),
        ("TRACE", "/todos", 405, "Allow", Some(list_allow)),
        ("POST", "/todos", 401, "WWW-Authenticate", Some("Bearer realm=\"todos\"")),
        ("PATCH", &item, 401, "WWW-Authenticate", Some("Bearer realm=\"todos\"")),
        ("DELETE", absent, 401, "WWW-Authenticate", Some("Bearer realm=\"todos\"")),
    ];
    for (method, target, status, field, value) in table {
        let response = client.ask(&with_fields(method, target, &[]));
        assert_eq!((response.status, response.field(field)), (*status, *value), "{method} {target}: {response}");
        if *status >= 400 {
            response.problem();
        }
    }
}

#[test]
fn head_is_the_head_of_get_also_for_errors() {
    let server = Server::start();
    let mut client = server.connect();
    let targets = ["/todos", "/todos?limit=10", "/todos?limit=0", "/todos/17", "/nothing", "/health"];
    for target in targets {
        let got = client.ask(&get(target));
        let mut head = client.ask(&with_fields("HEAD", target, &[]));
        assert_eq!(head.length(), Some(got.body.len()), "{target}");
        // The second may have passed between the two.
        head.body.clone_from(&got.body);
        assert_eq!(without_date(&head), without_date(&got), "{target}");
    }
}

#[test]
fn what_is_unchanged_is_not_sent_again() {
    let server = Server::start();
    let mut client = server.connect();
    let id = first_todos(&mut client, 1).remove(0).id;
    for target in ["/todos?limit=3", "/todos?limit=100", "/todos", &format!("/todos/{id}")] {
        let full = client.ask(&get(target));
        let etag = full.field("ETag").expect("lists and todos have one");
        let vary = full.field("Vary");
        let listed = format!("\"other\", W/{etag}");
        for condition in [etag, &listed, "*"] {
            let unchanged = client.ask(&with_fields("GET", target, &[("If-None-Match", condition)]));
            assert_eq!(unchanged.status, 304, "{target} {condition}");
            assert_eq!((unchanged.field("ETag"), unchanged.field("Vary")), (Some(etag), vary), "{target}");
        }
        let fields = [("If-None-Match", "\"other\""), ("If-Modified-Since", "Fri, 31 Dec 9999 23:59:59 GMT")];
        let changed = client.ask(&with_fields("GET", target, &fields));
        assert_eq!((changed.status, &changed.body), (200, &full.body), "a list silences the date: {target}");
        let ranged = client.ask(&with_fields("GET", target, &[("Range", "bytes=0-3")]));
        assert_eq!((ranged.status, &ranged.body), (200, &full.body), "{target}");
    }
}

/// The tag is made of the content: what a write does not touch keeps it, and a restart does too.
#[test]
fn a_tag_changes_with_the_content_and_with_nothing_else() {
    let server = Server::start();
    let mut client = server.connect();
    let todos = first_todos(&mut client, 20);
    let behind = format!("/todos?after={}&limit=5", todos[9].id);
    let tags = |client: &mut Client| {
        ["/todos?limit=5", &behind].map(|target| client.ask(&get(target)).field("ETag").expect("a tag").to_owned())
    };
    let before = tags(&mut client);
    client.ask(&server.post("new at the head")).accepted();
    let after = tags(&mut client);
    assert_ne!(before[0], after[0]);
    assert_eq!(before[1], after[1]);
    drop(client);
    let server = server.stop_and_restart(|options| options);
    assert_eq!(tags(&mut server.connect()), after);
}

#[test]
fn pages_put_together_are_the_whole_list() {
    let server = Server::start();
    let mut client = server.connect();
    let whole = client.ask(&get("/todos"));
    let all = Todo::list(&whole.body);
    assert_eq!(all.len(), 100);
    assert!(all.is_sorted_by(|newer, older| newer.id > older.id), "newest first");
    for limit in [1, 7, 64, 99, 100, 1000] {
        let mut paged: Vec<Todo> = Vec::new();
        loop {
            let after = paged.last().map(|todo| format!("&after={}", todo.id)).unwrap_or_default();
            let page = Todo::list(&client.ask(&get(&format!("/todos?limit={limit}{after}"))).body);
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= limit);
            paged.extend(page);
        }
        assert_eq!(paged, all, "limit {limit}");
    }
    for todo in &all[..10] {
        assert_eq!(&Todo::one(&client.ask(&get(&format!("/todos/{}", todo.id))).body), todo);
    }
    // A position need not be a todo: the one before the oldest has nothing behind it, the last one everything.
    let nothing = client.ask(&get("/todos?limit=10&after=00000000-0000-7000-8000-000000000000"));
    assert_eq!(nothing.body, b"[]");
    let everything = client.ask(&get("/todos?limit=100&after=ffffffff-ffff-7fff-bfff-ffffffffffff"));
    assert_eq!(everything.body, whole.body);
}

#[test]
fn a_bad_limit_or_position_is_refused_with_the_reason() {
    let server = Options::new().flag("--limit-max", 50).start();
    let mut client = server.connect();
    let id = first_todos(&mut client, 1).remove(0).id;
    let repeated = format!("after={id}&after={id}");
    let table = [
        ("limit=0", "limit-out-of-range"),
        ("limit=51", "limit-out-of-range"),
        ("limit=-1", "limit-out-of-range"),
        ("limit=%2B1", "limit-out-of-range"),
        ("limit=1.0", "limit-out-of-range"),
        ("limit=", "limit-out-of-range"),
        ("limit", "limit-out-of-range"),
        ("limit=18446744073709551617", "limit-out-of-range"),
        ("limit=1&limit=1", "limit-repeated"),
        ("limit=1&%6Cimit=2", "limit-repeated"),
        ("limit=1&after=x", "after-invalid"),
        (&repeated, "after-repeated"),
    ];
    for (query, slug) in table {
        let response = client.ask(&get(&format!("/todos?{query}")));
        assert_eq!((response.status, response.problem().as_str()), (400, slug), "{query}");
    }
    assert_eq!(first_todos(&mut client, 50).len(), 50, "the connection goes on");
}

#[test]
fn what_is_older_than_memory_comes_from_the_file() {
    let server = Options::new().flag("--snapshot-todos-max", 40).start();
    let mut client = server.connect();
    let whole = Todo::list(&client.ask(&get("/todos")).body);
    assert_eq!(whole.len(), 40, "what memory holds");
    let mut paged = whole.clone();
    loop {
        let last = &paged.last().expect("not empty").id;
        let page = Todo::list(&client.ask(&get(&format!("/todos?limit=25&after={last}"))).body);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged.len(), 100);
    assert!(paged.is_sorted_by(|newer, older| newer.id > older.id), "nothing twice, nothing out of order");
    let oldest = paged.last().expect("a hundred");
    let one = client.ask(&get(&format!("/todos/{}", oldest.id)));
    assert_eq!(&Todo::one(&one.body), oldest);
    let all_in_memory = server.stop_and_restart(|options| options.flag("--snapshot-todos-max", 1_000));
    let from_memory = all_in_memory.connect().ask(&get(&format!("/todos/{}", oldest.id)));
    assert_eq!(from_memory.body, one.body, "the same either way");
    assert_eq!(from_memory.field("ETag"), one.field("ETag"));
}

/// With a second between two snapshots a commit is seen waiting: what is served is as old as that commit, and of the
/// present again when the shards have it.
#[test]
fn the_age_is_that_of_the_oldest_commit_that_is_not_served() {
    let server = Options::new().flag("--refresh-ms", 1_000).start();
    let page = || server.connect().ask(&get("/metrics"));
    let at_rest = page();
    assert_eq!((at_rest.metric("todo_snapshot_behind"), at_rest.metric("todo_snapshot_age_seconds")), (0.0, 0.0));
    assert_eq!(at_rest.metric("todo_snapshot_reached_seconds_count"), 0.0);
    let (mut client, mut writes) = (server.connect(), 0.0);
    let post = server.post("waits for its snapshot");
    client.send(&post);
    // The first waits for nothing, those after it for what is left of the second.
    eventually("a commit waits for its snapshot", || {
        if client.is_answered_within(Duration::from_millis(1)) {
            client.response(false).accepted();
            client.send(&post);
            writes += 1.0;
        }
        let page = page();
        let (behind, age) = (page.metric("todo_snapshot_behind"), page.metric("todo_snapshot_age_seconds"));
        assert_eq!(behind > 0.0, age > 0.0, "{behind} positions, {age} s");
        behind > 0.0
    });
    client.response(false).accepted();
    let served = page();
    assert_eq!((served.metric("todo_snapshot_behind"), served.metric("todo_snapshot_age_seconds")), (0.0, 0.0));
    assert_eq!(served.metric("todo_snapshot_reached_seconds_count"), writes + 1.0, "each commit once");
    assert!(served.metric("todo_snapshot_reached_seconds_sum") > 0.0);
}

#[test]
fn the_pages_of_the_operator() {
    let server = Server::start();
    let mut client = server.connect();
    assert_eq!(client.ask(&get("/health")).json()["status"], "ok");
    let ready = client.ask(&get("/ready")).json();
    assert_eq!(
        (&ready["status"], &ready["writes"], &ready["todos_in_memory"]),
        (&"ready".into(), &true.into(), &100.into())
    );
    assert_eq!(ready["away"], serde_json::json!([]));
    client.ask(&server.post("counted")).accepted();
    client.ask(&get("/nowhere"));
    let page = client.ask(&get("/metrics"));
    let text = String::from_utf8(page.body).expect("text");
    for series in [
        "todo_writes_total{outcome=\"acknowledged\"} 1",
        "todo_snapshot_items 101",
        "todo_snapshot_behind 0",
        "todo_write_queue_commands 0",
        "todo_write_seconds_count 1",
    ] {
        assert!(text.lines().any(|line| line == series), "{series}:\n{text}");
    }
    let sum = |prefix: &str| -> f64 {
        let values = text.lines().filter(|line| line.starts_with(prefix));
        values.map(|line| line.rsplit_once(' ').expect("a value").1.parse::<f64>().expect("a number")).sum()
    };
    assert_eq!(sum("todo_connections{"), 1.0, "{text}");
    assert_eq!(sum("todo_rejects_total{"), 1.0, "{text}");
    assert_eq!(sum("todo_requests_total{"), 4.0, "all but the one that is being answered:\n{text}");
    assert!(sum("todo_read_bytes_total{") > 0.0 && sum("todo_written_bytes_total{") > 0.0, "{text}");
}

/// A rate sees a first time only where there was a zero before, so each shard has each problem from the first page on, and
/// what it refuses is counted as its own.
#[test]
fn rejects_are_counted_by_shard_and_problem() {
    let server = Options::new().flag("--shards", 2).start();
    let series_of = || -> Vec<(String, f64)> {
        let text = String::from_utf8(server.connect().ask(&get("/metrics")).body).expect("text");
        let series = text.lines().filter_map(|line| line.strip_prefix("todo_rejects_total{")?.split_once("} "));
        series.map(|(labels, value)| (labels.to_owned(), value.parse().expect("a number"))).collect()
    };
    let before = series_of();
    let of_shard = |shard: u32| {
        let label = format!("shard=\"{shard}\",");
        before.iter().filter_map(|(labels, _)| labels.strip_prefix(&label)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of_shard(0), of_shard(1), "each shard has each problem");
    assert_eq!(before.len(), 2 * of_shard(0).len(), "and nobody else has one");
    assert!(of_shard(0).len() > 20 && before.iter().all(|(_, value)| *value == 0.0), "{before:?}");
    for round in 1..=3 {
        assert_eq!(server.connect().ask(&get("/nowhere")).status, 404, "round {round}");
    }
    let after = series_of();
    let names = |series: &[(String, f64)]| series.iter().map(|(labels, _)| labels.clone()).collect::<Vec<_>>();
    assert_eq!(names(&after), names(&before), "no request makes a series");
    let refused: f64 =
        after.iter().filter(|(labels, _)| labels.ends_with("\"not-found\"")).map(|(_, value)| value).sum();
    let all: f64 = after.iter().map(|(_, value)| value).sum();
    assert_eq!((refused, all), (3.0, 3.0), "{after:?}");
}

#[test]
fn http_1_0_is_kept_alive_only_when_asked() {
    let server = Server::start();
    let mut client = server.connect();
    let asked = client.ask(b"GET /todos?limit=1 HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n");
    assert_eq!((asked.status, asked.field("Connection")), (200, Some("keep-alive")));
    let closed = client.ask(b"GET /todos?limit=1 HTTP/1.0\r\n\r\n");
    assert!(closed.status == 200 && closed.closes(), "{closed}");
    client.expect_close();
    let mut client = server.connect();
    assert!(client.ask(&with_fields("GET", "/health", &[("Connection", "foo, Close")])).closes());
    client.expect_close();
}

/// What cannot be understood is answered and then closed, so that nothing of it is taken for a request.
#[test]
fn ambiguity_is_refused_and_ends_the_connection() {
    let server = Server::start();
    let target_too_long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(9_000));
    let head_too_large = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(9_000));
    let table: &[(&str, u16)] = &[
        ("GET /todos HTTP/1.1\r\n\r\n", 400),
        ("GET /todos HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        ("GET /todos HTTP/1.1\nHost: a\n\n", 400),
        ("GET /todos HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        ("GET /todos HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        ("GET /to dos HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("POST /todos HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400),
        ("POST /todos HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", 400),
        ("POST /todos HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST /todos HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        ("POST /todos HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("POST /todos HTTP/1.1\r\nHost: a\r\nExpect: a-miracle\r\n\r\n", 417),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 501),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("hello\r\n\r\n", 400),
        (&target_too_long, 414),
        (&head_too_large, 431),
    ];
    for (bytes, status) in table {
        let mut client = server.connect();
        let response = client.ask(bytes.as_bytes());
        assert!(response.status == *status && response.closes(), "{bytes:?}: {response}");
        response.problem();
        client.expect_close();
    }
}

/// Smuggling: the body of a request that is refused at the door looks like a request, and is not one.
#[test]
fn the_body_of_a_refused_request_is_never_a_request() {
    let server = Server::start();
    let mut client = server.connect();
    let hidden = "GET /todos?limit=7 HTTP/1.1\r\nHost: a\r\n\r\n";
    for (method, target, status) in [("POST", "/todos", 401), ("GET", "/todos?limit=1", 200), ("PUT", "/nothing", 404)]
    {
        client.send(&request(method, target, &[], hidden));
        client.send(&get("/health"));
        let answers = client.responses(2);
        assert_eq!((answers[0].status, answers[1].status), (status, 200), "{method} {target}");
        assert_eq!(answers[1].json()["status"], "ok");
    }
}

fn first_todos(client: &mut Client, limit: usize) -> Vec<Todo> {
    Todo::list(&client.ask(&get(&format!("/todos?limit={limit}"))).body)
}

fn without_date(response: &Response) -> Response {
    let mut response = response.clone();
    response.lines.retain(|line| !line.starts_with("Date: "));
    response
}

/// One batch in 1,024 is timed, and the sweep says how late it is; both as histograms whose buckets add up.
#[test]
fn latencies_are_sampled() {
    let server = Options::new().flag("--shards", 1).start();
    let mut client = server.connect();
    for _ in 0..2_100 {
        client.ask(&get("/todos?limit=1"));
    }
    let count = server.metric("todo_batch_seconds_count");
    assert!((2.0..4.0).contains(&count), "{count} of 2,100 batches and some that ask for figures");
    assert!(server.metric("todo_batch_seconds_sum") > 0.0);
    let page = String::from_utf8(client.ask(&get("/metrics")).body).expect("text");
    let last = page.lines().find(|line| line.starts_with("todo_batch_seconds_bucket") && line.contains("+Inf"));
    assert!(last.is_some_and(|line| line.ends_with(&format!(" {count}"))), "{last:?}");
    eventually("the sweep has come round", || server.metric("todo_round_late_seconds_count") > 0.0);
}
