//! From one snapshot to the next.

use std::cmp::Reverse;

use todo_proto::id::ItemId;

use super::assembly::Assembly;
use super::page;
use super::{ItemChange, Snapshot};
use crate::limits::WINDOW_OVERSHOOT_PERCENT;

impl Snapshot {
    /// The snapshot after these changes. They may come in any order; of several for one id the last wins; one below
    /// the floor, or that changes nothing, is ignored. Only touched pages are made anew.
    ///
    /// `version` must be greater than that of every snapshot before it, `positions` as many as here and none lower.
    pub fn refresh(&self, changes: &[ItemChange<'_>], positions: Box<[u64]>, version: u64) -> Snapshot {
        assert!(version > self.version, "version {version} after {}", self.version);
        assert!(are_reached(&self.positions, &positions), "a position went back");

        let changes = self.effective(changes);
        let key = self.key();
        let mut assembly = Assembly::new(version);
        for (chunk_index, changes) in self.chunks.route(&changes) {
            if changes.is_empty() {
                assembly.push_chunk(self.chunks.member(chunk_index));
                continue;
            }
            let chunk = &self.chunks.slots()[chunk_index].node;
            for (page_index, changes) in chunk.route(changes) {
                if changes.is_empty() {
                    assembly.push_page(chunk.member(page_index));
                } else {
                    let page = &chunk.slots()[page_index].node;
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
        let mut assembly = Assembly::new(self.version);
        for (chunk_index, slot) in self.chunks.slots().iter().enumerate() {
            if chunk_index < last.place.chunk as usize {
                assembly.push_chunk(self.chunks.member(chunk_index));
                continue;
            }
            for (page_index, page) in slot.node.slots().iter().enumerate() {
                let place = (chunk_index, page_index);
                let last_place = (last.place.chunk as usize, last.place.page as usize);
                if place < last_place {
                    assembly.push_page(slot.node.member(page_index));
                    continue;
                }
                assembly.retire(&page.node);
                if place == last_place {
                    let kept: Vec<_> = page.node.items().take(last.item + 1).collect();
                    assembly.push_items(&kept);
                }
            }
        }
        let floor = self.page(last.place).id(last.item);
        self.next(assembly, self.positions.clone(), floor)
    }

    /// This snapshot, loaded from the store, in the place of the one that is served: under a version greater than
    /// both, and counting all of that one's pages as replaced. Of the same store it must have caught up with it.
    pub fn replacing(self, served: &Snapshot, version: u64) -> Snapshot {
        assert!(version > self.version && version > served.version, "version {version}");
        // The count of partitions belongs to the store: with another one it is another store.
        let is_same_store = self.store_id == served.store_id && self.positions.len() == served.positions.len();
        assert!(!is_same_store || are_reached(&served.positions, &self.positions), "a position went back");
        Snapshot { version, replaced_bytes: served.replaced_bytes + served.bytes(), ..self }
    }

    /// The changes that change something, newest id first, each id once.
    fn effective<'a>(&self, changes: &[ItemChange<'a>]) -> Vec<ItemChange<'a>> {
        let mut effective: Vec<ItemChange<'a>> =
            changes.iter().rev().filter(|change| change.id >= self.floor).copied().collect();
        // Stable, so of one id's changes the last one given comes first and stays.
        effective.sort_by_key(|change| Reverse(change.id));
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
        let chunk = &chunk.node;
        let chunk_bytes_max = bytes_max - before_chunk.bytes;
        let page_index = chunk.slots().partition_point(|slot| slot.end.bytes <= chunk_bytes_max);
        let before_page = chunk.before(page_index);
        // The chunk does not fit as a whole, so one of its pages does not.
        let page = &chunk.slots()[page_index].node;
        before_chunk.items + before_page.items + page.items_within(chunk_bytes_max - before_page.bytes) as u64
    }
}

/// No partition stands lower in `new` than in `old`.
fn are_reached(old: &[u64], new: &[u64]) -> bool {
    old.len() == new.len() && old.iter().zip(new).all(|(old, new)| new >= old)
}

#[cfg(test)]
mod tests {
    use super::super::Builder;
    use super::*;

    /// Items 20, 30 and 40 of a store that has more below 20.
    fn window() -> Snapshot {
        let mut builder = Builder::new([1; 16], 4);
        for id in [40u128, 30, 20] {
            builder.push(ItemId::from_u128(id), format!("{{{id}}}").as_bytes());
        }
        builder.finish(vec![5, 7].into(), ItemId::from_u128(20))
    }

    fn body(snapshot: &Snapshot) -> String {
        let mut body = Vec::new();
        snapshot.copy_into(&snapshot.all(), &mut body);
        String::from_utf8(body).expect("text")
    }

    #[test]
    fn changes_take_effect_in_the_order_given() {
        type Row<'a> = (&'a str, &'a [(u128, Option<&'a str>)], &'a str);
        let table: [Row<'_>; 9] = [
            ("nothing", &[], "[{40},{30},{20}]"),
            ("create in front", &[(50, Some("new"))], "[new,{40},{30},{20}]"),
            ("create between", &[(25, Some("new"))], "[{40},{30},new,{20}]"),
            ("any order", &[(25, Some("b")), (50, Some("a")), (30, None)], "[a,{40},b,{20}]"),
            ("the last one wins", &[(30, Some("first")), (40, None), (30, Some("last"))], "[last,{20}]"),
            ("deleted last", &[(30, Some("first")), (30, None)], "[{40},{20}]"),
            ("made again last", &[(30, None), (30, Some("again"))], "[{40},again,{20}]"),
            ("below the floor", &[(19, Some("old")), (3, None)], "[{40},{30},{20}]"),
            ("all deleted", &[(20, None), (30, None), (40, None), (50, None)], "[]"),
        ];
        for (name, changes, expected) in table {
            let changes: Vec<ItemChange<'_>> = changes
                .iter()
                .map(|&(id, json)| ItemChange { id: ItemId::from_u128(id), json: json.map(str::as_bytes) })
                .collect();
            let old = window();
            let new = old.refresh(&changes, vec![6, 7].into(), 5);
            assert_eq!(body(&new), expected, "{name}");
            assert_eq!(body(&old), "[{40},{30},{20}]", "{name}: the old one stays as it is");
            assert_eq!((new.version(), new.positions(), new.floor()), (5, &[6, 7][..], old.floor()), "{name}");
        }
    }

    #[test]
    fn changes_that_change_nothing_share_everything() {
        let old = window();
        let same = ItemChange { id: ItemId::from_u128(30), json: Some(b"{30}") };
        let absent = ItemChange { id: ItemId::from_u128(35), json: None };
        let new = old.refresh(&[same, absent], vec![9, 9].into(), 5);
        assert!(std::ptr::eq(&*old.chunks.slots()[0].node, &*new.chunks.slots()[0].node));
        assert_eq!(new.replaced_bytes(), 0);
    }

    #[test]
    fn a_window_is_cut_back_to_its_bounds() {
        // Twelve items of nine bytes and a comma.
        let mut builder = Builder::new([1; 16], 1);
        for id in (1..=12u128).rev() {
            builder.push(ItemId::from_u128(id), format!("{{{id:07}}}").as_bytes());
        }
        let full = builder.finish(vec![1].into(), ItemId::ZERO);
        let table: [(&str, u32, u64, u32); 8] = [
            ("within both", 12, 120, 12),
            ("5 % over is within", 20, 120, 12),
            ("a byte too long", 100, 119, 11),
            ("far too long", 100, 35, 3),
            ("too many", 11, 1_000, 11),
            ("both, bytes bind", 8, 50, 5),
            ("both, items bind", 4, 50, 4),
            ("no item fits, one stays", 5, 3, 1),
        ];
        for (name, todos_max, bytes_max, kept_count) in table {
            let snapshot = full.refresh(&[], vec![1].into(), 2).trim(todos_max, bytes_max);
            assert_eq!(snapshot.items_count(), kept_count, "{name}");
            let floor = if kept_count == 12 { 0 } else { 13 - u128::from(kept_count) };
            assert_eq!(snapshot.floor(), ItemId::from_u128(floor), "{name}");
            assert_eq!(snapshot.bytes(), 10 * u64::from(kept_count), "{name}");
        }

        // Below the bound times 1.05 nothing goes, above it everything over the bound.
        for (items_count, kept_count) in [(105, 105), (106, 100)] {
            let mut builder = Builder::new([1; 16], 1);
            (1..=items_count).rev().for_each(|id| builder.push(ItemId::from_u128(id), b"{}"));
            let snapshot = builder.finish(vec![1].into(), ItemId::ZERO).trim(100, u64::MAX);
            assert_eq!(snapshot.items_count(), kept_count);
        }
        assert_eq!(Snapshot::empty([1; 16], 1).trim(1, 1).items_count(), 0);
    }

    #[test]
    fn a_version_or_a_position_that_goes_back_is_refused() {
        let table: [(u64, &[u64]); 4] = [(4, &[5, 7]), (3, &[5, 7]), (5, &[5, 6]), (5, &[5])];
        for (version, positions) in table {
            let positions = positions.into();
            let refused = std::panic::catch_unwind(|| window().refresh(&[], positions, version));
            assert!(refused.is_err(), "version {version}");
        }
    }

    #[test]
    fn a_loaded_snapshot_must_have_caught_up_with_the_served_one() {
        let load = |store_id, positions: &[u64]| Builder::new([store_id; 16], 1).finish(positions.into(), ItemId::ZERO);
        let table: [(&str, Snapshot, u64, bool); 6] = [
            ("equal", load(1, &[5, 7]), 5, true),
            ("ahead", load(1, &[5, 9]), 5, true),
            ("behind", load(1, &[4, 9]), 5, false),
            ("another count of partitions, so another store", load(1, &[9]), 5, true),
            ("under an old version", load(1, &[5, 7]), 4, false),
            ("another store", load(2, &[0]), 5, true),
        ];
        for (name, loaded, version, is_taken) in table {
            let served = window();
            let expected_bytes = served.bytes();
            let taken = std::panic::catch_unwind(|| loaded.replacing(&served, version));
            assert_eq!(taken.is_ok(), is_taken, "{name}");
            if let Ok(taken) = taken {
                assert_eq!((taken.version(), taken.replaced_bytes()), (version, expected_bytes), "{name}");
            }
        }
    }
}
