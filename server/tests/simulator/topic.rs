//! The log: a topic of a broker, and one worker's view of a partition of it.

use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use todo_proto::command::Record;
use todo_proto::fold::Entry;
use todo_worker::kafka::KafkaError;
use todo_worker::kafka::append::{self, Appends};
use todo_worker::kafka::connect::Keyed;
use todo_worker::traits::{CommandLog, Extent, LogError, Outcome};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::oracle::short;
use crate::world::{Fault, State, World};

/// The records of every partition.
pub struct Topic {
    pub partitions: Vec<Vec<Vec<u8>>>,
    /// Grows when the topic is made anew.
    pub generation: u32,
    /// By partition, the last record of the topic before this one, and its offset.
    last_before: Vec<Option<(usize, Vec<u8>)>>,
    /// Says that something was appended. Wakes in the order in which they wait, which `watch` does not.
    moved: Arc<Notify>,
}

/// The brokers, as one server process sees them.
#[derive(Clone)]
pub struct Broker {
    pub world: World,
    /// The process has ended: nobody is answered.
    pub is_dead: Arc<AtomicBool>,
}

/// One partition, as one server process sees it.
pub struct Partition {
    broker: Broker,
    part: u32,
}

impl Topic {
    pub fn new(partitions: u32) -> Topic {
        Topic {
            partitions: (0..partitions).map(|_| Vec::new()).collect(),
            generation: 0,
            last_before: (0..partitions).map(|_| None).collect(),
            moved: Arc::default(),
        }
    }

    /// The same name, and nothing in it.
    pub fn make_anew(&mut self) {
        let last = |records: &Vec<Vec<u8>>| Some((records.len().checked_sub(1)?, records.last()?.clone()));
        self.last_before = self.partitions.iter().map(last).collect();
        self.partitions.iter_mut().for_each(Vec::clear);
        self.generation += 1;
        self.moved.notify_waiters();
    }

    /// These would put the record that was last before at the offset where it was. Then no worker can tell that the topic
    /// was made anew, and none of them needs to when nothing else is in front of it; positions are not the model's then.
    fn would_pass_for_the_one_before(&self, part: u32, records: &[Vec<u8>]) -> bool {
        let Some((offset, last)) = &self.last_before[part as usize] else { return false };
        let begin = self.partitions[part as usize].len();
        offset.checked_sub(begin).and_then(|place| records.get(place)) == Some(last)
    }

    fn append(&mut self, part: u32, records: &[Vec<u8>]) {
        self.partitions[part as usize].extend_from_slice(records);
        self.moved.notify_waiters();
    }
}

impl Broker {
    /// Takes its time; for ever, when nobody waits any more.
    async fn pause(&self) {
        self.world.pause().await;
        if self.is_dead.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    }

    /// A call that went wrong ends with an error, or not at all.
    async fn fail<T>(&self) -> Result<T, KafkaError> {
        let hangs = self.world.state().random.u8(..) < 40;
        if hangs {
            pending::<()>().await;
        }
        self.pause().await;
        Err(KafkaError::Away("connection reset by peer".to_owned()))
    }

    /// What the client's rescue task, or the broker's old connection, does with a batch that nobody waits for any more.
    fn append_later(&self, part: u32, records: Vec<Vec<u8>>, after_ms: u64) {
        self.world.state().late_batches += 1;
        let world = self.world.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(after_ms)).await;
            let mut state = world.state();
            if !state.topic.would_pass_for_the_one_before(part, &records) {
                state.append(part, &records);
            }
            state.late_batches -= 1;
        });
    }
}

impl append::Broker for Broker {
    type Partition = Partition;

    async fn open(&self, part: u32) -> Result<Partition, KafkaError> {
        self.pause().await;
        if part as usize >= self.world.state().topic.partitions.len() {
            return Err(KafkaError::Away("unknown topic or partition".to_owned()));
        }
        Ok(Partition { broker: self.clone(), part })
    }
}

impl Appends for Partition {
    /// The broker takes a batch, or not, or twice, or late; and says so, or not.
    async fn append(&mut self, records: Vec<Keyed>) -> Result<(), KafkaError> {
        let (broker, part) = (&self.broker, self.part);
        let records: Vec<Vec<u8>> = records.into_iter().map(|record| record.value).collect();
        for record in &records {
            let record = Record::decode(record).expect("it was just encoded");
            broker.world.state().given(part, &record);
        }
        broker.pause().await;
        let strikes = |fault, per_mille| broker.world.state().strikes(fault, per_mille);
        let after_ms = || broker.world.state().random.u64(1..4_000);
        if strikes(Fault::LogAway, 15) {
            return broker.fail().await;
        }
        if strikes(Fault::LateBatch, 20) {
            broker.append_later(part, records, after_ms());
            return broker.fail().await;
        }
        broker.world.state().append(part, &records);
        if strikes(Fault::LostAcknowledgement, 20) {
            return broker.fail().await;
        }
        if strikes(Fault::DoubledBatch, 20) {
            broker.append_later(part, records, after_ms());
        }
        broker.pause().await;
        Ok(())
    }
}

impl State {
    fn append(&mut self, part: u32, records: &[Vec<u8>]) {
        self.topic.append(part, records);
        self.oracle.appended(part, records);
        for record in records {
            let record = Record::decode(record).expect("we encoded it");
            let end = self.topic.partitions[part as usize].len();
            self.note(&format!(
                "log {part}: {:02x} #{} {:?} {} (end {end})",
                record.producer[0],
                record.number,
                record.command.id,
                short(&record.command.operation),
            ));
        }
    }
}

/// A worker's view of one partition.
pub struct Log {
    world: World,
    part: u32,
    offset: u64,
    generation: u32,
    is_closed: bool,
    moved: Arc<Notify>,
}

impl Log {
    pub fn open(world: &World, part: u32) -> Log {
        let (generation, moved) = {
            let state = world.state();
            (state.topic.generation, Arc::clone(&state.topic.moved))
        };
        Log { world: world.clone(), part, offset: 0, generation, is_closed: false, moved }
    }

    /// A topic that was made anew shows itself once, by an error like any other: the client connects again.
    fn reconnect(&mut self) -> Result<(), LogError> {
        let generation = self.world.state().topic.generation;
        if generation == self.generation {
            return Ok(());
        }
        self.generation = generation;
        Err(LogError::Unavailable("this server does not host this topic-partition".to_owned()))
    }
}

impl CommandLog for Log {
    const KEEPS: bool = true;

    async fn extent(&mut self) -> Result<Extent, LogError> {
        self.world.pause().await;
        self.reconnect()?;
        let end = self.world.state().topic.partitions[self.part as usize].len() as u64;
        Ok(Extent { earliest: 0, end })
    }

    async fn seek(&mut self, offset: u64) -> Result<(), LogError> {
        self.offset = offset;
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Option<Vec<Entry>>, LogError> {
        loop {
            if self.is_closed {
                return Ok(None);
            }
            let mut moved = pin!(Arc::clone(&self.moved).notified_owned());
            moved.as_mut().enable();
            self.world.pause().await;
            self.reconnect()?;
            let entries = {
                let mut state = self.world.state();
                let most = state.random.usize(1..12);
                let records = &state.topic.partitions[self.part as usize];
                if self.offset > records.len() as u64 {
                    return Err(LogError::Halted(format!("offset {} is out of range", self.offset)));
                }
                let records = records[self.offset as usize..].iter().take(most);
                let entry = |(offset, record): (u64, &Vec<u8>)| Entry {
                    offset,
                    record: Record::decode(record).map_err(|_| record.as_slice().into()),
                };
                (self.offset..).zip(records).map(entry).collect::<Vec<_>>()
            };
            if let Some(last) = entries.last() {
                self.offset = last.offset + 1;
                return Ok(Some(entries));
            }
            moved.await;
        }
    }

    fn settle(&mut self, _: usize, _: Outcome) {}

    fn close(&mut self) {
        self.is_closed = true;
    }
}
