//! How many durable 202 a second.

use crate::clock;
use crate::error::{Context, Result};
use crate::load;
use crate::process::child::Server;
use crate::process::counters::{COMMITS_METRIC, metric_sum};
use crate::process::cpu::ProcessCpu;
use crate::writes::plan::Mix;
use crate::writes::writer::{self, Options as WriterOptions};
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Calls behind the median of one fdatasync.
const SYNCS_COUNT: usize = 100;

/// What it showed.
#[derive(Debug, Serialize)]
pub struct DurableReport {
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
    /// Answered other than 202.
    pub refused: usize,
    /// Lost connections and missing answers.
    pub faults: load::Faults,
}

/// POSTs in a closed loop.
pub fn run(
    server: &Server,
    connections_count: usize,
    depth: usize,
    cpu: usize,
    warmup: Duration,
    window: Duration,
) -> Result<DurableReport> {
    let fdatasync_us = fdatasync_us(server.data_directory()).context("measuring fdatasync")?;
    let options = WriterOptions {
        address: server.address(),
        token: server.token()?,
        connections_count,
        depth,
        rate: None,
        mix: Mix::Creates,
        cpu: Some(cpu),
        seed: 0,
    };
    let look = || -> Result<(Option<u64>, ProcessCpu)> {
        let cpu = ProcessCpu::read(server.pid()).context("reading the server's CPU time")?;
        Ok((metric_sum(&server.metrics()?, COMMITS_METRIC), cpu))
    };
    let (commits_before, cpu_before) = look()?;
    let stop = AtomicBool::new(false);
    let started_ns = clock::now_ns();
    let (begin_ns, end_ns, report) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| writer::run(&options, &stop));
        std::thread::sleep(warmup);
        let begin_ns = clock::now_ns();
        std::thread::sleep(window);
        let end_ns = clock::now_ns();
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer panicked").map(|report| (begin_ns, end_ns, report))
    })?;
    let whole_seconds = (clock::now_ns() - started_ns) as f64 / 1e9;
    let (commits_after, cpu_after) = look()?;
    let mut latency_ns = load::latency_histogram();
    for write in report.acknowledged_within(begin_ns, end_ns) {
        latency_ns.saturating_record(write.answered_ns - write.sent_ns);
    }
    let all_acknowledged = report.writes.iter().filter(|write| write.is_acknowledged()).count().max(1);
    let milliseconds = |quantile| latency_ns.value_at_quantile(quantile) as f64 / 1e6;
    Ok(DurableReport {
        acknowledged_per_second: latency_ns.len() as f64 / ((end_ns - begin_ns) as f64 / 1e9),
        commits_per_second: commits_before
            .zip(commits_after)
            .map(|(before, after)| (after - before) as f64 / whole_seconds),
        fdatasync_us,
        latency_p50_ms: milliseconds(0.5),
        latency_p99_ms: milliseconds(0.99),
        server_ns_per_write: (cpu_after - cpu_before).total_ns() as f64 / all_acknowledged as f64,
        refused: report.refused_count(),
        faults: report.faults,
    })
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
    match report.commits_per_second {
        Some(commits) => println!("  {commits:.0} commits (fsyncs) a second"),
        None => println!("  commits a second unknown: /metrics has no {COMMITS_METRIC}"),
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
