//! `cargo xtask ...`: the project's own commands, the same on a desk and in CI.
//!
//! - `test`: everything deterministic, one named step after another (`test`), from what each check is made of:
//!   `imports`, `licences`, `links`, `sanitizer`, `readme`, `tutorial`, `tuning`, `transcript`, `openapi`, `manifests`,
//!   `monitoring`, `schemathesis`, `dashboard`.
//! - `soak`: what needs time: fuzzing, kills under load, chaos, attacks, load (`soak`).
//! - `stack`: Postgres, Redis and Kafka for development and for the tests (`stack`).
//! - `abuse`: attacks on the server while others use it (`abuse`).
//! - `swap`: the server's process replaced under load (`swap`).
//! - `demo`: servers and a worker over a stack (`cluster`), and what a write takes to be seen (`demo`).
//! - `chaos`: the same cluster while one of its parts fails (`chaos`).
//! - `bench`: a release build, then every measurement and a page of them (`suite`); the same for a cluster (`bench`).
//!
//! `command` runs programs, `libtest` reads what tests print, `report` counts, `tools` installs, `server` starts the
//! server under test and `http` speaks to it.

mod abuse;
mod bench;
mod chaos;
mod cluster;
mod command;
mod dashboard;
mod demo;
mod http;
mod imports;
mod libtest;
mod licences;
mod links;
mod manifests;
mod monitoring;
mod openapi;
mod peers;
mod readme;
mod report;
mod sanitizer;
mod schemathesis;
mod server;
mod soak;
mod stack;
mod suite;
mod swap;
mod test;
mod tools;
mod transcript;
mod tuning;
mod tutorial;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything deterministic: format, lints, tests on both drivers and accept modes, sanitizer, documents.
    Test(test::Arguments),
    /// Fuzzing, kill -9 under write load, chaos, attacks, and load, for a given time.
    Soak(soak::Arguments),
    /// Real Postgres, Redis and Kafka, for servers and workers on this machine.
    Stack {
        #[command(subcommand)]
        action: stack::Action,
    },
    /// Real traffic through real services while one of them fails, round after round.
    Chaos(chaos::Arguments),
    /// The server's process replaced again and again under load, while nobody may notice.
    Swap(swap::Arguments),
    /// Attacks on the server while others use it: what they notice, its memory, and how soon it is as before.
    Abuse(abuse::Arguments),
    /// The whole cluster on this machine: writes on one server, reads on another, and how long that takes.
    Demo,
    /// Release build, then all that is published of reads, writes, latency and memory, as one page in `bench/runs/`; with
    /// arguments behind `--` only `todo-bench matrix` with those.
    Bench(suite::Arguments),
    /// Builds the servers of others that the bench compares with, into target/peers.
    Peers,
    /// Release build, a stack and a worker: writes through Kafka, and a server's reads beside those of one on a file.
    BenchCluster {
        /// Handed to `todo-bench cluster` as they are.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = sanitizer::wrap_if_asked().and_then(|()| match Arguments::parse().task {
        Task::Test(arguments) => test::run(&arguments),
        Task::Soak(arguments) => soak::run(&arguments),
        Task::Stack { action } => stack::run(&action),
        Task::Chaos(arguments) => chaos::run(&arguments),
        Task::Swap(arguments) => swap::run(&arguments),
        Task::Abuse(arguments) => abuse::run(&arguments),
        Task::Demo => demo::run(),
        Task::Bench(arguments) => suite::run(&arguments),
        Task::Peers => peers::run(),
        Task::BenchCluster { arguments } => bench::run_cluster(&arguments, None),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("cargo xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}
