//! Load whose requests differ: every answer is matched with its request, whatever its framing, and connections are
//! opened again.
//!
//! It costs more per answer than `load::run` does. What it adds: a status for each request; answers of another status
//! are counted and the connection goes on; chunked answers, answers to HEAD, 204, 304, and those that end with their
//! connection; connections that close after so many answers, or whenever the server announces it; a look into bodies.

mod answer;
mod checks;
mod connection;
mod generator;
mod probe;
mod traffic;

pub use answer::{AnswerHead, AnswerReader, Framing, KnownAnswer, Step};
pub use checks::Id;
pub use probe::probe;
pub use traffic::{Request, StatusExpected, Traffic};

use crate::error::{Error, Result};
use crate::limits::BLOCKS_BYTES_MAX;
use crate::load::report::merge;
use crate::load::{Outcome, Progress, Threads, check_bounds, latency_histogram};
use generator::Generator;
use hdrhistogram::Histogram;
use rustix::process::Pid;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What to send, how, and for how long. [`Options::new`] is the plainest load; fields are changed from there.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to.
    pub address: SocketAddr,
    /// What.
    pub traffic: Traffic,
    /// Connections in all, at least one per thread.
    pub connections_count: usize,
    /// Requests that a connection sends at once, 1 to `DEPTH_MAX`.
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
    /// A connection is closed and opened again after so many answers, 1 at least.
    pub requests_per_connection: Option<u64>,
    /// A connection that the server closes between answers, or that is lost, is opened again; the former is no fault.
    pub reconnects: bool,
    /// Every so many-th good body of a thread must be JSON; 1 at least.
    pub json_every: Option<u64>,
    /// The id of a list's first object never goes back on a connection.
    pub newest_never_back: bool,
    /// The process whose CPU time is read at both ends of the window.
    pub server: Option<Pid>,
    /// Where threads tell how far they are.
    pub progress: Option<Arc<Progress>>,
    /// Decides the order of a mix.
    pub seed: u64,
}

impl Options {
    /// One connection, one request at a time, for a second.
    pub fn new(address: SocketAddr, traffic: Traffic) -> Options {
        Options {
            address,
            traffic,
            connections_count: 1,
            depth: 1,
            warmup: Duration::ZERO,
            window: Duration::from_secs(1),
            cpus: Vec::new(),
            rate: None,
            trickle: false,
            requests_per_connection: None,
            reconnects: false,
            json_every: None,
            newest_never_back: false,
            server: None,
            progress: None,
            seed: 1,
        }
    }

    fn check(&self) -> Result<()> {
        let refuse = |why: &str| Err(Error::Unusable(why.into()));
        let request_bytes = self.traffic.request_bytes_max();
        check_bounds(self.depth, request_bytes, self.rate)?;
        if (self.depth * request_bytes).saturating_mul(self.connections_count) > BLOCKS_BYTES_MAX {
            return refuse("the blocks of all connections are too large together: fewer connections, depth, or body");
        }
        if self.trickle && self.rate.is_some() {
            return refuse("a trickle follows the answers, a rate the clock: choose one");
        }
        if self.requests_per_connection == Some(0) || self.json_every == Some(0) {
            return refuse("requests per connection, and between two JSON checks, are 1 at least");
        }
        match (self.rate, self.requests_per_connection) {
            // A last block that is shorter would make the rate another one.
            (Some(_), Some(count)) if count % self.depth as u64 != 0 => {
                refuse("at a rate, requests per connection must be a multiple of the depth")
            }
            _ => Ok(()),
        }
    }
}

/// What belongs to one request of the traffic, over the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// Answers that were complete.
    pub answers: u64,
    /// Of them, those of a status that was not expected.
    pub wrong_status: u64,
}

/// What a window's outcome does not say, over the whole run.
#[derive(Clone, Debug)]
pub struct Exchanges {
    /// By request, in the traffic's order.
    pub requests: Vec<RequestCounts>,
    /// Answers whose status is not 2xx, expected or not.
    pub non_2xx: u64,
    /// Connections opened again.
    pub reconnects: u64,
    /// Connects that failed, those within a run only: they are among the lost connections.
    pub connects_failed: u64,
    /// Connections that the server closed as it may: announced, or while nothing was owed.
    pub closed_by_server: u64,
    /// Requests that were pipelined behind an answer which announced the end. No fault, and never answered.
    pub cut_off: u64,
    /// Bodies that were parsed from end to end.
    pub json_checked: u64,
    /// Lists whose newest id was compared.
    pub newest_checked: u64,
    /// Bodies that were to be looked into and are encoded or too long.
    pub unread: u64,
    /// From `connect` to an open connection, nanoseconds, the first ones included.
    pub connect_latency: Histogram<u64>,
}

impl Exchanges {
    fn new(requests_count: usize) -> Exchanges {
        Exchanges {
            requests: vec![RequestCounts::default(); requests_count],
            non_2xx: 0,
            reconnects: 0,
            connects_failed: 0,
            closed_by_server: 0,
            cut_off: 0,
            json_checked: 0,
            newest_checked: 0,
            unread: 0,
            connect_latency: latency_histogram(),
        }
    }

    /// All complete answers.
    pub fn answers(&self) -> u64 {
        self.requests.iter().map(|counts| counts.answers).sum()
    }

    /// Share of the answers that are not 2xx, 0 to 1; 0 without an answer.
    pub fn non_2xx_share(&self) -> f64 {
        self.non_2xx as f64 / self.answers().max(1) as f64
    }

    fn add(&mut self, other: &Exchanges) {
        for (counts, others) in self.requests.iter_mut().zip(&other.requests) {
            counts.answers += others.answers;
            counts.wrong_status += others.wrong_status;
        }
        self.non_2xx += other.non_2xx;
        self.reconnects += other.reconnects;
        self.connects_failed += other.connects_failed;
        self.closed_by_server += other.closed_by_server;
        self.cut_off += other.cut_off;
        self.json_checked += other.json_checked;
        self.newest_checked += other.newest_checked;
        self.unread += other.unread;
        self.connect_latency += &other.connect_latency;
    }
}

/// Runs the load. An outcome's responses are the good answers: right status, and nothing wrong in their bodies.
pub fn run(options: &Options) -> Result<(Outcome, Exchanges)> {
    options.check()?;
    let threads = Threads { cpus: &options.cpus, connections_count: options.connections_count };
    let done =
        threads.run(|thread_index, connections_count| Generator::connect(options, thread_index, connections_count))?;
    let mut all = Exchanges::new(options.traffic.requests().len());
    for (_, exchanges) in &done {
        all.add(exchanges);
    }
    let reports: Vec<_> = done.into_iter().map(|(report, _)| report).collect();
    Ok((merge(reports.into_iter()), all))
}
