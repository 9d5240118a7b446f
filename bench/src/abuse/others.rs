//! The others: who uses the server as it is meant while it is attacked. Reads in an open loop, some writes, and newcomers.

use crate::clock;
use crate::error::{Error, Result};
use crate::limits::{ATTACK_AFTER, NEWCOMER_EVERY, NEWCOMER_PATIENCE, RECOVERY_WINDOW};
use crate::load::{self, Options as LoadOptions, latency_histogram};
use crate::request;
use crate::writes::plan::Mix;
use crate::writes::writer::{self, Options as WriterOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Reads, one at a time on each connection.
const READ_CONNECTIONS: usize = 32;
const WRITE_CONNECTIONS: usize = 4;

/// Who they are.
#[derive(Clone, Debug)]
pub struct Others {
    /// Where to.
    pub address: SocketAddr,
    /// For their writes.
    pub token: String,
    /// Their CPU.
    pub cpu: usize,
    /// Reads a second.
    pub read_rate: f64,
    /// Writes a second.
    pub write_rate: f64,
}

/// What they noticed in one window.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// Of reads, from when they were due, microseconds.
    pub p50_us: f64,
    /// The same.
    pub p99_us: f64,
    /// The same of writes, to their 202.
    pub write_p99_us: f64,
    /// How late reads left though a connection was free for them, 99 % at most: the generator's own share.
    pub late_p99_us: f64,
    /// Reads and writes that were answered.
    pub answers: u64,
    /// Wrong and missing answers, lost connections, writes that were not accepted.
    pub errors: u64,
    /// The first in words.
    pub first_error: Option<String>,
    /// Connections that came for one request.
    pub newcomers: u64,
    /// Those that were not answered.
    pub turned_away: u64,
}

impl Others {
    /// Reads that the server answers in a second when they come as fast as it answers, on as many connections.
    pub fn capacity(address: SocketAddr, cpu: usize, window: Duration) -> Result<f64> {
        let options = LoadOptions { rate: None, ..load_options(address, cpu, window) };
        let outcome = load::run(&options)?;
        if !outcome.faults.is_empty() {
            return Err(Error::Unusable(format!("reads fail before any attack: {:?}", outcome.faults)));
        }
        Ok(outcome.responses_per_second())
    }

    /// One window of all of them.
    pub fn window(&self, window: Duration) -> Result<Window> {
        let stop = &AtomicBool::new(false);
        let writer = WriterOptions {
            address: self.address,
            token: self.token.clone(),
            connections_count: WRITE_CONNECTIONS,
            depth: 1,
            rate: Some(self.write_rate),
            mix: Mix::All,
            cpu: Some(self.cpu),
            seed: 1,
        };
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| writer::run(&writer, stop));
            let newcomers = scope.spawn(|| newcomers(self.address, stop));
            let outcome = self.load(window);
            stop.store(true, Ordering::Relaxed);
            let written = writer.join().expect("the writer panicked")?;
            let (newcomers, turned_away) = newcomers.join().expect("the newcomers panicked");
            Ok(self::window(&outcome?, Some(&written), newcomers, turned_away))
        })
    }

    /// A short one of the reads alone.
    pub fn glance(&self) -> Result<Window> {
        Ok(window(&self.load(RECOVERY_WINDOW)?, None, 0, 0))
    }

    fn load(&self, window: Duration) -> Result<load::Outcome> {
        load::run(&LoadOptions { rate: Some(self.read_rate), ..load_options(self.address, self.cpu, window) })
    }
}

fn load_options(address: SocketAddr, cpu: usize, window: Duration) -> LoadOptions {
    LoadOptions {
        address,
        request: request::get(&address.to_string(), &request::list_target(10)),
        status_expected: 200,
        connections_count: READ_CONNECTIONS,
        depth: 1,
        // A short look has hardly one: it comes behind an attack whose every millisecond counts.
        warmup: if window > RECOVERY_WINDOW { ATTACK_AFTER } else { Duration::from_millis(5) },
        window,
        cpus: vec![cpu],
        rate: None,
        trickle: false,
        progress: None,
        server: None,
    }
}

fn window(outcome: &load::Outcome, written: Option<&writer::Report>, newcomers: u64, turned_away: u64) -> Window {
    let microseconds = |ns: u64| ns as f64 / 1e3;
    let mut write_latency = latency_histogram();
    let writes = written.map_or(&[][..], |report| &report.writes[..]);
    for write in writes.iter().filter(|write| write.is_acknowledged() && write.due_ns >= outcome.begin_ns) {
        write_latency.saturating_record(write.answered_ns - write.due_ns);
    }
    let refused = written.map_or(0, |report| report.refused_count() as u64);
    let write_faults = written.map(|report| &report.faults);
    let first_refused = || {
        let write = writes.iter().find(|write| write.status != 0 && !write.is_acknowledged())?;
        Some(format!("a write was answered {}", write.status))
    };
    let first_write_fault =
        write_faults.and_then(|faults| faults.first.clone()).map(|first| format!("a write: {first}"));
    Window {
        p50_us: microseconds(outcome.latency.value_at_quantile(0.5)),
        p99_us: microseconds(outcome.latency.value_at_quantile(0.99)),
        write_p99_us: microseconds(write_latency.value_at_quantile(0.99)),
        late_p99_us: microseconds(outcome.late.value_at_quantile(0.99)),
        answers: outcome.responses + writes.iter().filter(|write| write.status != 0).count() as u64,
        errors: outcome.faults.count() + write_faults.map_or(0, load::Faults::count) + refused,
        first_error: outcome
            .faults
            .first
            .clone()
            .map(|first| format!("a read: {first}"))
            .or(first_write_fault)
            .or_else(first_refused),
        newcomers,
        turned_away,
    }
}

/// Newcomers until `stop` is set: how many, and how many of them were not answered.
fn newcomers(address: SocketAddr, stop: &AtomicBool) -> (u64, u64) {
    let (mut count, mut turned_away) = (0, 0);
    let request = request::get(&address.to_string(), &request::list_target(1));
    while !stop.load(Ordering::Relaxed) {
        let begun_ns = clock::now_ns();
        count += 1;
        turned_away += u64::from(!is_served(address, &request));
        let took = Duration::from_nanos(clock::now_ns() - begun_ns);
        std::thread::sleep(NEWCOMER_EVERY.saturating_sub(took));
    }
    (count, turned_away)
}

fn is_served(address: SocketAddr, request: &[u8]) -> bool {
    let exchange = || {
        let mut socket = TcpStream::connect_timeout(&address, NEWCOMER_PATIENCE)?;
        socket.set_read_timeout(Some(NEWCOMER_PATIENCE))?;
        socket.write_all(request)?;
        let mut front = [0; 12];
        socket.read_exact(&mut front)?;
        Ok::<_, std::io::Error>(&front == b"HTTP/1.1 200")
    };
    exchange().unwrap_or(false)
}
