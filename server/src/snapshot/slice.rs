//! What a read takes from a snapshot: a run of items as a JSON array, or one item bare.
//!
//! A `Slice` is a place and three sums, a few binary searches and no allocation; it borrows nothing, so it can be kept
//! beside whatever keeps the snapshot alive. Its bytes come out as pieces of pages, all at once (`Snapshot::pieces`,
//! `Snapshot::copy_into`) or bit by bit over many turns (`Walk`).

use todo_proto::defects::{Defect, is_on};
use todo_proto::id::ItemId;

use super::Snapshot;
use super::etag::ETag;
use super::level::Totals;
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
        let sum = if is_on(Defect::TagByVersion) { self.version } else { self.sum };
        if self.is_bare { ETag::of_item(sum) } else { ETag::of_list(sum, self.items_count) }
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

    /// The walk so many bytes further on, at most at the end: where a short write stopped. It costs a step for each
    /// page that is passed.
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

#[cfg(test)]
mod tests {
    use super::super::{Builder, ItemChange};
    use super::*;

    /// Ids 10, 20, … with two bytes of JSON and more, in several pages.
    fn snapshot(count: u32, version: u64) -> Snapshot {
        let mut builder = Builder::new([3; 16], version);
        for id in (1..=u128::from(count)).rev() {
            builder.push(ItemId::from_u128(10 * id), format!("{{{id}}}").as_bytes());
        }
        builder.finish(vec![0].into(), ItemId::ZERO)
    }

    fn body(snapshot: &Snapshot, slice: &Slice) -> String {
        let mut body = b"kept".to_vec();
        snapshot.copy_into(slice, &mut body);
        assert_eq!(slice.body_bytes(), body.len() as u64 - 4);
        String::from_utf8(body).expect("text").split_off(4)
    }

    #[test]
    fn lists_and_items() {
        let (empty, five) = (snapshot(0, 1), snapshot(5, 1));
        let id = |number: u128| ItemId::from_u128(number);
        let table: [(&str, &Snapshot, Slice, &str); 13] = [
            ("all of nothing", &empty, empty.all(), "[]"),
            ("first of nothing", &empty, empty.first(10), "[]"),
            ("after, in nothing", &empty, empty.after(id(1), 10), "[]"),
            ("all", &five, five.all(), "[{5},{4},{3},{2},{1}]"),
            ("none", &five, five.first(0), "[]"),
            ("first", &five, five.first(1), "[{5}]"),
            ("first two", &five, five.first(2), "[{5},{4}]"),
            ("more than there are", &five, five.first(u32::MAX), "[{5},{4},{3},{2},{1}]"),
            ("after one", &five, five.after(id(40), 2), "[{3},{2}]"),
            ("after one that is gone", &five, five.after(id(39), 1), "[{3}]"),
            ("after a greater id than any", &five, five.after(id(u128::MAX), u32::MAX), "[{5},{4},{3},{2},{1}]"),
            ("after the last", &five, five.after(id(10), 7), "[]"),
            ("an item", &five, five.item(id(30)).expect("there"), "{3}"),
        ];
        for (name, snapshot, slice, expected) in table {
            assert_eq!(body(snapshot, &slice), expected, "{name}");
            assert_eq!(slice.items_count() as usize, expected.matches('{').count(), "{name}");
        }
        for absent in [0, 9, 35, 51, u128::MAX] {
            assert!(five.item(id(absent)).is_none() && five.json(id(absent)).is_none(), "{absent}");
        }
        assert_eq!(five.json(id(10)), Some(&b"{1}"[..]));
    }

    #[test]
    fn a_tag_is_of_the_bytes_alone() {
        let old = snapshot(500, 1);
        let new = old.refresh(&[ItemChange { id: ItemId::from_u128(4_000), json: Some(b"{}") }], vec![1].into(), 2);
        // Item 400 is the 101st.
        let table = [
            ("in front of the change", old.first(100), new.first(100), true),
            ("with the change", old.first(101), new.first(101), false),
            ("behind it", old.after(ItemId::from_u128(4_000), 50), new.after(ItemId::from_u128(4_000), 50), true),
            ("another count", old.first(100), old.first(99), false),
            ("other items", old.first(1), old.after(ItemId::from_u128(5_000), 1), false),
            ("bare and in a list", old.first(1), old.item(ItemId::from_u128(5_000)).expect("there"), false),
        ];
        for (name, one, other, is_same) in table {
            assert_eq!(one.etag() == other.etag(), is_same, "{name}");
            assert_eq!(one.is_same_as(&other), is_same, "{name}");
        }
        let mut other_store = Builder::new([4; 16], 1);
        other_store.push(ItemId::from_u128(10), b"{1}");
        let other_store = other_store.finish(vec![0].into(), ItemId::ZERO);
        assert_ne!(snapshot(1, 1).all().etag(), other_store.all().etag(), "the store is the key");
    }

    #[test]
    fn a_walk_stops_and_goes_on_anywhere() {
        let snapshot = snapshot(300, 1);
        let slices = [
            snapshot.first(0),
            snapshot.first(150),
            snapshot.all(),
            snapshot.item(ItemId::from_u128(10)).expect("there"),
        ];
        for slice in slices {
            let whole = body(&snapshot, &slice);
            for bytes_max in [1, 7, 100, usize::MAX] {
                let mut walk = slice.walk();
                let mut walked = Vec::new();
                while let Some((piece, rest)) = walk.next(&snapshot, bytes_max) {
                    assert!((1..=bytes_max).contains(&piece.len()));
                    walked.extend_from_slice(piece);
                    assert_eq!(rest.bytes_left() as usize, whole.len() - walked.len());
                    walk = rest;
                }
                assert_eq!(walked, whole.as_bytes());
            }
            for skipped in 0..=whole.len() + 1 {
                let mut walk = slice.walk().skip(&snapshot, skipped);
                let mut rest_of_body = Vec::new();
                while let Some((piece, rest)) = walk.next(&snapshot, usize::MAX) {
                    rest_of_body.extend_from_slice(piece);
                    walk = rest;
                }
                assert_eq!(rest_of_body, whole.as_bytes()[skipped.min(whole.len())..]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "a walk through another snapshot")]
    fn a_walk_belongs_to_its_snapshot() {
        let slice = snapshot(2, 1).all();
        snapshot(2, 2).copy_into(&slice, &mut Vec::new());
    }
}
