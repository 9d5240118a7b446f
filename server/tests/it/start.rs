//! Starting: what it says, what it refuses, and that it can always start again.

use std::path::Path;
use std::process::Output;

use rusqlite::Connection;

use crate::harness::{Client, Options, SECRET, Server, Todo, get, run, run_with};

/// With no flag but those that keep it apart from others, as a newcomer starts it.
#[test]
fn the_default_server_serves_ten_thousand_todos_and_says_what_it_is() {
    let server = Options::bare().start();
    let todos = Todo::list(&server.connect().ask(&get("/todos")).body);
    assert_eq!(todos.len(), 10_000);
    let legacy = std::env::var("MONOIO_FORCE_LEGACY_DRIVER").is_ok_and(|value| value == "1");
    let lines = ["addresses", "shards", "I/O driver", "store", "todos", "descriptors", "writes", "try"];
    for line in lines {
        assert!(server.summary.contains(&format!("\n  {line:<12} ")), "{line}:\n{}", server.summary);
    }
    assert!(server.summary.contains("10000 in memory"), "{}", server.summary);
    if legacy {
        assert!(server.summary.contains("I/O driver   epoll") || cfg!(target_os = "macos"), "{}", server.summary);
    }
    // localhost means both families, on one port.
    let addresses = server.summary.lines().find(|line| line.starts_with("  addresses")).expect("a line");
    for url in addresses.split_whitespace().skip(1) {
        let address = url.strip_prefix("http://").expect("a URL").parse().expect("an address");
        assert_eq!(Client::connect(address).ask(&get("/health")).status, 200, "{url}");
    }
}

#[test]
fn a_port_that_is_served_is_refused_with_the_owner() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = server.address.port().to_string();
    let error = refused(folder.path(), &["--http-port", &port]);
    assert!(error.contains(&format!("port {port} is served by another process (pid {}", server.pid())), "{error}");
    assert!(!folder.path().join("todos.db").exists(), "the file was not touched");
    assert_eq!(server.connect().ask(&get("/health")).status, 200);
}

#[test]
fn a_data_file_that_is_held_is_refused_with_the_owner() {
    let server = Server::start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = server.data_file();
    // By another name too: the lock is on the file, not on a name.
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    for name in [&file, &link] {
        let error = refused(folder.path(), &["--http-port", "0", "--data-file", name.to_str().expect("text")]);
        assert!(error.contains(&format!("is held by another process (pid {})", server.pid())), "{error}");
    }
    server.connect().ask(&server.post("still written")).accepted();
}

/// A file that cannot be ours, or cannot be trusted, is left as it is, with one plain sentence.
#[test]
fn a_file_that_is_not_ours_or_damaged_is_left_as_it_is() {
    type Make = fn(&Path);
    let table: [(&str, Make, &str); 7] = [
        ("a text", |path| write(path, b"Dear diary, this is no database at all.\n"), "is not a data file"),
        ("another program's", foreign, "is a database of another program"),
        ("a newer one", newer, "was written by a newer version"),
        ("a cut-off header", |path| ours(path, |bytes| bytes.truncate(60)), "is damaged"),
        ("a damaged schema", |path| ours(path, |bytes| bytes[100..400].fill(0xa5)), "damaged"),
        ("a damaged page of todos", damage_todos, "damaged"),
        ("a lost end", |path| ours(path, |bytes| bytes.truncate(bytes.len() / 2)), "damaged"),
    ];
    for (name, make, words) in table {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("todos.db");
        make(&path);
        let before = std::fs::read(&path).expect("it was made");
        let error = refused(folder.path(), &["--http-port", "0", "--data-file", "todos.db"]);
        assert!(error.contains(words), "{name}: {error}");
        assert!(error.contains("todos.db"), "{name} is not named: {error}");
        assert!(std::fs::read(&path).expect("it is there") == before, "{name} was changed");
    }
}

#[test]
fn a_place_that_cannot_hold_a_file_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, words) in [("no/such/folder/todos.db", "does not exist"), (".", "is not a file")] {
        let error = refused(folder.path(), &["--http-port", "0", "--data-file", name]);
        assert!(error.contains(words), "{name}: {error}");
    }
}

/// The port of a process that was just killed is free again within the retry, and nothing of it lives on.
#[test]
fn after_kill_9_it_starts_again_at_once_on_the_same_port() {
    let mut server = Server::start();
    for round in 0..5 {
        let mut client = server.connect();
        let title = format!("round {round}");
        client.ask(&server.post(&title)).accepted();
        // Connections in every state stand when it dies.
        let mut begun = server.connect();
        begun.send(&get("/todos")[..9]);
        let address = server.address;
        server = server.kill_and_restart();
        assert_eq!(server.address, address);
        let newest = Todo::list(&server.connect().ask(&get("/todos?limit=1")).body).remove(0);
        assert_eq!(newest.title, title, "what was acknowledged is there");
    }
    assert_eq!(Todo::list(&server.connect().ask(&get("/todos")).body).len(), 105, "not seeded again");
}

/// Runs a server that must refuse to start; its one sentence.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = run_with(folder, arguments, &[("JWT_SECRET", SECRET.to_owned())]);
    let error = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(1), "{error}");
    assert_eq!(stdout, b"", "it did not come to serve");
    assert_eq!(error.lines().count(), 1, "one sentence: {error}");
    assert!(error.starts_with("todo-server: ") && !error.contains("panicked"), "{error}");
    error
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file");
}

/// A data file of ours with 2,000 todos, closed in good order, then changed.
fn ours(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let folder = path.parent().expect("a folder");
    let seeded = run(folder, &["seed", "--count", "2000", "--data-file", path.to_str().expect("text")]);
    assert!(seeded.status.success(), "{seeded:?}");
    let mut bytes = std::fs::read(path).expect("it was made");
    change(&mut bytes);
    write(path, &bytes);
}

/// Every page that holds rows or keys: whatever is read first is damaged.
fn damage_todos(path: &Path) {
    const PAGE_BYTES: usize = 4_096;
    const LEAVES: [u8; 2] = [0x0a, 0x0d];
    ours(path, |bytes| {
        let pages = bytes.chunks_mut(PAGE_BYTES).skip(1).filter(|page| LEAVES.contains(&page[0]));
        let damaged = pages.map(|page| page[..64].fill(0xff)).count();
        assert!(damaged > 50, "{damaged} leaves");
    });
}

fn foreign(path: &Path) {
    let connection = Connection::open(path).expect("a database");
    connection.execute_batch("CREATE TABLE mail (text); INSERT INTO mail VALUES ('hello')").expect("a table");
}

fn newer(path: &Path) {
    ours(path, |_| {});
    let connection = Connection::open(path).expect("a database");
    connection
        .execute_batch("UPDATE store SET schema = 1000, min_reader = 1000; PRAGMA user_version = 1000")
        .expect("ours");
}

/// In a user namespace of its own it is nobody and may nothing, and goes on to serve, write and listen for commands.
#[test]
fn it_needs_no_privilege() {
    let server = Options::new().wrapped("exec unshare --user \"$@\"").start();
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_pid())).expect("it runs");
    for kind in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("\n{kind}:\t0000000000000000\n")), "{kind}: {status}");
    }
    let mut client = server.connect();
    assert_eq!(client.ask(&get("/todos?limit=10")).status, 200);
    client.ask(&server.post("written by nobody")).accepted();
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!log.contains("no commands are heard"), "{log}");
}
