//! What a connection owes: finished bytes in order, each kept alive by what sends it.
//!
//! Three kinds of bytes leave: a part of a ready-made buffer (shared by everyone who asked the same), a buffer put
//! together for this connection from the shard's [`Pool`], and, above [`COPIED_BODY_BYTES_MAX`], slices of a snapshot.
//! Small neighbours are copied together, so that a mixed batch is one write; equal answers stay one slice of one run.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::limits::{COALESCED_BYTES_MAX, COPIED_BODY_BYTES_MAX, OUTPUT_BYTES_PER_TURN, POOL_FREE_BUFFERS_MAX};
use crate::snapshot::{Slice, Snapshot, Walk};

/// Capacities of the pool's buffers, smallest first; what is larger is allocated as it comes and freed after use.
const CLASSES: [usize; 3] = [8 * 1024, 64 * 1024, OUTPUT_BYTES_PER_TURN + 8 * 1024];

/// A shard's buffers for answers: reused, because unmapping memory interrupts every other core.
#[derive(Clone, Default)]
pub struct Pool {
    state: Rc<PoolState>,
}

#[derive(Default)]
struct PoolState {
    free: [RefCell<Vec<Vec<u8>>>; CLASSES.len()],
    /// Bytes of capacity of all sealed buffers that are alive, each counted once however many send it.
    live_bytes: Cell<usize>,
}

impl Pool {
    /// An empty pool.
    pub fn new() -> Pool {
        Pool::default()
    }

    /// An empty vector that holds at least `capacity` bytes without growing.
    pub fn take(&self, capacity: usize) -> Vec<u8> {
        match CLASSES.iter().position(|class| *class >= capacity) {
            Some(class) => {
                let reused = self.state.free[class].borrow_mut().pop();
                reused.unwrap_or_else(|| Vec::with_capacity(CLASSES[class]))
            }
            None => Vec::with_capacity(capacity),
        }
    }

    /// Gives back what was taken and not sealed.
    pub fn give_back(&self, bytes: Vec<u8>) {
        self.state.give_back(bytes);
    }

    /// Makes `bytes` immutable and shareable. They return to the pool when the last owner is done.
    pub fn seal(&self, bytes: Vec<u8>) -> Rc<Buffer> {
        self.state.live_bytes.set(self.state.live_bytes.get() + bytes.capacity());
        Rc::new(Buffer { bytes, pool: Rc::clone(&self.state) })
    }

    /// Bytes of all sealed buffers that are alive: the ready-made ones, and what clients have not taken.
    pub fn live_bytes(&self) -> usize {
        self.state.live_bytes.get()
    }
}

impl PoolState {
    fn give_back(&self, mut bytes: Vec<u8>) {
        if let Some(class) = CLASSES.iter().position(|class| *class == bytes.capacity()) {
            let mut free = self.free[class].borrow_mut();
            if free.len() < POOL_FREE_BUFFERS_MAX {
                bytes.clear();
                free.push(bytes);
            }
        }
    }
}

/// Immutable bytes of one or more answers.
pub struct Buffer {
    bytes: Vec<u8>,
    pool: Rc<PoolState>,
}

impl Buffer {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it counts against the shard's bounds, in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.live_bytes.set(self.pool.live_bytes.get() - self.bytes.capacity());
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

/// A shard's hold on one snapshot, shared by everything of the shard that is in flight: one reference count of the
/// shard's own instead of one that all cores write to.
pub struct Held {
    /// The snapshot.
    pub snapshot: Arc<Snapshot>,
}

/// A body that leaves as slices of the snapshot it was asked of.
struct Walking {
    held: Rc<Held>,
    walk: Walk,
}

enum Segment {
    /// `start..end` of a buffer, `start < end`.
    Bytes { buffer: Rc<Buffer>, start: u32, end: u32 },
    /// What is still to leave of a large body, at least one byte.
    Slices(Box<Walking>),
}

/// What the mover is to write next.
pub enum Transfer {
    /// `start..end` of `buffer`.
    Bytes {
        /// Keeps the bytes alive until the kernel has them.
        buffer: Rc<Buffer>,
        /// First byte.
        start: usize,
        /// One past the last byte; at most one turn's bytes from `start`.
        end: usize,
    },
    /// At most one turn's bytes of `held` from `walk` on.
    Slices {
        /// Keeps the pages alive until the kernel has them.
        held: Rc<Held>,
        /// Where it stands.
        walk: Walk,
    },
}

/// The bytes that one connection owes its client, in order.
#[derive(Default)]
pub struct Output {
    segments: VecDeque<Segment>,
    /// Bytes being put together behind all segments; taken from the pool by the first small piece.
    open: Vec<u8>,
    /// Bytes not yet taken by the kernel, `open` included.
    owed_bytes: u64,
    /// Bytes that this turn has added, so that no connection holds its shard.
    turn_bytes: usize,
}

impl Output {
    /// Begins a new turn: the bound on what may be added counts from here.
    pub fn begin_turn(&mut self) {
        self.turn_bytes = 0;
    }

    /// Bytes that may still be added in this turn; one answer may pass it.
    pub fn turn_left_bytes(&self) -> usize {
        OUTPUT_BYTES_PER_TURN.saturating_sub(self.turn_bytes)
    }

    /// Whether the client has been given all that it was owed.
    pub fn is_empty(&self) -> bool {
        self.owed_bytes == 0
    }

    /// Bytes that the kernel has not taken yet.
    pub fn owed_bytes(&self) -> u64 {
        self.owed_bytes
    }

    /// Adds `start..end` of a shared buffer.
    pub fn push_shared(&mut self, buffer: &Rc<Buffer>, start: usize, end: usize, pool: &Pool) {
        let bytes = end - start;
        if bytes <= COALESCED_BYTES_MAX && !self.open.is_empty() {
            self.put(&buffer.bytes()[start..end], pool);
            return;
        }
        self.account(bytes);
        self.seal_open(pool);
        // The end of one run and the beginning of the same are not neighbours; only what follows in place is joined.
        if let Some(Segment::Bytes { buffer: last, end: last_end, .. }) = self.segments.back_mut()
            && Rc::ptr_eq(last, buffer)
            && *last_end as usize == start
        {
            *last_end = end as u32;
            return;
        }
        self.segments.push_back(Segment::Bytes { buffer: Rc::clone(buffer), start: start as u32, end: end as u32 });
    }

    /// Adds a small piece by copying it behind what is already there.
    pub fn put(&mut self, piece: &[u8], pool: &Pool) {
        self.reserve(piece.len(), pool).extend_from_slice(piece);
        self.account(piece.len());
    }

    /// Adds up to `bytes_max` bytes that `write` appends: an answer that is put together in place.
    pub fn put_with(&mut self, bytes_max: usize, pool: &Pool, write: impl FnOnce(&mut Vec<u8>)) {
        let open = self.reserve(bytes_max, pool);
        let before = open.len();
        write(open);
        let added = open.len() - before;
        debug_assert!(added <= bytes_max, "the announced bound holds: {added} > {bytes_max}");
        self.account(added);
    }

    /// Adds a large body as slices of the snapshot.
    pub fn push_slices(&mut self, held: &Rc<Held>, slice: &Slice, pool: &Pool) {
        debug_assert!(slice.body_bytes() > COPIED_BODY_BYTES_MAX as u64, "what is smaller is copied");
        self.seal_open(pool);
        self.owed_bytes += slice.body_bytes();
        self.turn_bytes = OUTPUT_BYTES_PER_TURN;
        let walking = Walking { held: Rc::clone(held), walk: slice.walk() };
        self.segments.push_back(Segment::Slices(Box::new(walking)));
    }

    /// What to write next, at most one turn's bytes; `None` when nothing is owed.
    pub fn next(&mut self, pool: &Pool) -> Option<Transfer> {
        if self.segments.is_empty() {
            self.seal_open(pool);
        }
        Some(match self.segments.front()? {
            Segment::Bytes { buffer, start, end } => {
                let (start, end) = (*start as usize, *end as usize);
                let end = end.min(start + OUTPUT_BYTES_PER_TURN);
                Transfer::Bytes { buffer: Rc::clone(buffer), start, end }
            }
            Segment::Slices(walking) => Transfer::Slices { held: Rc::clone(&walking.held), walk: walking.walk },
        })
    }

    /// The kernel has taken `count` bytes of what [`next`](Output::next) gave.
    pub fn written(&mut self, count: usize) {
        self.owed_bytes -= count as u64;
        let done = match self.segments.front_mut().expect("only what was given can be written") {
            Segment::Bytes { start, end, .. } => {
                *start += count as u32;
                debug_assert!(start <= end, "no more than was given");
                start == end
            }
            Segment::Slices(walking) => {
                walking.walk = walking.walk.skip(&walking.held.snapshot, count);
                walking.walk.bytes_left() == 0
            }
        };
        if done {
            self.segments.pop_front();
        }
    }

    /// Drops all that is owed: the connection is being cut.
    pub fn clear(&mut self, pool: &Pool) {
        self.segments.clear();
        pool.give_back(std::mem::take(&mut self.open));
        self.owed_bytes = 0;
    }

    /// The sum of page bytes that had been replaced when the oldest snapshot held here was made; `None` when none is.
    pub fn oldest_held_replaced_bytes(&self) -> Option<u64> {
        self.segments.iter().find_map(|segment| match segment {
            Segment::Slices(walking) => Some(walking.held.snapshot.replaced_bytes()),
            Segment::Bytes { .. } => None,
        })
    }

    fn account(&mut self, bytes: usize) {
        self.owed_bytes += bytes as u64;
        self.turn_bytes += bytes;
    }

    /// The open vector with room for `bytes` more.
    fn reserve(&mut self, bytes: usize, pool: &Pool) -> &mut Vec<u8> {
        if self.open.capacity() - self.open.len() < bytes {
            self.seal_open(pool);
            self.open = pool.take(bytes.max(COALESCED_BYTES_MAX));
            self.absorb_last(bytes);
        }
        &mut self.open
    }

    /// Copies a small last segment in front of the piece that opens the vector: two small writes become one.
    fn absorb_last(&mut self, bytes: usize) {
        if let Some(Segment::Bytes { buffer, start, end }) = self.segments.back() {
            let last = &buffer.bytes()[*start as usize..*end as usize];
            if last.len() <= COALESCED_BYTES_MAX && self.open.capacity() >= last.len() + bytes {
                self.open.extend_from_slice(last);
                self.segments.pop_back();
            }
        }
    }

    fn seal_open(&mut self, pool: &Pool) {
        if self.open.capacity() == 0 {
            return;
        }
        let bytes = std::mem::take(&mut self.open);
        if bytes.is_empty() {
            pool.give_back(bytes);
            return;
        }
        let end = bytes.len() as u32;
        self.segments.push_back(Segment::Bytes { buffer: pool.seal(bytes), start: 0, end });
    }
}
