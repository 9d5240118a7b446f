//! SIGTERM: what was asked before it is answered, what was accepted is durable, and the process ends in time.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{Client, Options, PATIENCE, Server, Silence, Todo, get};

/// Under load from all sides: every request that was sent before the signal is answered, the last one on a connection
/// says that it closes, and a restart finds every 202.
#[test]
fn every_request_sent_before_the_signal_is_answered() {
    let server = Options::new().flag("--drain-timeout-ms", 10_000).start();
    let clients_count = 8;
    let loaded = Barrier::new(clients_count + 1);
    let accepted: Vec<String> = std::thread::scope(|scope| {
        let (server, loaded) = (&server, &loaded);
        let clients: Vec<_> = (0..clients_count)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = server.connect();
                    let mut accepted = Vec::new();
                    for turn in 0.. {
                        let request = if number % 2 == 0 {
                            server.post(&format!("{number}/{turn}"))
                        } else {
                            get("/todos?limit=10")
                        };
                        let is_sent = client.try_send(&request);
                        if turn == 50 {
                            loaded.wait();
                        }
                        let Some(answer) = client.try_response() else {
                            // It was on its way when the server had read to the end: sent after the signal.
                            assert!(turn > 50 || !is_sent, "client {number} lost request {turn}");
                            break;
                        };
                        if number % 2 == 0 {
                            accepted.push(answer.accepted());
                        }
                        if answer.closes() {
                            assert!(client.try_response().is_none(), "nothing follows the close");
                            break;
                        }
                    }
                    accepted
                })
            })
            .collect();
        loaded.wait();
        server.signal(Signal::TERM);
        clients.into_iter().flat_map(|client| client.join().expect("a client ends")).collect()
    });
    let server = server.wait_and_restart();
    let todos = Todo::list(&server.connect().ask(&get("/todos")).body);
    let there: HashSet<&str> = todos.iter().map(|todo| todo.id.as_str()).collect();
    assert!(accepted.iter().all(|id| there.contains(id.as_str())), "a 202 was lost");
    assert!(accepted.len() >= 4 * 50);
}

/// The deterministic half: bytes that lie in the sockets when the signal comes. The process is stopped, so that it cannot
/// have read them; all of them have been sent before.
#[test]
fn what_lies_in_the_sockets_at_the_signal_is_answered() {
    let server = Server::start();
    let mut idle: Vec<Client> = (0..6).map(|_| server.connect()).collect();
    for (number, client) in idle.iter_mut().enumerate() {
        // Some are fresh, some have asked before, some often enough to be read from in the busy way.
        for _ in 0..number {
            assert_eq!(client.ask(&get("/health")).status, 200);
        }
    }
    server.signal(Signal::STOP);
    for (number, client) in idle.iter_mut().enumerate() {
        client.send(&if number % 2 == 0 { get("/todos?limit=10") } else { server.post("on its way") });
    }
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for (number, client) in idle.iter_mut().enumerate() {
        let answer = client.try_response().unwrap_or_else(|| panic!("client {number} has no answer"));
        // It says that it closes unless it was given before the signal had reached the shard.
        assert_eq!(answer.status, if number % 2 == 0 { 200 } else { 202 }, "{answer}");
        assert!(client.try_response().is_none(), "nothing follows");
    }
    let server = server.wait_and_restart();
    let todos = Todo::list(&server.connect().ask(&get("/todos?limit=3")).body);
    assert!(todos.iter().all(|todo| todo.title == "on its way"));
}

/// The same for a pipeline: every one of its requests lies there before the signal.
#[test]
fn a_pipeline_in_the_socket_at_the_signal_is_answered_to_its_end() {
    let server = Server::start();
    let mut client = server.connect();
    assert_eq!(client.ask(&get("/health")).status, 200);
    server.signal(Signal::STOP);
    client.send(&get("/todos?limit=10").repeat(10));
    client.send(&server.post("in the middle").repeat(2));
    client.send(&get("/todos?limit=1"));
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    let statuses: Vec<u16> = std::iter::from_fn(|| client.try_response()).map(|answer| answer.status).collect();
    assert_eq!(statuses, [[200; 10].as_slice(), &[202, 202, 200]].concat());
    server.wait_and_restart();
}

/// A new connection that waits in the queue was there before the signal too.
#[test]
fn what_is_queued_on_the_listener_is_answered() {
    let server = Server::start();
    server.signal(Signal::STOP);
    let mut queued: Vec<Client> = (0..6).map(|_| server.connect()).collect();
    for client in &mut queued {
        client.send(&get("/todos?limit=1"));
    }
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for client in &mut queued {
        let answer = client.try_response().expect("an answer");
        assert_eq!(answer.status, 200, "{answer}");
        assert!(client.try_response().is_none(), "nothing follows");
    }
    server.wait_and_restart();
}

/// A body that is still coming has until the drain timeout.
#[test]
fn a_request_that_has_begun_is_answered() {
    let server = Server::start();
    let mut client = server.connect();
    client.ask(&get("/health"));
    let post = server.post("slowly");
    let (first, rest) = post.split_at(post.len() - 5);
    client.send(first);
    assert_eq!(client.silence(Duration::from_millis(100)), Silence::Open);
    server.signal(Signal::TERM);
    // Nobody is let in any more: that is how the drain is seen to have begun.
    crate::harness::eventually("the port is closed", || is_refused(&server));
    client.send(rest);
    let answer = client.response(false);
    answer.accepted();
    assert!(answer.closes(), "{answer}");
    client.expect_close();
    server.wait_and_restart();
}

/// Three phases: it is not ready and still serves whoever comes, then nobody is let in, then it has ended.
#[test]
fn it_says_that_it_is_not_ready_before_it_refuses_anybody() {
    let server = Options::new().flag("--drain-lead-ms", 1_000).start();
    assert_eq!(server.connect().ask(&get("/ready")).status, 200);
    let begun = Instant::now();
    server.signal(Signal::TERM);
    crate::harness::eventually("it is not ready", || server.connect().ask(&get("/ready")).status == 503);
    assert_eq!(server.connect().ask(&get("/todos?limit=1")).status, 200);
    server.connect().ask(&server.post("still written")).accepted();
    assert!(begun.elapsed() < Duration::from_millis(1_000), "a machine that is too slow for this test");
    crate::harness::eventually("the port is closed", || is_refused(&server));
    assert!(begun.elapsed() >= Duration::from_millis(1_000), "{:?}", begun.elapsed());
    server.wait_and_restart();
}

/// Who takes nothing and sends nothing cannot hold the process beyond its drain timeout.
#[test]
fn the_drain_has_an_end() {
    let server = Options::new().flag("--drain-timeout-ms", 500).flag("--seed-todos", 5_000).start();
    let mut deaf = Client::with_receive_buffer(server.address, 4_096);
    deaf.send(&get("/todos").repeat(10));
    deaf.head();
    let mut half = server.connect();
    half.send(&get("/health")[..9]);
    assert_eq!(half.silence(Duration::from_millis(100)), Silence::Open);
    let begun = Instant::now();
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(begun.elapsed() >= Duration::from_millis(400) && begun.elapsed() < PATIENCE / 3, "{:?}", begun.elapsed());
    assert!(log.contains("the drain timeout has passed"), "{log}");
}

#[test]
fn with_nobody_there_it_ends_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start();
        let mut idle: Vec<Client> = (0..10).map(|_| server.connect()).collect();
        idle[0].ask(&get("/health"));
        let begun = Instant::now();
        server.signal(signal);
        let (status, log) = server.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(begun.elapsed() < Duration::from_secs(5), "idle connections are not waited for: {:?}", begun.elapsed());
        idle.iter_mut().for_each(Client::expect_close);
    }
}

fn is_refused(server: &Server) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&server.address, PATIENCE) else { return true };
    // Queued on a listener that is about to close, it is closed or reset without an answer.
    let closes = |stream: &mut TcpStream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&get("/health"))?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)
    };
    !matches!(closes(&mut stream), Ok(1..))
}
