//! A store whose batches are measured.

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use todo_proto::fold::{Batch, Partition};
use tokio::time::Instant;

use crate::traits::{Begun, CaughtUp, Named, StoreError, TodoStore};

/// What batches are like, all partitions together.
#[derive(Clone, Debug)]
pub struct ApplyMetrics {
    /// Commands of a batch.
    pub commands: Histogram,
    /// Seconds from asking the store for the rows to their commit.
    pub seconds: Histogram,
}

/// Notes size and time of each batch that is committed.
pub struct Measured<S> {
    store: S,
    metrics: ApplyMetrics,
    begun: Instant,
}

impl Default for ApplyMetrics {
    fn default() -> Self {
        Self {
            commands: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
        }
    }
}

impl<S> Measured<S> {
    /// Measures the batches of `store`.
    pub fn new(store: S, metrics: ApplyMetrics) -> Self {
        Self { store, metrics, begun: Instant::now() }
    }
}

impl<S: TodoStore> TodoStore for Measured<S> {
    async fn partition(&mut self, part: u32) -> Result<Partition, StoreError> {
        self.store.partition(part).await
    }

    async fn begin(&mut self, part: u32, from: u64, named: Named) -> Result<Begun, StoreError> {
        self.begun = Instant::now();
        self.store.begin(part, from, named).await
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        let commands = batch.to - batch.from;
        self.store.commit(batch).await?;
        self.metrics.commands.observe(commands as f64);
        self.metrics.seconds.observe(self.begun.elapsed().as_secs_f64());
        Ok(())
    }

    async fn now_ms(&mut self) -> Result<u64, StoreError> {
        self.store.now_ms().await
    }

    async fn catch_up(&mut self, part: u32, next_offset: u64, now_ms: u64) -> Result<CaughtUp, StoreError> {
        self.store.catch_up(part, next_offset, now_ms).await
    }
}
