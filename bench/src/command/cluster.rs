//! `todo-bench cluster`: a server on the services of a cluster beside one on a file, under the same reads and writes.

use crate::command::load::seconds;
use crate::command::server::{ServerArgs, Started};
use crate::command::{Verdict, write_json};
use std::path::PathBuf;
use todo_bench::error::Result;
use todo_bench::matrix::{Cell, Rounds};
use todo_bench::writes::compare::{self, CompareReport};
use todo_bench::writes::interference::Options;

#[derive(clap::Args)]
pub struct ClusterArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// The reads; may be repeated.
    #[arg(long = "cell", default_values = ["limit=10,conns=64,depth=1", "limit=10,conns=64,depth=16", "limit=1000,conns=64,depth=1"])]
    cells: Vec<Cell>,
    /// Writes a second beside them.
    #[arg(long, default_value_t = 5_000.0)]
    writes: f64,
    /// Connections that write.
    #[arg(long, default_value_t = 64)]
    writes_connections: usize,
    /// Rounds of every cell.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// The measured window, in seconds.
    #[arg(long, default_value_t = 0.6)]
    seconds: f64,
    /// Load before each window, in seconds.
    #[arg(long, default_value_t = 0.2)]
    warmup: f64,
    /// How long ages are taken, in seconds.
    #[arg(long, default_value_t = 10.0)]
    age_seconds: f64,
    /// Largest good ratio of shard CPU per read, cluster over file.
    #[arg(long, default_value_t = 1.05)]
    ratio_max: f64,
    /// Largest good p99 age, in milliseconds.
    #[arg(long, default_value_t = 50.0)]
    age_p99_ms_max: f64,
    /// Decides the order of the windows and the resampling.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the whole result here.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub fn run(args: &ClusterArgs) -> Result<Verdict> {
    let Started { server, generator_cpu, .. } = args.server.start_on_services()?;
    let Started { server: peer, .. } = args.server.start_on_file()?;
    println!("server {}, driver {}", server.version()?, server.driver()?);
    let mut reports = Vec::new();
    for &cell in &args.cells {
        let rounds = Rounds {
            rounds_min: args.rounds,
            rounds_max: args.rounds,
            a_a_width: None,
            warmup: seconds(args.warmup)?,
            window: seconds(args.seconds)?,
            seed: args.seed,
        };
        let options = Options {
            cell,
            write_rate: args.writes,
            write_connections_count: args.writes_connections,
            write_depth: 1,
            generator_cpu,
            rounds,
            age_window: seconds(args.age_seconds)?,
        };
        let report = compare::run(&server, &peer, &options)?;
        compare::print(&report, ["cluster", "file"]);
        reports.push(report);
    }
    // A run that differs from itself judges no ratio.
    let is_judged = |report: &CompareReport| report.a_a.contains(1.0);
    let is_good = reports.iter().all(|report| {
        let ratios = [report.alone, report.beside];
        report.faults.is_empty()
            && (!is_judged(report) || ratios.iter().all(|ratio| ratio.low <= args.ratio_max))
            && report.ages.p99_ms <= args.age_p99_ms_max
            && report.ages.went_back_count == 0
            && report.ages.unreadable_count == 0
    });
    if let Some(path) = &args.json {
        write_json(&reports, path)?;
    }
    Ok(if is_good && !reports.iter().all(is_judged) { Verdict::Unjudged } else { Verdict::of(is_good) })
}
