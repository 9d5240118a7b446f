//! The load generator: one thread per core, each with its own epoll and its share of the connections.
//!
//! Closed loop: each connection sends a block of `depth` requests and, when all of them are answered, the next block.
//! So the server always sees whole blocks, as it does from a browser's or a proxy's burst, and the batch it finds in
//! one read is the same for every server that is compared. (Sending one request per answer gives ragged batches
//! whose size depends on the server's speed: then servers are compared at different work.)
//!
//! Trickle: a closed loop that sends one request for each answer after a first block, as autocannon does with `-p`. Offered
//! for comparison with figures that were made so.
//!
//! Open loop: blocks are due at a fixed rate, whatever the server does, and latency counts from when a block was
//! due, so a stall is paid by every block that it kept waiting.

mod check;
mod generator;
mod pace;
mod progress;

pub use check::JsonCheck;
pub use pace::Pace;
pub use progress::Progress;

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::limits::{DEPTH_MAX, LATENCY_NS_MAX};
use crate::process::cpu::ProcessCpu;
use crate::process::host;
use crate::scan::{Bodies, Unseen};
use generator::{Generator, Report};
use hdrhistogram::Histogram;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::time::Duration;

/// What to send, and for how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to.
    pub address: SocketAddr,
    /// One request, complete.
    pub request: Vec<u8>,
    /// The status every answer must have.
    pub status_expected: u16,
    /// Connections in all, at least one per thread.
    pub connections_count: usize,
    /// Requests in a block, 1 to `DEPTH_MAX`.
    pub depth: usize,
    /// Load before the window, not measured.
    pub warmup: Duration,
    /// The measured window.
    pub window: Duration,
    /// One thread for each of these CPUs, pinned; empty: one thread, not pinned.
    pub cpus: Vec<usize>,
    /// Requests per second in all: open loop. `None`: closed loop.
    pub rate: Option<f64>,
    /// In a closed loop: after the first block one request leaves for each answer, and latency is each request's own.
    pub trickle: bool,
    /// Where threads tell how far they are.
    pub progress: Option<Arc<Progress>>,
    /// The process whose CPU time is read at both ends of the window.
    pub server: Option<Pid>,
}

/// What servers did wrong: each makes the run a failed one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Connections given up, for whatever reason.
    pub connections_lost: u64,
    /// Requests sent and not answered, lost connections included.
    pub unanswered: u64,
    /// The first fault in words.
    pub first: Option<String>,
}

impl Faults {
    /// Nothing went wrong.
    pub fn is_empty(&self) -> bool {
        *self == Faults::default()
    }

    fn add(&mut self, other: Faults) {
        self.connections_lost += other.connections_lost;
        self.unanswered += other.unanswered;
        self.first = self.first.take().or(other.first);
    }
}

/// What one window showed.
#[derive(Debug)]
pub struct Outcome {
    /// Begin of the window on the monotonic clock.
    pub begin_ns: u64,
    /// End of the window.
    pub end_ns: u64,
    /// Answers checked within the window.
    pub responses: u64,
    /// Over the whole run, drain included.
    pub faults: Faults,
    /// From the (intended) send of a block to its last answer, nanoseconds, blocks answered within the window.
    pub latency: Histogram<u64>,
    /// The latest that a block left after it was due (open loop).
    pub late_ns_max: u64,
    /// Share of the generator's cores in use, 0 to 1.
    pub generator_busy: f64,
    /// CPU of the server within the window.
    pub server: Option<ProcessCpu>,
}

impl Outcome {
    /// Length of the window.
    pub fn seconds(&self) -> f64 {
        (self.end_ns - self.begin_ns) as f64 / 1e9
    }

    /// Checked answers per second.
    pub fn responses_per_second(&self) -> f64 {
        self.responses as f64 / self.seconds()
    }

    /// CPU of all the server's threads for each checked answer.
    pub fn server_ns_per_response(&self) -> Option<f64> {
        self.server.filter(|_| self.responses > 0).map(|cpu| cpu.total_ns() as f64 / self.responses as f64)
    }
}

/// Runs the load, bodies unseen.
pub fn run(options: &Options) -> Result<Outcome> {
    run_with(options, |_| Unseen).map(|(outcome, _)| outcome)
}

/// Runs the load and shows each thread's bodies to what `bodies` makes for its connections.
pub fn run_with<B: Bodies + Send>(options: &Options, bodies: impl Fn(usize) -> B) -> Result<(Outcome, Vec<B>)> {
    let threads_count = options.cpus.len().max(1);
    if options.depth == 0 || options.depth > DEPTH_MAX || options.connections_count < threads_count {
        return Err(Error::Unusable(format!("depth is 1 to {DEPTH_MAX}, and each thread needs a connection")));
    }
    if options.rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
        return Err(Error::Unusable("the rate must be above 0".into()));
    }
    if options.trickle && options.rate.is_some() {
        return Err(Error::Unusable("a trickle follows the answers, a rate the clock: choose one".into()));
    }
    host::need_descriptors(options.connections_count + 64)?;
    let barrier = Barrier::new(threads_count);
    let reports = std::thread::scope(|scope| {
        let threads = (0..threads_count).map(|index| {
            let connections_count = options.connections_count / threads_count
                + usize::from(index < options.connections_count % threads_count);
            let (bodies, barrier) = (bodies(connections_count), &barrier);
            let name = format!("load-{index}");
            std::thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, move || run_thread(options, index, connections_count, bodies, barrier))
        });
        // All are started before the first is waited for.
        let threads: Vec<_> = threads.collect::<std::io::Result<_>>().context("starting a generator thread")?;
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a generator thread panicked"))
            .collect::<Result<Vec<_>>>()
    })?;
    Ok(merge(reports, threads_count))
}

fn run_thread<B: Bodies>(
    options: &Options,
    thread_index: usize,
    connections_count: usize,
    bodies: B,
    barrier: &Barrier,
) -> Result<(Report, B)> {
    let pinned = options.cpus.get(thread_index).map_or(Ok(()), |&cpu| host::pin_thread(&[cpu]));
    let generator = pinned.and_then(|()| {
        // One thread looks at the server's CPU, at the ends of its own window.
        let server = if thread_index == 0 { options.server } else { None };
        Generator::connect(options, thread_index, connections_count, server, bodies)
    });
    // Also reached by a thread that failed: the others must not wait for it.
    barrier.wait();
    generator?.run(clock::now_ns())
}

fn merge<B>(reports: Vec<(Report, B)>, threads_count: usize) -> (Outcome, Vec<B>) {
    let mut outcome = Outcome {
        begin_ns: u64::MAX,
        end_ns: 0,
        responses: 0,
        faults: Faults::default(),
        latency: latency_histogram(),
        late_ns_max: 0,
        generator_busy: 0.0,
        server: None,
    };
    let mut all_bodies = Vec::new();
    for (report, bodies) in reports {
        outcome.begin_ns = outcome.begin_ns.min(report.begin.at_ns);
        outcome.end_ns = outcome.end_ns.max(report.end.at_ns);
        outcome.responses += report.end.responses - report.begin.responses;
        let window_ns = (report.end.at_ns - report.begin.at_ns) as f64;
        outcome.generator_busy +=
            (report.end.own_cpu_ns - report.begin.own_cpu_ns) as f64 / window_ns / threads_count as f64;
        outcome.server = outcome.server.or(report.end.server.zip(report.begin.server).map(|(end, begin)| end - begin));
        outcome.faults.add(report.faults);
        outcome.latency += report.latency;
        outcome.late_ns_max = outcome.late_ns_max.max(report.late_ns_max);
        all_bodies.push(bodies);
    }
    (outcome, all_bodies)
}

/// Three digits from a nanosecond to a minute.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants that fit")
}
