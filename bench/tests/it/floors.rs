//! Each floor, as a process, under the generator: what it sends must be what it was given, byte for byte.

use std::path::Path;
use std::time::Duration;
use todo_bench::load::{self, Options};
use todo_bench::process::child::ReferenceServer;
use todo_bench::process::cpu::ProcessCpu;
use todo_bench::process::memory::Memory;
use todo_bench::request;
use todo_bench::single::SingleClient;

const MODES: [&str; 3] = ["send-epoll", "send-uring", "sendfile-epoll"];

fn response(body_bytes: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {body_bytes}\r\n\r\n").into_bytes();
    bytes.extend((0..body_bytes).map(|index| (index % 251) as u8));
    bytes
}

fn start(mode: &str, response: &[u8], request_bytes: usize, directory: &Path) -> ReferenceServer {
    let file = directory.join("response");
    std::fs::write(&file, response).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_todo-bench"));
    ReferenceServer::start(program, &["floor", "--mode", mode], 0, &file, request_bytes).unwrap()
}

#[test]
fn floors_answer_what_they_are_asked() {
    let directory = tempfile::tempdir().unwrap();
    // The port has five digits at most; a request of a fixed length is padded by its path.
    let request = request::get("127.0.0.1", "/todos?limit=10");
    for mode in MODES {
        for (body_bytes, depth) in [(400, 1), (400, 80), (180_000, 20)] {
            let bytes = response(body_bytes);
            let mut floor = start(mode, &bytes, request.len(), directory.path());
            let single = SingleClient::connect(floor.address()).unwrap().send(&request).unwrap();
            assert_eq!(single.bytes, bytes, "{mode}, {body_bytes} bytes");

            let before = floor.counters().unwrap();
            let outcome = load::run(&Options {
                address: floor.address(),
                request: request.clone(),
                status_expected: 200,
                connections_count: 5,
                depth,
                warmup: Duration::from_millis(20),
                window: Duration::from_millis(100),
                cpus: Vec::new(),
                rate: None,
                trickle: false,
                progress: None,
                server: Some(floor.pid()),
            })
            .unwrap();
            assert!(outcome.faults.is_empty(), "{mode}, {body_bytes} bytes: {:?}", outcome.faults);
            assert!(outcome.responses > 0);
            assert!(outcome.server.is_some_and(|cpu| cpu.total_ns() > 0), "{mode}: {:?}", outcome.server);

            let counters = floor.counters().unwrap().since(before);
            assert!(counters.requests >= outcome.responses, "{mode}: {counters:?}");
            assert_eq!(counters.requests % depth as u64, 0, "{mode}: {counters:?}");
            let requests_per_read = counters.requests_per_read().unwrap();
            assert!(requests_per_read > 0.5 * depth as f64, "{mode}: {requests_per_read}");
            assert!(Memory::read(floor.pid()).unwrap().resident_bytes() > 0);
        }
    }
}

#[test]
fn a_floor_ends_with_its_handle() {
    let directory = tempfile::tempdir().unwrap();
    for mode in MODES {
        let floor = start(mode, &response(10), 10, directory.path());
        let pid = floor.pid();
        assert!(ProcessCpu::read(pid).is_ok(), "{mode}");
        drop(floor);
        assert!(ProcessCpu::read(pid).is_err(), "{mode}");
    }
}

#[test]
fn an_unusable_response_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_todo-bench"));
    let missing = directory.path().join("missing");
    assert!(ReferenceServer::start(program, &["floor", "--mode", "send-epoll"], 0, &missing, 10).is_err());
}
