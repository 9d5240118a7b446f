//! Everything a peer can make grow, and everything that waits for one, with what happens at the bound.

use std::time::Duration;

/// Request line plus fields, through the empty line. A longer head is answered 431, a longer request
/// line 414, and the connection closes.
pub const REQUEST_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Field lines of one head. More are answered 431 and the connection closes.
pub const REQUEST_FIELDS_MAX: usize = 64;
/// A PROXY header of version 1, its CRLF included: as long as one can be. A longer one is refused: the connection closes
/// without a word.
pub const PROXY_TEXT_BYTES_MAX: usize = 107;
/// A PROXY header of version 2, its TLVs included: what every path carries in one segment. A longer one is refused alike.
pub const PROXY_BINARY_BYTES_MAX: usize = 536;
/// Payload of one request, framing not counted. More is answered 413 and the connection closes.
pub const REQUEST_BODY_BYTES_MAX: usize = 64 * 1024;
/// Payload of an unread body that is read and dropped so that the connection can go on; with more to
/// come it closes instead.
pub const DRAIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// Hexadecimal digits of one chunk size, leading zeros included: as many as 64 bits hold. More is 400.
pub const CHUNK_SIZE_DIGITS_MAX: u8 = 16;
/// Chunk extensions of one body in all (nothing here reads them). More is answered 400.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 1024;
/// Trailer section of one body, through its empty line. More is answered 431.
pub const TRAILER_BYTES_MAX: usize = 4 * 1024;

/// A bearer token. A longer one is answered 401 without a look at its signature.
pub const TOKEN_BYTES_MAX: usize = 4 * 1024;
/// The `sub` claim of a token, in bytes of UTF-8. A longer one is answered 401.
pub const TOKEN_SUBJECT_BYTES_MAX: usize = 256;

/// Default of the largest `limit` a list may ask for. More is answered 400.
pub const LIST_LIMIT_MAX: u32 = 10_000;
/// How far an `Idempotency-Key` may lie behind the clock. An older one is answered 400: past it a retry
/// could no longer be told from a new request.
pub const IDEMPOTENCY_KEY_BEHIND_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// How far an `Idempotency-Key` may lie ahead of the clock. A later one is answered 400.
pub const IDEMPOTENCY_KEY_AHEAD_MS_MAX: u64 = 60 * 1000;

/// The shard's one read buffer, lent to the connection that has bytes to read; an idle one holds none.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes that leave for one connection in one turn, so that one client cannot hold the shard.
pub const OUTPUT_BYTES_PER_TURN: usize = 256 * 1024;

/// From the first byte of a head to its empty line, in all and not per read. Then 408 and close. So long too from the
/// beginning of a connection to the end of the PROXY header that it must begin with; then it closes without a word.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// From the end of a head to the end of its body. Then 408 and close.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// Between two requests. Then the connection closes without a word.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// After the last answer of a closing connection, for the peer to close its side.
pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that are read and dropped while lingering. Then the connection is cut.
pub const LINGER_BYTES_MAX: usize = 256 * 1024;

// A legal head always fits, with the empty line that may stand before it: "buffer full, head still
// partial" can only mean "too large".
const _: () = assert!(REQUEST_HEAD_BYTES_MAX + 2 < READ_BUFFER_BYTES);
// A PROXY header comes in one read if it comes at once.
const _: () = assert!(PROXY_BINARY_BYTES_MAX < READ_BUFFER_BYTES);
// A chunk size fits a `u64` without a check per digit.
const _: () = assert!(CHUNK_SIZE_DIGITS_MAX <= 16);
// A body that is accepted is also one that can be drained, so one bound decides both.
const _: () = assert!(REQUEST_BODY_BYTES_MAX <= DRAIN_BODY_BYTES_MAX);
// Who sends its whole legal body behind a refused request gets that answer before the end of the linger.
const _: () = assert!(REQUEST_BODY_BYTES_MAX < LINGER_BYTES_MAX);
// A token of the largest size can arrive at all.
const _: () = assert!(TOKEN_BYTES_MAX + TOKEN_SUBJECT_BYTES_MAX < REQUEST_HEAD_BYTES_MAX);

// ---- connections and their output ----

/// A body up to this size is copied with its head into one buffer; a larger one leaves as slices of its snapshot.
pub const COPIED_BODY_BYTES_MAX: usize = 1024 * 1024;
/// A piece up to this size is copied behind its neighbours, so that a mixed batch is one write.
pub const COALESCED_BYTES_MAX: usize = 32 * 1024;
/// Buffers of each size that a shard's pool keeps for reuse; more are freed.
pub const POOL_FREE_BUFFERS_MAX: usize = 16;
/// Bytes of answers that clients have not taken, a shard, each distinct buffer counted once; above it the slowest are cut.
pub const UNSENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of input held for unfinished requests, a shard; above it those that began first are cut.
pub const INPUT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Page bytes replaced since the oldest snapshot that a connection still sends; above it that connection is cut.
pub const SUPERSEDED_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// A client must take this much, or all that it is owed, in each progress timeout.
pub const PROGRESS_BYTES: u64 = 64 * 1024;
/// For [`PROGRESS_BYTES`], or all that is owed, to be taken. Then the connection is reset.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// Pieces of one vectored write; the kernel takes at most 1,024.
pub const GATHERED_PIECES_MAX: usize = 64;
/// So much of a ready-made buffer leaves by `sendfile(2)` from a sealed file: no copy, but system calls of its own. Against
/// a write through the ring it loses up to 32 KB (by 4 to 9 %) and wins from 128 KB on (35 %).
pub const FILE_WRITE_BYTES_MIN: usize = 64 * 1024;
/// So much does on a connection that writes by system calls anyway: there the break-even is 6 to 10 KB.
pub const FILE_WRITE_BYTES_MIN_DIRECT: usize = 16 * 1024;
/// The large write of a buffer that gives it a file: making one costs some 30 us, and a buffer lives a second at most.
pub const FILE_AFTER_WRITES: u8 = 2;
/// Files that a shard has open at once; less under a small descriptor limit. More buffers leave through the ring.
pub const FILES_MAX: usize = 16;
/// Writes without a file in a row after which a connection goes back to the ring.
pub const DIRECT_WRITES_MAX: u8 = 16;
/// One batch in so many is timed, for the latencies of `/metrics`.
pub const BATCHES_PER_SAMPLE: u32 = 1_024;
/// No response head is longer, whatever it says.
pub const REPLY_HEAD_BYTES_MAX: usize = 1_536;
/// An origin that may call from a browser; a longer one is refused at start.
pub const CORS_ORIGIN_BYTES_MAX: usize = 262;
/// How long a browser keeps the answer to its preflight; browsers cut it to two hours or less themselves.
pub const CORS_MAX_AGE_SECONDS: u32 = 7_200;
/// Lists of at least so many bytes carry `Vary: Accept-Encoding`.
pub const VARY_BODY_BYTES_MIN: u64 = 8 * 1024;

// ---- ready-made responses ----

/// Bytes of ready-made responses a shard keeps.
pub const READY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Ready-made responses a shard keeps.
pub const READY_RESPONSES_MAX: usize = 1024;
/// A response above this size is not repeated in a run: copies no longer pay.
pub const RUN_RESPONSE_BYTES_MAX: usize = 8 * 1024;
/// Queries of one second that a shard remembers, to see which are asked for again.
pub const WANTED_QUERIES_MAX: usize = 1024;
/// Heads that a shard remembers.
pub const KNOWN_HEADS_MAX: usize = 64;
/// Equal heads that are counted at once; a read brings no more.
pub const KNOWN_REPEATS_MAX: usize = 4096;

// ---- deferred groups ----

/// Writes of one connection that are handed over together.
pub const GROUP_WRITES_MAX: usize = 64;
/// Bytes of bodies after which no further write joins a group.
pub const GROUP_BYTES_MAX: usize = 64 * 1024;
/// A PUT, PATCH or DELETE of an id whose time is further ahead of the clock names nothing: 404.
pub const ID_AHEAD_MS_MAX: u64 = 60_000;
/// Reads below the floor and pages that wait for the control plane, all shards together; more are 503.
pub const CONTROL_REQUESTS_MAX: usize = 1024;
/// A read below the floor, or a page, is answered in this time or with 503.
pub const CONTROL_REQUEST_TIMEOUT_MS: u64 = 1_000;
/// Items of one answer that the store gives; the rest is a link.
pub const STORE_READ_ITEMS_MAX: u32 = 1_000;

// ---- the dashboard ----

/// Connections that watch the dashboard at once, each with a descriptor of those that are set aside; one more is 503.
pub const DASHBOARD_STREAMS_MAX: usize = 16;
/// How often a watcher is told. One that reads more slowly gets the newest when it has taken the last, and none between.
pub const DASHBOARD_FRAME_EVERY: Duration = Duration::from_secs(1);
/// A watcher that does not take one frame in this time is cut.
pub const DASHBOARD_PATIENCE: Duration = Duration::from_secs(30);

/// Connections that may wait to be taken on the address for metrics and dashboard.
pub const ADMIN_BACKLOG: i32 = 64;

const _: () = assert!(DASHBOARD_STREAMS_MAX < DESCRIPTORS_RESERVED / 2);

// ---- profiles ----

/// Seconds that a profile takes unless asked for otherwise, in the form for programs: what they themselves suppose.
pub const PROFILE_SECONDS_PPROF: u32 = 30;
/// The same of a flame graph, for which somebody sits and waits.
pub const PROFILE_SECONDS_FLAME_GRAPH: u32 = 10;
/// The most seconds; more are 400. One profile is taken at a time, and another one meanwhile is 503.
pub const PROFILE_SECONDS_MAX: u32 = 60;
/// Samples for a second of CPU time. No divisor of the kernel's 100, 250 or 1,000 Hz, with which it would run in step.
pub const PROFILE_HZ: u32 = 99;
/// The most; more are 400. A sample costs the thread that it looks at some 140 us: 3.5 % here, 1.4 % at 99.
pub const PROFILE_HZ_MAX: u32 = 250;
/// Share of all samples of the narrowest box that a flame graph shows: bounds how many stand in a row.
pub const FLAME_GRAPH_SHARE_MIN: f64 = 0.0005;

const _: () = assert!(PROFILE_SECONDS_PPROF <= PROFILE_SECONDS_MAX && PROFILE_HZ <= PROFILE_HZ_MAX);
const _: () = assert!(PROFILE_SECONDS_FLAME_GRAPH <= PROFILE_SECONDS_MAX);

// ---- the access log ----

/// Default of `ACCESS_LOG_SAMPLE`.
pub const ACCESS_LOG_SAMPLE_DEFAULT: u32 = 1_024;
/// A method in the access log. A longer one is taken for none.
pub const ACCESS_METHOD_BYTES_MAX: usize = 16;
/// Path and query in the access log. Of longer ones the rest is left out, and the record says so.
pub const ACCESS_TARGET_BYTES_MAX: usize = 128;
/// Records of a shard that wait to be written, some 250 bytes each. More are dropped and counted.
pub const ACCESS_RING_RECORDS: usize = 2_048;
/// How often the rings are emptied: a shard may pick 20,000 requests a second before it drops any.
pub const ACCESS_DRAIN_EVERY: Duration = Duration::from_millis(100);
/// Bytes of whole lines that are written at once: as many as a pipe takes without another process's in between
/// (`PIPE_BUF`), which may be the one that takes this one's place.
pub const ACCESS_WRITE_BYTES_MAX: usize = 4_096;
/// At the end of the process what waits is written in this time, or given up: whoever reads a pipe may have stopped.
pub const ACCESS_END_PATIENCE: Duration = Duration::from_secs(2);

// A line always fits a write: each byte of method and target may become six, the rest has some 300.
const _: () = assert!(6 * (ACCESS_METHOD_BYTES_MAX + ACCESS_TARGET_BYTES_MAX) + 512 < ACCESS_WRITE_BYTES_MAX);

// ---- shards ----

/// Read buffer of a busy connection. A batch that fills it goes through the shard's large one.
pub const BUSY_READ_BUFFER_BYTES: usize = 4 * 1024;
/// Connections of a shard that read into a buffer of their own. With many more the common one is cheaper.
pub const BUSY_CONNECTIONS_MAX: usize = 256;
/// Small buffers that a shard keeps for the next busy connection.
pub const BUSY_READ_BUFFERS_FREE_MAX: usize = 64;
/// Small batches in a row that make a connection busy.
pub const BUSY_AFTER_BATCHES: u32 = 2;
/// A busy connection that has been silent this long gives its buffer back.
pub const BUSY_SILENCE_MS: u64 = 1_000;
/// How often a shard looks at its clocks, deadlines and bounds.
pub const TICK_MS: u64 = 50;
/// Resolution of deadlines.
pub const WHEEL_SLOT_MS: u64 = 250;
/// Slots of the wheel; what is further away is looked at on the way.
pub const WHEEL_SLOTS: usize = 512;
/// Connections that one tick looks at; the rest is looked at by the next.
pub const SWEPT_PER_TICK: usize = 4096;
/// Connections taken from the listener before others have their turn.
pub const ACCEPTS_PER_ROUND: usize = 64;
/// Connections that one search at the connection bound finds: those that have been without a whole head longest.
pub const ROOM_CANDIDATES: usize = 64;
/// Wait after running out of descriptors or socket memory.
pub const EXHAUSTED_WAIT_MS: u64 = 10;
/// Connections that may wait to be taken, per listener; the system may allow less (`net.core.somaxconn`).
pub const LISTEN_BACKLOG: i32 = 4096;
/// Bytes that the kernel takes ahead of what the network does, per socket: 64 clients that never read hold 17 MB of
/// kernel memory with it and 264 MB without, at the same throughput.
pub const NOTSENT_LOWAT_BYTES: u32 = 128 * 1024;
/// Descriptors set aside for what is not a connection: listeners, store, log, signals.
pub const DESCRIPTORS_RESERVED: usize = 64;
/// Descriptors that the kernel's table has room for from the start: 1 MiB of its memory. With more it grows while serving.
pub const DESCRIPTOR_TABLE_MAX: u64 = 128 * 1024;
/// Shards that a process can have.
pub const SHARDS_MAX: usize = 1024;

// ---- limits of addresses and subjects ----

/// Purses of a shard: addresses and subjects that it keeps count of, some 150 bytes each. Beyond it newcomers share one.
pub const PURSES_MAX: usize = 65_536;
/// How often it is looked which purses can be forgotten.
pub const PURSES_FORGET_EVERY_MS: u64 = 1_000;
/// Connections that a shard looks up again in a tick when limits by address begin, end, or trust others, some microsecond each; more wait
/// for the next tick, and until then are limited as before. 40,000 of a shard take half a second.
pub const RENEWED_PER_TICK: usize = 4_096;
/// Default of `LIMIT_BURST_SECONDS`.
pub const LIMIT_BURST_SECONDS_DEFAULT: u32 = 5;
/// The most that a limit may be set to: with the longest burst its thousandths fit 63 bits by far.
pub const LIMIT_MAX_PER_SECOND: u32 = 10_000_000;
/// The longest burst that may be set.
pub const LIMIT_BURST_SECONDS_MAX: u32 = 400;

const _: () = assert!((LIMIT_MAX_PER_SECOND as u64) * (LIMIT_BURST_SECONDS_MAX as u64) < u32::MAX as u64);

// ---- process ----

/// Default of `REFRESH_MS`.
pub const REFRESH_MS_DEFAULT: u64 = 5;
/// Default of `SNAPSHOT_TODOS_MAX`.
pub const SNAPSHOT_TODOS_MAX_DEFAULT: u64 = 1_000_000;
/// The least that `SNAPSHOT_BYTES_MAX` may be set to.
pub const SNAPSHOT_BYTES_MIN: u64 = 128 * 1024;
/// Default of `SNAPSHOT_BYTES_MAX`.
pub const SNAPSHOT_BYTES_MAX_DEFAULT: u64 = 1024 * 1024 * 1024;
/// Default of `DRAIN_TIMEOUT_MS`.
pub const DRAIN_TIMEOUT_MS_DEFAULT: u64 = 10_000;
/// Payload of one frame between two processes. A longer one is a fault.
pub const HANDOVER_FRAME_BYTES_MAX: usize = 128 * 1024;
/// Descriptors of one frame; the kernel takes at most 253.
pub const HANDOVER_DESCRIPTORS_MAX: usize = 64;
/// A new process loads, and says so, in this time, or it is ended and the old one goes on.
pub const HANDOVER_LOAD_PATIENCE: Duration = Duration::from_secs(120);
/// In a cluster the new one's snapshot is as far as the old one's in this time from its start, or it says why not. Below the old one's
/// patience, which ends without a reason.
pub const HANDOVER_REACHED_WITHIN: Duration = Duration::from_secs(110);
/// A new process that cannot load since Postgres is away tries for so long, then the old one goes on: a blink is waited for,
/// and whoever asked for the upgrade hears the reason while still looking.
pub const HANDOVER_AWAY_PATIENCE: Duration = Duration::from_secs(5);
/// From the end of the old one's writes until the new one could serve. Then it is ended, and the old one goes on.
pub const HANDOVER_READY_PATIENCE: Duration = Duration::from_secs(20);
/// The new one lets all writes in so soon, or takes over without: in a cluster where nobody may write, or not to a partition.
pub const HANDOVER_WRITING_PATIENCE: Duration = Duration::from_secs(5);
/// The new one's snapshot reaches the positions that a connection has seen, or the connection is closed.
pub const HANDOVER_REACH_PATIENCE: Duration = Duration::from_secs(10);
/// `check` waits so long for the services of a cluster, for all of them at once.
pub const CHECK_PATIENCE: Duration = Duration::from_secs(5);
/// A line on the command socket.
pub const COMMAND_LINE_BYTES_MAX: u64 = 8 * 1024;
/// Time for it to come.
pub const COMMAND_PATIENCE: Duration = Duration::from_secs(2);
/// A write that has begun when the writes are handed to another process has so long to end; then it is answered 503.
pub const HANDOVER_SETTLE_MS: u64 = 500;
/// A port that a dying predecessor still holds is tried again for so long.
pub const PORT_RETRY_MS: u64 = 2_000;
/// A shorter HMAC key is weaker than the hash (RFC 7518 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

// A successor begins to load when it has checked itself, and its reason comes before the other side gives up.
const _: () = assert!(
    CHECK_PATIENCE.as_secs() + HANDOVER_AWAY_PATIENCE.as_secs() < HANDOVER_REACHED_WITHIN.as_secs()
        && HANDOVER_REACHED_WITHIN.as_secs() < HANDOVER_LOAD_PATIENCE.as_secs()
);
// What a connection leaves behind fits a frame: its address, one read, and a head that had begun before it.
const _: () = assert!(17 + READ_BUFFER_BYTES + REQUEST_HEAD_BYTES_MAX + 2 <= HANDOVER_FRAME_BYTES_MAX);
// The largest copied answer fits the accounting of one buffer, and a turn always fits one answer that is repeated.
const _: () = assert!(COPIED_BODY_BYTES_MAX < u32::MAX as usize && RUN_RESPONSE_BYTES_MAX < OUTPUT_BYTES_PER_TURN);
// A file is a small part of what its client may owe, and is never needed twice in one turn.
const _: () =
    assert!(FILE_WRITE_BYTES_MIN_DIRECT < FILE_WRITE_BYTES_MIN && FILE_WRITE_BYTES_MIN < OUTPUT_BYTES_PER_TURN);
// A kept response can be kept.
const _: () = assert!(COPIED_BODY_BYTES_MAX < READY_BYTES_MAX);
// What a sweep looks at late is late by a fraction of the shortest timeout.
const _: () = assert!(WHEEL_SLOT_MS + TICK_MS < 1_000 && WHEEL_SLOT_MS * WHEEL_SLOTS as u64 > 75_000);
// The Date is at most 100 ms behind the clock's second.
const _: () = assert!(TICK_MS <= 100);

// A window that is full of bytes has over half of them, whatever the next item would have had: it is not loaded again.
const _: () = assert!(SNAPSHOT_BYTES_MIN > 2 * todo_proto::limits::ITEM_JSON_BYTES_MAX as u64);

// ---- the snapshot's pages ----

/// JSON of one item. The largest todo has 63 KB (10,500 characters, each escaped to six bytes); the bound stands
/// wherever items enter a page, and a longer one there is our fault: the process ends.
pub const ITEM_JSON_BYTES_MAX: usize = 1024 * 1024;

/// Items of a page that is made by cutting a longer run. Small enough that one change copies little, large enough
/// that a list of a thousand is a handful of slices: pages of 128 made scattered changes a half dearer.
pub const PAGE_ITEMS: usize = 64;
/// A page with more items is cut.
pub const PAGE_ITEMS_MAX: usize = 96;
/// Neighbours that have no more items than this together become one page.
pub const PAGE_ITEMS_JOIN: usize = 48;

/// JSON bytes, commas included, of a page that is made by cutting a longer run.
pub const PAGE_BYTES: usize = 64 * 1024;
/// A page of two or more items that has more bytes is cut.
pub const PAGE_BYTES_MAX: usize = 96 * 1024;
/// Neighbours join only while they have no more bytes than this together.
pub const PAGE_BYTES_JOIN: usize = 48 * 1024;

/// Pages of a chunk that is made by cutting a longer run. One change copies the pointers of one chunk and of the list
/// of chunks: at a million items some 125 of each.
pub const CHUNK_PAGES: usize = 128;
/// A chunk with more pages is cut.
pub const CHUNK_PAGES_MAX: usize = 192;
/// Neighbours that have no more pages than this together become one chunk.
pub const CHUNK_PAGES_JOIN: usize = 96;

/// How far the window may outgrow its bound on items, in percent of it, before it is cut back to the bound: so that
/// not every create at the full window cuts.
pub const WINDOW_OVERSHOOT_PERCENT: u64 = 5;

// A page and the item that overfills it fit the 32-bit ends of a page.
const _: () = assert!(PAGE_BYTES_MAX + ITEM_JSON_BYTES_MAX < u32::MAX as usize);
// What was just joined is far from being cut, and what was just cut is far from being joined.
const _: () = assert!(PAGE_ITEMS_JOIN < PAGE_ITEMS && PAGE_ITEMS < PAGE_ITEMS_MAX);
const _: () = assert!(PAGE_BYTES_JOIN < PAGE_BYTES && PAGE_BYTES < PAGE_BYTES_MAX);
const _: () = assert!(CHUNK_PAGES_JOIN < CHUNK_PAGES && CHUNK_PAGES < CHUNK_PAGES_MAX);

/// Connections to the store for reads below the floor.
pub const STORE_READERS: usize = 2;

// ---- following a store in another process ----

/// How often the store is looked at. A position that one look sees and that is not reached by the next is repaired, so a
/// lost message costs at most two of these and a repair.
pub const LOOK_EVERY: Duration = Duration::from_millis(400);
/// How often the store is looked at while no messages come.
pub const LOOK_EVERY_UNHEARD: Duration = Duration::from_millis(250);
/// Shortest time between two looks, however often messages go missing.
pub const LOOK_APART_MIN: Duration = Duration::from_millis(50);
/// How long the first load waits for the word that messages come. Redis is never waited for longer.
pub const SUBSCRIBE_WAIT: Duration = Duration::from_secs(2);
/// Pause before a load that has failed is tried again.
pub const LOAD_RETRY: Duration = Duration::from_secs(1);
/// Bytes of messages kept while the store is loaded. More are dropped: what they said is repaired.
pub const LOADING_MESSAGES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of changes that came in pieces and are not complete. More are dropped: what they said is repaired. The largest
/// batch has some 24 MB: 4 MB of rows, each character as the longest escape.
pub const PIECES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Looks whose positions the snapshot has not reached, of which the age of the data is measured. Of more the newest go.
pub const AWAITED_LOOKS_MAX: usize = 16;

/// How far this machine's clock may be off the store's. Beyond it writes are refused.
pub const CLOCK_OFF_MS_MAX: u64 = 60_000;
/// How far a partition may be behind, and how long ago the store may have been seen (`LAG_MAX`). Beyond it writes are refused:
/// a create that waits longer could be taken for too old.
pub const LAG_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// How far a partition's `caught_up_at` may be ahead of the store's clock, which has been set back then. Beyond it writes are
/// refused: their ids could be too old already.
pub const AHEAD_MS_MAX: u64 = 30 * 60 * 1000;
/// How often it is looked whether writes may be taken, beside every look at the store.
pub const GATE_EVERY: Duration = Duration::from_secs(1);

/// How often it is tried at start to find the store.
pub const STORE_WAIT_RETRY: Duration = Duration::from_millis(500);
/// How often a line says that the store is waited for.
pub const STORE_WAIT_LOG_EVERY: Duration = Duration::from_secs(5);
/// Connections to the store of one server of a cluster: those for reads below the floor, one that loads, one that looks and
/// repairs, and one to spare while one is being replaced.
pub const STORE_CONNECTIONS_MAX: usize = STORE_READERS + 3;

// What is taken at the last moment, by the slowest clock, is not too old when it is applied.
const _: () = assert!(LAG_MS_MAX + AHEAD_MS_MAX + CLOCK_OFF_MS_MAX < todo_proto::limits::RETRY_WINDOW_MS);

// A lost message costs at most one second while the store answers.
const _: () = assert!(2 * LOOK_EVERY.as_millis() < 1_000);

// ---- export and seed ----

/// Bytes of lines that an export gathers before it writes them.
pub const EXPORT_BUFFER_BYTES: usize = 256 * 1024;
/// Bytes of a line that is imported. The longest todo has 63 KB; a longer line is refused.
pub const IMPORT_LINE_BYTES_MAX: usize = 128 * 1024;
/// Commands of a seeding that wait for Kafka.
pub const SEED_IN_FLIGHT_MAX: usize = 20_000;
/// A seeding of which Kafka takes nothing for so long is given up.
pub const SEED_PATIENCE: Duration = Duration::from_secs(60);
/// Pause before refused commands are appended again, and between looks at what is applied.
pub const SEED_RETRY_PAUSE: Duration = Duration::from_millis(200);

const _: () = assert!(IMPORT_LINE_BYTES_MAX > todo_proto::limits::ITEM_JSON_BYTES_MAX + 64);
