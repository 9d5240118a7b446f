//! Every bound of this crate, with what happens when it is passed.

/// Characters (Unicode scalar values) of a title, at least one. A longer one is refused.
pub const TITLE_CHARACTERS_MAX: usize = 500;
/// Characters of a description; none is fine. A longer one is refused.
pub const DESCRIPTION_CHARACTERS_MAX: usize = 10_000;
/// Arrays and objects inside each other in a request body, the outermost counted. A deeper body is refused.
pub const JSON_DEPTH_MAX: usize = 32;

/// The `sub` of a token, in bytes. Whoever accepts a token refuses a longer one.
pub const SUBJECT_BYTES_MAX: usize = 4 * 1024;
/// An encoded record. A longer one cannot be decoded.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// One item's JSON, in bytes: fixed parts, and each character as the longest escape, `\u001f`.
pub const ITEM_JSON_BYTES_MAX: usize = 200 + 6 * (TITLE_CHARACTERS_MAX + DESCRIPTION_CHARACTERS_MAX);

/// Commands that one fold takes, so in one transaction. The rest waits for the next.
pub const FOLD_COMMANDS_MAX: usize = 2_000;
/// Bytes of rows that one fold makes, give or take the last row; the rest waits for the next. Without it two thousand
/// small patches of large todos would be one transaction of some 80 MB.
pub const FOLD_ROW_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An encoded message of changes. What is larger goes in pieces; a longer one is not read. Redis cuts *every* subscriber off,
/// the fast ones too, when one message passes its output bound (32 MB as installed).
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Age of an id after which a POST under it is refused and its tombstone may go, measured against the partition's
/// `caught_up_at`: the 24 h in which an `Idempotency-Key` is taken, and an hour for what is on its way.
pub const RETRY_WINDOW_MS: u64 = 25 * 60 * 60 * 1000;

// Texts are stored with two bytes of length, and the longest record holds the longest texts.
const TEXTS_BYTES_MAX: usize = 4 * (TITLE_CHARACTERS_MAX + DESCRIPTION_CHARACTERS_MAX);
const _: () = assert!(4 * DESCRIPTION_CHARACTERS_MAX <= u16::MAX as usize);
const _: () = assert!(200 + SUBJECT_BYTES_MAX + TEXTS_BYTES_MAX <= RECORD_BYTES_MAX);
// One row alone always fits a fold.
const _: () = assert!(ITEM_JSON_BYTES_MAX < FOLD_ROW_BYTES_MAX);
