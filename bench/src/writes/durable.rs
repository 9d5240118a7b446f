//! How many durable 202 a second.

use crate::clock;
use crate::error::{Context, Error, Result};
use crate::load;
use crate::process::child::Server;
use crate::process::counters::{APPLIED_METRIC, COMMITS_METRIC, LAG_METRIC, metric_sum};
use crate::process::cpu::ProcessCpu;
use crate::single::SingleClient;
use crate::writes::plan::Mix;
use crate::writes::writer::{self, Options as WriterOptions};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Calls behind the median of one fdatasync.
const SYNCS_COUNT: usize = 100;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections.
    pub connections_count: usize,
    /// Writes in a block.
    pub depth: usize,
    /// Writes per second, open loop; `None`: the next block when the whole one is answered.
    pub rate: Option<f64>,
    /// CPU of the writer.
    pub cpu: usize,
    /// Writes before the window.
    pub warmup: Duration,
    /// The window.
    pub window: Duration,
    /// `/metrics` of the worker that applies what the server acknowledges, where that is another process.
    pub worker: Option<SocketAddr>,
}

/// What a worker did between the begin and the end of the window.
#[derive(Debug, Serialize, Deserialize)]
pub struct Applied {
    /// Commands applied per second.
    pub per_second: f64,
    /// Records that waited in the log at the begin.
    pub lag_begin: u64,
    /// Records that waited in the log at the end.
    pub lag_end: u64,
}

/// What it showed.
#[derive(Debug, Serialize, Deserialize)]
pub struct DurableReport {
    /// Connections that wrote.
    pub connections_count: usize,
    /// Writes in a block.
    pub depth: usize,
    /// Writes per second that were offered; `None` in a closed loop.
    pub rate: Option<f64>,
    /// 202 per second within the window.
    pub acknowledged_per_second: f64,
    /// Commits, each one fsync, per second from start to end; `None` when the server does not count them.
    pub commits_per_second: Option<f64>,
    /// Median of one 4 KiB append with fdatasync on the same disk, microseconds: the limit of a single commit.
    pub fdatasync_us: f64,
    /// From send to 202, milliseconds.
    pub latency_p50_ms: f64,
    /// 99 % at most.
    pub latency_p99_ms: f64,
    /// CPU of all the server's threads per 202, nanoseconds, from start to end.
    pub server_ns_per_write: f64,
    /// What the worker did, where there is one.
    pub applied: Option<Applied>,
    /// Answered other than 202.
    pub refused: usize,
    /// Lost connections and missing answers.
    pub faults: load::Faults,
}

/// POSTs, in a closed loop or at a rate.
pub fn run(server: &Server, run: &Options) -> Result<DurableReport> {
    let fdatasync_us = fdatasync_us(server.data_directory()).context("measuring fdatasync")?;
    let options = WriterOptions {
        address: server.address(),
        token: server.token()?,
        connections_count: run.connections_count,
        depth: run.depth,
        rate: run.rate,
        mix: Mix::Creates,
        cpu: Some(run.cpu),
        seed: 0,
    };
    let look = || -> Result<(Option<u64>, ProcessCpu)> {
        let cpu = ProcessCpu::read(server.pid()).context("reading the server's CPU time")?;
        Ok((metric_sum(&server.metrics()?, COMMITS_METRIC), cpu))
    };
    let look_at_worker = || run.worker.map(WorkerLook::take).transpose();
    let (commits_before, cpu_before) = look()?;
    let stop = AtomicBool::new(false);
    let started_ns = clock::now_ns();
    let (begin, end, report) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| writer::run(&options, &stop));
        let looks = || -> Result<_> {
            std::thread::sleep(run.warmup);
            let begin = (clock::now_ns(), look_at_worker()?);
            std::thread::sleep(run.window);
            Ok((begin, (clock::now_ns(), look_at_worker()?)))
        };
        let looks = looks();
        stop.store(true, Ordering::Relaxed);
        let report = writer.join().expect("the writer panicked")?;
        looks.map(|(begin, end)| (begin, end, report))
    })?;
    let ((begin_ns, worker_begin), (end_ns, worker_end)) = (begin, end);
    let whole_seconds = (clock::now_ns() - started_ns) as f64 / 1e9;
    let (commits_after, cpu_after) = look()?;
    let mut latency_ns = load::latency_histogram();
    for write in report.acknowledged_within(begin_ns, end_ns) {
        latency_ns.saturating_record(write.answered_ns - write.sent_ns);
    }
    let all_acknowledged = report.writes.iter().filter(|write| write.is_acknowledged()).count().max(1);
    let milliseconds = |quantile| latency_ns.value_at_quantile(quantile) as f64 / 1e6;
    Ok(DurableReport {
        connections_count: run.connections_count,
        depth: run.depth,
        rate: run.rate,
        acknowledged_per_second: latency_ns.len() as f64 / ((end_ns - begin_ns) as f64 / 1e9),
        commits_per_second: commits_before
            .zip(commits_after)
            .map(|(before, after)| (after - before) as f64 / whole_seconds),
        fdatasync_us,
        latency_p50_ms: milliseconds(0.5),
        latency_p99_ms: milliseconds(0.99),
        server_ns_per_write: (cpu_after - cpu_before).total_ns() as f64 / all_acknowledged as f64,
        applied: worker_begin.zip(worker_end).map(|(begin, end)| Applied {
            per_second: (end.commands - begin.commands) as f64 / ((end_ns - begin_ns) as f64 / 1e9),
            lag_begin: begin.lag,
            lag_end: end.lag,
        }),
        refused: report.refused_count(),
        faults: report.faults,
    })
}

struct WorkerLook {
    commands: u64,
    lag: u64,
}

impl WorkerLook {
    fn take(address: SocketAddr) -> Result<WorkerLook> {
        let response = SingleClient::connect(address)?.get_ok("/metrics")?;
        let text = String::from_utf8_lossy(response.body());
        let sum = |name| {
            metric_sum(&text, name).ok_or_else(|| Error::Unusable(format!("the worker's /metrics has no {name}")))
        };
        Ok(WorkerLook { commands: sum(APPLIED_METRIC)?, lag: sum(LAG_METRIC)? })
    }
}

fn fdatasync_us(directory: &Path) -> std::io::Result<f64> {
    let mut file = tempfile::tempfile_in(directory)?;
    let mut samples_us = Vec::with_capacity(SYNCS_COUNT);
    for _ in 0..SYNCS_COUNT {
        let begin_ns = clock::now_ns();
        file.write_all(&[1; 4096])?;
        file.sync_data()?;
        samples_us.push((clock::now_ns() - begin_ns) as f64 / 1e3);
    }
    Ok(crate::statistics::median(&samples_us).unwrap_or_default())
}

/// Prints the report.
pub fn print(report: &DurableReport) {
    println!("{:.0} durable 202/s", report.acknowledged_per_second);
    if let Some(commits) = report.commits_per_second {
        println!("  {commits:.0} commits (fsyncs) a second");
    }
    if let Some(Applied { per_second, lag_begin, lag_end }) = report.applied {
        println!(
            "  the worker applied {per_second:.0}/s; records that waited for it: {lag_begin} at the begin, {lag_end} at the end"
        );
    }
    println!("  one fdatasync of 4 KiB on this disk: {:.0} us", report.fdatasync_us);
    println!("  latency to the 202: p50 {:.2} ms, p99 {:.2} ms", report.latency_p50_ms, report.latency_p99_ms);
    println!(
        "  server: {:.0} ns of CPU per write; {} answered other than 202",
        report.server_ns_per_write, report.refused
    );
    if !report.faults.is_empty() {
        println!("  FAILED: {:?}", report.faults);
    }
}
