//! Subcommands: arguments in, text or JSON out, and an exit code that a script can trust.

mod abuse;
mod audit;
mod balance;
mod cluster;
mod drip;
mod load;
mod machine;
mod matrix;
mod memory;
mod report;
mod scale;
mod server;
mod writes;

use clap::{Parser, Subcommand};
use std::path::Path;
use std::process::ExitCode;
use todo_bench::error::{Context, Result};
use todo_bench::{empty_loop, floor};

/// Measures the Todo API and the least that any server of its answers must cost.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load on a running server, every answer checked.
    Load(load::LoadArgs),
    /// A server, interleaved with floors and the empty loop: CPU per request, ratios, gates.
    Matrix(matrix::MatrixArgs),
    /// A server in a cluster beside one on a file: reads alone, beside writes, and the age of what is read.
    Cluster(cluster::ClusterArgs),
    /// Durable writes per second.
    Writes(writes::WritesArgs),
    /// Every write read back at once on other connections.
    Pairs(writes::PairsArgs),
    /// How evenly shards share connections, and what taking one costs, for each way to accept.
    Balance(balance::BalanceArgs),
    /// What another shard adds: servers of 1, 2, 4 and 8 shards interleaved; more than there are cores are called oversubscribed.
    Scale(scale::ScaleArgs),
    /// Attacks on a server while others use it: their latency, its memory, its recovery.
    Abuse(abuse::AbuseArgs),
    /// Whether a result of autocannon, wrk or h2load agrees with itself; every finding shows its arithmetic.
    Audit(audit::AuditArgs),
    /// What figures of this machine depend on: CPUs, kernel and its settings, compiler, commit.
    Machine(machine::MachineArgs),
    /// One page, `report.html`, of all that a run's directory holds; with --against also what differs from another run.
    Report(report::ReportArgs),
    /// Memory of idle connections.
    Idle(memory::IdleArgs),
    /// Memory of connections that ask and never read.
    Stall(memory::StallArgs),
    /// Clients that take a byte a second of the whole list while writes run: when they are cut, and what they cost.
    Drip(drip::DripArgs),
    /// The server's own runtime and I/O with a byte counter for a parser; ends with its standard input.
    Loop(floor::ReferenceArgs),
    /// A reference server that parses nothing; ends with its standard input.
    Floor {
        /// How it waits and sends.
        #[arg(long)]
        mode: floor::Mode,
        #[command(flatten)]
        reference: floor::ReferenceArgs,
    },
}

/// How a run ended.
enum Verdict {
    /// Everything was measured, and every gate held.
    Passed,
    /// A fault of the server, or a gate that did not hold.
    Failed,
    /// The machine was too noisy, or the pair not comparable.
    Unjudged,
}

impl Verdict {
    fn of(is_good: bool) -> Verdict {
        if is_good { Verdict::Passed } else { Verdict::Failed }
    }
}

/// Runs the subcommand. 0: passed. 1: the server failed. 2: the run could not be carried out. 3: it cannot be judged.
pub fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::FAILURE,
        Ok(Verdict::Unjudged) => ExitCode::from(3),
        Err(error) => {
            eprintln!("todo-bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<Verdict> {
    match command {
        Command::Load(args) => load::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Writes(args) => writes::run(&args),
        Command::Pairs(args) => writes::run_pairs(&args),
        Command::Balance(args) => balance::run(&args),
        Command::Scale(args) => scale::run(&args),
        Command::Abuse(args) => abuse::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Machine(args) => machine::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Idle(args) => memory::run_idle(&args),
        Command::Stall(args) => memory::run_stall(&args),
        Command::Drip(args) => drip::run(&args),
        Command::Loop(reference) => empty_loop::serve(&reference).map(|()| Verdict::Passed),
        Command::Floor { mode, reference } => floor::serve(mode, &reference).map(|()| Verdict::Passed),
    }
}

fn write_json(report: &impl serde::Serialize, path: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(report).map_err(std::io::Error::from).context("making JSON")?;
    std::fs::write(path, text + "\n").context(format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Two arguments of one name, a default that does not parse: said here and not at the first use.
    #[test]
    fn the_arguments_are_sound() {
        Arguments::command().debug_assert();
    }
}
