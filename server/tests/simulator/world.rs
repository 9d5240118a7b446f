//! What everything simulated shares: one seed's randomness, the faults, the services, and what is wrong.
//!
//! All of it runs on one thread under one lock that nobody holds across an await, in simulated time: a seed replays
//! exactly.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use todo_server::snapshot::ETag;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::channel::Channel;
use crate::clients::History;
use crate::oracle::Oracle;
use crate::store::Store;
use crate::topic::Topic;

/// Unix milliseconds at which every run begins.
pub const BEGIN_MS: u64 = 1_700_000_000_000;
/// Partitions of the store.
pub const PARTITIONS: u32 = 3;

/// What may go wrong, in the order in which it is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The log took a batch, and its acknowledgement was lost.
    LostAcknowledgement,
    /// A batch reached the log after later ones.
    LateBatch,
    /// The log has an acknowledged batch twice.
    DoubledBatch,
    /// The log did not take a batch.
    LogAway,
    /// A worker ended between two steps.
    WorkerCrash,
    /// A worker stood still inside a transaction until another had its lock.
    FrozenWorker,
    /// Two workers had the same partition.
    SecondWorker,
    /// A message reached nobody, or not everybody.
    LostMessage,
    /// A message came after later ones.
    LateMessage,
    /// A message came twice.
    RepeatedMessage,
    /// Redis went away and came back empty.
    EmptyRedis,
    /// The store did not answer.
    StoreAway,
    /// A commit's answer was lost.
    UnknownCommit,
    /// The topic was made anew.
    TopicAnew,
    /// The store's clock jumped by more than a day.
    StoreClockJump,
    /// A server's clock was wrong.
    ServerClockOff,
    /// A server ended.
    ServerCrash,
    /// A server and the topic had more partitions than the store.
    Repartitioned,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 18] = [
        Fault::LostAcknowledgement,
        Fault::LateBatch,
        Fault::DoubledBatch,
        Fault::LogAway,
        Fault::WorkerCrash,
        Fault::FrozenWorker,
        Fault::SecondWorker,
        Fault::LostMessage,
        Fault::LateMessage,
        Fault::RepeatedMessage,
        Fault::EmptyRedis,
        Fault::StoreAway,
        Fault::UnknownCommit,
        Fault::TopicAnew,
        Fault::StoreClockJump,
        Fault::ServerClockOff,
        Fault::ServerCrash,
        Fault::Repartitioned,
    ];
}

/// A handle on everything.
#[derive(Clone)]
pub struct World(Arc<Mutex<State>>, Arc<AtomicBool>);

/// Notes when it is dropped by a panic.
struct PanicGuard(Arc<AtomicBool>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

/// Everything.
pub struct State {
    pub random: fastrand::Rng,
    pub begun: Instant,
    /// No fault begins any more.
    pub is_healed: bool,
    /// How often each fault was met.
    pub met: BTreeMap<Fault, u64>,
    pub topic: Topic,
    pub store: Store,
    pub channel: Channel,
    pub history: History,
    pub oracle: Oracle,
    /// Batches on their way that the log does not have yet.
    pub late_batches: usize,
    /// By partition, the generation of the topic that a human has adopted.
    pub adopted: Vec<u32>,
    /// How far the store's clock is ahead of where it would be.
    pub store_ahead_ms: u64,
    /// What equal bytes were tagged with.
    pub tags: HashMap<Vec<u8>, ETag>,
    /// What is wrong. The run ends with the first.
    pub violations: Vec<String>,
    /// What happened, for whoever looks for the fault.
    log: String,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = fastrand::Rng::with_seed(seed);
        let store_id = random.u128(..).to_be_bytes();
        let state = State {
            begun: Instant::now(),
            is_healed: false,
            met: BTreeMap::new(),
            topic: Topic::new(PARTITIONS),
            store: Store::new(store_id, PARTITIONS),
            channel: Channel::default(),
            history: History::default(),
            oracle: Oracle::new(PARTITIONS),
            late_batches: 0,
            adopted: vec![0; PARTITIONS as usize],
            store_ahead_ms: 0,
            tags: HashMap::new(),
            violations: Vec::new(),
            log: String::new(),
            random,
        };
        World(Arc::new(Mutex::new(state)), Arc::default())
    }

    /// Begins a task. One that panics is seen at the end.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let guard = PanicGuard(Arc::clone(&self.1));
        let guarded = async move {
            let _guard = guard;
            task.await;
        };
        tokio::spawn(guarded).abort_handle()
    }

    /// Whether a task has panicked.
    pub fn has_panicked(&self) -> bool {
        self.1.load(Ordering::Relaxed)
    }

    /// Everything, for a moment without an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("whoever panics ends the run")
    }

    /// A call to a service takes its time, mostly hardly any.
    pub async fn pause(&self) {
        let time_ms = {
            let random = &mut self.state().random;
            match random.u8(..) {
                0..=150 => 0,
                151..=240 => random.u64(1..4),
                _ => random.u64(4..60),
            }
        };
        if time_ms == 0 {
            tokio::task::yield_now().await;
        } else {
            sleep(Duration::from_millis(time_ms)).await;
        }
    }
}

impl State {
    /// Milliseconds since the run began.
    pub fn elapsed_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// The true time, by which a clock that is right goes.
    pub fn true_ms(&self) -> u64 {
        BEGIN_MS + self.elapsed_ms() + self.store_ahead_ms
    }

    /// Whether a fault with so many chances in a thousand happens now; counted when it does.
    pub fn strikes(&mut self, fault: Fault, per_mille: u32) -> bool {
        let strikes = !self.is_healed && self.random.u32(0..1_000) < per_mille;
        if strikes {
            self.meet(fault);
        }
        strikes
    }

    /// Counts a fault.
    pub fn meet(&mut self, fault: Fault) {
        *self.met.entry(fault).or_insert(0) += 1;
        self.note(&format!("fault: {fault:?}"));
    }

    /// Something that must not be.
    pub fn violate(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.note(&format!("VIOLATION: {what}"));
        self.violations.push(what);
    }

    /// Writes a line of the run's story.
    pub fn note(&mut self, what: &str) {
        let at_ms = self.elapsed_ms();
        writeln!(self.log, "{at_ms:>7} ms  {what}").expect("a string takes every write");
    }

    /// The run's story.
    pub fn story(&self) -> &str {
        &self.log
    }
}
