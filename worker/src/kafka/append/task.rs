//! The task of one partition: one batch after the other, and what becomes of each.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use todo_proto::command::{ProducerId, Record, TodoCommand};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::gate::{Admits, Gate};
use super::{Appends, Broker, Outcomes, Shared};
use crate::kafka::connect::{KafkaError, Keyed};
use crate::limits::{
    APPEND_BATCH_BYTES_MAX, APPEND_GATHER_MAX, APPEND_TIMEOUT, PROBE_PAUSE_MAX, PROBE_PAUSE_MIN, RECORD_OVERHEAD_BYTES,
};
use crate::traits::{NotAppended, Outcome};

/// What comes to a partition.
pub enum Message<T> {
    /// A command that the gate has let in.
    Append(Waiting<T>),
    /// Nothing follows but what was let in at the same moment.
    Close,
}

/// A command that waits.
pub struct Waiting<T> {
    /// What is to be appended.
    pub command: TodoCommand,
    /// Under which its outcome comes back.
    pub ticket: T,
    /// What it takes of the gate's room.
    pub bytes: usize,
    /// When it came.
    pub since: Instant,
}

/// The partition's end of its queue.
pub struct PartitionTask<B, T> {
    part: u32,
    broker: B,
    queue: mpsc::UnboundedReceiver<Message<T>>,
    shared: Arc<Shared>,
    outcomes: Outcomes<T>,
    producer: ProducerId,
    last_number: u64,
    /// What did not fit into the last batch.
    left_over: Option<Numbered<T>>,
    /// It has been said that the partition takes no writes.
    is_away: bool,
    /// Batches in a row whose outcome is unknown.
    unknown_batches: u32,
}

/// A command that is ready to be sent.
struct Numbered<T> {
    record: Keyed,
    ticket: T,
    bytes: usize,
    since: Instant,
}

/// Nothing waits and nothing will come.
struct Finished;

impl<B: Broker, T: Send + 'static> PartitionTask<B, T> {
    /// A task that has nothing yet.
    pub fn new(
        part: u32,
        broker: B,
        queue: mpsc::UnboundedReceiver<Message<T>>,
        shared: Arc<Shared>,
        outcomes: Outcomes<T>,
        producer: ProducerId,
    ) -> Self {
        Self {
            part,
            broker,
            queue,
            shared,
            outcomes,
            producer,
            last_number: 0,
            left_over: None,
            is_away: false,
            unknown_batches: 0,
        }
    }

    /// Runs until the queue is closed and empty.
    pub async fn run(mut self) {
        loop {
            let Ok(mut partition) = self.open().await else { return };
            self.admit_again();
            self.note_back();
            let Err(why) = self.append_batches(&mut partition).await else { return };
            self.note_away(&why);
            self.refuse_waiting();
        }
    }

    /// Opens the partition, however often it takes.
    async fn open(&mut self) -> Result<B::Partition, Finished> {
        // A broker that answers but does not write is left in peace for longer and longer.
        let mut pause = (PROBE_PAUSE_MIN * 2_u32.pow(self.unknown_batches.min(10))).min(PROBE_PAUSE_MAX);
        if self.unknown_batches > 1 {
            self.refusing(sleep(spread(pause))).await?;
        }
        loop {
            let broker = self.broker.clone();
            match self.refusing(broker.open(self.part)).await? {
                Ok(partition) => return Ok(partition),
                Err(why) => self.note_away(&why),
            }
            self.refusing(sleep(spread(pause))).await?;
            pause = (2 * pause).min(PROBE_PAUSE_MAX);
        }
    }

    /// Waits for `work`, and refuses what has slipped through the closing gate.
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
    async fn append_batches(&mut self, partition: &mut B::Partition) -> Result<(), KafkaError> {
        let mut next_at: Option<Instant> = None;
        while let Some(first) = self.next().await {
            if let Some(next_at) = next_at {
                sleep_until(next_at).await;
            }
            let sent = Instant::now();
            let (records, tickets) = self.batch(first);
            if records.is_empty() {
                // All of it was too old. If it was the probe, the next one is.
                self.admit_again();
                continue;
            }
            next_at = Some(sent + APPEND_GATHER_MAX);
            let appended = timeout(APPEND_TIMEOUT, partition.append(records)).await;
            match appended.unwrap_or_else(|_| Err(no_acknowledgement())) {
                Ok(()) => self.acknowledge(tickets, sent),
                Err(why) => {
                    self.give_up(tickets);
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// The next command that is to be sent; `None` when there will be none.
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

    fn acknowledge(&mut self, tickets: Vec<(usize, T)>, sent: Instant) {
        let metrics = &self.shared.metrics;
        metrics.batches.inc();
        metrics.commands.inc_by(tickets.len() as u64);
        metrics.seconds.observe(sent.elapsed().as_secs_f64());
        self.settle(tickets, Outcome::Acknowledged);
        if std::mem::take(&mut self.unknown_batches) > 0 {
            self.admit_again();
        }
    }

    fn give_up(&mut self, tickets: Vec<(usize, T)>) {
        self.unknown_batches += 1;
        self.shared.metrics.unknown.inc();
        // Before anybody hears of it, so that who tries again at once is refused at once.
        self.gate().set(Admits::Nothing);
        self.settle(tickets, Outcome::Unknown);
    }

    /// What waits behind a batch that was given up.
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

    fn admit_again(&self) {
        self.gate().set(if self.unknown_batches > 0 { Admits::Probe } else { Admits::All });
    }

    fn note_away(&mut self, why: &KafkaError) {
        self.gate().set_why(Some(why.to_string()));
        if !std::mem::replace(&mut self.is_away, true) {
            self.shared.note_away(self.part, why);
        }
    }

    fn note_back(&mut self) {
        self.gate().set_why(None);
        if std::mem::replace(&mut self.is_away, false) {
            self.shared.note_back();
        }
    }
}

fn no_acknowledgement() -> KafkaError {
    KafkaError::Away(format!("no acknowledgement within {APPEND_TIMEOUT:?}"))
}

/// So that the tasks of all partitions of a broker do not knock in the same moment.
fn spread(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + 0.5 * fastrand::f64())
}
