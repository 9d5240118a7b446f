//! h2load: its text. Its units are binary, with the exact bytes beside them. It does not say how many requests each client
//! has in flight (`-m`): the caller must.

use crate::audit::claim::{Claim, Tool};
use crate::audit::figure::{Bytes, Figure};

/// With or without a time limit and a warm-up.
pub fn parse(text: &str) -> Claim {
    let mut claim = Claim::of(Tool::H2load);
    let mut main_seconds = None;
    for line in text.lines() {
        let number = |text: &str| Figure::at_front(text).map(|(figure, _)| figure.value);
        if let Some(after) = line.strip_prefix("spawning thread #") {
            let clients = after.split_once(": ").and_then(|(_, clients)| number(clients));
            claim.threads_count = Some(claim.threads_count.unwrap_or(0.0) + 1.0);
            claim.connections_count = clients.map(|clients| claim.connections_count.unwrap_or(0.0) + clients);
            // The line that ends the run says how long it took with the warm-up, the rate is without.
            main_seconds = after
                .split_once(" warm-up time and ")
                .and_then(|(_, main)| Figure::milliseconds(main))
                .map(|ms| Figure::exact(ms.value / 1e3))
                .or(main_seconds);
        } else if let Some(after) = line.strip_prefix("finished in ") {
            let mut fields = after.split(", ");
            claim.seconds = fields.next().and_then(Figure::milliseconds).map(|ms| ms.times(1e-3));
            claim.rate = fields.next().and_then(Figure::count);
            claim.transfer = fields.next().and_then(Bytes::parse);
        } else if let Some(after) = line.strip_prefix("requests: ") {
            for field in after.split(", ") {
                match field.split_once(' ') {
                    Some((count, "succeeded")) => claim.requests = Figure::count(count),
                    Some((count, "failed")) => claim.failures_count += number(count).unwrap_or_default(),
                    _ => {}
                }
            }
        } else if let Some(after) = line.strip_prefix("traffic: ") {
            claim.read = exact_before(after, ") total");
            claim.bodies = exact_before(after, ") data");
        } else if let Some(after) = line.strip_prefix("time for request:") {
            let times: Vec<&str> = after.split_ascii_whitespace().collect();
            if let [_, max, mean, deviation, ..] = times[..] {
                claim.latency.max = Figure::milliseconds(max);
                claim.latency.mean = Figure::milliseconds(mean);
                claim.latency.deviation = Figure::milliseconds(deviation);
            }
        }
    }
    claim.seconds = main_seconds.or(claim.seconds);
    claim
}

/// `775.09MB (812742128) total`: what stands between the brackets.
fn exact_before(text: &str, end: &str) -> Option<Bytes> {
    let (before, _) = text.split_once(end)?;
    let (_, count) = before.rsplit_once('(')?;
    count.parse().ok().map(Bytes::exact)
}
