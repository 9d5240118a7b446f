//! The three seams of the write side. Each has one implementation for a single process and one for a cluster; the loop
//! between them ([`crate::apply`]) knows neither.

use std::collections::HashSet;
use std::future::Future;

use todo_proto::change::Changes;
use todo_proto::command::ProducerId;
use todo_proto::fold::{Batch, Entry, Partition, Row};
use todo_proto::id::ItemId;

/// Where commands wait: one partition of it, read in order.
pub trait CommandLog: Send {
    /// Whether what was fetched can be fetched again. A log that keeps its entries waits for a store that is away; one
    /// that does not says at once that they were not appended.
    const KEEPS: bool;

    /// The offsets there are.
    fn extent(&mut self) -> impl Future<Output = Result<Extent, LogError>> + Send;

    /// The next fetch begins at `offset`.
    fn seek(&mut self, offset: u64) -> impl Future<Output = Result<(), LogError>> + Send;

    /// Waits for entries and returns what is there: at least one, in order, about
    /// [`FETCH_COMMANDS_MAX`](crate::limits::FETCH_COMMANDS_MAX) at most. `None` when none will come any more: the log was
    /// closed, or the lease on the partition is given back or lost. Dropping the future loses nothing.
    fn fetch(&mut self) -> impl Future<Output = Result<Option<Vec<Entry>>, LogError>> + Send;

    /// What became of the `count` oldest entries that were fetched and not settled. A log that keeps its entries has
    /// nothing to do.
    fn settle(&mut self, count: usize, outcome: Outcome);

    /// Takes nothing new. What was taken already is still fetched, unless the log keeps it.
    fn close(&mut self);
}

/// The truth: rows, and how far the log is applied.
///
/// A batch is two flights: [`begin`](Self::begin) opens a transaction, holds the partition and reads;
/// [`commit`](Self::commit) writes and ends it. A second `begin` rolls back the first. After any error the transaction is
/// gone, and except for [`StoreError::Unknown`] nothing of it was written.
pub trait TodoStore: Send {
    /// The partition as it stands.
    fn partition(&mut self, part: u32) -> impl Future<Output = Result<Partition, StoreError>> + Send;

    /// Holds the partition if it stands at `from`, else [`StoreError::Fenced`], and reads what the commands name.
    fn begin(&mut self, part: u32, from: u64, named: Named) -> impl Future<Output = Result<Begun, StoreError>> + Send;

    /// Writes the batch that was begun and moves the partition, together and durably.
    fn commit(&mut self, batch: Batch) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The store's clock, in ms since the Unix epoch.
    fn now_ms(&mut self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Notes that everything appended before `now_ms` is applied, if the partition stands at `next_offset`, else
    /// [`StoreError::Fenced`]. Then forgets producers and tombstones that nothing can ask for any more.
    fn catch_up(
        &mut self,
        part: u32,
        next_offset: u64,
        now_ms: u64,
    ) -> impl Future<Output = Result<CaughtUp, StoreError>> + Send;
}

/// How changes reach the snapshots.
pub trait ChangeFeed: Send {
    /// Hands changes on. In one process it returns when they are visible; between processes when they are queued, and
    /// what cannot be queued is counted and dropped, since followers repair.
    fn publish(&mut self, changes: Changes) -> impl Future<Output = Result<(), FeedGone>> + Send;
}

/// The offsets of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first that is still there; `end` when there is none.
    pub earliest: u64,
    /// One behind the last.
    pub end: u64,
}

/// What a batch of commands names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Todos, in the order in which the commands name them, each once.
    pub ids: Vec<ItemId>,
    /// Producers, ascending, each once.
    pub producers: Vec<ProducerId>,
}

/// What a store has of what was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The partition, now held.
    pub partition: Partition,
    /// How many of the ids were looked for, from the front: all, or as many as [`READ_ROW_BYTES_MAX`] allows, at least
    /// one.
    ///
    /// [`READ_ROW_BYTES_MAX`]: crate::limits::READ_ROW_BYTES_MAX
    pub ids_read: usize,
    /// Those of their rows that exist.
    pub rows: Vec<Row>,
    /// The producers that are known, with their last numbers.
    pub producers: Vec<(ProducerId, u64)>,
}

/// How far a partition has caught up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaughtUp {
    /// Everything appended before this (ms since the Unix epoch) is applied.
    pub caught_up_at_ms: u64,
    /// More is to be forgotten: call again.
    pub more: bool,
}

/// What became of a command that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable and, in one process, visible.
    Acknowledged,
    /// It has no effect and never will.
    NotAppended(NotAppended),
    /// It may have an effect.
    Unknown,
}

/// Why a command was not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAppended {
    /// There is no room: try again.
    #[error("the disk is full")]
    DiskFull,
    /// The store does not take it just now: try again.
    #[error("the store does not take writes just now")]
    Unavailable,
    /// Nothing is written any more.
    #[error("writing has ended until a restart")]
    Ended,
}

/// What a log cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It is away: try again.
    #[error("the log is away: {0}")]
    Unavailable(String),
    /// It is not the log that was applied so far, or cannot be read: only a human can tell. Says the remedy.
    #[error("the log cannot be applied: {0}")]
    Halted(String),
}

/// What a store cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The partition stands elsewhere: somebody else has moved it. Read it again.
    #[error("the partition was moved by another writer")]
    Fenced,
    /// It will never take one of the rows. Find out which.
    #[error("the store refuses a row: {0}")]
    Refused(String),
    /// Nothing was written, for want of room: try again.
    #[error("the disk is full")]
    Full,
    /// Nothing was written: try again.
    #[error("the store is away: {0}")]
    Unavailable(String),
    /// The commit may have happened. Read the partition again, or stop writing.
    #[error("the outcome of a commit is unknown: {0}")]
    Unknown(String),
    /// Nothing was written, and nothing will be until a restart.
    #[error("the store has stopped writing: {0}")]
    Ended(String),
}

/// The follower of a feed has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody follows the changes any more")]
pub struct FeedGone;

impl Named {
    /// What `entries` name.
    pub fn by(entries: &[Entry]) -> Self {
        let records = || entries.iter().filter_map(|entry| entry.record.as_ref().ok());
        let mut seen = HashSet::new();
        let ids = records().map(|record| record.command.id).filter(|id| seen.insert(*id)).collect();
        let mut producers: Vec<ProducerId> = records().map(|record| record.producer).collect();
        producers.sort_unstable();
        producers.dedup();
        Self { ids, producers }
    }
}
