//! Many requests in one stream: every answer, in order, whatever the pieces they come in.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Client, EndsWith, Options, Response, Server, Silence, Todo, get, with_fields};

#[test]
fn eighty_requests_in_one_write_have_eighty_equal_answers() {
    let server = Server::start();
    let mut client = server.connect();
    for target in ["/todos?limit=10", "/todos?limit=100", "/health"] {
        let alone = client.ask(&get(target));
        for _ in 0..3 {
            client.send(&get(target).repeat(80));
            for answer in client.responses(80) {
                assert_eq!((answer.status, &answer.body), (200, &alone.body), "{target}");
                assert_eq!(answer.field_names(), alone.field_names());
            }
        }
    }
}

/// The same stream in pieces of every kind of size gives the same answers.
#[test]
fn ragged_pieces_change_nothing() {
    let server = Server::start();
    let stream: Vec<u8> = [
        get("/todos?limit=10").repeat(5),
        get("/todos?limit=7"),
        with_fields("HEAD", "/todos?limit=7", &[]),
        get("/nowhere"),
        get("/todos?limit=10").repeat(3),
        get("/todos"),
    ]
    .concat();
    let read_all = |client: &mut Client| -> Vec<(u16, Vec<u8>)> {
        let answers = (0..12).map(|at| client.response(at == 6));
        answers.map(|answer| (answer.status, answer.body)).collect()
    };
    let mut whole = server.connect();
    whole.send(&stream);
    let expected = read_all(&mut whole);
    let mut random = fastrand::Rng::with_seed(11);
    for pieces_max in [1, 2, 7, 40, 150] {
        let mut client = server.connect();
        let mut rest = stream.as_slice();
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(random.usize(1..=pieces_max).min(rest.len()));
            client.send(piece);
            rest = left;
        }
        assert_eq!(read_all(&mut client), expected, "pieces of up to {pieces_max}");
    }
}

/// A pipelined write is a barrier: what follows it sees it, and everything is answered in the order it was asked.
#[test]
fn writes_and_reads_in_one_stream_keep_their_order() {
    for shards in [1, 2] {
        let server = Options::new().flag("--shards", shards).flag("--seed-todos", 0).start();
        let mut client = server.connect();
        let mut stream = Vec::new();
        for turn in 0..40 {
            stream.extend(server.post(&format!("a{turn}")));
            stream.extend(get("/todos?limit=2"));
            stream.extend(server.post(&format!("b{turn}")));
            stream.extend(server.write("POST", "/todos", "{}"));
            stream.extend(server.post(&format!("c{turn}")));
            stream.extend(get("/todos?limit=3"));
        }
        client.send(&stream);
        let titles = |answer: &Response| -> Vec<String> {
            Todo::list(&answer.body).into_iter().map(|todo| todo.title).collect()
        };
        for turn in 0..40 {
            let answers = client.responses(6);
            let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
            assert_eq!(statuses, [202, 200, 202, 400, 202, 200], "turn {turn}");
            assert_eq!(titles(&answers[1])[0], format!("a{turn}"));
            assert_eq!(titles(&answers[5]), [format!("c{turn}"), format!("b{turn}"), format!("a{turn}")]);
        }
    }
}

#[test]
fn more_writes_than_a_group_holds_are_answered_one_by_one() {
    let server = Server::start();
    let mut client = server.connect();
    let posts: Vec<u8> = (0..500).flat_map(|number| server.post(&format!("number {number}"))).collect();
    client.send(&posts);
    let ids: Vec<String> = client.responses(500).iter().map(Response::accepted).collect();
    assert!(
        ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]),
        "the order of the ids is that of the stream"
    );
    let newest = Todo::list(&client.ask(&get("/todos?limit=500")).body);
    for (number, todo) in newest.iter().rev().enumerate() {
        assert_eq!((&todo.id, todo.title.as_str()), (&ids[number], format!("number {number}").as_str()));
    }
}

/// A client's `close` ends the batch: what it sent behind it is not evaluated.
#[test]
fn nothing_behind_a_close_is_evaluated() {
    let server = Server::start();
    let mut client = server.connect();
    let mut stream = get("/todos?limit=1");
    stream.extend(with_fields("GET", "/health", &[("Connection", "close")]));
    stream.extend(server.post("behind the close"));
    client.send(&stream);
    let answers = client.responses(2);
    assert!(!answers[0].closes() && answers[1].closes());
    client.expect_close();
    assert_eq!(server.metric("todo_writes_total{outcome=\"acknowledged\"}"), 0.0);
}

/// One endless pipeline (14 MB, and more until the probes are done) must neither hold its shard nor stop its timers:
/// somebody else is answered in time, and a third gets the 408 that is due.
#[test]
fn an_endless_pipeline_holds_nobody_up() {
    const PIPELINE_BYTES_MIN: usize = 14_000_000;
    let server = Options::new().flag("--shards", 1).flag("--head-timeout-ms", 500).start();
    let block = get("/todos?limit=10").repeat(1_000);
    let probed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut pipeline = server.connect();
        let mut writer = pipeline.writer();
        let (block, probed) = (&block, &probed);
        let sending = scope.spawn(move || {
            let mut blocks_count = 0;
            while blocks_count * block.len() < PIPELINE_BYTES_MIN || !probed.load(Ordering::Relaxed) {
                writer.write_all(block).expect("the server reads");
                blocks_count += 1;
            }
            writer.shutdown(Shutdown::Write).expect("the connection is there");
            blocks_count
        });
        let receiving = scope.spawn(move || pipeline.drain());
        let end = EndsWith(probed);
        let mut begun = server.connect();
        begun.send(b"GET /todos HT");
        let mut probe = server.connect();
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let asked = Instant::now();
            assert_eq!(probe.ask(&get("/todos?limit=3")).status, 200);
            slowest = slowest.max(asked.elapsed());
        }
        assert_eq!(begun.response(false).status, 408, "due in the middle of it");
        drop(end);
        // A turn of 256 KiB is some milliseconds of an unoptimised server on a busy machine.
        assert!(slowest < Duration::from_secs(1), "a probe waited {slowest:?}");
        let blocks_count = sending.join().expect("the sender does not panic");
        let answered = receiving.join().expect("the reader does not panic");
        assert!(
            answered > blocks_count * 1_000 * 1_000,
            "{answered} bytes are not the answers to {blocks_count} blocks"
        );
    });
}

/// What is complete is answered at once, and what is not is neither answered nor given up.
#[test]
fn an_unfinished_request_behind_answers_waits() {
    let server = Server::start();
    let mut client = server.connect();
    let mut stream = server.post("whole");
    stream.extend_from_slice(&get("/health")[..10]);
    client.send(&stream);
    client.response(false).accepted();
    assert_eq!(client.silence(Duration::from_millis(100)), Silence::Open);
    client.send(&get("/health")[10..]);
    assert_eq!(client.response(false).status, 200);
}
