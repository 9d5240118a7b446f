//! Every bound of the bench, with what happens when it is passed.

use std::time::Duration;

/// One read of a generator thread. Holds a whole block of 80 answers of ten todos, so that a block costs one call.
pub const RECEIVE_BYTES: usize = 256 * 1024;
/// From this body size on the generator lets the kernel drop the body (`MSG_TRUNC`) instead of copying it out.
/// Below it the extra call per response comes near the cost of the copy. Generator CPU per answer with and without, a
/// sendfile floor on the other core: 180 KB 18 and 87 us, 20 KB at depth 16 2.6 and 8.6 us.
pub const DISCARD_BYTES_MIN: usize = 16 * 1024;
/// Bytes dropped by one call.
pub const DISCARD_BYTES_MAX: usize = 1024 * 1024;
/// What is asked for where a head is expected and its body will be dropped.
pub const HEAD_READ_BYTES: usize = 2 * 1024;
/// A longer response head is a fault of the server.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 8 * 1024;
/// A longer answer to a single request (capture, metrics, ready) is a fault.
pub const SINGLE_RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The front of a body that an observer of lists looks at: the newest todo's id and title.
pub const BODY_FRONT_BYTES: usize = 160;
/// Readiness events taken by one wait.
pub const EVENTS_PER_WAIT: usize = 512;
/// Requests in one block of one connection. More is refused at start-up.
pub const DEPTH_MAX: usize = 4_096;
/// How long answers may still arrive after the last request; what is missing then is counted as an error.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest wait of a generator turn, so that deadlines are seen when no answer comes.
pub const TURN_TIMEOUT: Duration = Duration::from_millis(2);
/// Latencies above are recorded as this.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;
/// Values that stand for all requests of an open loop that were due and never left.
pub const NEVER_SENT_VALUES_MAX: u64 = 10_000;

/// A connection that is opened again while a load runs. Passed: it is counted as a fault.
pub const RECONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Before a connection that answered nothing is opened again, so that a server which closes at once is not flooded.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How often connections that are being opened are looked at.
pub const RECONNECT_LOOK: Duration = Duration::from_millis(20);
/// Header fields of one response. More is a fault of the server.
pub const RESPONSE_HEADERS_MAX: usize = 100;
/// The line in front of a chunk, extensions included. A longer one is a fault of the server.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// A longer body is counted and not parsed.
pub const CHECKED_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The front of a list in which its first object must end for its id to be compared.
pub const FIRST_OBJECT_BYTES_MAX: usize = 16 * 1024;
/// A file of headers or a mix. A longer one is refused.
pub const INPUT_FILE_BYTES_MAX: usize = 1024 * 1024;
/// The body of one request. A longer one is refused.
pub const REQUEST_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What one connection may have to send at once: depth times the largest request. More is refused.
pub const BLOCK_BYTES_MAX: usize = 256 * 1024 * 1024;
/// What all connections of mixed requests together may have to send at once: each has its own copy. More is refused.
pub const BLOCKS_BYTES_MAX: usize = 4 * 1024 * 1024 * 1024;
/// Requests in a mix. More is refused.
pub const MIX_REQUESTS_MAX: usize = 256;
/// The weight of one of them.
pub const MIX_WEIGHT_MAX: u32 = 1_000_000;
/// Slow readers. More is refused.
pub const SLOW_READERS_MAX: usize = 10_000;
/// Clients that take a byte a second. More is refused.
pub const DRIP_CLIENTS_MAX: usize = 1_000;
/// Between two bytes that such a client takes.
pub const DRIP_BYTE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two reads of a slow reader.
pub const SLOW_READ_INTERVAL: Duration = Duration::from_millis(50);
/// A slow reader's receive buffer, so that the answers wait in the server and not here. The kernel doubles it.
pub const SLOW_RECEIVE_BYTES: usize = 4 * 1024;
/// The connect of a slow reader that is opened again; the end of a run waits for one of them at most.
pub const SLOW_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two looks of an attack at what is due.
pub const ATTACK_TICK: Duration = Duration::from_millis(1);
/// Steps of an attack that are made up for after a pause: those of so long. What was due before is left out.
pub const ATTACK_BEHIND_MAX: Duration = Duration::from_millis(5);
/// From the beginning of the others' load to that of the attack: they are connected by then.
pub const ATTACK_AFTER: Duration = Duration::from_millis(200);
/// How long it is waited for a server to be as before an attack. Passed: it has not recovered.
pub const RECOVERY_PATIENCE: Duration = Duration::from_secs(15);
/// The window of others by which recovery is told: at 5,000 reads a second, 500 of them.
pub const RECOVERY_WINDOW: Duration = Duration::from_millis(100);
/// Between two looks at the server's memory while it is attacked.
pub const ATTACK_LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two newcomers: connections for one request.
pub const NEWCOMER_EVERY: Duration = Duration::from_millis(20);
/// A newcomer that is not answered in this time was turned away.
pub const NEWCOMER_PATIENCE: Duration = Duration::from_secs(2);
/// Rounds of one attack, whatever is asked for.
pub const ATTACK_ROUNDS_MAX: usize = 100;

/// A floor's run of response copies. One response that is larger is the run.
pub const RUN_BYTES_MAX: usize = 256 * 1024;
/// The epoll floor's one read buffer.
pub const FLOOR_SHARED_READ_BYTES: usize = 64 * 1024;
/// Each connection's read buffer in the ring floor: 80 requests of a plain client are 5 KB.
pub const FLOOR_OWN_READ_BYTES: usize = 16 * 1024;
/// Connections a floor serves at once; the next is closed at once and counted.
pub const FLOOR_CONNECTIONS_MAX: usize = 8_192;
/// Accept queue of a floor: a burst of 2,000 connects must fit.
pub const FLOOR_BACKLOG: i32 = 4_096;
/// Bytes that wait unsent in a floor's socket, as in the server (LIMITS of `TCP_NOTSENT_LOWAT` there).
pub const FLOOR_NOTSENT_BYTES: u32 = 128 * 1024;
/// Submission queue of the ring floor: one operation of each of 2,000 connections fits in one round.
pub const FLOOR_RING_ENTRIES: u32 = 4_096;

/// From start to the first good answer, seeding included. Passed: the run ends with the child's last words.
pub const START_TIMEOUT: Duration = Duration::from_secs(60);
/// From SIGTERM to SIGKILL.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Connect, send or receive of a single request.
pub const SINGLE_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Resamples behind a 95 % interval.
pub const BOOTSTRAP_RESAMPLES: usize = 4_000;
/// Requests per read of a pair may differ by this share; beyond it the pair is not comparable.
pub const REQUESTS_PER_READ_TOLERANCE: f64 = 0.05;
/// A floor that spends a larger share of its CPU in user space is not a floor.
pub const FLOOR_USER_SHARE_MAX: f64 = 0.05;
/// A core this busy is the limit of a throughput figure.
pub const CORE_BUSY_MIN: f64 = 0.97;
/// Rounds of one cell, whatever is asked for.
pub const ROUNDS_MAX: usize = 1_000;

/// The share of the generator's core that reads and writes may use while ages are taken.
pub const AGE_GENERATOR_BUSY_MAX: f64 = 0.70;
/// What reads and writes leave idle of the machine's CPUs while ages are taken, in cores: less, and the age is the
/// scheduler's.
pub const AGE_IDLE_CORES_MIN: f64 = 0.33;
/// Windows spent on finding the read rate that keeps to it.
pub const AGE_CALIBRATIONS_MAX: usize = 8;
/// A deleted todo is at least so many creates old: the newest id that a list shows never goes back by a delete.
pub const DELETE_DISTANCE_TODOS: usize = 2_000;
/// Writes recorded by one run; the writer stops there.
pub const WRITES_MAX: usize = 20_000_000;

/// The shortest todo: `{"id":1,"title":"a","completed":false}`. Less for each is a contradiction of an audit.
pub const AUDIT_TODO_BYTES_MIN: f64 = 38.0;
/// The shortest head: `HTTP/1.1 200 OK`, a `Content-Length` of three digits, and the empty line.
pub const AUDIT_HEAD_BYTES_MIN: f64 = 40.0;
/// A head longer than this is not expected around a body of a known length.
pub const AUDIT_HEAD_BYTES_MAX: f64 = 1_024.0;

const _: () = assert!(HEAD_READ_BYTES < RESPONSE_HEAD_BYTES_MAX);
const _: () = assert!(HEAD_READ_BYTES < DISCARD_BYTES_MIN);
const _: () = assert!(RESPONSE_HEAD_BYTES_MAX < RECEIVE_BYTES);
const _: () = assert!(CHUNK_LINE_BYTES_MAX < RESPONSE_HEAD_BYTES_MAX);
const _: () = assert!(FIRST_OBJECT_BYTES_MAX < CHECKED_BODY_BYTES_MAX);
const _: () = assert!(REQUEST_BODY_BYTES_MAX < BLOCK_BYTES_MAX);
const _: () = assert!(BLOCK_BYTES_MAX < BLOCKS_BYTES_MAX);
const _: () = assert!(FLOOR_CONNECTIONS_MAX * FLOOR_OWN_READ_BYTES <= 128 * 1024 * 1024);
