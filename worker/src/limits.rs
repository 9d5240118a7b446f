//! Every bound of this crate, with what happens when it is passed.

use std::time::Duration;

use todo_proto::limits::{FOLD_COMMANDS_MAX, FOLD_ROW_BYTES_MAX};

/// Commands that wait in the channel or are being applied. More are refused at once.
pub const QUEUE_COMMANDS_MAX: usize = 64 * 1024;
/// Bytes of the commands that wait in the channel or are being applied. More are refused at once.
pub const QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Commands fetched at once, give or take the last group that was appended together. The rest waits in the queue.
pub const FETCH_COMMANDS_MAX: usize = FOLD_COMMANDS_MAX;
/// Bytes of commands fetched at once, give or take the last group that was appended together.
pub const FETCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of rows read for one batch, give or take the last row: what a fold can make of them is no more, and two thousand
/// small patches of large todos would read 80 MB. The commands on the rest wait for the next batch.
pub const READ_ROW_BYTES_MAX: usize = FOLD_ROW_BYTES_MAX;
/// Published changes that the follower has not taken. The loop waits for each to be visible, so one is the rule.
pub const FEED_MESSAGES_MAX: usize = 4;

/// How often a partition looks how far it has caught up.
pub const CATCH_UP_EVERY: Duration = Duration::from_secs(60);
/// First pause after an error that passes by itself; it doubles up to [`BACK_OFF_MAX`].
pub const BACK_OFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause after an error that passes by itself.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// A producer that appended nothing for this long is forgotten, measured against `caught_up_at`.
pub const PRODUCER_KEPT_MS: u64 = 24 * 60 * 60 * 1000;
/// A tombstone stays at least this long, so that every follower sees it.
pub const TOMBSTONE_KEPT_MS: u64 = 60 * 60 * 1000;
/// Tombstones purged in one transaction; the rest goes in the next, behind the commands that wait.
pub const PURGE_ROWS_MAX: u32 = 2_000;
/// Dead letters for a reused key that a partition keeps, the newest; what goes is counted. Those for other reasons were
/// promised an effect and stay until somebody has looked at them.
pub const KEY_REUSED_KEPT_MAX: u32 = 10_000;

/// Partitions of a store. Each is a task of the worker, and a queue of each server.
pub const PARTITIONS_MAX: u32 = 1_024;
/// Todos of the largest list that has a document in Redis.
pub const CACHE_LIMIT_MAX: u32 = 100_000;

/// Rows that a repair reads. More are not repaired but loaded.
pub const REPAIR_ROWS_MAX: u32 = 10_000;

/// Pages of the write-ahead log (4 KiB each) after which it is written back into the file, between two batches. It can
/// grow beyond while a reader holds an old view.
pub const WAL_PAGES_MAX: u64 = 4_000;
/// How long a statement waits for another process that writes to the file (`sqlite3` by hand, say).
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

const _: () = assert!(FETCH_COMMANDS_MAX <= QUEUE_COMMANDS_MAX && FETCH_BYTES_MAX <= QUEUE_BYTES_MAX);
