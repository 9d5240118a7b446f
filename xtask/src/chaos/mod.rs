//! `cargo xtask chaos`: real traffic through real services while one of them fails, round after round.
//!
//! ```text
//! for each round:
//!     writers and readers begin, at both servers
//!     a fault happens, lasts for a moment, and is mended
//!     how long until a write at each server is seen at both?      -> the table
//!     writers and readers end
//!     servers and Postgres agree, and what they agree on is what the history allows?
//! ```
//!
//! - [`arena`]: the cluster, with a proxy on every way that can be cut
//! - [`fault`]: what goes wrong
//! - [`traffic`]: writers and readers
//! - [`history`]: what was sent, what was answered, and what may be there in the end

mod arena;
mod fault;
mod history;
mod traffic;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;

use crate::command::build_release;
use arena::Arena;
use fault::Fault;
use history::Todo;
use traffic::Counts;

/// Traffic before the fault, so that there is something to lose.
const BEFORE: Duration = Duration::from_millis(500);
/// From the mending until a write at each server is seen at both: more is a failure.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// From the end of the traffic until everybody agrees.
const SETTLE_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How often, and with which numbers.
#[derive(Args)]
pub struct Arguments {
    /// Faults in all; every kind comes before one comes again.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Of everything random; made from the clock when not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Take the release builds that are there.
    #[arg(long)]
    built: bool,
}

/// Runs the rounds. `Ok(false)` when a promise was broken.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    if !arguments.built {
        build_release()?;
    }
    rounds(arguments.rounds, arguments.seed.unwrap_or_else(|| fastrand::u64(..)))
}

/// The same with what is built already.
#[expect(clippy::print_stdout, reason = "it is what the command is for")]
pub fn rounds(rounds: u32, seed: u64) -> Result<bool, String> {
    println!("cargo xtask chaos --rounds {rounds} --seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut arena = Arena::start()?;
    let mut waiting: Vec<Fault> = Vec::new();
    let mut recoveries: BTreeMap<&'static str, Vec<Duration>> = BTreeMap::new();
    let mut total = Counts::default();
    let mut violations = Vec::new();
    for round in 1..=rounds {
        if waiting.is_empty() {
            waiting = arena.faults();
            random.shuffle(&mut waiting);
        }
        let Some(fault) = waiting.pop() else { return Err("there is no fault to try".to_owned()) };
        let outcome = one_round(&mut arena, fault, round, &mut random)?;
        println!(
            "round {round}: {}: recovered in {} ms; {} writes, {} unknown, {} refused, {} reads{}",
            fault.name(),
            outcome.recovery.as_millis(),
            outcome.counts.acknowledged,
            outcome.counts.unknown,
            outcome.counts.refused,
            outcome.counts.reads,
            if outcome.violations.is_empty() { "" } else { "; VIOLATIONS:" },
        );
        for violation in &outcome.violations {
            println!("  {violation}");
        }
        recoveries.entry(fault.name()).or_default().push(outcome.recovery);
        total.add(&outcome.counts);
        violations.extend(outcome.violations);
    }
    println!("\n| fault | rounds | time to recover, median | longest |\n| --- | --- | --- | --- |");
    for (name, mut times) in recoveries {
        times.sort_unstable();
        let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
        println!("| {name} | {} | {} ms | {} ms |", times.len(), median.as_millis(), longest.as_millis());
    }
    println!(
        "\n{rounds} rounds: {} writes acknowledged, {} unknown, {} refused, {} reads; slowest write {} ms; {} violations",
        total.acknowledged,
        total.unknown,
        total.refused,
        total.reads,
        total.slowest.as_millis(),
        violations.len(),
    );
    Ok(violations.is_empty())
}

struct Outcome {
    recovery: Duration,
    counts: Counts,
    violations: Vec<String>,
}

fn one_round(arena: &mut Arena, fault: Fault, round: u32, random: &mut fastrand::Rng) -> Result<Outcome, String> {
    let traffic = traffic::begin(arena.servers(), round, random);
    std::thread::sleep(BEFORE);
    let mended = fault.happen(arena, &traffic, random)?;
    let recovered = recover(arena, &traffic, mended);
    let (todos, counts, mut violations) = traffic.end()?;
    let recovery = recovered.unwrap_or_else(|reason| {
        violations.push(format!("not recovered: {reason}"));
        RECOVERY_MAX
    });
    violations.extend(settle(arena, &todos)?);
    Ok(Outcome { recovery, counts, violations })
}

/// Waits until a write at each server is seen at both.
fn recover(arena: &Arena, traffic: &traffic::Traffic, mended: Instant) -> Result<Duration, String> {
    for writer in 0..arena.servers().len() {
        let location = loop {
            match traffic.mark(writer) {
                Ok(location) => break location,
                Err(reason) if mended.elapsed() > RECOVERY_MAX => return Err(format!("no write is taken: {reason}")),
                Err(_) => std::thread::sleep(LOOK_EVERY),
            }
        };
        for &port in arena.servers() {
            while traffic::read(port, &location).ok().flatten().is_none() {
                if mended.elapsed() > RECOVERY_MAX {
                    return Err(format!("{location} is not seen at port {port}"));
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
    Ok(mended.elapsed())
}

/// Waits until servers and Postgres agree on something that the history allows. What they do not agree on is returned.
fn settle(arena: &Arena, todos: &[Todo]) -> Result<Vec<String>, String> {
    let begun = Instant::now();
    loop {
        let stored = arena.stored(todos)?;
        let mut differences = Vec::new();
        for todo in todos {
            let truth = stored.get(&todo.id).map(String::as_str);
            if let Err(reason) = todo.allows(truth) {
                differences.push(format!("Postgres: {reason}"));
            }
            for &port in arena.servers() {
                let title = traffic::read(port, &format!("/todos/{}", todo.id))?;
                if title.as_deref() != truth {
                    differences.push(format!("port {port} has {title:?} of {}, Postgres {truth:?}", todo.id));
                }
            }
        }
        if differences.is_empty() || begun.elapsed() > SETTLE_MAX {
            return Ok(differences);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
