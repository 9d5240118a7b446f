//! From one snapshot to the next.

use std::sync::Arc;

use todo_proto::id::ItemId;

use super::assembly::{Assembly, Chunk};
use super::page::{self, Page};
use super::{ItemChange, Snapshot};
use crate::limits::WINDOW_OVERSHOOT_PERCENT;

impl Snapshot {
    /// The snapshot after these changes. They may come in any order; of several for one id the last wins; one below
    /// the floor, or that changes nothing, is ignored. Only touched pages are made anew.
    ///
    /// `version` must be greater than that of every snapshot before it, `positions` as many as here and none lower.
    pub fn refresh(&self, changes: &[ItemChange<'_>], positions: Box<[u64]>, version: u64) -> Snapshot {
        assert!(version > self.version, "version {version} after {}", self.version);
        assert_eq!(positions.len(), self.positions.len(), "the number of partitions belongs to the store");
        assert!(positions.iter().zip(&self.positions).all(|(new, old)| new >= old), "a position went back");

        let changes = self.effective(changes);
        let key = self.key();
        let mut assembly = Assembly::new(version);
        for (chunk, changes) in self.chunks.route(&changes) {
            if changes.is_empty() {
                assembly.push_chunk(chunk);
                continue;
            }
            for (page, changes) in chunk.route(changes) {
                if changes.is_empty() {
                    assembly.push_page(Arc::clone(page));
                } else {
                    assembly.retire(page);
                    assembly.push_items(&page::merge(Some(page), changes, &key));
                }
            }
        }
        if self.chunks.len() == 0 {
            assembly.push_items(&page::merge(None, &changes, &key));
        }
        self.next(assembly, positions, self.floor)
    }

    /// Cuts the window back to its bounds once it has outgrown `bytes_max`, or `todos_max` by more than 5 %: the oldest
    /// items go and the floor becomes the id of the oldest that stays. One item stays whatever its length.
    ///
    /// For a snapshot that has not been published yet: it keeps its version.
    pub fn trim(self, todos_max: u32, bytes_max: u64) -> Snapshot {
        let items_count = u64::from(self.items_count());
        let overshoot_max = u64::from(todos_max) * (100 + WINDOW_OVERSHOOT_PERCENT) / 100;
        let is_within = items_count <= overshoot_max && self.bytes() <= bytes_max;
        let kept_count = self.items_within(bytes_max).min(u64::from(todos_max)).max(1);
        if is_within || kept_count >= items_count {
            return self;
        }

        let last = self.locate_index(kept_count - 1);
        let (last_chunk, last_page) = (last.place.chunk as usize, last.place.page as usize);
        let mut assembly = Assembly::new(self.version);
        for (chunk_index, chunk) in self.chunks.nodes().enumerate() {
            if chunk_index < last_chunk {
                assembly.push_chunk(chunk);
                continue;
            }
            for (page_index, page) in chunk.nodes().enumerate() {
                if (chunk_index, page_index) < (last_chunk, last_page) {
                    assembly.push_page(Arc::clone(page));
                    continue;
                }
                assembly.retire(page);
                if (chunk_index, page_index) == (last_chunk, last_page) {
                    let kept: Vec<_> = page.items().take(last.item + 1).collect();
                    assembly.push_items(&kept);
                }
            }
        }
        let floor = self.page(last.place).id(last.item);
        self.next(assembly, self.positions.clone(), floor)
    }

    /// This snapshot, loaded from the store, in the place of the one that is served: under a version greater than
    /// both, and counting all of that one's pages as replaced.
    pub fn replacing(self, served: &Snapshot, version: u64) -> Snapshot {
        assert!(version > self.version && version > served.version, "version {version}");
        Snapshot { version, replaced_bytes: served.replaced_bytes + served.bytes(), ..self }
    }

    /// The changes that change something, newest id first, each id once.
    fn effective<'a>(&self, changes: &[ItemChange<'a>]) -> Vec<ItemChange<'a>> {
        let mut effective: Vec<ItemChange<'a>> =
            changes.iter().rev().filter(|change| change.id >= self.floor).copied().collect();
        effective.sort_by_key(|change| std::cmp::Reverse(change.id)); // stable: the last one given is the first of its id
        effective.dedup_by_key(|change| change.id);
        effective.retain(|change| self.json(change.id) != change.json);
        effective
    }

    fn next(&self, assembly: Assembly, positions: Box<[u64]>, floor: ItemId) -> Snapshot {
        let version = assembly.version();
        let assembled = assembly.finish();
        Snapshot {
            store_id: self.store_id,
            version,
            positions,
            floor,
            chunks: assembled.chunks,
            replaced_bytes: self.replaced_bytes + assembled.replaced_bytes,
        }
    }

    /// How many items from the front on have at most so many bytes together, commas included.
    fn items_within(&self, bytes_max: u64) -> u64 {
        let chunk_index = self.chunks.slots().partition_point(|slot| slot.end.bytes <= bytes_max);
        let before_chunk = self.chunks.before(chunk_index);
        let Some(chunk) = self.chunks.slots().get(chunk_index) else { return before_chunk.items };
        let chunk: &Chunk = &chunk.node;
        let chunk_bytes_max = bytes_max - before_chunk.bytes;
        let page_index = chunk.slots().partition_point(|slot| slot.end.bytes <= chunk_bytes_max);
        let before_page = chunk.before(page_index);
        // The chunk does not fit as a whole, so one of its pages does not.
        let page: &Page = &chunk.slots()[page_index].node;
        before_chunk.items + before_page.items + page.items_within(chunk_bytes_max - before_page.bytes) as u64
    }
}
