//! One level of the page list: shared nodes, newest first, each beside the totals of all up to and including it.
//!
//! A snapshot is a level of chunks and a chunk is a level of pages, so whatever is asked for is found by two binary
//! searches that touch no page. What a level knows of a node goes with it into the next level (`Member`), so that
//! sharing a node touches its reference count and nothing else of it. (Loading all counts of a level before they are
//! incremented, so that the cache misses overlap, gained nothing that stood out of the noise.)

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

pub(super) struct Level<T> {
    slots: Box<[Slot<T>]>,
}

pub(super) struct Slot<T> {
    pub node: Arc<T>,
    /// The id of the node's last item.
    pub oldest: ItemId,
    /// From the beginning of the level to the end of this node.
    pub end: Totals,
}

/// A node, which is never empty, and what it amounts to.
pub(super) struct Member<T> {
    pub node: Arc<T>,
    /// The id of its last item.
    pub oldest: ItemId,
    pub totals: Totals,
}

impl<T> Level<T> {
    pub fn new(members: Vec<Member<T>>) -> Self {
        let mut end = Totals::default();
        let slot = |member: Member<T>| {
            end = end + member.totals;
            Slot { node: member.node, oldest: member.oldest, end }
        };
        Self { slots: members.into_iter().map(slot).collect() }
    }

    pub fn slots(&self) -> &[Slot<T>] {
        &self.slots
    }

    /// Every node, shared.
    pub fn members(&self) -> impl Iterator<Item = Member<T>> {
        (0..self.len()).map(|index| self.member(index))
    }

    /// A node, shared. `0 <= index < len`
    pub fn member(&self, index: usize) -> Member<T> {
        let slot = &self.slots[index];
        Member { node: Arc::clone(&slot.node), oldest: slot.oldest, totals: slot.end - self.before(index) }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn totals(&self) -> Totals {
        self.before(self.len())
    }

    /// The totals of everything in front of the node. `0 <= index <= len`
    pub fn before(&self, index: usize) -> Totals {
        index.checked_sub(1).map_or(Totals::default(), |previous| self.slots[previous].end)
    }

    /// The index of each node with the changes that belong into it: ids from its oldest on, and behind the last node
    /// all that is left. `changes` are newest first.
    pub fn route<'a>(
        &'a self,
        mut changes: &'a [ItemChange<'a>],
    ) -> impl Iterator<Item = (usize, &'a [ItemChange<'a>])> {
        self.slots.iter().enumerate().map(move |(index, slot)| {
            let here_count = if index + 1 == self.slots.len() {
                changes.len()
            } else {
                changes.partition_point(|change| change.id >= slot.oldest)
            };
            let (here, rest) = changes.split_at(here_count);
            changes = rest;
            (index, here)
        })
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

    fn level() -> Level<&'static str> {
        let member = |node, oldest, items| Member {
            node: Arc::new(node),
            oldest: ItemId::from_u128(oldest),
            totals: Totals { items, bytes: items * 10, sum: u64::MAX },
        };
        Level::new(vec![member("new", 70, 3), member("middle", 40, 1), member("old", 10, 2)])
    }

    #[test]
    fn totals_run_on_and_the_sum_wraps() {
        let level = level();
        assert_eq!(level.before(0), Totals::default());
        assert_eq!(level.before(2), Totals { items: 4, bytes: 40, sum: u64::MAX - 1 });
        assert_eq!(level.totals(), Totals { items: 6, bytes: 60, sum: u64::MAX - 2 });
        assert_eq!(level.totals() - level.before(2), Totals { items: 2, bytes: 20, sum: u64::MAX });
        let members: Vec<_> =
            level.members().map(|member| (*member.node, member.oldest, member.totals.items)).collect();
        let id = ItemId::from_u128;
        assert_eq!(members, [("new", id(70), 3), ("middle", id(40), 1), ("old", id(10), 2)]);
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
