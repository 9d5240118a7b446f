//! The result of a load: as text, as JSON, and whether the run has passed.

use crate::command::Verdict;
use crate::command::load::LoadArgs;
use hdrhistogram::Histogram;
use serde::Serialize;
use todo_bench::condition::{Metric, Observed};
use todo_bench::load::exchange::{Exchanges, Traffic};
use todo_bench::load::slow::SlowReport;
use todo_bench::load::{Faults, Outcome};

/// What a load came to.
pub struct Ran {
    pub outcome: Outcome,
    /// `None` from the generator of blocks, whose requests have no counts of their own.
    pub exchanges: Option<Exchanges>,
    pub slow_readers: Option<SlowReport>,
}

/// The result as printed.
#[derive(Serialize)]
pub struct Summary {
    /// `blocks` or `exchanges`: which generator ran.
    generator: &'static str,
    connections: usize,
    depth: usize,
    /// Requests per second that were due; absent in a closed loop.
    rate: Option<f64>,
    responses: u64,
    seconds: f64,
    responses_per_second: f64,
    /// False when a generator thread was at its limit: then the rate says nothing about the server.
    throughput_is_its_own: bool,
    /// `block` (from its send to its last answer) or `request`.
    latency_of: &'static str,
    block_latency_us: Percentiles,
    late_us_max: f64,
    /// Blocks that were due and never left; their waiting is part of the latency.
    never_sent: u64,
    generator_busy: f64,
    generator_waited: f64,
    generator_ns_per_response: f64,
    server_ns_per_response: Option<f64>,
    server_user_share: Option<f64>,
    bodies_checked: u64,
    exchanges: Option<ExchangesSummary>,
    slow_readers: Option<SlowReport>,
    faults: Faults,
    /// All of them.
    pub conditions: Vec<Judged>,
}

/// Microseconds.
#[derive(Serialize)]
struct Percentiles {
    mean: f64,
    p50: f64,
    p75: f64,
    p90: f64,
    p97_5: f64,
    p99: f64,
    p999: f64,
    p9999: f64,
    max: f64,
}

#[derive(Serialize)]
struct ExchangesSummary {
    requests: Vec<RequestSummary>,
    non_2xx: u64,
    non_2xx_share: f64,
    reconnects: u64,
    connects_failed: u64,
    closed_by_server: u64,
    cut_off: u64,
    newest_checked: u64,
    bodies_unread: u64,
    connect_latency_us: Percentiles,
}

#[derive(Serialize)]
struct RequestSummary {
    request: String,
    weight: u32,
    answers: u64,
    wrong_status: u64,
}

/// A condition after the run.
#[derive(Serialize)]
pub struct Judged {
    pub condition: String,
    /// What it was judged on, in words.
    pub value: String,
    /// It fails the run, unless it cannot be judged.
    pub holds: bool,
    /// It is about requests per second, which were the generator's.
    pub is_unjudged: bool,
}

impl Summary {
    pub fn of(ran: &Ran, args: &LoadArgs, traffic: &Traffic) -> Summary {
        let outcome = &ran.outcome;
        let generator_ns = outcome.generator_busy * args.threads as f64 * outcome.seconds() * 1e9;
        let observed = Observed {
            latency: &outcome.latency,
            responses_per_second: outcome.responses_per_second(),
            errors: outcome.faults.count(),
            non_2xx_share: ran.exchanges.as_ref().map_or(0.0, Exchanges::non_2xx_share),
        };
        let conditions = args.conditions.iter().map(|condition| {
            let holds = condition.holds(&observed).is_some();
            let is_rate = condition.metric() == Metric::ResponsesPerSecond;
            Judged {
                condition: condition.to_string(),
                value: condition.show(condition.value(&observed)),
                holds,
                is_unjudged: holds && is_rate && outcome.generator_was_limit,
            }
        });
        Summary {
            generator: if ran.exchanges.is_some() { "exchanges" } else { "blocks" },
            connections: args.connections,
            depth: args.depth,
            rate: args.rate,
            responses: outcome.responses,
            seconds: outcome.seconds(),
            responses_per_second: outcome.responses_per_second(),
            throughput_is_its_own: !outcome.generator_was_limit,
            latency_of: if args.trickle || args.depth == 1 { "request" } else { "block" },
            block_latency_us: Percentiles::of(&outcome.latency),
            late_us_max: outcome.late_ns_max as f64 / 1e3,
            never_sent: outcome.never_sent,
            generator_busy: outcome.generator_busy,
            generator_waited: outcome.generator_waited,
            generator_ns_per_response: generator_ns / outcome.responses.max(1) as f64,
            server_ns_per_response: outcome.server_ns_per_response(),
            server_user_share: outcome.server.and_then(|cpu| cpu.user_share()),
            bodies_checked: ran.exchanges.as_ref().map_or(0, |exchanges| exchanges.json_checked),
            exchanges: ran.exchanges.as_ref().map(|exchanges| ExchangesSummary::of(exchanges, traffic)),
            slow_readers: ran.slow_readers.clone(),
            faults: outcome.faults.clone(),
            conditions: conditions.collect(),
        }
    }

    /// A condition on errors takes the place of the rule that none may be, one on statuses that of the part about them.
    pub fn verdict(&self, args: &LoadArgs) -> Verdict {
        let is_judged_by = |metric| args.conditions.iter().any(|condition| condition.metric() == metric);
        let tolerated = match (is_judged_by(Metric::Errors), is_judged_by(Metric::NonSuccess)) {
            (true, _) => self.faults.count(),
            (false, true) => self.faults.wrong_status,
            (false, false) => 0,
        };
        let malformed = self.slow_readers.as_ref().map_or(0, |report| report.malformed);
        let has_answers = self.responses > 0 || tolerated > 0;
        let is_failed = self.conditions.iter().any(|condition| condition.holds && !condition.is_unjudged);
        if is_failed || !has_answers || self.faults.count() > tolerated || malformed > 0 {
            Verdict::Failed
        } else if self.conditions.iter().any(|condition| condition.is_unjudged) {
            Verdict::Unjudged
        } else {
            Verdict::Passed
        }
    }

    pub fn print(&self, args: &LoadArgs) {
        let loop_kind = match (args.rate, args.trickle) {
            (Some(rate), _) => format!("open loop at {rate} requests/s"),
            (None, true) => "one request for each answer".into(),
            (None, false) => "closed loop".into(),
        };
        println!("{} connections, depth {}, {loop_kind}, {:.2} s", args.connections, args.depth, self.seconds);
        println!("  {:.0} checked responses/s", self.responses_per_second);
        if !self.throughput_is_its_own {
            println!("  refused as the server's: the generator's core was the limit");
        }
        println!("  {} latency us: {}", self.latency_of, self.block_latency_us);
        if args.rate.is_some() {
            let late_us = self.late_us_max;
            println!("  blocks left at most {late_us:.0} us late; their latency counts from when they were due");
        }
        if self.never_sent > 0 {
            println!("  {} blocks were due and never left: every connection still waited", self.never_sent);
        }
        println!(
            "  generator: {:.0} ns per response, {:.0} % of its CPU, {:.0} % waiting for it",
            self.generator_ns_per_response,
            self.generator_busy * 100.0,
            self.generator_waited * 100.0,
        );
        if let Some(ns) = self.server_ns_per_response {
            let user = self.server_user_share.unwrap_or_default() * 100.0;
            println!("  server: {ns:.0} ns per response, {user:.0} % of it in user space");
        }
        if let Some(exchanges) = &self.exchanges {
            exchanges.print();
        }
        if self.bodies_checked > 0 {
            println!("  {} bodies parsed", self.bodies_checked);
        }
        if let Some(SlowReport { bytes, answers, closed, connects_failed, malformed }) = &self.slow_readers {
            println!(
                "  slow readers: {bytes} bytes, {answers} answers; {closed} closed by the server, {connects_failed} not \
                 connected again, {malformed} malformed answers"
            );
        }
        let Faults { connections_lost, unanswered, wrong_status, invalid_json, went_back, first } = &self.faults;
        if let Some(first) = first {
            println!(
                "  FAULTS: {connections_lost} connections lost, {unanswered} requests unanswered, {wrong_status} of \
                 another status, {invalid_json} no JSON, {went_back} went back; first: {first}"
            );
        }
    }
}

impl Percentiles {
    fn of(latency: &Histogram<u64>) -> Percentiles {
        let microseconds = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
        Percentiles {
            mean: latency.mean() / 1e3,
            p50: microseconds(0.5),
            p75: microseconds(0.75),
            p90: microseconds(0.9),
            p97_5: microseconds(0.975),
            p99: microseconds(0.99),
            p999: microseconds(0.999),
            p9999: microseconds(0.9999),
            max: latency.max() as f64 / 1e3,
        }
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Percentiles { mean, p50, p75, p90, p97_5, p99, p999, p9999, max } = self;
        write!(
            formatter,
            "mean {mean:.0}, p50 {p50:.0}, p75 {p75:.0}, p90 {p90:.0}, p97.5 {p97_5:.0}, p99 {p99:.0}, p99.9 {p999:.0}, \
             p99.99 {p9999:.0}, max {max:.0}"
        )
    }
}

impl ExchangesSummary {
    fn of(exchanges: &Exchanges, traffic: &Traffic) -> ExchangesSummary {
        let requests = traffic.requests().iter().zip(&exchanges.requests).map(|(request, counts)| RequestSummary {
            request: request.name.clone(),
            weight: request.weight,
            answers: counts.answers,
            wrong_status: counts.wrong_status,
        });
        ExchangesSummary {
            requests: requests.collect(),
            non_2xx: exchanges.non_2xx,
            non_2xx_share: exchanges.non_2xx_share(),
            reconnects: exchanges.reconnects,
            connects_failed: exchanges.connects_failed,
            closed_by_server: exchanges.closed_by_server,
            cut_off: exchanges.cut_off,
            newest_checked: exchanges.newest_checked,
            bodies_unread: exchanges.unread,
            connect_latency_us: Percentiles::of(&exchanges.connect_latency),
        }
    }

    fn print(&self) {
        if self.requests.len() > 1 {
            for RequestSummary { request, weight, answers, wrong_status } in &self.requests {
                println!("  {weight:>7} {request}: {answers} answers, {wrong_status} of another status");
            }
        }
        if self.reconnects + self.connects_failed + self.closed_by_server > 0 {
            println!(
                "  {} connections opened again, {} failed to; {} closed by the server, {} requests cut off by that",
                self.reconnects, self.connects_failed, self.closed_by_server, self.cut_off
            );
            println!("  connect latency us: {}", self.connect_latency_us);
        }
        if self.non_2xx > 0 {
            println!("  {} answers are not 2xx, {:.3} %", self.non_2xx, self.non_2xx_share * 100.0);
        }
        if self.newest_checked + self.bodies_unread > 0 {
            println!("  {} newest ids compared, {} bodies unread", self.newest_checked, self.bodies_unread);
        }
    }
}
