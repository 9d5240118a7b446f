//! What is known of this worker: which partitions it has, how far each is, and what stands in the way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::apply::{Status, Writing};

/// Written by the owner of the loops, read by whoever asks. Never locked across an await.
#[derive(Debug, Default)]
pub struct Board(Mutex<Known>);

/// One partition that this worker has, or has had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartView {
    /// Which.
    pub part: u32,
    /// Whether it is applied here now.
    pub held: bool,
    /// Its loop's word; the counts are those of all its loops in this process.
    pub status: Status,
    /// Records in the log that are not applied yet, as of the last fetch.
    pub lag: u64,
}

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// Why this worker is not there for the others; `None` when it is.
    pub trouble: Option<String>,
    /// Workers that are there.
    pub workers: usize,
    /// By partition.
    pub parts: Vec<PartView>,
}

#[derive(Debug, Default)]
struct Known {
    trouble: Option<String>,
    workers: usize,
    parts: BTreeMap<u32, Part>,
}

#[derive(Debug, Default)]
struct Part {
    /// What earlier loops have done.
    past: Status,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    status: watch::Receiver<Status>,
    log_end: Arc<AtomicU64>,
}

impl Board {
    /// Nothing is known but this: there is trouble.
    pub fn waiting(why: &str) -> Self {
        Self(Mutex::new(Known { trouble: Some(why.to_owned()), ..Known::default() }))
    }

    /// What stands in the way, or that nothing does. True when that is news.
    pub fn set_trouble(&self, trouble: Option<String>) -> bool {
        let mut known = self.lock();
        let news = known.trouble != trouble;
        known.trouble = trouble;
        news
    }

    /// How many workers there are.
    pub fn set_workers(&self, workers: usize) {
        self.lock().workers = workers;
    }

    /// A loop runs from now on. `log_end` is one behind the log's last record.
    pub fn begin(&self, part: u32, status: watch::Receiver<Status>, log_end: Arc<AtomicU64>) {
        self.lock().parts.entry(part).or_default().running = Some(Running { status, log_end });
    }

    /// It has ended.
    pub fn end(&self, part: u32) {
        if let Some(part) = self.lock().parts.get_mut(&part) {
            part.past = part.status();
            part.running = None;
        }
    }

    /// Everything at one moment.
    pub fn view(&self) -> View {
        let known = self.lock();
        let parts = known.parts.iter().map(|(&number, part)| {
            let status = part.status();
            let log_end = part.running.as_ref().map_or(0, |running| running.log_end.load(Ordering::Relaxed));
            let lag = log_end.saturating_sub(status.next_offset);
            PartView { part: number, held: part.running.is_some(), status, lag }
        });
        View { trouble: known.trouble.clone(), workers: known.workers, parts: parts.collect() }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nobody panics while holding it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Part {
    fn status(&self) -> Status {
        let Some(running) = &self.running else { return self.past.clone() };
        let mut status = running.status.borrow().clone();
        status.batches += self.past.batches;
        status.failures += self.past.failures;
        status.counts.add(self.past.counts);
        status
    }
}

impl View {
    /// The partitions that are held and where writing has ended, each with the remedy.
    pub fn halted(&self) -> impl Iterator<Item = (u32, &str)> {
        self.parts.iter().filter(|part| part.held).filter_map(|part| match &part.status.writing {
            Writing::Ended(why) => Some((part.part, why.as_str())),
            Writing::Opening | Writing::Open | Writing::Failing(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_on_from_loop_to_loop() {
        let board = Board::default();
        let run = |batches, end| {
            let (status, watched) = watch::channel(Status::default());
            board.begin(3, watched, Arc::new(AtomicU64::new(end)));
            status.send_modify(|status| (status.batches, status.next_offset) = (batches, 5));
            status
        };
        let first = run(2, 9);
        assert_eq!(board.view().parts[0].lag, 4);
        board.end(3);
        drop(first);
        assert_eq!((board.view().parts[0].status.batches, board.view().parts[0].held), (2, false));
        let second = run(4, 5);
        second.send_modify(|status| status.writing = Writing::Ended("adopt it".to_owned()));
        let view = board.view();
        assert_eq!((view.parts[0].status.batches, view.parts[0].lag), (6, 0));
        assert_eq!(view.halted().collect::<Vec<_>>(), [(3, "adopt it")]);
        board.end(3);
        assert_eq!(board.view().halted().count(), 0);
    }
}
