//! The generator against a tiny in-process server that answers whole blocks as told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use todo_bench::load::{self, Options, Outcome};
use todo_bench::request;
use todo_bench::scan::Bodies;

const TARGET: &str = "/todos?limit=10";

/// Answers every request on every connection: `answer(n)` is the n-th answer of its connection, `None` closes.
fn serve(answer: impl Fn(u64) -> Option<Vec<u8>> + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let answer = answer.clone();
            // Ends with an error when the generator resets the connection.
            std::thread::spawn(move || serve_connection(socket?, answer));
        }
    });
    address
}

fn serve_connection(mut socket: TcpStream, answer: impl Fn(u64) -> Option<Vec<u8>>) -> std::io::Result<()> {
    let request_bytes = request::get(&socket.local_addr()?.to_string(), TARGET).len();
    let (mut input, mut received, mut answered) = ([0; 4096], 0, 0);
    loop {
        received += socket.read(&mut input)?;
        let mut output = Vec::new();
        while answered < (received / request_bytes) as u64 {
            let Some(bytes) = answer(answered) else { return Ok(()) };
            output.extend(bytes);
            answered += 1;
        }
        // Uneven pieces, so that heads and bodies are split anywhere.
        for piece in output.chunks(1_021) {
            socket.write_all(piece)?;
        }
    }
}

fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn options(address: SocketAddr) -> Options {
    Options {
        address,
        request: request::get(&address.to_string(), TARGET),
        status_expected: 200,
        connections_count: 3,
        depth: 7,
        warmup: Duration::from_millis(20),
        window: Duration::from_millis(150),
        cpus: Vec::new(),
        rate: None,
        trickle: false,
        progress: None,
        server: None,
    }
}

fn run(answer: impl Fn(u64) -> Option<Vec<u8>> + Clone + Send + 'static) -> Outcome {
    load::run(&options(serve(answer))).unwrap()
}

#[test]
fn good_answers_of_every_size_pass() {
    // Heads that change, empty bodies, bodies that are dropped in the kernel, and both in turn.
    let sizes: [&[usize]; 5] = [&[400], &[0], &[200_000], &[16_384], &[10, 100_000, 0, 3]];
    for sizes in sizes {
        let outcome = run(move |index| Some(response("200 OK", &vec![b'x'; sizes[index as usize % sizes.len()]])));
        assert!(outcome.faults.is_empty(), "{sizes:?}: {:?}", outcome.faults);
        assert!(outcome.responses > 0, "{sizes:?}");
        assert!(!outcome.latency.is_empty(), "{sizes:?}");
    }
}

#[test]
fn every_fault_is_counted() {
    let good = || Some(response("200 OK", b"[1]"));
    let spoiled_at_10 =
        |spoiled: Option<&'static [u8]>| move |index| if index == 10 { spoiled.map(<[u8]>::to_vec) } else { good() };
    let table = [
        ("closed", spoiled_at_10(None), "closed"),
        ("status", spoiled_at_10(Some(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")), "status 503"),
        ("too long", spoiled_at_10(Some(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]x")), "head"),
        ("too short", spoiled_at_10(Some(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1")), "head"),
        ("no length", spoiled_at_10(Some(b"HTTP/1.1 200 OK\r\n\r\n")), "Content-Length"),
    ];
    for (name, answer, expected) in table {
        let outcome = run(answer);
        assert_eq!(outcome.faults.connections_lost, 3, "{name}");
        let first = outcome.faults.first.unwrap();
        assert!(first.contains(expected), "{name}: {first}");
    }
}

#[test]
fn an_answer_too_many_is_a_fault() {
    let two = [response("200 OK", b"[1]"), response("200 OK", b"[1]")].concat();
    let outcome = run(move |index| if index == 6 { Some(two.clone()) } else { Some(response("200 OK", b"[1]")) });
    assert_eq!(outcome.faults.connections_lost, 3);
    let first = outcome.faults.first.unwrap();
    assert!(first.contains("nobody asked"), "{first}");
}

#[test]
fn an_open_loop_keeps_its_rate_and_counts_waiting_from_the_due_time() {
    // Every answer takes 20 ms, three connections: 150 blocks a second at most, 1,000 are due.
    let slow = |_| {
        std::thread::sleep(Duration::from_millis(20));
        Some(response("200 OK", b"[1]"))
    };
    let quick = |_| Some(response("200 OK", b"[1]"));
    let open = |address, rate| Options {
        depth: 1,
        rate: Some(rate),
        window: Duration::from_millis(300),
        warmup: Duration::ZERO,
        ..options(address)
    };
    let outcome = load::run(&open(serve(quick), 1_000.0)).unwrap();
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    // 300 are due; a machine that is busy otherwise may answer some of them too late for the window.
    assert!((100..=301).contains(&outcome.responses), "{}", outcome.responses);

    let outcome = load::run(&open(serve(slow), 1_000.0)).unwrap();
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    // 45 blocks or so in 300 ms: the last of them was due at 45 ms and answered at 300.
    assert!(outcome.latency.max() > 150_000_000, "{}", outcome.latency.max());
    assert!(outcome.late_ns_max > 100_000_000, "{}", outcome.late_ns_max);
}

/// After the first block one request comes for each answer, no more, and each request's latency is its own.
#[test]
fn a_trickle_sends_one_request_for_each_answer() {
    const ANSWERS: usize = 40;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let options = Options { connections_count: 1, trickle: true, warmup: Duration::ZERO, ..options(address) };
    let (request_bytes, depth) = (options.request.len(), options.depth);
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let (mut input, mut received) = ([0; 4096], 0);
        for answered in 0..ANSWERS {
            while received < (depth + answered) * request_bytes {
                received += socket.read(&mut input).unwrap();
            }
            assert_eq!(received, (depth + answered) * request_bytes, "after {answered} answers");
            socket.write_all(&response("200 OK", b"[1]")).unwrap();
        }
        // Held open and silent until the generator gives up: the requests in flight stay unanswered.
        while let Ok(1..) = socket.read(&mut input) {}
    });
    let outcome = load::run(&options).unwrap();
    server.join().unwrap();
    assert!(outcome.latency.len() as usize >= ANSWERS, "{}", outcome.latency.len());
    assert_eq!(outcome.faults.unanswered as usize, depth, "{:?}", outcome.faults);
}

#[test]
fn a_trickle_is_a_load_like_another() {
    let address = serve(|_| Some(response("200 OK", b"[1]")));
    let outcome = load::run(&Options { trickle: true, ..options(address) }).unwrap();
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    assert!(outcome.responses > 0);
    assert_eq!(outcome.latency.len(), outcome.responses);
    assert!(load::run(&Options { trickle: true, rate: Some(1.0), ..options(address) }).is_err());
}

#[derive(Default)]
struct Seen {
    connection_index: usize,
    current: Vec<u8>,
    /// Connection and body, in order of arrival.
    complete: Vec<(usize, Vec<u8>)>,
}

impl Bodies for Seen {
    const WANTED: bool = true;
    fn select(&mut self, connection_index: usize, sent_ns: u64) {
        assert!(sent_ns > 0);
        self.connection_index = connection_index;
    }
    fn fragment(&mut self, bytes: &[u8]) {
        self.current.extend_from_slice(bytes);
    }
    fn end(&mut self) {
        self.complete.push((self.connection_index, std::mem::take(&mut self.current)));
    }
}

#[test]
fn bodies_are_shown_whole_and_by_connection() {
    // One connection at a time completes its body here only when its bytes come in one piece; so one connection.
    let address = serve(|index| Some(response("200 OK", format!("[{index:050000}]").as_bytes())));
    let options = Options { connections_count: 1, ..options(address) };
    let (outcome, seen) = load::run_with(&options, |_| Seen::default()).unwrap();
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    assert!(seen[0].complete.len() as u64 >= outcome.responses);
    for (index, (connection_index, body)) in seen[0].complete.iter().enumerate() {
        assert_eq!(*connection_index, 0);
        assert_eq!(body, format!("[{index:050000}]").as_bytes());
    }
}

#[test]
fn unusable_options_are_refused() {
    let address = serve(|_| None);
    let table = [
        ("no depth", Options { depth: 0, ..options(address) }),
        ("no connection", Options { connections_count: 0, ..options(address) }),
        ("no rate", Options { rate: Some(0.0), ..options(address) }),
    ];
    for (name, options) in table {
        assert!(load::run(&options).is_err(), "{name}");
    }
}
