//! One acceptor that gives each connection to the shard with the fewest: exact balance for few connections, and the only
//! balance there is where SO_REUSEPORT gives everything to the last listener (macOS).

#![expect(clippy::disallowed_methods, reason = "a plain thread without a runtime may sleep")]

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::bridge::{Message, ToShard};
use crate::counters::ShardCounters;
use crate::limits::EXHAUSTED_WAIT_MS;
use crate::repeated::Repeated;
use crate::shard::Clocks;
use crate::shard::io::accept;

/// Accepts on `listeners` until `closing`, then takes what is queued and returns; or until `leaving`, when another process
/// accepts on them too and takes what is queued.
pub fn run(
    listeners: &[TcpListener],
    to_shards: &[ToShard],
    counters: &[Arc<ShardCounters>],
    closing: &AtomicBool,
    leaving: &AtomicBool,
    clocks: Clocks,
) {
    let mut handed_over = vec![0_u64; to_shards.len()];
    let mut errors = Repeated::default();
    while !closing.load(Ordering::Relaxed) && !leaving.load(Ordering::Relaxed) {
        let mut polled: Vec<_> = listeners.iter().map(|listener| PollFd::new(listener, PollFlags::IN)).collect();
        // Woken now and then to see whether the process is going. An interrupted poll is looked at like a timeout.
        let at_most = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let _ = poll(&mut polled, Some(&at_most));
        for listener in listeners {
            if let Err(error) = take_queued(listener, to_shards, counters, &mut handed_over) {
                if let Some(times) = errors.occurred(clocks.tick_ms()) {
                    tracing::warn!(times, %error, "cannot accept a connection; trying again");
                }
                std::thread::sleep(Duration::from_millis(EXHAUSTED_WAIT_MS));
            }
        }
    }
    if leaving.load(Ordering::Relaxed) {
        return;
    }
    for listener in listeners {
        // The last round: an error means that there is nothing left that could be taken.
        let _ = take_queued(listener, to_shards, counters, &mut handed_over);
    }
}

fn take_queued(
    listener: &TcpListener,
    to_shards: &[ToShard],
    counters: &[Arc<ShardCounters>],
    handed_over: &mut [u64],
) -> std::io::Result<()> {
    while let Some(socket) = accept(listener.as_fd())? {
        let shard = emptiest(counters, handed_over);
        handed_over[shard] += 1;
        to_shards[shard].send(Message::Connection(socket));
    }
    Ok(())
}

/// The shard with the fewest connections, those counted that are on their way to it.
fn emptiest(counters: &[Arc<ShardCounters>], handed_over: &[u64]) -> usize {
    let load = |shard: &usize| {
        let counters = &counters[*shard];
        counters.connections.get() + (handed_over[*shard] - counters.accepted.get())
    };
    (0..counters.len()).min_by_key(load).expect("there is a shard")
}
