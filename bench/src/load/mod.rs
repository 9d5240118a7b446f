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
//!
//! All this is for one request whose good answers have one status and a Content-Length: `generator`, which does little per
//! answer. [`exchange`] knows which answer belongs to which request, takes every framing, and opens connections again.

pub mod exchange;
mod generator;
mod pace;
mod progress;
mod report;
pub mod slow;
pub(crate) mod socket;

pub use pace::Pace;
pub use progress::Progress;

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::limits::{BLOCK_BYTES_MAX, DEPTH_MAX, LATENCY_NS_MAX};
use crate::process::cpu::ProcessCpu;
use crate::process::host;
use crate::scan::{Bodies, Unseen};
use generator::Generator;
use hdrhistogram::Histogram;
use report::merge;
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
    /// Answers of another status than the one expected, on connections that went on.
    #[serde(default)]
    pub wrong_status: u64,
    /// Bodies that were parsed and are no JSON.
    #[serde(default)]
    pub invalid_json: u64,
    /// Lists whose newest id was older than one shown before on the same connection.
    #[serde(default)]
    pub went_back: u64,
    /// The first fault in words.
    pub first: Option<String>,
}

impl Faults {
    /// Nothing went wrong.
    pub fn is_empty(&self) -> bool {
        *self == Faults::default()
    }

    /// All of them. A lost connection counts, and so does each answer that it still owed.
    pub fn count(&self) -> u64 {
        self.connections_lost + self.unanswered + self.wrong_status + self.invalid_json + self.went_back
    }

    fn add(&mut self, other: Faults) {
        self.connections_lost += other.connections_lost;
        self.unanswered += other.unanswered;
        self.wrong_status += other.wrong_status;
        self.invalid_json += other.invalid_json;
        self.went_back += other.went_back;
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
    /// From the (intended) send of a block to its last answer, nanoseconds. Closed loop: blocks answered within the
    /// window. Open loop: also those answered in the drain, and what never left or was not answered, as long as it waited.
    pub latency: Histogram<u64>,
    /// The latest that a block left after it was due (open loop).
    pub late_ns_max: u64,
    /// How late each block left, counted from when it was due and a connection was free for it (open loop): what the generator,
    /// and not the server, is to blame for.
    pub late: Histogram<u64>,
    /// Blocks that were due within the window and never left, because every connection still waited (open loop).
    pub never_sent: u64,
    /// Share of the generator's cores in use, 0 to 1.
    pub generator_busy: f64,
    /// Share of the time in which a generator thread was ready and something else had its core, 0 to 1.
    pub generator_waited: f64,
    /// One thread's share of both reached `CORE_BUSY_MIN`: responses per second are the generator's, not the server's.
    pub generator_was_limit: bool,
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
pub fn run_with<B: Bodies + Send>(options: &Options, bodies: impl Fn(usize) -> B + Sync) -> Result<(Outcome, Vec<B>)> {
    if options.trickle && options.rate.is_some() {
        return Err(Error::Unusable("a trickle follows the answers, a rate the clock: choose one".into()));
    }
    check_bounds(options.depth, options.request.len(), options.rate)?;
    let threads = Threads { cpus: &options.cpus, connections_count: options.connections_count };
    let done = threads.run(|thread_index, connections_count| {
        Generator::connect(options, thread_index, connections_count, bodies(connections_count))
    })?;
    let (reports, bodies): (Vec<_>, Vec<_>) = done.into_iter().unzip();
    Ok((merge(reports.into_iter()), bodies))
}

/// What every kind of load is bound by.
fn check_bounds(depth: usize, request_bytes: usize, rate: Option<f64>) -> Result<()> {
    if depth == 0 || depth > DEPTH_MAX {
        return Err(Error::Unusable(format!("depth is 1 to {DEPTH_MAX}")));
    }
    if depth * request_bytes > BLOCK_BYTES_MAX {
        return Err(Error::Unusable(format!(
            "a block of {depth} requests has over {BLOCK_BYTES_MAX} bytes: send fewer at once, or a smaller body"
        )));
    }
    if rate.is_some_and(|rate| !(rate > 0.0 && rate.is_finite())) {
        return Err(Error::Unusable("the rate must be above 0".into()));
    }
    Ok(())
}

/// A generator of one thread, connected.
trait Engine: Sized {
    type Done: Send;

    /// Warm-up, window, drain.
    fn run(self, start_ns: u64) -> Result<Self::Done>;
}

/// Who loads.
struct Threads<'o> {
    /// One thread for each, pinned; empty: one, not pinned.
    cpus: &'o [usize],
    /// Shared out among them.
    connections_count: usize,
}

impl Threads<'_> {
    /// Starts all, lets each connect its share, then lets all run at once.
    fn run<E: Engine>(&self, connect: impl Fn(usize, usize) -> Result<E> + Sync) -> Result<Vec<E::Done>> {
        let threads_count = self.cpus.len().max(1);
        if self.connections_count < threads_count {
            return Err(Error::Unusable("each thread needs a connection".into()));
        }
        host::need_descriptors(self.connections_count + 64)?;
        let (connect, barrier) = (&connect, &Barrier::new(threads_count));
        std::thread::scope(|scope| {
            let threads = (0..threads_count).map(|index| {
                let connections_count = self.connections_count / threads_count
                    + usize::from(index < self.connections_count % threads_count);
                let work = move || {
                    let pinned = self.cpus.get(index).map_or(Ok(()), |&cpu| host::pin_thread(&[cpu]));
                    let engine = pinned.and_then(|()| connect(index, connections_count));
                    // Also reached by a thread that failed: the others must not wait for it.
                    barrier.wait();
                    engine?.run(clock::now_ns())
                };
                std::thread::Builder::new().name(format!("load-{index}")).spawn_scoped(scope, work)
            });
            // All are started before the first is waited for.
            let threads: Vec<_> = threads.collect::<std::io::Result<_>>().context("starting a generator thread")?;
            threads.into_iter().map(|thread| thread.join().expect("a generator thread panicked")).collect()
        })
    }
}

/// Three digits from a nanosecond to a minute.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants that fit")
}
