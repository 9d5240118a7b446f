//! wrk: its text. Its units are binary whatever they are called, and its latency ends when an answer is read and begins
//! when the next request is written: the client's own turn between the two is in neither.

use crate::audit::claim::{Claim, Tool};
use crate::audit::figure::{Bytes, Figure};

/// With or without `--latency`.
pub fn parse(text: &str) -> Claim {
    let mut claim = Claim::of(Tool::Wrk);
    // A script may pipeline; wrk does not say so.
    claim.depth = Some(1.0);
    for line in text.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let number =
            |index: usize| words.get(index).and_then(|word| Figure::at_front(word)).map(|(figure, _)| figure.value);
        match words[..] {
            [_, "threads", "and", _, "connections"] => {
                claim.threads_count = number(0);
                claim.connections_count = number(3);
            }
            ["Latency", mean, deviation, max, ..] => {
                claim.latency.mean = Figure::milliseconds(mean);
                claim.latency.deviation = Figure::milliseconds(deviation);
                claim.latency.max = Figure::milliseconds(max);
            }
            [_, "requests", "in", seconds, read, "read"] => {
                claim.requests = Figure::count(words[0]);
                claim.seconds = Figure::milliseconds(seconds).map(|ms| ms.times(1e-3));
                claim.read = Bytes::parse(read);
            }
            ["Requests/sec:", rate] => claim.rate = Figure::count(rate),
            ["Transfer/sec:", transfer] => claim.transfer = Bytes::parse(transfer),
            ["Non-2xx", "or", "3xx", "responses:", _] => claim.failures_count += number(4).unwrap_or_default(),
            ["Socket", "errors:", ..] => {
                // `connect 0, read 3, write 0, timeout 1`
                claim.failures_count += (3..words.len()).step_by(2).filter_map(number).sum::<f64>();
            }
            [percent, value] => {
                let percent = percent.strip_suffix('%').and_then(|percent| percent.parse().ok());
                claim.latency.percentiles.extend(percent.zip(Figure::milliseconds(value)));
            }
            _ => {}
        }
    }
    claim
}
