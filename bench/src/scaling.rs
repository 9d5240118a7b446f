//! What another shard adds: the same load for each shard, servers of different numbers of shards interleaved.
//!
//! Shards have the first CPUs, one each, generators all the others. Where shards outnumber what the generators leave, a row
//! shows how the server behaves when it has too many threads, and nothing about scaling: it is called oversubscribed.

use crate::error::{Error, Result};
use crate::load::{self, Options as LoadOptions};
use crate::matrix::{Cell, Rounds};
use crate::process::child::{Server, ServerOptions};
use crate::process::host;
use crate::statistics::{Estimate, Quartiles, bootstrap_median, paired_ratios, quartiles};
use serde::Serialize;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of each server; CPUs and shards are set here.
    pub server: ServerOptions,
    /// Shards of the servers; the first one is what the others are compared with.
    pub shards_counts: Vec<usize>,
    /// The load of one shard: so many connections for each of them.
    pub cell: Cell,
    /// `rounds_min` rounds; its width is not used.
    pub rounds: Rounds,
}

/// One number of shards.
#[derive(Debug, Serialize)]
pub struct Scale {
    /// Shards.
    pub shards_count: usize,
    /// CPUs that no generator had.
    pub server_cpus_count: usize,
    /// CPUs of the generators.
    pub generator_cpus_count: usize,
    /// There was not a CPU for each shard and one beside them: no figure of scaling.
    pub is_oversubscribed: bool,
    /// Checked answers per second.
    pub responses_per_second: Quartiles,
    /// CPU of all the server's threads per checked answer.
    pub cpu_ns: Quartiles,
    /// Answers per second over those of the first row, round by round.
    pub throughput_over_first: Estimate,
    /// CPU per answer over that of the first row, round by round.
    pub cpu_over_first: Estimate,
    /// Windows in which a generator thread was the limit.
    pub generator_bound_count: usize,
    /// What went wrong, in words.
    pub faults: Vec<String>,
}

/// Which CPUs are whose.
#[derive(Debug, PartialEq, Eq)]
struct Places {
    server: Vec<usize>,
    generator: Vec<usize>,
    is_oversubscribed: bool,
}

/// The first CPUs for the shards, the others for generators; at least one for each side.
fn places(allowed: &[usize], shards_count: usize) -> Places {
    let server_count = shards_count.clamp(1, allowed.len().saturating_sub(1).max(1));
    let (server, rest) = allowed.split_at(server_count);
    let generator = if rest.is_empty() { server.to_vec() } else { rest.to_vec() };
    Places { server: server.to_vec(), generator, is_oversubscribed: shards_count + 1 > allowed.len() }
}

/// Runs all rounds.
pub fn run(options: &Options) -> Result<Vec<Scale>> {
    let allowed = host::allowed_cpus()?;
    if allowed.is_empty() || options.shards_counts.is_empty() {
        return Err(Error::Unusable("no CPU may be used, or no number of shards is named".into()));
    }
    let mut targets = Vec::new();
    for &shards_count in &options.shards_counts {
        let places = places(&allowed, shards_count);
        let server =
            Server::start(&ServerOptions { cpus: places.server.clone(), shards_count, ..options.server.clone() })?;
        targets.push(Target { shards_count, places, server, windows: Vec::new(), faults: Vec::new() });
    }
    let mut random = fastrand::Rng::with_seed(options.rounds.seed);
    let mut order: Vec<usize> = (0..targets.len()).collect();
    for _ in 0..options.rounds.rounds_min {
        random.shuffle(&mut order);
        for &index in &order {
            targets[index].run_window(options)?;
        }
    }
    let first = column(&targets[0].windows, |window| window.responses_per_second);
    let first_cpu = column(&targets[0].windows, |window| window.cpu_ns);
    targets.into_iter().map(|target| target.scale(&first, &first_cpu, options.rounds.seed)).collect()
}

struct Target {
    shards_count: usize,
    places: Places,
    server: Server,
    windows: Vec<Window>,
    faults: Vec<String>,
}

struct Window {
    responses_per_second: f64,
    cpu_ns: f64,
    generator_was_limit: bool,
}

impl Target {
    fn run_window(&mut self, options: &Options) -> Result<()> {
        let outcome = load::run(&LoadOptions {
            address: self.server.address(),
            request: options.cell.request(),
            status_expected: 200,
            connections_count: options.cell.connections_count * self.shards_count,
            depth: options.cell.depth,
            warmup: options.rounds.warmup,
            window: options.rounds.window,
            cpus: self.places.generator.clone(),
            rate: None,
            trickle: false,
            progress: None,
            server: Some(self.server.pid()),
        })?;
        if !outcome.faults.is_empty() {
            self.faults.push(format!("{:?}", outcome.faults));
        }
        let Some(cpu_ns) = outcome.server_ns_per_response() else {
            return Err(Error::Unusable(format!("{} shards gave no good answer", self.shards_count)));
        };
        self.windows.push(Window {
            responses_per_second: outcome.responses_per_second(),
            cpu_ns,
            generator_was_limit: outcome.generator_was_limit,
        });
        Ok(())
    }

    fn scale(self, first: &[f64], first_cpu: &[f64], seed: u64) -> Result<Scale> {
        let throughput = column(&self.windows, |window| window.responses_per_second);
        let cpu = column(&self.windows, |window| window.cpu_ns);
        let too_few = || Error::Unusable("too few rounds".into());
        let ratio = |values: &[f64], first: &[f64]| bootstrap_median(&paired_ratios(values, first), seed);
        Ok(Scale {
            shards_count: self.shards_count,
            server_cpus_count: self.places.server.len(),
            generator_cpus_count: self.places.generator.len(),
            is_oversubscribed: self.places.is_oversubscribed,
            responses_per_second: quartiles(&throughput).ok_or_else(too_few)?,
            cpu_ns: quartiles(&cpu).ok_or_else(too_few)?,
            throughput_over_first: ratio(&throughput, first).ok_or_else(too_few)?,
            cpu_over_first: ratio(&cpu, first_cpu).ok_or_else(too_few)?,
            generator_bound_count: self.windows.iter().filter(|window| window.generator_was_limit).count(),
            faults: self.faults,
        })
    }
}

fn column(windows: &[Window], value: impl Fn(&Window) -> f64) -> Vec<f64> {
    windows.iter().map(value).collect()
}

/// Prints the table.
pub fn print(scales: &[Scale], rounds_count: usize) {
    println!(
        "{:>6} {:>5} {:>10} {:>13} {:>24} {:>10} {:>24}",
        "shards", "CPUs", "generators", "requests/s", "over the first", "CPU ns/rq", "over the first"
    );
    let ratio = |Estimate { median, low, high }: Estimate| format!("{median:.3} [{low:.3}, {high:.3}]");
    for scale in scales {
        let mut words = Vec::new();
        if scale.is_oversubscribed {
            words.push("oversubscribed: nothing about scaling".to_owned());
        }
        if scale.generator_bound_count > 0 {
            words.push(format!("generator-bound in {} of {rounds_count} windows", scale.generator_bound_count));
        }
        words.extend(scale.faults.first().cloned());
        println!(
            "{:>6} {:>5} {:>10} {:>13.0} {:>24} {:>10.0} {:>24}  {}",
            scale.shards_count,
            scale.server_cpus_count,
            scale.generator_cpus_count,
            scale.responses_per_second.median,
            ratio(scale.throughput_over_first),
            scale.cpu_ns.median,
            ratio(scale.cpu_over_first),
            words.join("; ")
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_and_generators_share_out_the_cpus() {
        let cpus: Vec<usize> = (0..8).collect();
        for (shards_count, server, generator, is_oversubscribed) in [
            (1, 0..1, 1..8, false),
            (4, 0..4, 4..8, false),
            (7, 0..7, 7..8, false),
            (8, 0..7, 7..8, true),
            (16, 0..7, 7..8, true),
        ] {
            let expected = Places { server: server.collect(), generator: generator.collect(), is_oversubscribed };
            assert_eq!(places(&cpus, shards_count), expected, "{shards_count} shards");
        }
        assert_eq!(places(&[3], 1), Places { server: vec![3], generator: vec![3], is_oversubscribed: true });
    }
}
