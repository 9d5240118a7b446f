//! One partition of the log, for the apply loop: what was fetched can be fetched again, so nothing is settled here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rskafka::record::RecordAndOffset;
use todo_proto::command::{DecodeError, Record};
use todo_proto::fold::Entry;
use tokio::time::{Instant, sleep_until};

use crate::kafka::connect::{Kafka, KafkaError, Partition};
use crate::limits::{FETCH_PACE, FETCH_PACE_BACKLOG};
use crate::traits::{CommandLog, Extent, LogError, Outcome};

/// A partition of the topic, read in order.
pub struct KafkaLog {
    kafka: Kafka,
    part: u32,
    /// `None` before the first call and after each error.
    partition: Option<Partition>,
    next_offset: u64,
    closed: bool,
    /// Not before this is the next batch fetched.
    paced_until: Option<Instant>,
    /// One behind the last record, as of the last call: for whoever wants to know how far behind the loop is.
    end: Arc<AtomicU64>,
}

impl KafkaLog {
    /// Connects to nobody yet.
    pub fn new(kafka: Kafka, part: u32) -> Self {
        Self { kafka, part, partition: None, next_offset: 0, closed: false, paced_until: None, end: Arc::default() }
    }

    /// Notes one behind the last record there, at each call.
    pub fn noting_end(self, end: Arc<AtomicU64>) -> Self {
        Self { end, ..self }
    }

    /// The partition, opened anew after an error.
    async fn partition(&mut self) -> Result<&Partition, KafkaError> {
        if self.partition.is_none() {
            self.partition = Some(self.kafka.open(self.part).await?);
        }
        Ok(self.partition.as_ref().expect("opened above"))
    }

    async fn try_fetch(&mut self) -> Result<Vec<RecordAndOffset>, KafkaError> {
        let offset = self.next_offset;
        let fetched = self.partition().await?.fetch(offset).await?;
        self.end.store(fetched.end, Ordering::Relaxed);
        Ok(fetched.records)
    }

    async fn try_extent(&mut self) -> Result<Extent, KafkaError> {
        let extent = self.partition().await?.extent().await?;
        self.end.store(extent.end, Ordering::Relaxed);
        Ok(extent)
    }

    fn note<T>(&mut self, result: Result<T, KafkaError>) -> Result<T, LogError> {
        result.map_err(|error| {
            self.partition = None;
            let part = self.part;
            match error {
                KafkaError::Away(_) => LogError::Unavailable(error.to_string()),
                KafkaError::PartitionCount { .. } => LogError::Halted(error.to_string()),
                KafkaError::Unreadable(why) => LogError::Halted(format!(
                    "the log of partition {part} cannot be read at offset {} or behind it ({why}): only this project may \
                     write to it, without compression or transactions. Restore the topic.",
                    self.next_offset
                )),
                KafkaError::OutOfRange(offset) => LogError::Halted(format!(
                    "the log of partition {part} does not have offset {offset}. If the topic was made anew, adopt it; else \
                     restore it."
                )),
            }
        })
    }

    /// The entries up to the first that cannot be applied; that one is an error when it stands in front.
    fn accept(&mut self, records: Vec<RecordAndOffset>) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::with_capacity(records.len());
        for record in records {
            match self.entry(record) {
                Ok(entry) => entries.push(entry),
                Err(halted) if entries.is_empty() => return Err(halted),
                Err(_) => break,
            }
            self.next_offset += 1;
        }
        Ok(entries)
    }

    fn entry(&self, RecordAndOffset { record, offset }: RecordAndOffset) -> Result<Entry, LogError> {
        let (part, expected) = (self.part, self.next_offset);
        if u64::try_from(offset) != Ok(expected) {
            return Err(LogError::Halted(format!(
                "the log of partition {part} has a gap: offset {expected} was expected and {offset} came. Restore the topic."
            )));
        }
        // The key only says where a record goes; what it is about stands in the value.
        let bytes = record.value.unwrap_or_default();
        let record = match Record::decode(&bytes) {
            Ok(record) => Ok(record),
            Err(DecodeError::Malformed(_)) => Err(bytes.into_boxed_slice()),
            Err(error @ DecodeError::UnknownFormat(_)) => {
                return Err(LogError::Halted(format!(
                    "offset {expected} of partition {part} has a {error}. Start the newer version of the worker."
                )));
            }
        };
        Ok(Entry { offset: expected, record })
    }
}

impl CommandLog for KafkaLog {
    const KEEPS: bool = true;

    async fn extent(&mut self) -> Result<Extent, LogError> {
        let extent = self.try_extent().await;
        self.note(extent)
    }

    async fn seek(&mut self, offset: u64) -> Result<(), LogError> {
        self.next_offset = offset;
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Option<Vec<Entry>>, LogError> {
        while !self.closed {
            if let Some(until) = self.paced_until {
                sleep_until(until).await;
            }
            let fetched = self.try_fetch().await;
            let records = self.note(fetched)?;
            if !records.is_empty() {
                let entries = self.accept(records)?;
                let behind = self.end.load(Ordering::Relaxed).saturating_sub(self.next_offset);
                self.paced_until = (behind < FETCH_PACE_BACKLOG).then(|| Instant::now() + FETCH_PACE);
                return Ok(Some(entries));
            }
        }
        Ok(None)
    }

    fn settle(&mut self, _: usize, _: Outcome) {}

    fn close(&mut self) {
        self.closed = true;
    }
}
