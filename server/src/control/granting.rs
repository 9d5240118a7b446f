//! Grants to shards what limited addresses and subjects may spend: the ledger, between two channels. Limits that change go the way of the
//! grants, so that each grant is of the limits that its shard has heard of.

use std::sync::Arc;

use tokio::sync::watch;

use crate::admission::Limits;
use crate::admission::ledger::{Ledger, Settled};
use crate::bridge::{Message, Reports, ToShard};
use crate::shard::Clocks;

/// Answers reports, and changes the limits to what is `wanted` last, until the last shard has ended.
pub async fn run(
    limits: Arc<Limits>,
    mut wanted: watch::Receiver<Limits>,
    mut reports: Reports,
    to_shards: Vec<ToShard>,
    clocks: Clocks,
) {
    let mut ledger = Ledger::new(limits);
    loop {
        tokio::select! {
            report = reports.recv() => {
                let Some((shard, report)) = report else { break };
                let settled = ledger.settle(shard, &report, clocks.tick_ms());
                send(settled, shard, &to_shards);
            }
            // Nobody wants anything any more when the process is at its end.
            Ok(()) = wanted.changed() => {
                let changed = ledger.change(&wanted.borrow_and_update(), clocks.tick_ms());
                let Some((limits, generation)) = changed else { continue };
                for shard in &to_shards {
                    shard.send(Message::Limits(Arc::clone(&limits), generation));
                }
            }
        }
    }
}

fn send(settled: Settled, to: u16, to_shards: &[ToShard]) {
    to_shards[usize::from(to)].send(Message::Grants(settled.grants));
    let mut shared = settled.shared;
    // A message for each shard, not for each key.
    shared.sort_unstable_by_key(|(other, _)| *other);
    for of_one in shared.chunk_by(|(one, _), (other, _)| one == other) {
        let keys = of_one.iter().map(|(_, key)| *key).collect();
        to_shards[usize::from(of_one[0].0)].send(Message::Shared(keys));
    }
}
