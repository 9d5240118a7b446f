//! Two servers under the same reads, alone and beside the same writes: what a server stands on must not show in them.
//!
//! A round has seven windows in an order drawn anew: at each server reads alone, writes alone and both, and at the peer
//! reads alone a second time, for the A/A row. The reads' share of both is taken as in [`interference`](super::interference).

use crate::error::Result;
use crate::matrix::Cell;
use crate::process::child::Server;
use crate::statistics::{Estimate, Quartiles};
use crate::writes::interference::{Ages, Bench, Options, Window, column, estimate, spread};
use serde::{Deserialize, Serialize};

/// What it showed.
#[derive(Debug, Serialize, Deserialize)]
pub struct CompareReport {
    /// The reads.
    pub cell: Cell,
    /// Rounds run.
    pub rounds_count: usize,
    /// The server's reads.
    pub server: Reads,
    /// The peer's reads.
    pub peer: Reads,
    /// The peer's reads alone over themselves.
    pub a_a: Estimate,
    /// Server over peer, reads alone.
    pub alone: Estimate,
    /// Server over peer beside writes, each with its own writes' cost taken off.
    pub beside: Estimate,
    /// What is read at the server.
    pub ages: Ages,
    /// Wrong or missing answers, anywhere.
    pub faults: Vec<String>,
}

/// One server's reads.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reads {
    /// Shard CPU per read, nanoseconds, alone.
    pub shard_ns_alone: Quartiles,
    /// The same beside writes, their cost taken off.
    pub shard_ns_beside: Quartiles,
    /// CPU of the whole process per read, nanoseconds, beside writes, nothing taken off.
    pub process_ns_beside: Quartiles,
    /// Shard CPU of one write, nanoseconds, writes alone.
    pub shard_ns_per_write: Quartiles,
    /// Checked reads per second, alone.
    pub reads_per_second_alone: Quartiles,
    /// Acknowledged writes per second beside reads.
    pub writes_per_second: Quartiles,
    /// Writes that were answered other than 202.
    pub writes_refused: usize,
}

#[derive(Clone, Copy)]
enum Work {
    Alone,
    Again,
    Writes,
    Both,
}

const WINDOWS: [(usize, Work); 7] = [
    (0, Work::Alone),
    (0, Work::Writes),
    (0, Work::Both),
    (1, Work::Alone),
    (1, Work::Again),
    (1, Work::Writes),
    (1, Work::Both),
];

#[derive(Default)]
struct Rows {
    alone: Vec<Window>,
    again: Vec<Window>,
    writes: Vec<Window>,
    both: Vec<Window>,
}

/// Runs the rounds on both, then takes the server's ages.
///
/// # Errors
/// A server gives no good answer, or there was no round.
pub fn run(server: &Server, peer: &Server, options: &Options) -> Result<CompareReport> {
    let benches = [Bench::new(server, options)?, Bench::new(peer, options)?];
    let mut rows = [Rows::default(), Rows::default()];
    let mut faults = Vec::new();
    let mut random = fastrand::Rng::with_seed(options.rounds.seed);
    let mut order = WINDOWS;
    for _ in 0..options.rounds.rounds_min {
        random.shuffle(&mut order);
        for (index, work) in order {
            let (bench, rows) = (&benches[index], &mut rows[index]);
            match work {
                Work::Alone => rows.alone.push(bench.reads(&mut faults)?),
                Work::Again => rows.again.push(bench.reads(&mut faults)?),
                Work::Writes => rows.writes.push(bench.writes(&mut faults)?),
                Work::Both => rows.both.push(bench.both(&mut faults)?),
            }
        }
    }
    let seed = options.rounds.seed;
    let [server_rows, peer_rows] = &rows;
    let [server_alone, peer_alone, peer_again] =
        [&server_rows.alone, &peer_rows.alone, &peer_rows.again].map(|row| column(row, &Window::shard_ns_per_read));
    let peer_mean: Vec<f64> =
        peer_alone.iter().zip(&peer_again).map(|(first, second)| f64::midpoint(*first, *second)).collect();
    let ages = benches[0].ages(spread(&column(&server_rows.both, &Window::reads_per_second))?.median, &mut faults)?;
    Ok(CompareReport {
        cell: options.cell,
        rounds_count: server_alone.len(),
        server: server_rows.reads()?,
        peer: peer_rows.reads()?,
        a_a: estimate(&peer_again, &peer_alone, seed)?,
        alone: estimate(&server_alone, &peer_mean, seed)?,
        beside: estimate(&server_rows.beside(), &peer_rows.beside(), seed)?,
        ages,
        faults,
    })
}

impl Rows {
    fn beside(&self) -> Vec<f64> {
        let per_write = column(&self.writes, &Window::shard_ns_per_write);
        self.both.iter().zip(per_write).map(|(window, ns)| window.shard_ns_per_read_without(ns)).collect()
    }

    fn reads(&self) -> Result<Reads> {
        Ok(Reads {
            shard_ns_alone: spread(&column(&self.alone, &Window::shard_ns_per_read))?,
            shard_ns_beside: spread(&self.beside())?,
            process_ns_beside: spread(&column(&self.both, &Window::process_ns_per_read))?,
            shard_ns_per_write: spread(&column(&self.writes, &Window::shard_ns_per_write))?,
            reads_per_second_alone: spread(&column(&self.alone, &Window::reads_per_second))?,
            writes_per_second: spread(&column(&self.both, &Window::writes_per_second))?,
            writes_refused: self.writes.iter().chain(&self.both).map(Window::writes_refused).sum(),
        })
    }
}

/// Prints the report; `names` are the server's and the peer's.
pub fn print(report: &CompareReport, names: [&str; 2]) {
    let cell = report.cell;
    println!(
        "limit={}, {} connections, depth {}: {} over {}, {} rounds",
        cell.limit, cell.connections_count, cell.depth, names[0], names[1], report.rounds_count
    );
    println!("  {:<38} {:>10} {:>10}", "medians", names[0], names[1]);
    let row = |name: &str, of: fn(&Reads) -> Quartiles| {
        println!("  {name:<38} {:>10.0} {:>10.0}", of(&report.server).median, of(&report.peer).median);
    };
    row("shard CPU ns/read, alone", |reads| reads.shard_ns_alone);
    row("the same beside writes, theirs off", |reads| reads.shard_ns_beside);
    row("process CPU ns/read beside, all in", |reads| reads.process_ns_beside);
    row("shard CPU ns of one write", |reads| reads.shard_ns_per_write);
    row("reads/s alone", |reads| reads.reads_per_second_alone);
    row("writes/s beside reads", |reads| reads.writes_per_second);
    for (name, estimate) in
        [("A/A, the peer alone over itself", report.a_a), ("alone", report.alone), ("beside writes", report.beside)]
    {
        println!("  {name:<38} {:.3}  [{:.3}, {:.3}]", estimate.median, estimate.low, estimate.high);
    }
    report.ages.print();
    println!("  writes answered other than 202: {} and {}", report.server.writes_refused, report.peer.writes_refused);
    for fault in &report.faults {
        println!("  FAILED: {fault}");
    }
}
