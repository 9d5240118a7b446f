//! The writer against a tiny in-process server that acknowledges writes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use todo_bench::writes::age::Created;
use todo_bench::writes::plan::{Mix, Operation};
use todo_bench::writes::writer::{self, Options, Report};
use uuid::Uuid;

/// Every request line that came, on all connections.
type Lines = &'static Mutex<Vec<String>>;

/// Answers the n-th request of all with `status(n)`; `None` closes its connection.
fn serve(status: impl Fn(usize) -> Option<u16> + Copy + Send + 'static) -> (SocketAddr, Lines) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let lines: Lines = Box::leak(Box::default());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            std::thread::spawn(move || serve_connection(socket?, lines, status));
        }
    });
    (address, lines)
}

fn serve_connection(socket: TcpStream, lines: Lines, status: impl Fn(usize) -> Option<u16>) -> std::io::Result<()> {
    let mut input = BufReader::new(socket.try_clone()?);
    let mut output = socket;
    loop {
        let (mut head, mut line) = (Vec::new(), String::new());
        while input.read_line(&mut line)? > 2 {
            head.push(std::mem::take(&mut line));
        }
        let Some(request_line) = head.first() else { return Ok(()) };
        let length = head.iter().find_map(|line| line.strip_prefix("Content-Length: "));
        let length = length.map_or(0, |length| length.trim().parse().unwrap());
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        let index = {
            let mut lines = lines.lock().unwrap();
            lines.push(request_line.trim().to_owned());
            lines.len()
        };
        let Some(status) = status(index) else { return Ok(()) };
        let body = format!("{{\"id\":\"{}\"}}", Uuid::from_u128(index as u128));
        write!(output, "HTTP/1.1 {status} Word\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}

/// Writes until the server has seen so many requests; ends early with the last connection.
fn run(server: (SocketAddr, Lines), requests_count: usize, depth: usize, rate: Option<f64>, mix: Mix) -> Report {
    let (address, lines) = server;
    let options =
        Options { address, token: "token".into(), connections_count: 4, depth, rate, mix, cpu: None, seed: 1 };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| writer::run(&options, &stop));
        while !writer.is_finished() && lines.lock().unwrap().len() < requests_count {
            std::thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().unwrap().unwrap()
    })
}

#[test]
fn every_write_has_its_record() {
    for (depth, rate) in [(1, None), (16, None), (1, Some(500.0)), (4, Some(400.0))] {
        let server = serve(|_| Some(202));
        let started = Instant::now();
        let report = run(server, 60, depth, rate, Mix::All);
        let seconds = started.elapsed().as_secs_f64();
        assert!(report.faults.is_empty(), "{:?}", report.faults);
        assert_eq!(report.writes.len(), server.1.lock().unwrap().len());
        assert!(report.writes.iter().all(|write| write.is_acknowledged() && write.answered_ns >= write.sent_ns));
        assert!(report.writes.iter().any(|write| write.operation == Operation::Change));
        assert_eq!(report.acknowledged_within(0, u64::MAX).count(), report.writes.len());
        if let Some(rate) = rate {
            // The first block is due at once.
            let due_max = rate * seconds + depth as f64;
            assert!(report.writes.len() as f64 <= due_max, "{rate}: {} writes in {seconds} s", report.writes.len());
        }
        // Whoever shows the newest id of all owes nothing.
        let created = Created::new(&report.writes);
        let newest = report.writes.iter().map(|write| write.id).max().unwrap();
        assert_eq!(created.age_ns(newest, u64::MAX), 0);
        assert!(created.age_ns(Uuid::nil(), u64::MAX) > 0);
    }
}

#[test]
fn refusals_are_recorded_and_losses_are_faults() {
    let server = serve(|index| Some(if index % 2 == 0 { 503 } else { 202 }));
    let report = run(server, 20, 2, None, Mix::Creates);
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    assert!(report.refused_count() > 0);
    assert_eq!(report.refused_count() + report.acknowledged_within(0, u64::MAX).count(), report.writes.len());

    let server = serve(|index| (index < 10).then_some(202));
    let report = run(server, usize::MAX, 2, None, Mix::Creates);
    assert_eq!(report.faults.connections_lost, 4);
    assert!(report.faults.unanswered > 0);
    assert!(report.faults.first.unwrap().contains("closed"));
}
