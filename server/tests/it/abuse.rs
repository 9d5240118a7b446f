//! Attacks, one connection after the other: what each is answered, and that nothing of it stays. What others notice of a
//! thousand of them at once is measured by `cargo xtask abuse`.

use crate::harness::{Client, Options, PATIENCE, Server, Silence, Todo, eventually, get, request, with_fields};

/// A server whose timeouts end nothing here: whatever ends does so for another reason.
fn patient() -> Server {
    let timeouts = ["--head-timeout-ms", "--body-timeout-ms", "--idle-timeout-ms", "--progress-timeout-ms"];
    timeouts.iter().fold(Options::new(), |options, name| options.flag(name, 600_000)).start()
}

/// Everybody has gone, and nothing is held for anybody; the one that asks is open too.
fn nothing_is_left(server: &Server) {
    eventually("every connection has ended", || server.metric("todo_connections") <= 1.0);
    for series in ["todo_input_bytes", "todo_unsent_bytes"] {
        eventually(series, || server.metric(series) == 0.0);
    }
    assert_eq!(server.connect().ask(&get("/todos?limit=10")).status, 200);
}

/// Sends `piece` without end, whatever is answered, until the server resets the connection; the statuses that came.
fn stubborn(server: &Server, opening: &[u8], piece: &[u8]) -> Vec<u16> {
    let mut client = server.connect();
    let mut writer = client.writer();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            use std::io::Write;
            // Its error is what is waited for.
            let mut is_taken = writer.write_all(opening).is_ok();
            while is_taken {
                is_taken = writer.write_all(piece).is_ok();
            }
        });
        std::iter::from_fn(|| client.try_response()).map(|answer| answer.status).collect()
    })
}

/// 8 KiB of a head are looked at, 256 KiB more are read and dropped so that the answer arrives, then it is over.
#[test]
fn a_head_without_end_is_431_and_then_cut() {
    let server = patient();
    for piece in [&b"X-More: and more\r\n"[..], b"a"] {
        let statuses = stubborn(&server, b"GET /todos HTTP/1.1\r\nHost: localhost\r\nX-More: ", &piece.repeat(1_000));
        // The answer may be destroyed by the reset that ends it all; nothing else may come.
        assert!(statuses.is_empty() || statuses == [431], "{statuses:?}");
    }
    assert!(server.metric("todo_rejects_total{problem=\"head-too-large\"}") >= 2.0);
    nothing_is_left(&server);
}

#[test]
fn a_body_without_end_is_413_and_then_cut() {
    let server = patient();
    let authorization = server.authorization();
    let framings = [("Content-Length", "1000000000"), ("Transfer-Encoding", "chunked")];
    let pieces = [vec![b' '; 4_096], [b"1000\r\n".as_slice(), &[b' '; 4_096], b"\r\n"].concat()];
    for (framing, piece) in framings.into_iter().zip(pieces) {
        let fields = [("Authorization", authorization.as_str()), ("Content-Type", "application/json"), framing];
        let statuses = stubborn(&server, &with_fields("POST", "/todos", &fields), &piece);
        assert!(statuses.is_empty() || statuses == [413], "{statuses:?}");
    }
    assert!(server.metric("todo_rejects_total{problem=\"body-too-large\"}") >= 2.0);
    assert_eq!(server.metric("todo_writes_total{outcome=\"acknowledged\"}"), 0.0);
    nothing_is_left(&server);
}

/// A read and a write, reset behind each of their bytes: no part of a write takes effect, and a whole one at most once.
#[test]
fn a_reset_behind_every_byte_leaves_nothing() {
    let server = patient();
    let seeded = server.metric("todo_snapshot_items");
    let stream = |title: &str| [get("/todos?limit=10"), server.post(title)].concat();
    let length = stream("reset 0000").len();
    for cut in 0..=length {
        let mut client = server.connect();
        client.send(&stream(&format!("reset {cut:04}"))[..cut]);
        client.reset();
    }
    nothing_is_left(&server);
    let newest = Todo::list(&server.connect().ask(&get("/todos?limit=3")).body);
    let resets: Vec<&str> =
        newest.iter().map(|todo| todo.title.as_str()).filter(|title| title.starts_with("reset")).collect();
    let whole = format!("reset {length:04}");
    assert!(resets.is_empty() || resets == [whole.as_str()], "{resets:?}");
    assert_eq!(server.metric("todo_snapshot_items"), seeded + resets.len() as f64);
}

/// A reset in the midst of answers, at a place of each size: before the first byte, in a head, in a body, behind some.
#[test]
fn a_reset_within_answers_leaves_nothing() {
    let server = Options::new().flag("--seed-todos", 2_000).start();
    for taken in [0, 1, 50, 200, 4_096, 100_000, 1_000_000] {
        for _ in 0..8 {
            let mut client = Client::with_receive_buffer(server.address, 16 * 1024);
            client.send(&get("/todos?limit=1000").repeat(80));
            drop(client.bytes(taken));
            client.reset();
        }
    }
    nothing_is_left(&server);
}

/// Whatever the bytes are: the connection ends, with 4xx or without a word, and nothing takes effect.
#[test]
fn random_bytes_are_refused() {
    let server = patient();
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..500 {
        let mut client = server.connect();
        let length = random.usize(1..20_000);
        let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        // A server that has seen enough may have gone before all of it is sent.
        if client.try_send(&bytes) {
            client.finish();
        }
        let statuses: Vec<u16> = std::iter::from_fn(|| client.try_response()).map(|answer| answer.status).collect();
        let is_refused = matches!(statuses[..], [] | [400 | 431 | 414 | 501 | 505]);
        assert!(is_refused, "{statuses:?} to {:?}", bytes.escape_ascii().to_string());
    }
    assert_eq!(server.metric("todo_writes_total{outcome=\"acknowledged\"}"), 0.0);
    nothing_is_left(&server);
}

/// Who speaks TLS to the port is told so at once, in HTTP, and not left to wait for a timeout.
#[test]
fn a_tls_hello_is_refused_at_once() {
    let server = patient();
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    let mut client = server.connect();
    client.send(&hello);
    let answer = client.response(false);
    assert!(answer.status == 400 && answer.closes(), "{answer}");
    client.expect_close();
    nothing_is_left(&server);
}

/// Forged tokens cost a signature's check on the shard and nothing behind it: none is handed over, none ends the connection.
#[test]
fn forged_tokens_are_all_refused_on_the_shard() {
    let server = Server::start();
    let good = server.authorization();
    let signature = good.rfind('.').expect("a token has a signature") + 1;
    let mut client = server.connect();
    let mut stream = Vec::new();
    for number in 0..640 {
        let mut forged = good.clone();
        // Another of the first six bits each time.
        let at = signature + number % 40;
        let other = if forged.as_bytes()[at] == b'A' { "B" } else { "A" };
        forged.replace_range(at..=at, other);
        let fields = [("Authorization", forged.as_str()), ("Content-Type", "application/json")];
        stream.extend(request("POST", "/todos", &fields, r#"{"title":"forged"}"#));
    }
    let deferred = server.metric("todo_deferred_total");
    let mut writer = client.writer();
    std::thread::scope(|scope| {
        scope.spawn(|| std::io::Write::write_all(&mut writer, &stream).expect("the server reads"));
        assert!(client.responses(640).iter().all(|answer| answer.status == 401));
    });
    client.ask(&server.post("with a good one")).accepted();
    assert_eq!(server.metric("todo_writes_total{outcome=\"acknowledged\"}"), 1.0);
    // The one write, and the two pages that tell; the first told before it counted itself, or behind.
    let handed_over = server.metric("todo_deferred_total") - deferred;
    assert!((2.0..=4.0).contains(&handed_over), "{handed_over} groups were handed over");
}

/// Connections that come and go by the thousand, in each of the ways to go.
#[test]
fn who_comes_and_goes_leaves_nothing() {
    let server = patient();
    for number in 0..1_500 {
        let mut client = server.connect();
        match number % 3 {
            0 => client.reset(),
            1 => drop(client),
            _ => {
                client.send(&get("/todos?limit=100"));
                client.reset();
            }
        }
    }
    nothing_is_left(&server);
}

/// Heads that never end fill a server to its bound: they make room before who uses it, though nobody but him is idle.
#[test]
fn half_a_head_makes_room_before_who_asks() {
    let server = Options::new().flag("--shards", 1).flag("--connections-max", 8).start();
    let mut user = server.connect();
    let half = b"GET /todos HTTP/1.1\r\nX-Slow: ";
    let mut halves: Vec<Client> = (0..7).map(|_| server.connect()).collect();
    for client in &mut halves {
        client.send(half);
    }
    // Seen by the eighth itself: another connection would have to make room for itself. Behind the gauge the clock has moved.
    let all = format!("todo_input_bytes{{shard=\"0\"}} {}", 7 * half.len());
    eventually("all have begun", || String::from_utf8_lossy(&user.ask(&get("/metrics")).body).contains(&all));
    let mut newcomers = Vec::new();
    for _ in 0..7 {
        eventually("a newcomer is served", || {
            assert_eq!(user.ask(&get("/health")).status, 200, "who uses the server stays");
            let mut newcomer = server.connect();
            let is_served = newcomer.try_send(&get("/health"))
                && newcomer.try_response().is_some_and(|answer| answer.status == 200);
            newcomers.push(newcomer);
            is_served
        });
    }
    for client in &mut halves {
        assert_ne!(client.silence(PATIENCE), Silence::Open, "it made room");
    }
    assert_eq!(user.ask(&get("/health")).status, 200);
}
