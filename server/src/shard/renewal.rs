//! Limits change while connections are open: each that is here is looked up again, some at a time.
//!
//! ```text
//! change   the purses that there are go over to the new limits, at once; their connections keep them by number
//!          only where something by address begins or ends, or others are trusted:
//!            from now on each newcomer is looked up under the new limits
//!            each tick: the next few places of the table; whoever was looked up before, is looked up again
//! ```
//!
//! One that was looked up before the change and gets its place in the table after that has been passed is found by the generation that its
//! look-up carries.

use std::sync::Arc;

use crate::admission::Limits;
use crate::http::proxy_header::Client;
use crate::limits::RENEWED_PER_TICK;
use crate::shard::{Peer, Shard};

impl Shard {
    /// Other limits from here on.
    pub(super) fn change_limits(&self, limits: Arc<Limits>, generation: u32) {
        let needs_look = self.decide(|site| site.purses.change(limits, generation, site.now.tick_ms));
        if needs_look {
            self.renewal.set(Some(0));
        }
        self.renew_some();
        self.report(false);
    }

    /// Looks up the next few connections that were looked up under other limits, if any may be left.
    pub(super) fn renew_some(&self) {
        let Some(begin) = self.renewal.get() else { return };
        let end = begin + RENEWED_PER_TICK;
        {
            let peers = self.peers.borrow();
            (begin..end).filter_map(|index| peers.get(index)).for_each(|peer| self.renew(peer));
            // Places behind it are of newcomers.
            self.renewal.set((end < peers.capacity()).then_some(end));
        }
        self.report(false);
    }

    /// Looks a connection up again if it was looked up under other limits. Nothing is asked of the system where that is not needed.
    pub(super) fn renew(&self, peer: &Peer) {
        let mut site = self.site.borrow_mut();
        // One without a name is looked up when it has one.
        if peer.is_unnamed.get() || site.purses.is_current(peer.admitted.get()) {
            return;
        }
        let address = match peer.machine.borrow().client() {
            Client::Named(address) => Some(address),
            Client::Direct => peer.address(),
            Client::Awaited => None,
        };
        // Who has gone meanwhile ends by himself, and asks for nothing more.
        let Some(address) = address else { return };
        let now_ms = site.now.tick_ms;
        peer.admitted.set(site.purses.renew(peer.admitted.get(), address, now_ms));
    }
}
