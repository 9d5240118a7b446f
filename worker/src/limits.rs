//! Every bound of this crate, with what happens when it is passed.

use std::time::Duration;

use todo_proto::limits::{FOLD_COMMANDS_MAX, FOLD_ROW_BYTES_MAX, RECORD_BYTES_MAX};

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
/// Bytes of the commands that wait for one partition of Kafka or are on their way to it. More are refused at once, and
/// those of other partitions are not.
pub const PARTITION_QUEUE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Bytes of one batch for Kafka, unless it is one record. What is larger leaves its client library in two pieces and waits
/// 40 ms for the other side to acknowledge the first.
pub const APPEND_BATCH_BYTES_MAX: usize = 7_400;
/// Bytes of a record in Kafka beside its value: the key, and the lengths and deltas around both.
pub const RECORD_OVERHEAD_BYTES: usize = 36 + 20;
/// How long a command waits for its turn, and then a batch for its acknowledgement. What waited longer is not appended;
/// what is not acknowledged by then is unknown.
pub const APPEND_TIMEOUT: Duration = Duration::from_secs(2);
/// From one batch of a partition to the next, so that more commands share one; the first after a pause waits for nothing.
pub const APPEND_GATHER_MAX: Duration = Duration::from_millis(2);
/// First pause after a partition that could not be opened; it doubles up to [`PROBE_PAUSE_MAX`].
pub const PROBE_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause after a partition that could not be opened.
pub const PROBE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// To have a partition open: socket, TLS, login, the topic, its leader. Kafka is away after that.
pub const KAFKA_OPEN_TIMEOUT: Duration = Duration::from_secs(4);
/// For an answer of Kafka's, beside what it may wait for records.
pub const KAFKA_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses of the client library while it tries one call again by itself, all together. Below every limit of a call, so that
/// the call ends with what is wrong and not with the limit.
pub const KAFKA_RETRY_WITHIN: Duration = Duration::from_millis(500);
/// First pause of the client library before it tries again.
pub const KAFKA_RETRY_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Each pause is drawn from the first one to this many times the one before, so it doubles on average.
pub const KAFKA_RETRY_PAUSE_BASE: f64 = 4.0;
/// Longest pause of the client library before it tries again.
pub const KAFKA_RETRY_PAUSE_MAX: Duration = Duration::from_millis(200);
/// How long a fetch waits for records. Also what a call behind a fetch that was given up waits for it.
pub const KAFKA_FETCH_WAIT: Duration = Duration::from_millis(500);
/// A partition's batches begin at least so far apart: each costs Kafka, Postgres and us the same whether it has one command
/// or a hundred, and 32 partitions have few each. A command that comes to a partition at rest waits for nothing.
pub const FETCH_PACE: Duration = Duration::from_millis(15);
/// With so many records behind a batch the next one begins at once.
pub const FETCH_PACE_BACKLOG: u64 = 256;
/// Bytes of records that one fetch brings, unless the first batch is larger. Some [`FETCH_COMMANDS_MAX`] of usual size.
pub const KAFKA_FETCH_BYTES_MAX: i32 = 512 * 1024;
/// An answer of Kafka's. A larger one is an error: nothing that we ask for is as large, unless the cluster is huge.
pub const KAFKA_FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;
/// To have a connection to Redis, with TLS and login. It is away after that.
pub const REDIS_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// For an answer of Redis's. What was asked may have an effect after that.
pub const REDIS_COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// For the answer to documents, which are megabytes.
pub const REDIS_DOCUMENTS_TIMEOUT: Duration = Duration::from_secs(4);
/// A connection that leaves something unanswered for so long is closed and made anew.
pub const REDIS_SILENCE_MAX: Duration = Duration::from_secs(5);
/// How often an idle connection is asked something, and a silent one looked at.
pub const REDIS_SILENCE_SEEN_EVERY: Duration = Duration::from_secs(1);
/// First pause before a new connection; it doubles up to [`REDIS_PAUSE_MAX`].
pub const REDIS_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause before a new connection.
pub const REDIS_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Messages that wait inside the client library until they are taken from it, which is at once.
pub const REDIS_BROADCAST_MESSAGES_MAX: usize = 256;
/// Messages that were heard and not taken. More are dropped, and a mark says so.
pub const HEARD_MESSAGES_MAX: usize = 4_096;
/// Bytes of messages that were heard and not taken. More are dropped, and a mark says so.
pub const HEARD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How often the documents in Redis are looked after.
pub const DOCUMENTS_EVERY: Duration = Duration::from_secs(1);
/// Bytes of a document in Redis. A larger one is not kept but deleted.
pub const DOCUMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Published changes that the follower has not taken. The loop waits for each to be visible, so one is the rule.
pub const FEED_MESSAGES_MAX: usize = 4;

/// Bytes of changes that wait to be published. More are dropped and counted: followers repair.
pub const PUBLISH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Batches of changes that wait to be published. More are dropped and counted.
pub const PUBLISH_CHANGES_MAX: usize = 4_096;
/// How long changes wait for others to share their messages; the first after a pause waits for nothing.
pub const GATHER_MAX: Duration = Duration::from_millis(5);

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
/// How long a replay waits for partitions that take nothing; then it ends with a sentence.
pub const REPLAY_TIMEOUT: Duration = Duration::from_secs(15);
/// Dead letters for a reused key that a partition keeps, the newest; what goes is counted. Those for other reasons were
/// promised an effect and stay until somebody has looked at them.
pub const KEY_REUSED_KEPT_MAX: u32 = 10_000;

/// Partitions of a store. Each is a task of the worker, and a queue of each server.
pub const PARTITIONS_MAX: u32 = 1_024;
/// Todos of the largest list that has a document in Redis.
pub const CACHE_LIMIT_MAX: u32 = 100_000;

/// Rows that a repair reads. More are not repaired but loaded.
pub const REPAIR_ROWS_MAX: u32 = 10_000;

/// Bytes of JSON that a repair reads. More is not repaired but loaded, which a window bounds.
pub const REPAIR_JSON_BYTES_MAX: usize = 64 * 1024 * 1024;

/// To have a socket, TLS and a login at Postgres. It is away after that.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a connection of the pool to become free. The store is away after that.
pub const POOL_WAIT_TIMEOUT: Duration = Duration::from_secs(5);
/// In Postgres: for a row that another session holds. Above what a frozen one can hold it for.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(3);
/// In Postgres: for one statement.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// In Postgres: for a session that is silent inside a transaction, before it is ended. A worker that was frozen there
/// holds its partition this long.
pub const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(2);
/// Here: for one call of a few flights. Above the statement's, so that the server has the first word; this one is for a
/// server that says nothing.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Here: for the next rows of a long read.
pub const LOAD_PROGRESS_TIMEOUT: Duration = Duration::from_secs(15);
/// In Postgres: for the whole of a long read (a load, an export).
pub const LOAD_STATEMENT_TIMEOUT: Duration = Duration::from_secs(600);
/// For bytes to be acknowledged by the other side's kernel, before the connection is given up.
pub const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a connection is probed.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Between two probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Probes without an answer after which a connection is given up.
pub const KEEPALIVE_RETRIES: u32 = 3;
/// For other processes that migrate the same store.
pub const MIGRATE_LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a partition belongs to a worker that says nothing more. Another takes it then.
pub const LEASE: Duration = Duration::from_secs(6);
/// How often a worker says that it is there.
pub const LEASE_RENEW_EVERY: Duration = Duration::from_millis(1_500);

/// How long a partition stays halted before its loop is started anew: somebody may have followed the remedy.
pub const HALTED_RETRY_AFTER: Duration = Duration::from_secs(30);
/// Between two tries to reach Postgres at the start.
pub const START_RETRY_EVERY: Duration = Duration::from_millis(500);
/// Between two lines that say what is waited for at the start.
pub const START_LINE_EVERY: Duration = Duration::from_secs(5);
/// For the loops to end and the leases to be given back at a stop. What is not done by then is found by the next owner.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections to Postgres beside those of the loops: one renews the leases, one makes the documents.
pub const SIDE_CONNECTIONS_MAX: usize = 2;

/// Dead letters that one list shows.
pub const DEAD_LETTERS_LISTED_MAX: u32 = 1_000;

/// Pages of the write-ahead log (4 KiB each) after which it is written back into the file, between two batches. It can
/// grow beyond while a reader holds an old view.
pub const WAL_PAGES_MAX: u64 = 4_000;
/// How long a statement waits for another process that writes to the file (`sqlite3` by hand, say).
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

// Who waits for a frozen worker's partition gets it, and the server answers before the caller gives up.
const _: () = assert!(IDLE_IN_TRANSACTION_TIMEOUT.as_millis() < LOCK_TIMEOUT.as_millis());
const _: () = assert!(STATEMENT_TIMEOUT.as_millis() < CALL_TIMEOUT.as_millis());
// A lost renewal loses no lease.
const _: () = assert!(3 * LEASE_RENEW_EVERY.as_millis() < LEASE.as_millis());
// The client library gives up before its caller does, and a refused command is answered within twice the limit.
const _: () = assert!(KAFKA_RETRY_WITHIN.as_millis() < APPEND_TIMEOUT.as_millis());
const _: () = assert!(APPEND_TIMEOUT.as_millis() <= KAFKA_OPEN_TIMEOUT.as_millis());
// A command gives up before its connection does.
const _: () = assert!(REDIS_COMMAND_TIMEOUT.as_millis() < REDIS_SILENCE_MAX.as_millis());
const _: () = assert!(REDIS_DOCUMENTS_TIMEOUT.as_millis() < REDIS_SILENCE_MAX.as_millis());
// The largest command fits into an empty queue.
const _: () = assert!(2 * RECORD_BYTES_MAX < PARTITION_QUEUE_BYTES_MAX);
const _: () = assert!(FETCH_COMMANDS_MAX <= QUEUE_COMMANDS_MAX && FETCH_BYTES_MAX <= QUEUE_BYTES_MAX);
