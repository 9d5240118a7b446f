//! The control plane: one tokio runtime on a thread of its own. It follows the changes, applies the writes, answers what
//! memory cannot, and takes the signals. Nothing here is on the way of a cached read.
//!
//! - [`embedded`], [`cluster`]: what stands behind the process, and [`backend`]: what pages tell of it.
//! - [`feed`]: changes of this process become snapshots.
//! - [`follow`]: changes of a store in another process become snapshots.
//! - [`gate`]: whether writes may be taken.
//! - [`serving`]: snapshots reach the shards.
//! - [`reads`]: what lies below the snapshot's floor.
//! - [`pages`]: `/ready` and `/metrics`.
//! - [`acceptor`]: hands connections to shards where they have no listeners of their own.

pub mod acceptor;
pub mod backend;
pub mod cluster;
pub mod embedded;
pub mod feed;
pub mod follow;
pub mod gate;
pub mod pages;
pub mod reads;
pub mod serving;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use todo_worker::postgres::OpenError;
use todo_worker::reads::OlderReader;
use todo_worker::sqlite::SqliteStore;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};

use crate::bridge::{Message, Request, Requests, ToShard};
use crate::control::cluster::{Cluster, Following};
use crate::control::embedded::{Applying, Embedded};
use crate::control::pages::Pages;
use crate::control::reads::Reads;
use crate::counters::{Count, ShardCounters};
use crate::http::connection::DeferredAnswer;
use crate::http::reject::Reject;
use crate::limits::CONTROL_REQUESTS_MAX;

/// What the control plane is started with.
pub struct ControlStart {
    /// Where all of it runs.
    pub runtime: Runtime,
    /// What stands behind the process.
    pub work: Work,
    /// What shards ask.
    pub requests: Requests,
    /// The ways to the shards.
    pub to_shards: Vec<ToShard>,
    /// Writes `/ready` and `/metrics`.
    pub pages: Pages,
    /// What shards count.
    pub counters: Vec<Arc<ShardCounters>>,
    /// Set when the process begins to go.
    pub draining: Arc<AtomicBool>,
    /// Ends when the acceptor has handed its last connection over; `None` where shards accept for themselves.
    pub accepting: Option<oneshot::Receiver<()>>,
    /// Told once signals are taken.
    pub ready: std::sync::mpsc::Sender<()>,
    /// How long connections and writes have at the end.
    pub drain_timeout: Duration,
}

/// What stands behind the process.
pub enum Work {
    /// A file and the apply loop.
    Embedded(Box<Embedded>),
    /// Kafka, Postgres and Redis.
    Cluster(Box<Cluster>),
}

/// Why the control plane ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No signal handlers.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// The store will never let us in.
    #[error(transparent)]
    Store(#[from] OpenError),
}

/// Runs the control plane on the calling thread until the process is to end: everything accepted is durable then.
///
/// # Errors
/// Signal handlers cannot be set up; the store of a cluster will never let this process in.
pub fn run(start: ControlStart) -> Result<(), ControlError> {
    let ControlStart { runtime, work, requests, to_shards, pages, counters, draining, accepting, ready, drain_timeout } =
        start;
    let answering = Answering { requests, to_shards: to_shards.clone(), pages: Arc::new(pages) };
    let drain = Drain { to_shards, counters, draining, accepting, timeout: drain_timeout };
    runtime.block_on(serve(work, answering, drain, ready))
}

async fn serve(
    work: Work,
    answering: Answering,
    drain: Drain,
    ready: std::sync::mpsc::Sender<()>,
) -> Result<(), ControlError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Whoever started the process may have gone already; that is no reason not to serve.
    let _ = ready.send(());
    let mut running = match work {
        Work::Embedded(embedded) => Running::Embedded(embedded.begin(answering)),
        Work::Cluster(cluster) => Running::Cluster(cluster.begin(answering)),
    };
    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        error = running.failed() => return Err(error.into()),
    };
    tracing::info!("{name}: no new connections; answering what is here");
    let to_shards = drain.to_shards.clone();
    drain.run().await;
    let store = running.finish().await;
    to_shards.iter().for_each(|shard| shard.send(Message::End));
    drop(store);
    Ok(())
}

/// What stands behind the process, at work.
enum Running {
    Embedded(Applying),
    Cluster(Following),
}

impl Running {
    async fn failed(&mut self) -> OpenError {
        match self {
            Running::Embedded(_) => std::future::pending().await,
            Running::Cluster(following) => following.failed().await,
        }
    }

    /// What was accepted is settled.
    async fn finish(self) -> Option<SqliteStore> {
        match self {
            Running::Embedded(applying) => Some(applying.finish().await),
            Running::Cluster(following) => {
                following.finish().await;
                None
            }
        }
    }
}

/// What has an end to come to.
struct Drain {
    to_shards: Vec<ToShard>,
    counters: Vec<Arc<ShardCounters>>,
    draining: Arc<AtomicBool>,
    accepting: Option<oneshot::Receiver<()>>,
    timeout: Duration,
}

impl Drain {
    /// Waits until every connection has ended, or the timeout has passed.
    async fn run(self) {
        self.draining.store(true, Ordering::Relaxed);
        let end = tokio::time::Instant::now() + self.timeout;
        if let Some(accepting) = self.accepting {
            // It never sends: its end is the word, or that it takes too long. What it has handed over stands before the
            // next message to each shard.
            let _ = tokio::time::timeout_at(end, accepting).await;
        }
        self.to_shards.iter().for_each(|shard| shard.send(Message::Drain));
        let sum =
            |count: fn(&ShardCounters) -> &Count| self.counters.iter().map(|shard| count(shard).get()).sum::<u64>();
        while sum(|shard| &shard.unfinished) > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if sum(|shard| &shard.unfinished) > 0 {
            let connections = sum(|shard| &shard.connections);
            tracing::warn!(connections, "the drain timeout has passed; these are cut");
        }
    }
}

/// What shards ask, and what answers it.
pub struct Answering {
    requests: Requests,
    to_shards: Vec<ToShard>,
    pages: Arc<Pages>,
}

impl Answering {
    /// Answers what shards ask, each request beside the others, a bounded number at once.
    pub async fn run<R: OlderReader + 'static>(self, reads: Reads<R>) {
        let Answering { mut requests, to_shards, pages } = self;
        let reads = Arc::new(reads);
        let places = Arc::new(Semaphore::new(CONTROL_REQUESTS_MAX));
        while let Some((ticket, request)) = requests.recv().await {
            let to_shard = to_shards[usize::from(ticket.shard)].clone();
            match request {
                Request::Page(page) => to_shard.send(Message::Answer(ticket, pages.answer(page))),
                Request::Read(query) => {
                    let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                        to_shard.send(Message::Answer(ticket, DeferredAnswer::Reject(Reject::StoreUnavailable)));
                        continue;
                    };
                    let reads = Arc::clone(&reads);
                    tokio::spawn(async move {
                        let answer = reads.answer(query, || to_shard.slot.current()).await.unwrap_or_else(|error| {
                            // Counted as what it is answered with; a line each would be a client's to write.
                            tracing::debug!(%error, "a read from the store failed");
                            DeferredAnswer::Reject(Reject::StoreUnavailable)
                        });
                        to_shard.send(Message::Answer(ticket, answer));
                        drop(place);
                    });
                }
            }
        }
    }
}
