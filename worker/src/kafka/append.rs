//! Appends commands to the log, so that 202 means durable and any other answer is true.
//!
//! ```text
//! any thread   command -> its partition's queue, if there is room and the partition takes writes
//! one task per partition:
//!     open the partition
//!     loop:
//!         batch = what waits, at most 7,400 bytes or one record, each with the next number
//!         append(batch), within a time limit
//!             done:              every command of it is acknowledged
//!             error or timeout:  every command of it is unknown; what waits is not appended; open the partition anew
//! ```
//!
//! What the code adds, and what each buys:
//!
//! 1. A partition that is away is known at the door, so its commands are refused at once and nobody else's are.
//! 2. What has waited for longer than the time limit is answered *not appended* and not sent: its client may have gone.
//! 3. A batch that was given up may still arrive, even after a later one was acknowledged. Its numbers tell: whoever applies
//!    the log drops what is not above the last number of its producer. So the number is given when a batch is made, by
//!    the one task that sends it, and never used again.
//! 4. After a batch that failed, the partition lets one command in and no other until that one is acknowledged, so that a
//!    broker that answers but does not write makes one outcome unknown at a time and not a queue full.
//! 5. A partition that is busy leaves a moment between its batches, which fills them. One that was idle sends at once.
//! 6. Outcomes of all partitions go through one task to the sink, so a moment's outcomes are one call of it.

mod gate;
mod task;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use todo_proto::command::{ProducerId, TodoCommand};
use todo_proto::partition::partition_of;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::gate::Gate;
use self::task::{Message, PartitionTask, Waiting};
use crate::channel::{AppendError, Sink};
use crate::kafka::connect::{Kafka, KafkaError, Keyed, Partition};
use crate::traits::{NotAppended, Outcome};

/// Who keeps partitions: Kafka, or in tests a simulation of it.
pub trait Broker: Clone + Send + 'static {
    /// An open partition.
    type Partition: Appends + Send;

    /// Opens a partition, within a time limit of its own.
    fn open(&self, part: u32) -> impl Future<Output = Result<Self::Partition, KafkaError>> + Send;
}

/// An open partition.
pub trait Appends {
    /// Appends in this order, and returns when all replicas have the records. After an error, or when the future was
    /// dropped, they may be appended, now or later, even twice.
    fn append(&mut self, records: Vec<Keyed>) -> impl Future<Output = Result<(), KafkaError>> + Send;
}

/// Appends to the log, from any thread. `T` is the ticket under which a command's outcome comes back.
pub struct Appender<T> {
    shared: Arc<Shared>,
    queues: Arc<[mpsc::UnboundedSender<Message<T>>]>,
    outcomes: Outcomes<T>,
}

/// The tasks behind an [`Appender`].
pub struct Appending<T> {
    appender: Appender<T>,
    partitions: Vec<JoinHandle<()>>,
    settling: JoinHandle<()>,
    settled: oneshot::Sender<()>,
}

/// What became of batches.
#[derive(Debug, Clone)]
pub struct AppendMetrics {
    /// Batches acknowledged.
    pub batches: Counter,
    /// Commands in them.
    pub commands: Counter,
    /// Batches whose outcome is unknown.
    pub unknown: Counter,
    /// Seconds from sending a batch to its acknowledgement.
    pub seconds: Histogram,
}

/// Partitions that take no writes just now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Away {
    /// How many.
    pub partitions_count: usize,
    /// What is wrong with the first of them.
    pub why: String,
}

type Outcomes<T> = mpsc::UnboundedSender<Vec<(T, Outcome)>>;

/// Starts a task for each of the partitions, on the current runtime. `producer` is new at each start of the process;
/// outcomes go to `sink`, in the order of appending within a partition.
pub fn start<B: Broker, T: Send + 'static>(
    broker: &B,
    partitions_count: u32,
    producer: ProducerId,
    sink: Sink<T>,
) -> (Appender<T>, Appending<T>) {
    let shared = Arc::new(Shared::new(partitions_count));
    let (outcomes, to_settle) = mpsc::unbounded_channel();
    let (settled, end) = oneshot::channel();
    let settling = tokio::spawn(settle(to_settle, end, sink));
    let (queues, partitions) = (0..partitions_count)
        .map(|part| {
            let (sender, queue) = mpsc::unbounded_channel();
            let task = PartitionTask::new(part, broker.clone(), queue, Arc::clone(&shared), outcomes.clone(), producer);
            (sender, tokio::spawn(task.run()))
        })
        .unzip::<_, _, Vec<_>, Vec<_>>();
    let appender = Appender { shared, queues: queues.into(), outcomes };
    (appender.clone(), Appending { appender, partitions, settling, settled })
}

impl<T> Appender<T> {
    /// Appends a group without waiting. Each command goes to its partition; those whose partition is away or full are
    /// settled as not appended, the others go on, and all outcomes come through the sink. The order within a partition
    /// is that of the group.
    ///
    /// # Errors
    /// Nothing is taken any more: the group comes back.
    pub fn try_append(&self, group: Vec<(TodoCommand, T)>) -> Result<(), (AppendError, Vec<(TodoCommand, T)>)> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err((AppendError::Closed, group));
        }
        let since = Instant::now();
        let mut refused = Vec::new();
        for (command, ticket) in group {
            let part = partition_of(command.id, self.shared.partitions_count()) as usize;
            let bytes = command.memory_bytes();
            let gate = &self.shared.gates[part];
            if !gate.enter(bytes) {
                refused.push((ticket, Outcome::NotAppended(NotAppended::Unavailable)));
                continue;
            }
            if let Err(unsent) = self.queues[part].send(Message::Append(Waiting { command, ticket, bytes, since })) {
                gate.leave(bytes);
                if let Message::Append(waiting) = unsent.0 {
                    refused.push((waiting.ticket, Outcome::NotAppended(NotAppended::Ended)));
                }
            }
        }
        if !refused.is_empty() {
            // Only after the end is nobody there to settle, and then nobody waits for it either.
            let _ = self.outcomes.send(refused);
        }
        Ok(())
    }

    /// Commands that wait or are being appended.
    pub fn waiting_count(&self) -> usize {
        self.shared.gates.iter().map(Gate::commands_count).sum()
    }

    /// Bytes of the commands that wait or are being appended.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.gates.iter().map(Gate::bytes).sum()
    }

    /// Partitions that take no writes just now; `None` when all do.
    pub fn away(&self) -> Option<Away> {
        let reasons: Vec<_> = self.shared.gates.iter().filter_map(Gate::why).collect();
        let partitions_count = reasons.len();
        reasons.into_iter().next().map(|why| Away { partitions_count, why })
    }

    /// What became of batches so far.
    pub fn metrics(&self) -> &AppendMetrics {
        &self.shared.metrics
    }
}

impl<T> Clone for Appender<T> {
    fn clone(&self) -> Self {
        let Self { shared, queues, outcomes } = self;
        Self { shared: Arc::clone(shared), queues: Arc::clone(queues), outcomes: outcomes.clone() }
    }
}

impl<T: Send + 'static> Appending<T> {
    /// Takes nothing new, appends what waits, and returns when every command is settled.
    pub async fn finish(self) {
        self.appender.shared.closed.store(true, Ordering::Release);
        for queue in &*self.appender.queues {
            // A task that has ended already has nothing left to close.
            let _ = queue.send(Message::Close);
        }
        for task in self.partitions {
            task.await.expect("the task of a partition does not panic");
        }
        let _ = self.settled.send(());
        self.settling.await.expect("the sink does not panic");
    }
}

impl Default for AppendMetrics {
    fn default() -> Self {
        Self {
            batches: Counter::default(),
            commands: Counter::default(),
            unknown: Counter::default(),
            // 0.25 ms to 2 s.
            seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
        }
    }
}

impl Broker for Kafka {
    type Partition = Partition;

    async fn open(&self, part: u32) -> Result<Partition, KafkaError> {
        Self::open(self, part).await
    }
}

impl Appends for Partition {
    async fn append(&mut self, records: Vec<Keyed>) -> Result<(), KafkaError> {
        Self::append(self, records).await
    }
}

/// Hands outcomes to the sink, as many at once as have come meanwhile, until told to end and there are no more.
async fn settle<T>(
    mut outcomes: mpsc::UnboundedReceiver<Vec<(T, Outcome)>>,
    mut end: oneshot::Receiver<()>,
    mut sink: Sink<T>,
) {
    loop {
        tokio::select! {
            biased;
            Some(mut settled) = outcomes.recv() => {
                while let Ok(more) = outcomes.try_recv() {
                    settled.extend(more);
                }
                sink(settled);
            }
            _ = &mut end => return,
        }
    }
}

/// What appenders and tasks share.
struct Shared {
    closed: AtomicBool,
    /// By partition.
    gates: Box<[Gate]>,
    /// Partitions of which it was said that they are away.
    away_count: AtomicUsize,
    metrics: AppendMetrics,
}

impl Shared {
    fn new(partitions_count: u32) -> Self {
        Self {
            closed: AtomicBool::new(false),
            gates: (0..partitions_count).map(|_| Gate::new()).collect(),
            away_count: AtomicUsize::new(0),
            metrics: AppendMetrics::default(),
        }
    }

    fn partitions_count(&self) -> u32 {
        u32::try_from(self.gates.len()).expect("made from a u32")
    }

    /// Said once for all partitions: a broker has many.
    fn note_away(&self, part: u32, why: &KafkaError) {
        if self.away_count.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(part, %why, "the log does not take all writes");
        }
    }

    fn note_back(&self) {
        if self.away_count.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!("the log is back");
        }
    }
}
