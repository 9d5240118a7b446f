//! How connections end: no answer is lost, whoever ends first.

use crate::harness::{Client, Options, Server, eventually, get, request, with_fields};

/// A client that has said all it has to say is served to the end.
#[test]
fn who_ends_its_side_first_gets_every_answer() {
    let server = Server::start();
    let mut client = server.connect();
    let mut stream = get("/todos?limit=10").repeat(40);
    stream.extend(server.post("said and gone"));
    stream.extend(get("/todos?limit=1"));
    client.send(&stream);
    client.finish();
    let answers = client.responses(42);
    let id = answers[40].accepted();
    assert_eq!(answers[41].json()[0]["id"], id);
    client.expect_close();
}

/// The same with an answer that is far larger than every buffer on the way.
#[test]
fn who_ends_its_side_first_gets_a_long_answer() {
    let server = Options::new().flag("--seed-todos", 20_000).start();
    let expected = server.connect().ask(&get("/todos"));
    let mut client = Client::with_receive_buffer(server.address, 4_096);
    client.send(&get("/todos"));
    client.finish();
    assert!(client.response(false).body == expected.body);
    client.expect_close();
}

#[test]
fn half_a_request_and_an_end_is_an_end() {
    let server = Server::start();
    let halves = [
        get("/todos")[..20].to_vec(),
        request("POST", "/todos", &[("Authorization", &server.authorization())], "twenty bytes of body")[..].to_vec(),
    ];
    for (half, cut) in halves.iter().zip([0, 5]) {
        let mut client = server.connect();
        client.send(&get("/health"));
        client.send(&half[..half.len() - cut]);
        client.finish();
        assert_eq!(client.response(false).status, 200, "what stands before it is answered");
        client.expect_close();
    }
}

/// RFC 9112 9.6: a server that closes with input unread sends a reset, and a reset destroys what the client has not read
/// yet. So the answers before a fault, and the one to it, must survive whatever the client goes on sending.
#[test]
fn no_reset_destroys_the_answers_before_a_fault() {
    let server = Server::start();
    for round in 0..20 {
        let mut client = server.connect();
        let mut stream = get("/todos?limit=100").repeat(10);
        stream.extend_from_slice(b"GET /todos HTTP/1.1\r\nno field\r\n\r\n");
        stream.extend(std::iter::repeat_n(b'x', 100_000));
        client.send(&stream);
        let answers = client.responses(11);
        assert!(answers[..10].iter().all(|answer| answer.status == 200), "round {round}");
        assert!(answers[10].status == 400 && answers[10].closes(), "round {round}: {}", answers[10]);
        client.expect_close();
    }
}

/// The unread body of a refused request is read and dropped, so that its sender gets to see the refusal.
#[test]
fn a_refusal_is_seen_by_who_is_still_sending() {
    let server = Server::start();
    let authorization = server.authorization();
    let body = "x".repeat(200_000);
    for fields in [&[][..], &[("Authorization", authorization.as_str())][..]] {
        let mut client = server.connect();
        client.send(&request("POST", "/todos", fields, &body));
        let status = client.response(false).status;
        assert_eq!(status, if fields.is_empty() { 401 } else { 413 });
        client.expect_close();
    }
    let mut client = server.connect();
    client.send(&request("POST", "/todos", &[], &body[..60_000]));
    assert_eq!(client.response(false).status, 401);
    assert_eq!(client.ask(&get("/health")).status, 200, "a small one is dropped, and the connection goes on");
}

/// Clients that go without a word, in every state, leave nothing behind.
#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let server = Server::start();
    for state in 0..60 {
        let mut client = server.connect();
        match state % 6 {
            0 => client.send(&get("/todos")[..10]),
            1 => client.send(&get("/todos").repeat(200)),
            2 => client.send(&server.post("the client has gone")),
            3 => client.send(&with_fields("POST", "/todos", &[("Content-Length", "10")])),
            4 => client.send(&get("/ready")),
            _ => {}
        }
    }
    // The one that asks is open too.
    eventually("every connection has ended", || server.metric("todo_connections") <= 1.0);
    for series in ["todo_input_bytes", "todo_unsent_bytes"] {
        eventually(series, || server.metric(series) == 0.0);
    }
}
