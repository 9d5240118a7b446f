//! One level of the page list: shared nodes, newest first, each beside the totals of all up to and including it.
//!
//! A snapshot is a level of chunks and a chunk is a level of pages, so whatever is asked for is found by two binary
//! searches that touch no page. The summary of a node stands in the node as well, beside its reference count: building
//! a level touches one place per node.

use std::ops::{Add, Sub};
use std::sync::Arc;

use todo_proto::id::ItemId;

use super::ItemChange;

/// How much a run of items is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub items: u64,
    /// JSON with the comma after each item.
    pub bytes: u64,
    /// Sum of the items' hashes modulo 2^64.
    pub sum: u64,
}

/// What a level can hold.
pub(super) trait Node {
    /// The id of the last item; a node that stands in a level has at least one.
    fn oldest(&self) -> ItemId;
    fn totals(&self) -> Totals;
}

pub(super) struct Level<T> {
    slots: Box<[Slot<T>]>,
    oldest: ItemId,
    totals: Totals,
}

pub(super) struct Slot<T> {
    pub node: Arc<T>,
    pub oldest: ItemId,
    /// From the beginning of the level to the end of this node.
    pub end: Totals,
}

impl<T: Node> Level<T> {
    pub fn new(nodes: Vec<Arc<T>>) -> Self {
        let mut totals = Totals::default();
        let slots: Box<[Slot<T>]> = nodes
            .into_iter()
            .map(|node| {
                totals = totals + node.totals();
                Slot { oldest: node.oldest(), end: totals, node }
            })
            .collect();
        let oldest = slots.last().map_or(ItemId::ZERO, |slot| slot.oldest);
        Self { slots, oldest, totals }
    }

    pub fn slots(&self) -> &[Slot<T>] {
        &self.slots
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<T>> {
        self.slots.iter().map(|slot| &slot.node)
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The totals of everything in front of the node.
    pub fn before(&self, index: usize) -> Totals {
        index.checked_sub(1).map_or(Totals::default(), |previous| self.slots[previous].end)
    }

    /// Each node with the changes that belong into it: ids from its oldest on, and behind the last node all that is
    /// left. `changes` are newest first.
    pub fn route<'a>(
        &'a self,
        mut changes: &'a [ItemChange<'a>],
    ) -> impl Iterator<Item = (&'a Arc<T>, &'a [ItemChange<'a>])> {
        self.slots.iter().enumerate().map(move |(index, slot)| {
            let here_count = if index + 1 == self.slots.len() {
                changes.len()
            } else {
                changes.partition_point(|change| change.id >= slot.oldest)
            };
            let (here, rest) = changes.split_at(here_count);
            changes = rest;
            (&slot.node, here)
        })
    }
}

impl<T: Node> Node for Level<T> {
    fn oldest(&self) -> ItemId {
        self.oldest
    }

    fn totals(&self) -> Totals {
        self.totals
    }
}

impl Add for Totals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { items: self.items + other.items, bytes: self.bytes + other.bytes, sum: self.sum.wrapping_add(other.sum) }
    }
}

impl Sub for Totals {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { items: self.items - other.items, bytes: self.bytes - other.bytes, sum: self.sum.wrapping_sub(other.sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Range {
        oldest: u128,
        items: u64,
    }

    impl Node for Range {
        fn oldest(&self) -> ItemId {
            ItemId::from_u128(self.oldest)
        }

        fn totals(&self) -> Totals {
            Totals { items: self.items, bytes: self.items * 10, sum: u64::MAX }
        }
    }

    fn level() -> Level<Range> {
        Level::new(vec![
            Arc::new(Range { oldest: 70, items: 3 }),
            Arc::new(Range { oldest: 40, items: 1 }),
            Arc::new(Range { oldest: 10, items: 2 }),
        ])
    }

    #[test]
    fn totals_run_on_and_the_sum_wraps() {
        let level = level();
        assert_eq!(level.before(0), Totals::default());
        assert_eq!(level.before(2), Totals { items: 4, bytes: 40, sum: u64::MAX - 1 });
        assert_eq!(level.totals(), Totals { items: 6, bytes: 60, sum: u64::MAX - 2 });
        assert_eq!(level.totals() - level.before(2), Totals { items: 2, bytes: 20, sum: u64::MAX });
        assert_eq!(level.oldest(), ItemId::from_u128(10));
    }

    #[test]
    fn each_change_goes_to_the_node_that_covers_its_id() {
        let table: [(&[u128], [usize; 3]); 5] = [
            (&[], [0, 0, 0]),
            (&[99], [1, 0, 0]),
            (&[70, 69], [1, 1, 0]),
            (&[39, 10, 3], [0, 0, 3]),
            (&[80, 75, 40, 12, 0], [2, 1, 2]),
        ];
        for (ids, shares) in table {
            let changes: Vec<ItemChange<'_>> =
                ids.iter().map(|&id| ItemChange { id: ItemId::from_u128(id), json: None }).collect();
            let level = level();
            let routed: Vec<usize> = level.route(&changes).map(|(_, here)| here.len()).collect();
            assert_eq!(routed, shares, "ids {ids:?}");
        }
    }
}
