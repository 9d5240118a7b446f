//! Where data plane and control plane meet: the one file that knows both sides.
//!
//! ```text
//! control -> shard   a newer snapshot: a slot per shard that is looked at between batches, no wake-up
//!                    outcomes of writes, answers to rare reads: one message per shard and commit
//! shard -> control   groups of writes, straight into the log's bounded queue; rare reads and pages
//!                    what limited addresses and subjects have spent: one report in flight a shard
//! ```
//!
//! Nothing else crosses. Every way is bounded: writes in number and bytes by the log's queue, requests in number by
//! their channel, messages back by what was asked.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use todo_proto::command::TodoCommand;
use todo_worker::channel::{self, AppendError};
use todo_worker::kafka;
use todo_worker::traits::Outcome;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::admission::{Grant, Key, Limits, Report};
use crate::control::gate::Gate;
use crate::http::bearer::Keys;
use crate::http::connection::{Deferred, DeferredAnswer, Page, WriteOutcome};
use crate::http::proxy_header::Client;
use crate::http::reject::Reject;
use crate::http::site::Rules;
use crate::limits::CONTROL_REQUESTS_MAX;
use crate::shard::deadlines::PeerKey;
use crate::snapshot::Snapshot;
use crate::snapshot::response::Query;

/// Where an answer goes: the generation in the key drops what belongs to a connection that has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Number of the shard.
    pub shard: u16,
    /// Its connection.
    pub peer: PeerKey,
    /// Place of the command in its group, from 0.
    pub place: u16,
    /// When it was handed over, in microseconds of the shard's monotonic clock.
    pub since_us: u64,
}

/// A message to a shard.
pub enum Message {
    /// Outcomes of writes.
    Outcomes(Vec<(Ticket, WriteOutcome)>),
    /// The answer to a rare read or a page.
    Answer(Ticket, DeferredAnswer),
    /// A connection from the acceptor.
    Connection(OwnedFd),
    /// A connection from the process before this one.
    Moved(Moved),
    /// Accept on these too.
    Listen(Vec<TcpListener>),
    /// Look at no write that has not begun; drop this when none is left that has, or when that takes too long.
    HoldWrites(Settled),
    /// Look at writes again.
    ResumeWrites,
    /// Another process goes on: accept nothing more, and pass connections on, each as soon as nothing is owed.
    MoveOn(Moves),
    /// The answer to a report: what may be spent.
    Grants(Vec<Grant>),
    /// Others spend for these too.
    Shared(Vec<Key>),
    /// Other limits of addresses and subjects from here on, and how often they have changed. It comes in order with grants.
    Limits(Arc<Limits>, u32),
    /// Other deadlines, bounds and keys from here on.
    Settings(Arc<Rules>, Arc<Keys>),
    /// The acceptor has ended: no more connections come.
    NoMoreCome,
    /// The process is going: stop accepting, answer what is here, close.
    Drain,
    /// End now, whatever is open.
    End,
}

/// A connection on its way from one process to the next.
pub struct Moved {
    /// A descriptor of it; unread bytes stay in the socket.
    pub socket: OwnedFd,
    /// Who is at the other end, or that the header of a proxy is still to say it.
    pub client: Client,
    /// What was read of requests that nobody has looked at.
    pub input: Box<[u8]>,
}

/// Where connections go that another process goes on with. Clones are one.
#[derive(Clone)]
pub struct Moves(std::sync::mpsc::Sender<Option<Moved>>);

impl Moves {
    /// The way, and where they come out.
    pub fn new() -> (Moves, std::sync::mpsc::Receiver<Option<Moved>>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        (Moves(sender), receiver)
    }

    /// Passes one on.
    ///
    /// # Errors
    /// Nobody takes it any more; it comes back.
    pub fn send(&self, moved: Moved) -> Result<(), Moved> {
        self.0.send(Some(moved)).map_err(|refused| refused.0.expect("it was one"))
    }

    /// No more come.
    pub fn end(&self) {
        // Whoever took them may have ended before.
        let _ = self.0.send(None);
    }
}

/// Held by a shard until it has no write left that has begun.
pub struct Settled {
    /// Its end is the word.
    _held: mpsc::Sender<()>,
}

impl Settled {
    /// One for each of `shards_count` shards, and what ends when all of them are dropped.
    pub fn new(shards_count: usize) -> (Vec<Settled>, mpsc::Receiver<()>) {
        let (sender, receiver) = mpsc::channel(1);
        ((0..shards_count).map(|_| Settled { _held: sender.clone() }).collect(), receiver)
    }
}

/// What only the control plane can answer.
#[derive(Clone, Copy, Debug)]
pub enum Request {
    /// A read below the floor of the snapshot.
    Read(Query),
    /// A page.
    Page(Page),
}

/// Where connections go that watch the dashboard: to the control plane, as many as there are places. Clones are one.
#[derive(Clone)]
pub struct Watching {
    places: Arc<Semaphore>,
    places_count: usize,
    watchers: mpsc::UnboundedSender<Watcher>,
}

/// A connection that is no longer its shard's.
pub struct Watcher {
    /// The connection.
    pub socket: OwnedFd,
    /// The head of its answer, to be written first.
    pub head: Vec<u8>,
    /// Given back when it ends.
    pub place: OwnedSemaphorePermit,
}

impl Watching {
    /// A way with `places_count` places, and where the watchers come out.
    pub fn new(places_count: usize) -> (Watching, mpsc::UnboundedReceiver<Watcher>) {
        let (watchers, handed_over) = mpsc::unbounded_channel();
        (Watching { places: Arc::new(Semaphore::new(places_count)), places_count, watchers }, handed_over)
    }

    /// A place; `None` while there is none.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Whether anybody has a place.
    pub fn is_watched(&self) -> bool {
        self.places.available_permits() < self.places_count
    }

    /// Nobody watches any more: the process is going.
    pub fn end(&self) {
        self.places.close();
    }
}

/// Where a shard finds the newest snapshot.
pub struct SnapshotSlot {
    version: AtomicU64,
    current: ArcSwap<Snapshot>,
}

impl SnapshotSlot {
    /// A slot that holds `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>) -> SnapshotSlot {
        SnapshotSlot { version: AtomicU64::new(snapshot.version()), current: ArcSwap::new(snapshot) }
    }

    /// Puts a newer snapshot in. What it replaces must be kept by the caller until no shard holds it: dropping a list
    /// walks it, and that is not a shard's work.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let version = snapshot.version();
        self.current.store(snapshot);
        self.version.store(version, Ordering::Release);
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The newest snapshot.
    pub fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }
}

/// Where writes go. Clones are one.
#[derive(Clone)]
pub enum Writes {
    /// Into the log of this process.
    Embedded(Log),
    /// Into Kafka, while the gate is open.
    Cluster {
        /// To all partitions.
        appender: kafka::Appender<Ticket>,
        /// Set by the control plane.
        gate: Arc<Gate>,
    },
}

/// The log of a process of its own. It is made anew when the data file comes back from a process that could not go on with
/// it. Clones are one.
#[derive(Clone)]
pub struct Log(Arc<ArcSwap<channel::Appender<Ticket>>>);

impl Log {
    /// One that appends to `appender`.
    pub fn new(appender: channel::Appender<Ticket>) -> Log {
        Log(Arc::new(ArcSwap::from_pointee(appender)))
    }

    /// Appends to `appender` from here on.
    pub fn replace(&self, appender: channel::Appender<Ticket>) {
        self.0.store(Arc::new(appender));
    }
}

/// A shard's end towards the control plane.
pub struct ToControl {
    slot: Arc<SnapshotSlot>,
    writes: Writes,
    requests: mpsc::Sender<(Ticket, Request)>,
    reports: mpsc::UnboundedSender<(u16, Report)>,
    watching: Watching,
}

/// A shard's end from the control plane.
pub struct FromControl {
    messages: mpsc::UnboundedReceiver<Message>,
}

/// The control plane's end towards one shard.
#[derive(Clone)]
pub struct ToShard {
    messages: mpsc::UnboundedSender<Message>,
    /// Where the shard finds the newest snapshot.
    pub slot: Arc<SnapshotSlot>,
}

/// The control plane's end of what shards ask it.
pub type Requests = mpsc::Receiver<(Ticket, Request)>;

/// What shards report of limits, with the shard's number; one in flight a shard.
pub type Reports = mpsc::UnboundedReceiver<(u16, Report)>;

/// The two ends of every shard, and what shards ask.
pub struct Bridge {
    /// Each shard's own ends.
    pub shards: Vec<(ToControl, FromControl)>,
    /// What shards ask.
    pub requests: Requests,
    /// What they report.
    pub reports: Reports,
}

/// The ways back, which must exist before the log whose outcomes take them.
pub struct WaysBack {
    to_shards: Vec<ToShard>,
    from_control: Vec<FromControl>,
}

impl WaysBack {
    /// Ways to `shards_count` shards that begin with `snapshot`.
    pub fn new(shards_count: usize, snapshot: &Arc<Snapshot>) -> WaysBack {
        let pairs = (0..shards_count).map(|_| {
            let (sender, messages) = mpsc::unbounded_channel();
            let slot = Arc::new(SnapshotSlot::new(Arc::clone(snapshot)));
            (ToShard { messages: sender, slot }, FromControl { messages })
        });
        let (to_shards, from_control) = pairs.unzip();
        WaysBack { to_shards, from_control }
    }

    /// The control plane's ends.
    pub fn to_shards(&self) -> Vec<ToShard> {
        self.to_shards.clone()
    }

    /// Completes the bridge with the log.
    pub fn with_log(self, writes: &Writes, watching: &Watching) -> Bridge {
        let (sender, requests) = mpsc::channel(CONTROL_REQUESTS_MAX);
        let (reporter, reports) = mpsc::unbounded_channel();
        let ends = self.to_shards.iter().zip(self.from_control).map(|(to_shard, from_control)| {
            let slot = Arc::clone(&to_shard.slot);
            let (writes, requests, watching) = (writes.clone(), sender.clone(), watching.clone());
            let reports = reporter.clone();
            (ToControl { slot, writes, requests, reports, watching }, from_control)
        });
        Bridge { shards: ends.collect(), requests, reports }
    }
}

/// Sends outcomes home: one message per shard, whatever the batch held.
pub fn deliver(to_shards: &[ToShard], outcomes: Vec<(Ticket, Outcome)>) {
    let mut by_shard: Vec<Vec<(Ticket, WriteOutcome)>> = vec![Vec::new(); to_shards.len()];
    for (ticket, outcome) in outcomes {
        by_shard[usize::from(ticket.shard)].push((ticket, write_outcome(outcome)));
    }
    for (to_shard, outcomes) in to_shards.iter().zip(by_shard) {
        if !outcomes.is_empty() {
            to_shard.send(Message::Outcomes(outcomes));
        }
    }
}

fn write_outcome(outcome: Outcome) -> WriteOutcome {
    match outcome {
        Outcome::Acknowledged => WriteOutcome::Acknowledged,
        Outcome::NotAppended(_) => WriteOutcome::Refused(Reject::NotAppended),
        Outcome::Unknown => WriteOutcome::Refused(Reject::OutcomeUnknown),
    }
}

impl Writes {
    /// Commands that wait or are being appended.
    pub fn waiting_count(&self) -> usize {
        match self {
            Writes::Embedded(log) => log.0.load().waiting_count(),
            Writes::Cluster { appender, .. } => appender.waiting_count(),
        }
    }

    /// Bytes of the commands that wait or are being appended.
    pub fn waiting_bytes(&self) -> usize {
        match self {
            Writes::Embedded(log) => log.0.load().waiting_bytes(),
            Writes::Cluster { appender, .. } => appender.waiting_bytes(),
        }
    }

    /// Whether every write is let in, whatever its partition.
    pub fn are_let_in(&self) -> bool {
        match self {
            Writes::Embedded(_) => true,
            Writes::Cluster { gate, appender } => gate.is_open() && appender.away().is_none(),
        }
    }

    fn append(&self, group: Vec<(TodoCommand, Ticket)>) -> Result<(), Reject> {
        let refused = match self {
            Writes::Embedded(log) => log.0.load().try_append(group),
            Writes::Cluster { gate, .. } if !gate.is_open() => return Err(Reject::NotAppended),
            Writes::Cluster { appender, .. } => appender.try_append(group),
        };
        refused.map_err(|(refusal, _)| match refusal {
            AppendError::Full => Reject::QueueFull,
            AppendError::Closed => Reject::NotAppended,
        })
    }
}

impl ToShard {
    /// Sends a message. A shard that has ended has no connection left that could want it.
    pub fn send(&self, message: Message) {
        let _ = self.messages.send(message);
    }
}

impl FromControl {
    /// The next message; `None` when the control plane has gone.
    pub async fn receive(&mut self) -> Option<Message> {
        self.messages.recv().await
    }
}

impl ToControl {
    /// Version of the newest snapshot: one load, so it can be looked at before every batch.
    pub fn snapshot_version(&self) -> u64 {
        self.slot.version()
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.slot.current()
    }

    /// Hands a group over without waiting.
    ///
    /// # Errors
    /// What the whole group is answered with when it was not taken.
    pub fn send(&self, ticket: Ticket, deferred: Deferred) -> Result<(), Reject> {
        match deferred {
            Deferred::Writes(commands) => {
                let places = commands.into_iter().zip(0..);
                let group = places.map(|(command, place)| (command, Ticket { place, ..ticket })).collect();
                self.writes.append(group)
            }
            Deferred::Read(query) => self.ask(ticket, Request::Read(query)),
            Deferred::Page(page) => self.ask(ticket, Request::Page(page)),
            // Its shard tries `place` first, and is here when there was none.
            Deferred::Events => Err(Reject::WatchersFull),
        }
    }

    /// A place for a connection that is to be handed over; `None` while there is none.
    pub fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.watching.place()
    }

    /// Hands a connection over for good.
    pub fn hand_over(&self, watcher: Watcher) {
        // Without a control plane the process is at its end, and the connection too.
        let _ = self.watching.watchers.send(watcher);
    }

    /// Tells what limited addresses and subjects have spent. The answer is a [`Message::Grants`].
    pub fn report(&self, shard: u16, report: Report) {
        // Without a control plane the process is at its end; what shards have is what is left to spend.
        let _ = self.reports.send((shard, report));
    }

    fn ask(&self, ticket: Ticket, request: Request) -> Result<(), Reject> {
        self.requests.try_send((ticket, request)).map_err(|refusal| match refusal {
            TrySendError::Full(_) | TrySendError::Closed(_) => Reject::StoreUnavailable,
        })
    }
}
