//! A copy of the store that follows it: a snapshot, and the changes that are not in it yet.

use std::sync::Arc;

use todo_proto::change::{Change, StoreId};
use todo_proto::defects::{Defect, is_on};
use todo_proto::id::ItemId;
use todo_proto::message::{Message, Piece};

use crate::control::feed::Window;
use crate::limits::PIECES_BYTES_MAX;
use crate::snapshot::{ItemChange, Snapshot};

/// A copy of the store at a position for each partition.
pub(super) struct Replica {
    snapshot: Arc<Snapshot>,
    /// With what is fresh; never below those of the snapshot.
    positions: Vec<u64>,
    /// In the order in which they were taken: of several for one item the last counts.
    fresh: Vec<Change>,
    /// By partition, what has come in pieces and is not complete.
    incomplete: Vec<Option<Incomplete>>,
    incomplete_bytes: usize,
    /// The lowest id of a live todo that was taken and not asked about; `ItemId::MAX` for none.
    lowest: ItemId,
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// Its changes are in already.
    Old,
    /// The position is now behind it.
    Moved,
    /// The other pieces are still to come.
    Kept,
    /// What lies before it is missing: ask the store.
    Gap,
}

/// Some of the pieces of one run of positions.
struct Incomplete {
    from: u64,
    to: u64,
    /// By index, whether it is here.
    here: Vec<bool>,
    missing: u32,
    changes: Vec<Change>,
    bytes: usize,
}

impl Replica {
    pub fn new(snapshot: Arc<Snapshot>) -> Replica {
        let positions = snapshot.positions().to_vec();
        let incomplete = positions.iter().map(|_| None).collect();
        Replica { snapshot, positions, fresh: Vec::new(), incomplete, incomplete_bytes: 0, lowest: ItemId::MAX }
    }

    /// Takes what fits of a message that came while nobody served this copy. A gap is seen when the copy is compared with
    /// what is served, or by the next look.
    pub fn catch(&mut self, message: Message) {
        if message.store_id == *self.store_id() {
            for piece in message.pieces {
                let _ = self.take(piece);
            }
        }
    }

    /// PROTOCOL "Load and follow", MESSAGE. A partition that the store does not have is nothing new.
    pub fn take(&mut self, piece: Piece) -> Taken {
        let Piece { part, from, to, count, .. } = piece;
        let Some(&position) = self.positions.get(part as usize) else { return Taken::Old };
        if to <= position {
            return Taken::Old;
        }
        if from > position && !is_on(Defect::GapIgnored) {
            return Taken::Gap;
        }
        let changes = match count {
            1 => piece.changes,
            _ if is_on(Defect::PartsMoveEarly) => piece.changes,
            _ => match self.complete(piece) {
                Some(changes) => changes,
                None => return Taken::Kept,
            },
        };
        self.advance(part, to, changes);
        Taken::Moved
    }

    /// PROTOCOL "Load and follow", REPAIR: everything that changed in `part` above a position that was ours, up to
    /// `position`. False when it is not behind ours: the store was restored, or messages were faster.
    pub fn take_repair(&mut self, part: u32, position: u64, changes: Vec<Change>) -> bool {
        let is_newer = position > self.positions[part as usize];
        if is_newer {
            self.advance(part, position, changes);
        }
        is_newer
    }

    /// The snapshot with everything that is fresh, within `window`.
    pub fn refresh(&mut self, version: u64, window: Window) -> Snapshot {
        let changes: Vec<ItemChange<'_>> =
            self.fresh.iter().map(|change| ItemChange { id: change.id, json: change.json.as_deref() }).collect();
        let newer = self.snapshot.refresh(&changes, self.positions.as_slice().into(), version);
        self.fresh.clear();
        newer.trim(window.items_max, window.bytes_max)
    }

    /// The lowest id of a live todo that was taken since it was asked last; `ItemId::MAX` for none.
    pub fn take_lowest(&mut self) -> ItemId {
        std::mem::replace(&mut self.lowest, ItemId::MAX)
    }

    /// Goes on from `snapshot`, which [`refresh`](Self::refresh) has made.
    pub fn set_snapshot(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = snapshot;
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub fn store_id(&self) -> &StoreId {
        self.snapshot.store_id()
    }

    pub fn positions(&self) -> &[u64] {
        &self.positions
    }

    /// There is something that the snapshot does not have.
    pub fn is_fresh(&self) -> bool {
        self.positions != self.snapshot.positions()
    }

    /// Takes the changes that are newer than the position, and stands at `to`.
    fn advance(&mut self, part: u32, to: u64, changes: Vec<Change>) {
        let position = &mut self.positions[part as usize];
        for change in changes.into_iter().filter(|change| change.revision > *position) {
            if change.json.is_some() {
                self.lowest = self.lowest.min(change.id);
            }
            self.fresh.push(change);
        }
        *position = to;
        let kept = &mut self.incomplete[part as usize];
        if let Some(old) = kept.take_if(|incomplete| incomplete.to <= to) {
            self.incomplete_bytes -= old.bytes;
        }
    }

    /// Keeps a piece; all changes of its run when it was the last one missing. A run that passes the bound is forgotten:
    /// the next message shows the gap, or the next look.
    fn complete(&mut self, piece: Piece) -> Option<Vec<Change>> {
        let Piece { part, from, to, index, count, changes } = piece;
        let place = &mut self.incomplete[part as usize];
        // Two owners may publish at once, and not cut alike: the run that began last is the one that is collected.
        if let Some(other) = place.take_if(|kept| (kept.from, kept.to, kept.here.len()) != (from, to, count as usize)) {
            self.incomplete_bytes -= other.bytes;
        }
        let bytes: usize = changes.iter().map(bytes_of).sum();
        if count as usize > PIECES_BYTES_MAX || self.incomplete_bytes + bytes + count as usize > PIECES_BYTES_MAX {
            if let Some(kept) = place.take() {
                self.incomplete_bytes -= kept.bytes;
            }
            return None;
        }
        let kept = place.get_or_insert_with(|| {
            self.incomplete_bytes += count as usize;
            let here = vec![false; count as usize];
            Incomplete { from, to, here, missing: count, changes: Vec::new(), bytes: count as usize }
        });
        if std::mem::replace(&mut kept.here[index as usize], true) {
            return None;
        }
        self.incomplete_bytes += bytes;
        kept.bytes += bytes;
        kept.changes.extend(changes);
        kept.missing -= 1;
        if kept.missing > 0 {
            return None;
        }
        let complete = place.take()?;
        self.incomplete_bytes -= complete.bytes;
        Some(complete.changes)
    }
}

fn bytes_of(change: &Change) -> usize {
    size_of::<Change>() + change.json.as_ref().map_or(0, |json| json.len())
}
