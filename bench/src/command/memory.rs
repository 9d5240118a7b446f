//! `todo-bench idle` and `todo-bench stall`: what held connections cost.

use crate::command::load::seconds;
use crate::command::server::ServerArgs;
use crate::command::{Verdict, write_json};
use std::path::PathBuf;
use todo_bench::error::Result;
use todo_bench::matrix::mebibytes;
use todo_bench::memory;

#[derive(clap::Args)]
pub struct IdleArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Connections, each answered once.
    #[arg(long, default_value_t = 5_000)]
    connections: usize,
    /// Silence before the memory is looked at, in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Most bytes of process memory per connection.
    #[arg(long, default_value_t = 1024.0)]
    max_bytes: f64,
    /// Write the whole result here.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
pub struct StallArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Connections that ask and never read.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Todos in each list they ask for.
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// Lists that each asks for.
    #[arg(long, default_value_t = 80)]
    depth: usize,
    /// How long they are held, in seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Most growth of process and kernel memory together, in MiB.
    #[arg(long, default_value_t = 64.0)]
    max_mib: f64,
    /// Write the whole result here.
    #[arg(long)]
    json: Option<PathBuf>,
}

pub fn run_idle(args: &IdleArgs) -> Result<Verdict> {
    let started = args.server.start()?;
    let report = memory::idle(&started.server, args.connections, seconds(args.seconds)?)?;
    memory::print(&report);
    if let Some(path) = &args.json {
        write_json(&report, path)?;
    }
    Ok(Verdict::of(report.process_bytes_per_connection() <= args.max_bytes))
}

pub fn run_stall(args: &StallArgs) -> Result<Verdict> {
    let started = args.server.start()?;
    let hold = seconds(args.seconds)?;
    let report = memory::stall(&started.server, args.connections, args.limit, args.depth, hold)?;
    memory::print(&report);
    if let Some(path) = &args.json {
        write_json(&report, path)?;
    }
    Ok(Verdict::of(mebibytes(report.grown_bytes()) <= args.max_mib))
}
