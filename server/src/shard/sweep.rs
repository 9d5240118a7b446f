//! Twenty times a second: the clocks move on, deadlines are kept, bounds are enforced. The one place where a shard looks
//! at connections that have not asked for it.

use std::rc::Rc;
use std::time::Duration;

use crate::http::connection::{Connection, Cut};
use crate::limits::{
    BUSY_SILENCE_MS, INPUT_BYTES_MAX, SUPERSEDED_BYTES_MAX, SWEPT_PER_TICK, TICK_MS, UNSENT_BYTES_MAX,
};
use crate::shard::{Peer, Shard, io};
use crate::sys::Direction;

/// Runs until the shard's runtime ends.
pub async fn run(shard: Rc<Shard>) {
    let mut slept_us = (shard.clocks.tick_us)();
    loop {
        io::sleep(Duration::from_millis(TICK_MS)).await;
        let now_us = (shard.clocks.tick_us)();
        shard.counters.rounds.observe_us(now_us.saturating_sub(slept_us + TICK_MS * 1_000));
        shard.decide(|site| site.set_now(shard.clocks.now()));
        shard.keep_deadlines();
        shard.take_busy_buffers_back();
        shard.keep_bounds();
        shard.settle();
        shard.keep_limits();
        slept_us = (shard.clocks.tick_us)();
    }
}

impl Shard {
    fn keep_deadlines(&self) {
        let now_ms = self.site.borrow().now.tick_ms;
        let mut looked_at = 0;
        while looked_at < SWEPT_PER_TICK {
            let Some(expired) = self.deadlines.borrow_mut().expire(now_ms) else { break };
            looked_at += expired.len();
            for key in expired {
                if let Some(peer) = self.peer(key) {
                    peer.armed_ms.set(u64::MAX);
                    self.look_at(&peer);
                    self.arm(&peer);
                }
            }
        }
    }

    fn look_at(&self, peer: &Peer) {
        let cut = self.decide(|site| peer.machine.borrow_mut().tick(site));
        if let Some(cut) = cut {
            self.counters.cut.add(1);
            match cut {
                Cut::Idle => peer.shutdown(Direction::Both),
                Cut::Timeout => peer.interrupt_read(),
                Cut::Stalled => self.reset(peer),
            }
        }
    }

    /// Cuts a connection off: a reset, so that the kernel does not keep what it queues for a client that does not read.
    fn reset(&self, peer: &Peer) {
        self.decide(|site| peer.machine.borrow_mut().abandon(site));
        peer.is_reset.set(true);
        peer.shutdown(Direction::Both);
        peer.wake();
    }

    /// A busy connection that has gone quiet gives its buffer back and waits like everybody else.
    fn take_busy_buffers_back(&self) {
        let now_ms = self.site.borrow().now.tick_ms;
        let quiet: Vec<Rc<Peer>> = {
            let busy = self.busy.borrow();
            let is_quiet = |peer: &&Rc<Peer>| peer.active_ms.get() + BUSY_SILENCE_MS <= now_ms;
            busy.peers.iter().filter(is_quiet).cloned().collect()
        };
        for peer in quiet {
            peer.cancel_read();
        }
    }

    fn keep_limits(&self) {
        self.renew_some();
        self.report(true);
        let purses = &self.site.borrow().purses;
        self.counters.purses.set(purses.count() as u64);
        self.counters.purse_overflows.set(purses.overflows());
    }

    fn keep_bounds(&self) {
        let (input_bytes, unsent_bytes, replaced_bytes) = {
            let site = self.site.borrow();
            self.counters.input_bytes.set(site.input_bytes as u64);
            let unsent_bytes = site.pool.live_bytes() - site.responses.bytes();
            self.counters.unsent_bytes.set(unsent_bytes as u64);
            self.counters.ready_bytes.set(site.responses.bytes() as u64);
            self.counters.file_bytes.set(site.pool.file_bytes() as u64);
            (site.input_bytes, unsent_bytes, site.held.snapshot.replaced_bytes())
        };
        if input_bytes > INPUT_BYTES_MAX {
            self.cut_oldest(Connection::unfinished_since_ms, |site| site.input_bytes <= INPUT_BYTES_MAX);
        }
        if unsent_bytes > UNSENT_BYTES_MAX {
            self.cut_oldest(Connection::owed_since_ms, |site| {
                site.pool.live_bytes() - site.responses.bytes() <= UNSENT_BYTES_MAX
            });
        }
        self.cut_superseded(replaced_bytes);
    }

    /// Cuts connections, those whose `since` is earliest first, until `is_enough`.
    fn cut_oldest(
        &self,
        since: impl Fn(&Connection) -> Option<u64>,
        is_enough: impl Fn(&crate::http::site::Site) -> bool,
    ) {
        let mut candidates: Vec<(u64, Rc<Peer>)> = {
            let peers = self.peers.borrow();
            let owing = peers.iter().filter_map(|(_, peer)| Some((since(&peer.machine.borrow())?, Rc::clone(peer))));
            owing.collect()
        };
        candidates.sort_by_key(|(since_ms, _)| *since_ms);
        for (_, peer) in candidates {
            if is_enough(&self.site.borrow()) {
                break;
            }
            self.counters.cut.add(1);
            self.reset(&peer);
        }
    }

    /// Cuts the connections that keep a snapshot alive which too much has been replaced since.
    fn cut_superseded(&self, replaced_bytes: u64) {
        let oldest = {
            let mut superseded = self.superseded.borrow_mut();
            superseded.retain(|held| held.strong_count() > 0);
            superseded.first().and_then(std::rc::Weak::upgrade).map(|held| held.snapshot.replaced_bytes())
        };
        let is_too_old = |held: u64| replaced_bytes - held > SUPERSEDED_BYTES_MAX;
        if !oldest.is_some_and(is_too_old) {
            return;
        }
        let holders: Vec<Rc<Peer>> = {
            let peers = self.peers.borrow();
            let holds_old = |peer: &Peer| peer.machine.borrow().oldest_held_replaced_bytes().is_some_and(is_too_old);
            peers.iter().filter(|(_, peer)| holds_old(peer)).map(|(_, peer)| Rc::clone(peer)).collect()
        };
        for peer in holders {
            self.counters.cut.add(1);
            self.reset(&peer);
        }
    }
}
