//! Conditions on a run, such as `p99>5ms`: what makes it a failed one. Pure.

use crate::error::{Error, Result};
use hdrhistogram::Histogram;
use std::fmt;
use std::str::FromStr;

/// What a condition looks at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// A latency, by its share of the recorded ones: 0.99 is p99, 1 the maximum. Nanoseconds.
    Latency(f64),
    /// Checked answers a second.
    ResponsesPerSecond,
    /// All faults of the run.
    Errors,
    /// Share of the answers whose status is not 2xx, 0 to 1.
    NonSuccess,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// `METRIC OPERATOR NUMBER[UNIT]`: p50 to p99.99 and max with us, ms or s; rps and errors without a unit; non-2xx with %
/// or without, then as a share.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    metric: Metric,
    comparison: Comparison,
    /// In the metric's own unit.
    bound: f64,
}

/// The figures that conditions are judged on.
pub struct Observed<'a> {
    /// Nanoseconds.
    pub latency: &'a Histogram<u64>,
    /// Checked answers a second.
    pub responses_per_second: f64,
    /// All faults of the run.
    pub errors: u64,
    /// Share of the answers whose status is not 2xx, 0 to 1.
    pub non_2xx_share: f64,
}

impl Condition {
    /// What it looks at.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// What it is judged on.
    pub fn value(&self, observed: &Observed) -> f64 {
        match self.metric {
            Metric::Latency(share) => observed.latency.value_at_quantile(share) as f64,
            Metric::ResponsesPerSecond => observed.responses_per_second,
            Metric::Errors => observed.errors as f64,
            Metric::NonSuccess => observed.non_2xx_share,
        }
    }

    /// The value when the condition holds, so that the run has failed by it.
    pub fn holds(&self, observed: &Observed) -> Option<f64> {
        let value = self.value(observed);
        let holds = match self.comparison {
            Comparison::Less => value < self.bound,
            Comparison::LessOrEqual => value <= self.bound,
            Comparison::Greater => value > self.bound,
            Comparison::GreaterOrEqual => value >= self.bound,
        };
        holds.then_some(value)
    }

    /// A value of this condition's metric, for people.
    pub fn show(&self, value: f64) -> String {
        match self.metric {
            Metric::Latency(_) => format!("{:.3} ms", value / 1e6),
            Metric::ResponsesPerSecond | Metric::Errors => format!("{value:.0}"),
            Metric::NonSuccess => format!("{:.3} %", value * 100.0),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl FromStr for Condition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Condition> {
        let refuse = || {
            Error::Unusable(format!("{text}: a condition is like p99>5ms, max>=1s, rps<100000, errors>0 or non-2xx>1%"))
        };
        let compact: String = text.split_whitespace().collect();
        let at = compact.find(['<', '>']).ok_or_else(refuse)?;
        let (name, rest) = compact.split_at(at);
        let (comparison, bound) = match (rest.strip_prefix(">="), rest.strip_prefix("<=")) {
            (Some(bound), _) => (Comparison::GreaterOrEqual, bound),
            (_, Some(bound)) => (Comparison::LessOrEqual, bound),
            _ if rest.starts_with('>') => (Comparison::Greater, &rest[1..]),
            _ => (Comparison::Less, &rest[1..]),
        };
        let metric = metric(name).ok_or_else(refuse)?;
        let (number, scale) = match metric {
            Metric::Latency(_) => duration(bound).ok_or_else(refuse)?,
            Metric::ResponsesPerSecond | Metric::Errors => (bound, 1.0),
            Metric::NonSuccess => bound.strip_suffix('%').map_or((bound, 1.0), |percent| (percent, 0.01)),
        };
        let number: f64 = number.parse().map_err(|_| refuse())?;
        if !number.is_finite() || number < 0.0 {
            return Err(refuse());
        }
        Ok(Condition { text: text.to_owned(), metric, comparison, bound: number * scale })
    }
}

fn metric(name: &str) -> Option<Metric> {
    match name {
        "rps" => Some(Metric::ResponsesPerSecond),
        "errors" => Some(Metric::Errors),
        "non-2xx" => Some(Metric::NonSuccess),
        "max" => Some(Metric::Latency(1.0)),
        _ => {
            let percent: f64 = name.strip_prefix('p')?.parse().ok()?;
            (percent > 0.0 && percent <= 100.0).then_some(Metric::Latency(percent / 100.0))
        }
    }
}

/// The number in front of the unit, and the unit in nanoseconds.
fn duration(text: &str) -> Option<(&str, f64)> {
    // "s" last: the others end with it.
    [("us", 1e3), ("ms", 1e6), ("s", 1e9)].into_iter().find_map(|(unit, ns)| Some((text.strip_suffix(unit)?, ns)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::latency_histogram;

    #[test]
    fn conditions_hold_or_not() {
        let mut latency = latency_histogram();
        for ms in 1..=100 {
            latency.record(ms * 1_000_000).unwrap();
        }
        let observed = Observed { latency: &latency, responses_per_second: 2_000.0, errors: 3, non_2xx_share: 0.02 };
        let table = [
            ("p50>60ms", false),
            ("p50 > 40ms", true),
            ("p99>=98ms", true),
            ("p99.9<1s", true),
            ("p99.99<50000us", false),
            ("max>99ms", true),
            ("max<99ms", false),
            ("rps<2000", false),
            ("rps<=2000", true),
            ("rps<1e5", true),
            ("errors>0", true),
            ("errors>=4", false),
            ("non-2xx>1%", true),
            ("non-2xx > 0.03", false),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Condition>().unwrap().holds(&observed).is_some(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        let table = [
            "",
            "p99",
            "p99>",
            "p99>5",
            "p99>5m",
            "p99=5ms",
            "p0>1ms",
            "p101>1ms",
            "rps>5ms",
            "rps>-1",
            "cpu>5",
            "errors>1%",
            "non-2xx>1ms",
            "p99>1e999s",
        ];
        for text in table {
            assert!(text.parse::<Condition>().is_err(), "{text}");
        }
    }
}
