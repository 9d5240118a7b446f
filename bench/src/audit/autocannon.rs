//! autocannon: two tables and a line, or JSON.
//!
//! What the source of its version 9 does: `N requests in` counts requests that were *sent*, so those in flight at the end
//! are in it; averages are over samples of one second; latencies are cut to whole milliseconds; sizes have three digits and
//! decimal units.

use crate::audit::claim::{Claim, Tool};
use crate::audit::figure::{Bytes, Figure};
use serde_json::Value;

/// The tables, with whatever stands around them.
pub fn parse(text: &str) -> Claim {
    let mut claim = Claim::of(Tool::Autocannon);
    let mut names: Vec<&str> = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> =
            line.split(['│', '|']).map(str::trim).filter(|cell| !cell.is_empty() && !is_rule(cell)).collect();
        match cells.split_first() {
            Some((&"Stat", columns)) => names = columns.to_vec(),
            Some((&name @ ("Latency" | "Req/Sec" | "Bytes/Sec"), values)) if values.len() == names.len() => {
                row(&mut claim, name, &names, values);
            }
            Some((line, [])) => prose(&mut claim, line),
            _ => {}
        }
    }
    // Without a number of processes there is one, and without a factor there is no pipelining.
    claim.threads_count = claim.threads_count.or(Some(1.0));
    if claim.connections_count.is_some() {
        claim.depth = claim.depth.or(Some(1.0));
    }
    claim
}

fn is_rule(cell: &str) -> bool {
    cell.chars().all(|c| "─┌┐└┘├┤┬┴┼-+".contains(c))
}

fn row(claim: &mut Claim, name: &str, names: &[&str], values: &[&str]) {
    for (&column, &value) in names.iter().zip(values) {
        match (name, column) {
            ("Latency", "Avg") => claim.latency.mean = Figure::milliseconds(value),
            ("Latency", "Stdev") => claim.latency.deviation = Figure::milliseconds(value),
            ("Latency", "Max") => claim.latency.max = Figure::milliseconds(value),
            ("Latency", _) => {
                let percent = column.strip_suffix('%').and_then(|percent| percent.parse().ok());
                claim.latency.percentiles.extend(percent.zip(Figure::milliseconds(value)));
            }
            ("Req/Sec", "Avg") => claim.rate = Figure::count(value),
            ("Req/Sec", "Stdev") => claim.rate_deviation = Figure::count(value),
            ("Bytes/Sec", "Avg") => claim.transfer = Bytes::parse(value),
            ("Bytes/Sec", "Stdev") => claim.transfer_deviation = Bytes::parse(value),
            _ => {}
        }
    }
}

fn prose(claim: &mut Claim, line: &str) {
    let number = |text: &str| Figure::at_front(text).map(|(figure, _)| figure.value);
    if let Some((before, after)) = line.split_once(" connections") {
        claim.connections_count = number(before);
        claim.depth = after.strip_prefix(" with ").and_then(number);
    } else if let Some(before) = line.strip_suffix(" workers") {
        claim.threads_count = number(before).filter(|&count| count > 0.0);
    } else if let Some(after) = line.strip_prefix("# of samples:") {
        claim.samples_count = number(after);
    } else if let Some((requests, after)) = line.split_once(" requests in ") {
        claim.requests = Figure::count(requests);
        claim.seconds = Figure::milliseconds(after).map(|ms| ms.times(1e-3));
        claim.read = after.split_once(", ").and_then(|(_, read)| Bytes::parse(read));
    } else if let Some((before, _)) = line.split_once(" non 2xx responses") {
        claim.failures_count += before.rsplit(' ').next().and_then(number).unwrap_or_default();
    } else if let Some((before, _)) = line.split_once(" errors (") {
        claim.failures_count += Figure::count(before).map_or(0.0, |figure| figure.value);
    }
}

/// What `--json` prints: counts are exact.
pub fn parse_json(text: &str) -> Option<Claim> {
    let json: Value = serde_json::from_str(text).ok()?;
    let number = |pointer: &str| json.pointer(pointer).and_then(Value::as_f64);
    let exact = |pointer: &str| number(pointer).map(Figure::exact);
    let mut claim = Claim::of(Tool::Autocannon);
    claim.connections_count = number("/connections");
    claim.depth = number("/pipelining");
    claim.threads_count = Some(number("/workers").filter(|&count| count > 0.0).unwrap_or(1.0));
    claim.seconds = exact("/duration");
    claim.samples_count = number("/samples");
    claim.requests = exact("/requests/sent").or(exact("/requests/total"));
    claim.rate = exact("/requests/average");
    claim.rate_deviation = exact("/requests/stddev");
    claim.read = number("/throughput/total").map(Bytes::exact);
    claim.transfer = number("/throughput/average").map(Bytes::exact);
    claim.transfer_deviation = number("/throughput/stddev").map(Bytes::exact);
    // Cut to two digits behind the point.
    let latency = |name: &str| number(&format!("/latency/{name}")).map(|value| Figure { value, rounding: 0.05 });
    claim.latency.mean = latency("average");
    claim.latency.deviation = latency("stddev");
    claim.latency.max = latency("max");
    let names = ["2_5", "10", "25", "50", "75", "90", "97_5", "99", "99_9", "99_99", "99_999"];
    let percentile = |name: &str| name.replace('_', ".").parse().ok().zip(latency(&format!("p{name}")));
    claim.latency.percentiles = names.into_iter().filter_map(percentile).collect();
    claim.failures_count = ["/errors", "/non2xx"].into_iter().filter_map(number).sum();
    Some(claim)
}
