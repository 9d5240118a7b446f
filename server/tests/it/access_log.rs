//! The access log: every error, some of the rest, nothing secret, and never at the cost of a request.

use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Client, Options, SECRET, Server, eventually, get, request, run, with_fields};

/// The lines of a log, each of which must be an object.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    objects(&text)
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// One shard, so that what is sampled follows from what is sent.
fn options(path: &Path, sample: u32) -> Options {
    Options::new().flag("--shards", 1).flag("--access-log", path.display()).flag("--access-log-sample", sample)
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn port_of(client: &Client) -> u16 {
    client.writer().local_addr().expect("it is bound").port()
}

/// With a sample of ten: each tenth request, whatever its connection, and each that is refused, whoever refuses it. A line
/// says who asked what, and how it was answered; nothing of fields, tokens and bodies.
#[test]
fn every_error_is_there_and_each_tenth_of_the_rest() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let server = options(&path, 10).flag("--head-timeout-ms", 300).start();
    let mut client = server.connect();
    let port = port_of(&client);
    for number in 1..=100 {
        let response = client.ask(&get(&format!("/todos?limit=3&n={number}")));
        assert_eq!(response.status, 200);
    }
    let secret = "aVerySecretToken";
    let bearer = format!("Bearer {secret}");
    let fields = [("Authorization", bearer.as_str()), ("X-Other", secret)];
    assert_eq!(client.ask(&with_fields("GET", "/nothing?a=b", &fields)).status, 404);
    let refused = client.ask(&request("POST", "/todos", &fields, r#"{"title":"aVerySecretToken"}"#));
    assert_eq!(refused.status, 401);
    assert_eq!(client.ask(&server.write("POST", "/todos", "{}")).status, 400);
    assert_eq!(client.ask(&with_fields("BREW", "/todos", &[])).status, 501);
    let closing = [
        ("GET /a HTTP/1.1\r\nHost: a\r\nHost: aVerySecretToken\r\n\r\n".to_owned(), 400),
        ("Authorization: Bearer aVerySecretToken\r\n\r\n".to_owned(), 400),
        ("GET /b HTTP/3.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "c".repeat(9_000)), 414),
        (format!("GET /d HTTP/1.1\r\nHost: a\r\nX: {}", "aVerySecretToken".repeat(600)), 431),
        // What has not come in time.
        ("GET /e HTTP/1.1\r\nX: aVerySecretToken".to_owned(), 408),
    ];
    for (bytes, status) in &closing {
        let mut client = server.connect();
        client.send(bytes.as_bytes());
        assert_eq!(client.response(false).status, *status, "{bytes}");
    }
    assert_eq!(client.ask(&server.post("t")).status, 202);
    let before_ms = todo_server::clock::wall_ms();
    let (status, log) = server.stop();
    assert!(status.success(), "{log}");

    let lines = lines(&path);
    let good: Vec<&Value> = lines.iter().filter(|line| line["status"].as_u64() < Some(400)).collect();
    let targets: Vec<&str> = good.iter().filter_map(|line| line["target"].as_str()).collect();
    let expected: Vec<String> = (1..=10).map(|number| format!("/todos?limit=3&n={}", number * 10)).collect();
    assert_eq!(targets, expected, "{lines:#?}");
    for line in &good {
        assert_eq!((&line["method"], &line["version"], &line["sample"]), (&"GET".into(), &"1.1".into(), &10.into()));
        assert_eq!((&line["address"], &line["port"]), (&"127.0.0.1".into(), &port.into()));
        assert!(line["shard"] == 0 && line["body_bytes"].as_u64() > Some(100) && line["problem"].is_null(), "{line}");
        let time_ms = line["time_ms"].as_u64().expect("a time");
        assert!((before_ms - 60_000..=before_ms).contains(&time_ms), "{line}");
    }
    let errors: Vec<(u64, &str, &str, &str)> = lines
        .iter()
        .filter(|line| line["status"].as_u64() >= Some(400))
        .map(|line| {
            assert!(line["sample"].is_null() && line["address"] == "127.0.0.1", "{line}");
            let text = |name: &str| line[name].as_str().unwrap_or_default();
            (line["status"].as_u64().expect("a number"), text("method"), text("target"), text("problem"))
        })
        .collect();
    let long = format!("/{}", "c".repeat(127));
    let expected = [
        (404, "GET", "/nothing?a=b", "not-found"),
        (401, "POST", "/todos", "token-malformed"),
        (400, "POST", "/todos", "invalid-body"),
        (501, "BREW", "/todos", "method-not-implemented"),
        (400, "GET", "/a", "invalid-host"),
        (400, "", "", "malformed-request-line"),
        (505, "GET", "/b", "version-not-supported"),
        (414, "GET", long.as_str(), "uri-too-long"),
        (431, "GET", "/d", "head-too-large"),
        (408, "GET", "/e", "request-timeout"),
    ];
    assert_eq!(errors, expected);
    assert!(lines.iter().filter(|line| line["truncated"] == true).all(|line| line["status"] == 414));
    let text = std::fs::read_to_string(&path).expect("text");
    for word in [secret, "tests", SECRET, "title"] {
        assert!(!text.contains(word), "{word} came out");
    }
    // `{"` in base64, as every token begins.
    assert!(!text.contains("eyJ"), "a token came out");
    let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777 & !0o640, 0, "others cannot read it");
}

/// With a sample of one there is a line for each request, but one for those of a read that are equal and ready-made, since
/// they are answered together: it says how many. So the lines stand for exactly what was asked.
#[test]
fn with_a_sample_of_one_all_requests_are_accounted_for() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let server = options(&path, 1).start();
    let mut client = server.connect();
    let (one, other) = (get("/todos?limit=10"), get("/todos?limit=20"));
    let batches = [one.clone(), one.clone(), one.repeat(80), [one.clone(), other.clone()].concat().repeat(5), other];
    for batch in &batches {
        client.send(batch);
        let count = batch.windows(4).filter(|window| window == b"GET ").count();
        client.responses(count).iter().for_each(|answer| assert_eq!(answer.status, 200));
    }
    let id = client.ask(&server.post("t")).accepted();
    assert_eq!(client.ask(&get(&format!("/todos/{id}"))).status, 200);
    assert!(server.stop().0.success());
    let lines = lines(&path);
    let requests_of = |target: &str| -> u64 {
        let of = lines.iter().filter(|line| line["target"] == target);
        of.map(|line| line["requests"].as_u64().unwrap_or(1)).sum()
    };
    assert_eq!([requests_of("/todos?limit=10"), requests_of("/todos?limit=20")], [87, 6], "{lines:#?}");
    assert!(lines.len() < 87, "80 equal requests are few lines");
    assert_eq!((requests_of("/todos"), requests_of(&format!("/todos/{id}"))), (1, 1));
    assert!(lines.iter().all(|line| line["sample"] == 1), "{lines:#?}");
}

#[test]
fn without_a_sample_only_errors_are_there() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let server = options(&path, 0).start();
    let mut client = server.connect();
    client.send(&get("/todos?limit=10").repeat(2_000));
    client.responses(2_000).iter().for_each(|answer| assert_eq!(answer.status, 200));
    assert_eq!(client.ask(&get("/nothing")).status, 404);
    assert_eq!(client.ask(&server.post("t")).status, 202);
    assert!(server.stop().0.success());
    let statuses: Vec<u64> = lines(&path).iter().filter_map(|line| line["status"].as_u64()).collect();
    assert_eq!(statuses, [404]);
}

#[test]
fn it_may_go_to_standard_error_and_is_off_by_itself() {
    let refuse = |options: Options| {
        let server = options.start();
        assert_eq!(server.connect().ask(&get("/nothing")).status, 404);
        assert_eq!(server.metric("todo_access_dropped_total"), 0.0);
        let written = server.folder().read_dir().expect("readable").count();
        (server.stop().1, written)
    };
    let (log, files_count) = refuse(Options::new().flag("--access-log", "stderr"));
    let line = log.lines().find(|line| line.starts_with('{')).expect("a line of it");
    assert_eq!(objects(line)[0]["problem"], "not-found");
    let (log, files_count_off) = refuse(Options::new());
    assert!(!log.contains('{'), "{log}");
    assert_eq!(files_count, files_count_off);
    assert!(!refuse(Options::new().flag("--access-log", "off")).0.contains('{'));
}

/// As logrotate does it: what was answered before the signal is in the old file, what is answered after it in a new one.
#[test]
fn a_rotated_file_is_opened_anew() {
    let folder = folder();
    let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let mut server = options(&path, 0).start();
    let mut client = server.connect();
    assert_eq!(client.ask(&get("/one")).status, 404);
    std::fs::rename(&path, &old).expect("renamed");
    server.signal(Signal::HUP);
    server.has_logged("the access log is opened anew");
    assert_eq!(client.ask(&get("/two")).status, 404);
    let targets = |path: &Path| -> Vec<String> {
        lines(path).iter().filter_map(|line| line["target"].as_str().map(str::to_owned)).collect()
    };
    eventually("the second line", || targets(&path) == ["/two"]);
    assert_eq!(targets(&old), ["/one"]);
    // A path that cannot be opened changes nothing.
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir(&path).expect("a folder in its place");
    server.signal(Signal::HUP);
    server.has_logged("the access log goes on in the file that is open");
    assert_eq!(client.ask(&get("/three")).status, 404);
    assert!(server.stop().0.success());
}

fn pipe(folder: &Path) -> PathBuf {
    let path = folder.join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
    path
}

/// Nobody reads the pipe that the log is: it fills, then the ring, then records are dropped and counted, and requests go
/// on. When somebody reads, what was not dropped is there, whole.
#[test]
fn a_full_ring_drops_and_counts_and_delays_nobody() {
    let folder = folder();
    let path = pipe(folder.path());
    let mut held = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("the pipe");
    let server = options(&path, 0).start();
    let mut client = server.connect();
    let mut refused = 0;
    eventually("records are dropped", || {
        client.send(&get("/nothing").repeat(500));
        client.responses(500).iter().for_each(|answer| assert_eq!(answer.status, 404));
        refused += 500;
        server.metric("todo_access_dropped_total") > 0.0
    });
    assert_eq!(client.ask(&get("/todos?limit=1")).status, 200);
    client.ask(&server.post("t")).accepted();
    let dropped = server.metric("todo_access_dropped_total") as usize;
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut buffer = [0; 64 * 1024];
        // To the line that comes last: the pipe itself has no end while this end of it can write too.
        while !text.windows(5).any(|window| window == b"/last") || !text.ends_with(b"\n") {
            let count = held.read(&mut buffer).expect("a pipe");
            text.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8(text).expect("text")
    });
    eventually("there is room again", || server.metric("todo_access_records_total") as usize == refused - dropped);
    assert_eq!(client.ask(&get("/last")).status, 404);
    let read = objects(&reading.join().expect("it reads"));
    assert_eq!(read.len(), refused - dropped + 1, "{dropped} were dropped");
    assert_eq!(server.metric("todo_access_write_errors_total"), 0.0);
    assert!(server.stop().0.success());
}

/// Nobody reads the pipe at the end either: that holds the process for two seconds, and no longer.
#[test]
fn a_pipe_that_nobody_reads_does_not_keep_the_process() {
    let folder = folder();
    let path = pipe(folder.path());
    let held = std::fs::OpenOptions::new().read(true).write(true).open(&path).expect("the pipe");
    let server = options(&path, 0).start();
    let mut client = server.connect();
    client.send(&get("/nothing").repeat(1_000));
    client.responses(1_000).iter().for_each(|answer| assert_eq!(answer.status, 404));
    let (status, log) = server.stop();
    assert!(status.success() && log.contains("the access log does not take what is left of it"), "{log}");
    drop(held);
    // And none that nobody has open is waited for at the start.
    let said = run(folder.path(), &["--http-port", "0", "--access-log", "pipe", "--seed-todos", "0"]);
    let error = String::from_utf8(said.stderr).expect("text");
    assert!(said.status.code() == Some(1) && error.contains("ACCESS_LOG pipe cannot be opened"), "{error}");
}

/// A disk that is full loses lines, says so, and nothing else.
#[test]
#[cfg(target_os = "linux")]
fn lines_that_cannot_be_written_are_counted() {
    let server = options(Path::new("/dev/full"), 0).start();
    let mut client = server.connect();
    client.send(&get("/nothing").repeat(3));
    client.responses(3).iter().for_each(|answer| assert_eq!(answer.status, 404));
    eventually("they are counted", || server.metric("todo_access_write_errors_total") == 3.0);
    assert_eq!((server.metric("todo_access_records_total"), client.ask(&get("/health")).status), (0.0, 200));
    let (status, log) = server.stop();
    assert!(status.success() && log.contains("the access log cannot be written"), "{log}");
}

#[test]
fn a_log_that_cannot_be_opened_is_one_sentence() {
    let folder = folder();
    let arguments = ["--http-port", "0", "--jwt-secret", SECRET, "--access-log"];
    let said = |path: &str, command: &[&str]| {
        let output = run(folder.path(), &[command, &arguments, &[path]].concat());
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let words = "ACCESS_LOG no/such/folder/log cannot be opened for appending";
    let (code, out, _) = said("no/such/folder/log", &["check"]);
    assert!(code == Some(1) && out.contains(&format!("problem: {words}")), "{out}");
    let (code, out, _) = said("access.log", &["check"]);
    assert!(code == Some(0) && out.contains("access.log, which will be made"), "{out}");
    assert!(out.contains("ACCESS_LOG_SAMPLE") && out.contains("1024"), "{out}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0, "nothing was made");
    std::fs::write(folder.path().join("there.log"), "kept\n").expect("a file");
    let (code, out, _) = said("there.log", &["check"]);
    assert!(code == Some(0) && out.contains("there.log"), "{out}");
    let (code, _, error) = said("no/such/folder/log", &[]);
    assert!(code == Some(1) && error.contains(words), "{error}");
    assert_eq!(std::fs::read_to_string(folder.path().join("there.log")).expect("text"), "kept\n");
}

/// The process that takes over goes on in the same file, and what the old one had answered is in it.
#[test]
#[cfg(target_os = "linux")]
fn a_successor_goes_on_in_the_same_file() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let mut server: Server = options(&path, 0).start();
    let mut client = server.connect();
    let port = port_of(&client);
    for round in 0..3 {
        client.send(&get(&format!("/round/{round}")).repeat(50));
        client.responses(50).iter().for_each(|answer| assert_eq!(answer.status, 404));
        server.upgrade(&[]);
    }
    server.wait_for_the_old_one();
    client.ask(&get("/round/3"));
    assert_eq!(client.ask(&get("/round/3")).status, 404);
    let log = server.stop_successor();
    assert!(!log.contains("access log"), "{log}");
    let lines = lines(&path);
    let count_of = |round: usize| lines.iter().filter(|line| line["target"] == format!("/round/{round}")).count();
    assert_eq!([0, 1, 2, 3].map(count_of), [50, 50, 50, 2]);
    assert!(lines.iter().all(|line| line["port"] == port), "whoever answers knows who asked");
}

/// A file made beforehand keeps what it has: it is appended to, by whoever has opened it.
/// Who is behind a proxy is named by the proxy, to the next process too.
#[test]
fn a_proxy_names_the_client() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let mut server = options(&path, 1).flag("--http-host", "127.0.0.1").flag("--proxy-from", "127.0.0.0/8").start();
    let mut client = Client::connect(server.address);
    client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 80\r\n");
    assert_eq!(client.ask(&get("/todos?limit=1")).status, 200);
    server.upgrade(&[]);
    server.wait_for_the_old_one();
    assert_eq!(client.ask(&get("/todos?limit=2")).status, 200);
    server.stop_successor();
    let lines = lines(&path);
    let of_client = |line: &&Value| line["address"] == "192.0.2.7" && line["port"].is_null();
    let targets: Vec<&Value> = lines.iter().filter(of_client).map(|line| &line["target"]).collect();
    assert_eq!(targets, ["/todos?limit=1", "/todos?limit=2"], "{lines:#?}");
}

#[test]
fn a_file_is_appended_to() {
    let folder = folder();
    let path = folder.path().join("access.log");
    let mut file = std::fs::OpenOptions::new();
    std::io::Write::write_all(
        &mut file.write(true).create(true).truncate(true).mode(0o600).open(&path).expect("a file"),
        b"{\"target\":\"/before\"}\n",
    )
    .expect("written");
    let server = options(&path, 0).start();
    assert_eq!(server.connect().ask(&get("/after")).status, 404);
    assert!(server.stop().0.success());
    let targets: Vec<Value> = lines(&path).iter().map(|line| line["target"].clone()).collect();
    assert_eq!(targets, ["/before", "/after"]);
}
