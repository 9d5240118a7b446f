//! A line on standard error once a second while a load runs.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Between two lines.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether the run is over.
const LOOK: Duration = Duration::from_millis(50);

/// What each generator thread has counted, told once a turn by a store of its own: no thread waits for another.
#[derive(Debug)]
pub struct Progress {
    /// Answers, one counter a thread, each on a cache line of its own.
    threads: Vec<Counter>,
    is_over: AtomicBool,
}

#[repr(align(64))]
#[derive(Debug, Default)]
struct Counter(AtomicU64);

impl Progress {
    /// Of so many threads.
    pub fn new(threads_count: usize) -> Progress {
        let threads = std::iter::repeat_with(Counter::default).take(threads_count).collect();
        Progress { threads, is_over: AtomicBool::new(false) }
    }

    /// A thread's answers so far.
    pub fn tell(&self, thread_index: usize, responses: u64) {
        self.threads[thread_index].0.store(responses, Relaxed);
    }

    /// The run is over: [`print`](Progress::print) returns.
    pub fn end(&self) {
        self.is_over.store(true, Relaxed);
    }

    /// Prints a line a second to `out` until the run is over.
    pub fn print(&self, mut out: impl Write) {
        let started = Instant::now();
        let (mut before, mut due) = (0, INTERVAL);
        while !self.is_over.load(Relaxed) {
            std::thread::sleep(LOOK);
            if started.elapsed() < due {
                continue;
            }
            due += INTERVAL;
            let responses: u64 = self.threads.iter().map(|thread| thread.0.load(Relaxed)).sum();
            // Nobody may be there to read it; the run does not depend on that.
            let _ = writeln!(
                out,
                "{:>4.0} s {:>12} answers in this second, {responses} in all",
                started.elapsed().as_secs_f64(),
                responses - before
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
                progress.tell(0, 40);
                progress.tell(1, 2);
                std::thread::sleep(Duration::from_millis(1_200));
                progress.end();
            });
            progress.print(&mut out);
        });
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.lines().next().is_some_and(|line| line.ends_with("42 answers in this second, 42 in all")),
            "{text}"
        );
    }
}
