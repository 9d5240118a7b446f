//! `todo-bench load`: one window of load on any HTTP/1.1 server that runs already.

use crate::command::Verdict;
use rustix::process::Pid;
use serde::Serialize;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use todo_bench::condition::{Condition, Observed};
use todo_bench::error::{Context, Error, Result};
use todo_bench::headers;
use todo_bench::limits::CORE_BUSY_MIN;
use todo_bench::load::{self, Faults, JsonCheck, Options, Outcome, Progress};
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
    /// After the first block send one request for each answer, as autocannon does; latency is then each request's.
    #[arg(long, conflicts_with = "rate")]
    trickle: bool,
    /// The request's method.
    #[arg(long, default_value = "GET")]
    method: String,
    /// File with the request's body.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The status that every answer must have.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// A header field, `Name: value`; may be repeated.
    #[arg(long = "header", value_name = "LINE")]
    header_lines: Vec<String>,
    /// File with a header field in each line.
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// Send what a browser sends beside: a head of some 500 bytes.
    #[arg(long)]
    browser_head: bool,
    /// Parse every so many-th body as JSON; one that is not is a fault.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    json_every: Option<u64>,
    /// Fail, with exit code 1, when this holds: `p99>5ms`, `max>=1s`, `rps<100000`, `errors>0`; may be repeated.
    #[arg(long = "fail-if", value_name = "CONDITION")]
    conditions: Vec<Condition>,
    /// A line a second on standard error while it runs, also where that is no terminal.
    #[arg(long)]
    progress: bool,
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
    connections: usize,
    depth: usize,
    /// Requests per second that were due; absent in a closed loop.
    rate: Option<f64>,
    responses: u64,
    seconds: f64,
    responses_per_second: f64,
    /// False when the generator's cores were the limit: then the rate says nothing about the server.
    throughput_is_its_own: bool,
    block_latency_us: Percentiles,
    late_us_max: f64,
    generator_busy: f64,
    generator_ns_per_response: f64,
    server_ns_per_response: Option<f64>,
    server_user_share: Option<f64>,
    bodies_checked: u64,
    faults: Faults,
}

/// Microseconds.
#[derive(Serialize)]
struct Percentiles {
    mean: f64,
    p50: f64,
    p75: f64,
    p90: f64,
    p97_5: f64,
    p99: f64,
    p999: f64,
    p9999: f64,
    max: f64,
}

/// Fails when a single answer is wrong or missing, or a condition holds.
pub fn run(args: &LoadArgs) -> Result<Verdict> {
    let cpus = args.cpu.map_or(Vec::new(), |first| (first..first + args.threads).collect());
    let options = args.options(cpus)?;
    let (outcome, bodies_checked) = args.load(&options)?;
    let summary = Summary::of(&outcome, args, bodies_checked);
    if args.json {
        let text = serde_json::to_string_pretty(&summary).map_err(std::io::Error::from).context("writing JSON")?;
        println!("{text}");
    } else {
        print(&summary, args);
    }
    let observed = Observed {
        latency: &outcome.latency,
        responses_per_second: summary.responses_per_second,
        errors: outcome.faults.connections_lost + outcome.faults.unanswered,
    };
    let mut is_good = outcome.faults.is_empty() && outcome.responses > 0;
    for condition in &args.conditions {
        if let Some(value) = condition.holds(&observed) {
            eprintln!("todo-bench: failed by {condition}: {}", condition.show(value));
            is_good = false;
        }
    }
    Ok(Verdict::of(is_good))
}

impl LoadArgs {
    fn options(&self, cpus: Vec<usize>) -> Result<Options> {
        let url = Url::parse(&self.url)?;
        let reports_progress = self.progress || std::io::stderr().is_terminal();
        Ok(Options {
            address: url.address()?,
            request: self.request(&url)?,
            status_expected: self.status,
            connections_count: self.connections,
            depth: self.depth,
            warmup: seconds(self.warmup)?,
            window: seconds(self.seconds)?,
            cpus,
            rate: self.rate,
            trickle: self.trickle,
            progress: reports_progress.then(|| Arc::new(Progress::new(self.threads))),
            server: self.pid.map(pid).transpose()?,
        })
    }

    fn request(&self, url: &Url) -> Result<Vec<u8>> {
        let read = |path: &PathBuf| std::fs::read(path).context(format!("reading {}", path.display()));
        let mut lines = self.header_lines.join("\n") + "\n";
        if self.browser_head {
            lines += headers::BROWSER;
        }
        if let Some(path) = &self.headers {
            let text = read(path)?;
            lines += std::str::from_utf8(&text)
                .map_err(|_| Error::Unusable(format!("{}: a file of headers is text", path.display())))?;
        }
        let body = self.body.as_ref().map(read).transpose()?;
        request::with(&self.method, &url.authority, &url.target, &headers::field_lines(&lines)?, body.as_deref())
    }

    /// Runs it; the outcome, and how many bodies were looked into.
    fn load(&self, options: &Options) -> Result<(Outcome, u64)> {
        std::thread::scope(|scope| {
            if let Some(progress) = &options.progress {
                scope.spawn(|| progress.print(std::io::stderr()));
            }
            let loaded = match self.json_every {
                None => load::run(options).map(|outcome| (outcome, 0)),
                Some(every) => {
                    let ran = load::run_with(options, |connections_count| JsonCheck::new(every, connections_count));
                    ran.map(|(outcome, checks)| with_checks(outcome, &checks))
                }
            };
            if let Some(progress) = &options.progress {
                progress.end();
            }
            loaded
        })
    }
}

/// A body that is no JSON is an answer that did not come.
fn with_checks(mut outcome: Outcome, checks: &[JsonCheck]) -> (Outcome, u64) {
    for check in checks {
        outcome.faults.unanswered += check.broken;
        if let Some(first) = &check.first {
            outcome.faults.first.get_or_insert_with(|| format!("a body that is no JSON: {first}"));
        }
    }
    (outcome, checks.iter().map(|check| check.checked).sum())
}

impl Summary {
    fn of(outcome: &Outcome, args: &LoadArgs, bodies_checked: u64) -> Summary {
        let microseconds = |quantile| outcome.latency.value_at_quantile(quantile) as f64 / 1e3;
        let generator_ns = outcome.generator_busy * args.threads as f64 * outcome.seconds() * 1e9;
        Summary {
            connections: args.connections,
            depth: args.depth,
            rate: args.rate,
            responses: outcome.responses,
            seconds: outcome.seconds(),
            responses_per_second: outcome.responses_per_second(),
            throughput_is_its_own: outcome.generator_busy < CORE_BUSY_MIN,
            block_latency_us: Percentiles {
                mean: outcome.latency.mean() / 1e3,
                p50: microseconds(0.5),
                p75: microseconds(0.75),
                p90: microseconds(0.9),
                p97_5: microseconds(0.975),
                p99: microseconds(0.99),
                p999: microseconds(0.999),
                p9999: microseconds(0.9999),
                max: outcome.latency.max() as f64 / 1e3,
            },
            late_us_max: outcome.late_ns_max as f64 / 1e3,
            generator_busy: outcome.generator_busy,
            generator_ns_per_response: generator_ns / outcome.responses.max(1) as f64,
            server_ns_per_response: outcome.server_ns_per_response(),
            server_user_share: outcome.server.and_then(|cpu| cpu.user_share()),
            bodies_checked,
            faults: outcome.faults.clone(),
        }
    }
}

fn print(summary: &Summary, args: &LoadArgs) {
    let loop_kind = match (args.rate, args.trickle) {
        (Some(rate), _) => format!("open loop at {rate} requests/s"),
        (None, true) => "one request for each answer".into(),
        (None, false) => "closed loop".into(),
    };
    println!("{} connections, depth {}, {loop_kind}, {:.2} s", args.connections, args.depth, summary.seconds);
    println!("  {:.0} checked responses/s", summary.responses_per_second);
    if !summary.throughput_is_its_own {
        println!("  refused as the server's: the generator's core was the limit");
    }
    let Percentiles { mean, p50, p75, p90, p97_5, p99, p999, p9999, max } = summary.block_latency_us;
    println!(
        "  {} latency us: mean {mean:.0}, p50 {p50:.0}, p75 {p75:.0}, p90 {p90:.0}, p97.5 {p97_5:.0}, p99 {p99:.0}, \
         p99.9 {p999:.0}, p99.99 {p9999:.0}, max {max:.0}",
        if args.trickle { "request" } else { "block" },
    );
    if args.rate.is_some() {
        println!(
            "  blocks left at most {:.0} us late; their latency counts from when they were due",
            summary.late_us_max
        );
    }
    println!(
        "  generator: {:.0} ns per response, {:.0} % of its CPU",
        summary.generator_ns_per_response,
        summary.generator_busy * 100.0,
    );
    if let Some(ns) = summary.server_ns_per_response {
        let user = summary.server_user_share.unwrap_or_default() * 100.0;
        println!("  server: {ns:.0} ns per response, {user:.0} % of it in user space");
    }
    if summary.bodies_checked > 0 {
        println!("  {} bodies parsed", summary.bodies_checked);
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
