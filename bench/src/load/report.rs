//! What one thread saw, and what all of them saw together.

use crate::clock;
use crate::error::{Error, Result};
use crate::limits::CORE_BUSY_MIN;
use crate::load::{Faults, Outcome, latency_histogram};
use crate::process::cpu::ProcessCpu;
use hdrhistogram::Histogram;
use rustix::process::Pid;

/// A look at the counters, at one end of the window.
#[derive(Clone, Copy)]
pub struct Mark {
    pub at_ns: u64,
    pub responses: u64,
    pub own_cpu_ns: u64,
    /// The thread was ready to run and another one had its CPU.
    pub own_waited_ns: u64,
    pub server: Option<ProcessCpu>,
}

impl Mark {
    /// Of the calling thread, and of the server if there is one to look at.
    pub fn now(responses: u64, server: Option<Pid>) -> Result<Mark> {
        let server = server.map(ProcessCpu::read).transpose().map_err(|error| {
            Error::Unusable(format!("the server's CPU time cannot be read, has it ended? ({error})"))
        })?;
        let own_waited_ns = waited_ns();
        let (at_ns, own_cpu_ns) = (clock::now_ns(), clock::thread_cpu_ns());
        Ok(Mark { at_ns, responses, own_cpu_ns, own_waited_ns, server })
    }
}

/// The second field of `schedstat`; 0 where the kernel keeps none.
fn waited_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_ascii_whitespace().nth(1).and_then(|field| field.parse().ok()).unwrap_or(0)
}

/// What one thread saw.
pub struct Report {
    pub begin: Mark,
    pub end: Mark,
    pub faults: Faults,
    pub latency: Histogram<u64>,
    pub late_ns_max: u64,
    pub late: Histogram<u64>,
    pub never_sent: u64,
}

/// All threads' together; none is left out.
pub fn merge(reports: impl ExactSizeIterator<Item = Report>) -> Outcome {
    let threads_count = reports.len() as f64;
    let mut outcome = Outcome {
        begin_ns: u64::MAX,
        end_ns: 0,
        responses: 0,
        faults: Faults::default(),
        latency: latency_histogram(),
        late_ns_max: 0,
        late: latency_histogram(),
        never_sent: 0,
        generator_busy: 0.0,
        generator_waited: 0.0,
        generator_was_limit: false,
        server: None,
    };
    for Report { begin, end, faults, latency, late_ns_max, late, never_sent } in reports {
        outcome.begin_ns = outcome.begin_ns.min(begin.at_ns);
        outcome.end_ns = outcome.end_ns.max(end.at_ns);
        outcome.responses += end.responses - begin.responses;
        let window_ns = (end.at_ns - begin.at_ns) as f64;
        let busy = (end.own_cpu_ns - begin.own_cpu_ns) as f64 / window_ns;
        let waited = end.own_waited_ns.saturating_sub(begin.own_waited_ns) as f64 / window_ns;
        outcome.generator_busy += busy / threads_count;
        outcome.generator_waited += waited / threads_count;
        // One thread at its limit keeps its connections short, whatever the others do.
        outcome.generator_was_limit |= busy + waited >= CORE_BUSY_MIN;
        outcome.server = outcome.server.or(end.server.zip(begin.server).map(|(end, begin)| end - begin));
        outcome.faults.add(faults);
        outcome.latency += latency;
        outcome.late_ns_max = outcome.late_ns_max.max(late_ns_max);
        outcome.late += late;
        outcome.never_sent += never_sent;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(busy_ns: u64, waited_ns: u64) -> Report {
        let begin = Mark { at_ns: 1_000, responses: 5, own_cpu_ns: 70, own_waited_ns: 30, server: None };
        let end =
            Mark { at_ns: 2_000, responses: 25, own_cpu_ns: 70 + busy_ns, own_waited_ns: 30 + waited_ns, server: None };
        let faults = Faults { unanswered: 1, ..Faults::default() };
        let (latency, mut late) = (latency_histogram(), latency_histogram());
        late.record(busy_ns).expect("in bounds");
        Report { begin, end, faults, latency, late_ns_max: busy_ns, late, never_sent: 2 }
    }

    #[test]
    fn one_thread_at_its_limit_is_the_limit() {
        let table = [((500, 300), false), ((980, 0), true), ((500, 480), true)];
        for ((busy_ns, waited_ns), expected) in table {
            let outcome = merge([report(100, 0), report(busy_ns, waited_ns)].into_iter());
            assert_eq!(outcome.generator_was_limit, expected, "{busy_ns} {waited_ns}");
            let mean = (100.0 + busy_ns as f64) / 2.0 / 1_000.0;
            assert!((outcome.generator_busy - mean).abs() < 1e-9, "{}", outcome.generator_busy);
            assert_eq!((outcome.responses, outcome.never_sent, outcome.faults.unanswered), (40, 4, 2));
            assert_eq!((outcome.late_ns_max, outcome.late.len()), (busy_ns, 2));
        }
    }
}
