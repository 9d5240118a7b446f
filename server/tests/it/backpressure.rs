//! Clients that do not read, or hardly: their kernel buffers fill, nothing in the server grows, and others are served.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Client, EndsWith, Options, Server, Todo, eventually, get};

/// What the allocator, the kernel's accounting and an unoptimised build may add to any of these, whatever clients do.
#[cfg(target_os = "linux")]
const SLACK_BYTES: u64 = 40 * 1024 * 1024;

/// A client that sends without end and never reads: it is not read from either, and nobody else notices.
#[test]
fn who_does_not_read_is_not_read_from() {
    for target in ["/todos?limit=10", "/todos?limit=100", "/todos"] {
        let server = Options::new().flag("--shards", 1).start();
        #[cfg(target_os = "linux")]
        let before = server.memory_bytes();
        let mut deaf: Vec<Client> = (0..8).map(|_| Client::with_receive_buffer(server.address, 4_096)).collect();
        let block = get(target).repeat(500);
        std::thread::scope(|scope| {
            for client in &mut deaf {
                scope.spawn(|| {
                    let taken = client.send_until_blocked(&block, Duration::from_millis(500));
                    assert!(
                        taken < 64 * 1024 * 1024,
                        "{target}: {taken} bytes were taken from a client that does not read"
                    );
                });
            }
        });
        let mut other = server.connect();
        assert_eq!(other.ask(&get("/todos?limit=3")).status, 200, "others are served");
        other.ask(&server.post("others write")).accepted();
        #[cfg(target_os = "linux")]
        {
            let grown = server.memory_bytes().saturating_sub(before);
            assert!(grown < SLACK_BYTES, "{target}: {grown} bytes more for clients that do not read");
        }
    }
}

/// The back-pressure ends with its cause: who begins to read gets every answer, in order.
#[test]
fn who_reads_late_gets_everything() {
    let server = Server::start();
    let mut client = Client::with_receive_buffer(server.address, 4_096);
    let expected = server.connect().ask(&get("/todos?limit=100"));
    let mut writer = client.writer();
    let stream = get("/todos?limit=100").repeat(3_000);
    std::thread::scope(|scope| {
        scope.spawn(|| std::io::Write::write_all(&mut writer, &stream).expect("the server reads in the end"));
        eventually("the server has stopped writing", || server.metric("todo_unsent_bytes") > 0.0);
        for _ in 0..3_000 {
            let answer = client.response(false);
            assert!(answer.status == 200 && answer.body == expected.body);
        }
    });
}

/// Small socket buffers make every write a short one.
#[test]
fn socket_buffers_of_four_kilobytes_change_nothing() {
    let server = Options::new().flag("--socket-buffer-bytes", 4_096).flag("--seed-todos", 10_000).start();
    let reference = server.connect().ask(&get("/todos?limit=10000"));
    assert_eq!(Todo::list(&reference.body).len(), 10_000);
    let mut client = Client::with_receive_buffer(server.address, 4_096);
    for target in ["/todos", "/todos?limit=10000"] {
        let answer = client.ask(&get(target));
        assert!(answer.status == 200 && answer.body == reference.body, "{target}");
    }
    let mut writer = client.writer();
    let description = "long ".repeat(1_000);
    let post = server.write("POST", "/todos", &format!(r#"{{"title":"t","description":"{description}"}}"#));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..200 {
                std::io::Write::write_all(&mut writer, &get("/todos?limit=10")).expect("the server reads");
                std::io::Write::write_all(&mut writer, &post).expect("the server reads");
            }
        });
        for _ in 0..200 {
            assert_eq!(Todo::list(&client.response(false).body).len(), 10);
            client.response(false).accepted();
        }
    });
}

/// The whole list, read slowly while todos change: one version of it, whatever happens meanwhile, in bounded memory.
#[test]
fn a_long_list_read_slowly_is_one_version_of_it() {
    let server = Options::new().flag("--seed-todos", 20_000).start();
    let mut plain = server.connect();
    let expected = plain.ask(&get("/todos"));
    #[cfg(target_os = "linux")]
    let before = server.memory_bytes();
    let mut slow: Vec<Client> = (0..4).map(|_| Client::with_receive_buffer(server.address, 16 * 1024)).collect();
    for client in &mut slow {
        client.send(&get("/todos"));
        client.head();
    }
    let todos = Todo::list(&plain.ask(&get("/todos?limit=1000")).body);
    let mut random = fastrand::Rng::with_seed(3);
    for number in 0..300 {
        let id = &todos[random.usize(..todos.len())].id;
        plain
            .ask(&server.write("PUT", &format!("/todos/{id}"), &format!(r#"{{"title":"changed {number}"}}"#)))
            .accepted();
        plain.ask(&server.post("more")).accepted();
    }
    #[cfg(target_os = "linux")]
    {
        let grown = server.memory_bytes().saturating_sub(before);
        let held = expected.body.len() as u64;
        assert!(grown < held + SLACK_BYTES, "{grown} bytes more while a list of {held} is held");
    }
    for client in &mut slow {
        assert!(client.bytes(expected.body.len()) == expected.body, "the version it was asked of");
    }
    assert_eq!(server.metric("todo_snapshot_items"), 20_300.0);
}

/// A client that takes a byte now and then while writes run: it holds one version until the deadline on its progress,
/// then it is cut by a reset; the memory stays flat.
#[test]
fn a_client_that_takes_a_byte_a_second_is_cut_and_costs_nothing() {
    let server = Options::new().flag("--seed-todos", 20_000).flag("--progress-timeout-ms", 1_500).start();
    let todos = Todo::list(&server.connect().ask(&get("/todos?limit=1000")).body);
    #[cfg(target_os = "linux")]
    let before = server.memory_bytes();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (server, todos, done) = (&server, &todos, &done);
        for writer in 0..4 {
            scope.spawn(move || {
                let mut client = server.connect();
                let mut random = fastrand::Rng::with_seed(writer);
                while !done.load(Ordering::Relaxed) {
                    let changes: Vec<u8> = (0..16)
                        .flat_map(|_| {
                            let id = &todos[random.usize(..todos.len())].id;
                            server.write("PATCH", &format!("/todos/{id}"), r#"{"description":"changed"}"#)
                        })
                        .collect();
                    client.send(&changes);
                    client.responses(16).iter().for_each(|answer| drop(answer.accepted()));
                }
            });
        }
        let _end = EndsWith(done);
        for cut_before in 0..2 {
            // Before it connects: on a busy machine the server may be far into the time before we look at a clock again.
            let begun = Instant::now();
            let mut slow = Client::with_receive_buffer(server.address, 4_096);
            slow.send(&get("/todos"));
            // What is in the client's own kernel buffer can be read even after the reset: only the server knows early.
            eventually("it is cut", || {
                assert_eq!(slow.some_bytes(1).expect("a byte"), 1);
                std::thread::sleep(Duration::from_millis(50));
                server.metric("todo_cut_total") > f64::from(cut_before)
            });
            let had = begun.elapsed();
            // The server's clock has ticks.
            assert!(had >= Duration::from_millis(1_450), "it had {had:?} of its time");
            let end = loop {
                match slow.some_bytes(64 * 1024) {
                    Ok(1..) => {}
                    Ok(0) => panic!("an end would look like a whole answer"),
                    Err(error) => break error.kind(),
                }
            };
            assert_eq!(end, ErrorKind::ConnectionReset);
        }
    });
    assert!(server.metric("todo_writes_total{outcome=\"acknowledged\"}") > 500.0, "writes ran meanwhile");
    #[cfg(target_os = "linux")]
    {
        let grown = server.memory_bytes().saturating_sub(before);
        assert!(grown < 2 * SLACK_BYTES, "{grown} bytes more");
    }
}

/// A client that is slow, but steady, is not cut: it takes its 64 KiB in each interval.
#[test]
fn a_slow_but_steady_client_gets_its_list() {
    let server = Options::new().flag("--seed-todos", 5_000).flag("--progress-timeout-ms", 1_000).start();
    let length = server.connect().ask(&get("/todos")).body.len();
    let mut steady = connect_small(server.address);
    steady.send(&get("/todos"));
    steady.head();
    let begun = Instant::now();
    let mut left = length;
    while left > 0 {
        let part = left.min(64 * 1024);
        drop(steady.bytes(part));
        left -= part;
        // A client of 640 KB/s: some ten times what it must take.
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(begun.elapsed() > Duration::from_millis(1_000), "longer in all than one interval");
}

fn connect_small(address: SocketAddr) -> Client {
    Client::with_receive_buffer(address, 16 * 1024)
}
