//! What a client said, whichever it was.

use crate::audit::figure::{Bytes, Figure};
use crate::audit::{autocannon, h2load, wrk};
use crate::error::{Error, Result};
use serde::Serialize;

/// The client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tool {
    /// Its tables, or what `--json` prints.
    Autocannon,
    /// Its text.
    Wrk,
    /// Its text.
    H2load,
}

impl Tool {
    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Autocannon => "autocannon",
            Tool::Wrk => "wrk",
            Tool::H2load => "h2load",
        }
    }
}

/// Its figures. What it did not say is `None`.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// Who said it.
    pub tool: Tool,
    /// Connections.
    pub connections_count: Option<f64>,
    /// Requests that a connection has in flight at once.
    pub depth: Option<f64>,
    /// Threads or processes that send.
    pub threads_count: Option<f64>,
    /// Length of the measured part.
    pub seconds: Option<Figure>,
    /// Samples behind the averages, one a second.
    pub samples_count: Option<f64>,
    /// Requests in all: answered, except that autocannon's text counts those sent.
    pub requests: Option<Figure>,
    /// Answered requests per second.
    pub rate: Option<Figure>,
    /// Its standard deviation over the samples.
    pub rate_deviation: Option<Figure>,
    /// Bytes read in all.
    pub read: Option<Bytes>,
    /// Bytes of bodies alone.
    pub bodies: Option<Bytes>,
    /// Bytes read per second.
    pub transfer: Option<Bytes>,
    /// Its standard deviation over the samples.
    pub transfer_deviation: Option<Bytes>,
    /// Of a request.
    pub latency: Latency,
    /// Errors, timeouts, and answers that were not 2xx.
    pub failures_count: f64,
}

/// Milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    /// Average.
    pub mean: Option<Figure>,
    /// Standard deviation.
    pub deviation: Option<Figure>,
    /// The largest.
    pub max: Option<Figure>,
    /// `(50.0, median)`, as many as were given, in their order.
    pub percentiles: Vec<(f64, Figure)>,
}

impl Claim {
    /// Nothing said yet.
    pub fn of(tool: Tool) -> Claim {
        Claim {
            tool,
            connections_count: None,
            depth: None,
            threads_count: None,
            seconds: None,
            samples_count: None,
            requests: None,
            rate: None,
            rate_deviation: None,
            read: None,
            bodies: None,
            transfer: None,
            transfer_deviation: None,
            latency: Latency::default(),
            failures_count: 0.0,
        }
    }

    /// Reads the output of any of the tools.
    ///
    /// # Errors
    /// It is none of theirs, or says neither a rate nor a total.
    pub fn parse(text: &str) -> Result<Claim> {
        let text = without_colours(text);
        let claim = if let Some(json) = text.lines().find(|line| line.trim_start().starts_with('{')) {
            autocannon::parse_json(json.trim()).or_else(|| autocannon::parse_json(text.trim()))
        } else if text.contains("Requests/sec:") {
            Some(wrk::parse(&text))
        } else if text.contains("finished in") {
            Some(h2load::parse(&text))
        } else if text.contains(" requests in ") {
            Some(autocannon::parse(&text))
        } else {
            None
        };
        claim.filter(|claim| claim.rate.is_some() || claim.requests.is_some()).ok_or_else(|| {
            Error::Unusable("this is no result of autocannon (text or --json), wrk or h2load that can be read".into())
        })
    }

    /// How many requests are in flight at most.
    pub fn in_flight(&self) -> Option<f64> {
        Some(self.connections_count? * self.depth?)
    }

    /// What the averages are over: samples of a second, or the whole run.
    pub fn averaged_seconds(&self) -> Option<Figure> {
        self.samples_count.map(Figure::exact).or(self.seconds)
    }

    /// The run went on although its samples had ended, or samples were not taken.
    pub fn is_stalled(&self) -> bool {
        self.samples_count.zip(self.seconds).is_some_and(|(count, seconds)| seconds.value > 1.1 * count + 0.5)
    }

    /// Requests per second over the whole run.
    pub fn whole_rate(&self) -> Option<f64> {
        match (self.requests, self.seconds) {
            (Some(requests), Some(seconds)) if self.is_stalled() || self.rate.is_none() => {
                Some(requests.value / seconds.value)
            }
            _ => self.rate.map(|rate| rate.value),
        }
    }

    /// Answers in all: autocannon's text counts what was sent, so there the samples say it.
    pub fn answers(&self) -> Option<f64> {
        let of_samples = self.rate.zip(self.samples_count).map(|(rate, count)| rate.value * count);
        match self.tool {
            Tool::Autocannon => of_samples.or(self.requests.map(|requests| requests.value)),
            Tool::Wrk | Tool::H2load => self.requests.map(|requests| requests.value),
        }
    }
}

/// Terminals are told colours by `ESC [ ... m`.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\u{1b}[") {
        plain.push_str(&rest[..start]);
        let sequence = &rest[start..];
        rest = sequence.find('m').map_or("", |end| &sequence[end + 1..]);
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_no_figures() {
        assert_eq!(without_colours("a\u{1b}[36mLatency\u{1b}[39m 3"), "aLatency 3");
        assert_eq!(without_colours("plain"), "plain");
    }

    #[test]
    fn what_is_no_result() {
        for text in ["", "hello", "{\"a\": 1}", "{", "finished in no time", "Requests/sec: many"] {
            assert!(Claim::parse(text).is_err(), "{text}");
        }
    }
}
