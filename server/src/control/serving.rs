//! Gives snapshots to the shards.

use std::sync::Arc;

use crate::bridge::ToShard;
use crate::control::pages::FeedMetrics;
use crate::snapshot::Snapshot;

/// What is served, and what was.
pub struct Serving {
    current: Arc<Snapshot>,
    /// Snapshots that a shard, or something in flight, may still hold. The last reference is dropped here: dropping a
    /// list walks it, and that is not a shard's work.
    retired: Vec<Arc<Snapshot>>,
    to_shards: Vec<ToShard>,
    metrics: Arc<FeedMetrics>,
}

impl Serving {
    /// Goes on from `current`, which the shards have already.
    pub fn new(current: Arc<Snapshot>, to_shards: Vec<ToShard>, metrics: Arc<FeedMetrics>) -> Serving {
        metrics.set_snapshot(&current);
        Serving { current, retired: Vec::new(), to_shards, metrics }
    }

    /// Gives a newer snapshot to every shard.
    pub fn serve(&mut self, newer: Arc<Snapshot>) {
        for to_shard in &self.to_shards {
            to_shard.slot.publish(Arc::clone(&newer));
        }
        // Served from here on, and not before: each shard looks at its slot after a batch's bytes are in.
        self.metrics.set_snapshot(&newer);
        self.retired.push(std::mem::replace(&mut self.current, newer));
        self.retired.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// What is served.
    pub fn current(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// What is counted of it.
    pub fn metrics(&self) -> &FeedMetrics {
        &self.metrics
    }
}
