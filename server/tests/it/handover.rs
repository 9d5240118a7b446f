//! One process takes another's place: nobody is asked to reconnect, nothing is lost, and whatever goes wrong leaves the old
//! one serving.

use std::collections::HashSet;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use todo_server::control::handover::protocol::Frame;

use crate::harness::successor::{self, script};
use crate::harness::{Client, Options, PATIENCE, Server, Silence, Todo, binary, eventually, get, with_fields};

/// Connections in every state between two requests: fresh, asked before, busy enough to be read from in the busy way, with
/// half a head, with an empty line. All are answered by the new process while the old one ends without waiting for them,
/// and see their end when the new one closes.
#[test]
fn connections_move_on_and_end_with_the_new_process() {
    let mut server = Server::start();
    let mut clients: Vec<Client> = (0..12).map(|_| server.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        for _ in 0..number {
            assert_eq!(client.ask(&get("/todos?limit=10")).status, 200);
        }
    }
    let request = get("/todos?limit=10");
    clients[5].send(&request[..9]);
    clients[6].send(&request[..request.len() - 1]);
    clients[7].send(b"\r\n");
    for client in &mut clients[5..8] {
        assert_eq!(client.silence(Duration::from_millis(20)), Silence::Open);
    }
    server.upgrade(&[]);
    server.wait_for_the_old_one();
    clients[5].send(&request[9..]);
    clients[6].send(&request[request.len() - 1..]);
    for (number, client) in clients.iter_mut().enumerate() {
        let answer = if matches!(number, 5 | 6) { client.response(false) } else { client.ask(&request) };
        assert_eq!(answer.status, 200, "client {number}: {answer}");
        assert!(!answer.closes(), "client {number}: {answer}");
    }
    assert_eq!(server.connect().ask(&server.post("written by the new one")).status, 202);
    assert_eq!(server.metric("todo_adopted_total"), 12.0);
    let log = server.stop_successor();
    clients.iter_mut().for_each(Client::expect_close);
    assert!(!log.contains("the drain timeout has passed"), "{log}");
}

/// Writers and readers go on over three successors: each answer is whole and in order, each write is accepted, and who has
/// read a 202 sees the write.
#[test]
fn writes_and_reads_go_on_over_several_successors() {
    let mut server = Server::start();
    let stop = AtomicBool::new(false);
    let (address, post) = (server.address, |title: &str| server.post(title));
    let posts: Vec<Vec<u8>> = (0..4).map(|number| post(&format!("by {number}"))).collect();
    let written: Vec<String> = std::thread::scope(|scope| {
        let stop = &stop;
        let writers: Vec<_> = posts
            .iter()
            .map(|post| {
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    let mut written = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        client.send(&[post.as_slice(), &get("/todos?limit=100")].concat());
                        let accepted = client.response(false);
                        assert!(!accepted.closes(), "{accepted}");
                        let id = accepted.accepted();
                        let list = client.response(false);
                        let todos = Todo::list(&list.body);
                        assert!(todos.iter().any(|todo| todo.id == id), "a 202 is not seen");
                        written.push(id);
                    }
                    written
                })
            })
            .collect();
        let readers: Vec<_> = (1..=4_usize)
            .map(|depth| {
                scope.spawn(move || {
                    let mut client = Client::connect(address);
                    while !stop.load(Ordering::Relaxed) {
                        client.send(&get("/todos?limit=10").repeat(depth));
                        for answer in client.responses(depth) {
                            assert!(answer.status == 200 && !answer.closes(), "{answer}");
                            assert_eq!(Todo::list(&answer.body).len(), 10);
                        }
                    }
                })
            })
            .collect();
        for _ in 0..3 {
            server.upgrade(&[]);
            // The next one replaces the one that has the command socket.
            assert_eq!(server.connect().ask(&get("/health")).status, 200);
        }
        stop.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("a reader is well"));
        writers.into_iter().flat_map(|writer| writer.join().expect("a writer is well")).collect()
    });
    let there: HashSet<String> =
        Todo::list(&server.connect().ask(&get("/todos")).body).into_iter().map(|todo| todo.id).collect();
    assert_eq!(written.iter().collect::<HashSet<_>>().len(), written.len(), "no id twice");
    assert!(written.iter().all(|id| there.contains(id)), "a 202 was lost");
    assert_eq!(there.len(), 100 + written.len(), "nothing was written twice");
}

/// A new one that refuses, crashes at once or is no program leaves the old one as it was, and the command says why.
#[test]
fn a_successor_that_fails_leaves_the_old_one_serving() {
    let server = Server::start();
    let mut client = server.connect();
    client.ask(&get("/health"));
    let other = server.folder().join("other.db");
    let elsewhere = format!("shift 2; exec {} --data-file {} \"$@\"", binary(), other.display());
    let seeded = crate::harness::run(server.folder(), &["seed", "--count", "1", "--data-file", "other.db"]);
    assert!(seeded.status.success(), "{seeded:?}");
    let table = [
        (script(server.folder(), "crash", "exit 3"), "ended before it could serve"),
        (script(server.folder(), "elsewhere", &elsewhere), "restart instead"),
        (server.folder().join("missing"), "cannot be started"),
    ];
    for (program, words) in table {
        let said = server.try_upgrade(&["--binary", program.to_str().expect("text")]);
        let error = String::from_utf8(said.stderr).expect("text");
        assert!(said.status.code() == Some(1) && error.contains(words), "{program:?}: {error}");
        assert!(error.contains("the old process goes on serving") && error.lines().count() == 1, "{error}");
        assert_eq!(client.ask(&get("/todos?limit=1")).status, 200);
        client.ask(&server.post("still written")).accepted();
    }
}

/// The new one dies with the writes already given away: they were held meanwhile, reads were answered, and the old one
/// takes its file again and answers them.
#[test]
fn a_successor_that_dies_at_the_last_moment_loses_no_write() {
    let server = Server::start();
    let mut client = server.connect();
    client.ask(&server.post("before")).accepted();
    let (ready, go) = (server.folder().join("ready"), server.folder().join("go"));
    let test = std::env::current_exe().expect("a test");
    let body = format!(
        "exec env FAKE_READY={} FAKE_GO={} {} --exact handover::the_successor_that_dies --nocapture",
        ready.display(),
        go.display(),
        test.display()
    );
    let fake = script(server.folder(), "fake", &body);
    std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| server.try_upgrade(&["--binary", fake.to_str().expect("text")]));
        eventually("the writes are given away", || ready.exists());
        // Held, and what stands behind it too; what stands before it is answered, and so are others.
        client.send(&[get("/todos?limit=1"), server.post("held"), get("/todos?limit=1")].concat());
        assert_eq!(client.response(false).status, 200);
        assert_eq!(client.silence(Duration::from_millis(100)), Silence::Open);
        assert_eq!(server.connect().ask(&get("/todos?limit=10")).status, 200);
        std::fs::write(&go, "").expect("a file");
        let said = upgrade.join().expect("it ends");
        let error = String::from_utf8(said.stderr).expect("text");
        assert!(said.status.code() == Some(1) && error.contains("before it could serve"), "{error}");
    });
    let id = client.response(false).accepted();
    let newest = Todo::list(&client.response(false).body).remove(0);
    assert_eq!((newest.id, newest.title.as_str()), (id, "held"));
    client.ask(&server.post("after")).accepted();
}

/// What the test above starts as its successor. Run by itself it makes sure that a process without a predecessor has none.
#[test]
fn the_successor_that_dies() {
    let (Some(ready), Some(go)) = (std::env::var_os("FAKE_READY"), std::env::var_os("FAKE_GO")) else {
        assert!(todo_server::control::handover::take::Predecessor::meet().expect("nothing to meet").is_none());
        return;
    };
    let mut channel = successor::loaded();
    let (released, _) = channel.receive().expect("the writes");
    assert!(
        matches!(released, Frame::Released(positions) if positions.positions == [101]),
        "100 samples and one write"
    );
    std::fs::write(ready, "").expect("a file");
    let go = PathBuf::from(go);
    eventually("it may die", || go.exists());
    std::process::exit(7);
}

/// A body that is still coming when the writes are given away: its write is refused with a time to try again, its
/// connection goes on at the new process, and the old one waits for it and no longer.
#[test]
fn a_body_that_comes_late_is_refused_and_its_connection_moves() {
    let mut server = Server::start();
    let mut client = server.connect();
    let post = server.post("slowly");
    let (first, rest) = post.split_at(post.len() - 5);
    client.send(first);
    assert_eq!(client.silence(Duration::from_millis(50)), Silence::Open);
    server.upgrade(&[]);
    assert!(!server.has_the_old_one_ended(), "it has a request to answer");
    client.send(rest);
    let answer = client.response(false);
    assert_eq!((answer.status, answer.closes()), (503, false), "{answer}");
    assert!(answer.field("Retry-After").is_some(), "{answer}");
    server.wait_for_the_old_one();
    client.ask(&post).accepted();
}

/// Who takes nothing of what it is owed cannot move; it holds the old process no longer than the drain timeout.
#[test]
fn the_old_one_ends_in_time() {
    let mut server = Options::new().flag("--drain-timeout-ms", 600).flag("--seed-todos", 5_000).start();
    let mut deaf = Client::with_receive_buffer(server.address, 4_096);
    deaf.send(&get("/todos").repeat(10));
    deaf.head();
    server.upgrade(&[]);
    server.wait_for_the_old_one();
    assert_eq!(server.connect().ask(&get("/todos?limit=1")).status, 200);
    let log = server.stop_successor();
    assert!(log.contains("the drain timeout has passed"), "{log}");
}

/// The new one has another count of shards and another way to accept, and takes every listener that it is given: no
/// connection is refused or waits for ever.
#[test]
fn every_listener_is_accepted_on_whatever_the_shards() {
    for (old, new) in [(("3", "reuseport"), ("1", "handoff")), (("1", "reuseport"), ("3", "reuseport"))] {
        let options = Options::bare().flag("--seed-todos", 10).flag("--pin", false);
        let mut server = options.variable("SHARDS", old.0).variable("ACCEPT", old.1).start();
        let body = format!("exec env SHARDS={} ACCEPT={} {} \"$@\"", new.0, new.1, binary());
        let program = script(server.folder(), "other", &body);
        let mut before: Vec<Client> = (0..30).map(|_| server.connect()).collect();
        server.upgrade(&["--binary", program.to_str().expect("text")]);
        server.wait_for_the_old_one();
        let mut after: Vec<Client> = (0..30).map(|_| server.connect()).collect();
        for client in before.iter_mut().chain(&mut after) {
            assert_eq!(client.ask(&get("/todos?limit=1")).status, 200, "{old:?} to {new:?}");
        }
    }
}

/// The drivers differ in what they want of a socket, and a connection may go from either to the other.
#[test]
fn connections_move_between_the_drivers() {
    let mut server = Server::start();
    let mut client = server.connect();
    for legacy in ["1", "0", "1"] {
        let body = format!("exec env MONOIO_FORCE_LEGACY_DRIVER={legacy} {} \"$@\"", binary());
        let program = script(server.folder(), "driver", &body);
        for _ in 0..5 {
            assert_eq!(client.ask(&get("/todos?limit=100")).status, 200);
        }
        server.upgrade(&["--binary", program.to_str().expect("text")]);
        assert_eq!(client.silence(Duration::from_millis(50)), Silence::Open);
    }
    client.ask(&server.post("by the last")).accepted();
}

/// systemd is told: ready, reloading with a time, the new main process, stopping.
#[test]
fn a_service_manager_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let hear = || {
        let mut bytes = [0; 512];
        let count = manager.recv(&mut bytes).expect("it says something");
        String::from_utf8_lossy(&bytes[..count]).trim_end().to_owned()
    };
    let mut server = Options::new().variable("NOTIFY_SOCKET", path.display()).start();
    assert_eq!(hear(), "READY=1");
    let crash = script(server.folder(), "crash", "exit 3");
    assert!(!server.try_upgrade(&["--binary", crash.to_str().expect("text")]).status.success());
    let reloading = hear();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(hear(), "READY=1", "the old one goes on");
    server.upgrade(&[]);
    assert!(hear().starts_with("RELOADING=1\n"));
    assert_eq!(hear(), format!("MAINPID={}\nREADY=1", server.successor_pid()));
    server.stop_successor();
    assert_eq!(hear(), "STOPPING=1");
}

/// Sockets that a service manager has opened are served, and are there for the successor too.
#[test]
fn sockets_of_a_service_manager_are_served() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::empty()).expect("a descriptor");
    let address = listener.local_addr().expect("bound");
    // systemd passes them from 3 on; a shell cannot put a higher one there.
    let variables = format!("LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDS_FIRST_FD={}", listener.as_raw_fd());
    let shell = format!("exec env {variables} \"$@\"");
    let mut server = Options::new().wrapped(&shell).start();
    drop(listener);
    assert_eq!(server.address, address);
    let mut client = server.connect();
    assert_eq!(client.ask(&get("/todos?limit=1")).status, 200);
    server.upgrade(&[]);
    server.wait_for_the_old_one();
    assert_eq!(client.ask(&get("/todos?limit=1")).status, 200);
    assert_eq!(server.connect().ask(&get("/todos?limit=1")).status, 200);
}

/// Without a command, by the signal alone.
#[test]
fn a_signal_does_it_too() {
    let mut server = Server::start();
    let mut client = server.connect();
    client.ask(&get("/health"));
    server.signal(Signal::USR2);
    // Its end is the word: nobody else has asked for it.
    server.wait_for_the_old_one();
    assert_eq!(client.ask(&get("/todos?limit=1")).status, 200);
    server.upgrade(&[]);
    assert_eq!(client.ask(&get("/todos?limit=1")).status, 200);
}

/// The first process of a container ends with it, so nothing can take its place.
#[test]
fn process_1_of_a_container_is_not_replaced() {
    let container = "exec unshare --user --map-root-user --pid --fork --kill-child \"$@\"";
    let mut server = Options::new().wrapped(container).start();
    let outside = server.pid().as_raw_pid();
    let children = std::fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).expect("it has one");
    let first = children.trim().parse().ok().and_then(Pid::from_raw).expect("a process");
    kill_process(first, Signal::USR2).expect("it runs");
    server.has_logged("process 1 of its container");
    assert_eq!(server.connect().ask(&get("/todos?limit=1")).status, 200);
}

/// SIGHUP reads the settings file and the key's file again: limits, keys and the log filter change, and connections stay.
#[test]
fn a_hangup_reads_limits_keys_and_log_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (settings, secret) = (folder.path().join("settings"), folder.path().join("secret"));
    std::fs::write(&settings, "LIMIT_MAX=20\nLOG=warn\n").expect("a file");
    std::fs::write(&secret, crate::harness::SECRET).expect("a file");
    let options = Options::default().flag("--http-port", 0).flag("--seed-todos", 100).flag("--pin", false);
    let options = options.flag("--jwt-secret-file", secret.display()).flag("--settings-file", settings.display());
    let mut server = options.start();
    let mut client = server.connect();
    // Asked often enough for its head to be known.
    for _ in 0..3 {
        assert_eq!(client.ask(&get("/todos?limit=20")).status, 200);
    }
    client.ask(&server.post("with the first key")).accepted();
    // An address of its own for metrics waits for a new process, so they stay where they are.
    let changed = "LIMIT_MAX=19\nLOG=info\nCORS_ORIGINS=https://app.example\nADMIN_ADDR=127.0.0.1:1\n";
    std::fs::write(&settings, changed).expect("a file");
    std::fs::write(&secret, "another HS256 secret that is for tests").expect("a file");
    server.signal(Signal::HUP);
    eventually("the limit has changed", || client.ask(&get("/todos?limit=20")).status == 400);
    assert_eq!(client.ask(&get("/todos?limit=19")).status, 200);
    // Shards hear of it one after the other.
    eventually("the key has changed", || server.connect().ask(&server.post("with the first key")).status == 401);
    assert_eq!(client.ask(&get("/metrics")).status, 200);
    let from_a_page = with_fields("GET", "/todos?limit=1", &[("Origin", "https://app.example")]);
    assert_eq!(client.ask(&from_a_page).field("Access-Control-Allow-Origin"), Some("https://app.example"));
    // What is wrong changes nothing.
    std::fs::write(&settings, "LIMIT_MAX=none\n").expect("a file");
    server.signal(Signal::HUP);
    server.has_logged("nothing is changed");
    assert_eq!(client.ask(&get("/todos?limit=19")).status, 200);
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("are read again"), "{log}");
}
