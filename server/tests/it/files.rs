//! Large ready-made answers leave by `sendfile` from files that never change: the same bytes, whatever the client does and
//! whatever changes meanwhile, and small answers on the same connection go on as before.

#![cfg(target_os = "linux")]

use std::collections::HashMap;

use crate::harness::{Client, Options, Response, Server, Todo, get};

/// Writes from files so far.
fn file_writes(server: &Server) -> f64 {
    server.metric("todo_file_writes_total")
}

/// Asks for a list of a thousand until its answers come from a file.
fn warm(server: &Server, client: &mut Client) -> Response {
    for _ in 0..100 {
        let before = file_writes(server);
        let answer = client.ask(&get("/todos?limit=1000"));
        if file_writes(server) > before {
            return answer;
        }
    }
    panic!("no answer came from a file");
}

#[test]
fn answers_from_a_file_are_the_same_bytes() {
    let server = Options::new().flag("--seed-todos", 10_000).start();
    let expected = server.connect().ask(&get("/todos?limit=1000")).body;
    let small = server.connect().ask(&get("/todos?limit=10")).body;
    let mut client = server.connect();
    assert!(warm(&server, &mut client).body == expected);
    // Deep pipelines of small answers are large writes too.
    for (target, depth, body) in [("/todos?limit=1000", 80, &expected), ("/todos?limit=10", 400, &small)] {
        for _ in 0..5 {
            client.send(&get(target).repeat(depth));
            for answer in client.responses(depth) {
                assert!(answer.status == 200 && answer.body == *body, "{target}");
            }
        }
    }
}

/// A connection changes to system calls and back as its answers are large or small, in one batch or from one to the next.
#[test]
fn large_and_small_answers_follow_each_other() {
    let server = Options::new().flag("--seed-todos", 10_000).start();
    let mut other = server.connect();
    let expected: HashMap<&str, Vec<u8>> =
        ["/todos?limit=1000", "/todos?limit=10", "/todos?limit=1", "/todos", "/health"]
            .into_iter()
            .map(|target| (target, other.ask(&get(target)).body))
            .collect();
    // "/todos" is larger than anything that is ready-made, and leaves as slices.
    assert!(expected["/todos"].len() > 1 << 20);
    let mut client = server.connect();
    let mut random = fastrand::Rng::with_seed(5);
    warm(&server, &mut client);
    let targets: Vec<&str> = expected.keys().copied().collect();
    for _ in 0..30 {
        // One at a time, long enough to be taken for a small client again, and for a busy one.
        for _ in 0..random.usize(0..60) {
            assert!(client.ask(&get("/todos?limit=1")).body == expected["/todos?limit=1"]);
        }
        let batch: Vec<&str> = (0..random.usize(1..20)).map(|_| targets[random.usize(..targets.len())]).collect();
        client.send(&batch.iter().flat_map(|target| get(target)).collect::<Vec<u8>>());
        for target in batch {
            assert!(client.response(false).body == expected[target], "{target}");
        }
        assert!(client.ask(&get("/todos?limit=1000")).body == expected["/todos?limit=1000"]);
        client.send(&get("/todos?limit=1000").repeat(3));
        for answer in client.responses(3) {
            assert!(answer.body == expected["/todos?limit=1000"]);
        }
    }
}

/// What is on its way when the list changes stays what it was: the file is replaced, never written again.
#[test]
fn an_answer_read_late_is_one_version() {
    const DEPTH: usize = 24;
    // The first reader waits for all of it, which a busy machine takes long for.
    let server = Options::new().flag("--seed-todos", 2_000).flag("--progress-timeout-ms", 600_000).start();
    let mut writer = server.connect();
    warm(&server, &mut writer);
    let mut readers: Vec<Client> = Vec::new();
    for number in 0..12 {
        writer.ask(&server.post(&format!("version {number}"))).accepted();
        // Both drivers, both accept modes: a file is made again for this version before anybody is slow about it.
        warm(&server, &mut writer);
        let mut reader = Client::with_receive_buffer(server.address, 16 * 1024);
        reader.send(&get("/todos?limit=1000").repeat(DEPTH));
        readers.push(reader);
    }
    for number in 0..200 {
        writer.ask(&server.post(&format!("later {number}"))).accepted();
        writer.ask(&get("/todos?limit=1000"));
    }
    for reader in &mut readers {
        let mut by_etag: HashMap<String, Vec<u8>> = HashMap::new();
        for answer in reader.responses(DEPTH) {
            let etag = answer.field("etag").expect("a list has one").to_owned();
            assert_eq!(Todo::list(&answer.body).len(), 1_000);
            let known = by_etag.entry(etag).or_insert_with(|| answer.body.clone());
            assert!(*known == answer.body, "one version, one list of bytes");
        }
    }
}

/// With descriptors for a file or two only, everything is answered all the same.
#[test]
fn few_descriptors_are_enough() {
    let server = Options::new().flag("--seed-todos", 4_000).wrapped("ulimit -n 64; exec \"$@\"").start();
    let mut client = server.connect();
    for limit in 900..920 {
        let target = format!("/todos?limit={limit}");
        let stream = get(&target).repeat(4);
        for _ in 0..3 {
            client.send(&stream);
            for answer in client.responses(4) {
                assert_eq!(Todo::list(&answer.body).len(), limit);
            }
        }
    }
    assert!(file_writes(&server) > 0.0, "the files there are were used");
}
