//! Grants to shards what limited addresses and subjects may spend: the ledger, between two channels.

use std::sync::Arc;

use crate::admission::Limits;
use crate::admission::ledger::Ledger;
use crate::bridge::{Message, Reports, ToShard};
use crate::shard::Clocks;

/// Answers reports until the last shard has ended.
pub async fn run(limits: Arc<Limits>, mut reports: Reports, to_shards: Vec<ToShard>, clocks: Clocks) {
    let mut ledger = Ledger::new(limits);
    while let Some((shard, report)) = reports.recv().await {
        let settled = ledger.settle(shard, &report, clocks.tick_ms());
        to_shards[usize::from(shard)].send(Message::Grants(settled.grants));
        let mut shared = settled.shared;
        // A message for each shard, not for each key.
        shared.sort_unstable_by_key(|(other, _)| *other);
        for of_one in shared.chunk_by(|(one, _), (other, _)| one == other) {
            let keys = of_one.iter().map(|(_, key)| *key).collect();
            to_shards[usize::from(of_one[0].0)].send(Message::Shared(keys));
        }
    }
}
