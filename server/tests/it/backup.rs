//! What docs/operations.md says of backup and restore, done: by its own commands, while writes run.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use todo_proto::id::ItemId;

use crate::harness::{Client, Cluster, EndsWith, Options, Server, Todo, eventually, get, request, run, with_fields};

const WRITERS: usize = 3;
/// Of all writers together, before a backup begins and again after it has ended.
const WRITES_AROUND: u64 = 300;
/// An id of a todo that a client chose, so that it can ask once more.
const KEY: &str = "Idempotency-Key";

/// What one writer knows of one of its todos.
#[derive(Clone, Debug)]
struct Written {
    title: String,
    /// When its last acknowledgement was read.
    at: Instant,
    is_changed: bool,
    is_deleted: bool,
}

/// The data file of a server under load, copied as the page says, with the secret beside it.
#[test]
fn a_copy_of_the_file_has_all_that_was_acknowledged_before_it_began() {
    // Without a JWT_SECRET the server makes one, and what it signs depends on that file.
    let options = || Options::default().flag("--http-port", 0).flag("--shards", 2).flag("--pin", false);
    let server = options().flag("--seed-todos", 20_000).start();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = server.data_file();
    let made = run(folder.path(), &["token", "--sub", "me", "--data-file", path(&file)]);
    let authorization = format!("Bearer {}", String::from_utf8(made.stdout).expect("text").trim());

    let copy = folder.path().join("todos.db");
    let (began, written) = while_written(&server, &authorization, || {
        let began = Instant::now();
        succeed(Command::new("sqlite3").arg(&file).arg(format!("VACUUM INTO '{}'", path(&copy))));
        began
    });
    std::fs::copy(beside(&file, ".secret"), beside(&copy, ".secret")).expect("both can be reached");
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");

    let restored = options().start_in(folder);
    let todos = Todo::list(&restored.connect().ask(&get("/todos")).body);
    let titles: HashMap<&str, &str> = todos.iter().map(|todo| (todo.id.as_str(), todo.title.as_str())).collect();
    assert_eq!(titles.len(), todos.len(), "an id is there twice");
    let (mut sure, mut later) = (0, 0);
    for (id, last) in &written {
        if last.at < began {
            let expected = (!last.is_deleted).then_some(last.title.as_str());
            assert_eq!(titles.get(id.as_str()).copied(), expected, "{id} was acknowledged before the copy began");
            sure += 1;
        } else {
            later += usize::from(!titles.contains_key(id.as_str()));
        }
    }
    assert!(sure > 100 && later > 100, "{sure} acknowledged before, {later} that came too late: it ran beside writes");
    let known = todos.iter().filter(|todo| written.contains_key(&todo.id)).count();
    assert_eq!(todos.len() - known, 20_000, "what was there before, and nothing that nobody wrote");

    // The token and the ids are good for the copy; a POST that it has already is the same todo once more.
    let mut client = restored.connect();
    let is_there = |id: &str, last: &Written| titles.get(id) == Some(&last.title.as_str());
    let (id, last) = written.iter().find(|(id, last)| is_there(id, last) && !last.is_changed).expect("one at least");
    assert_eq!(client.ask(&post(&authorization, id, &last.title)).accepted(), *id);
    let change = request(
        "PUT",
        &format!("/todos/{id}"),
        &[("Authorization", &authorization), ("Content-Type", "application/json")],
        r#"{"title":"changed in the copy"}"#,
    );
    client.ask(&change).accepted();
    assert_eq!(Todo::one(&client.ask(&get(&format!("/todos/{id}"))).body).title, "changed in the copy");
    client.ask(&post(&authorization, &new_key(), "new in the copy")).accepted();
    assert_eq!(restored.metric("todo_snapshot_items"), (todos.len() + 1) as f64);
}

/// A dump of a cluster under load, restored into another database: what came behind it is in the log, and is applied once.
#[test]
fn a_dump_is_brought_up_to_date_by_the_log() {
    let cluster = Cluster::new();
    let worker = cluster.worker();
    let server = cluster.server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dump = folder.path().join("todos.dump");
    let authorization = server.authorization();
    let (stood, written) = while_written(&server, &authorization, || {
        let stood = cluster.positions();
        cluster.dump(&dump);
        stood
    });
    let mut client = server.connect();
    let key = new_key();
    client.ask(&post(&authorization, &key, "behind the dump")).accepted();
    let there = written.values().filter(|last| !last.is_deleted).count() + 1;
    let expected = last_of(&server, &written, there);
    let ends = cluster.positions();
    drop(worker);
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");

    let restored = cluster.restored(&dump);
    let begins = restored.positions();
    for part in 0..ends.len() {
        assert!(stood[part] <= begins[part] && begins[part] < ends[part], "{stood:?} {begins:?} {ends:?}");
    }
    let _worker = restored.worker();
    let server = restored.server();
    eventually("the log is applied again", || restored.positions() == ends);
    eventually("what was there before", || everything(&server, there) == expected);

    let mut client = server.connect();
    client.ask(&post(&authorization, &key, "behind the dump")).accepted();
    let new = client.ask(&server.post("behind the restore")).accepted();
    eventually("it takes writes", || client.ask(&get(&format!("/todos/{new}"))).status == 200);
    assert_eq!(server.metric("todo_snapshot_items"), (there + 1) as f64, "a POST sent again is the same todo");
}

/// The store goes back under a server that runs: it goes on with what it has until the log is applied again.
#[test]
fn a_server_runs_through_a_restore() {
    let cluster = Cluster::new();
    let worker = cluster.worker();
    let server = cluster.server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dump = folder.path().join("todos.dump");
    let mut client = server.connect();
    let mut count = 0;
    let mut post_some = |client: &mut Client| {
        let posts: Vec<u8> = (0..60).flat_map(|number| server.post(&format!("todo {number}"))).collect();
        client.send(&posts);
        client.responses(60).iter().for_each(|answer| drop(answer.accepted()));
        count += 60;
        everything(&server, count)
    };
    post_some(&mut client);
    cluster.dump(&dump);
    let expected = post_some(&mut client);
    let ends = cluster.positions();
    drop(worker);

    cluster.restore_in_place(&dump);
    assert!(cluster.positions().iter().sum::<u64>() == 60, "it went back");
    let looks = |answer: &[u8]| assert!(answer == expected, "it went back on a connection");
    looks(&client.ask(&get("/todos")).body);
    let _worker = cluster.worker();
    eventually("the log is applied again", || {
        looks(&client.ask(&get("/todos")).body);
        cluster.positions() == ends
    });
    eventually("writes are taken", || client.ask(&get("/ready")).json()["writes"] == true);
    post_some(&mut client);
}

/// With the topic gone too, the dump is all there is: adopted, it goes on where it stands.
#[test]
fn a_dump_goes_on_with_a_new_topic() {
    let cluster = Cluster::new();
    let worker = cluster.worker();
    let server = cluster.server();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dump = folder.path().join("todos.dump");
    let authorization = server.authorization();
    let ((), written) = while_written(&server, &authorization, || {});
    let there = written.values().filter(|last| !last.is_deleted).count();
    let expected = last_of(&server, &written, there);
    let stood = cluster.positions();
    cluster.dump(&dump);
    let lost = new_key();
    server.connect().ask(&post(&authorization, &lost, "gone with the topic")).accepted();
    everything(&server, there + 1);
    drop(worker);
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");

    let restored = cluster.restored(&dump).with_new_topic();
    assert_eq!(restored.adopt_topic(), stood.len());
    assert_eq!(restored.positions(), stood, "they do not go back");
    assert_eq!(restored.adopt_topic(), 0, "once is enough");
    let _worker = restored.worker();
    let server = restored.server();
    assert!(everything(&server, there) == expected, "the dump, nothing more and nothing less");

    let mut client = server.connect();
    let kept = Todo::list(&expected)[0].clone();
    client.ask(&server.write("PATCH", &format!("/todos/{}", kept.id), r#"{"title":"changed"}"#)).accepted();
    assert_eq!(client.ask(&post(&authorization, &lost, "written again")).accepted(), lost);
    eventually("both are applied", || restored.positions().iter().sum::<u64>() == stood.iter().sum::<u64>() + 2);
    let target = format!("/todos/{}", kept.id);
    eventually("changed", || Todo::one(&client.ask(&get(&target)).body).title == "changed");
    assert_eq!(Todo::list(&everything(&server, there + 1)).iter().filter(|todo| todo.id == lost).count(), 1);
}

/// Does `work` while todos are created, changed and deleted, with writes acknowledged before it and after it. What it made,
/// and by id what is known of each todo.
fn while_written<T>(server: &Server, authorization: &str, work: impl FnOnce() -> T) -> (T, HashMap<String, Written>) {
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let are_more =
        |than: u64| eventually("writes run", || acknowledged.load(Ordering::Relaxed) >= than + WRITES_AROUND);
    std::thread::scope(|scope| {
        let ends = EndsWith(&stop);
        let write = |writer| write_until(server, authorization, writer, &stop, &acknowledged);
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || write(writer))).collect();
        are_more(0);
        let made = work();
        are_more(acknowledged.load(Ordering::Relaxed));
        drop(ends);
        let written = writers.into_iter().flat_map(|writer| writer.join().expect("a writer is well"));
        (made, written.collect())
    })
}

/// One thing after the other: of four todos one is changed and one deleted again.
fn write_until(
    server: &Server,
    authorization: &str,
    writer: usize,
    stop: &AtomicBool,
    acknowledged: &AtomicU64,
) -> HashMap<String, Written> {
    let mut client = server.connect();
    let mut written = HashMap::new();
    let mut is_taken = |bytes: &[u8]| {
        let id = client.ask(bytes).accepted();
        acknowledged.fetch_add(1, Ordering::Relaxed);
        (id, Instant::now())
    };
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let mut title = format!("{writer}/{number}");
        let (id, mut at) = is_taken(&post(authorization, &new_key(), &title));
        let target = format!("/todos/{id}");
        let fields = [("Authorization", authorization), ("Content-Type", "application/json")];
        let is_changed = number % 4 == 1;
        if is_changed {
            title.push_str(" changed");
            (_, at) = is_taken(&request("PUT", &target, &fields, &serde_json::json!({ "title": title }).to_string()));
        }
        let is_deleted = number % 4 == 2;
        if is_deleted {
            (_, at) = is_taken(&with_fields("DELETE", &target, &fields[..1]));
        }
        written.insert(id, Written { title, at, is_changed, is_deleted });
    }
    written
}

/// The whole list, once it has so many todos.
fn everything(server: &Server, count: usize) -> Vec<u8> {
    let mut body = Vec::new();
    // On the way there the number may be right for a moment already.
    eventually("all of them are seen", || {
        body = server.connect().ask(&get("/todos")).body;
        Todo::list(&body).len() == count
    });
    body
}

/// The same, once each is as it was written last.
fn last_of(server: &Server, written: &HashMap<String, Written>, count: usize) -> Vec<u8> {
    let mut body = everything(server, count);
    eventually("the last writes are seen", || {
        body = everything(server, count);
        let is_last =
            |todo: &Todo| written.get(&todo.id).is_none_or(|last| !last.is_deleted && last.title == todo.title);
        Todo::list(&body).iter().all(is_last)
    });
    body
}

fn post(authorization: &str, key: &str, title: &str) -> Vec<u8> {
    let fields = [("Authorization", authorization), ("Content-Type", "application/json"), (KEY, key)];
    request("POST", "/todos", &fields, &serde_json::json!({ "title": title }).to_string())
}

/// A UUIDv7 of now.
fn new_key() -> String {
    ItemId::from_parts(todo_server::clock::wall_ms(), fastrand::u128(..)).to_string()
}

fn beside(file: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}
