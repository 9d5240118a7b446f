//! The clocks of the process; everything else is given its times.

#![expect(clippy::disallowed_methods, reason = "the one place that asks the system")]

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::shard::Clocks;

/// Those of a process of its own.
pub const CLOCKS: Clocks = Clocks { tick_us, wall_ms, write_ms: wall_ms };
/// Those of a server in a cluster: writes go by the store's.
pub const CLUSTER_CLOCKS: Clocks = Clocks { tick_us, wall_ms, write_ms: store_ms };

/// How far the store's clock is ahead of the ticks, in milliseconds; `i64::MIN` before the store was seen.
static STORE_AHEAD_OF_TICKS_MS: AtomicI64 = AtomicI64::new(i64::MIN);

/// Monotonic microseconds since the first call.
pub fn tick_us() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_micros() as u64
}

/// Unix milliseconds; 0 for a clock that stands before 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The store's clock in Unix milliseconds, as it was last seen and the ticks since; this machine's before that.
pub fn store_ms() -> u64 {
    match STORE_AHEAD_OF_TICKS_MS.load(Relaxed) {
        i64::MIN => wall_ms(),
        ahead_ms => (tick_us() / 1_000).saturating_add_signed(ahead_ms),
    }
}

/// The store's clock shows `now_ms` just now.
pub fn set_store_ms(now_ms: u64) {
    STORE_AHEAD_OF_TICKS_MS.store(now_ms.cast_signed() - (tick_us() / 1_000).cast_signed(), Relaxed);
}
