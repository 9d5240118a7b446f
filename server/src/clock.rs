//! The two clocks of the process; everything else is given its times.

#![expect(clippy::disallowed_methods, reason = "the one place that asks the system")]

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::shard::Clocks;

/// The real ones.
pub const CLOCKS: Clocks = Clocks { tick_us, wall_ms };

/// Monotonic microseconds since the first call.
pub fn tick_us() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_micros() as u64
}

/// Unix milliseconds; 0 for a clock that stands before 1970.
pub fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
