//! Puts the page list of a new snapshot together from pages of the old one and pages made anew, newest first, and
//! keeps both levels in shape: nothing above its bound, no two neighbours that would fit well into one.
//!
//! The shape of pages holds within a chunk. At the border of two chunks a small page may stand until one of them is
//! made anew, which costs at most one page in a hundred.

use std::mem;
use std::sync::Arc;

use super::level::{Level, Member};
use super::page::{self, Item, Page, PageBuilder};
use crate::limits::{CHUNK_PAGES, CHUNK_PAGES_JOIN, CHUNK_PAGES_MAX};

/// A level of pages.
pub(super) type Chunk = Level<Page>;

pub(super) struct Assembly {
    version: u64,
    builder: PageBuilder,
    chunks: Vec<Member<Chunk>>,
    /// Pages behind the last chunk that are in none yet.
    open: Vec<Member<Page>>,
    replaced_bytes: u64,
}

/// What has been put together.
pub(super) struct Assembled {
    pub chunks: Level<Chunk>,
    /// Bytes of the older snapshot's pages that are not in this one.
    pub replaced_bytes: u64,
}

impl Assembly {
    /// For the snapshot with this version. Pages of any other version count as shared with an older snapshot.
    pub fn new(version: u64) -> Self {
        let builder = PageBuilder::new(version);
        Self { version, builder, chunks: Vec::new(), open: Vec::new(), replaced_bytes: 0 }
    }

    /// A chunk that nothing touches. Only beside a very small one is it opened, and its pages are shared even then.
    pub fn push_chunk(&mut self, chunk: Member<Chunk>) {
        self.close();
        if self.chunks.last().is_some_and(|last| last.node.len() + chunk.node.len() <= CHUNK_PAGES_JOIN) {
            chunk.node.members().for_each(|page| self.push_page(page));
            self.close();
        } else {
            self.chunks.push(chunk);
        }
    }

    /// A page that nothing touches, or a new one. It is joined with the page before when both are small.
    pub fn push_page(&mut self, page: Member<Page>) {
        let joined = match self.open.pop_if(|last| page::are_joined(last.totals, page.totals)) {
            None => page,
            Some(last) => {
                self.retire(&last.node);
                self.retire(&page.node);
                last.node.items().chain(page.node.items()).for_each(|item| self.builder.push(item));
                self.builder.finish().map_or(page, Page::into_member)
            }
        };
        self.open.push(joined);
    }

    /// New pages of these items, in the place of pages that have been retired.
    pub fn push_items(&mut self, items: &[Item<'_>]) {
        for range in page::cut(items) {
            items[range].iter().for_each(|&item| self.builder.push(item));
            if let Some(page) = self.builder.finish() {
                self.push_page(page.into_member());
            }
        }
    }

    /// Notes that a page is not in the new snapshot.
    pub fn retire(&mut self, page: &Page) {
        // One that was made a moment ago has never been in a snapshot.
        if !page.is_made_for(self.version) {
            self.replaced_bytes += page.json().len() as u64;
        }
    }

    pub fn finish(mut self) -> Assembled {
        self.close();
        let chunks = Level::new(self.chunks);
        assert!(chunks.totals().items <= u64::from(u32::MAX), "a snapshot counts its items in 32 bits");
        Assembled { chunks, replaced_bytes: self.replaced_bytes }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Makes chunks of the open pages, like `page::cut` full ones from the old end.
    fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        if let Some(last) = self.chunks.pop_if(|last| last.node.len() + self.open.len() <= CHUNK_PAGES_JOIN) {
            let behind = mem::take(&mut self.open);
            last.node.members().chain(behind).for_each(|page| self.push_page(page));
        }
        let mut pages = mem::take(&mut self.open);
        let at = self.chunks.len();
        while pages.len() > CHUNK_PAGES_MAX {
            let full = pages.split_off(pages.len() - CHUNK_PAGES);
            self.chunks.extend(chunk(full));
        }
        self.chunks.extend(chunk(pages));
        self.chunks[at..].reverse();
    }
}

fn chunk(pages: Vec<Member<Page>>) -> Option<Member<Chunk>> {
    let oldest = pages.last()?.oldest;
    let chunk = Level::new(pages);
    Some(Member { oldest, totals: chunk.totals(), node: Arc::new(chunk) })
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use todo_proto::id::ItemId;

    use super::super::oracle::check_shape;
    use super::super::{Builder, ItemChange, Snapshot};
    use crate::limits::PAGE_ITEMS;

    const PAGES: usize = 400;

    /// 400 full pages; the items of page 0 are the newest.
    fn snapshot() -> Snapshot {
        let mut builder = Builder::new([0; 16], 1);
        (0..PAGES * PAGE_ITEMS).for_each(|index| builder.push(id(index), b"{}"));
        builder.finish(vec![0].into(), ItemId::ZERO)
    }

    fn id(index: usize) -> ItemId {
        ItemId::from_u128((PAGES * PAGE_ITEMS - index) as u128)
    }

    fn without_pages(snapshot: &Snapshot, pages: Range<usize>) -> Snapshot {
        let indexes = pages.start * PAGE_ITEMS..pages.end * PAGE_ITEMS;
        let changes: Vec<ItemChange<'_>> = indexes.map(|index| ItemChange { id: id(index), json: None }).collect();
        snapshot.refresh(&changes, vec![0].into(), snapshot.version() + 1)
    }

    #[test]
    fn chunks_are_joined_with_small_neighbours() {
        // Chunks end behind the pages 144, 272 and 400. Each row deletes runs of pages (from, to), one
        // refresh after the other.
        type Row<'a> = (&'a str, &'a [(usize, usize)], &'a [usize]);
        let table: [Row<'_>; 8] = [
            ("as loaded", &[], &[144, 128, 128]),
            ("small beside large", &[(10, 144)], &[10, 128, 128]),
            ("two made small at once", &[(10, 252)], &[30, 128]),
            ("the second made small later", &[(10, 144), (164, 272)], &[30, 128]),
            ("the first made small later", &[(154, 272), (20, 144)], &[30, 128]),
            ("the last made small later", &[(154, 272), (290, 400)], &[144, 28]),
            ("a chunk gone", &[(144, 272)], &[144, 128]),
            ("everything gone", &[(0, 200), (200, 400)], &[]),
        ];
        for (name, deleted, expected) in table {
            let snapshot =
                deleted.iter().fold(snapshot(), |snapshot, &(start, end)| without_pages(&snapshot, start..end));
            let lengths: Vec<usize> = snapshot.chunks.slots().iter().map(|slot| slot.node.len()).collect();
            assert_eq!(lengths, expected, "{name}");
            check_shape(&snapshot);
        }
    }
}
