//! What a connection owes: finished bytes in order, each kept alive by what sends it.
//!
//! Three kinds of bytes leave: a part of a ready-made buffer (shared by everyone who asked the same), a buffer put
//! together for this connection from the shard's [`Pool`], and, above [`COPIED_BODY_BYTES_MAX`], slices of a snapshot.
//! A ready-made buffer may have a second form, a file with the same bytes: large parts of it then leave without a copy.
//! Small neighbours are copied together, so that a mixed batch is one write; equal answers stay one slice of one run.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::limits::{
    COALESCED_BYTES_MAX, COPIED_BODY_BYTES_MAX, FILE_AFTER_WRITES, FILE_WRITE_BYTES_MIN, OUTPUT_BYTES_PER_TURN,
    POOL_FREE_BUFFERS_MAX,
};
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
    /// Buffers that have no bytes any more: what is shared is allocated too, so it is used again as well.
    shells: RefCell<Vec<Rc<Buffer>>>,
    /// Bytes of capacity of all sealed buffers that are alive, each counted once however many send it.
    live_bytes: Cell<usize>,
    /// Files that buffers may still get.
    files_left: Cell<usize>,
    /// Bytes of the files that are open.
    file_bytes: Cell<usize>,
}

impl Pool {
    /// An empty pool, whose buffers have no files.
    pub fn new() -> Pool {
        Pool::default()
    }

    /// An empty pool. At most `files_max` of its buffers have a file at once.
    pub fn with_files(files_max: usize) -> Pool {
        let pool = Pool::default();
        pool.state.files_left.set(files_max);
        pool
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
        self.seal_as(bytes, false)
    }

    /// As [`seal`](Pool::seal), for bytes that many requests will be answered with.
    pub fn seal_ready_made(&self, bytes: Vec<u8>) -> Rc<Buffer> {
        self.seal_as(bytes, true)
    }

    fn seal_as(&self, bytes: Vec<u8>, is_ready_made: bool) -> Rc<Buffer> {
        self.state.live_bytes.set(self.state.live_bytes.get() + bytes.capacity());
        let pool = Some(Rc::clone(&self.state));
        let sealed = Buffer { bytes, pool, is_ready_made, large_writes: Cell::new(0), file: OnceCell::new() };
        let shell = self.state.shells.borrow_mut().pop();
        match shell {
            Some(mut shell) => {
                *Rc::get_mut(&mut shell).expect("nobody else has a shell") = sealed;
                shell
            }
            None => Rc::new(sealed),
        }
    }

    /// Takes back what one owner has done with. If that was the last one, the next [`seal`](Pool::seal) allocates
    /// nothing; dropping it instead is no fault.
    pub fn recycle(&self, mut buffer: Rc<Buffer>) {
        let Some(last) = Rc::get_mut(&mut buffer) else { return };
        last.let_go();
        let mut shells = self.state.shells.borrow_mut();
        if shells.len() < POOL_FREE_BUFFERS_MAX {
            shells.push(buffer);
        }
    }

    /// Bytes of all sealed buffers that are alive: the ready-made ones, and what clients have not taken.
    pub fn live_bytes(&self) -> usize {
        self.state.live_bytes.get()
    }

    /// Bytes of all files of buffers that are alive.
    pub fn file_bytes(&self) -> usize {
        self.state.file_bytes.get()
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
    /// Where the bytes go; `None` when they have gone.
    pool: Option<Rc<PoolState>>,
    is_ready_made: bool,
    /// Large writes of these bytes so far; counts no further than is asked about.
    large_writes: Cell<u8>,
    /// The same bytes.
    file: OnceCell<OwnedFd>,
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

    /// A file that holds the same bytes, if it has been given one.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.get().map(AsFd::as_fd)
    }

    /// Counts a write of `bytes` of it; whether a file would pay from now on. Only what many will ask for is worth the
    /// making, and only if it is asked for again before it is replaced.
    pub fn deserves_file(&self, bytes: usize) -> bool {
        if bytes < FILE_WRITE_BYTES_MIN || !self.is_ready_made || self.file.get().is_some() {
            return false;
        }
        let writes = self.large_writes.get() + 1;
        if writes < FILE_AFTER_WRITES {
            self.large_writes.set(writes);
            return false;
        }
        self.pool.as_ref().is_some_and(|pool| pool.files_left.get() > 0)
    }

    /// Gives it a file, which must hold the same bytes and never change.
    pub fn attach_file(&self, file: OwnedFd) {
        let Some(pool) = &self.pool else { return };
        if self.file.set(file).is_ok() {
            pool.files_left.set(pool.files_left.get() - 1);
            pool.file_bytes.set(pool.file_bytes.get() + self.bytes.len());
        }
    }

    /// Another attempt to make a file waits as long as the first.
    pub fn no_file_now(&self) {
        self.large_writes.set(0);
    }

    fn let_go(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.live_bytes.set(pool.live_bytes.get() - self.bytes.capacity());
            if self.file.take().is_some() {
                // What is still on its way keeps the pages, not the file.
                pool.files_left.set(pool.files_left.get() + 1);
                pool.file_bytes.set(pool.file_bytes.get() - self.bytes.len());
            }
            pool.give_back(std::mem::take(&mut self.bytes));
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.let_go();
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

/// Five thousand idle connections keep the few segments of their last batch.
const _: () = assert!(size_of::<Segment>() <= 24);

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
        if self.open.is_empty() {
            match self.segments.back_mut() {
                // The end of one run and the beginning of the same are not neighbours, only what follows in place is.
                Some(Segment::Bytes { buffer: last, end: last_end, .. })
                    if Rc::ptr_eq(last, buffer) && *last_end as usize == start =>
                {
                    *last_end = end as u32;
                    return self.account(bytes);
                }
                // Two small answers to different questions: copied together, a mixed batch is one write.
                Some(Segment::Bytes { start, end, .. })
                    if bytes <= COALESCED_BYTES_MAX && (*end - *start) as usize <= COALESCED_BYTES_MAX => {}
                _ => return self.push_segment(buffer, start, end, pool),
            }
        } else if bytes > COALESCED_BYTES_MAX {
            return self.push_segment(buffer, start, end, pool);
        }
        self.put(&buffer.bytes()[start..end], pool);
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

    /// What to write next, at most one turn's bytes; `None` when nothing is owed. Until [`written`](Output::written) or
    /// [`clear`](Output::clear) nothing may be added.
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
    pub fn written(&mut self, count: usize, pool: &Pool) {
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
        if done && let Some(Segment::Bytes { buffer, .. }) = self.segments.pop_front() {
            pool.recycle(buffer);
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

    fn push_segment(&mut self, buffer: &Rc<Buffer>, start: usize, end: usize, pool: &Pool) {
        self.account(end - start);
        self.seal_open(pool);
        self.segments.push_back(Segment::Bytes { buffer: Rc::clone(buffer), start: start as u32, end: end as u32 });
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
            self.absorb_last(bytes, pool);
        }
        &mut self.open
    }

    /// Copies a small last segment in front of the piece that opens the vector: two small writes become one.
    fn absorb_last(&mut self, bytes: usize, pool: &Pool) {
        if let Some(Segment::Bytes { buffer, start, end }) = self.segments.back() {
            let last = &buffer.bytes()[*start as usize..*end as usize];
            if last.len() <= COALESCED_BYTES_MAX && self.open.capacity() >= last.len() + bytes {
                self.open.extend_from_slice(last);
                if let Some(Segment::Bytes { buffer, .. }) = self.segments.pop_back() {
                    pool.recycle(buffer);
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Letter and length of each piece.
    type Pieces<'a> = &'a [(u8, usize)];

    /// An output beside the bytes that it should send.
    #[derive(Default)]
    struct Checked {
        output: Output,
        pool: Pool,
        expected: Vec<u8>,
    }

    impl Checked {
        fn put(&mut self, byte: u8, bytes: usize) {
            let piece = vec![byte; bytes];
            self.output.put(&piece, &self.pool);
            self.expected.extend_from_slice(&piece);
        }

        fn share(&mut self, buffer: &Rc<Buffer>, start: usize, end: usize) {
            self.output.push_shared(buffer, start, end, &self.pool);
            self.expected.extend_from_slice(&buffer.bytes()[start..end]);
        }

        fn buffer(&self, byte: u8, bytes: usize) -> Rc<Buffer> {
            let mut made = self.pool.take(bytes);
            made.resize(bytes, byte);
            self.pool.seal(made)
        }

        /// Takes everything in writes of at most `bytes_max`; how many transfers began.
        fn take_all(&mut self, bytes_max: usize) -> usize {
            let (mut sent, mut transfers) = (Vec::new(), 0);
            let mut left_of_transfer = 0;
            while let Some(Transfer::Bytes { buffer, start, end }) = self.output.next(&self.pool) {
                assert_eq!(self.output.owed_bytes() as usize, self.expected.len() - sent.len());
                assert!(!self.output.is_empty());
                if left_of_transfer == 0 {
                    transfers += 1;
                    left_of_transfer = end - start;
                }
                let count = bytes_max.min(end - start);
                sent.extend_from_slice(&buffer.bytes()[start..start + count]);
                left_of_transfer -= count;
                drop(buffer);
                self.output.written(count, &self.pool);
            }
            assert!(sent == std::mem::take(&mut self.expected), "the bytes are those that were added, in order");
            assert!(self.output.is_empty());
            transfers
        }
    }

    #[test]
    fn neighbours_are_one_write_where_copying_is_cheaper() {
        let large = COALESCED_BYTES_MAX + 1;
        let cases: [(&str, Pieces<'_>, usize); 8] = [
            // Shared pieces are in lower case, put ones in upper case.
            ("one", &[(b'a', 10)], 1),
            ("alternating", &[(b'a', 10), (b'b', 20), (b'a', 10), (b'b', 20)], 1),
            ("shared and put", &[(b'a', 10), (b'P', 20), (b'a', 10)], 1),
            ("small behind large", &[(b'a', large), (b'b', 20), (b'a', 10)], 2),
            ("large behind small", &[(b'b', 20), (b'c', 10), (b'a', large)], 2),
            ("two large", &[(b'a', large), (b'b', large)], 2),
            ("put beside large", &[(b'P', 10), (b'a', large), (b'P', 10)], 3),
            ("many put", &[(b'P', 30_000), (b'P', 30_000), (b'P', 30_000)], 2),
        ];
        for (name, pieces, transfers) in cases {
            for bytes_max in [usize::MAX, 7, 1_000] {
                let mut checked = Checked::default();
                let buffers: Vec<_> = pieces.iter().map(|(byte, bytes)| checked.buffer(*byte, *bytes)).collect();
                for ((byte, bytes), buffer) in pieces.iter().zip(&buffers) {
                    if byte.is_ascii_uppercase() {
                        checked.put(*byte, *bytes);
                    } else {
                        checked.share(buffer, 0, *bytes);
                    }
                }
                let found = checked.take_all(bytes_max);
                assert!(found == transfers || bytes_max < usize::MAX, "{name}: {found} writes");
                drop(buffers);
                assert_eq!(checked.pool.live_bytes(), 0, "{name}");
            }
        }
    }

    #[test]
    fn what_follows_in_the_same_buffer_is_the_same_slice() {
        let mut checked = Checked::default();
        let run = checked.buffer(b'r', 200_000);
        checked.share(&run, 0, 50_000);
        checked.share(&run, 50_000, 50_010);
        checked.share(&run, 50_010, 150_000);
        assert_eq!(checked.take_all(usize::MAX), 1);
        checked.share(&run, 0, 50_000);
        checked.share(&run, 0, 50_000);
        assert_eq!(checked.take_all(usize::MAX), 2, "the end of one run and the beginning of the same");
    }

    #[test]
    fn a_transfer_is_at_most_one_turn() {
        let mut checked = Checked::default();
        let large = checked.buffer(b'l', 3 * OUTPUT_BYTES_PER_TURN);
        checked.share(&large, 0, 3 * OUTPUT_BYTES_PER_TURN);
        assert_eq!(checked.take_all(usize::MAX), 3);
    }

    #[test]
    fn a_turn_counts_what_is_added() {
        let mut checked = Checked::default();
        let large = checked.buffer(b'l', OUTPUT_BYTES_PER_TURN);
        assert_eq!(checked.output.turn_left_bytes(), OUTPUT_BYTES_PER_TURN);
        checked.put(b'P', 100);
        assert_eq!(checked.output.turn_left_bytes(), OUTPUT_BYTES_PER_TURN - 100);
        checked.share(&large, 0, OUTPUT_BYTES_PER_TURN);
        assert_eq!(checked.output.turn_left_bytes(), 0, "one answer may pass it");
        checked.output.begin_turn();
        assert_eq!(checked.output.turn_left_bytes(), OUTPUT_BYTES_PER_TURN);
        assert_eq!(checked.take_all(usize::MAX), 2);
    }

    #[test]
    fn buffers_are_used_again() {
        let pool = Pool::new();
        for class in CLASSES {
            let mut bytes = pool.take(class);
            assert_eq!(bytes.capacity(), class);
            bytes.push(1);
            let (place, buffer) = (bytes.as_ptr(), pool.seal(bytes));
            assert_eq!((pool.live_bytes(), buffer.capacity()), (class, class));
            let second_owner = Rc::clone(&buffer);
            pool.recycle(buffer);
            assert_eq!(pool.live_bytes(), class, "one owner is left");
            pool.recycle(second_owner);
            assert_eq!(pool.live_bytes(), 0);
            let again = pool.take(class);
            assert_eq!((again.as_ptr(), again.len()), (place, 0), "the same bytes, emptied");
        }
        let larger = pool.take(CLASSES[2] + 1);
        drop(pool.seal(larger));
        assert_eq!(pool.live_bytes(), 0, "what is of no class is freed");
        for _ in 0..2 {
            let taken: Vec<_> = (0..2 * POOL_FREE_BUFFERS_MAX).map(|_| pool.seal(pool.take(1))).collect();
            taken.into_iter().for_each(|buffer| pool.recycle(buffer));
            assert!(pool.state.free[0].borrow().len() <= POOL_FREE_BUFFERS_MAX, "more are freed");
            assert!(pool.state.shells.borrow().len() <= POOL_FREE_BUFFERS_MAX);
        }
    }

    #[test]
    fn what_is_cut_gives_everything_back() {
        let mut checked = Checked::default();
        checked.put(b'P', 10);
        let in_flight = checked.output.next(&checked.pool);
        assert!(matches!(in_flight, Some(Transfer::Bytes { start: 0, end: 10, .. })));
        checked.put(b'P', 10);
        checked.output.clear(&checked.pool);
        assert!(checked.output.is_empty());
        assert!(checked.pool.live_bytes() > 0, "the kernel may still read");
        drop(in_flight);
        assert_eq!(checked.pool.live_bytes(), 0);
    }
}
