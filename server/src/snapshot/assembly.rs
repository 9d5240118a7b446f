//! Puts the page list of a new snapshot together from pages of the old one and pages made anew, newest first, and
//! keeps both levels in shape: nothing above its bound, no two neighbours that would fit well into one.
//!
//! The shape of pages holds within a chunk. At the border of two chunks a small page may stand until one of them is
//! made anew, which costs at most one page in a hundred.

use std::mem;
use std::sync::Arc;

use super::level::{Level, Node};
use super::page::{self, Item, Page, PageBuilder};
use crate::limits::{CHUNK_PAGES, CHUNK_PAGES_JOIN, CHUNK_PAGES_MAX};

/// A level of pages.
pub(super) type Chunk = Level<Page>;

pub(super) struct Assembly {
    version: u64,
    builder: PageBuilder,
    chunks: Vec<Arc<Chunk>>,
    /// Pages behind the last chunk that are in none yet.
    open: Vec<Arc<Page>>,
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

    /// A chunk that nothing touches. Only beside a very small neighbour is it opened, and its pages are shared even then.
    pub fn push_chunk(&mut self, chunk: &Arc<Chunk>) {
        self.close();
        if self.chunks.last().is_some_and(|last| last.len() + chunk.len() <= CHUNK_PAGES_JOIN) {
            chunk.nodes().for_each(|page| self.push_page(Arc::clone(page)));
            self.close();
        } else {
            self.chunks.push(Arc::clone(chunk));
        }
    }

    /// A page that nothing touches, or a new one. It is joined with the page before when both are small.
    pub fn push_page(&mut self, page: Arc<Page>) {
        let joined = match self.open.pop_if(|last| page::are_joined(last, &page)) {
            None => page,
            Some(last) => {
                self.retire(&last);
                self.retire(&page);
                last.items().chain(page.items()).for_each(|item| self.builder.push(item));
                self.builder.finish().map_or(page, Arc::new)
            }
        };
        self.open.push(joined);
    }

    /// New pages of these items, in the place of pages that have been retired.
    pub fn push_items(&mut self, items: &[Item<'_>]) {
        for range in page::cut(items) {
            items[range].iter().for_each(|&item| self.builder.push(item));
            if let Some(page) = self.builder.finish() {
                self.push_page(Arc::new(page));
            }
        }
    }

    /// Notes that a page is not in the new snapshot.
    pub fn retire(&mut self, page: &Page) {
        // One that was made a moment ago has never been in a snapshot.
        if !page.is_made_for(self.version) {
            self.replaced_bytes += page.totals().bytes;
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
        if let Some(last) = self.chunks.pop_if(|last| last.len() + self.open.len() <= CHUNK_PAGES_JOIN) {
            let behind = mem::take(&mut self.open);
            last.nodes().cloned().chain(behind).for_each(|page| self.push_page(page));
        }
        let mut pages = mem::take(&mut self.open);
        let at = self.chunks.len();
        while pages.len() > CHUNK_PAGES_MAX {
            let full = pages.split_off(pages.len() - CHUNK_PAGES);
            self.chunks.push(Arc::new(Level::new(full)));
        }
        if !pages.is_empty() {
            self.chunks.push(Arc::new(Level::new(pages)));
        }
        self.chunks[at..].reverse();
    }
}
