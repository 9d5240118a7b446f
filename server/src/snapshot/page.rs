//! A page: the JSON of a run of items back to back, newest first, and beside it where each item ends.
//!
//! ```text
//! json     {"id":…},{"id":…},{"id":…},        every item is followed by a comma
//! entries  id, end, sum of the hashes so far   32 bytes an item
//! ```
//!
//! So any run of items is one slice of bytes, its length and its hash are two subtractions, and no item is parsed.

use std::ops::Range;
use std::sync::Arc;

use siphasher::sip::SipHasher24;
use todo_proto::id::ItemId;

use super::ItemChange;
use super::level::{Member, Totals};
use crate::limits::{
    ITEM_JSON_BYTES_MAX, PAGE_BYTES, PAGE_BYTES_JOIN, PAGE_BYTES_MAX, PAGE_ITEMS, PAGE_ITEMS_JOIN, PAGE_ITEMS_MAX,
};

/// Immutable and never empty.
pub(super) struct Page {
    /// Of the snapshot that this page was made for.
    version: u64,
    json: Box<[u8]>,
    entries: Box<[Entry]>,
}

struct Entry {
    id: ItemId,
    /// Of the hashes up to and including this item, modulo 2^64.
    sum: u64,
    /// Where its comma ends. `0 < end <= json.len()`
    end: u32,
}

// What an item costs beside its JSON; page, chunk and allocator add some two bytes.
const _: () = assert!(size_of::<Entry>() == 32);

/// One item on its way into a page.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub id: ItemId,
    pub json: &'a [u8],
    /// SipHash-2-4 of `json` under the store's key.
    pub hash: u64,
}

/// Lays items into pages; its buffers serve one page after the other, so that a page has exactly the memory it needs.
pub(super) struct PageBuilder {
    version: u64,
    json: Vec<u8>,
    entries: Vec<Entry>,
}

impl Page {
    /// The page, to be shared.
    pub fn into_member(self) -> Member<Self> {
        let (oldest, totals) = (self.id(self.items_count() - 1), self.before(self.items_count()));
        Member { node: Arc::new(self), oldest, totals }
    }

    /// Made for the snapshot with this version, not shared with an earlier one.
    pub fn is_made_for(&self, version: u64) -> bool {
        self.version == version
    }

    pub fn json(&self) -> &[u8] {
        &self.json
    }

    pub fn items_count(&self) -> usize {
        self.entries.len()
    }

    /// The totals of the items in front of this one. `0 <= index <= items_count`
    pub fn before(&self, index: usize) -> Totals {
        index.checked_sub(1).map_or(Totals::default(), |previous| {
            let entry = &self.entries[previous];
            Totals { items: index as u64, bytes: u64::from(entry.end), sum: entry.sum }
        })
    }

    /// How many items at the front have an id of which `is_before` is true; it must be true of a prefix.
    pub fn items_before(&self, is_before: impl Fn(ItemId) -> bool) -> usize {
        self.entries.partition_point(|entry| is_before(entry.id))
    }

    /// How many items at the front have, with their commas, at most so many bytes together.
    pub fn items_within(&self, bytes_max: u64) -> usize {
        self.entries.partition_point(|entry| u64::from(entry.end) <= bytes_max)
    }

    /// The id of an item. `0 <= index < items_count`
    pub fn id(&self, index: usize) -> ItemId {
        self.entries[index].id
    }

    pub fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let mut start = 0;
        let mut sum = 0u64;
        self.entries.iter().map(move |entry| {
            let end = entry.end as usize;
            let item = Item { id: entry.id, json: &self.json[start..end - 1], hash: entry.sum.wrapping_sub(sum) };
            (start, sum) = (end, entry.sum);
            item
        })
    }
}

impl PageBuilder {
    pub fn new(version: u64) -> Self {
        Self { version, json: Vec::new(), entries: Vec::new() }
    }

    /// The next older item.
    pub fn push(&mut self, item: Item<'_>) {
        assert!(item.json.len() <= ITEM_JSON_BYTES_MAX, "an item of {} bytes", item.json.len());
        debug_assert!(!item.json.is_empty(), "an item without JSON");
        debug_assert!(self.entries.last().is_none_or(|last| last.id > item.id), "items come newest first");
        self.json.extend_from_slice(item.json);
        self.json.push(b',');
        let sum = self.entries.last().map_or(0, |last| last.sum).wrapping_add(item.hash);
        // Limits: a page and one more item fit 32 bits, and who pushes cuts at those limits.
        self.entries.push(Entry { id: item.id, sum, end: self.json.len() as u32 });
    }

    /// True when the next item should begin another page.
    pub fn is_full_for(&self, json: &[u8]) -> bool {
        let bytes = self.json.len() + json.len() + 1;
        !self.entries.is_empty() && (self.entries.len() >= PAGE_ITEMS || bytes > PAGE_BYTES)
    }

    /// The page of what was pushed since the last one; `None` when that is nothing.
    pub fn finish(&mut self) -> Option<Page> {
        if self.entries.is_empty() {
            return None;
        }
        let page = Page {
            version: self.version,
            json: self.json.as_slice().into(),
            entries: self.entries.drain(..).collect(),
        };
        self.json.clear();
        Some(page)
    }
}

/// True when two neighbours are so small that they should be one page.
pub(super) fn are_joined(newer: Totals, older: Totals) -> bool {
    let together = newer + older;
    together.items <= PAGE_ITEMS_JOIN as u64 && together.bytes <= PAGE_BYTES_JOIN as u64
}

/// The items of `page` after `changes`, which are newest first, no id twice.
pub(super) fn merge<'a>(page: Option<&'a Page>, changes: &[ItemChange<'a>], key: &SipHasher24) -> Vec<Item<'a>> {
    let mut merged = Vec::with_capacity(page.map_or(0, Page::items_count) + changes.len());
    let new_item = |change: &ItemChange<'a>| {
        change.json.map(|json| Item { id: change.id, json, hash: key.hash(json) }) // a delete leaves nothing
    };
    let mut changes = changes.iter().peekable();
    for item in page.into_iter().flat_map(Page::items) {
        while let Some(change) = changes.next_if(|change| change.id > item.id) {
            merged.extend(new_item(change));
        }
        match changes.next_if(|change| change.id == item.id) {
            Some(change) => merged.extend(new_item(change)),
            None => merged.push(item),
        }
    }
    merged.extend(changes.filter_map(new_item));
    merged
}

/// Where a run of items is cut into pages, newest first.
///
/// Full pages are cut off its old end and the rest stays in front: new items arrive there, so the first page grows
/// and everything that has been cut off behind it is full.
pub(super) fn cut(items: &[Item<'_>]) -> Vec<Range<usize>> {
    let bytes_of = |item: &Item<'_>| item.json.len() + 1;
    let mut bytes: usize = items.iter().map(bytes_of).sum();
    let mut end = items.len();
    let mut ranges = Vec::new();
    while end > PAGE_ITEMS_MAX || (end > 1 && bytes > PAGE_BYTES_MAX) {
        let mut start = end - 1;
        let mut page_bytes = bytes_of(&items[start]);
        while start > 0 && end - start < PAGE_ITEMS && page_bytes + bytes_of(&items[start - 1]) <= PAGE_BYTES {
            start -= 1;
            page_bytes += bytes_of(&items[start]);
        }
        ranges.push(start..end);
        bytes -= page_bytes;
        end = start;
    }
    if end > 0 {
        ranges.push(0..end);
    }
    ranges.reverse();
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: u128, json: &[u8]) -> Item<'_> {
        Item { id: ItemId::from_u128(id), json, hash: id as u64 }
    }

    #[test]
    fn a_page_knows_where_each_item_ends() {
        let mut builder = PageBuilder::new(7);
        assert!(builder.finish().is_none());
        builder.push(item(9, b"{9}"));
        builder.push(item(5, b"{five}"));
        builder.push(item(2, b"2"));
        let Member { node: page, oldest, totals } = builder.finish().expect("three items").into_member();
        assert_eq!(page.json(), b"{9},{five},2,");
        assert_eq!(page.before(0), Totals::default());
        assert_eq!(page.before(2), Totals { items: 2, bytes: 11, sum: 14 });
        assert_eq!(totals, Totals { items: 3, bytes: 13, sum: 16 });
        assert_eq!(page.before(3), totals);
        assert_eq!((oldest, page.id(1)), (ItemId::from_u128(2), ItemId::from_u128(5)));
        assert_eq!([3, 4, 10, 11, 99].map(|bytes| page.items_within(bytes)), [0, 1, 1, 2, 3]);
        assert!(page.is_made_for(7) && !page.is_made_for(8));
        let items: Vec<(&[u8], u64)> = page.items().map(|item| (item.json, item.hash)).collect();
        assert_eq!(items, [(&b"{9}"[..], 9), (b"{five}", 5), (b"2", 2)]);
        assert!(builder.finish().is_none(), "the builder begins anew");
    }

    #[test]
    fn a_merge_updates_inserts_and_deletes() {
        let mut builder = PageBuilder::new(1);
        for (id, json) in [(8, b"h"), (6, b"f"), (4, b"d")] {
            builder.push(item(id, json));
        }
        let page = builder.finish().expect("three items");
        let key = SipHasher24::new_with_key(&[0; 16]);
        type Row<'a> = (&'a str, &'a [(u128, Option<&'a [u8]>)], &'a [u8]);
        let table: [Row<'_>; 7] = [
            ("nothing", &[], b"hfd"),
            ("update", &[(6, Some(b"F"))], b"hFd"),
            ("delete", &[(8, None)], b"fd"),
            ("delete what is absent", &[(7, None)], b"hfd"),
            ("create in front, between and behind", &[(9, Some(b"i")), (5, Some(b"e")), (1, Some(b"a"))], b"ihfeda"),
            ("delete all", &[(8, None), (6, None), (4, None)], b""),
            ("all at once", &[(9, Some(b"i")), (8, None), (7, Some(b"g")), (4, Some(b"D"))], b"igfD"),
        ];
        for (name, changes, expected) in table {
            let changes: Vec<ItemChange<'_>> =
                changes.iter().map(|&(id, json)| ItemChange { id: ItemId::from_u128(id), json }).collect();
            let merged = merge(Some(&page), &changes, &key);
            let json: Vec<u8> = merged.iter().flat_map(|item| item.json).copied().collect();
            assert_eq!(json, expected, "{name}");
        }
        assert!(merge(None, &[], &key).is_empty());
    }

    #[test]
    fn a_run_is_cut_from_its_old_end() {
        let table: [(&str, usize, usize, &[usize]); 9] = [
            ("nothing", 0, 10, &[]),
            ("one", 1, 10, &[1]),
            ("as many as fit", PAGE_ITEMS_MAX, 10, &[96]),
            ("one more", PAGE_ITEMS_MAX + 1, 10, &[33, 64]),
            ("two full pages", 161, 10, &[33, 64, 64]),
            ("as many bytes as fit", 6, 16 * 1024 - 1, &[6]),
            ("one item too many for the bytes", 7, 16 * 1024 - 1, &[3, 4]),
            ("two that fit no page together", 2, 64 * 1024, &[1, 1]),
            ("each larger than a page", 3, ITEM_JSON_BYTES_MAX, &[1, 1, 1]),
        ];
        for (name, count, bytes, expected) in table {
            let json = vec![b'x'; bytes];
            let items: Vec<Item<'_>> = (0..count).map(|index| item((count - index) as u128, &json)).collect();
            let ranges = cut(&items);
            let lengths: Vec<usize> = ranges.iter().map(|range| range.end - range.start).collect();
            assert_eq!(lengths, expected, "{name}");
            let covered: Vec<usize> = ranges.into_iter().flatten().collect();
            assert_eq!(covered, (0..count).collect::<Vec<_>>(), "{name}: every item once, in order");
        }
    }
}
