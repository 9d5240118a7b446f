//! `cargo xtask soak`: what needs time. Half of it goes to fuzzing, an eighth to kills, a quarter to chaos, an eighth to load;
//! a few swaps, each attack once and slow readers are beside that.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::command::{build_release, cargo, command, root, scratch, succeed};
use crate::libtest;
use crate::report::{Report, Tally};
use crate::server::Server;
use crate::{abuse, chaos, sanitizer, swap, tools, tutorial};

const FUZZ_TARGETS: &[&str] = &["head", "chunked", "connection", "json", "jwt", "messages", "proxy_header"];
/// A target with a planted fault: when the fuzzer does not find it, the other targets prove nothing.
const FUZZ_PROOF: &str = "must_fail";
const FUZZ_PROOF_SECONDS: u32 = 60;
/// One start, a second of writes, kill, restart and look: some three seconds.
const SECONDS_PER_KILL: u32 = 3;
/// Traffic, a fault, its mending, and until all agree: some five seconds on an idle machine.
const SECONDS_PER_FAULT: u32 = 5;

/// A short look; `cargo xtask swap` takes more.
const SWAPS: u32 = 2;
const SWAP_EVERY: Duration = Duration::from_secs(2);

/// How long, and with which numbers.
#[derive(Args)]
pub struct Arguments {
    /// How long in all, without building.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Of everything random; made from the clock when not given. The same seed tries the same things.
    #[arg(long)]
    seed: Option<u32>,
    /// Only the parts whose name contains this.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// Runs all parts. `Ok(false)` when one has failed.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    // libFuzzer takes 32 bits, and 0 as "choose yourself".
    let seed = arguments.seed.unwrap_or_else(clock_seed).max(1);
    println!("cargo xtask soak --minutes {} --seed {seed}", arguments.minutes);
    tools::install(&tools::list(tools::FOR_SOAK))?;

    let share_seconds = arguments.minutes * 60 / 8;
    let targets_count = u32::try_from(FUZZ_TARGETS.len()).map_err(|error| error.to_string())?;
    let fuzz_seconds = (4 * share_seconds / targets_count).max(1);
    let mut report = Report::new(&arguments.only);
    report.step("fuzz targets: build", build_fuzz_targets);
    report.step("fuzzing finds a planted fault", || prove_fuzzing(seed));
    for target in FUZZ_TARGETS {
        report.step(&format!("fuzz {target}"), || fuzz(target, seed, fuzz_seconds));
    }
    report.step("socket tests under AddressSanitizer", sanitizer::check_sockets);
    report.step("release build", || build_release().map(|()| Tally::ONE));
    report.step("kill -9 under write load", || kills((share_seconds / SECONDS_PER_KILL).max(1)));
    report.step("chaos", || {
        let is_well = chaos::rounds((2 * share_seconds / SECONDS_PER_FAULT).max(1), u64::from(seed))?;
        if is_well { Ok(Tally::ONE) } else { Err("a promise was broken".to_owned()) }
    });
    report.step("swaps under load", || {
        let is_well = swap::rounds(SWAPS, false, SWAP_EVERY)?;
        if is_well { Ok(Tally::ONE) } else { Err("somebody has noticed".to_owned()) }
    });
    report.step("attacks, while others use the server", || {
        let is_well = abuse::short()?;
        if is_well { Ok(Tally::ONE) } else { Err("somebody was hurt".to_owned()) }
    });
    report.step("a byte a second beside writes", drip);
    report.step("load", || load(share_seconds.max(1)));
    report.step("the tutorial of docs/benchmarks.md", tutorial::check);
    Ok(report.end())
}

fn clock_seed() -> u32 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |age| age.subsec_nanos())
}

fn fuzz_command(arguments: &[&str]) -> std::process::Command {
    let mut fuzz = command(tools::cargo_fuzz(), &["fuzz"]);
    fuzz.args(arguments).args(["--fuzz-dir", "server/fuzz"]);
    // The instrumentation flags are unstable; this makes the stable compiler take them.
    fuzz.env("RUSTC_BOOTSTRAP", "1");
    fuzz
}

fn build_fuzz_targets() -> Result<Tally, String> {
    succeed(&mut fuzz_command(&["build"])).map(|()| Tally::ONE)
}

fn prove_fuzzing(seed: u32) -> Result<Tally, String> {
    let corpus = new_corpus(FUZZ_PROOF)?;
    let mut fuzz = fuzz_command(&["run"]);
    fuzz.arg(FUZZ_PROOF).arg(corpus).arg("--").args(libfuzzer_options(seed, FUZZ_PROOF_SECONDS));
    match succeed(&mut fuzz) {
        Ok(()) => Err(format!("{FUZZ_PROOF} ran {FUZZ_PROOF_SECONDS} s without finding its fault")),
        // Its finding is expected, and not to be kept among the real ones.
        Err(_) => take_findings(FUZZ_PROOF).map(|()| Tally::ONE),
    }
}

fn fuzz(target: &str, seed: u32, seconds: u32) -> Result<Tally, String> {
    let fuzz_directory = root().join("server/fuzz");
    let mut fuzz = fuzz_command(&["run"]);
    // New inputs go into the first directory, so that a run leaves the committed corpus alone.
    fuzz.arg(target).arg(new_corpus(target)?).arg(fuzz_directory.join("corpus").join(target));
    fuzz.arg("--").args(libfuzzer_options(seed, seconds));
    succeed(&mut fuzz).map(|()| Tally::ONE)
}

fn libfuzzer_options(seed: u32, seconds: u32) -> [String; 3] {
    [format!("-seed={seed}"), format!("-max_total_time={seconds}"), "-print_final_stats=1".to_owned()]
}

/// Kept between runs below `target/`, so that a longer soak goes on where the last one stopped.
fn new_corpus(target: &str) -> Result<std::path::PathBuf, String> {
    scratch(&format!("corpus/{target}"))
}

/// Removes what the planted fault left. An error when it left nothing: then something else went wrong.
fn take_findings(target: &str) -> Result<(), String> {
    let findings = root().join("server/fuzz/artifacts").join(target);
    let any = std::fs::read_dir(&findings).is_ok_and(|mut entries| entries.next().is_some());
    if !any {
        return Err(format!("{target} failed without a finding in {}", findings.display()));
    }
    std::fs::remove_dir_all(&findings).map_err(|error| format!("{}: {error}", findings.display()))
}

/// The test of the same name, for more rounds.
fn kills(rounds: u32) -> Result<Tally, String> {
    let mut kills = cargo(&["test", "--locked", "--package", "todo-server", "--test", "it", "crash"]);
    libtest::run(kills.env("KILL_ROUNDS", rounds.to_string()))
}

/// Clients that take a byte a second of a long list, by the server's own defaults. Beside 5,000 writes a second they are cut
/// when `SUPERSEDED_BYTES_MAX` is reached, beside 100 by `PROGRESS_TIMEOUT`, which may take twice its time. What they
/// hold is one version of the list, 20 MiB; the bound on memory, below both that limit and `UNSENT_BYTES_MAX` together, is ten
/// times what was seen, with the pages of SQLite and what is written. Half the rate leaves room for a busy machine.
fn drip() -> Result<Tally, String> {
    for (rate, least) in [("--rate=5000", "--min=2500"), ("--rate=100", "--min=50")] {
        let mut drip = command(root().join("target/release/todo-bench"), &["drip", "--todos=100000", rate, least]);
        succeed(drip.args(["--cut-within=60", "--max-mib=192"]))?;
    }
    Ok(Tally::ONE)
}

/// Reads of three shapes at three depths; the generator fails on any answer that is not right.
fn load(seconds: u32) -> Result<Tally, String> {
    let release = root().join("target/release");
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let mut server = Server::start(&release.join("todo-server"), directory.path(), &[])?;
    let shapes = [("limit=10", "64", "1"), ("limit=10", "256", "80"), ("limit=1000", "16", "4")];
    for (query, connections, depth) in shapes {
        read(&release.join("todo-bench"), server.port, query, connections, depth, (seconds / 3).max(1))?;
    }
    server.terminate()?;
    let status = server.wait()?;
    if status.success() { Ok(Tally::ONE) } else { Err(format!("after SIGTERM the server ended with {status}")) }
}

fn read(bench: &Path, port: u16, query: &str, connections: &str, depth: &str, seconds: u32) -> Result<(), String> {
    let url = format!("http://127.0.0.1:{port}/todos?{query}");
    let mut load = command(bench, &["load", "--url", &url, "--connections", connections, "--depth", depth]);
    succeed(load.args(["--seconds", &seconds.to_string()]))
}
