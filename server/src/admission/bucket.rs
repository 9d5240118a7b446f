//! A bucket of tokens that come back with time: whole numbers of thousandths, so that nothing drifts.

/// Thousandths of a token: what one token a second brings in a millisecond.
const PARTS: i64 = 1_000;

/// What is left to somebody. May be below zero: a debt, paid before anything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// At most `burst * PARTS`.
    parts: i64,
    /// As of this tick.
    as_of_ms: u64,
}

impl Bucket {
    /// One that holds `tokens` at `now_ms`.
    pub fn with(tokens: i64, now_ms: u64) -> Bucket {
        Bucket { parts: tokens * PARTS, as_of_ms: now_ms }
    }

    /// Adds what has come back until `now_ms`, `per_second` tokens a second and never above `burst`. A time that has passed
    /// already changes nothing.
    pub fn refill(&mut self, per_second: u32, burst: u32, now_ms: u64) {
        let passed_ms = i64::try_from(now_ms.saturating_sub(self.as_of_ms)).unwrap_or(i64::MAX);
        self.as_of_ms = self.as_of_ms.max(now_ms);
        let refilled = passed_ms.saturating_mul(i64::from(per_second));
        self.parts = self.parts.saturating_add(refilled).min(i64::from(burst) * PARTS);
    }

    /// Takes `tokens` out, whether they are there or not; below 0 they come back in. The next refill keeps the bound.
    pub fn take(&mut self, tokens: i64) {
        self.parts -= tokens * PARTS;
    }

    /// Takes out what was spent under limits that are no longer in force: what is there, and makes no debt of the rest.
    pub fn take_past(&mut self, tokens: i64) {
        self.parts = (self.parts - tokens * PARTS).max(self.parts.min(0));
    }

    /// Whole tokens in it, rounded down.
    pub fn tokens(&self) -> i64 {
        self.parts.div_euclid(PARTS)
    }

    /// Whether nothing is missing.
    pub fn is_full(&self, burst: u32) -> bool {
        self.parts >= i64::from(burst) * PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_with_time() {
        // Name, tokens at 1,000 ms, rate, burst, then steps: a tick, what is taken after the refill, what is left.
        type Step = (u64, i64, i64);
        let table: &[(&str, i64, u32, u32, &[Step])] = &[
            ("full stays full", 10, 5, 10, &[(1_000, 0, 10), (9_000, 0, 10)]),
            ("one a second", 0, 1, 10, &[(1_999, 0, 0), (2_000, 0, 1), (4_500, 0, 3), (5_000, 4, 0)]),
            ("a thousand a second", 0, 1_000, 5_000, &[(1_001, 1, 0), (1_003, 0, 2), (1_053, 52, 0)]),
            ("parts are kept", 0, 3, 9, &[(1_333, 0, 0), (1_334, 1, 0), (1_667, 0, 1), (2_000, 0, 2)]),
            ("a debt is paid first", 2, 2, 4, &[(1_000, 5, -3), (2_000, 0, -1), (2_499, 0, -1), (2_500, 0, 0)]),
            ("what was spent comes back", 3, 0, 3, &[(1_000, 2, 1), (90_000, -1, 2), (91_000, -1, 3), (92_000, 0, 3)]),
            ("time does not go back", 0, 10, 10, &[(1_500, 0, 5), (1_200, 0, 5), (1_500, 0, 5), (1_600, 0, 6)]),
            ("never above the burst", 0, u32::MAX, u32::MAX, &[(u64::MAX, 1, i64::from(u32::MAX) - 1)]),
        ];
        for (name, tokens, per_second, burst, steps) in table {
            let mut bucket = Bucket::with(*tokens, 1_000);
            for (at_ms, taken, left) in *steps {
                bucket.refill(*per_second, *burst, *at_ms);
                bucket.take(*taken);
                assert_eq!(bucket.tokens(), *left, "{name}, at {at_ms}");
                assert_eq!(bucket.is_full(*burst), *left == i64::from(*burst), "{name}, at {at_ms}");
            }
        }
    }

    #[test]
    fn what_was_spent_under_other_limits_makes_no_debt() {
        for (tokens, past, left) in [(10, 0, 10), (10, 4, 6), (10, 10, 0), (10, 3_000, 0), (0, 1, 0), (-5, 3, -5)] {
            let mut bucket = Bucket::with(tokens, 0);
            bucket.take_past(past);
            assert_eq!(bucket.tokens(), left, "{tokens} less {past}");
        }
    }

    #[test]
    fn many_small_steps_are_one_large_one() {
        for per_second in [1, 3, 7, 999, 1_001, 123_457] {
            let (mut often, mut once) = (Bucket::with(0, 0), Bucket::with(0, 0));
            for at_ms in 1..=20_011 {
                often.refill(per_second, u32::MAX, at_ms);
            }
            once.refill(per_second, u32::MAX, 20_011);
            assert_eq!(often, once, "{per_second} a second");
            assert_eq!(once.tokens(), i64::from(per_second) * 20_011 / 1_000);
        }
    }
}
