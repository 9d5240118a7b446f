//! What the system knows of this process, under the names that every Prometheus client gives it. Linux only: elsewhere there
//! is no such table to read.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

/// Ticks a second of the times in `/proc/self/stat`: fixed by Linux' interface to programs, whatever the kernel's own.
const TICKS_PER_SECOND: f64 = 100.0;

/// A registry of what is read when asked for.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    registry
}

#[derive(Debug)]
struct Process;

/// What was read. What cannot be read is left out: a limit in force, a system without procfs.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    cpu_seconds: Option<f64>,
    start_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    threads: Option<u64>,
    open_descriptors: Option<u64>,
    descriptors_max: Option<u64>,
}

impl Figures {
    fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut figures = Self::of(&text("/proc/self/stat"), &text("/proc/self/status"), &text("/proc/stat"));
        figures.descriptors_max = limit(&text("/proc/self/limits"), "Max open files");
        // One of them is the directory itself.
        figures.open_descriptors = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64 - 1);
        figures
    }

    /// From the process' `stat` and `status`, and the system's `stat` (`proc(5)`).
    fn of(stat: &str, status: &str, system: &str) -> Self {
        // The name stands in parentheses and may hold anything; the third field is the first behind them.
        let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |number: usize| behind_name.split_ascii_whitespace().nth(number - 3)?.parse::<f64>().ok();
        let line = |text: &str, name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        let booted = line(system, "btime ").map(|seconds| seconds as f64);
        Self {
            cpu_seconds: field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            start_seconds: booted.zip(field(22)).map(|(booted, after)| booted + after / TICKS_PER_SECOND),
            resident_bytes: line(status, "VmRSS:").map(|kib| kib * 1024),
            virtual_bytes: line(status, "VmSize:").map(|kib| kib * 1024),
            threads: line(status, "Threads:"),
            ..Self::default()
        }
    }
}

/// The soft limit of that name; `None` when it is unlimited too.
fn limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let figures = Figures::read();
        if let Some(seconds) = figures.cpu_seconds {
            let help = "CPU time of all threads, user and system";
            let metric = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
            ConstCounter::new(seconds).encode(metric)?;
        }
        let gauges = [
            ("process_start_time_seconds", "When the process began, Unix time", figures.start_seconds),
            ("process_resident_memory_bytes", "Memory in use", figures.resident_bytes.map(|bytes| bytes as f64)),
            ("process_virtual_memory_bytes", "Address space", figures.virtual_bytes.map(|bytes| bytes as f64)),
            ("process_threads", "Threads", figures.threads.map(|threads| threads as f64)),
            ("process_open_fds", "Descriptors open", figures.open_descriptors.map(|count| count as f64)),
            ("process_max_fds", "Descriptors that may be open", figures.descriptors_max.map(|count| count as f64)),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_of_procfs_are_read() {
        let stat = "12 (a) b (c) S 1 12 12 0 -1 4194560 1 2 3 4 250 150 0 0 20 0 7 0 1000 9 9";
        let status = "Name:\ta\nVmSize:\t 2048 kB\nVmRSS:\t  10 kB\nThreads:\t7\n";
        let expected = Figures {
            cpu_seconds: Some(4.0),
            start_seconds: Some(1_700_000_010.0),
            resident_bytes: Some(10_240),
            virtual_bytes: Some(2_097_152),
            threads: Some(7),
            ..Figures::default()
        };
        assert_eq!(Figures::of(stat, status, "cpu 1 2\nbtime 1700000000\n"), expected);
        assert_eq!(Figures::of("", "", ""), Figures::default());
        let limits = "Limit  Soft Limit\nMax open files            1024                 4096                 files\n";
        assert_eq!(limit(limits, "Max open files"), Some(1024));
        assert_eq!(limit("Max open files   unlimited   unlimited", "Max open files"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_figures() {
        let figures = Figures::read();
        assert!(figures.resident_bytes.expect("memory") > 100_000, "{figures:?}");
        assert!(figures.open_descriptors.expect("descriptors") >= 3, "{figures:?}");
        assert!(figures.start_seconds.expect("a start") > 1_500_000_000.0, "{figures:?}");
    }
}
