//! A write done: what the feed carries from the store to the snapshots, and which of it a follower takes.

use crate::id::ItemId;

/// A store's name everywhere; a follower takes changes of its own store only.
pub type StoreId = [u8; 16];

/// What one item has become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The item.
    pub id: ItemId,
    /// The position of the last command that changed it: larger is later.
    pub revision: u64,
    /// The item's JSON; `None` when it was deleted.
    pub json: Option<Box<[u8]>>,
}

/// What happened to one partition from one position to another; each item stands in it once, as it is at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The store it happened in.
    pub store_id: StoreId,
    /// The partition.
    pub part: u32,
    /// The position before, not included. `from <= to`.
    pub from: u64,
    /// The position after, included.
    pub to: u64,
    /// In ascending order of ids; empty when the commands changed nothing.
    pub changes: Vec<Change>,
}

/// What a follower at some position does with changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It has all of them already.
    Old,
    /// It takes those with a revision above its position, and stands at `to`.
    Next,
    /// It has missed what lies between, and asks the store.
    Gap,
}

impl Changes {
    /// How these changes fit a follower that has everything up to `position`: taken only if `from <= position < to`.
    pub fn fit(&self, position: u64) -> Fit {
        if self.to <= position {
            Fit::Old
        } else if self.from <= position {
            Fit::Next
        } else {
            Fit::Gap
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_touches_the_position_is_taken() {
        let changes = Changes { store_id: [1; 16], part: 0, from: 10, to: 20, changes: Vec::new() };
        for (position, expected) in
            [(0, Fit::Gap), (9, Fit::Gap), (10, Fit::Next), (19, Fit::Next), (20, Fit::Old), (21, Fit::Old)]
        {
            assert_eq!(changes.fit(position), expected, "at {position}");
        }
        let nothing = Changes { from: 10, to: 10, ..changes };
        assert_eq!(nothing.fit(10), Fit::Old);
    }
}
