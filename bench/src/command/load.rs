//! `todo-bench load`: one window of load on a server that runs already.

use crate::command::Verdict;
use rustix::process::Pid;
use serde::Serialize;
use std::time::Duration;
use todo_bench::error::{Context, Error, Result};
use todo_bench::load::{self, Faults, Options, Outcome};
use todo_bench::request::{self, Url};

#[derive(clap::Args)]
pub struct LoadArgs {
    /// What to ask for.
    #[arg(long, default_value = "http://127.0.0.1:8080/todos?limit=10")]
    url: String,
    /// Connections in all.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests that a connection sends at once; the next block leaves when all of it is answered.
    #[arg(long, default_value_t = 80)]
    depth: usize,
    /// The measured window.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Load before it, in seconds.
    #[arg(long, default_value_t = 0.3)]
    warmup: f64,
    /// CPU of the first generator thread; further threads take the CPUs behind it. Not pinned when absent.
    #[arg(long)]
    cpu: Option<usize>,
    /// Generator threads.
    #[arg(long, default_value_t = 1, requires = "cpu")]
    threads: usize,
    /// Requests per second, sent whatever the server does (open loop); latency then counts from the intended time.
    #[arg(long)]
    rate: Option<f64>,
    /// Process of the server, for its CPU time per request.
    #[arg(long)]
    pid: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The result as printed.
#[derive(Serialize)]
struct Summary {
    responses: u64,
    seconds: f64,
    responses_per_second: f64,
    block_latency_us: Percentiles,
    late_us_max: f64,
    generator_busy: f64,
    generator_ns_per_response: f64,
    server_ns_per_response: Option<f64>,
    server_user_share: Option<f64>,
    faults: Faults,
}

#[derive(Serialize)]
struct Percentiles {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Fails when a single answer is wrong or missing.
pub fn run(args: &LoadArgs) -> Result<Verdict> {
    let url = Url::parse(&args.url)?;
    let cpus = args.cpu.map_or(Vec::new(), |first| (first..first + args.threads).collect());
    let outcome = load::run(&Options {
        address: url.address()?,
        request: request::get(&url.authority, &url.target),
        status_expected: 200,
        connections_count: args.connections,
        depth: args.depth,
        warmup: seconds(args.warmup)?,
        window: seconds(args.seconds)?,
        cpus,
        rate: args.rate,
        server: args.pid.map(pid).transpose()?,
    })?;
    let summary = Summary::of(&outcome, args.threads);
    if args.json {
        let text = serde_json::to_string_pretty(&summary).map_err(std::io::Error::from).context("writing JSON")?;
        println!("{text}");
    } else {
        print(&summary, args);
    }
    Ok(if outcome.faults.is_empty() && outcome.responses > 0 { Verdict::Passed } else { Verdict::Failed })
}

impl Summary {
    fn of(outcome: &Outcome, threads_count: usize) -> Summary {
        let microseconds = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
        let generator_ns = outcome.generator_busy * threads_count as f64 * outcome.seconds() * 1e9;
        Summary {
            responses: outcome.responses,
            seconds: outcome.seconds(),
            responses_per_second: outcome.responses_per_second(),
            block_latency_us: Percentiles {
                p50: microseconds(0.5),
                p99: microseconds(0.99),
                p999: microseconds(0.999),
                max: outcome.latency.max() as f64 / 1e3,
            },
            late_us_max: outcome.late_ns_max as f64 / 1e3,
            generator_busy: outcome.generator_busy,
            generator_ns_per_response: generator_ns / outcome.responses.max(1) as f64,
            server_ns_per_response: outcome.server_ns_per_response(),
            server_user_share: outcome.server.and_then(|cpu| cpu.user_share()),
            faults: outcome.faults.clone(),
        }
    }
}

fn print(summary: &Summary, args: &LoadArgs) {
    let loop_kind = args.rate.map_or("closed loop".into(), |rate| format!("open loop at {rate} requests/s"));
    println!("{} connections, depth {}, {loop_kind}, {:.2} s", args.connections, args.depth, summary.seconds);
    println!("  {:.0} checked responses/s", summary.responses_per_second);
    let Percentiles { p50, p99, p999, max } = summary.block_latency_us;
    println!("  block latency us: p50 {p50:.0}, p99 {p99:.0}, p99.9 {p999:.0}, max {max:.0}");
    if args.rate.is_some() {
        println!(
            "  blocks left at most {:.0} us late; their latency counts from when they were due",
            summary.late_us_max
        );
    }
    println!(
        "  generator: {:.0} ns per response, {:.0} % of its CPU{}",
        summary.generator_ns_per_response,
        summary.generator_busy * 100.0,
        if summary.generator_busy >= todo_bench::limits::CORE_BUSY_MIN { " (the limit may be here)" } else { "" },
    );
    if let Some(ns) = summary.server_ns_per_response {
        let user = summary.server_user_share.unwrap_or_default() * 100.0;
        println!("  server: {ns:.0} ns per response, {user:.0} % of it in user space");
    }
    let Faults { connections_lost, unanswered, first } = &summary.faults;
    if let Some(first) = first {
        println!("  FAILED: {connections_lost} connections lost, {unanswered} requests unanswered; first: {first}");
    }
}

pub fn seconds(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| Error::Unusable(format!("{seconds} is not a length of time")))
}

fn pid(number: u32) -> Result<Pid> {
    let number = i32::try_from(number).ok();
    number.and_then(Pid::from_raw).ok_or_else(|| Error::Unusable("no such process".into()))
}
