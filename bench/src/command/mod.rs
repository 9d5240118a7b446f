//! Subcommands: arguments in, text or JSON out, and an exit code that a script can trust.

mod load;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use todo_bench::error::Result;
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
}

/// Runs the subcommand. 0: passed. 1: the server failed. 2: the run could not be carried out, or not be judged.
pub fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("todo-bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<Verdict> {
    match command {
        Command::Load(args) => load::run(&args),
        Command::Loop(reference) => empty_loop::serve(&reference).map(|()| Verdict::Passed),
        Command::Floor { mode, reference } => floor::serve(mode, &reference).map(|()| Verdict::Passed),
    }
}
