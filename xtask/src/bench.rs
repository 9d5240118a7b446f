//! `cargo xtask bench-cluster`: what `todo-bench` measures of a cluster, over a release build.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{self, Ended, Places, SECRET};
use crate::command::{build_release, command, root, scratch, succeed};
use crate::http::Client;
use crate::stack::service::Service;
use crate::stack::{Scoped, Security};

/// Todos that a cluster is filled with before it is measured.
const SEEDED: &str = "--count=10000";
/// Writes before anything is measured: a Kafka just started spends three times as much on a batch, until its JVM has compiled
/// what is hot.
const WARM_UP: [&str; 3] = ["--connections=64", "--depth=64", "--seconds=40"];
/// Until the worker has applied what the run before has left.
const LAG_TIMEOUT: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Starts a stack and a worker and measures a server there: its reads beside those of a server on a file, how many writes
/// it acknowledges, and how many the worker applies.
///
/// With `results` each measurement is kept there too, as a file of a run.
pub fn run_cluster(arguments: &[String], results: Option<&Path>) -> Result<bool, String> {
    build_release()?;
    let scoped = Scoped::start("bench-stack", Security::Open)?;
    let worker = Ended(cluster::start_worker("worker", &scratch("bench")?, &Places::of(&scoped.stack))?);
    measure(&scoped.stack.variables(), &worker.0, arguments, results)
}

fn measure(
    variables: &[(&'static str, String)],
    worker: &Service,
    arguments: &[String],
    results: Option<&Path>,
) -> Result<bool, String> {
    let release = root().join("target/release");
    let run = |program: &str, words: &[&str]| -> Command {
        let mut run = command(release.join(program), words);
        run.envs(variables.iter().map(|(name, value)| (*name, value.as_str()))).env("JWT_SECRET", SECRET);
        run
    };
    succeed(&mut run("todo-server", &["seed", SEEDED]))?;
    let address = format!("--worker=127.0.0.1:{}", worker.port());
    let writes = |words: &[&str]| {
        let mut writes = run("todo-bench", &["writes", "--cluster", &address]);
        writes.args(words);
        writes
    };
    let mut reads = run("todo-bench", &["cluster"]);
    reads.args(arguments);
    println!("warming up");
    succeed(&mut writes(&WARM_UP))?;
    let runs = [
        ("writes-cluster-16.json", writes(&["--connections=64", "--depth=16", "--seconds=10"])),
        ("writes-cluster-64.json", writes(&["--connections=64", "--depth=64", "--seconds=10"])),
        ("writes-cluster-1.json", writes(&["--connections=200", "--depth=1", "--seconds=10"])),
        (
            "writes-cluster-rate.json",
            writes(&["--connections=64", "--depth=16", "--rate=20000", "--seconds=30", "--warmup=3"]),
        ),
        ("cluster.json", reads),
    ];
    let mut failures = 0;
    for (file, mut run) in runs {
        if let Some(directory) = results {
            run.arg("--json").arg(directory.join(file));
        }
        wait_until_applied(worker)?;
        if let Err(reason) = succeed(&mut run) {
            eprintln!("{reason}");
            failures += 1;
        }
    }
    Ok(failures == 0)
}

fn wait_until_applied(worker: &Service) -> Result<(), String> {
    let deadline = Instant::now() + LAG_TIMEOUT;
    loop {
        let response = Client::connect(worker.port())?.request("GET", "/ready", "", "")?;
        let ready: Value = serde_json::from_slice(&response.body).map_err(|error| format!("/ready: {error}"))?;
        if ready["lag"] == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("the worker does not catch up: {ready}"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
