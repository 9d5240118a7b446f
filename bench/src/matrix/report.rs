//! The run as a text table and as JSON.

use crate::matrix::judge::yardstick;
use crate::matrix::{CellReport, Gate, Kind, Rounds, Ruling};
use crate::process::host::Host;
use crate::writes::interference::InterferenceReport;
use serde::Serialize;

/// A whole run, to be kept beside others.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The machine.
    pub host: Host,
    /// What the server's `--version` prints: commit and target.
    pub server_version: String,
    /// How the server's shards waited.
    pub server_driver: String,
    /// The arguments that were given; the program and the server's path are left out.
    pub arguments: Vec<String>,
    /// How often and how long.
    pub rounds: Rounds,
    /// The cells.
    pub cells: Vec<CellReport>,
    /// Each gate and what it says.
    pub gates: Vec<(Gate, Ruling)>,
    /// Reads beside writes, when that was asked for.
    pub writes: Option<InterferenceReport>,
}

/// Prints one cell's table.
pub fn print_cell(report: &CellReport) {
    let cell = report.cell;
    println!(
        "\nlimit={}, {} connections, depth {}: {} bytes an answer, {} rounds",
        cell.limit, cell.connections_count, cell.depth, report.response_bytes, report.rounds_count
    );
    println!(
        "  {:<15} {:>9} {:>19} {:>12} {:>9} {:>7} {:>7} {:>10}",
        "", "CPU ns/rq", "quartiles", "requests/s", "rq/read", "user", "core", "generator"
    );
    for figures in &report.figures {
        let cpu = figures.cpu_ns;
        println!(
            "  {:<15} {:>9.0} {:>19} {:>12} {:>9} {:>7} {:>7} {:>10}",
            figures.kind.name(),
            cpu.median,
            format!("{:.0} .. {:.0}", cpu.lower, cpu.upper),
            if figures.throughput_is_its_own {
                format!("{:.0}", figures.responses_per_second.median)
            } else {
                "refused".into()
            },
            figures.requests_per_read.map_or("-".into(), |count| format!("{count:.1}")),
            figures.user_share.map_or("-".into(), percent),
            percent(figures.target_busy),
            percent(figures.generator_busy),
        );
    }
    if report.figures.iter().any(|figures| !figures.throughput_is_its_own) {
        println!("  refused: the generator's core was the limit, so requests/s are not the target's");
    }
    if let (Some(kind), Some(a_a)) = (yardstick(&report.slots, &report.samples), report.a_a) {
        println!(
            "  {:<38} {:.3}  [{:.3}, {:.3}]",
            format!("A/A: {} over itself", kind.name()),
            a_a.median,
            a_a.low,
            a_a.high
        );
    }
    for ratio in &report.ratios {
        let pair = format!("{} over {}", ratio.kind.name(), ratio.over.name());
        let estimate = ratio.estimate;
        let unjudged = ratio.unjudged.as_ref().map_or(String::new(), |reason| format!("  not judged: {reason}"));
        println!("  {pair:<38} {:.3}  [{:.3}, {:.3}]{unjudged}", estimate.median, estimate.low, estimate.high);
    }
    if let Some(memory) = report.server_memory {
        println!(
            "  {} RSS {:.1} MiB, memfds {:.1} MiB; TCP memory of the host {:.1} MiB",
            Kind::Server.name(),
            mebibytes(memory.resident_bytes()),
            mebibytes(memory.memfd_bytes),
            mebibytes(memory.tcp_bytes)
        );
    }
    for fault in &report.faults {
        println!("  FAILED: {fault}");
    }
}

/// Prints what the gates say.
pub fn print_gates(gates: &[(Gate, Ruling)]) {
    println!();
    for (gate, ruling) in gates {
        let Gate { cell, over, ratio_max } = gate;
        let ruling = match ruling {
            Ruling::Passed => "passed".into(),
            Ruling::Failed => "FAILED".into(),
            Ruling::Unjudged(reason) => format!("not judged: {reason}"),
        };
        println!(
            "gate limit={} {} x {} over {over:?} <= {ratio_max}: {ruling}",
            cell.limit, cell.connections_count, cell.depth
        );
    }
}

/// For tables.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
