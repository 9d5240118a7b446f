//! Errors that come again and again are logged once a second, with how often they came.

/// Lets one of a kind through per second.
#[derive(Debug, Default)]
pub struct Repeated {
    last_ms: Option<u64>,
    held_back: u64,
}

impl Repeated {
    /// It has happened at `now_ms`, on any clock that does not go back. The number of times it stands for when it is to
    /// be logged.
    pub fn occurred(&mut self, now_ms: u64) -> Option<u64> {
        self.held_back += 1;
        if self.last_ms.is_some_and(|last_ms| now_ms < last_ms + 1_000) {
            return None;
        }
        self.last_ms = Some(now_ms);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_with_its_count() {
        let mut repeated = Repeated::default();
        let at = [(0, Some(1)), (1, None), (999, None), (1_000, Some(3)), (1_500, None), (9_000, Some(2))];
        for (now_ms, expected) in at {
            assert_eq!(repeated.occurred(now_ms), expected, "at {now_ms} ms");
        }
    }
}
