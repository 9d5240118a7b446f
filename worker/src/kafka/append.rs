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

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use todo_proto::command::{ProducerId, Record, TodoCommand};
use todo_proto::partition::partition_of;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::channel::{AppendError, Sink};
use crate::kafka::connect::{Kafka, KafkaError, Keyed, Partition};
use crate::limits::{
    APPEND_BATCH_BYTES_MAX, APPEND_GATHER_MAX, APPEND_TIMEOUT, PARTITION_QUEUE_BYTES_MAX, PROBE_PAUSE_MAX,
    PROBE_PAUSE_MIN, RECORD_OVERHEAD_BYTES,
};
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
            let task = PartitionTask {
                part,
                broker: broker.clone(),
                queue,
                shared: Arc::clone(&shared),
                outcomes: outcomes.clone(),
                producer,
                last_number: 0,
                left_over: None,
                last_failed: false,
            };
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
        self.shared.gates.iter().map(|gate| gate.commands.load(Ordering::Relaxed)).sum()
    }

    /// Bytes of the commands that wait or are being appended.
    pub fn waiting_bytes(&self) -> usize {
        self.shared.gates.iter().map(|gate| gate.bytes.load(Ordering::Relaxed)).sum()
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

/// What the door of a partition lets in.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Admits {
    Nothing,
    /// One command, and then nothing.
    Probe,
    All,
}

/// The door of one partition's queue, on any thread.
struct Gate {
    admits: AtomicU8,
    commands: AtomicUsize,
    bytes: AtomicUsize,
    /// Why it admits nothing.
    why: Mutex<Option<String>>,
}

struct Shared {
    closed: AtomicBool,
    gates: Box<[Gate]>,
    /// Partitions that are away, opening ones not counted.
    away_count: AtomicUsize,
    metrics: AppendMetrics,
}

enum Message<T> {
    Append(Waiting<T>),
    /// Nothing follows but what was let in at the same moment.
    Close,
}

struct Waiting<T> {
    command: TodoCommand,
    ticket: T,
    bytes: usize,
    since: Instant,
}

/// A command that is ready to be sent.
struct Numbered<T> {
    record: Keyed,
    ticket: T,
    /// What it takes in the queue.
    bytes: usize,
    since: Instant,
}

struct PartitionTask<B, T> {
    part: u32,
    broker: B,
    queue: mpsc::UnboundedReceiver<Message<T>>,
    shared: Arc<Shared>,
    outcomes: Outcomes<T>,
    producer: ProducerId,
    last_number: u64,
    /// What did not fit into the last batch.
    left_over: Option<Numbered<T>>,
    /// The outcome of the last batch is unknown.
    last_failed: bool,
}

/// Nothing waits and nothing will come.
struct Finished;

impl Gate {
    fn new() -> Self {
        Self {
            admits: AtomicU8::new(Admits::Nothing as u8),
            commands: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            why: Mutex::new(Some("not opened yet".to_owned())),
        }
    }

    /// Lets a command in, or not. Two threads at the bound may both be refused where one would have fitted; neither ever
    /// passes it.
    fn enter(&self, bytes: usize) -> bool {
        self.commands.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let let_in = before + bytes <= PARTITION_QUEUE_BYTES_MAX && self.admit();
        if !let_in {
            self.leave(bytes);
        }
        let_in
    }

    fn admit(&self) -> bool {
        let admits = self.admits.load(Ordering::Acquire);
        admits == Admits::All as u8 || admits == Admits::Probe as u8 && self.take_probe()
    }

    /// Whether this thread is the one that brings the probe.
    fn take_probe(&self) -> bool {
        let (probe, nothing) = (Admits::Probe as u8, Admits::Nothing as u8);
        self.admits.compare_exchange(probe, nothing, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn set(&self, admits: Admits) {
        self.admits.store(admits as u8, Ordering::Release);
    }

    fn leave(&self, bytes: usize) {
        self.commands.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn why(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what stood there before.
    fn set_why(&self, why: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.why.lock().unwrap_or_else(PoisonError::into_inner), why)
    }
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
}

impl<B: Broker, T: Send + 'static> PartitionTask<B, T> {
    async fn run(mut self) {
        let mut away = false;
        loop {
            let Ok(mut partition) = self.open(&mut away).await else { return };
            self.gate().set(if self.last_failed { Admits::Probe } else { Admits::All });
            let Err(why) = self.append_batches(&mut partition, &mut away).await else { return };
            self.refuse_waiting();
            self.note_away(&mut away, &why);
        }
    }

    /// Opens the partition, however often it takes. What comes meanwhile slipped through a closing door, and is refused.
    async fn open(&mut self, away: &mut bool) -> Result<B::Partition, Finished> {
        let mut pause = PROBE_PAUSE_MIN;
        loop {
            let broker = self.broker.clone();
            match self.refusing(broker.open(self.part)).await? {
                Ok(partition) => return Ok(partition),
                Err(error) => self.note_away(away, &error),
            }
            // Spread, so that the tasks of a broker's partitions do not all knock in the same moment.
            self.refusing(sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64()))).await?;
            pause = (2 * pause).min(PROBE_PAUSE_MAX);
        }
    }

    /// Waits for `work`, and refuses what comes.
    async fn refusing<R>(&mut self, work: impl Future<Output = R>) -> Result<R, Finished> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                message = self.queue.recv() => match message {
                    Some(Message::Append(waiting)) => {
                        self.settle([(waiting.bytes, waiting.ticket)], Outcome::NotAppended(NotAppended::Unavailable));
                    }
                    Some(Message::Close) => self.queue.close(),
                    None => return Err(Finished),
                },
            }
        }
    }

    /// Appends one batch after the other until the end, or until one fails: why.
    async fn append_batches(&mut self, partition: &mut B::Partition, away: &mut bool) -> Result<(), KafkaError> {
        let mut last_sent: Option<Instant> = None;
        if !self.last_failed {
            self.note_back(away);
        }
        while let Some(first) = self.next().await {
            if let Some(last_sent) = last_sent {
                sleep_until(last_sent + APPEND_GATHER_MAX).await;
            }
            let sent = Instant::now();
            let (records, tickets) = self.batch(first);
            if records.is_empty() {
                // All of it was too old. If it was the probe, the next one is.
                if self.last_failed {
                    self.gate().set(Admits::Probe);
                }
                continue;
            }
            last_sent = Some(sent);
            match timeout(APPEND_TIMEOUT, partition.append(records)).await {
                Ok(Ok(())) => {
                    let metrics = &self.shared.metrics;
                    metrics.batches.inc();
                    metrics.commands.inc_by(tickets.len() as u64);
                    metrics.seconds.observe(sent.elapsed().as_secs_f64());
                    self.settle(tickets, Outcome::Acknowledged);
                    if self.last_failed {
                        self.last_failed = false;
                        self.gate().set(Admits::All);
                        self.note_back(away);
                    }
                }
                failed => {
                    self.last_failed = true;
                    // Before anybody hears of it, so that who tries again at once is refused at once.
                    self.gate().set(Admits::Nothing);
                    self.shared.metrics.unknown.inc();
                    self.settle(tickets, Outcome::Unknown);
                    let no_answer = || KafkaError::Away(format!("no acknowledgement within {APPEND_TIMEOUT:?}"));
                    return Err(failed.map_or_else(|_| no_answer(), |failed| failed.expect_err("success is above")));
                }
            }
        }
        Ok(())
    }

    /// The next command that is to be sent, numbered; `None` when there will be none.
    async fn next(&mut self) -> Option<Numbered<T>> {
        if let Some(left_over) = self.left_over.take() {
            return Some(left_over);
        }
        loop {
            match self.queue.recv().await? {
                Message::Append(waiting) => return Some(self.number(waiting)),
                Message::Close => self.queue.close(),
            }
        }
    }

    /// What waits, from `first` on: at most [`APPEND_BATCH_BYTES_MAX`] or one record, and nothing that is too old.
    fn batch(&mut self, first: Numbered<T>) -> (Vec<Keyed>, Vec<(usize, T)>) {
        let (mut records, mut tickets, mut batch_bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(numbered) = next {
            let record_bytes = numbered.record.value.len() + RECORD_OVERHEAD_BYTES;
            if numbered.since.elapsed() > APPEND_TIMEOUT {
                let expired = [(numbered.bytes, numbered.ticket)];
                self.settle(expired, Outcome::NotAppended(NotAppended::Unavailable));
            } else if !records.is_empty() && batch_bytes + record_bytes > APPEND_BATCH_BYTES_MAX {
                self.left_over = Some(numbered);
                break;
            } else {
                batch_bytes += record_bytes;
                records.push(numbered.record);
                tickets.push((numbered.bytes, numbered.ticket));
            }
            next = self.try_next();
        }
        (records, tickets)
    }

    fn try_next(&mut self) -> Option<Numbered<T>> {
        loop {
            match self.queue.try_recv().ok()? {
                Message::Append(waiting) => return Some(self.number(waiting)),
                Message::Close => self.queue.close(),
            }
        }
    }

    fn number(&mut self, waiting: Waiting<T>) -> Numbered<T> {
        self.last_number += 1;
        let Waiting { command, ticket, bytes, since } = waiting;
        let key = command.id.hyphenated();
        let value = Record { producer: self.producer, number: self.last_number, command }.encode();
        Numbered { record: Keyed { key, value }, ticket, bytes, since }
    }

    /// What waits behind a batch that failed.
    fn refuse_waiting(&mut self) {
        let left_over = self.left_over.take();
        let mut refused: Vec<_> = left_over.into_iter().map(|numbered| (numbered.bytes, numbered.ticket)).collect();
        loop {
            match self.queue.try_recv() {
                Ok(Message::Append(waiting)) => refused.push((waiting.bytes, waiting.ticket)),
                Ok(Message::Close) => self.queue.close(),
                Err(_) => break,
            }
        }
        self.settle(refused, Outcome::NotAppended(NotAppended::Unavailable));
    }

    fn settle(&self, commands: impl IntoIterator<Item = (usize, T)>, outcome: Outcome) {
        let settled = commands.into_iter().map(|(bytes, ticket)| {
            self.gate().leave(bytes);
            (ticket, outcome)
        });
        let settled: Vec<_> = settled.collect();
        if !settled.is_empty() {
            // The settling task outlives this one.
            let _ = self.outcomes.send(settled);
        }
    }

    fn gate(&self) -> &Gate {
        &self.shared.gates[self.part as usize]
    }

    /// Said once for all partitions: a broker has many.
    fn note_away(&self, away: &mut bool, why: &KafkaError) {
        self.gate().set_why(Some(why.to_string()));
        tracing::debug!(part = self.part, %why, "a partition takes no writes");
        if !std::mem::replace(away, true) && self.shared.away_count.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(part = self.part, %why, "the log does not take all writes");
        }
    }

    fn note_back(&self, away: &mut bool) {
        self.gate().set_why(None);
        if std::mem::replace(away, false) && self.shared.away_count.fetch_sub(1, Ordering::Relaxed) == 1 {
            tracing::info!("the log takes all writes again");
        }
    }
}
