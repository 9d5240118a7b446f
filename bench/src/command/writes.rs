//! `todo-bench writes` and `todo-bench pairs`: durable writes, counted and read back.

use crate::command::load::seconds;
use crate::command::server::ServerArgs;
use crate::command::{Verdict, write_json};
use std::net::SocketAddr;
use std::path::PathBuf;
use todo_bench::error::Result;
use todo_bench::writes::{durable, pairs};

#[derive(clap::Args)]
pub struct WritesArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Writes that a connection sends at once.
    #[arg(long, default_value_t = 16)]
    depth: usize,
    /// The measured window, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Writes before it, in seconds.
    #[arg(long, default_value_t = 0.5)]
    warmup: f64,
    /// Writes per second, sent whatever the server does, instead of as fast as they are answered.
    #[arg(long)]
    rate: Option<f64>,
    /// Address of the worker's /metrics, for what it applies meanwhile.
    #[arg(long)]
    worker: Option<SocketAddr>,
    /// Fewer durable 202 a second than this are a failure.
    #[arg(long, default_value_t = 0.0)]
    min: f64,
    /// Write the whole result here.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct PairsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Writes, each read back at once on other connections.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
}

pub fn run(args: &WritesArgs) -> Result<Verdict> {
    let started = args.server.start()?;
    let options = durable::Options {
        connections_count: args.connections,
        depth: args.depth,
        rate: args.rate,
        cpu: started.generator_cpu,
        warmup: seconds(args.warmup)?,
        window: seconds(args.seconds)?,
        worker: args.worker,
    };
    let report = durable::run(&started.server, &options)?;
    println!("{} connections, depth {}, server driver {}", args.connections, args.depth, started.server.driver()?);
    durable::print(&report);
    if let Some(path) = &args.json {
        write_json(&report, path)?;
    }
    let is_good = report.faults.is_empty() && report.refused == 0 && report.acknowledged_per_second >= args.min;
    Ok(Verdict::of(is_good))
}

pub fn run_pairs(args: &PairsArgs) -> Result<Verdict> {
    let started = args.server.start()?;
    let report = pairs::run(&started.server, args.count)?;
    println!(
        "{} write-then-read pairs on other connections: {} misses in the list, {} by id",
        report.pairs_count, report.list_misses, report.todo_misses
    );
    Ok(Verdict::of(report.list_misses == 0 && report.todo_misses == 0))
}
