//! Follows a store in another process: PROTOCOL "Load and follow".
//!
//! ```text
//! load        positions and the newest todos, of one moment         -> a snapshot, served
//! for ever:
//!     message     continues a position: its changes go in            -> a newer snapshot, served
//!     look        every 400 ms: where does the store stand?
//!     repair      a position that a message skipped, or a look knows and no message brought: ask for the changes
//! ```
//!
//! What the code adds, and what each buys:
//!
//! 1. The decisions are [`Follow`], which neither waits nor asks a clock: [`drive`] tells it what was heard and read, and
//!    does what it [asks](Follow::ask).
//! 2. A position that the *last* look saw and that is still not reached is repaired; the newest one sees what is still
//!    on its way. While no messages come, or some may be missing, the newest counts.
//! 3. A load beside a served snapshot keeps the messages that come meanwhile (bounded; dropping is safe), then repairs
//!    until no position is lower than the served one's, or than that of any read that the store has answered: for no
//!    client does anything go back. The served snapshot goes on following until it is replaced.
//! 4. Changes below the window's floor only move the position. A window that has outgrown its bounds is trimmed with the
//!    snapshot that outgrew it; one that has shrunk under half of both, with older todos in the store, is loaded anew.
//! 5. Another store's id means another store: nothing of the old one is compared with it.

pub mod drive;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod replica;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use todo_proto::change::StoreId;
use todo_proto::id::ItemId;
use todo_proto::message::Message;
use todo_worker::messages::Heard;
use todo_worker::reads::{Look, Repair};

use crate::control::feed::Window;
use crate::limits::LOADING_MESSAGES_BYTES_MAX;
use crate::snapshot::Snapshot;
use replica::{Replica, Taken};

/// What a follower knows and wants. Told of everything that happens, in order; decides what is asked of the store and
/// what is served.
pub struct Follow {
    window: Window,
    /// `None` before the first load.
    served: Option<Replica>,
    load: Load,
    channel: Channel,
    /// Messages may be missing: what the next look sees is repaired at once.
    is_suspicious: bool,
    last_look: Option<Look>,
    /// Partitions of the served copy that are to be repaired.
    repairs: BTreeSet<u32>,
    version: u64,
    counts: FollowCounts,
    /// No live todo below this is in the store, nor in anything taken since; `None` while nobody knows.
    oldest: Option<ItemId>,
    /// The lowest id of a live todo taken since the last look was asked for: that look may not have seen it.
    lowest_since_asked: ItemId,
}

/// Positions that reads of the store have shown to clients: no snapshot that covers the same todos may be lower.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shown {
    store_id: StoreId,
    positions: Vec<u64>,
}

/// What is asked of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    of: Which,
    /// The partition.
    pub part: u32,
    /// The position above which its changes are wanted.
    pub above: u64,
}

/// How often each thing happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FollowCounts {
    /// Messages that were read.
    pub messages: u64,
    /// Messages that could not be: of a later version, or of nobody's.
    pub unreadable: u64,
    /// Messages whose predecessor was missing.
    pub gaps: u64,
    /// Times that messages were dropped here.
    pub missed: u64,
    /// Times that the channel went away.
    pub away: u64,
    /// Repairs that brought a position forward.
    pub repairs: u64,
    /// Snapshots loaded and served.
    pub loads: u64,
}

/// Whose changes are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Served,
    Loaded,
}

enum Load {
    /// None is wanted.
    None,
    Wanted,
    /// The store is being read; these messages came meanwhile.
    Reading {
        messages: Vec<Message>,
        bytes: usize,
    },
    /// It is read, and repaired up to what is served. Of these partitions the store was asked since the last look.
    Catching {
        copy: Replica,
        asked: BTreeSet<u32>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    /// It has said nothing yet.
    Unknown,
    Open,
    Away,
}

impl Follow {
    /// Follows from nothing: a load is wanted. The first snapshot has a version above `version`.
    pub fn new(window: Window, version: u64) -> Follow {
        Follow {
            window,
            served: None,
            load: Load::Wanted,
            channel: Channel::Unknown,
            is_suspicious: false,
            last_look: None,
            repairs: BTreeSet::new(),
            version,
            counts: FollowCounts::default(),
            oldest: None,
            lowest_since_asked: ItemId::ZERO,
        }
    }

    /// Something happened at the source of messages.
    pub fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Message(bytes) => match Message::decode(&bytes) {
                Ok(message) => self.on_message(message, bytes.len()),
                Err(error) => {
                    tracing::debug!(%error, "a message is left out; what it said is repaired");
                    self.counts.unreadable += 1;
                }
            },
            Heard::Subscribed => {
                self.channel = Channel::Open;
                self.is_suspicious = true;
            }
            Heard::Missed => {
                self.counts.missed += 1;
                self.is_suspicious = true;
            }
            Heard::Away(_) => {
                self.counts.away += u64::from(self.channel != Channel::Away);
                self.channel = Channel::Away;
            }
        }
    }

    /// A look is asked for.
    pub fn asks_look(&mut self) {
        self.lowest_since_asked = ItemId::MAX;
    }

    /// A look is answered.
    pub fn looked(&mut self, look: Look) {
        self.oldest = Some(look.oldest.unwrap_or(ItemId::MAX).min(self.lowest_since_asked));
        let is_at_once = self.is_suspicious || self.channel == Channel::Away;
        self.is_suspicious = false;
        if let Load::Catching { copy, asked } = &mut self.load {
            asked.clear();
            if is_of_another(copy, &look) {
                self.load = Load::Wanted;
            }
        }
        if let Some(served) = &self.served {
            let last = if is_at_once { Some(&look) } else { self.last_look.as_ref() };
            if is_of_another(served, &look) || self.could_hold_more(&look) {
                self.want_load();
            } else if let Some(last) = last.filter(|last| !is_of_another(served, last)) {
                self.repairs.extend(
                    (0..)
                        .zip(behind(served.positions(), &last.stand.positions))
                        .filter_map(|(part, is_behind)| is_behind.then_some(part)),
                );
            }
        }
        self.last_look = Some(look);
    }

    /// A load is wanted, and the channel has said whether messages come: what is published from now on is not missed.
    pub fn wants_load(&self) -> bool {
        matches!(self.load, Load::Wanted) && self.channel != Channel::Unknown
    }

    /// The channel says nothing: it is not waited for any longer.
    pub fn give_channel_up(&mut self) {
        if self.channel == Channel::Unknown {
            self.channel = Channel::Away;
        }
    }

    /// A load begins; its snapshot has this version.
    pub fn begin_load(&mut self) -> u64 {
        self.load = Load::Reading { messages: Vec::new(), bytes: 0 };
        self.next_version()
    }

    /// The load was read.
    pub fn loaded(&mut self, snapshot: Snapshot) {
        let Load::Reading { messages, .. } = std::mem::replace(&mut self.load, Load::None) else { return };
        let mut copy = Replica::new(Arc::new(snapshot));
        for message in messages {
            copy.catch(message);
        }
        self.load = Load::Catching { copy, asked: BTreeSet::new() };
    }

    /// The load could not be read.
    pub fn load_failed(&mut self) {
        self.load = Load::Wanted;
    }

    /// What to ask of the store next; each is asked once.
    pub fn ask(&mut self, shown: &Shown) -> Option<Ask> {
        if let Some(served) = &self.served
            && let Some(part) = self.repairs.pop_first()
        {
            return Some(Ask { of: Which::Served, part, above: served.positions()[part as usize] });
        }
        let Load::Catching { copy, asked } = &mut self.load else { return None };
        let mut parts = (0..).zip(lower(copy, self.served.as_ref(), shown));
        let part = parts.find_map(|(part, is_lower)| (is_lower && !asked.contains(&part)).then_some(part))?;
        asked.insert(part);
        Some(Ask { of: Which::Loaded, part, above: copy.positions()[part as usize] })
    }

    /// What was asked for is answered.
    pub fn repaired(&mut self, ask: Ask, repair: Repair) {
        let copy = match (ask.of, &mut self.load, &mut self.served) {
            (Which::Loaded, Load::Catching { copy, .. }, _) | (Which::Served, _, Some(copy)) => copy,
            // It was given up, or replaced, meanwhile.
            _ => return,
        };
        match repair {
            Repair::Changes { store_id, position, changes } if store_id == *copy.store_id() => {
                // The copy may be another than the one that asked, and lower: what lies between was not asked for.
                if copy.positions().get(ask.part as usize).is_some_and(|mine| *mine >= ask.above) {
                    self.counts.repairs += u64::from(copy.take_repair(ask.part, position, changes));
                    self.note_lowest();
                }
            }
            Repair::Changes { .. } | Repair::TooMuch => match ask.of {
                Which::Loaded => self.load = Load::Wanted,
                Which::Served => self.want_load(),
            },
        }
    }

    /// Puts what was loaded in the place of what is served, once it may be, and returns what is to be served at once:
    /// before another read of the store is answered.
    pub fn replace(&mut self, shown: &Shown) -> Option<Arc<Snapshot>> {
        let Load::Catching { copy, .. } = &self.load else { return None };
        if lower(copy, self.served.as_ref(), shown).any(|is_lower| is_lower) {
            return None;
        }
        let Load::Catching { mut copy, .. } = std::mem::replace(&mut self.load, Load::None) else { return None };
        let newer = copy.refresh(self.next_version(), self.window);
        let newer = match &self.served {
            None => newer,
            Some(served) => newer.replacing(served.snapshot(), self.version + 1),
        };
        self.version += 1;
        let newer = Arc::new(newer);
        copy.set_snapshot(Arc::clone(&newer));
        self.served = Some(copy);
        // What was to be repaired was so of the copy that has gone; the next look knows of this one.
        self.repairs.clear();
        self.last_look = None;
        // A look that is on its way may be older than what was loaded.
        (self.oldest, self.lowest_since_asked) = (None, ItemId::ZERO);
        self.counts.loads += 1;
        Some(newer)
    }

    /// There is something newer than what was refreshed last.
    pub fn is_fresh(&self) -> bool {
        self.served.as_ref().is_some_and(Replica::is_fresh)
    }

    /// What is to be served from now on. There is something: [`is_fresh`](Self::is_fresh).
    pub fn refresh(&mut self) -> Arc<Snapshot> {
        let version = self.next_version();
        let served = self.served.as_mut().expect("what is fresh was loaded");
        let newer = Arc::new(served.refresh(version, self.window));
        served.set_snapshot(Arc::clone(&newer));
        newer
    }

    /// No todo below this is live, neither in the store nor in what is served; `None` while nobody knows.
    pub fn oldest(&self) -> Option<ItemId> {
        self.oldest
    }

    /// Whether messages are believed to come.
    pub fn hears(&self) -> bool {
        self.channel == Channel::Open
    }

    /// Whether the channel has said anything.
    pub fn has_heard(&self) -> bool {
        self.channel != Channel::Unknown
    }

    /// How often each thing happened.
    pub fn counts(&self) -> FollowCounts {
        self.counts
    }

    fn on_message(&mut self, message: Message, bytes: usize) {
        self.counts.messages += 1;
        match &mut self.load {
            Load::Reading { messages, bytes: kept } if *kept + bytes <= LOADING_MESSAGES_BYTES_MAX => {
                *kept += bytes;
                messages.push(message.clone());
            }
            Load::Catching { copy, .. } => copy.catch(message.clone()),
            Load::None | Load::Wanted | Load::Reading { .. } => {}
        }
        let Some(served) = self.served.as_mut().filter(|served| message.store_id == *served.store_id()) else { return };
        for piece in message.pieces {
            let part = piece.part;
            if served.take(piece) == Taken::Gap {
                self.counts.gaps += 1;
                self.repairs.insert(part);
            }
        }
        self.note_lowest();
    }

    /// What was just taken is in the store, whatever the looks say.
    fn note_lowest(&mut self) {
        let Some(served) = &mut self.served else { return };
        let lowest = served.take_lowest();
        self.lowest_since_asked = self.lowest_since_asked.min(lowest);
        self.oldest = self.oldest.map(|oldest| oldest.min(lowest));
    }

    /// The window is under half of both its bounds, and the store has older todos.
    fn could_hold_more(&self, look: &Look) -> bool {
        let Some(served) = &self.served else { return false };
        let snapshot = served.snapshot();
        let is_small = 2 * u64::from(snapshot.items_count()) < u64::from(self.window.items_max)
            && 2 * snapshot.bytes() < self.window.bytes_max;
        is_small && snapshot.floor() > ItemId::ZERO && look.oldest.is_some_and(|oldest| oldest < snapshot.floor())
    }

    /// One that is under way will do: what made it wanted is compared with it in its turn.
    fn want_load(&mut self) {
        if matches!(self.load, Load::None) {
            self.load = Load::Wanted;
        }
    }

    fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

impl Shown {
    /// Notes what a client is about to see. What another store has shown before counts no more.
    pub fn note(&mut self, store_id: StoreId, positions: &[u64]) {
        if self.store_id != store_id || self.positions.len() != positions.len() {
            *self = Shown { store_id, positions: positions.to_vec() };
            return;
        }
        self.positions.iter_mut().zip(positions).for_each(|(mine, shown)| *mine = (*mine).max(*shown));
    }

    /// By partition.
    pub fn positions(&self) -> &[u64] {
        &self.positions
    }
}

/// Another store, or one that has become another.
fn is_of_another(copy: &Replica, look: &Look) -> bool {
    *copy.store_id() != look.stand.store_id || copy.positions().len() != look.stand.positions.len()
}

/// By partition, whether `mine` is lower than `theirs`.
fn behind<'a>(mine: &'a [u64], theirs: &'a [u64]) -> impl Iterator<Item = bool> + 'a {
    mine.iter().zip(theirs).map(|(mine, theirs)| mine < theirs)
}

/// By partition, whether a client could see the loaded copy as something older than what it has seen before.
fn lower<'a>(copy: &'a Replica, served: Option<&'a Replica>, shown: &'a Shown) -> impl Iterator<Item = bool> + 'a {
    let served = served.filter(|served| served.store_id() == copy.store_id()).map_or(&[][..], Replica::positions);
    let shown = if shown.store_id == *copy.store_id() { shown.positions.as_slice() } else { &[] };
    copy.positions().iter().enumerate().map(move |(part, mine)| {
        let seen = |positions: &[u64]| positions.get(part).copied().unwrap_or(0);
        *mine < seen(served).max(seen(shown))
    })
}
