//! What else was asked of the server: a fixed rate, writes, and connections that are held.

use crate::memory::{Held, MemoryReport};
use crate::report::chart::{self, Bar, Curve};
use crate::report::html::Html;
use crate::report::input::{LatencyRun, PercentilesRun, Run, cell_name};
use crate::report::page::in_words;
use crate::report::units;
use crate::statistics::{Estimate, Quartiles};
use crate::writes::interference::Ages;

pub fn latency(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "Blocks are due at a fixed rate whatever the server does, and count from when they were due: a stall is paid by everything that it kept waiting.",
    );
    let mut runs: Vec<_> = run.latencies.iter().collect();
    runs.sort_by(|one, other| one.responses_per_second.total_cmp(&other.responses_per_second));
    if runs.len() > 1 {
        let curve = |name, class, of: fn(&PercentilesRun) -> f64| Curve {
            name,
            class,
            points: runs.iter().map(|run| (run.responses_per_second, of(&run.block_latency_us) * 1e3)).collect(),
        };
        let curves = [
            curve("p99.9", "original", |latency| latency.p999),
            curve("p99", "peer", |latency| latency.p99),
            curve("p50", "server", |latency| latency.p50),
        ];
        html.element("figure", &[], |html| {
            html.line("h3", &[], "Latency over requests per second");
            chart::curves(html, "Latency percentiles over the rate; the table below has the same figures", &curves);
        });
    }
    let rows: Vec<Vec<String>> = runs
        .iter()
        .map(|run| {
            let latency = &run.block_latency_us;
            let mut row = vec![units::per_second(run.rate.unwrap_or(run.responses_per_second))];
            row.push(units::per_second(run.responses_per_second));
            row.extend([latency.p50, latency.p99, latency.p999, latency.max].map(|us| units::time(us * 1e3)));
            row.push(latency_doubt(run));
            row
        })
        .collect();
    let head = ["asked for", "answered", "p50", "p99", "p99.9", "max", "trust"];
    html.table("Latency at a rate, from when a block was due to its last answer", &head, &rows);
}

fn latency_doubt(run: &LatencyRun) -> String {
    let faults = run.faults.as_ref().filter(|faults| !faults.is_empty());
    if let Some(faults) = faults {
        return format!("{} requests unanswered", units::count(faults.unanswered as f64));
    }
    if run.rate.is_some_and(|rate| run.responses_per_second < 0.98 * rate) {
        return "the rate was not reached".to_owned();
    }
    if run.generator_busy >= crate::limits::CORE_BUSY_MIN {
        return format!("generator-bound: its core was {} busy", units::percent(run.generator_busy));
    }
    // A block that left late has waited in the client.
    if run.late_us_max > run.block_latency_us.p99 {
        return format!("blocks left up to {} late", units::time(run.late_us_max * 1e3));
    }
    "yes".to_owned()
}

pub fn ages(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "The age of a read is the time from when a client sent the oldest write that it should have shown and did not, to when the read itself was sent; 0 when it shows all. It is taken with cores to spare: otherwise it would be the scheduler's.",
    );
    let beside = run.interferences().map(|report| ("one process".to_owned(), &report.ages, report.writes_per_second));
    let clustered = run
        .clusters
        .iter()
        .map(|report| (format!("cluster, {}", cell_name(report.cell)), &report.ages, report.server.writes_per_second));
    let all: Vec<(String, &Ages, Quartiles)> = beside.chain(clustered).collect();
    html.element("div", &[("class", "grid")], |html| {
        for (name, ages, _) in &all {
            html.element("figure", &[], |html| {
                html.line("h3", &[], name);
                let bars =
                    [("median", ages.p50_ms), ("99 %", ages.p99_ms), ("largest", ages.max_ms)].map(|(label, ms)| Bar {
                        label: label.to_owned(),
                        text: units::time(ms * 1e6),
                        value: ms,
                        whisker: None,
                        class: "server",
                        is_refused: false,
                    });
                chart::bars(html, &format!("Age of what is read, {name}: {}", in_words(&bars)), &bars);
            });
        }
    });
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|(name, ages, writes)| {
            vec![
                name.clone(),
                units::count(writes.median),
                units::per_second(ages.reads_per_second),
                units::time(ages.p50_ms * 1e6),
                units::time(ages.p99_ms * 1e6),
                units::time(ages.max_ms * 1e6),
                ages.went_back_count.to_string(),
                units::time(ages.write_latency_p99_ms * 1e6),
                format!("{:.2}", ages.idle_cores),
                age_doubt(ages),
            ]
        })
        .collect();
    let head = [
        "where",
        "writes/s",
        "reads/s",
        "age p50",
        "age p99",
        "age max",
        "went back",
        "202 p99",
        "idle cores",
        "trust",
    ];
    html.table("Age of what is read", &head, &rows);
    interference_table(html, run);
    cluster_table(html, run);
}

fn age_doubt(ages: &Ages) -> String {
    if ages.generator_busy > crate::limits::AGE_GENERATOR_BUSY_MAX {
        format!("generator-bound: it was {} busy", units::percent(ages.generator_busy))
    } else if ages.idle_cores < crate::limits::AGE_IDLE_CORES_MIN {
        "no: without an idle core this is the scheduler's age".to_owned()
    } else if ages.unreadable_count > 0 {
        format!("no: {} lists are not what was written", ages.unreadable_count)
    } else {
        "yes".to_owned()
    }
}

fn interference_table(html: &mut Html, run: &Run) {
    let rows: Vec<Vec<String>> = run
        .interferences()
        .map(|report| {
            vec![
                cell_name(report.cell),
                units::time(report.shard_ns_alone.median),
                units::time(report.shard_ns_beside.median),
                format!("{:.3} {}", report.ratio.median, units::interval(report.ratio)),
                format!("{:.3} {}", report.a_a.median, units::interval(report.a_a)),
                units::time(report.shard_ns_per_write.median),
                units::per_second(report.reads_per_second_alone.median),
                units::per_second(report.reads_per_second_beside.median),
                if report.a_a.contains(1.0) { "yes" } else { "no: A/A does not contain 1" }.to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let head = [
            "reads",
            "alone",
            "beside writes",
            "ratio",
            "A/A",
            "one write",
            "reads/s alone",
            "reads/s beside",
            "trust",
        ];
        html.table("Shard CPU of a read beside writes, the writes' own taken off", &head, &rows);
    }
}

fn cluster_table(html: &mut Html, run: &Run) {
    let shown = |estimate: Estimate| format!("{:.3} {}", estimate.median, units::interval(estimate));
    let rows: Vec<Vec<String>> = run
        .clusters
        .iter()
        .map(|report| {
            vec![
                cell_name(report.cell),
                shown(report.alone),
                shown(report.beside),
                shown(report.a_a),
                units::time(report.server.shard_ns_alone.median),
                units::time(report.peer.shard_ns_alone.median),
                if report.a_a.contains(1.0) { "yes" } else { "no: A/A does not contain 1" }.to_owned(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let head = ["reads", "cluster over file", "beside writes", "A/A", "cluster", "file", "trust"];
        html.table("Shard CPU of a read, a server on a cluster's services over one on a file", &head, &rows);
    }
}

pub fn writes(html: &mut Html, run: &Run) {
    html.line(
        "p",
        &[],
        "A write is answered 202 when it is on the disk. One fdatasync says what the disk allows without batches.",
    );
    let rows: Vec<Vec<String>> = run
        .writes
        .iter()
        .map(|report| {
            let load = report.rate.map_or("closed loop".to_owned(), |rate| format!("{} offered/s", units::count(rate)));
            vec![
                format!("{} connections, depth {}, {load}", report.connections_count, report.depth),
                units::per_second(report.acknowledged_per_second),
                report.commits_per_second.map_or("-".to_owned(), units::count),
                units::time(report.fdatasync_us * 1e3),
                units::time(report.latency_p50_ms * 1e6),
                units::time(report.latency_p99_ms * 1e6),
                units::time(report.server_ns_per_write),
                report.applied.as_ref().map_or("-".to_owned(), |applied| units::per_second(applied.per_second)),
                if report.faults.is_empty() && report.refused == 0 {
                    "yes".to_owned()
                } else {
                    format!("no: {} refused, {} unanswered", report.refused, report.faults.unanswered)
                },
            ]
        })
        .collect();
    let head =
        ["load", "acknowledged", "commits/s", "one fdatasync", "202 p50", "202 p99", "CPU a write", "applied", "trust"];
    html.table("Durable writes", &head, &rows);
}

pub fn memory(html: &mut Html, run: &Run) {
    let rows: Vec<Vec<String>> = run.memories.iter().map(memory_row).collect();
    if !rows.is_empty() {
        let head = ["connections", "process before", "process held", "each", "kernel's TCP held", "all grew by"];
        html.table("Connections held: process is resident memory and memfds", &head, &rows);
    }
    let rows: Vec<Vec<String>> = run
        .cells()
        .filter_map(|cell| {
            let memory = cell.server_memory?;
            let bytes = [memory.resident_bytes(), memory.memfd_bytes, memory.tcp_bytes];
            Some([vec![cell_name(cell.cell)], bytes.map(|count| units::bytes(count as f64)).to_vec()].concat())
        })
        .collect();
    if !rows.is_empty() {
        let head = ["after the cell", "resident", "memfds", "TCP of the host"];
        html.table("This server after each cell", &head, &rows);
    }
}

fn memory_row(report: &MemoryReport) -> Vec<String> {
    let count = units::count(report.connections_count as f64);
    let bytes = |count: u64| units::bytes(count as f64);
    vec![
        match report.connections {
            Held::Idle => format!("{count} idle"),
            Held::Stalled { limit, depth } => {
                format!("{count} that ask for limit={limit} {depth} times and never read")
            }
        },
        bytes(report.before.process_bytes()),
        bytes(report.held.process_bytes()),
        units::bytes(report.process_bytes_per_connection()),
        bytes(report.held.tcp_bytes),
        bytes(report.grown_bytes()),
    ]
}
