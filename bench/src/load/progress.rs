//! A line on standard error once a second while a load runs.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether the run is over.
const LOOK: Duration = Duration::from_millis(50);
/// How often a thread tells its p99: that takes microseconds, the rest two stores.
const LATENCY_INTERVAL_NS: u64 = 300_000_000;

/// What each generator thread has counted, told once a turn by stores of its own: no thread waits for another.
#[derive(Debug)]
pub struct Progress {
    threads: Vec<Counters>,
    is_over: AtomicBool,
}

/// One thread's, on cache lines of their own.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Counters {
    responses: AtomicU64,
    errors: AtomicU64,
    p99_ns: AtomicU64,
    latency_told_ns: AtomicU64,
}

impl Progress {
    /// Of so many threads.
    pub fn new(threads_count: usize) -> Progress {
        let threads = std::iter::repeat_with(Counters::default).take(threads_count).collect();
        Progress { threads, is_over: AtomicBool::new(false) }
    }

    /// A thread's answers and errors so far.
    pub fn tell(&self, thread_index: usize, responses: u64, errors: u64) {
        let counters = &self.threads[thread_index];
        counters.responses.store(responses, Relaxed);
        counters.errors.store(errors, Relaxed);
    }

    /// Whether a thread's latency is to be told again.
    pub fn is_latency_due(&self, thread_index: usize, now_ns: u64) -> bool {
        // Read and written by that thread only.
        now_ns.saturating_sub(self.threads[thread_index].latency_told_ns.load(Relaxed)) >= LATENCY_INTERVAL_NS
    }

    /// A thread's p99 so far, in nanoseconds.
    pub fn tell_latency(&self, thread_index: usize, p99_ns: u64, now_ns: u64) {
        self.threads[thread_index].p99_ns.store(p99_ns, Relaxed);
        self.threads[thread_index].latency_told_ns.store(now_ns, Relaxed);
    }

    /// The run is over: [`print`](Progress::print) returns.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// Prints a line a second to `out` until the run is over.
    pub fn print(&self, mut out: impl Write) {
        let started = Instant::now();
        let (mut before, mut looked) = (0, started);
        while !self.is_over.load(Relaxed) {
            std::thread::sleep(LOOK);
            let since = looked.elapsed();
            if since < INTERVAL {
                continue;
            }
            looked = Instant::now();
            let sum =
                |of: fn(&Counters) -> &AtomicU64| -> u64 { self.threads.iter().map(|t| of(t).load(Relaxed)).sum() };
            let responses = sum(|counters| &counters.responses);
            let p99_ns = self.threads.iter().map(|thread| thread.p99_ns.load(Relaxed)).max().unwrap_or(0);
            // Nobody may be there to read it; the run does not depend on that.
            let _ = writeln!(
                out,
                "{:>4.0} s {:>10.0} answers/s, p99 so far {:.3} ms, {} errors",
                started.elapsed().as_secs_f64(),
                responses.saturating_sub(before) as f64 / since.as_secs_f64(),
                p99_ns as f64 / 1e6,
                sum(|counters| &counters.errors),
            );
            before = responses;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_came_and_ends() {
        let progress = Progress::new(2);
        let mut out = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                progress.tell(0, 4_000, 1);
                progress.tell(1, 2_000, 2);
                assert!(progress.is_latency_due(1, 1_000_000_000));
                progress.tell_latency(1, 7_500_000, 1_000_000_000);
                assert!(!progress.is_latency_due(1, 1_100_000_000));
                std::thread::sleep(Duration::from_millis(1_200));
                progress.end();
            });
            progress.print(&mut out);
        });
        let text = String::from_utf8(out).unwrap();
        let line = text.lines().next().expect("a line in the first second");
        assert!(line.ends_with("answers/s, p99 so far 7.500 ms, 3 errors"), "{line}");
        let rate: f64 = line.split_whitespace().nth(2).unwrap().parse().unwrap();
        // 6,000 answers, in a second or, where the machine is slow, in a few.
        assert!((600.0..=6_000.0).contains(&rate), "{line}");
    }
}
