//! Ready-made responses of one shard: head and body in one buffer, small ones repeated back to back as a *run*.
//!
//! What was asked for twice within a second is kept. A kept response is remade when it is asked for after its slice, or
//! the second of its Date, has changed; never by a timer, so nothing is rebuilt that nobody wants. How often a run
//! repeats its response follows from how many were wanted at once: a client at depth 1 costs one copy, not eighty.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use todo_proto::id::ItemId;

use crate::http::date::HttpDate;
use crate::http::output::{Buffer, Pool};
use crate::http::reply::{Fields, Form, varies, write_head};
use crate::limits::{
    COPIED_BODY_BYTES_MAX, OUTPUT_BYTES_PER_TURN, READY_BYTES_MAX, READY_RESPONSES_MAX, REPLY_HEAD_BYTES_MAX,
    RUN_RESPONSE_BYTES_MAX, WANTED_QUERIES_MAX,
};
use crate::snapshot::{Slice, Snapshot};

/// Media type of lists and items.
pub const JSON: &str = "application/json";

/// A read that memory may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Query {
    /// The first `limit` items after `after`, or of all.
    List {
        /// At least 1.
        limit: u32,
        /// Exclusive.
        after: Option<ItemId>,
    },
    /// One item.
    Item(ItemId),
}

/// What a snapshot has for a [`Query`].
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// All that the query asks for.
    Whole(Slice),
    /// A list that goes on below the window: what memory has of it, down to the floor.
    Short(Slice),
    /// Only the store can answer.
    Below,
    /// There is no such item.
    Absent,
}

/// Looks `query` up. At or above the floor memory alone answers, below it the store alone.
pub fn find(snapshot: &Snapshot, query: Query) -> Found {
    let everything = snapshot.floor() == ItemId::ZERO;
    match query {
        Query::Item(id) if everything || id >= snapshot.floor() => {
            snapshot.item(id).map_or(Found::Absent, Found::Whole)
        }
        Query::Item(_) => Found::Below,
        Query::List { limit, after } => {
            let slice = match after {
                None => snapshot.first(limit),
                Some(id) => snapshot.after(id, limit),
            };
            match slice.items_count() {
                count if everything || count == limit => Found::Whole(slice),
                0 => Found::Below,
                _ => Found::Short(slice),
            }
        }
    }
}

/// Part of a run: the responses that one slice of one buffer answers.
pub struct Ready {
    /// The run.
    pub buffer: Rc<Buffer>,
    /// Bytes of one response.
    pub response_bytes: usize,
    /// How many responses the buffer holds.
    pub copies: usize,
}

/// The ready-made responses of one shard.
#[derive(Default)]
pub struct Responses {
    entries: Vec<Entry>,
    by_query: HashMap<Query, u16>,
    /// Queries asked for once in `wanted_second`.
    wanted: HashMap<Query, ()>,
    wanted_second: u64,
    /// Capacity of all buffers kept here.
    bytes: Cell<usize>,
}

struct Entry {
    query: Query,
    /// The snapshot that the buffer is known to be right for.
    version: u64,
    /// Unix time that its Date says.
    second: u64,
    slice: Slice,
    response_bytes: usize,
    copies: usize,
    /// The most responses wanted at once since the buffer was made: the next one's number of copies.
    copies_wanted: usize,
    buffer: Rc<Buffer>,
}

/// What a ready-made response depends on.
pub struct Current<'a> {
    /// The snapshot that this batch sees.
    pub snapshot: &'a Snapshot,
    /// Unix seconds that `date` says.
    pub second: u64,
    /// The Date of this second.
    pub date: &'a HttpDate,
    /// Where buffers come from.
    pub pool: &'a Pool,
}

impl Responses {
    /// The ready-made response to `query`, for `wanted` equal requests at once; remade if it is no longer right.
    /// `None` when it is not kept: asked for once only, too large, not a whole answer.
    pub fn ready(&mut self, query: Query, hint: &mut u16, wanted: usize, current: &Current<'_>) -> Option<Ready> {
        let at = usize::from(*hint);
        if let Some(entry) = self.entries.get_mut(at)
            && entry.query == query
        {
            entry.copies_wanted = entry.copies_wanted.max(wanted);
            let fits = entry.copies >= wanted || entry.copies == copies_max(entry.response_bytes);
            if entry.version == current.snapshot.version() && entry.second == current.second && fits {
                return Some(entry.ready());
            }
            return self.remake(at, wanted, current);
        }
        self.look_up(query, hint, wanted, current)
    }

    /// Capacity of the buffers that are kept, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// Forgets every response, so that their buffers can go.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.by_query.clear();
        self.bytes.set(0);
    }

    #[cold]
    fn look_up(&mut self, query: Query, hint: &mut u16, wanted: usize, current: &Current<'_>) -> Option<Ready> {
        if let Some(at) = self.by_query.get(&query) {
            *hint = *at;
            return self.remake(usize::from(*at), wanted, current);
        }
        if !self.is_wanted_again(query, wanted, current.second) {
            return None;
        }
        let Found::Whole(slice) = find(current.snapshot, query) else { return None };
        if !is_keepable(&slice) {
            return None;
        }
        let entry = build(query, slice, wanted, current);
        self.make_room(entry.buffer.capacity());
        let at = self.entries.len() as u16;
        self.bytes.set(self.bytes.get() + entry.buffer.capacity());
        self.by_query.insert(query, at);
        *hint = at;
        let ready = entry.ready();
        self.entries.push(entry);
        Some(ready)
    }

    /// Makes entry `at` right for the current snapshot, second and number of equal requests.
    #[cold]
    fn remake(&mut self, at: usize, wanted: usize, current: &Current<'_>) -> Option<Ready> {
        let entry = &mut self.entries[at];
        let slice = match find(current.snapshot, entry.query) {
            Found::Whole(slice) if is_keepable(&slice) => slice,
            _ => {
                self.remove(at);
                return None;
            }
        };
        let enough = entry.copies >= wanted || entry.copies == copies_max(entry.response_bytes);
        if slice.is_same_as(&entry.slice) && entry.second == current.second && enough {
            // Another snapshot, the same bytes: a change elsewhere costs nothing here.
            entry.version = current.snapshot.version();
            entry.slice = slice;
            return Some(entry.ready());
        }
        // Remade by the turn of the second only: what was wanted at once may have become less.
        let copies = if entry.second == current.second { entry.copies_wanted } else { wanted };
        let made = build(entry.query, slice, copies, current);
        let before = entry.buffer.capacity();
        let after = made.buffer.capacity();
        *entry = made;
        let ready = entry.ready();
        self.bytes.set(self.bytes.get() - before + after);
        if self.bytes.get() > READY_BYTES_MAX {
            // The others are remade when they are asked for again; this one is in use right now.
            self.clear();
        }
        Some(ready)
    }

    fn is_wanted_again(&mut self, query: Query, wanted: usize, second: u64) -> bool {
        if self.wanted_second != second || self.wanted.len() >= WANTED_QUERIES_MAX {
            self.wanted.clear();
            self.wanted_second = second;
        }
        wanted > 1 || self.wanted.insert(query, ()).is_some()
    }

    fn make_room(&mut self, bytes: usize) {
        if self.bytes.get() + bytes > READY_BYTES_MAX || self.entries.len() >= READY_RESPONSES_MAX {
            // Rare, and what is in use is made again at the next request: simpler than an order of use.
            self.clear();
        }
    }

    fn remove(&mut self, at: usize) {
        let removed = self.entries.swap_remove(at);
        self.bytes.set(self.bytes.get() - removed.buffer.capacity());
        self.by_query.remove(&removed.query);
        if let Some(moved) = self.entries.get(at) {
            self.by_query.insert(moved.query, at as u16);
        }
    }
}

impl Entry {
    fn ready(&self) -> Ready {
        Ready { buffer: Rc::clone(&self.buffer), response_bytes: self.response_bytes, copies: self.copies }
    }
}

fn is_keepable(slice: &Slice) -> bool {
    slice.body_bytes() + REPLY_HEAD_BYTES_MAX as u64 <= COPIED_BODY_BYTES_MAX as u64
}

/// The most copies of a response that a run may hold: up to one turn's bytes, and one where copies no longer pay.
fn copies_max(response_bytes: usize) -> usize {
    if response_bytes > RUN_RESPONSE_BYTES_MAX { 1 } else { OUTPUT_BYTES_PER_TURN / response_bytes }
}

fn build(query: Query, slice: Slice, wanted: usize, current: &Current<'_>) -> Entry {
    let response_bytes_max = REPLY_HEAD_BYTES_MAX + slice.body_bytes() as usize;
    let is_repeated = slice.body_bytes() as usize <= RUN_RESPONSE_BYTES_MAX;
    let copies_wanted = if is_repeated { wanted.next_power_of_two() } else { 1 };
    // The run ends within a turn's bytes, so this is enough even where one head is shorter than thought.
    let run_bytes_max = (copies_wanted * response_bytes_max).min(OUTPUT_BYTES_PER_TURN);
    let mut bytes = current.pool.take(run_bytes_max.max(response_bytes_max));
    write_response(&mut bytes, &slice, matches!(query, Query::List { .. }), current);
    let response_bytes = bytes.len();
    let copies = copies_wanted.min(copies_max(response_bytes));
    let capacity = bytes.capacity();
    for _ in 1..copies {
        bytes.extend_from_within(..response_bytes);
    }
    debug_assert_eq!(bytes.capacity(), capacity, "a buffer that has grown is of no class, and does not return");
    Entry {
        query,
        version: current.snapshot.version(),
        second: current.second,
        slice,
        response_bytes,
        copies,
        copies_wanted: 1,
        buffer: current.pool.seal_ready_made(bytes),
    }
}

fn write_response(out: &mut Vec<u8>, slice: &Slice, is_list: bool, current: &Current<'_>) {
    let etag = slice.etag();
    let fields = Fields {
        content_type: Some(JSON),
        content_length: Some(slice.body_bytes()),
        etag: Some(&etag),
        vary: is_list && varies(slice.body_bytes()),
        extra: b"",
        ..Fields::default()
    };
    write_head(out, 200, Form::PLAIN, current.date, &fields);
    current.snapshot.copy_into(slice, out);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshot::{Builder, ItemChange};

    const SECOND: u64 = 784_111_777;

    /// Everything that a ready-made response depends on, and the table.
    struct Table {
        responses: Responses,
        snapshot: Arc<Snapshot>,
        second: u64,
        pool: Pool,
    }

    impl Table {
        /// Over items of these lengths, the newest first.
        fn new(lengths: &[usize]) -> Table {
            let mut builder = Builder::new([3; 16], 1);
            for (index, length) in lengths.iter().enumerate() {
                builder.push(id(index as u64), &vec![b'j'; *length]);
            }
            let snapshot = Arc::new(builder.finish([1].into(), ItemId::ZERO));
            Table { responses: Responses::default(), snapshot, second: SECOND, pool: Pool::new() }
        }

        fn ready(&mut self, query: Query, hint: &mut u16, wanted: usize) -> Option<Ready> {
            let date = HttpDate::at(self.second);
            let current = Current { snapshot: &self.snapshot, second: self.second, date: &date, pool: &self.pool };
            let ready = self.responses.ready(query, hint, wanted, &current)?;
            let expected = expected(query, &current);
            assert_eq!(ready.response_bytes, expected.len());
            assert!(ready.buffer.bytes() == expected.repeat(ready.copies), "{query:?} {wanted}");
            let kept: usize = self.responses.entries.iter().map(|entry| entry.buffer.capacity()).sum();
            assert_eq!(self.responses.bytes(), kept);
            assert!(kept <= READY_BYTES_MAX && self.responses.entries.len() <= READY_RESPONSES_MAX);
            Some(ready)
        }

        fn change(&mut self, index: u64, json: &[u8]) {
            let version = self.snapshot.version() + 1;
            let change = ItemChange { id: id(index), json: Some(json) };
            self.snapshot = Arc::new(self.snapshot.refresh(&[change], [version].into(), version));
        }
    }

    /// The head as the issue writes it, put together by hand, and the body.
    fn expected(query: Query, current: &Current<'_>) -> Vec<u8> {
        let Found::Whole(slice) = find(current.snapshot, query) else { panic!("{query:?} has no whole answer") };
        let mut body = Vec::new();
        current.snapshot.copy_into(&slice, &mut body);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let vary =
            if body.len() >= 8192 && matches!(query, Query::List { .. }) { "Vary: Accept-Encoding\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nDate: {}\r\nETag: {}\r\n{vary}\r\n",
            body.len(),
            text(current.date.bytes()),
            text(slice.etag().as_bytes()),
        );
        [head.into_bytes(), body].concat()
    }

    fn id(index: u64) -> ItemId {
        ItemId::from_parts(1_000_000 - index, u128::from(index))
    }

    fn list(limit: u32) -> Query {
        Query::List { limit, after: None }
    }

    #[test]
    fn kept_is_what_is_asked_for_twice_within_a_second() {
        let mut table = Table::new(&[10; 5]);
        assert!(table.ready(list(3), &mut 0, 1).is_none(), "once");
        assert!(table.ready(list(3), &mut 0, 1).is_some(), "twice");
        assert!(table.ready(list(4), &mut 0, 2).is_some(), "twice at once");
        assert!(table.ready(list(2), &mut 0, 1).is_none());
        table.second += 1;
        assert!(table.ready(list(2), &mut 0, 1).is_none(), "the second has turned in between");
        assert!(table.ready(Query::Item(id(1)), &mut 0, 2).is_some());
        assert!(table.ready(Query::Item(id(9)), &mut 0, 2).is_none(), "there is no such item");
    }

    #[test]
    fn a_response_is_remade_only_when_it_would_say_something_else() {
        let mut table = Table::new(&[10; 5]);
        let (mut hint, mut other) = (0, 0);
        let first = table.ready(list(2), &mut hint, 2).expect("asked for twice");
        table.ready(list(5), &mut other, 2).expect("asked for twice");
        table.change(4, b"elsewhere");
        let same = table.ready(list(2), &mut hint, 2).expect("kept");
        assert!(Rc::ptr_eq(&first.buffer, &same.buffer), "a change elsewhere costs nothing");
        assert!(!Rc::ptr_eq(&first.buffer, &table.ready(list(5), &mut other, 2).expect("kept").buffer));
        table.change(0, b"here");
        let changed = table.ready(list(2), &mut hint, 2).expect("kept");
        assert!(!Rc::ptr_eq(&same.buffer, &changed.buffer));
        table.second += 1;
        let later = table.ready(list(2), &mut hint, 2).expect("kept");
        assert!(!Rc::ptr_eq(&changed.buffer, &later.buffer), "the Date is another");
        assert!(Rc::ptr_eq(&later.buffer, &table.ready(list(2), &mut 77, 2).expect("kept").buffer), "a wrong hint");
    }

    #[test]
    fn a_run_has_as_many_copies_as_are_wanted_and_fit_a_turn() {
        // Item bytes, wanted at once, copies.
        let cases = [
            (10, 2, 2),
            (10, 16, 16),
            (10, 80, 128),
            (2_000, 80, 122),
            (7_000, 4_096, 36),
            (7_900, 2, 2),
            (8_190, 80, 1),
            (9_000, 80, 1),
            (900_000, 80, 1),
        ];
        for (item_bytes, wanted, copies) in cases {
            let mut table = Table::new(&[item_bytes]);
            let mut hint = 0;
            let ready = table.ready(list(1), &mut hint, wanted).expect("asked for twice");
            assert_eq!(ready.copies, copies, "{wanted} of {item_bytes} bytes");
            assert!(ready.copies == 1 || ready.buffer.bytes().len() <= OUTPUT_BYTES_PER_TURN);
            let again = table.ready(list(1), &mut hint, 1).expect("kept");
            assert!(Rc::ptr_eq(&ready.buffer, &again.buffer), "fewer are wanted, and it is left as it is");
        }
        let mut table = Table::new(&[10]);
        let mut hint = 0;
        table.ready(list(1), &mut hint, 2);
        assert_eq!(table.ready(list(1), &mut hint, 64).expect("kept").copies, 64, "more are wanted");
        table.second += 1;
        assert_eq!(table.ready(list(1), &mut hint, 1).expect("kept").copies, 1, "one is wanted a second later");
    }

    #[test]
    fn what_is_too_large_is_not_kept() {
        let largest = COPIED_BODY_BYTES_MAX - REPLY_HEAD_BYTES_MAX;
        for (item_bytes, is_kept) in [(largest - 2, true), (largest - 1, false)] {
            let mut table = Table::new(&[item_bytes]);
            assert_eq!(table.ready(list(1), &mut 0, 2).is_some(), is_kept, "{item_bytes} bytes");
        }
        // Something that was kept grows.
        let mut table = Table::new(&[10, 20, 30]);
        let (mut first, mut last) = (0, 0);
        table.ready(list(1), &mut first, 2).expect("asked for twice");
        table.ready(Query::Item(id(2)), &mut last, 2).expect("asked for twice");
        table.change(0, &vec![b'j'; largest]);
        assert!(table.ready(list(1), &mut first, 2).is_none());
        assert!(table.ready(Query::Item(id(2)), &mut last, 1).is_some(), "the other is still found");
        assert_eq!(table.responses.entries.len(), 1);
    }

    #[test]
    fn bounds_hold_however_much_is_asked_for() {
        // Half a megabyte each: at sixteen the bytes are full.
        let mut table = Table::new(&[500_000; 24]);
        for round in 0..2 {
            for index in 0..24 {
                assert!(table.ready(Query::Item(id(index)), &mut 0, 2).is_some(), "{index} in round {round}");
            }
        }
        let mut table = Table::new(&[10; READY_RESPONSES_MAX + 10]);
        for limit in 1..=READY_RESPONSES_MAX as u32 + 10 {
            // One after the other and few copies, or the bytes are full before the table is.
            table.ready(list(limit), &mut 0, 2);
        }
        assert!(!table.responses.entries.is_empty());
        for limit in 1..=2 * WANTED_QUERIES_MAX as u32 {
            table.ready(Query::List { limit, after: Some(id(3)) }, &mut 0, 1);
            assert!(table.responses.wanted.len() <= WANTED_QUERIES_MAX);
        }
        let held = table.pool.live_bytes();
        assert_eq!(held, table.responses.bytes(), "only what is kept is alive");
        table.responses.clear();
        assert_eq!((table.responses.bytes(), table.pool.live_bytes()), (0, 0));
    }
}
