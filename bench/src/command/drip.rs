//! `todo-bench drip`: clients that take a byte a second while writes run.

use crate::command::load::seconds;
use crate::command::server::ServerArgs;
use crate::command::{Verdict, write_json};
use std::path::PathBuf;
use todo_bench::drip;
use todo_bench::error::Result;
use todo_bench::matrix::mebibytes;

#[derive(clap::Args)]
pub struct DripArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Clients that ask for the whole list and take a byte a second of it.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Writes per second meanwhile, sent whatever the server does.
    #[arg(long, default_value_t = 5_000.0)]
    rate: f64,
    /// Connections that write.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Writes before the clients come, in seconds.
    #[arg(long, default_value_t = 5.0)]
    warmup: f64,
    /// All must be cut after so many seconds: twice the server's own progress timeout.
    #[arg(long, default_value_t = 60.0)]
    cut_within: f64,
    /// Fewer 202 a second than this are a failure.
    #[arg(long, default_value_t = 4_000.0)]
    min: f64,
    /// Most growth of process and kernel memory together while they are there, in MiB.
    #[arg(long, default_value_t = 192.0)]
    max_mib: f64,
    /// Write the whole result here.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub fn run(args: &DripArgs) -> Result<Verdict> {
    let started = args.server.start()?;
    let options = drip::Options {
        clients_count: args.clients,
        writes_rate: args.rate,
        connections_count: args.connections,
        cpu: started.generator_cpu,
        warmup: seconds(args.warmup)?,
        patience: seconds(args.cut_within)?,
    };
    let report = drip::run(&started.server, &options)?;
    drip::print(&report);
    if let Some(path) = &args.json {
        write_json(&report, path)?;
    }
    let is_good = report.are_cut_within(args.cut_within)
        && report.faults.is_empty()
        && report.refused == 0
        && report.acknowledged_per_second >= args.min
        && mebibytes(report.grown_bytes()) <= args.max_mib;
    Ok(Verdict::of(is_good))
}
