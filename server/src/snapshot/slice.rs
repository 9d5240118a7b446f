//! What a read takes from a snapshot: a run of items as a JSON array, or one item bare.
//!
//! A `Slice` is a place and three sums, a few binary searches and no allocation; it borrows nothing, so it can be kept
//! beside whatever keeps the snapshot alive. Its bytes come out as pieces of pages, all at once (`Snapshot::pieces`,
//! `Snapshot::copy_into`) or bit by bit over many turns (`Walk`).

use todo_proto::id::ItemId;

use super::Snapshot;
use super::etag::ETag;
use super::level::{Node, Totals};
use super::page::Page;

/// A run of items of one snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Slice {
    version: u64,
    start: Place,
    items_count: u32,
    is_bare: bool,
    body_bytes: u64,
    sum: u64,
}

/// The pieces of a slice's body that are still to come; a copy of it is a bookmark.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    version: u64,
    place: Place,
    bytes_left: u64,
    /// The opening bracket is still to come.
    is_before_bracket: bool,
    /// 1 when a closing bracket ends the body, else 0.
    closing_bytes: u8,
}

/// The body of a slice, piece by piece.
pub struct Pieces<'s> {
    snapshot: &'s Snapshot,
    walk: Walk,
}

/// A byte of a page. Behind the last item it is anywhere, and not looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub chunk: u32,
    pub page: u32,
    /// Into the page's JSON.
    pub offset: u32,
}

/// An item, or the end of the snapshot.
pub(super) struct Location {
    pub place: Place,
    /// Which item of its page.
    pub item: usize,
    /// Everything in front of it.
    pub before: Totals,
}

impl Snapshot {
    /// The newest items, at most `limit`.
    pub fn first(&self, limit: u32) -> Slice {
        let end = self.totals_of_first(u64::from(limit));
        self.list(Place::default(), end)
    }

    /// The newest items with an id below `id`, at most `limit`. `id` need not be here, so that a client can go on
    /// behind an item that has been deleted meanwhile.
    pub fn after(&self, id: ItemId, limit: u32) -> Slice {
        let start = self.locate_id(|other| other >= id);
        let end = self.totals_of_first(start.before.items + u64::from(limit));
        self.list(start.place, end - start.before)
    }

    /// Every item.
    pub fn all(&self) -> Slice {
        self.list(Place::default(), self.chunks.totals())
    }

    /// One item, without brackets; `None` when it is not here.
    pub fn item(&self, id: ItemId) -> Option<Slice> {
        let location = self.find(id)?;
        let page = self.page(location.place);
        let totals = page.before(location.item + 1) - page.before(location.item);
        Some(Slice {
            version: self.version(),
            start: location.place,
            items_count: 1,
            is_bare: true,
            body_bytes: totals.bytes - 1, // without the comma
            sum: totals.sum,
        })
    }

    /// The JSON of one item; `None` when it is not here.
    pub fn json(&self, id: ItemId) -> Option<&[u8]> {
        let location = self.find(id)?;
        let page = self.page(location.place);
        let end = page.before(location.item + 1).bytes as usize - 1; // without the comma
        Some(&page.json()[location.place.offset as usize..end])
    }

    /// The body of one of this snapshot's slices.
    pub fn pieces(&self, slice: &Slice) -> Pieces<'_> {
        Pieces { snapshot: self, walk: slice.walk() }
    }

    /// Appends the body of one of this snapshot's slices.
    pub fn copy_into(&self, slice: &Slice, output: &mut Vec<u8>) {
        output.reserve(slice.body_bytes as usize);
        self.pieces(slice).for_each(|piece| output.extend_from_slice(piece));
    }

    /// The item with so many in front of it, or the end.
    pub(super) fn locate_index(&self, index: u64) -> Location {
        let chunk_index = self.chunks.slots().partition_point(|slot| slot.end.items <= index);
        let before_chunk = self.chunks.before(chunk_index);
        let Some(slot) = self.chunks.slots().get(chunk_index) else { return self.end() };
        let chunk = &slot.node;
        let index = index - before_chunk.items;
        let page_index = chunk.slots().partition_point(|slot| slot.end.items <= index);
        let before_page = chunk.before(page_index);
        let item = (index - before_page.items) as usize;
        let before_item = chunk.slots()[page_index].node.before(item);
        Location {
            place: Place { chunk: chunk_index as u32, page: page_index as u32, offset: before_item.bytes as u32 },
            item,
            before: before_chunk + before_page + before_item,
        }
    }

    /// The page of a place that is not the end.
    pub(super) fn page(&self, place: Place) -> &Page {
        &self.chunks.slots()[place.chunk as usize].node.slots()[place.page as usize].node
    }

    /// The beginning of the next page, or the end.
    fn page_behind(&self, place: Place) -> Place {
        let is_last = place.page as usize + 1 == self.chunks.slots()[place.chunk as usize].node.len();
        if is_last {
            Place { chunk: place.chunk + 1, page: 0, offset: 0 }
        } else {
            Place { page: place.page + 1, offset: 0, ..place }
        }
    }

    /// The first item of which `is_before` is false, or the end; it must be true of a prefix.
    fn locate_id(&self, is_before: impl Fn(ItemId) -> bool) -> Location {
        let chunk_index = self.chunks.slots().partition_point(|slot| is_before(slot.oldest));
        let Some(slot) = self.chunks.slots().get(chunk_index) else { return self.end() };
        let chunk = &slot.node;
        let page_index = chunk.slots().partition_point(|slot| is_before(slot.oldest));
        // The oldest item of the chunk is not before, so neither is the oldest of its last page.
        let page = &chunk.slots()[page_index].node;
        let item = page.items_before(is_before);
        let before_item = page.before(item);
        Location {
            place: Place { chunk: chunk_index as u32, page: page_index as u32, offset: before_item.bytes as u32 },
            item,
            before: self.chunks.before(chunk_index) + chunk.before(page_index) + before_item,
        }
    }

    fn find(&self, id: ItemId) -> Option<Location> {
        let location = self.locate_id(|other| other > id);
        let is_end = location.place.chunk as usize == self.chunks.len();
        (!is_end && self.page(location.place).id(location.item) == id).then_some(location)
    }

    fn end(&self) -> Location {
        let place = Place { chunk: self.chunks.len() as u32, page: 0, offset: 0 };
        Location { place, item: 0, before: self.chunks.totals() }
    }

    fn totals_of_first(&self, items: u64) -> Totals {
        self.locate_index(items).before
    }

    fn list(&self, start: Place, totals: Totals) -> Slice {
        Slice {
            version: self.version(),
            start,
            items_count: totals.items as u32, // not above the snapshot's own count
            is_bare: false,
            body_bytes: 2 + totals.bytes.saturating_sub(1), // brackets; the last item's comma is not sent
            sum: totals.sum,
        }
    }
}

impl Slice {
    /// How many items it has.
    pub fn items_count(&self) -> u32 {
        self.items_count
    }

    /// Content-Length: the items, the commas between them and, around a list, the brackets.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes
    }

    /// The sum of the items' hashes modulo 2^64.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Whether both have the same bytes, by count, length and sum, whatever snapshots they are of.
    pub fn is_same_as(&self, other: &Slice) -> bool {
        let content = |slice: &Slice| (slice.sum, slice.body_bytes, slice.items_count, slice.is_bare);
        content(self) == content(other)
    }

    /// The entity tag of the body.
    pub fn etag(&self) -> ETag {
        if self.is_bare { ETag::of_item(self.sum) } else { ETag::of_list(self.sum, self.items_count) }
    }

    /// The body from its first byte on.
    pub fn walk(&self) -> Walk {
        Walk {
            version: self.version,
            place: self.start,
            bytes_left: self.body_bytes,
            is_before_bracket: !self.is_bare,
            closing_bytes: u8::from(!self.is_bare),
        }
    }
}

impl Walk {
    /// The next piece, never empty and at most `bytes_max`, and the walk behind it; `None` at the end of the body.
    ///
    /// `snapshot` must be the one the slice is of, `bytes_max` at least 1.
    pub fn next<'s>(&self, snapshot: &'s Snapshot, bytes_max: usize) -> Option<(&'s [u8], Walk)> {
        // Bytes of another snapshot would leave under this one's Content-Length. Once a piece it costs nothing.
        assert_eq!(self.version, snapshot.version(), "a walk through another snapshot");
        debug_assert!(bytes_max > 0, "a piece of nothing");
        let mut rest = *self;
        let piece: &[u8] = if rest.bytes_left == 0 {
            return None;
        } else if rest.is_before_bracket {
            rest.is_before_bracket = false;
            b"["
        } else if rest.bytes_left == u64::from(rest.closing_bytes) {
            b"]"
        } else {
            let page = snapshot.page(rest.place).json();
            let items_bytes = rest.bytes_left - u64::from(rest.closing_bytes);
            let piece = &page[rest.place.offset as usize..];
            let piece = &piece[..piece.len().min(bytes_max).min(usize::try_from(items_bytes).unwrap_or(usize::MAX))];
            rest.place.offset += piece.len() as u32; // a page has less than 4 GiB
            if rest.place.offset as usize == page.len() {
                rest.place = snapshot.page_behind(rest.place);
            }
            piece
        };
        rest.bytes_left -= piece.len() as u64;
        Some((piece, rest))
    }

    /// The walk so many bytes further on, at most at the end: where a short write stopped. It costs a step for each page
    /// that is passed.
    pub fn skip(&self, snapshot: &Snapshot, bytes: usize) -> Walk {
        let mut walk = *self;
        let mut bytes_left = bytes;
        while bytes_left > 0
            && let Some((piece, rest)) = walk.next(snapshot, bytes_left)
        {
            bytes_left -= piece.len();
            walk = rest;
        }
        walk
    }

    /// How much of the body is still to come.
    pub fn bytes_left(&self) -> u64 {
        self.bytes_left
    }
}

impl<'s> Iterator for Pieces<'s> {
    type Item = &'s [u8];

    fn next(&mut self) -> Option<&'s [u8]> {
        let (piece, rest) = self.walk.next(self.snapshot, usize::MAX)?;
        self.walk = rest;
        Some(piece)
    }
}
