//! Heads that this shard has fully parsed before: equal bytes cannot mean anything else, so they need no second parse.
//!
//! Only plain heads are kept (`Head::is_plain`): no body, no credentials, no condition, HTTP/1.1 kept alive. Kept is
//! what the bytes *ask*, never the answer; that is looked up anew, so a newer snapshot is seen. A comparison covers the
//! whole head through its empty line, so nothing that the parser would refuse can pass here.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::limits::KNOWN_HEADS_MAX;
use crate::snapshot::response::Query;

/// Names an entry of [`KnownHeads`]; a stale one only costs the comparison that then fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownIndex(u8);

const _: () = assert!(KNOWN_HEADS_MAX <= u8::MAX as usize);

/// One remembered head.
pub struct KnownHead {
    bytes: Box<[u8]>,
    hash: u64,
    /// What it asks for.
    pub query: Query,
    /// Where the shard's ready-made response to it was last found; a hint, checked on use.
    pub response_hint: u16,
}

impl KnownHead {
    /// How many times in a row, at most `times_max`, `input` begins with exactly this head.
    pub fn repeats(&self, input: &[u8], times_max: usize) -> usize {
        input.chunks_exact(self.bytes.len()).take(times_max).take_while(|bytes| **bytes == *self.bytes).count()
    }

    /// The head, its empty line included.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of the head, the empty line included.
    pub fn head_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// The table of one shard.
#[derive(Default)]
pub struct KnownHeads {
    entries: Vec<KnownHead>,
    /// Whom the next newcomer replaces when the table is full: round robin, a head in use comes back by itself.
    next_victim: usize,
}

impl KnownHeads {
    /// The entry that a connection used last, if it is still there.
    pub fn get_mut(&mut self, index: Option<KnownIndex>) -> Option<&mut KnownHead> {
        self.entries.get_mut(usize::from(index?.0))
    }

    /// The same, to look at its bytes.
    pub fn get(&self, index: Option<KnownIndex>) -> Option<&KnownHead> {
        self.entries.get(usize::from(index?.0))
    }

    /// Finds the entry of `head`, whose [`hash`] is `hash`.
    pub fn find(&self, head: &[u8], hash: u64) -> Option<KnownIndex> {
        let at = self.entries.iter().position(|entry| entry.hash == hash && *entry.bytes == *head)?;
        Some(KnownIndex(at as u8))
    }

    /// Remembers a plain head that the parser accepted and the router understood.
    pub fn remember(&mut self, head: &[u8], hash: u64, query: Query) -> KnownIndex {
        let entry = KnownHead { bytes: head.into(), hash, query, response_hint: 0 };
        if self.entries.len() < KNOWN_HEADS_MAX {
            self.entries.push(entry);
            return KnownIndex((self.entries.len() - 1) as u8);
        }
        let at = self.next_victim;
        self.next_victim = (at + 1) % KNOWN_HEADS_MAX;
        self.entries[at] = entry;
        KnownIndex(at as u8)
    }

    /// Forgets everything: the settings that routing depends on have changed.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.next_victim = 0;
    }
}

/// Tells heads apart cheaply; what it lets through is compared byte for byte.
pub fn hash(head: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(head);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(limit: u32) -> Query {
        Query::List { limit, after: None }
    }

    #[test]
    fn only_whole_equal_heads_repeat() {
        let head = b"GET /todos?limit=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut heads = KnownHeads::default();
        let index = heads.remember(head, hash(head), query(1));
        let known = heads.get_mut(Some(index)).expect("it was just put there");
        let twice = [&head[..], &head[..]].concat();
        assert_eq!(known.repeats(&twice, 80), 2);
        assert_eq!(known.repeats(&twice, 1), 1);
        assert_eq!(known.repeats(&twice[..twice.len() - 1], 80), 1);
        assert_eq!(known.repeats(&head[..head.len() - 1], 80), 0);
        for at in 0..head.len() {
            let mut other = head.to_vec();
            other[at] ^= 1;
            assert_eq!(known.repeats(&other, 80), 0, "byte {at} differs");
        }
    }

    #[test]
    fn a_full_table_replaces_in_turn() {
        let mut heads = KnownHeads::default();
        let names: Vec<Vec<u8>> = (0..=KNOWN_HEADS_MAX).map(|n| format!("GET /todos?limit={n}").into_bytes()).collect();
        for (limit, name) in names.iter().enumerate() {
            heads.remember(name, hash(name), query(limit as u32));
        }
        assert_eq!(heads.find(&names[0], hash(&names[0])), None, "the first made room");
        for name in &names[1..] {
            assert!(heads.find(name, hash(name)).is_some());
        }
        heads.clear();
        assert_eq!(heads.find(&names[1], hash(&names[1])), None);
    }
}
