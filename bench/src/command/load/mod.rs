//! `todo-bench load`: one window of load on any HTTP/1.1 server that runs already.

mod summary;

use crate::command::Verdict;
use rustix::process::Pid;
use std::io::IsTerminal;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use summary::{Ran, Summary};
use todo_bench::condition::{Condition, Metric};
use todo_bench::error::{Context, Error, Result};
use todo_bench::limits::REQUEST_BODY_BYTES_MAX;
use todo_bench::load::exchange::{self, Framing, Request, StatusExpected, Traffic};
use todo_bench::load::slow::{self, SlowReaders};
use todo_bench::load::{self, Options, Progress};
use todo_bench::mix::{self, MixBase};
use todo_bench::request::{self, Url};
use todo_bench::{headers, input};

#[derive(clap::Args)]
pub struct LoadArgs {
    /// What to ask for; with --mix only its host and port matter.
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
    /// The status that every answer must have; any 2xx when absent.
    #[arg(long, value_name = "CODE")]
    status: Option<StatusExpected>,
    /// File with a request in each line, `WEIGHT METHOD TARGET [headers=FILE] [body=FILE] [status=CODE] [browser-head]
    /// [no-newest]`, mixed at random by weight.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["method", "body", "status"])]
    mix: Option<PathBuf>,
    /// Decides the order of the mix.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A header field, `Name: value`; may be repeated.
    #[arg(long = "header", value_name = "LINE")]
    header_lines: Vec<String>,
    /// File with a header field in each line.
    #[arg(long, value_name = "FILE")]
    headers: Option<PathBuf>,
    /// Send what a browser sends beside: a head of some 500 bytes.
    #[arg(long)]
    browser_head: bool,
    /// Close a connection after so many answers, and open it again.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests_per_connection: Option<u64>,
    /// Open a connection again that the server closed between answers (no fault), or that was lost (a fault).
    #[arg(long)]
    reconnect: bool,
    /// Connections beside the measured ones that read slowly.
    #[arg(long, value_name = "N", requires = "slow_bytes_per_second")]
    slow_readers: Option<usize>,
    /// What each of them reads.
    #[arg(long, value_name = "BYTES", requires = "slow_readers", value_parser = clap::value_parser!(u64).range(1..))]
    slow_bytes_per_second: Option<u64>,
    /// Parse every so many-th body as JSON; one that is not is a fault.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    json_every: Option<u64>,
    /// In lists of objects with an `id`, the first one's never goes back on a connection.
    #[arg(long)]
    newest_never_back: bool,
    /// Fail, with exit code 1, when this holds: `p99>5ms`, `max>=1s`, `rps<100000`, `errors>0`, `non-2xx>1%`; may be
    /// repeated. One on `errors` decides alone which faults are too many, one on `non-2xx` which statuses.
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

/// Fails when a single answer is wrong or missing, or a condition holds.
pub fn run(args: &LoadArgs) -> Result<Verdict> {
    let url = Url::parse(&args.url)?;
    let traffic = args.traffic(&url)?;
    let (address, socket) = url.reach()?;
    let ran = args.run(address, socket, &traffic)?;
    let summary = Summary::of(&ran, args, &traffic);
    if args.json {
        let text = serde_json::to_string_pretty(&summary).map_err(std::io::Error::from).context("writing JSON")?;
        println!("{text}");
    } else {
        summary.print(args);
    }
    for condition in summary.conditions.iter().filter(|condition| condition.holds) {
        let why = if condition.is_unjudged { "cannot be judged, the generator was the limit, by" } else { "failed by" };
        eprintln!("todo-bench: {why} {}: {}", condition.condition, condition.value);
    }
    Ok(summary.verdict(args))
}

/// One of the two generators.
enum Load {
    /// Equal requests in blocks, whose good answers have one status and a Content-Length.
    Blocks(Options),
    /// Everything else.
    Exchanges(exchange::Options),
}

impl LoadArgs {
    fn traffic(&self, url: &Url) -> Result<Traffic> {
        let mut lines = self.header_lines.join("\n") + "\n";
        if self.browser_head {
            lines += headers::BROWSER;
        }
        if let Some(path) = &self.headers {
            lines += &input::text(path)?;
        }
        if let Some(path) = &self.mix {
            let directory = path.parent().unwrap_or(Path::new(""));
            let base = MixBase { host: &url.host, header_lines: &lines, directory };
            return Traffic::new(mix::parse(&input::text(path)?, &base)?);
        }
        let body = self.body.as_ref().map(|path| input::bytes(path, REQUEST_BODY_BYTES_MAX)).transpose()?;
        let field_lines = headers::field_lines(&lines)?;
        let bytes = request::with(&self.method, &url.host, &url.target, &field_lines, body.as_deref())?;
        let request = Request::new(&self.method, &url.target, bytes);
        Traffic::new(vec![Request { expected: self.status.unwrap_or_default(), ..request }])
    }

    /// Whether it asks for nothing that only the generator of exchanges can do.
    fn is_plain(&self, traffic: &Traffic) -> bool {
        let looks_at_status = self.conditions.iter().any(|condition| condition.metric() == Metric::NonSuccess);
        traffic.requests().len() == 1
            && self.method == "GET"
            && self.requests_per_connection.is_none()
            && self.json_every.is_none()
            && !(self.reconnect || self.newest_never_back || looks_at_status)
    }

    fn load(&self, address: SocketAddr, socket: TcpStream, traffic: &Traffic) -> Result<Load> {
        let request = &traffic.requests()[0];
        // A GET does no harm; how its answer looks decides. A write is not sent to find that out.
        let head = if self.is_plain(traffic) { exchange::probe(socket, request) } else { None };
        let is_block = |head: &exchange::AnswerHead| {
            request.expected.accepts(head.status) && matches!(head.framing, Framing::Length(_)) && !head.closes
        };
        let reports_progress = self.progress || std::io::stderr().is_terminal();
        let progress = reports_progress.then(|| Arc::new(Progress::new(self.threads)));
        let cpus = self.cpu.map_or(Vec::new(), |first| (first..first + self.threads).collect());
        let (warmup, window) = (seconds(self.warmup)?, seconds(self.seconds)?);
        let server = self.pid.map(pid).transpose()?;
        Ok(match head.filter(is_block) {
            Some(head) => Load::Blocks(Options {
                address,
                request: request.bytes.clone(),
                status_expected: head.status,
                connections_count: self.connections,
                depth: self.depth,
                warmup,
                window,
                cpus,
                rate: self.rate,
                trickle: self.trickle,
                progress,
                server,
            }),
            None => Load::Exchanges(exchange::Options {
                connections_count: self.connections,
                depth: self.depth,
                warmup,
                window,
                cpus,
                rate: self.rate,
                trickle: self.trickle,
                requests_per_connection: self.requests_per_connection,
                reconnects: self.reconnect,
                json_every: self.json_every,
                newest_never_back: self.newest_never_back,
                server,
                progress,
                seed: self.seed,
                ..exchange::Options::new(address, traffic.clone())
            }),
        })
    }

    /// Runs it, beside slow readers if there are to be some.
    fn run(&self, address: SocketAddr, socket: TcpStream, traffic: &Traffic) -> Result<Ran> {
        let load = self.load(address, socket, traffic)?;
        let (Some(connections_count), Some(bytes_per_second)) = (self.slow_readers, self.slow_bytes_per_second) else {
            return Self::run_load(&load);
        };
        let (traffic, depth) = (traffic.clone(), self.depth);
        let readers = SlowReaders { address, traffic, connections_count, depth, bytes_per_second };
        let (mut ran, report) = slow::beside(&readers, || Self::run_load(&load))?;
        ran.slow_readers = Some(report);
        Ok(ran)
    }

    fn run_load(load: &Load) -> Result<Ran> {
        let progress = match load {
            Load::Blocks(options) => options.progress.as_ref(),
            Load::Exchanges(options) => options.progress.as_ref(),
        };
        std::thread::scope(|scope| {
            if let Some(progress) = progress {
                scope.spawn(|| progress.print(std::io::stderr()));
            }
            let ran = match load {
                Load::Blocks(options) => load::run(options).map(|outcome| (outcome, None)),
                Load::Exchanges(options) => {
                    exchange::run(options).map(|(outcome, exchanges)| (outcome, Some(exchanges)))
                }
            };
            if let Some(progress) = progress {
                progress.end();
            }
            ran.map(|(outcome, exchanges)| Ran { outcome, exchanges, slow_readers: None })
        })
    }
}

pub fn seconds(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| Error::Unusable(format!("{seconds} is not a length of time")))
}

fn pid(number: u32) -> Result<Pid> {
    let number = i32::try_from(number).ok();
    number.and_then(Pid::from_raw).ok_or_else(|| Error::Unusable("no such process".into()))
}
