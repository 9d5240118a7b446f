//! Keeps one apply loop running for each partition that is leased to this worker, and no other.
//!
//! Every [`LEASE_RENEW_EVERY`] it says that it is there and hears what it has. A loop ends at a batch's end: when its
//! partition is one too many, when another worker has taken it, when nothing was heard of Postgres for as long as a lease
//! lives, and when the worker stops. What has ended is released, so that whoever is to have it next waits for nothing.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::apply::{Status, Writing, stopped};
use crate::limits::{HALTED_RETRY_AFTER, LEASE, LEASE_RENEW_EVERY};
use crate::postgres::{Leases, Share};
use crate::service::board::Board;
use crate::traits::StoreError;

/// What a loop is started with.
pub struct LoopStart {
    /// Its partition.
    pub part: u32,
    /// Where it says how it is.
    pub status: watch::Sender<Status>,
    /// When it is to end.
    pub stop: watch::Receiver<bool>,
    /// Where its log notes its end.
    pub log_end: Arc<AtomicU64>,
}

/// Owns the loops of one worker. `R` runs one.
pub struct Owner<R> {
    leases: Leases,
    run: R,
    board: Arc<Board>,
    loops: BTreeMap<u32, Running>,
    /// Ends with its partition.
    tasks: JoinSet<u32>,
    renewed_at: Instant,
    /// Whether partition 0 is here.
    owns_first: watch::Sender<bool>,
}

struct Running {
    stop: watch::Sender<bool>,
    status: watch::Receiver<Status>,
    /// It was told to end.
    ending: bool,
    /// Since when writing has ended there.
    halted_since: Option<Instant>,
}

impl<R, F> Owner<R>
where
    R: Fn(LoopStart) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    /// `owns_first` is told whether partition 0 is here.
    pub fn new(leases: Leases, run: R, board: Arc<Board>, owns_first: watch::Sender<bool>) -> Self {
        let (loops, tasks) = (BTreeMap::new(), JoinSet::new());
        Self { leases, run, board, loops, tasks, renewed_at: Instant::now(), owns_first }
    }

    /// Until `stop` is true: then every loop ends, and everything is given back.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut ticks = interval(LEASE_RENEW_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                Some(ended) = self.tasks.join_next() => self.release(ended.expect("a loop does not panic")).await,
                _ = ticks.tick() => tokio::select! {
                    biased;
                    () = stopped(&mut stop) => break,
                    share = self.leases.renew() => self.follow(share).await,
                },
            }
        }
        self.leave().await;
    }

    async fn follow(&mut self, share: Result<Share, StoreError>) {
        let share = match share {
            Ok(share) => share,
            Err(error) => {
                if self.board.set_trouble(Some(error.to_string())) {
                    tracing::warn!(%error, "the leases cannot be renewed for now");
                }
                if self.renewed_at.elapsed() > LEASE {
                    self.loops.values_mut().for_each(Running::end);
                }
                return;
            }
        };
        self.renewed_at = Instant::now();
        if self.board.set_trouble(None) {
            tracing::info!(workers = share.workers, held = share.held.len(), "here, and sharing the partitions");
        }
        self.board.set_workers(share.workers);
        for (part, running) in &mut self.loops {
            if !share.held.contains(part) {
                tracing::warn!(part, "another worker has taken this partition");
                running.end();
            } else if running.halted_for_long() {
                // Somebody may have followed the remedy meanwhile.
                running.end();
            }
        }
        let wanted = share.held.len().saturating_sub(share.surplus);
        let mut running = self.loops.values().filter(|running| !running.ending).count();
        let surplus = running.saturating_sub(wanted);
        self.loops.values_mut().rev().filter(|running| !running.ending).take(surplus).for_each(Running::end);
        for part in share.held {
            if self.loops.contains_key(&part) {
                // It runs, or it ends and is then released.
            } else if running < wanted {
                running += 1;
                self.start(part);
            } else {
                self.release(part).await;
            }
        }
        self.note_first();
    }

    fn start(&mut self, part: u32) {
        let (status, watched) = watch::channel(Status::default());
        let (stop, stopping) = watch::channel(false);
        let log_end = Arc::new(AtomicU64::new(0));
        self.board.begin(part, watched.clone(), Arc::clone(&log_end));
        let run = (self.run)(LoopStart { part, status, stop: stopping, log_end });
        self.tasks.spawn(async move {
            run.await;
            part
        });
        self.loops.insert(part, Running { stop, status: watched, ending: false, halted_since: None });
    }

    async fn release(&mut self, part: u32) {
        self.forget(part);
        if let Err(error) = self.leases.release(part).await {
            tracing::warn!(part, %error, "the lease is not given back; it ends by itself");
        }
    }

    fn forget(&mut self, part: u32) {
        self.loops.remove(&part);
        self.board.end(part);
        self.note_first();
    }

    fn note_first(&self) {
        let owns = self.loops.get(&0).is_some_and(|running| !running.ending);
        self.owns_first.send_if_modified(|owned| std::mem::replace(owned, owns) != owns);
    }

    async fn leave(mut self) {
        self.loops.values_mut().for_each(Running::end);
        while let Some(ended) = self.tasks.join_next().await {
            self.forget(ended.expect("a loop does not panic"));
        }
        match self.leases.leave().await {
            Ok(()) => tracing::info!("every partition is given back"),
            Err(error) => tracing::warn!(%error, "the leases are not given back; they end by themselves"),
        }
    }
}

impl Running {
    fn end(&mut self) {
        self.ending = true;
        self.stop.send_replace(true);
    }

    fn halted_for_long(&mut self) -> bool {
        let halted = matches!(self.status.borrow().writing, Writing::Ended(_));
        self.halted_since = halted.then(|| self.halted_since.unwrap_or_else(Instant::now));
        self.halted_since.is_some_and(|since| since.elapsed() > HALTED_RETRY_AFTER)
    }
}
