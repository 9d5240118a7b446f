//! How evenly connections are spread over the shards, and what taking one costs, for each way to accept.
//!
//! A client that asks in a closed loop is as fast as its shard. With the kernel's hash the fullest shard of eight has half
//! as many connections again as the mean of 64, so the others wait for it; this is measured by counting, and needs no quiet
//! machine. What an acceptor costs is CPU per connection of a client that connects, asks once, and closes.

use crate::error::{Error, Result};
use crate::process::child::{Server, ServerOptions};
use crate::process::cpu::ProcessCpu;
use crate::process::host;
use crate::request;
use crate::single::SingleClient;
use crate::statistics::{Estimate, bootstrap_median, median, paired_ratios, quantile};
use serde::Serialize;
use std::time::{Duration, Instant};

/// The ways to accept, as `ACCEPT` names them; the first is what the other is compared with.
pub const WAYS: [&str; 2] = ["reuseport", "handoff"];
/// Connections that are opened in one trial with all the shards, and then closed.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How connections were spread in trials of one kind.
#[derive(Debug, Serialize)]
pub struct Spread {
    /// `reuseport` or `handoff`.
    pub accept: &'static str,
    /// Shards of the server.
    pub shards_count: usize,
    /// Connections open at once.
    pub connections_count: usize,
    /// Connections of the fullest shard over the mean, one per trial; 1 is even.
    pub largest_over_mean: Vec<f64>,
    /// Connections of the emptiest shard over the mean.
    pub smallest_over_mean: Vec<f64>,
}

impl Spread {
    /// Median and worst of the fullest shards.
    pub fn largest(&self) -> Option<(f64, f64)> {
        Some((median(&self.largest_over_mean)?, quantile(&self.largest_over_mean, 1.0)?))
    }

    /// Median and worst of the emptiest shards.
    pub fn smallest(&self) -> Option<(f64, f64)> {
        Some((median(&self.smallest_over_mean)?, quantile(&self.smallest_over_mean, 0.0)?))
    }
}

/// What a short-lived connection costs the server, all its threads.
#[derive(Debug, Serialize)]
pub struct ChurnCost {
    /// `reuseport` or `handoff`.
    pub accept: &'static str,
    /// CPU of connect, one answer of ten todos and close, nanoseconds; one per round.
    pub connection_ns: Vec<f64>,
    /// Over the first way, round by round.
    pub over_first: Option<Estimate>,
}

/// Opens `connections_count` connections, `trials_count` times, and counts where they went.
pub fn spread(
    options: &ServerOptions,
    accept: &'static str,
    counts: &[usize],
    trials_count: impl Fn(usize) -> usize,
) -> Result<Vec<Spread>> {
    host::need_descriptors(counts.iter().max().copied().unwrap_or(0) + 64)?;
    let server = Server::start(&ServerOptions { accept: Some(accept), ..options.clone() })?;
    let mut spreads = Vec::new();
    for &connections_count in counts {
        let mut spread = Spread {
            accept,
            shards_count: options.shards_count,
            connections_count,
            largest_over_mean: Vec::new(),
            smallest_over_mean: Vec::new(),
        };
        for _ in 0..trials_count(connections_count) {
            let shares = trial(&server, options.shards_count, connections_count)?;
            spread.largest_over_mean.extend(quantile(&shares, 1.0));
            spread.smallest_over_mean.extend(quantile(&shares, 0.0));
        }
        spreads.push(spread);
    }
    Ok(spreads)
}

/// Connections of each shard over the mean.
fn trial(server: &Server, shards_count: usize, connections_count: usize) -> Result<Vec<f64>> {
    wait_until_empty(server)?;
    let mut clients = Vec::with_capacity(connections_count);
    for _ in 0..connections_count {
        let mut client = SingleClient::connect(server.address())?;
        // An answer says that a shard has it.
        client.get_ok(&request::list_target(1))?;
        clients.push(client);
    }
    // Asked through one of them: another connection would be counted too.
    let counts = wait_for_count(connections_count, || {
        Ok(String::from_utf8_lossy(clients[0].get_ok("/metrics")?.body()).into_owned())
    })?;
    if counts.len() != shards_count {
        return Err(Error::Unusable(format!("{shards_count} shards were asked for, the server counts {counts:?}")));
    }
    Ok(counts.iter().map(|count| count * (shards_count as f64) / (connections_count as f64)).collect())
}

fn wait_until_empty(server: &Server) -> Result<()> {
    // The one that asks is there.
    wait_for_count(1, || server.metrics()).map(drop)
}

/// Waits until the server counts just `connections_count`: those that were closed go when it has seen their end.
fn wait_for_count(connections_count: usize, mut metrics: impl FnMut() -> Result<String>) -> Result<Vec<f64>> {
    let started = Instant::now();
    loop {
        let counts = connections_of_shards(&metrics()?);
        if counts.iter().sum::<f64>() as usize == connections_count {
            return Ok(counts);
        }
        if started.elapsed() > DRAIN_TIMEOUT {
            return Err(Error::Unusable(format!(
                "{connections_count} connections are open, the server counts {counts:?}"
            )));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// `todo_connections{shard="N"} C` in the order of the shards.
fn connections_of_shards(metrics: &str) -> Vec<f64> {
    let counts = metrics.lines().filter_map(|line| line.strip_prefix("todo_connections{"));
    counts.filter_map(|rest| rest.rsplit_once(' ')?.1.parse().ok()).collect()
}

/// Rounds of `connections_count` short-lived connections on a server of each way, interleaved.
pub fn churn_costs(
    options: &ServerOptions,
    connections_count: usize,
    rounds_count: usize,
    seed: u64,
) -> Result<Vec<ChurnCost>> {
    let start = |accept| Server::start(&ServerOptions { accept: Some(accept), ..options.clone() });
    let servers = WAYS.iter().map(|accept| start(accept)).collect::<Result<Vec<Server>>>()?;
    let mut costs = vec![Vec::new(); WAYS.len()];
    let mut random = fastrand::Rng::with_seed(seed);
    let mut order: Vec<usize> = (0..WAYS.len()).collect();
    for _ in 0..rounds_count {
        random.shuffle(&mut order);
        for &way in &order {
            costs[way].push(connection_ns(&servers[way], connections_count)?);
        }
    }
    let first = costs[0].clone();
    let cost = |(accept, connection_ns): (&&'static str, Vec<f64>)| ChurnCost {
        accept,
        over_first: bootstrap_median(&paired_ratios(&connection_ns, &first), seed),
        connection_ns,
    };
    Ok(WAYS.iter().zip(costs).map(cost).collect())
}

fn connection_ns(server: &Server, connections_count: usize) -> Result<f64> {
    let read =
        || ProcessCpu::read(server.pid()).map_err(|error| Error::Unusable(format!("reading CPU times: {error}")));
    let before = read()?;
    for _ in 0..connections_count {
        SingleClient::connect(server.address())?.get_ok(&request::list_target(10))?;
    }
    Ok((read()? - before).total_ns() as f64 / connections_count as f64)
}

/// Prints the table of spreads.
pub fn print_spreads(spreads: &[Spread]) {
    println!(
        "{:<10} {:>6} {:>11} {:>22} {:>22}",
        "accept", "shards", "connections", "fullest over mean", "emptiest over mean"
    );
    for spread in spreads {
        let (Some((largest, worst_largest)), Some((smallest, worst_smallest))) = (spread.largest(), spread.smallest())
        else {
            continue;
        };
        println!(
            "{:<10} {:>6} {:>11} {:>10.2} worst {:>5.2} {:>10.2} worst {:>5.2}",
            spread.accept,
            spread.shards_count,
            spread.connections_count,
            largest,
            worst_largest,
            smallest,
            worst_smallest
        );
    }
}

/// Prints what a connection costs.
pub fn print_churn(costs: &[ChurnCost]) {
    for ChurnCost { accept, connection_ns, over_first } in costs {
        let (Some(middle), Some(ratio)) = (median(connection_ns), over_first) else { continue };
        println!(
            "{accept:<10} {:.1} us a connection with one answer; over {} {:.3} [{:.3}, {:.3}]",
            middle / 1e3,
            WAYS[0],
            ratio.median,
            ratio.low,
            ratio.high
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_read_by_shard() {
        let text = "# TYPE todo_connections gauge\ntodo_connections{shard=\"0\"} 3\ntodo_connections{shard=\"1\"} 5\n\
                    todo_connections_other{shard=\"1\"} 9\ntodo_busy_connections{shard=\"0\"} 1\n";
        assert_eq!(connections_of_shards(text), [3.0, 5.0]);
        assert!(connections_of_shards("").is_empty());
    }

    #[test]
    fn the_worst_is_the_one_furthest_from_even() {
        let spread = Spread {
            accept: WAYS[0],
            shards_count: 2,
            connections_count: 4,
            largest_over_mean: vec![1.0, 1.5, 2.0],
            smallest_over_mean: vec![1.0, 0.5, 0.0],
        };
        assert_eq!((spread.largest(), spread.smallest()), (Some((1.5, 2.0)), Some((0.5, 0.0))));
    }
}
