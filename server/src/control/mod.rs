//! The control plane: one tokio runtime on a thread of its own. It follows the changes, applies the writes, answers what
//! memory cannot, and takes the signals. Nothing here is on the way of a cached read.
//!
//! - [`access_log`]: records of the shards become lines.
//! - [`embedded`], [`cluster`]: what stands behind the process, and [`backend`]: what pages tell of it.
//! - [`feed`]: changes of this process become snapshots.
//! - [`follow`]: changes of a store in another process become snapshots.
//! - [`gate`]: whether writes may be taken.
//! - [`granting`]: what addresses and subjects may spend on each shard.
//! - [`serving`]: snapshots reach the shards.
//! - [`reads`]: what lies below the snapshot's floor.
//! - [`pages`]: `/ready` and `/metrics`.
//! - [`handover`]: another process takes this one's place.
//! - [`service`]: what a service manager is told.
//! - [`watching`]: what the dashboard shows, sent again and again.
//! - [`admin`]: the same pages on an address of their own.
//! - [`profile`]: where CPU time goes, asked for on that address.
//! - [`acceptor`]: hands connections to shards where they have no listeners of their own.

pub mod acceptor;
pub mod access_log;
pub mod admin;
pub mod backend;
pub mod cluster;
pub mod embedded;
pub mod feed;
pub mod follow;
pub mod gate;
pub mod granting;
pub mod handover;
pub mod pages;
pub mod profile;
pub mod reads;
pub mod service;
pub mod serving;
pub mod watching;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use todo_worker::postgres::OpenError;
use todo_worker::reads::OlderReader;
use todo_worker::sqlite::SqliteStore;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::admission::Limits;
use crate::bridge::{Message, Moves, Request, Requests, Settled, ToShard};
use crate::control::access_log::Reopener;
use crate::control::cluster::{Cluster, Following};
use crate::control::embedded::{Applying, Embedded, Released};
use crate::control::handover::channel::{Channel, ChannelError};
use crate::control::handover::command::Ask;
use crate::control::handover::give::{self, Giver, Successor};
use crate::control::handover::protocol::Positions;
use crate::control::pages::Pages;
use crate::control::reads::Reads;
use crate::counters::{Count, ShardCounters};
use crate::http::bearer::Keys;
use crate::http::connection::DeferredAnswer;
use crate::http::reject::Reject;
use crate::http::site::Rules;
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
    pub pages: Arc<Pages>,
    /// What shards count.
    pub counters: Vec<Arc<ShardCounters>>,
    /// Set when the process begins to go.
    pub draining: Arc<AtomicBool>,
    /// Set when nothing more is to be accepted.
    pub closing: Arc<AtomicBool>,
    /// Set when another process accepts in this one's place.
    pub leaving: Arc<AtomicBool>,
    /// What another process is given that takes this one's place.
    pub giver: Giver,
    /// Who wants that to happen.
    pub asks: mpsc::Receiver<Ask>,
    /// Reads the settings again.
    pub reread: Reread,
    /// Where the limits of addresses and subjects go that are wanted.
    pub limits: watch::Sender<Limits>,
    /// Opens the access log's file anew.
    pub access_log: Reopener,
    /// Where commands are heard; removed at the end.
    pub command_socket: PathBuf,
    /// Ends when the acceptor has handed its last connection over; `None` where shards accept for themselves.
    pub accepting: Option<oneshot::Receiver<()>>,
    /// Told once signals are taken.
    pub ready: std::sync::mpsc::Sender<()>,
    /// How long it is said at the end that this process is not ready, before anything else happens.
    pub drain_lead: Duration,
    /// How long connections and writes have then.
    pub drain_timeout: Duration,
}

/// What stands behind the process.
pub enum Work {
    /// A file and the apply loop.
    Embedded(Box<Embedded>),
    /// Kafka, Postgres and Redis.
    Cluster(Box<Cluster>),
}

/// What may change while the process runs.
pub struct Changed {
    /// Deadlines and bounds.
    pub rules: Arc<Rules>,
    /// The keys of tokens.
    pub keys: Arc<Keys>,
    /// What addresses and subjects may do.
    pub limits: Limits,
}

/// Reads it; the error says what is wrong, and then nothing of it changes.
pub type Reread = Box<dyn Fn() -> Result<Changed, String> + Send>;

/// Why the control plane ends before it is told to.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No signal handlers.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// The store will never let us in.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The process that has taken over does not take the connections.
    #[error("the process that has taken over has failed, with connections still here: {0}")]
    Successor(ChannelError),
}

/// Runs the control plane on the calling thread until the process is to end: everything accepted is durable then.
///
/// # Errors
/// Signal handlers cannot be set up; the store of a cluster will never let this process in.
pub fn run(start: ControlStart) -> Result<(), ControlError> {
    let ControlStart { runtime, work, requests, to_shards, pages, counters, draining, closing, leaving, .. } = start;
    let answering = Answering { requests, to_shards: to_shards.clone(), pages };
    let ControlStart { giver, asks, reread, limits, access_log, command_socket, accepting, ready, .. } = start;
    let ControlStart { drain_lead, drain_timeout, .. } = start;
    let orders = Orders { asks, reread, limits, access_log, command_socket };
    let (lead, timeout) = (drain_lead, drain_timeout);
    let drain = Drain { to_shards, counters, draining, closing, leaving, accepting, lead, timeout };
    runtime.block_on(serve(work, answering, drain, giver, orders, ready))
}

async fn serve(
    work: Work,
    answering: Answering,
    drain: Drain,
    giver: Giver,
    mut orders: Orders,
    ready: std::sync::mpsc::Sender<()>,
) -> Result<(), ControlError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (mut upgrade, mut hangup) = (signal(SignalKind::user_defined2())?, signal(SignalKind::hangup())?);
    // Whoever started the process may have gone already; that is no reason not to serve.
    let _ = ready.send(());
    let mut running = match work {
        Work::Embedded(embedded) => Running::Embedded(embedded.begin(answering)),
        Work::Cluster(cluster) => Running::Cluster(cluster.begin(answering)),
    };
    let to_shards = drain.to_shards.clone();
    let name = loop {
        let ask = tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            error = running.failed() => return Err(error.into()),
            _ = upgrade.recv() => Ask { binary: None, answer: Box::new(|_| {}) },
            Some(ask) = orders.asks.recv() => ask,
            _ = hangup.recv() => {
                // Whatever the settings say: a rotated file waits for it.
                orders.access_log.reopen();
                change_settings(&orders, &to_shards);
                continue;
            }
        };
        service::reloading();
        let begun = begin_handover(&giver, &ask, running.stand(&giver), &mut terminate).await;
        let (successor, channel) = match begun {
            Ok(begun) => begun,
            Err(NotBegun::Terminated) => {
                (ask.answer)(Err("the server is shutting down".to_owned()));
                break "SIGTERM";
            }
            Err(NotBegun::Refused(why)) => {
                stay(ask, &why);
                continue;
            }
        };
        match hand_over(running, &giver, successor, channel).await {
            Ok((rest, channel, pid)) => {
                tracing::info!(pid, "another process serves in this one's place; passing connections on");
                service::main_pid(pid);
                let stand = rest.stand_of(&giver);
                // Before anybody is told: who then ends the new one must find nothing of its port here.
                drop(giver);
                let passed = drain.pass_on(channel, stand, move || {
                    (ask.answer)(Ok(format!("process {pid} serves now, and this one passes its connections on")));
                });
                let passed = passed.await;
                let store = rest.finish().await;
                to_shards.iter().for_each(|shard| shard.send(Message::End));
                drop(store);
                return passed.map_err(ControlError::Successor);
            }
            Err((rest, why)) => {
                running = rest;
                stay(ask, &why);
            }
        }
    };
    service::stopping();
    // Nobody can be told any more; that it is gone already is as good.
    let _ = std::fs::remove_file(&orders.command_socket);
    tracing::info!("{name}: no new connections; answering what is here");
    drop(giver);
    drain.run().await;
    let store = running.finish().await;
    to_shards.iter().for_each(|shard| shard.send(Message::End));
    drop(store);
    Ok(())
}

/// What the process is told while it serves.
struct Orders {
    asks: mpsc::Receiver<Ask>,
    reread: Reread,
    limits: watch::Sender<Limits>,
    access_log: Reopener,
    command_socket: PathBuf,
}

/// Settings that are wrong change nothing.
fn change_settings(orders: &Orders, to_shards: &[ToShard]) {
    match (orders.reread)() {
        Ok(Changed { rules, keys, limits }) => {
            orders.limits.send_replace(limits);
            for shard in to_shards {
                shard.send(Message::Settings(Arc::clone(&rules), Arc::clone(&keys)));
            }
            tracing::info!("SIGHUP: log filter, limits and keys are read again");
        }
        Err(why) => tracing::error!(why, "SIGHUP: nothing is changed"),
    }
}

/// This process goes on serving.
fn stay(ask: Ask, why: &str) {
    service::ready();
    tracing::error!(why, "no other process takes over; this one goes on");
    (ask.answer)(Err(format!("{why}; the old process goes on serving")));
}

/// Why a hand-over has not begun.
enum NotBegun {
    Terminated,
    Refused(String),
}

/// Starts the successor and waits until it has loaded; SIGTERM ends that.
async fn begin_handover(
    giver: &Giver,
    ask: &Ask,
    stand: Positions,
    terminate: &mut Signal,
) -> Result<(Successor, Channel), NotBegun> {
    let (mut successor, channel) = giver.start(ask.binary.as_deref()).map_err(NotBegun::Refused)?;
    let (offer, listeners) = (giver.offer(stand), Arc::clone(&giver.listeners));
    let mut offered = tokio::task::spawn_blocking(move || give::offer(channel, &offer, &listeners));
    let outcome = tokio::select! {
        outcome = &mut offered => outcome.expect("the conversation does not panic"),
        _ = terminate.recv() => {
            successor.end();
            // Its end ends the conversation, whatever that comes to.
            let _ = offered.await;
            return Err(NotBegun::Terminated);
        }
    };
    match outcome {
        Ok(channel) => Ok((successor, channel)),
        Err(error) => Err(NotBegun::Refused(reason(&error))),
    }
}

/// Gives the writes away and then everything else; what is left running here, and the successor's socket and process.
///
/// # Errors
/// Why the successor has not taken over, and everything running as before.
async fn hand_over(
    running: Running,
    giver: &Giver,
    mut successor: Successor,
    channel: Channel,
) -> Result<(Running, Channel, u32), (Running, String)> {
    let (running, positions) = match running {
        Running::Embedded(applying) => {
            hold_writes(&giver.to_shards).await;
            let released = applying.release().await;
            let positions = released.positions();
            (Running::Released(released), positions)
        }
        // Any number of servers may append: nothing has to be given away first.
        running => {
            let stand = running.stand(giver);
            (running, stand)
        }
    };
    let committed = tokio::task::spawn_blocking(move || give::commit(channel, positions)).await;
    match committed.expect("the conversation does not panic") {
        Ok(channel) => {
            successor.take_over();
            Ok((running, channel, successor.pid()))
        }
        Err(error) => {
            // Before the file is opened again: it holds the lock until its end.
            successor.end();
            let running = match running {
                Running::Released(released) => match released.resume() {
                    Ok(applying) => Running::Embedded(applying),
                    Err(error) => {
                        tracing::error!(%error, "the data file cannot be taken again: reads go on, writes have ended");
                        Running::ReadsOnly
                    }
                },
                running => running,
            };
            giver.to_shards.iter().for_each(|shard| shard.send(Message::ResumeWrites));
            Err((running, reason(&error)))
        }
    }
}

/// New writes wait unseen, and those that have begun come to their end or take too long.
async fn hold_writes(to_shards: &[ToShard]) {
    let (held, mut settled) = Settled::new(to_shards.len());
    for (shard, settled) in to_shards.iter().zip(held) {
        shard.send(Message::HoldWrites(settled));
    }
    // Nothing is ever sent: the end of all of them is the word.
    let _ = settled.recv().await;
}

fn reason(error: &ChannelError) -> String {
    match error {
        ChannelError::Ended => "the new process has ended before it could serve: see its log".to_owned(),
        ChannelError::TooLate => "the new process did not answer in time".to_owned(),
        error => error.to_string(),
    }
}

/// What stands behind the process, at work.
enum Running {
    Embedded(Applying),
    Cluster(Following),
    /// Another process has the data file, or is about to.
    Released(Released),
    /// The data file is lost to this process.
    ReadsOnly,
}

impl Running {
    async fn failed(&mut self) -> OpenError {
        match self {
            Running::Embedded(_) | Running::Released(_) | Running::ReadsOnly => std::future::pending().await,
            Running::Cluster(following) => following.failed().await,
        }
    }

    /// What clients may have seen.
    fn stand(&self, giver: &Giver) -> Positions {
        self.stand_of(giver)()
    }

    /// The same, whenever it is asked for.
    fn stand_of(&self, giver: &Giver) -> impl Fn() -> Positions + Send + 'static + use<> {
        let shown = match self {
            Running::Cluster(following) => Some(following.shown()),
            Running::Embedded(_) | Running::Released(_) | Running::ReadsOnly => None,
        };
        let to_shard = giver.to_shards[0].clone();
        move || {
            let Positions { store_id, positions } = give::stand(&to_shard);
            let Some(shown) = &shown else { return Positions { store_id, positions } };
            // What a read of the store has shown may be ahead of the snapshot.
            let mut shown = shown.borrow().clone();
            shown.note(store_id, &positions);
            Positions { store_id, positions: shown.positions().to_vec() }
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
            Running::Released(_) | Running::ReadsOnly => None,
        }
    }
}

/// What has an end to come to.
struct Drain {
    to_shards: Vec<ToShard>,
    counters: Vec<Arc<ShardCounters>>,
    draining: Arc<AtomicBool>,
    closing: Arc<AtomicBool>,
    leaving: Arc<AtomicBool>,
    accepting: Option<oneshot::Receiver<()>>,
    lead: Duration,
    timeout: Duration,
}

impl Drain {
    /// `/ready` fails, accepting ends, connections end: waits for that, or until the timeout has passed.
    async fn run(mut self) {
        // From here on `/ready` says no; whoever sends clients here may see that before they are refused.
        self.draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(self.lead).await;
        self.closing.store(true, Ordering::Relaxed);
        let end = tokio::time::Instant::now() + self.timeout;
        if let Some(accepting) = self.accepting.take() {
            // It never sends: its end is the word, or that it takes too long. What it has handed over stands before the
            // next message to each shard.
            let _ = tokio::time::timeout_at(end, accepting).await;
        }
        self.to_shards.iter().for_each(|shard| shard.send(Message::Drain));
        self.wait_until(end).await;
        self.say_what_is_cut();
    }

    /// Passes every connection on, and calls `said` when no listener is left here. What cannot move by half of the timeout
    /// is told to close behind its next answer.
    async fn pass_on(
        self,
        channel: Channel,
        stand: impl Fn() -> Positions + Send + 'static,
        said: impl FnOnce(),
    ) -> Result<(), ChannelError> {
        let begun = tokio::time::Instant::now();
        let (half, end) = (begun + self.timeout / 2, begun + self.timeout);
        let (moves, moved) = Moves::new();
        // Somebody who takes nothing holds this process no longer than anybody else.
        channel.set_patience(Some(self.timeout + Duration::from_secs(1)))?;
        let passing = tokio::task::spawn_blocking(move || give::pass_on(channel, &moved, stand));
        self.leaving.store(true, Ordering::Relaxed);
        self.to_shards.iter().for_each(|shard| shard.send(Message::MoveOn(moves.clone())));
        let mut this = self;
        if let Some(accepting) = this.accepting.take() {
            let _ = tokio::time::timeout_at(end, accepting).await;
        }
        this.to_shards.iter().for_each(|shard| shard.send(Message::NoMoreCome));
        said();
        this.wait_until(half).await;
        if this.sum(|shard| &shard.unfinished) > 0 {
            this.to_shards.iter().for_each(|shard| shard.send(Message::Drain));
            this.wait_until(end).await;
        }
        this.say_what_is_cut();
        moves.end();
        let connections = passing.await.expect("passing on does not panic")?;
        tracing::info!(connections, "passed on");
        Ok(())
    }

    async fn wait_until(&self, end: tokio::time::Instant) {
        while self.sum(|shard| &shard.unfinished) > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn say_what_is_cut(&self) {
        if self.sum(|shard| &shard.unfinished) > 0 {
            let connections = self.sum(|shard| &shard.connections);
            tracing::warn!(connections, "the drain timeout has passed; these are cut");
        }
    }

    fn sum(&self, count: fn(&ShardCounters) -> &Count) -> u64 {
        self.counters.iter().map(|shard| count(shard).get()).sum()
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
