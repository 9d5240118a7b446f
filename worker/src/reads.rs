//! What a snapshot reads of the truth: the seam between whoever follows a store and the stores.

use std::future::Future;

use todo_proto::change::{Change, StoreId};
use todo_proto::id::ItemId;
use todo_proto::todo::TodoFields;

use crate::traits::StoreError;

/// Reads what a snapshot has no room for. Every call sees one moment of the store, so positions belong to the rows they come
/// with. Dropping a future loses nothing but its answer.
pub trait OlderReader: Send {
    /// The todos below `before`, newest first, with the bounds of [`StoreReader::load`].
    fn read_below(
        &mut self,
        before: ItemId,
        todos_max: usize,
        json_bytes_max: usize,
    ) -> impl Future<Output = Result<Below, StoreError>> + Send;

    /// One todo's JSON; `None` when there is none of this id.
    fn read_one(&mut self, id: ItemId) -> impl Future<Output = Result<(Stand, Option<Json>), StoreError>> + Send;
}

/// Reads a store as whoever keeps a snapshot of it has to; with the promises of [`OlderReader`].
pub trait StoreReader: OlderReader {
    /// Streams the newest todos, newest first, each with its JSON, until there are `todos_max` of them or the next would
    /// pass `json_bytes_max`. Holds no more than a few at a time.
    fn load(
        &mut self,
        todos_max: usize,
        json_bytes_max: usize,
        take: impl FnMut(ItemId, &[u8]) + Send,
    ) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Where the store stands, in one cheap statement.
    fn look(&mut self) -> impl Future<Output = Result<Look, StoreError>> + Send;

    /// What has changed in partition `part` above position `above`.
    fn repair(&mut self, part: u32, above: u64) -> impl Future<Output = Result<Repair, StoreError>> + Send;
}

/// A todo's JSON.
pub type Json = Box<[u8]>;

/// Where a store stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// The store's name.
    pub store_id: StoreId,
    /// Position by partition.
    pub positions: Vec<u64>,
    /// By partition: everything appended before this (ms since the Unix epoch) is applied.
    pub caught_up_at_ms: Vec<u64>,
}

/// What a load has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Where the store stood.
    pub stand: Stand,
    /// How many todos.
    pub todos_count: usize,
    /// Bytes of their JSON.
    pub json_bytes: usize,
    /// The store has more, all of them older.
    pub older: bool,
}

/// What has changed in a store of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Where the store stands.
    pub stand: Stand,
    /// Todos, each with its JSON, or without when it was deleted.
    pub changes: Vec<(ItemId, Option<Json>)>,
}

/// What a look sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Where the store stands.
    pub stand: Stand,
    /// By partition: no tombstone up to this revision can be relied on.
    pub purged: Vec<u64>,
    /// The oldest live todo; `None` when there is none.
    pub oldest: Option<ItemId>,
    /// The store's clock, in ms since the Unix epoch.
    pub now_ms: u64,
    /// The topic that its offsets are of: whoever appends to another writes what nobody applies.
    pub topic: String,
}

/// What a repair has read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repair {
    /// Every row of the partition that changed above the position asked for, up to `position`, in ascending order of ids.
    Changes {
        /// The store's name.
        store_id: StoreId,
        /// Where the partition stands; may be below what was asked for when the store was restored from a backup.
        position: u64,
        /// The rows, each as it is now.
        changes: Vec<Change>,
    },
    /// More rows than [`REPAIR_ROWS_MAX`](crate::limits::REPAIR_ROWS_MAX), or tombstones among them were purged: load anew.
    TooMuch,
}

/// A todo with all that an import needs; its `created_at` is its id's time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported<'a> {
    /// The todo.
    pub id: ItemId,
    /// Its fields.
    pub fields: TodoFields<&'a str>,
    /// When it was last changed, in ms since the Unix epoch.
    pub updated_at_ms: u64,
    /// The fingerprint of the POST that made it, if known.
    pub born: Option<u64>,
}

/// What lies below an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// Where the store stood.
    pub stand: Stand,
    /// Todos and their JSON, newest first.
    pub todos: Vec<(ItemId, Json)>,
    /// The store has more, all of them older.
    pub older: bool,
}
