//! Everything a peer can make grow, and everything that waits for one, with what happens at the bound.

use std::time::Duration;

/// Request line plus fields, through the empty line. A longer head is answered 431, a longer request
/// line 414, and the connection closes.
pub const REQUEST_HEAD_BYTES_MAX: usize = 8 * 1024;
/// Field lines of one head. More are answered 431 and the connection closes.
pub const REQUEST_FIELDS_MAX: usize = 64;
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

/// From the first byte of a head to its empty line, in all and not per read. Then 408 and close.
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
// A chunk size fits a `u64` without a check per digit.
const _: () = assert!(CHUNK_SIZE_DIGITS_MAX <= 16);
// A body that is accepted is also one that can be drained, so one bound decides both.
const _: () = assert!(REQUEST_BODY_BYTES_MAX <= DRAIN_BODY_BYTES_MAX);
// Who sends its whole legal body behind a refused request gets that answer before the end of the linger.
const _: () = assert!(REQUEST_BODY_BYTES_MAX < LINGER_BYTES_MAX);
// A token of the largest size can arrive at all.
const _: () = assert!(TOKEN_BYTES_MAX + TOKEN_SUBJECT_BYTES_MAX < REQUEST_HEAD_BYTES_MAX);
