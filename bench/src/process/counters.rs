//! How a target tells how many requests it answered with how many reads.
//!
//! The server has `/metrics`; floors print a line of JSON for each line `stats` on standard input and end with it, so
//! that none outlives the run that started it. The names of both stand here and nowhere else.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Requests answered, by shard, route and status.
pub const REQUESTS_METRIC: &str = "todo_requests_total";
/// Successful reads of client sockets, by shard.
pub const READS_METRIC: &str = "todo_reads_total";
/// Transactions committed by the embedded store: each is one fsync.
pub const COMMITS_METRIC: &str = "todo_commits_total";
/// Commands that a worker has applied, by partition.
pub const APPLIED_METRIC: &str = "todo_worker_commands_total";
/// Records in the log that a worker has not applied, by partition.
pub const LAG_METRIC: &str = "todo_worker_lag";
/// The front of an info metric whose label `driver` says how the shards wait.
const DRIVER_METRIC: &str = "todo_driver{";
/// The line that asks a floor for its counters.
pub const STATS_LINE: &str = "stats";

/// Counters since start, or between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Requests answered.
    pub requests: u64,
    /// Reads that brought at least a byte.
    pub reads: u64,
}

impl Counters {
    /// Sums the server's series over shards, routes and statuses.
    pub fn from_metrics(text: &str) -> Result<Counters> {
        let sum = |name| metric_sum(text, name).ok_or_else(|| Error::Unusable(format!("/metrics has no {name}")));
        Ok(Counters { requests: sum(REQUESTS_METRIC)?, reads: sum(READS_METRIC)? })
    }

    /// What happened since `earlier`.
    pub fn since(self, earlier: Counters) -> Counters {
        Counters {
            requests: self.requests.saturating_sub(earlier.requests),
            reads: self.reads.saturating_sub(earlier.reads),
        }
    }

    /// The batch size that the target saw; `None` when it read nothing.
    pub fn requests_per_read(&self) -> Option<f64> {
        (self.reads > 0).then(|| self.requests as f64 / self.reads as f64)
    }
}

/// Sum of all series of a metric in Prometheus text, `None` when there is none.
pub fn metric_sum(text: &str, name: &str) -> Option<u64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.as_bytes().first()? {
            b'{' => rest.rsplit_once('}')?.1,
            b' ' => rest,
            _ => return None,
        };
        value.split_ascii_whitespace().next()?.parse::<f64>().ok()
    });
    values.map(|value| value as u64).reduce(|sum, value| sum + value)
}

/// The I/O driver named in Prometheus text.
pub fn driver(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.starts_with(DRIVER_METRIC))?;
    let (_, value) = line.split_once("driver=\"")?;
    value.split_once('"').map(|(driver, _)| driver)
}

/// A floor's counters: written by its one thread, read by its control thread.
#[derive(Default)]
pub struct SharedCounters {
    requests: AtomicU64,
    reads: AtomicU64,
}

impl SharedCounters {
    /// One read that brought `requests_count` whole requests. One writer: load, add, relaxed store.
    pub fn add_read(&self, requests_count: u64) {
        self.requests.store(self.requests.load(Ordering::Relaxed) + requests_count, Ordering::Relaxed);
        self.reads.store(self.reads.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The counters now.
    pub fn get(&self) -> Counters {
        Counters { requests: self.requests.load(Ordering::Relaxed), reads: self.reads.load(Ordering::Relaxed) }
    }
}

/// The first line of a floor: it listens.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listening {
    /// TCP port.
    pub port: u16,
}

/// Announces the port, then answers `stats` lines from a thread of its own, and ends the process when standard input
/// does.
pub fn serve_control(port: u16, counters: Arc<SharedCounters>) -> std::io::Result<()> {
    print_line(&Listening { port })?;
    std::thread::Builder::new().name("control".into()).spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if line.trim() == STATS_LINE && print_line(&counters.get()).is_err() {
                break;
            }
        }
        std::process::exit(0);
    })?;
    Ok(())
}

fn print_line(value: &impl Serialize) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    serde_json::to_writer(&mut output, value)?;
    output.write_all(b"\n")?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums() {
        let text = "# TYPE todo_reads counter\n\
                    todo_reads_total{shard=\"0\"} 7\n\
                    todo_reads_total{shard=\"1\"} 5\n\
                    todo_reads_total_other 100\n\
                    todo_requests_total{shard=\"0\",route=\"a}b\"} 3e1\n\
                    plain 4\n";
        let table =
            [("todo_reads_total", Some(12)), ("todo_requests_total", Some(30)), ("plain", Some(4)), ("todo", None)];
        for (name, expected) in table {
            assert_eq!(metric_sum(text, name), expected, "{name}");
        }
        assert_eq!(driver("# HELP x\ntodo_driver{driver=\"io_uring\"} 1\n"), Some("io_uring"));
        assert_eq!(driver(text), None);
        let counters = Counters::from_metrics(text).unwrap();
        assert_eq!(counters.requests_per_read(), Some(2.5));
        assert_eq!(counters.since(counters).requests_per_read(), None);
        assert!(Counters::from_metrics("").is_err());
    }
}
