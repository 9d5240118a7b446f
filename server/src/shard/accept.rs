//! Connections come in: by this shard's own listener, or from the acceptor that hands each to the emptiest shard.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use crate::limits::{ACCEPTS_PER_ROUND, EXHAUSTED_WAIT_MS};
use crate::shard::connection::serve;
use crate::shard::io::{self, Listener};
use crate::shard::{Peer, Shard};
use crate::sys::Direction;

/// Takes connections until the process drains. What is queued on the listener then is still taken, since closing it
/// would reset them.
pub async fn run(shard: Rc<Shard>, listener: Listener) {
    while !shard.draining.get() {
        // A listener's poll fails only for what is worth waiting out (memory), and for nothing else that accept would
        // not report too.
        let _ = listener.ready().await;
        if !take_queued(&shard, &listener) {
            // Out of descriptors: the queue stays readable, so without this wait the shard would spin.
            io::sleep(Duration::from_millis(EXHAUSTED_WAIT_MS)).await;
        }
    }
    while !listener.is_empty() && take_queued(&shard, &listener) {}
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
    // Not by the table: a burst is taken before the first of its tasks has entered itself there, and would fill the
    // descriptors that the bound keeps free.
    if shard.connections_count.get() >= shard.connections_max && !shard.make_room() {
        // Everybody is busy: the newcomer is closed at once rather than left to wait unseen.
        shard.counters.cut.add(1);
        return;
    }
    shard.connections_count.set(shard.connections_count.get() + 1);
    io::spawn(serve(Rc::clone(shard), socket));
}

impl Shard {
    /// Closes the connection that has been idle longest; false when none is.
    fn make_room(&self) -> bool {
        let longest_idle: Option<Rc<Peer>> = {
            let peers = self.peers.borrow();
            let idle = peers.iter().filter_map(|(_, peer)| {
                let since_ms = peer.machine.borrow().idle_since_ms()?;
                Some((since_ms, peer))
            });
            idle.min_by_key(|(since_ms, _)| *since_ms).map(|(_, peer)| Rc::clone(peer))
        };
        let Some(peer) = longest_idle else { return false };
        self.counters.cut.add(1);
        self.decide(|site| peer.machine.borrow_mut().abandon(site));
        peer.shutdown(Direction::Both);
        true
    }
}
