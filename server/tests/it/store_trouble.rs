//! A store that cannot write: 503 with the reason, reads go on, and writing comes back by itself where it can.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use rusqlite::Connection;

use crate::harness::{Client, Options, Response, Server, Todo, eventually, get};

/// While another process holds the file's write lock, writes are refused, and nothing else is.
#[test]
fn while_another_process_writes_to_the_file_writes_are_refused() {
    let server = Server::start();
    let mut client = server.connect();
    let holder = Connection::open(server.data_file()).expect("the data file");
    holder.execute_batch("BEGIN IMMEDIATE").expect("nobody writes");
    let refused = client.ask(&server.post("not now"));
    assert_eq!((refused.status, refused.problem().as_str()), (503, "not-appended"));
    assert_eq!(refused.field("Retry-After"), Some("1"));
    trouble_is_shown(&mut client, "locked");
    assert_eq!(Todo::list(&client.ask(&get("/todos")).body).len(), 100, "reads go on");
    holder.execute_batch("ROLLBACK").expect("it was begun");
    client.ask(&server.post("now")).accepted();
    let ready = client.ask(&get("/ready")).json();
    assert_eq!((&ready["writes"], &ready["away"]), (&true.into(), &serde_json::json!([])), "{ready}");
    let todos = Todo::list(&client.ask(&get("/todos")).body);
    assert_eq!((todos.len(), todos[0].title.as_str()), (101, "now"), "what was refused took no effect");
}

/// A queue that is full refuses at once, and every other write in it is answered when the store is back.
#[test]
fn a_full_queue_refuses_within_milliseconds() {
    /// As many as one connection may have under way, so the first one fills it.
    const WRITES_WAITING_MAX: usize = 64;
    /// The store gives up on what it has after a second, and those who come then find room and wait.
    const FILLERS_MAX: usize = 60;
    let server = Options::new().variable("WRITES_WAITING_MAX", WRITES_WAITING_MAX).start();
    let holder = Connection::open(server.data_file()).expect("the data file");
    holder.execute_batch("BEGIN IMMEDIATE").expect("nobody writes");
    let post = server.post("queued");
    let mut fillers: Vec<(Client, usize)> = Vec::new();
    let refused = loop {
        assert!(fillers.len() < FILLERS_MAX, "a bounded queue is full in the end");
        let mut client = server.connect();
        client.send(&post.repeat(WRITES_WAITING_MAX));
        // Refusing takes no time, waiting ends with the store's second.
        if client.is_answered_within(Duration::from_millis(500)) {
            let answer = client.response(false);
            fillers.push((client, WRITES_WAITING_MAX - 1));
            if answer.problem() == "queue-full" {
                break answer;
            }
        } else {
            fillers.push((client, WRITES_WAITING_MAX));
        }
    };
    assert_eq!((refused.status, refused.field("Retry-After")), (503, Some("1")));
    assert!(server.metric("todo_queue_full_total") > 0.0);
    assert_eq!(server.connect().ask(&get("/todos?limit=10")).status, 200, "reads go on");
    holder.execute_batch("ROLLBACK").expect("it was begun");
    let mut accepted = 0;
    for (client, writes_count) in &mut fillers {
        for answer in client.responses(*writes_count) {
            match answer.status {
                202 => accepted += 1,
                503 => assert!(["queue-full", "not-appended"].contains(&answer.problem().as_str()), "{answer}"),
                _ => panic!("{answer}"),
            }
        }
    }
    server.connect().ask(&server.post("afterwards")).accepted();
    assert_eq!(server.metric("todo_snapshot_items"), f64::from(101 + accepted), "a 202 is there, a 503 is not");
}

/// A disk that is really full: a small file system of the server's own. When there is room again, writing goes on.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let mount = "mount -t tmpfs -o size=4m tmpfs \"$DATA_FOLDER\" && exec \"$@\"";
    let wrapper = format!("exec unshare --user --map-root-user --mount sh -c '{mount}' sh \"$@\"");
    let server = Options::new().wrapped(&wrapper).start();
    let mut client = server.connect();
    client.ask(&server.post("with room")).accepted();
    // The server's own view of its folder: the file system is mounted for nobody else.
    let folder = format!("/proc/{}/root{}", server.pid(), server.data_file().parent().expect("a folder").display());
    let filler = format!("{folder}/filler");
    let file = std::fs::File::create(&filler).expect("room for a name");
    let block = vec![0; 4_096];
    let blocks = (0..).take_while(|at| file.write_all_at(&block, at * 4_096).is_ok()).count();
    assert!(blocks > 10, "the disk was full before");
    let refused = refusal(&server, &mut client);
    assert_eq!((refused.status, refused.problem().as_str()), (503, "not-appended"));
    assert_eq!(refused.field("Retry-After"), Some("1"));
    trouble_is_shown(&mut client, "full");
    let before = Todo::list(&client.ask(&get("/todos")).body);
    assert!(before.iter().any(|todo| todo.title == "with room"), "reads go on");
    file.set_len(0).expect("room is made");
    client.ask(&server.post("with room again")).accepted();
    assert_eq!(client.ask(&get("/ready")).json()["writes"], true);
    let after = Todo::list(&client.ask(&get("/todos")).body);
    assert_eq!(after.len(), before.len() + 1, "what was refused took no effect");
}

/// Another error of the disk, by a limit on the size of files: whatever its kind, it is never a 202, and a restart finds
/// what was acknowledged before and nothing of the rest but what its answer called unknown.
#[test]
#[cfg(target_os = "linux")]
fn a_write_error_is_never_a_202() {
    // 1 MiB; without the trap the signal for it (SIGXFSZ) would end the process.
    let server = Options::new().wrapped("trap '' XFSZ; ulimit -f 2048; exec \"$@\"").start();
    let mut client = server.connect();
    let refused = refusal(&server, &mut client);
    assert_eq!(refused.status, 503);
    let slug = refused.problem();
    assert!(["not-appended", "outcome-unknown"].contains(&slug.as_str()), "{refused}");
    trouble_is_shown(&mut client, "");
    let seen = Todo::list(&client.ask(&get("/todos")).body);
    assert_eq!(client.ask(&server.post("again")).status, 503, "it stays so");
    let server = server.kill_and_restart_with(|options| options.wrapped("exec \"$@\""));
    let mut client = server.connect();
    let found = Todo::list(&client.ask(&get("/todos")).body);
    let unknown = usize::from(slug == "outcome-unknown");
    assert!(found.len() >= seen.len() && found.len() <= seen.len() + unknown, "{} of {}", found.len(), seen.len());
    assert!(seen.iter().all(|todo| found.contains(todo)), "what was seen is there");
    client.ask(&server.post("and writing is back")).accepted();
}

/// Writes until one is refused; the refusal.
fn refusal(server: &Server, client: &mut Client) -> Response {
    let description = "filling ".repeat(1_000);
    let post = server.write("POST", "/todos", &format!(r#"{{"title":"filling","description":"{description}"}}"#));
    for _ in 0..2_000 {
        let answer = client.ask(&post);
        if answer.status != 202 {
            return answer;
        }
    }
    panic!("sixteen megabytes fit");
}

/// `/ready` is 200, since reads are served, and says that writes are not and why.
fn trouble_is_shown(client: &mut Client, word: &str) {
    eventually("/ready says why", || {
        let answer = client.ask(&get("/ready"));
        let ready = answer.json();
        let why = ready["writes_refused_because"].as_str().unwrap_or_default();
        let is_shown =
            answer.status == 200 && ready["writes"] == false && ready["away"] == serde_json::json!(["store"]);
        is_shown && !why.is_empty() && why.contains(word)
    });
}
