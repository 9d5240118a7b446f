//! Taking up a topic that was made anew.

use crate::postgres::{Database, integer, part_column};
use crate::traits::StoreError;

impl Database {
    /// Goes on at `next_offset` of a log that is not the one that was applied so far. Positions do not go back: the old one
    /// becomes what new ones are counted from. False when the partition stands elsewhere than at `position` by now.
    pub async fn adopt(&self, part: u32, position: u64, next_offset: u64) -> Result<bool, StoreError> {
        let update = "UPDATE partitions SET base = base + next_offset, next_offset = $3, last_hash = NULL
             WHERE part = $1 AND base + next_offset = $2";
        self.call(async |lent| {
            let moved = lent.execute(update, &[&part_column(part), &integer(position), &integer(next_offset)]).await?;
            Ok(moved == 1)
        })
        .await
    }

    /// The store is filled from this topic from now on.
    pub async fn name_topic(&self, topic: &str) -> Result<(), StoreError> {
        self.call(async |lent| lent.execute("UPDATE store SET topic = $1", &[&topic]).await.map(drop)).await
    }
}
