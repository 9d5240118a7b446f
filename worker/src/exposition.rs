//! The two text formats of `/metrics`, and which of them a client wants.
//!
//! Without a word it is the older one of Prometheus, which browsers show and every tool reads; OpenMetrics is for who asks for
//! it by name, as Prometheus does.

use std::fmt;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

const OPEN_METRICS: &str = "application/openmetrics-text";
const PLAIN_TEXT: &str = "text/plain";

/// One of the formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl Format {
    /// What a request with this `Accept` wants (RFC 9110 12.5.1).
    pub fn of_accept(accept: Option<&[u8]>) -> Format {
        let accept = accept.map(String::from_utf8_lossy).unwrap_or_default();
        let weights = |name: &str| accept.split(',').filter(move |range| is_of(range, name)).map(weight).max();
        // Compared in thousandths: that is all that a weight can say.
        match (weights(OPEN_METRICS), weights(PLAIN_TEXT)) {
            (Some(open), plain) if open > 0 && plain.is_none_or(|plain| open >= plain) => Format::OpenMetrics,
            _ => Format::Prometheus,
        }
    }

    /// The media type of an answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Everything in `registries`, one after the other.
    ///
    /// # Errors
    /// A metric cannot be encoded, which is a fault of ours.
    pub fn encode(self, registries: &[&Registry]) -> Result<String, fmt::Error> {
        let mut text = String::new();
        for registry in registries {
            encode_registry(&mut text, registry)?;
        }
        match self {
            Format::OpenMetrics => encode_eof(&mut text)?,
            Format::Prometheus => text = older(&text),
        }
        Ok(text)
    }
}

fn is_of(range: &str, name: &str) -> bool {
    let media_type = range.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case(name)
}

/// The weight of a media range in thousandths; 1000 without one, and 0 where it is none.
fn weight(range: &str) -> u16 {
    let parameters = range.split(';').skip(1).map(str::trim);
    let weight =
        parameters.filter_map(|parameter| parameter.strip_prefix("q=").or(parameter.strip_prefix("Q="))).next();
    let Some(weight) = weight else { return 1_000 };
    weight.trim().parse::<f32>().map_or(0, |weight| (weight.clamp(0.0, 1.0) * 1_000.0) as u16)
}

/// The same in the older format: there the family of a counter has the name of its series, and there are no units.
fn older(text: &str) -> String {
    let mut older = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(of) = line.strip_prefix("# HELP ") {
            // Its name is known with the type, which follows.
            help = of.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|of| of.split_once(' ')) {
            let total = if kind == "counter" { "_total" } else { "" };
            let kind = if kind == "unknown" { "untyped" } else { kind };
            if let Some(help) = help.take() {
                older.extend(["# HELP ", name, total, " ", help, "\n"]);
            }
            older.extend(["# TYPE ", name, total, " ", kind, "\n"]);
        } else if !line.starts_with("# UNIT ") {
            older.extend([line, "\n"]);
        }
    }
    older
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::histogram::Histogram;

    use super::*;

    #[test]
    fn open_metrics_is_for_who_asks_by_name() {
        let check =
            |accept: &str, expected| assert_eq!(Format::of_accept(Some(accept.as_bytes())), expected, "{accept}");
        check("application/openmetrics-text", Format::OpenMetrics);
        check("Application/OpenMetrics-Text;version=1.0.0", Format::OpenMetrics);
        check("text/plain, application/openmetrics-text", Format::OpenMetrics);
        // What Prometheus sends.
        check(
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            Format::OpenMetrics,
        );
        check("application/openmetrics-text;q=0.3, text/plain;q=0.5", Format::Prometheus);
        check("application/openmetrics-text;q=0", Format::Prometheus);
        check("application/openmetrics-text; q=many", Format::Prometheus);
        for accept in
            ["", "*/*", "text/html,application/xhtml+xml,*/*;q=0.8", "application/openmetrics-text-x", ",;,q=1"]
        {
            check(accept, Format::Prometheus);
        }
        assert_eq!(Format::of_accept(None), Format::Prometheus);
        assert_eq!(Format::of_accept(Some(b"\xff\xfe")), Format::Prometheus);
    }

    #[test]
    fn both_formats_say_the_same() {
        let (mut one, mut other) = (Registry::with_prefix("a"), Registry::default());
        let (counter, gauge) = (Counter::<u64>::default(), Gauge::<i64>::default());
        let histogram = Histogram::new([1.0]);
        counter.inc_by(3);
        gauge.set(-1);
        histogram.observe(0.5);
        one.register("things", "How many", counter);
        one.register("seconds", "How long", histogram);
        other.register("level", "How high", gauge);
        let open = Format::OpenMetrics.encode(&[&one, &other]).expect("it is encoded");
        assert!(open.contains("# TYPE a_things counter\na_things_total 3\n"), "{open}");
        assert!(open.ends_with("level -1\n# EOF\n"), "{open}");
        let plain = Format::Prometheus.encode(&[&one, &other]).expect("it is encoded");
        assert!(
            plain.starts_with("# HELP a_things_total How many.\n# TYPE a_things_total counter\na_things_total 3\n"),
            "{plain}"
        );
        assert!(plain.contains("# TYPE a_seconds histogram\n") && plain.contains("a_seconds_bucket{le=\"1.0\"} 1\n"));
        assert!(plain.ends_with("# TYPE level gauge\nlevel -1\n"), "{plain}");
        assert!(!plain.contains("EOF"), "{plain}");
    }
}
