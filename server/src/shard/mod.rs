//! The data plane: one thread per core, each with its own listener, its own view of the data, its own connections.
//! It waits and moves bytes; what the bytes mean is decided in [`crate::http`] and [`crate::snapshot`].
//!
//! - [`io`]: the one file that knows the runtime.
//! - [`accept`]: connections come in.
//! - [`connection`]: one connection's bytes, between its socket and its state machine.
//! - `file`: ready-made responses as files, for the kernel to send without a copy.
//! - `renewal`: connections are looked up again when limits change.
//! - `sampling`: which batch is timed.
//! - `sweep`: time, deadlines and bounds, twenty times a second.
//! - [`deadlines`]: the timing wheel.

pub mod accept;
pub mod connection;

pub mod deadlines;
mod file;
pub mod io;
mod renewal;
mod sampling;
mod sweep;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, TcpListener};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;

use slab::Slab;
use todo_proto::id::IdSource;

use crate::admission::purses::{Admitted, Purses};
use crate::admission::{Grant, Limits};
use crate::bridge::{FromControl, Moves, Settled, Ticket, ToControl};
use crate::counters::ShardCounters;
use crate::http::access::Access;
use crate::http::bearer::Keys;
use crate::http::connection::{Connection, DeferredAnswer, WriteOutcome};
use crate::http::date::HttpDate;
use crate::http::known::KnownHeads;
use crate::http::output::{Held, Pool};
use crate::http::proxy_header::Client;
use crate::http::reject::Reject;
use crate::http::site::{Now, Rules, Site};
use crate::limits::{BUSY_READ_BUFFER_BYTES, BUSY_READ_BUFFERS_FREE_MAX, HANDOVER_SETTLE_MS, READ_BUFFER_BYTES};
use crate::repeated::Repeated;
use crate::shard::deadlines::{Deadlines, PeerKey};
use crate::shard::io::{Canceller, Driver, Listener, Runtime, Stream};
use crate::shard::sampling::Sampling;
use crate::snapshot::response::Responses;
use crate::sys::Direction;

/// What a shard is started with.
pub struct ShardStart {
    /// Number of the shard, from 0.
    pub index: u16,
    /// How it waits for the kernel.
    pub driver: Driver,
    /// Files of ready-made responses that it may have open.
    pub files_max: usize,
    /// Deadlines and bounds.
    pub rules: Arc<Rules>,
    /// Keys of the tokens that writes need.
    pub keys: Arc<Keys>,
    /// The way to the control plane.
    pub to_control: ToControl,
    /// The way back.
    pub from_control: FromControl,
    /// What it counts.
    pub counters: Arc<ShardCounters>,
    /// Its side of the access log.
    pub access: Access,
    /// What addresses and subjects may do.
    pub limits: Arc<Limits>,
    /// The clocks: monotonic and Unix.
    pub clocks: Clocks,
}

/// The clocks that a shard reads: on its sweep, and for writes.
#[derive(Clone, Copy)]
pub struct Clocks {
    /// Monotonic microseconds since some moment.
    pub tick_us: fn() -> u64,
    /// Unix milliseconds.
    pub wall_ms: fn() -> u64,
    /// Unix milliseconds by which writes go: ids, times, what is too old. The store's where there are several servers.
    pub write_ms: fn() -> u64,
}

impl Clocks {
    /// Monotonic milliseconds.
    pub fn tick_ms(self) -> u64 {
        (self.tick_us)() / 1_000
    }

    fn now(self) -> Now {
        let wall_ms = (self.wall_ms)();
        Now { tick_ms: self.tick_ms(), second: wall_ms / 1000, wall_ms }
    }
}

/// The state of one shard. Never borrowed across an await.
pub struct Shard {
    site: RefCell<Site>,
    peers: RefCell<Slab<Rc<Peer>>>,
    deadlines: RefCell<Deadlines>,
    /// Lent to the connection that has bytes to read; an idle one holds none.
    read_buffer: RefCell<Box<[u8]>>,
    busy: RefCell<Busy>,
    next_generation: Cell<u32>,
    to_control: ToControl,
    counters: Arc<ShardCounters>,
    clocks: Clocks,
    index: u16,
    sampling: Sampling,
    draining: Cell<bool>,
    /// Connections are passed on to another process.
    moving: Cell<bool>,
    /// Where to.
    moves: RefCell<Option<Moves>>,
    /// What is known of connections whose tasks have not begun, by the socket's number; nothing of most.
    arrivals: RefCell<BTreeMap<i32, Arrival>>,
    /// To be dropped when no write is left that has begun, or at this tick.
    settling: RefCell<Option<(Settled, u64)>>,
    /// It has been said that no more connections come.
    released: Cell<bool>,
    /// Snapshots that are no longer current but were still being sent when they were replaced.
    superseded: RefCell<Vec<Weak<Held>>>,
    accept_errors: RefCell<Repeated>,
    /// Who waits for connections, to be told that the process is going.
    accepting: RefCell<Vec<Waker>>,
    room: RefCell<accept::Room>,
    /// Which place of the table is to be looked up again next, while limits by address have changed.
    renewal: Cell<Option<usize>>,
}

/// Connections that read into small buffers of their own.
#[derive(Default)]
struct Busy {
    peers: Vec<Rc<Peer>>,
    free: Vec<Vec<u8>>,
}

/// What is known of a connection from its beginning.
#[derive(Default)]
struct Arrival {
    /// Who is at the other end.
    client: Client,
    /// What the process before this one has read of it.
    input: Box<[u8]>,
}

/// One connection as its shard knows it.
pub struct Peer {
    key: PeerKey,
    machine: RefCell<Connection>,
    /// The socket's number while its task lives, for the sweep's `shutdown(2)`.
    socket: Cell<i32>,
    /// Its task's, from beginning to end.
    waker: Cell<Option<Waker>>,
    /// Ends the read that is pending into a buffer of its own.
    canceller: RefCell<Option<Canceller>>,
    /// When it last brought bytes, in ticks.
    active_ms: Cell<u64>,
    /// The earliest time at which the wheel looks at it.
    armed_ms: Cell<u64>,
    /// It is being cut: its close is a reset.
    is_reset: Cell<bool>,
    /// What its address may do, looked up when it was taken, or when a proxy has named it.
    admitted: Cell<Admitted>,
    /// A proxy has still to name it.
    is_unnamed: Cell<bool>,
}

/// Runs a shard on the calling thread until it has drained.
///
/// # Errors
/// The runtime cannot be built, or a listener cannot be registered.
pub fn run(start: ShardStart) -> std::io::Result<()> {
    let mut runtime = Runtime::build(start.driver)?;
    runtime.block_on(serve(start))
}

async fn serve(start: ShardStart) -> std::io::Result<()> {
    let now = start.clocks.now();
    let site = Site {
        known: KnownHeads::default(),
        responses: Responses::default(),
        pool: Pool::with_files(start.files_max),
        held: Rc::new(Held { snapshot: start.to_control.snapshot() }),
        now,
        date: HttpDate::at(now.second),
        keys: start.keys,
        ids: IdSource::default(),
        random: fastrand::Rng::new(),
        wall_clock: start.clocks.write_ms,
        rules: start.rules,
        draining: false,
        moving: false,
        holds_writes: false,
        counters: Arc::clone(&start.counters),
        input_bytes: 0,
        access: start.access,
        purses: Purses::new(start.limits),
        requests_left: u32::MAX,
        requests_refused: 0,
    };
    let shard = Rc::new(Shard {
        site: RefCell::new(site),
        peers: RefCell::new(Slab::new()),
        deadlines: RefCell::new(Deadlines::new(now.tick_ms)),
        read_buffer: RefCell::new(vec![0; READ_BUFFER_BYTES].into_boxed_slice()),
        busy: RefCell::default(),
        next_generation: Cell::new(0),
        to_control: start.to_control,
        counters: start.counters,
        clocks: start.clocks,
        index: start.index,
        sampling: Sampling::default(),
        draining: Cell::new(false),
        moving: Cell::new(false),
        moves: RefCell::default(),
        arrivals: RefCell::default(),
        settling: RefCell::default(),
        released: Cell::new(false),
        superseded: RefCell::default(),
        accept_errors: RefCell::default(),
        accepting: RefCell::default(),
        room: RefCell::default(),
        renewal: Cell::default(),
    });
    io::spawn(sweep::run(Rc::clone(&shard)));
    follow(&shard, start.from_control).await
}

fn accept_on(shard: &Rc<Shard>, listeners: Vec<TcpListener>) -> std::io::Result<()> {
    for listener in listeners {
        let listener = Listener::new(listener)?;
        shard.counters.unfinished.add(1);
        io::spawn(accept::run(Rc::clone(shard), listener));
    }
    Ok(())
}

/// Takes what comes from the control plane until it has said that the process is going and every connection has ended.
async fn follow(shard: &Rc<Shard>, mut from_control: FromControl) -> std::io::Result<()> {
    use crate::bridge::Message;
    while let Some(message) = from_control.receive().await {
        match message {
            Message::Outcomes(outcomes) => shard.deliver_outcomes(outcomes),
            Message::Answer(ticket, answer) => shard.deliver_answer(ticket, answer),
            Message::Connection(socket) => accept::adopt(shard, socket),
            Message::Moved(moved) => accept::adopt_moved(shard, moved),
            Message::Listen(listeners) => accept_on(shard, listeners)?,
            Message::HoldWrites(settled) => shard.hold_writes(settled),
            Message::ResumeWrites => shard.resume_writes(),
            Message::MoveOn(moves) => shard.move_on(moves),
            Message::Grants(grants) => shard.take_grants(&grants),
            Message::Shared(keys) => shard.decide(|site| site.purses.share(&keys)),
            Message::Limits(limits, generation) => shard.change_limits(limits, generation),
            Message::Settings(rules, keys) => shard.change_settings(rules, keys),
            Message::NoMoreCome => shard.release(),
            Message::Drain => shard.drain(),
            Message::End => break,
        }
    }
    Ok(())
}

impl Shard {
    /// Runs `decide` with the shard's side of every decision, seeing the newest snapshot.
    ///
    /// Looked at after the bytes of a batch are in and before the first of them is answered: who has read a 202 on any
    /// connection of this process sees the write.
    fn decide<T>(&self, decide: impl FnOnce(&mut Site) -> T) -> T {
        let mut site = self.site.borrow_mut();
        if self.to_control.snapshot_version() != site.held.snapshot.version() {
            let newer = Rc::new(Held { snapshot: self.to_control.snapshot() });
            let older = std::mem::replace(&mut site.held, newer);
            if Rc::strong_count(&older) > 1 {
                self.superseded.borrow_mut().push(Rc::downgrade(&older));
            }
        }
        decide(&mut site)
    }

    fn peer(&self, key: PeerKey) -> Option<Rc<Peer>> {
        let peers = self.peers.borrow();
        peers.get(key.index as usize).filter(|peer| peer.key == key).cloned()
    }

    /// Gives the connection on `socket` a place in every table. Asks for its client's address where a log wants to know it.
    fn register(&self, stream: &Stream, admitted: Admitted) -> Rc<Peer> {
        let now_ms = self.site.borrow().now.tick_ms;
        let mut peers = self.peers.borrow_mut();
        let entry = peers.vacant_entry();
        let generation = self.next_generation.get();
        self.next_generation.set(generation.wrapping_add(1));
        let key = PeerKey { index: entry.key() as u32, generation };
        let peer = Rc::new(Peer {
            key,
            machine: RefCell::new(Connection::new(now_ms, key.index)),
            socket: Cell::new(stream.raw()),
            waker: Cell::new(None),
            canceller: RefCell::new(None),
            active_ms: Cell::new(now_ms),
            armed_ms: Cell::new(u64::MAX),
            is_reset: Cell::new(false),
            admitted: Cell::new(admitted),
            is_unnamed: Cell::new(false),
        });
        entry.insert(Rc::clone(&peer));
        let access = &mut self.site.borrow_mut().access;
        if access.is_on() {
            access.set_client(key.index, stream.client());
        }
        peer
    }

    /// Takes `peer` out of every table; only then may its socket be closed, since its number will be used again.
    fn unregister(&self, peer: &Rc<Peer>) {
        self.peers.borrow_mut().remove(peer.key.index as usize);
        peer.socket.set(-1);
        // It holds the task that holds the peer.
        peer.waker.take();
        peer.machine.borrow_mut().release(&mut self.site.borrow_mut());
        self.let_go(peer.admitted.get());
    }

    /// One connection more. Counted when it is taken and not when its task has begun: a burst would pass the bound, and
    /// the end of the process would pass it over.
    fn take_on(&self) {
        self.counters.connections.add(1);
        self.counters.unfinished.add(1);
    }

    /// One connection fewer.
    fn let_go(&self, admitted: Admitted) {
        self.site.borrow_mut().purses.release(admitted);
        self.counters.connections.set(self.counters.connections.get() - 1);
        self.has_ended();
    }

    /// One fewer of what must end before the process may.
    fn has_ended(&self) {
        self.counters.unfinished.set(self.counters.unfinished.get() - 1);
    }

    /// Sees to it that the wheel looks at `peer` by its deadline.
    fn arm(&self, peer: &Peer) {
        let Some(at_ms) = peer.machine.borrow().deadline_ms(&self.site.borrow()) else { return };
        if at_ms < peer.armed_ms.get() {
            peer.armed_ms.set(at_ms);
            self.deadlines.borrow_mut().arm(peer.key, at_ms);
        }
    }

    fn deliver_outcomes(&self, outcomes: Vec<(Ticket, WriteOutcome)>) {
        for (ticket, outcome) in outcomes {
            self.deliver(ticket.peer, |machine, site| machine.write_outcome(ticket.place.into(), outcome, site));
        }
        self.settle();
    }

    fn deliver_answer(&self, ticket: Ticket, answer: DeferredAnswer) {
        self.deliver(ticket.peer, |machine, site| machine.deferred_answer(answer, site));
    }

    /// Gives a message to its connection, if that is still there, and wakes it when it can go on.
    fn deliver(&self, key: PeerKey, give: impl FnOnce(&mut Connection, &mut Site) -> bool) {
        let Some(peer) = self.peer(key) else { return };
        if self.decide(|site| give(&mut peer.machine.borrow_mut(), site)) {
            peer.wake();
        }
    }

    /// The process is going. From here on every answer closes its connection; one that is between requests is told that
    /// its input has ended, behind what may be queued in its socket: that is still answered.
    fn drain(&self) {
        self.draining.set(true);
        self.resume_writes();
        self.decide(|site| site.draining = true);
        self.accepting.borrow_mut().drain(..).for_each(Waker::wake);
        self.release();
        if self.moving.get() {
            // One between requests is on its way to another process.
            return;
        }
        for (_, peer) in self.peers.borrow().iter() {
            // Owed an answer or not: one whose last answer is on its way would otherwise be waited for.
            let machine = peer.machine.borrow();
            if machine.is_between_requests() || machine.client() == Client::Awaited {
                peer.shutdown(Direction::Read);
            }
        }
    }

    /// No more connections come than are here or queued on its listeners.
    fn release(&self) {
        if !self.released.replace(true) {
            self.has_ended();
        }
    }

    /// Tells the control plane what was spent: on a tick, or because somebody new has come.
    fn report(&self, is_tick: bool) {
        let report = {
            let mut site = self.site.borrow_mut();
            let now_ms = site.now.tick_ms;
            site.purses.report(now_ms, is_tick)
        };
        if let Some(report) = report {
            self.to_control.report(self.index, report);
        }
    }

    fn take_grants(&self, grants: &[Grant]) {
        self.site.borrow_mut().purses.settle(grants);
        // Whoever came meanwhile.
        self.report(false);
    }

    /// What heads mean depends on the rules, so none is known any more. A deadline that was shortened counts when its
    /// connection is looked at next.
    fn change_settings(&self, rules: Arc<Rules>, keys: Arc<Keys>) {
        self.decide(|site| {
            (site.rules, site.keys) = (rules, keys);
            site.known = KnownHeads::default();
        });
    }

    fn hold_writes(&self, settled: Settled) {
        self.decide(|site| site.holds_writes = true);
        let until_ms = self.site.borrow().now.tick_ms + HANDOVER_SETTLE_MS;
        *self.settling.borrow_mut() = Some((settled, until_ms));
        self.settle();
    }

    /// Says that no write is left that has begun, once that is so or has taken too long.
    fn settle(&self) {
        let mut settling = self.settling.borrow_mut();
        let Some((_, until_ms)) = &*settling else { return };
        let is_writing = || self.peers.borrow().iter().any(|(_, peer)| peer.machine.borrow().is_writing());
        if *until_ms <= self.site.borrow().now.tick_ms || !is_writing() {
            *settling = None;
        }
    }

    fn resume_writes(&self) {
        self.settling.borrow_mut().take();
        self.decide(|site| site.holds_writes = false);
        for (_, peer) in self.peers.borrow().iter() {
            peer.machine.borrow_mut().resume_writes();
            peer.wake();
        }
    }

    /// Another process goes on: listeners are let go of, and every connection is woken to look whether it can be passed on.
    fn move_on(&self, moves: Moves) {
        *self.moves.borrow_mut() = Some(moves);
        self.moving.set(true);
        self.decide(|site| site.moving = true);
        self.accepting.borrow_mut().drain(..).for_each(Waker::wake);
        for (_, peer) in self.peers.borrow().iter() {
            peer.wake();
        }
        for peer in &self.busy.borrow().peers {
            peer.cancel_read();
        }
    }

    /// A buffer for a connection that is about to be busy, while there are some.
    fn take_busy_buffer(&self, peer: &Rc<Peer>) -> Option<Vec<u8>> {
        let mut busy = self.busy.borrow_mut();
        if busy.peers.len() >= crate::limits::BUSY_CONNECTIONS_MAX {
            return None;
        }
        busy.peers.push(Rc::clone(peer));
        self.counters.busy.set(busy.peers.len() as u64);
        Some(busy.free.pop().unwrap_or_else(|| Vec::with_capacity(BUSY_READ_BUFFER_BYTES)))
    }

    fn give_busy_buffer_back(&self, peer: &Rc<Peer>, mut buffer: Vec<u8>) {
        let mut busy = self.busy.borrow_mut();
        if let Some(at) = busy.peers.iter().position(|other| Rc::ptr_eq(other, peer)) {
            busy.peers.swap_remove(at);
        }
        self.counters.busy.set(busy.peers.len() as u64);
        if busy.free.len() < BUSY_READ_BUFFERS_FREE_MAX {
            buffer.clear();
            busy.free.push(buffer);
        }
    }

    /// Hands a group over, or answers it at once when the queue is full.
    fn hand_over(&self, peer: &Peer, deferred: crate::http::connection::Deferred) {
        use crate::http::connection::Deferred;
        self.counters.deferred.add(1);
        let ticket = Ticket { shard: self.index, peer: peer.key, place: 0, since_us: (self.clocks.tick_us)() };
        let writes = match &deferred {
            Deferred::Writes(commands) => Some(commands.len()),
            Deferred::Read(_) | Deferred::Page(_) | Deferred::Events => None,
        };
        let Err(reject) = self.to_control.send(ticket, deferred) else { return };
        self.counters.queue_full.add(1);
        self.refuse_group(peer, writes, reject);
    }

    fn refuse_group(&self, peer: &Peer, writes: Option<usize>, reject: Reject) {
        let mut machine = peer.machine.borrow_mut();
        self.decide(|site| match writes {
            None => {
                machine.deferred_answer(DeferredAnswer::Reject(reject), site);
            }
            Some(count) => {
                for place in 0..count {
                    machine.write_outcome(place, WriteOutcome::Refused(reject), site);
                }
            }
        });
    }
}

impl Peer {
    /// The address of its other end; `None` when that has gone, or its task has let go of its socket.
    fn address(&self) -> Option<IpAddr> {
        (self.socket.get() >= 0).then(|| crate::sys::other_end(self.socket.get()))?.map(|address| address.ip())
    }

    /// Has its task look at its machine.
    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake_by_ref();
            self.waker.set(Some(waker));
        }
    }

    /// Ends a pending read into a buffer of its own, if it has one; no byte is lost.
    fn cancel_read(&self) {
        let canceller = self.canceller.borrow_mut().take();
        *self.canceller.borrow_mut() = canceller.map(Canceller::cancel);
    }

    /// Ends a pending read, so that the task looks at its machine again.
    fn interrupt_read(&self) {
        let canceller = self.canceller.borrow_mut().take();
        match canceller {
            Some(canceller) => *self.canceller.borrow_mut() = Some(canceller.cancel()),
            None => self.shutdown(Direction::Read),
        }
    }

    /// Ends a direction of its socket; nothing when its task has already let go of it.
    fn shutdown(&self, direction: Direction) {
        if self.socket.get() >= 0 {
            crate::sys::shutdown(self.socket.get(), direction);
        }
    }
}
