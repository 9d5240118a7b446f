//! `cargo xtask bench`: every measurement of a server on a file, one after the other, kept in a directory and shown as a page.
//!
//! ```text
//! bench/runs/<date>-<machine>/
//!     machine.json            what the figures depend on
//!     matrix.json             CPU per read, server and floors interleaved
//!     matrix-peers.json       beside the servers of others
//!     armour.json             all that defends and watches switched on, beside all of it off
//!     matrix-writes-*.json    the same beside writes, and the age of what is read
//!     latency-*.json          an open loop's latency, rate by rate
//!     memory-*.json           idle connections, and clients that never read
//!     writes.json             durable writes a second
//!     cluster.json, writes-cluster-*.json    the same server on Kafka, Postgres and Redis, reads beside those of a file
//!     report.html             the page
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::bench;
use crate::command::{build_release, capture, command, root, succeed};
use crate::peers;
use crate::server::Server;

/// Reads: todos in a list, connections, depth.
const CELLS: [&str; 6] = [
    "limit=10,conns=64,depth=1",
    "limit=10,conns=64,depth=16",
    "limit=10,conns=64,depth=80",
    "limit=10,conns=2000,depth=80",
    "limit=1,conns=64,depth=80",
    "limit=1000,conns=64,depth=1",
];
/// The same beside the servers of others, whose windows are as many again.
const PEER_CELLS: [&str; 5] = [
    "limit=10,conns=64,depth=80",
    "limit=10,conns=64,depth=16",
    "limit=10,conns=64,depth=1",
    "limit=1,conns=64,depth=80",
    "limit=1000,conns=64,depth=1",
];
/// Writes a second beside which reads are measured, and how many are in flight on each of 64 connections: one at a time
/// would wait for the disk more often than 20,000 a second allow.
const WRITE_RATES: [(&str, &str); 2] = [("5000", "1"), ("20000", "16")];
/// Reads with everything switched on that defends and watches, so high that nothing is refused; beside the same server without.
const ARMOUR_CELLS: [&str; 2] = ["limit=10,conns=64,depth=16", "limit=10,conns=64,depth=1"];
const ARMOUR_GATES: [&str; 2] =
    ["limit=10,conns=64,depth=16,over=variant,max=1.03", "limit=10,conns=64,depth=1,over=variant,max=1.03"];
const ARMOUR: [&str; 7] = [
    "ACCESS_LOG=stderr",
    "CONNECTIONS_PER_ADDRESS=10000",
    "NEW_CONNECTIONS_PER_SECOND=1000000",
    "REQUESTS_PER_SECOND=10000000",
    "WRITES_PER_SECOND_PER_SUBJECT=10000000",
    "PROXY_FROM=192.0.2.0/24",
    "TRUSTED_NETWORKS=198.51.100.0/24",
];
/// Deadlines and counters cannot be switched off: what they cost is in every ratio over a floor.
const WITHOUT_ARMOUR: &str = "ACCESS_LOG=off";
/// Reads a second, one at a time on each connection, whose latency is taken.
const READ_RATES: [&str; 3] = ["5000", "20000", "50000"];

/// What to do.
#[derive(clap::Args)]
pub struct Arguments {
    /// A few short rounds, without the cluster: whether everything runs, not what it costs.
    #[arg(long)]
    quick: bool,
    /// Nothing of the cluster, whose services take a quarter of the time.
    #[arg(long)]
    no_cluster: bool,
    /// Rounds of each cell, at least; a gate under 1.05 takes up to 100.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Another run's directory: the page says what differs by more than noise.
    #[arg(long, value_name = "RUN")]
    against: Option<PathBuf>,
    /// Handed to `todo-bench matrix` as they are; nothing else is run then.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    matrix: Vec<String>,
}

/// Runs it. `Ok(false)` when a gate failed or a measurement could not be judged; the page says which.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    build_release()?;
    if !arguments.matrix.is_empty() {
        succeed(todo_bench(&["matrix"]).args(&arguments.matrix))?;
        return Ok(true);
    }
    let machine = capture(&mut todo_bench(&["machine", "--json"]))?;
    let directory = root().join("bench/runs").join(name(&machine)?);
    std::fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    write(&directory.join("machine.json"), &machine)?;

    let peers = peers::build()?;
    let mut failed = Vec::new();
    for (file, mut measurement) in measurements(arguments, &directory, &peers) {
        println!("\n== {file}");
        // A gate that fails is a result; the others are measured all the same.
        if let Err(reason) = succeed(&mut measurement) {
            failed.push(format!("{file}: {reason}"));
        }
    }
    latencies(arguments, &directory)?;
    if !arguments.quick && !arguments.no_cluster {
        println!("\n== the cluster");
        let rounds = format!("--rounds={}", arguments.rounds);
        if !bench::run_cluster(&[rounds], Some(&directory))? {
            failed.push("the cluster: a measurement failed; see above".to_owned());
        }
    }
    let mut report = todo_bench(&["report"]);
    report.arg(&directory);
    if let Some(other) = &arguments.against {
        report.arg("--against").arg(other);
    }
    succeed(&mut report)?;
    for reason in &failed {
        println!("{reason}");
    }
    Ok(failed.is_empty())
}

/// What starts its own server, and the file that each writes.
fn measurements(arguments: &Arguments, directory: &Path, peers: &Path) -> Vec<(String, Command)> {
    let rounds = if arguments.quick { "2".to_owned() } else { arguments.rounds.to_string() };
    let (window, age) = if arguments.quick { ("0.2", "2") } else { ("0.5", "10") };
    let mut timing = vec!["--rounds-min", &rounds, "--seconds", window];
    if arguments.quick {
        timing.extend(["--rounds-max", &rounds]); // else as many as a narrow gate needs
    }
    let mut all: Vec<(String, Command)> = Vec::new();
    let mut add = |file: String, words: &[&str]| {
        let mut measurement = todo_bench(words);
        measurement.arg("--json").arg(directory.join(&file));
        all.push((file, measurement));
    };
    let cells: Vec<&str> = CELLS.iter().flat_map(|cell| ["--cell", cell]).collect();
    add("matrix.json".to_owned(), &[&["matrix"][..], &timing, &cells].concat());
    let cells: Vec<&str> = PEER_CELLS.iter().flat_map(|cell| ["--cell", cell]).collect();
    // Only the floors that are asked for in the gates of these cells: the peers are many.
    let references = ["--references", "floor-epoll,floor-uring", "--rounds-max", &rounds, "--rounds-min", &rounds];
    let beside = ["--seconds", window, "--peers", &peers.to_string_lossy()];
    add("matrix-peers.json".to_owned(), &[&["matrix"][..], &references, &beside, &cells].concat());
    let cells = ARMOUR_CELLS.iter().flat_map(|cell| ["--cell", cell]);
    let gates = ARMOUR_GATES.iter().flat_map(|gate| ["--gate", gate]);
    let settings = ARMOUR.iter().flat_map(|setting| ["--set", setting]).chain(["--variant", WITHOUT_ARMOUR]);
    let armour: Vec<&str> = cells.chain(gates).chain(settings).collect();
    add("armour.json".to_owned(), &[&["matrix"][..], &timing, &armour].concat());
    for (rate, depth) in WRITE_RATES {
        let beside = ["--writes-only", "--writes", rate, "--writes-depth", depth, "--age-seconds", age];
        add(format!("matrix-writes-{rate}.json"), &[&["matrix"][..], &timing, &beside].concat());
    }
    let (idle, seconds) = if arguments.quick { ("500", "1") } else { ("5000", "3") };
    add("memory-idle.json".to_owned(), &["idle", "--connections", idle]);
    add("memory-stall.json".to_owned(), &["stall"]);
    add("writes.json".to_owned(), &["writes", "--connections", "64", "--depth", "16", "--seconds", seconds]);
    all
}

/// Latency at a rate, on a server of one shard on the first CPU; the generator has the last.
fn latencies(arguments: &Arguments, directory: &Path) -> Result<(), String> {
    let place =
        tempfile::tempdir_in(root().join("target/release")).map_err(|error| format!("no directory: {error}"))?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut pinned = Command::new("taskset");
    pinned.args(["--cpu-list", "0"]).arg(root().join("target/release/todo-server")).env("SHARDS", "1");
    let server = Server::start_command(pinned, place.path())?;
    let url = format!("http://127.0.0.1:{}/todos?limit=10", server.port);
    let (seconds, cpu) = (if arguments.quick { "1" } else { "10" }, (cpus - 1).to_string());
    for rate in READ_RATES {
        println!("\n== latency-{rate}.json");
        let load =
            ["load", "--url", &url, "--depth", "1", "--rate", rate, "--seconds", seconds, "--cpu", &cpu, "--json"];
        let text = capture(&mut todo_bench(&load))?;
        write(&directory.join(format!("latency-{rate}.json")), &text)?;
    }
    Ok(())
}

fn todo_bench(words: &[&str]) -> Command {
    command(root().join("target/release/todo-bench"), words)
}

/// `<date>-<machine>`, of small letters, digits and hyphens.
fn name(machine: &str) -> Result<String, String> {
    let machine: Value = serde_json::from_str(machine).map_err(|error| format!("todo-bench machine: {error}"))?;
    let model = machine["cpu_model"].as_str().unwrap_or("machine");
    let cpus = machine["cpus_count"].as_u64().unwrap_or(0);
    let date = capture(&mut command("date", &["--utc", "+%F"]))?;
    Ok(slug(&format!("{} {model} {cpus} cpus", date.trim())))
}

fn slug(text: &str) -> String {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_ascii_lowercase()
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    use std::io::Write as _;
    let mut file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    file.write_all(text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_named_after_its_day_and_machine() {
        assert_eq!(slug("2026-11-25 AMD EPYC (Zen 4) 2 cpus"), "2026-11-25-amd-epyc-zen-4-2-cpus");
    }

    #[test]
    fn every_measurement_keeps_its_result_in_a_file_of_its_own() {
        let arguments = Arguments { quick: true, no_cluster: true, rounds: 20, against: None, matrix: Vec::new() };
        let measurements = measurements(&arguments, Path::new("run"), Path::new("peers"));
        let mut files: Vec<&String> = measurements.iter().map(|(file, _)| file).collect();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), measurements.len());
        for (file, measurement) in &measurements {
            let last = measurement.get_args().last().map(PathBuf::from);
            assert_eq!(last, Some(Path::new("run").join(file)));
        }
    }
}
