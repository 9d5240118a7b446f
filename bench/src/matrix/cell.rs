//! One cell: what is asked, and the rounds of windows that ask it.

use crate::error::{Error, Result};
use crate::limits::ROUNDS_MAX;
use crate::load::{self, Options as LoadOptions};
use crate::matrix::judge::{a_a_estimate, yardstick};
use crate::matrix::{CellReport, Kind, Target, judge};
use crate::process::counters::Counters;
use crate::process::cpu::ProcessCpu;
use crate::request;
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::time::Duration;

/// The host that every request names, so that all targets get the same bytes.
const AUTHORITY: &str = "127.0.0.1";

/// What is asked, by how many, how many at once. Written `limit=10,conns=64,depth=80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Todos in a list.
    pub limit: usize,
    /// Connections.
    pub connections_count: usize,
    /// Requests in a block.
    pub depth: usize,
}

impl Cell {
    /// The one request of the cell.
    pub fn request(&self) -> Vec<u8> {
        request::get(AUTHORITY, &request::list_target(self.limit))
    }
}

impl FromStr for Cell {
    type Err = Error;

    fn from_str(text: &str) -> Result<Cell> {
        let mut fields = Fields::parse(text)?;
        let cell = fields.take_cell()?;
        fields.end()?;
        Ok(cell)
    }
}

/// `key=value` pairs between commas; each key is taken once, and none may be left.
pub struct Fields<'t> {
    text: &'t str,
    pairs: Vec<(&'t str, &'t str)>,
}

impl<'t> Fields<'t> {
    pub fn parse(text: &'t str) -> Result<Fields<'t>> {
        let pairs = text.split(',').map(|pair| pair.split_once('=')).collect::<Option<Vec<_>>>();
        let pairs = pairs.ok_or_else(|| Error::Unusable(format!("{text}: key=value,key=value is expected")))?;
        Ok(Fields { text, pairs })
    }

    pub fn take<T: FromStr>(&mut self, key: &str) -> Result<T> {
        let position = self.pairs.iter().position(|(name, _)| *name == key);
        let value = position.and_then(|position| self.pairs.remove(position).1.parse().ok());
        value.ok_or_else(|| Error::Unusable(format!("{}: a usable `{key}=` is missing", self.text)))
    }

    pub fn take_cell(&mut self) -> Result<Cell> {
        Ok(Cell { limit: self.take("limit")?, connections_count: self.take("conns")?, depth: self.take("depth")? })
    }

    pub fn end(self) -> Result<()> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => Err(Error::Unusable(format!("{}: `{key}` is unknown or repeated", self.text))),
        }
    }
}

/// How often, and how long.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Rounds {
    /// Rounds of every cell, at least 2.
    pub rounds_min: usize,
    /// Rounds of a cell whose A/A interval stays too wide.
    pub rounds_max: usize,
    /// The A/A interval must lie within 1 +- this before rounds end early. `None`: `rounds_min` is enough.
    pub a_a_width: Option<f64>,
    /// Load before each window.
    pub warmup: Duration,
    /// Each window.
    pub window: Duration,
    /// Decides the order of windows and the resampling.
    pub seed: u64,
}

/// One place in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Who is loaded.
    pub kind: Kind,
    /// 0, or 1 for the second window of a yardstick.
    pub repeat: usize,
}

/// One window.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// CPU of all threads per checked answer.
    pub cpu_ns: f64,
    /// CPU of the shard threads per checked answer; 0 for references.
    pub shard_cpu_ns: f64,
    /// Checked answers per second.
    pub responses_per_second: f64,
    /// Share of the generator's core in use.
    pub generator_busy: f64,
    /// CPU of the target over the window's length: 1 is one core.
    pub target_busy: f64,
    /// User time in clock ticks.
    pub user_ticks: u64,
    /// System time in clock ticks.
    pub system_ticks: u64,
    /// Of warm-up, window and drain.
    pub counters: Counters,
}

/// All rounds of a cell on these targets, judged.
pub fn run(cell: Cell, targets: &mut [Target], rounds: &Rounds, generator_cpu: usize) -> Result<CellReport> {
    if rounds.rounds_min < 2 || rounds.rounds_max > ROUNDS_MAX {
        return Err(Error::Unusable(format!("rounds are 2 to {ROUNDS_MAX}")));
    }
    let slots = slots(targets);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); slots.len()];
    let mut faults = Vec::new();
    let mut random = fastrand::Rng::with_seed(rounds.seed);
    let mut order: Vec<usize> = (0..slots.len()).collect();
    for round in 0..rounds.rounds_max.max(rounds.rounds_min) {
        if round >= rounds.rounds_min && is_settled(&slots, &samples, rounds) {
            break;
        }
        random.shuffle(&mut order);
        for &index in &order {
            let kind = slots[index].kind;
            let target = targets.iter_mut().find(|target| target.kind() == kind);
            let target = target.expect("slots are made of the targets");
            samples[index].push(window(cell, target, rounds, generator_cpu, &mut faults)?);
        }
    }
    Ok(judge(cell, &slots, samples, faults, rounds.seed))
}

fn slots(targets: &[Target]) -> Vec<Slot> {
    let windows_count = |kind: Kind| if kind.is_yardstick() { 2 } else { 1 };
    let kinds = targets.iter().map(Target::kind);
    kinds.flat_map(|kind| (0..windows_count(kind)).map(move |repeat| Slot { kind, repeat })).collect()
}

/// Whether the rounds so far are enough.
fn is_settled(slots: &[Slot], samples: &[Vec<Sample>], rounds: &Rounds) -> bool {
    let Some(width) = rounds.a_a_width else { return true };
    let a_a = yardstick(slots, samples).and_then(|kind| a_a_estimate(kind, slots, samples, rounds.seed));
    a_a.is_none_or(|estimate| estimate.is_within(width, 1.0))
}

fn window(
    cell: Cell,
    target: &mut Target,
    rounds: &Rounds,
    generator_cpu: usize,
    faults: &mut Vec<String>,
) -> Result<Sample> {
    let before = target.counters()?;
    let outcome = load::run(&LoadOptions {
        address: target.address(),
        request: cell.request(),
        status_expected: 200,
        connections_count: cell.connections_count,
        depth: cell.depth,
        warmup: rounds.warmup,
        window: rounds.window,
        cpus: vec![generator_cpu],
        rate: None,
        trickle: false,
        progress: None,
        server: Some(target.pid()),
    })?;
    let counters = target.counters()?.since(before);
    let name = target.kind().name();
    if !outcome.faults.is_empty() {
        faults.push(format!("{name}: {:?}", outcome.faults));
    }
    let (Some(cpu_ns), Some(cpu)) = (outcome.server_ns_per_response(), outcome.server) else {
        return Err(Error::Unusable(format!("{name} gave no good answer: {:?}", outcome.faults)));
    };
    let ProcessCpu { shard_ns, user_ticks, system_ticks, .. } = cpu;
    Ok(Sample {
        cpu_ns,
        shard_cpu_ns: shard_ns as f64 / outcome.responses as f64,
        responses_per_second: outcome.responses_per_second(),
        generator_busy: outcome.generator_busy,
        target_busy: cpu.total_ns() as f64 / 1e9 / outcome.seconds(),
        user_ticks,
        system_ticks,
        counters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        let table = [
            ("limit=10,conns=64,depth=80", Some(Cell { limit: 10, connections_count: 64, depth: 80 })),
            ("depth=1,limit=1000,conns=2000", Some(Cell { limit: 1000, connections_count: 2000, depth: 1 })),
            ("limit=10,conns=64", None),
            ("limit=10,conns=64,depth=1,depth=2", None),
            ("limit=10,conns=64,depth=1,over=floor", None),
            ("limit=ten,conns=64,depth=1", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
    }
}
