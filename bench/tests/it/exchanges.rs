//! The generator of exchanges against servers that differ in what they answer, and in what is wrong with it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use todo_bench::load::exchange::{self, Exchanges, Options, Request, StatusExpected, Traffic};
use todo_bench::load::slow::{self, SlowReaders};
use todo_bench::load::{Faults, Outcome};
use todo_bench::request;

/// A request as the server sees it.
pub struct Asked {
    /// Which connection, in the order of their coming.
    pub connection_index: usize,
    /// Which request on it.
    pub index: u64,
    pub method: String,
    pub target: String,
    pub head: String,
    pub body: Vec<u8>,
}

/// What the server does about it.
pub enum Said {
    Answer(Vec<u8>),
    /// Then it closes.
    Last(Vec<u8>),
    Close,
    /// It answers nothing more, and closes nothing.
    Silence,
}

/// Serves each connection with a thread of its own, each request in turn.
pub fn serve(say: impl Fn(&Asked) -> Said + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for (connection_index, socket) in listener.incoming().enumerate() {
            let say = say.clone();
            // Ends with an error when the generator resets the connection.
            std::thread::spawn(move || serve_connection(socket?, connection_index, say));
        }
    });
    address
}

fn serve_connection(
    mut socket: TcpStream,
    connection_index: usize,
    say: impl Fn(&Asked) -> Said,
) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let (mut input, mut chunk, mut index) = (Vec::new(), [0; 4096], 0);
    loop {
        while let Some(asked) = take_request(&mut input, connection_index, index) {
            index += 1;
            match say(&asked) {
                Said::Answer(bytes) => socket.write_all(&bytes)?,
                Said::Last(bytes) => return socket.write_all(&bytes),
                Said::Close => return Ok(()),
                Said::Silence => {
                    while socket.read(&mut chunk)? > 0 {}
                    return Ok(());
                }
            }
        }
        match socket.read(&mut chunk)? {
            0 => return Ok(()),
            count => input.extend_from_slice(&chunk[..count]),
        }
    }
}

fn take_request(input: &mut Vec<u8>, connection_index: usize, index: u64) -> Option<Asked> {
    let head_bytes = input.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8(input[..head_bytes].to_vec()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let body_bytes: usize = length.map_or(0, |length| length.parse().unwrap());
    let body = input.get(head_bytes..head_bytes + body_bytes)?.to_vec();
    input.drain(..head_bytes + body_bytes);
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    Some(Asked { connection_index, index, method, target, head, body })
}

pub fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn good(_: &Asked) -> Said {
    Said::Answer(response("200 OK", br#"[{"id":5,"title":"a"}]"#))
}

fn get(target: &str) -> Request {
    Request::new("GET", target, request::get("host", target))
}

fn options(address: SocketAddr, requests: Vec<Request>) -> Options {
    Options {
        connections_count: 3,
        depth: 4,
        warmup: Duration::from_millis(20),
        window: Duration::from_millis(200),
        json_every: Some(1),
        newest_never_back: true,
        ..Options::new(address, Traffic::new(requests).unwrap())
    }
}

fn run(say: impl Fn(&Asked) -> Said + Clone + Send + 'static) -> (Outcome, Exchanges) {
    exchange::run(&options(serve(say), vec![get("/todos?limit=10")])).unwrap()
}

fn assert_no_fault(outcome: &Outcome) {
    assert!(outcome.faults.is_empty(), "{:?}", outcome.faults);
    assert!(outcome.responses > 0 && !outcome.latency.is_empty());
}

#[test]
fn good_answers_of_every_framing_pass() {
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2;x=y\r\n2]\r\n0\r\nA: b\r\n\r\n";
    let interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]";
    // Over what is dropped in the kernel when nobody looks.
    let large = response("200 OK", format!("[{}1]", "1,".repeat(15_000)).as_bytes());
    let answers: [Vec<u8>; 6] = [
        response("200 OK", b"[]"),
        chunked.to_vec(),
        interim.to_vec(),
        large,
        b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        response("201 Created", b""),
    ];
    let answers = Arc::new(answers);
    // With all bodies looked into, and with large ones dropped in the kernel.
    for json_every in [Some(1), None] {
        let answers = answers.clone();
        let say = move |asked: &Asked| Said::Answer(answers[asked.index as usize % answers.len()].clone());
        let window = Duration::from_millis(1_000);
        let options = Options { json_every, window, ..options(serve(say), vec![get("/todos")]) };
        let (outcome, exchanges) = exchange::run(&options).unwrap();
        assert_no_fault(&outcome);
        assert_eq!(exchanges.json_checked > 0, json_every.is_some());
    }
}

#[test]
fn answers_without_a_body_where_the_request_or_the_status_says_so() {
    let say = |asked: &Asked| match asked.method.as_str() {
        "HEAD" => Said::Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n".to_vec()),
        _ => Said::Answer(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n".to_vec()),
    };
    let head = Request::new("HEAD", "/todos", request::with("HEAD", "host", "/todos", "", None).unwrap());
    let unmodified = Request { expected: StatusExpected::Exactly(304), ..get("/todos") };
    let (outcome, exchanges) = exchange::run(&options(serve(say), vec![head, unmodified])).unwrap();
    assert_no_fault(&outcome);
    assert!(exchanges.requests.iter().all(|counts| counts.answers > 0), "{exchanges:?}");
}

/// The tenth answer of each connection is wrong, its connection goes on, and the fault is counted for each of the three.
#[test]
fn wrong_answers_are_counted_and_the_connection_goes_on() {
    type Counted = fn(&Faults) -> u64;
    let table: [(&str, Vec<u8>, Counted, &str); 4] = [
        ("status", response("503 Busy", b"busy"), |faults| faults.wrong_status, "status 503"),
        ("no JSON", response("200 OK", br#"[{"id":5}"#), |faults| faults.invalid_json, "no JSON"),
        ("cut off", response("200 OK", b"[1,"), |faults| faults.invalid_json, "no JSON"),
        ("older", response("200 OK", br#"[{"id":4},{"id":9}]"#), |faults| faults.went_back, "went back"),
    ];
    for (name, wrong, counted, words) in table {
        let say = move |asked: &Asked| if asked.index == 9 { Said::Answer(wrong.clone()) } else { good(asked) };
        let (outcome, exchanges) = run(say);
        let faults = &outcome.faults;
        assert_eq!((counted(faults), faults.count()), (3, 3), "{name}: {faults:?}");
        assert!(faults.first.as_ref().unwrap().contains(words), "{name}: {faults:?}");
        assert!(faults.first.as_ref().unwrap().contains("GET /todos?limit=10"), "{name}: {faults:?}");
        assert!(outcome.responses > 0 && exchanges.answers() > 30, "{name}");
        assert_eq!(exchanges.non_2xx, if name == "status" { 3 } else { 0 }, "{name}");
        assert_eq!(exchanges.requests[0].wrong_status, exchanges.non_2xx, "{name}");
    }
}

#[test]
fn answers_that_end_wrongly_lose_the_connection() {
    let answer =
        |bytes: &[u8]| -> fn(Vec<u8>) -> Said { if bytes.is_empty() { |_| Said::Close } else { Said::Answer } };
    let table: [(&str, &[u8], &str); 8] = [
        ("closed", b"", "closed"),
        ("too long", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]x", "head"),
        ("too short", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[1]", "head"),
        ("no length", b"HTTP/1.1 200 OK\r\n\r\n", "Content-Length"),
        ("chunk too long", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1]x\r\n0\r\n\r\n", "chunk"),
        ("two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "beside"),
        ("announced close", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n[1]", "announced"),
        ("upgrade", b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "upgrade"),
    ];
    for (name, bytes, words) in table {
        let say = move |asked: &Asked| if asked.index == 9 { answer(bytes)(bytes.to_vec()) } else { good(asked) };
        // No look into bodies: a body that is cut is no JSON either.
        let options = Options { json_every: None, ..options(serve(say), vec![get("/todos")]) };
        let (outcome, _) = exchange::run(&options).unwrap();
        let first = outcome.faults.first.unwrap();
        assert_eq!(outcome.faults.connections_lost, 3, "{name}: {first}");
        assert!(first.contains(words), "{name}: {first}");
    }
}

#[test]
fn an_answer_too_many_is_a_fault() {
    // The last of a block, so that nobody is owed what comes behind it.
    let twice = [response("200 OK", b"[]"), response("200 OK", b"[]")].concat();
    let (outcome, _) = run(move |asked| if asked.index == 3 { Said::Answer(twice.clone()) } else { good(asked) });
    assert_eq!(outcome.faults.connections_lost, 3);
    assert!(outcome.faults.first.unwrap().contains("nobody asked"));
}

#[test]
fn a_server_that_never_answers_ends_the_run_all_the_same() {
    let started = Instant::now();
    let (outcome, exchanges) = run(|_| Said::Silence);
    assert_eq!((outcome.responses, exchanges.answers(), outcome.faults.unanswered), (0, 0, 12));
    assert!(outcome.faults.first.unwrap().contains("no answer"));
    // 0.2 s and five seconds of drain.
    assert!(started.elapsed() < Duration::from_secs(52), "{:?}", started.elapsed());
}

#[test]
fn a_server_that_closes_at_once_is_not_flooded() {
    let connections = Arc::new(AtomicUsize::new(0));
    let seen = connections.clone();
    let address = serve(move |asked| {
        seen.fetch_max(asked.connection_index + 1, Ordering::Relaxed);
        Said::Close
    });
    let options = Options { reconnects: true, window: Duration::from_millis(500), ..options(address, vec![get("/")]) };
    let (outcome, exchanges) = exchange::run(&options).unwrap();
    // A pause of 100 ms: each of three comes back five times or so. Without one it would be thousands.
    let reconnects = exchanges.reconnects;
    assert!((3..=200).contains(&reconnects), "{reconnects}");
    assert!(connections.load(Ordering::Relaxed) as u64 <= reconnects + 3);
    assert!(outcome.faults.connections_lost >= 3 && outcome.responses == 0, "{:?}", outcome.faults);
}

#[test]
fn a_connection_that_was_lost_comes_back() {
    let say = |asked: &Asked| if asked.index == 9 { Said::Close } else { good(asked) };
    let options = Options { reconnects: true, ..options(serve(say), vec![get("/todos")]) };
    let (outcome, exchanges) = exchange::run(&options).unwrap();
    assert!(outcome.faults.connections_lost >= 3 && exchanges.reconnects >= 3, "{exchanges:?}");
    // More than three connections could have answered before they were lost.
    assert!(exchanges.answers() > 3 * 9, "{}", exchanges.answers());
}

#[test]
fn each_answer_is_matched_with_its_request() {
    let say = |asked: &Asked| match (asked.method.as_str(), asked.target.as_str()) {
        ("GET", "/todos?limit=1") => Said::Answer(response("200 OK", br#"[{"id":"5"}]"#)),
        ("GET", "/todos?limit=2") => Said::Answer(response("200 OK", br#"[{"id":"5"},{"id":"4"}]"#)),
        ("GET", _) => Said::Answer(response("404 Not Found", b"{}")),
        _ if asked.head.contains("\r\nAuthorization: Bearer abc\r\n") && asked.body == b"{}" => {
            Said::Answer(response("202 Accepted", br#"{"id":"6"}"#))
        }
        _ => Said::Answer(response("401 Unauthorized", b"{}")),
    };
    let post = request::with("POST", "host", "/todos", "Authorization: Bearer abc\r\n", Some(b"{}")).unwrap();
    let post = Request { expected: StatusExpected::Exactly(202), ..Request::new("POST", "/todos", post) };
    let missing = Request { expected: StatusExpected::Exactly(404), ..get("/none") };
    let requests = vec![Request { weight: 6, ..get("/todos?limit=1") }, get("/todos?limit=2"), post, missing];
    let address = serve(say);
    let (outcome, exchanges) = exchange::run(&options(address, requests.clone())).unwrap();
    assert_no_fault(&outcome);
    assert!(exchanges.requests.iter().all(|counts| counts.answers > 0 && counts.wrong_status == 0), "{exchanges:?}");
    // Two thirds of a few hundred at least.
    let [most, others @ ..] = exchanges.requests.as_slice() else { panic!() };
    assert!(others.iter().all(|counts| counts.answers < most.answers), "{exchanges:?}");
    assert_eq!(exchanges.non_2xx, exchanges.requests[3].answers);

    // Without the token the write is refused, and it alone is wrong.
    let refused = request::with("POST", "host", "/todos", "", Some(b"{}")).unwrap();
    let mut requests = requests;
    requests[2].bytes = refused;
    let (outcome, exchanges) = exchange::run(&options(address, requests)).unwrap();
    assert_eq!(outcome.faults.count(), exchanges.requests[2].wrong_status, "{:?}", outcome.faults);
    assert!(exchanges.requests[2].wrong_status > 0 && outcome.responses > 0);
    assert!(outcome.faults.first.unwrap().contains("POST /todos: status 401"));
}

#[test]
fn a_connection_closes_after_so_many_answers() {
    let counts = Arc::new(Mutex::new(Vec::<u64>::new()));
    let seen = counts.clone();
    let address = serve(move |asked| {
        let mut counts = seen.lock().unwrap();
        let length = counts.len().max(asked.connection_index + 1);
        counts.resize(length, 0);
        counts[asked.connection_index] += 1;
        good(asked)
    });
    for trickle in [false, true] {
        counts.lock().unwrap().clear();
        // Not a multiple of the depth: the last block is shorter.
        let options = Options { requests_per_connection: Some(7), trickle, ..options(address, vec![get("/todos")]) };
        let (outcome, exchanges) = exchange::run(&options).unwrap();
        assert_no_fault(&outcome);
        assert!(exchanges.reconnects >= 3, "{exchanges:?}");
        assert_eq!(exchanges.connect_latency.len(), exchanges.reconnects + 3);
        let counts: Vec<u64> = counts.lock().unwrap().iter().copied().filter(|&count| count > 0).collect();
        assert!(counts.iter().all(|&count| count <= 7), "{counts:?}");
        // All but the three that the end of the run met.
        let full = counts.iter().filter(|&&count| count == 7).count();
        assert!(full + 3 >= counts.len() && full > 3, "{counts:?}");
    }
    let uneven = Options { requests_per_connection: Some(7), rate: Some(10.0), ..options(address, vec![get("/")]) };
    assert!(exchange::run(&uneven).is_err());
}

#[test]
fn a_server_may_announce_that_it_closes() {
    let last = || b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]".to_vec();
    let until_close = || b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n[1,2]".to_vec();
    for bytes in [last(), until_close()] {
        // The sixth answer is the second of a block of four: two requests behind it are cut off.
        let say = move |asked: &Asked| if asked.index == 5 { Said::Last(bytes.clone()) } else { good(asked) };
        let options = Options { reconnects: true, ..options(serve(say), vec![get("/todos")]) };
        let (outcome, exchanges) = exchange::run(&options).unwrap();
        assert_no_fault(&outcome);
        assert!(exchanges.closed_by_server >= 3, "{exchanges:?}");
        assert_eq!(exchanges.cut_off, 2 * exchanges.closed_by_server);
    }
}

/// A server that closes idle connections without a word, in an open loop that leaves them idle now and then.
#[test]
fn an_idle_connection_that_is_closed_comes_back_and_is_used() {
    let address = serve(|asked| match good(asked) {
        Said::Answer(bytes) if asked.index == 1 => Said::Last(bytes),
        said => said,
    });
    let options = Options {
        rate: Some(2_000.0),
        depth: 1,
        reconnects: true,
        warmup: Duration::ZERO,
        window: Duration::from_millis(1_000),
        ..options(address, vec![get("/todos")])
    };
    let (outcome, exchanges) = exchange::run(&options).unwrap();
    // A request that crosses with the end is lost, and is no more than one of its connection.
    assert!(outcome.faults.unanswered <= outcome.faults.connections_lost, "{:?}", outcome.faults);
    assert!(exchanges.closed_by_server >= 5 && exchanges.reconnects >= 5, "{exchanges:?}");
    // Of 2,000 that were due; two on each connection.
    assert!((200..=2_000).contains(&exchanges.answers()), "{exchanges:?}");
}

/// After the first block one request comes for each answer, and no more.
#[test]
fn a_trickle_sends_one_request_for_each_answer() {
    const ANSWERS: usize = 40;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options =
        Options { trickle: true, connections_count: 1, ..options(listener.local_addr().unwrap(), vec![get("/")]) };
    let (request_bytes, depth) = (options.traffic.requests()[0].bytes.len(), options.depth);
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let (mut input, mut received) = ([0; 4096], 0);
        for answered in 0..ANSWERS {
            while received < (depth + answered) * request_bytes {
                received += socket.read(&mut input).unwrap();
            }
            assert_eq!(received, (depth + answered) * request_bytes, "after {answered} answers");
            socket.write_all(&response("200 OK", b"[]")).unwrap();
        }
        // Held open and silent until the generator gives up.
        while let Ok(1..) = socket.read(&mut input) {}
    });
    let (outcome, exchanges) = exchange::run(&options).unwrap();
    server.join().unwrap();
    assert_eq!((exchanges.answers() as usize, outcome.faults.unanswered as usize), (ANSWERS, depth));
}

/// One stall of 200 ms keeps a hundred requests waiting that were due meanwhile; a client that counts from when it could
/// send would see a single slow one.
#[test]
fn a_stall_is_paid_by_all_that_were_due() {
    let served = Arc::new(AtomicU64::new(0));
    let address = serve(move |asked| {
        if served.fetch_add(1, Ordering::Relaxed) == 100 {
            std::thread::sleep(Duration::from_millis(200));
        }
        good(asked)
    });
    let options = Options {
        rate: Some(500.0),
        connections_count: 1,
        depth: 1,
        warmup: Duration::ZERO,
        window: Duration::from_millis(1_000),
        ..options(address, vec![get("/todos")])
    };
    let (outcome, _) = exchange::run(&options).unwrap();
    assert_no_fault(&outcome);
    // 90 of them waited 20 ms and more.
    let slow = outcome.latency.count_between(20_000_000, outcome.latency.max());
    assert!(slow >= 9, "{slow}");
    assert!(outcome.latency.value_at_quantile(0.99) > 20_000_000);
}

#[test]
fn what_was_due_and_never_answered_has_waited_too() {
    let say = |asked: &Asked| if asked.index < 20 { good(asked) } else { Said::Silence };
    let options = Options {
        rate: Some(500.0),
        connections_count: 1,
        depth: 1,
        warmup: Duration::ZERO,
        window: Duration::from_millis(1_000),
        ..options(serve(say), vec![get("/todos")])
    };
    let (outcome, _) = exchange::run(&options).unwrap();
    // 500 were due; the one in flight is unanswered, the others never left.
    assert_eq!((outcome.faults.unanswered, outcome.responses), (1, 20));
    assert!((470..=480).contains(&outcome.never_sent), "{}", outcome.never_sent);
    // Half of them waited for half a second.
    let median_ns = outcome.latency.value_at_quantile(0.5);
    assert!(median_ns > 50_000_000, "{median_ns}");
}

#[test]
fn slow_readers_keep_to_their_pace() {
    let body = format!("[{}1]", "1,".repeat(100_000));
    let address = serve(move |_| Said::Answer(response("200 OK", body.as_bytes())));
    let traffic = Traffic::new(vec![get("/todos")]).unwrap();
    let readers = SlowReaders { address, traffic, connections_count: 4, depth: 2, bytes_per_second: 10_000 };
    let started = Instant::now();
    let measured = Options {
        depth: 1,
        json_every: None,
        newest_never_back: false,
        window: Duration::from_millis(1_000),
        ..options(address, vec![get("/todos")])
    };
    let work = || exchange::run(&measured);
    let ((outcome, _), report) = slow::beside(&readers, work).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    assert_no_fault(&outcome);
    assert_eq!((report.closed, report.malformed, report.connects_failed), (0, 0, 0));
    // None has read one answer, each its own few thousand bytes.
    assert!(report.bytes > 0 && report.answers == 0, "{report:?}");
    assert!(report.bytes as f64 <= 4.0 * 10_000.0 * seconds, "{report:?} in {seconds} s");
}

#[test]
fn slow_readers_that_are_closed_come_again() {
    let address = serve(|asked| Said::Last(response("200 OK", &asked.index.to_string().into_bytes())));
    let traffic = Traffic::new(vec![get("/todos")]).unwrap();
    let readers = SlowReaders { address, traffic, connections_count: 2, depth: 1, bytes_per_second: 100_000 };
    let ((), report) = slow::beside(&readers, || {
        std::thread::sleep(Duration::from_millis(1_000));
        Ok(())
    })
    .unwrap();
    // Each tick reads an answer, the next one finds the end, the one behind that connects.
    assert!(report.closed >= 2 && report.answers >= 2, "{report:?}");
    for readers in [
        SlowReaders { connections_count: 0, ..readers.clone() },
        SlowReaders { bytes_per_second: 0, ..readers.clone() },
        SlowReaders { depth: 0, ..readers },
    ] {
        assert!(slow::beside(&readers, || Ok(())).is_err());
    }
}

#[test]
fn unusable_options_are_refused() {
    let address = serve(good);
    let table = [
        ("no depth", Options { depth: 0, ..options(address, vec![get("/")]) }),
        ("no connection", Options { connections_count: 0, ..options(address, vec![get("/")]) }),
        ("no rate", Options { rate: Some(0.0), ..options(address, vec![get("/")]) }),
        ("two clocks", Options { rate: Some(1.0), trickle: true, ..options(address, vec![get("/")]) }),
        ("never JSON", Options { json_every: Some(0), ..options(address, vec![get("/")]) }),
        ("no request", Options { requests_per_connection: Some(0), ..options(address, vec![get("/")]) }),
        ("too much", Options { connections_count: usize::MAX, ..options(address, vec![get("/")]) }),
    ];
    for (name, options) in table {
        assert!(exchange::run(&options).is_err(), "{name}");
    }
}
