//! A look into bodies: every so many-th one must be JSON.

use crate::limits::SINGLE_RESPONSE_BYTES_MAX;
use crate::scan::Bodies;

/// Parses every n-th body, and counts those that are no JSON.
pub struct JsonCheck {
    every: u64,
    seen: u64,
    /// Of each connection: a body may come in several reads, others' in between.
    open: Vec<Vec<u8>>,
    selected: usize,
    /// Bodies that were parsed.
    pub checked: u64,
    /// Of them, those that were not JSON.
    pub broken: u64,
    /// Why the first of those was not.
    pub first: Option<String>,
}

impl JsonCheck {
    /// Looks at every `every`-th body, from 1 on, of so many connections.
    pub fn new(every: u64, connections_count: usize) -> JsonCheck {
        JsonCheck {
            every: every.max(1),
            seen: 0,
            open: vec![Vec::new(); connections_count],
            selected: 0,
            checked: 0,
            broken: 0,
            first: None,
        }
    }
}

impl Bodies for JsonCheck {
    const WANTED: bool = true;

    fn select(&mut self, connection_index: usize, _sent_ns: u64) {
        self.selected = connection_index;
    }

    fn fragment(&mut self, bytes: &[u8]) {
        let open = &mut self.open[self.selected];
        if open.len() + bytes.len() <= SINGLE_RESPONSE_BYTES_MAX {
            open.extend_from_slice(bytes);
        }
    }

    fn end(&mut self) {
        self.seen += 1;
        let body = &mut self.open[self.selected];
        if self.seen.is_multiple_of(self.every) {
            self.checked += 1;
            if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(body) {
                self.broken += 1;
                self.first.get_or_insert_with(|| error.to_string());
            }
        }
        body.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_so_many_th_body_is_parsed() {
        let mut check = JsonCheck::new(3, 2);
        for (connection_index, body) in [(0, "[1"), (1, "{"), (0, "[]"), (1, "[1,"), (0, "x"), (1, "{\"a\":1}")] {
            check.select(connection_index, 1);
            check.fragment(body.as_bytes());
            if connection_index == 0 && body == "[1" {
                // The rest comes when the other has had its turn.
                continue;
            }
            check.end();
        }
        // Ends: "{", "[1[]", "[1,", "x", "{...}": the third is looked at.
        assert_eq!((check.checked, check.broken), (1, 1), "{:?}", check.first);
    }
}
