//! Connections come in: by this shard's own listener, or from the acceptor that hands each to the emptiest shard.

use std::future::poll_fn;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::admission::address::is_in;
use crate::admission::purses::{Admitted, Refused};
use crate::bridge::Moved;
use crate::http::proxy_header::Client;
use crate::http::reject::{Envelope, Persistence};
use crate::limits::{ACCEPTS_PER_ROUND, EXHAUSTED_WAIT_MS, REPLY_HEAD_BYTES_MAX, ROOM_CANDIDATES};
use crate::shard::connection::serve;
use crate::shard::deadlines::PeerKey;
use crate::shard::io::{self, Listener};
use crate::shard::{Arrival, Peer, Shard};
use crate::sys::Direction;

/// Takes connections until the process drains, then what is still queued, since closing the listener would reset it.
pub async fn run(shard: Rc<Shard>, listener: Listener) {
    loop {
        // A listener's poll fails only for what is worth waiting out (memory), and for nothing that accept would not
        // report too.
        io::first(listener.ready(), shard.begins_to_go()).await;
        if shard.moving.get() {
            // What is queued is for the process that has this listener too; closing it here takes nothing from there.
            drop(listener);
            return shard.has_ended();
        }
        if !take_queued(&shard, &listener) {
            // Out of descriptors: the queue stays readable, so without this wait the shard would spin.
            io::sleep(Duration::from_millis(EXHAUSTED_WAIT_MS)).await;
        }
        if shard.draining.get() && listener.is_empty() {
            return shard.has_ended();
        }
    }
}

/// Takes what is queued, at most a round's worth; false when the process or the system has run out of something.
fn take_queued(shard: &Rc<Shard>, listener: &Listener) -> bool {
    for _ in 0..ACCEPTS_PER_ROUND {
        match listener.accept() {
            Ok(Some(socket)) => adopt(shard, socket),
            Ok(None) => break,
            Err(error) => {
                shard.counters.accept_exhausted.add(1);
                let now_ms = shard.site.borrow().now.tick_ms;
                if let Some(times) = shard.accept_errors.borrow_mut().occurred(now_ms) {
                    tracing::warn!(shard = shard.index, times, %error, "cannot accept a connection; trying again");
                }
                return false;
            }
        }
    }
    true
}

/// Takes an accepted socket into this shard.
pub fn adopt(shard: &Rc<Shard>, socket: OwnedFd) {
    shard.counters.accepted.add(1);
    // One that has gone already, and its address with it, is closed.
    let Some(client) = shard.client_of(&socket) else { return };
    let admitted = match shard.admit(&socket, client) {
        Ok(admitted) => admitted,
        Err(Some(refused)) => return shard.turn_away(&socket, refused),
        // It has gone already.
        Err(None) => return,
    };
    if shard.is_full() && !shard.make_room() {
        // Everybody is busy: the newcomer is closed at once rather than left to wait unseen.
        shard.counters.cut.add(1);
        shard.forget(admitted);
        return;
    }
    shard.take_on();
    shard.note_arrival(&socket, Arrival { client, ..Arrival::default() });
    io::spawn(serve(Rc::clone(shard), socket, admitted));
}

/// Takes a connection from the process before this one, with what that has read of it and not looked at. It counts like any
/// other.
pub fn adopt_moved(shard: &Rc<Shard>, moved: Moved) {
    shard.counters.adopted.add(1);
    if shard.is_full() && !shard.make_room() {
        shard.counters.cut.add(1);
        return;
    }
    let Moved { socket, client, input } = moved;
    let admitted = shard.admit_moved(&socket, client);
    shard.take_on();
    shard.note_arrival(&socket, Arrival { client, input });
    io::spawn(serve(Rc::clone(shard), socket, admitted));
}

impl Shard {
    /// The one look-up of a connection: what its address may do. Nothing is asked where no address is limited, and nothing yet
    /// where a proxy has to name the address first.
    ///
    /// # Errors
    /// It is not to be taken; `None` when it has gone already.
    fn admit(&self, socket: &OwnedFd, client: Client) -> Result<Admitted, Option<Refused>> {
        {
            let purses = &self.site.borrow().purses;
            if client == Client::Awaited || !purses.is_by_address() {
                return Ok(purses.unlimited());
            }
        }
        self.admit_from(io::peer_address(socket).ok_or(None)?).map_err(Some)
    }

    /// The same for an address that is known, such as one that a proxy has named.
    ///
    /// # Errors
    /// It is not to be taken.
    pub fn admit_from(&self, address: IpAddr) -> Result<Admitted, Refused> {
        let admitted = {
            let mut site = self.site.borrow_mut();
            let now_ms = site.now.tick_ms;
            site.purses.admit(address, now_ms)
        };
        // More than the first share is on its way before the first request has been looked at.
        self.report(false);
        admitted
    }

    /// A connection of the process before this one is looked up again, and not refused.
    fn admit_moved(&self, socket: &OwnedFd, client: Client) -> Admitted {
        let mut site = self.site.borrow_mut();
        if !site.purses.is_by_address() {
            return site.purses.unlimited();
        }
        let address = match client {
            Client::Direct => io::peer_address(socket),
            Client::Named(address) => Some(address),
            // It is looked up when it is named.
            Client::Awaited => None,
        };
        let now_ms = site.now.tick_ms;
        // Who has gone meanwhile ends by himself, and asks for nothing more.
        match address {
            Some(address) => site.purses.admit_moved(address, now_ms),
            None => site.purses.unlimited(),
        }
    }

    fn forget(&self, admitted: Admitted) {
        self.site.borrow_mut().purses.release(admitted);
    }

    /// Says why in one write, and closes. No more is done for it: lingering would keep what it is refused.
    #[cold]
    fn turn_away(&self, socket: &OwnedFd, refused: Refused) {
        let reject = refused.into();
        self.counters.rejected(reject);
        let mut answer = Vec::with_capacity(REPLY_HEAD_BYTES_MAX);
        let site = self.site.borrow();
        let envelope = Envelope {
            date: site.date.bytes(),
            persistence: Persistence::Close,
            head_only: false,
            extra_fields: b"",
            origin_lines: b"",
        };
        reject.write(&envelope, &mut answer);
        io::say_and_end(socket, &answer);
    }

    /// Returns when the process begins to go, or another one to take its place.
    async fn begins_to_go(&self) {
        poll_fn(|context| {
            if self.draining.get() || self.moving.get() {
                return Poll::Ready(());
            }
            let mut accepting = self.accepting.borrow_mut();
            accepting.retain(|waker| !waker.will_wake(context.waker()));
            accepting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Who is at the other end of an accepted socket; `None` when nobody is any more.
    fn client_of(&self, socket: &OwnedFd) -> Option<Client> {
        let networks = &self.site.borrow().rules.proxy_from;
        if networks.is_empty() {
            return Some(Client::Direct);
        }
        let is_proxy = is_in(io::peer_address(socket)?, networks);
        Some(if is_proxy { Client::Awaited } else { Client::Direct })
    }

    /// Keeps what is known of a connection until its task begins.
    fn note_arrival(&self, socket: &OwnedFd, arrival: Arrival) {
        if arrival.client != Client::Direct || !arrival.input.is_empty() {
            self.arrivals.borrow_mut().insert(socket.as_raw_fd(), arrival);
        }
    }

    /// Whether one more connection would be too many.
    fn is_full(&self) -> bool {
        self.counters.connections.get() >= self.site.borrow().rules.connections_max as u64
    }

    /// Closes the connection that has been without a whole head longest; false when everybody has one in hand.
    fn make_room(&self) -> bool {
        let Some(peer) = self.longest_headless() else { return false };
        self.counters.cut.add(1);
        self.decide(|site| peer.machine.borrow_mut().abandon(site));
        peer.shutdown(Direction::Both);
        true
    }

    /// Who has been idle, or sending a head, longest, and has never asked if there is such a one. Were only idle ones taken,
    /// heads that never end would push out those who use the server and happen to be between two requests; were it by time
    /// alone, a flood would push out those who ask less often than it comes anew. A search looks at everybody, so one
    /// serves all newcomers of its tick: a flood costs the shard twenty searches a second, and more newcomers than that
    /// find nobody who makes room.
    fn longest_headless(&self) -> Option<Rc<Peer>> {
        let mut room = self.room.borrow_mut();
        let now_ms = self.site.borrow().now.tick_ms;
        if room.searched_ms != Some(now_ms) {
            room.searched_ms = Some(now_ms);
            room.candidates = self.search_headless();
        }
        while let Some((order, key)) = room.candidates.pop() {
            // Who has asked since the search is not who was found.
            let is_still = |peer: &Rc<Peer>| peer.machine.borrow().room_order() == Some(order);
            if let Some(peer) = self.peer(key).filter(is_still) {
                return Some(peer);
            }
        }
        None
    }

    fn search_headless(&self) -> Vec<((bool, u64), PeerKey)> {
        let peers = self.peers.borrow();
        let order = |peer: &Rc<Peer>| Some((peer.machine.borrow().room_order()?, peer.key));
        let mut found: Vec<_> = peers.iter().filter_map(|(_, peer)| order(peer)).collect();
        found.sort_unstable_by_key(|(order, _)| *order);
        // A flood that is quicker than the searches would get through to those who have asked; its newcomers are turned
        // away instead, until the next search finds the ones before them.
        if found.first().is_some_and(|((has_asked, _), _)| !has_asked) {
            found.retain(|((has_asked, _), _)| !has_asked);
        }
        found.truncate(ROOM_CANDIDATES);
        found.reverse();
        found
    }
}

/// Who makes room for newcomers at the connection bound.
#[derive(Default)]
pub struct Room {
    /// In which order, and who: the first to go last. Looked at again before they are taken.
    candidates: Vec<((bool, u64), PeerKey)>,
    /// Tick of the last search.
    searched_ms: Option<u64>,
}
