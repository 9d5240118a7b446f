//! The `Idempotency-Key` of a POST: the id of the todo to be, chosen by the client.

use todo_proto::id::ItemId;

use super::reject::Reject;
use crate::limits::{IDEMPOTENCY_KEY_AHEAD_MS_MAX, IDEMPOTENCY_KEY_BEHIND_MS_MAX};

/// Reads the field's value, a `UUIDv7` bare or in double quotes, at a Unix time in milliseconds.
///
/// # Errors
/// [`Reject::IdempotencyKeyInvalid`] for anything else, [`Reject::IdempotencyKeyTime`] where its time is
/// over 24 h behind or over 60 s ahead.
pub fn key(value: &[u8], now_unix_ms: u64) -> Result<ItemId, Reject> {
    let bare = match value {
        [b'"', inside @ .., b'"'] => inside,
        bare => bare,
    };
    let id = ItemId::parse(bare).ok_or(Reject::IdempotencyKeyInvalid)?;
    let oldest = now_unix_ms.saturating_sub(IDEMPOTENCY_KEY_BEHIND_MS_MAX);
    let newest = now_unix_ms.saturating_add(IDEMPOTENCY_KEY_AHEAD_MS_MAX);
    if (oldest..=newest).contains(&id.time_ms()) { Ok(id) } else { Err(Reject::IdempotencyKeyTime) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    const KEY_MS: u64 = 0x0189_0a5d_ac96;
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;

    fn check(value: &str, now_unix_ms: u64, expected: Result<(), Reject>) {
        let expected = expected.map(|()| ItemId::parse(KEY.as_bytes()).unwrap());
        assert_eq!(key(value.as_bytes(), now_unix_ms), expected, "{value} at {now_unix_ms}");
    }

    #[test]
    fn keys() {
        let quoted = format!("\"{KEY}\"");
        check(KEY, KEY_MS, Ok(()));
        check(&quoted, KEY_MS, Ok(()));
        check(&KEY.to_uppercase(), KEY_MS, Ok(()));
        check(KEY, KEY_MS + DAY_MS, Ok(()));
        check(KEY, KEY_MS + DAY_MS + 1, Err(Reject::IdempotencyKeyTime));
        check(KEY, KEY_MS - 60_000, Ok(()));
        check(KEY, KEY_MS - 60_001, Err(Reject::IdempotencyKeyTime));
        check(KEY, 0, Err(Reject::IdempotencyKeyTime));
        check(KEY, u64::MAX, Err(Reject::IdempotencyKeyTime));
        for invalid in ["", "\"", "\"\"", &quoted[1..], &quoted[..37], "01890a5d-ac96-474b-bcce-b302099a8057", "abc"] {
            check(invalid, KEY_MS, Err(Reject::IdempotencyKeyInvalid));
        }
    }
}
