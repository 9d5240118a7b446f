//! The snapshot: every item of the window, newest first, as JSON that is ready to be sent. Items in, bytes out.
//!
//! ```text
//! Snapshot     positions, floor, version
//!   chunks     some 128 pages each      two levels of the same index (`level`)
//!     pages    some 64 items each       JSON back to back (`page`)
//! ```
//!
//! A snapshot never changes. A refresh (`refresh`) makes the next one: the pages that changes touch are made anew
//! (`assembly`), all others are shared, so it costs much the same at ten thousand items and at a million. A read takes
//! a slice (`slice`): a place, a count, a length and a hash, without an allocation.

mod assembly;
mod etag;
mod level;
#[cfg(test)]
mod oracle;
mod page;
mod refresh;
pub mod response;
mod slice;

use siphasher::sip::SipHasher24;
use todo_proto::id::ItemId;

use assembly::{Assembly, Chunk};
pub use etag::ETag;
use level::Level;
use page::{Item, Page, PageBuilder};
pub use slice::{Pieces, Slice, Walk};

/// Every live item with an id from the floor on, and none below it.
pub struct Snapshot {
    store_id: [u8; 16],
    version: u64,
    positions: Box<[u64]>,
    floor: ItemId,
    chunks: Level<Chunk>,
    replaced_bytes: u64,
}

/// What happened to one item.
#[derive(Clone, Copy, Debug)]
pub struct ItemChange<'a> {
    /// The item.
    pub id: ItemId,
    /// Its whole JSON from now on, never empty; `None` when it was deleted.
    pub json: Option<&'a [u8]>,
}

/// Collects the items of a first snapshot.
pub struct Builder {
    store_id: [u8; 16],
    version: u64,
    key: SipHasher24,
    page: PageBuilder,
    /// They are shared at the end, one after the other: so the reference counts of neighbours lie side by side, and
    /// what refreshes touch of a million items stays in the processor's caches (15 us instead of 20 for a change).
    pages: Vec<Page>,
    /// The last one pushed.
    oldest: Option<ItemId>,
    items_count: u32,
    bytes: u64,
}

impl Snapshot {
    /// The snapshot of an empty store: version 0, every partition at position 0.
    pub fn empty(store_id: [u8; 16], partitions_count: usize) -> Self {
        Builder::new(store_id, 0).finish(vec![0; partitions_count].into(), ItemId::ZERO)
    }

    /// What there is before anything was loaded: everything is below the floor, so nothing is answered from it.
    pub fn unloaded() -> Self {
        Builder::new([0; 16], 0).finish(Box::default(), ItemId::MAX)
    }

    /// False for [`unloaded`](Self::unloaded) alone: the window of a store holds an item, or is everything.
    pub fn is_loaded(&self) -> bool {
        self.floor != ItemId::MAX
    }

    /// The store whose items these are. It is the key of the hashes too.
    pub fn store_id(&self) -> &[u8; 16] {
        &self.store_id
    }

    /// Grows from one published snapshot to the next.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// For each partition of the log, the position below which every command is in.
    pub fn positions(&self) -> &[u64] {
        &self.positions
    }

    /// Every live item with this id or a greater one is here, and nothing below; `ItemId::ZERO` when nothing is
    /// missing.
    pub fn floor(&self) -> ItemId {
        self.floor
    }

    /// How many items are here.
    pub fn items_count(&self) -> u32 {
        self.chunks.totals().items as u32 // `Assembly::finish` saw that it fits
    }

    /// JSON held, with a comma for each item.
    pub fn bytes(&self) -> u64 {
        self.chunks.totals().bytes
    }

    /// The running sum of the page bytes that refreshes have replaced. What an older snapshot alone keeps alive is at
    /// most the difference between two of these.
    pub fn replaced_bytes(&self) -> u64 {
        self.replaced_bytes
    }

    fn key(&self) -> SipHasher24 {
        SipHasher24::new_with_key(&self.store_id)
    }
}

impl Builder {
    /// An empty one for a store, whose snapshot will have this version.
    pub fn new(store_id: [u8; 16], version: u64) -> Self {
        Self {
            store_id,
            version,
            key: SipHasher24::new_with_key(&store_id),
            page: PageBuilder::new(version),
            pages: Vec::new(),
            oldest: None,
            items_count: 0,
            bytes: 0,
        }
    }

    /// The next item: its id must be smaller than that of the one before, its JSON not empty and at most
    /// `ITEM_JSON_BYTES_MAX`.
    pub fn push(&mut self, id: ItemId, json: &[u8]) {
        assert!(self.oldest.is_none_or(|last| id < last), "items are loaded newest first, each once");
        if self.page.is_full_for(json) {
            self.pages.extend(self.page.finish());
        }
        self.page.push(Item { id, json, hash: self.key.hash(json) });
        self.oldest = Some(id);
        self.items_count += 1;
        self.bytes += json.len() as u64 + 1;
    }

    /// The snapshot. `floor` is `ItemId::ZERO` when the store has nothing older, else the id of the last item.
    pub fn finish(mut self, positions: Box<[u64]>, floor: ItemId) -> Snapshot {
        assert!(self.oldest.is_none_or(|oldest| floor <= oldest), "an item below the floor");
        self.pages.extend(self.page.finish());
        let mut assembly = Assembly::new(self.version);
        self.pages.into_iter().for_each(|page| assembly.push_page(page.into_member()));
        Snapshot {
            store_id: self.store_id,
            version: self.version,
            positions,
            floor,
            chunks: assembly.finish().chunks,
            replaced_bytes: 0,
        }
    }

    /// The id of the last item pushed, the oldest so far.
    pub fn oldest(&self) -> Option<ItemId> {
        self.oldest
    }

    /// How many items were pushed.
    pub fn items_count(&self) -> u32 {
        self.items_count
    }

    /// JSON pushed, with a comma for each item: `Snapshot::bytes` to be.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::ITEM_JSON_BYTES_MAX;

    #[test]
    fn an_empty_snapshot_has_everything() {
        let snapshot = Snapshot::empty([9; 16], 3);
        assert_eq!((snapshot.version(), snapshot.positions()), (0, &[0, 0, 0][..]));
        assert_eq!((snapshot.items_count(), snapshot.bytes(), snapshot.replaced_bytes()), (0, 0, 0));
        assert_eq!((snapshot.floor(), snapshot.store_id()), (ItemId::ZERO, &[9; 16]));
    }

    #[test]
    fn items_out_of_order_or_too_long_are_refused() {
        let long = vec![b'x'; ITEM_JSON_BYTES_MAX + 1];
        type Row<'a> = (&'a str, [(u128, &'a [u8]); 2], u128);
        let table: [Row<'_>; 4] = [
            ("older first", [(1, b"{}"), (2, b"{}")], 0),
            ("twice", [(2, b"{}"), (2, b"{}")], 0),
            ("below the floor", [(2, b"{}"), (1, b"{}")], 2),
            ("too long", [(2, b"{}"), (1, &long)], 0),
        ];
        for (name, items, floor) in table {
            let refused = std::panic::catch_unwind(|| {
                let mut builder = Builder::new([0; 16], 1);
                items.iter().for_each(|(id, json)| builder.push(ItemId::from_u128(*id), json));
                builder.finish(vec![0].into(), ItemId::from_u128(floor))
            });
            assert!(refused.is_err(), "{name}");
        }
    }
}
