//! The control plane: one tokio runtime on a thread of its own. It follows the changes, applies the writes, answers what
//! memory cannot, and takes the signals. Nothing here is on the way of a cached read.
//!
//! - [`feed`]: changes of this process become snapshots.
//! - [`follow`]: changes of a store in another process become snapshots.
//! - [`gate`]: whether writes may be taken.
//! - [`serving`]: snapshots reach the shards.
//! - [`reads`]: what lies below the snapshot's floor.
//! - [`pages`]: `/ready` and `/metrics`.
//! - [`acceptor`]: hands connections to shards where they have no listeners of their own.

pub mod acceptor;
pub mod feed;
pub mod follow;
pub mod gate;
pub mod pages;
pub mod reads;
pub mod serving;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use todo_worker::apply::{self, Status};
use todo_worker::channel::{ChannelFeed, ChannelLog, Published};
use todo_worker::sqlite::{SqliteReader, SqliteStore};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::bridge::{Message, Request, Requests, Ticket, ToShard};
use crate::control::feed::Follower;
use crate::control::pages::Pages;
use crate::control::reads::{FileReader, OlderReader, Reads};
use crate::counters::{Count, ShardCounters};
use crate::http::connection::DeferredAnswer;
use crate::http::reject::Reject;
use crate::limits::CONTROL_REQUESTS_MAX;

/// What the control plane is started with, beside what it follows.
pub struct ControlStart {
    /// The ways to the shards.
    pub to_shards: Vec<ToShard>,
    /// What shards ask.
    pub requests: Requests,
    /// The store that writes are applied to.
    pub store: SqliteStore,
    /// Connections to it for reading.
    pub readers: Vec<SqliteReader>,
    /// Where writes wait.
    pub log: ChannelLog<Ticket>,
    /// Where changes are published.
    pub feed: ChannelFeed,
    /// Where they come out.
    pub published: mpsc::Receiver<Published>,
    /// Makes snapshots of them.
    pub follower: Follower,
    /// Writes `/ready` and `/metrics`.
    pub pages: Pages,
    /// What the apply loop says of itself.
    pub status: watch::Sender<Status>,
    /// What shards count.
    pub counters: Vec<Arc<ShardCounters>>,
    /// Set when the process begins to go.
    pub draining: Arc<AtomicBool>,
    /// Ends when the acceptor has handed its last connection over; `None` where shards accept for themselves.
    pub accepting: Option<oneshot::Receiver<()>>,
    /// Told once signals are taken.
    pub ready: std::sync::mpsc::Sender<()>,
    /// How long connections and writes have then.
    pub drain_timeout: Duration,
}

/// Runs the control plane on the calling thread until the process is to end: everything accepted is durable then.
///
/// # Errors
/// The runtime or its signal handlers cannot be set up.
pub fn run(start: ControlStart) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(start))
}

async fn serve(start: ControlStart) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Whoever started the process may have gone already; that is no reason not to serve.
    let _ = start.ready.send(());
    let (stop, stopped) = watch::channel(false);
    let applying = tokio::spawn(apply::run(0, start.log, start.store, start.feed, start.status, stopped));
    tokio::spawn(start.follower.run(start.published));
    let readers = start.readers.into_iter().map(FileReader::new).collect();
    let reads = Arc::new(Reads::new(readers, None, watch::Sender::default()));
    tokio::spawn(answer(start.requests, start.to_shards.clone(), reads, Arc::new(start.pages)));

    let name = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!("{name}: no new connections; answering what is here");
    start.draining.store(true, Ordering::Relaxed);
    let end = tokio::time::Instant::now() + start.drain_timeout;
    if let Some(accepting) = start.accepting {
        // It never sends: its end is the word, or that it takes too long. What it has handed over stands before the next
        // message to each shard.
        let _ = tokio::time::timeout_at(end, accepting).await;
    }
    start.to_shards.iter().for_each(|shard| shard.send(Message::Drain));
    let sum = |count: fn(&ShardCounters) -> &Count| start.counters.iter().map(|shard| count(shard).get()).sum::<u64>();
    while sum(|shard| &shard.unfinished) > 0 && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if sum(|shard| &shard.unfinished) > 0 {
        let connections = sum(|shard| &shard.connections);
        tracing::warn!(connections, "the drain timeout has passed; these are cut");
    }
    // What was accepted is committed, however long that takes: nothing else would keep the promise of a 202.
    stop.send_replace(true);
    let store = applying.await.expect("the apply loop does not panic");
    start.to_shards.iter().for_each(|shard| shard.send(Message::End));
    drop(store);
    Ok(())
}

/// Answers what shards ask, each request beside the others, a bounded number at once.
async fn answer<R: OlderReader>(
    mut requests: Requests,
    to_shards: Vec<ToShard>,
    reads: Arc<Reads<R>>,
    pages: Arc<Pages>,
) {
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
                        tracing::warn!(%error, "a read from the store failed");
                        DeferredAnswer::Reject(Reject::StoreUnavailable)
                    });
                    to_shard.send(Message::Answer(ticket, answer));
                    drop(place);
                });
            }
        }
    }
}
