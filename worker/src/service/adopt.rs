//! Taking up a topic that was made anew, partition by partition: those whose log is still the one that was applied are
//! left as they are.

use todo_proto::command::record_hash;
use todo_proto::fold::Partition;

use crate::kafka::{Kafka, KafkaLog};
use crate::postgres::{Database, OpenError};
use crate::traits::{CommandLog, LogError, StoreError, TodoStore};

/// Why a topic was not adopted.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The store is away, or none of ours.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store.
    #[error("the store cannot be asked: {0}")]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A worker has applied something meanwhile.
    #[error("partition {0} has moved meanwhile: its log is being applied, so it needs no adopting. Look again.")]
    Moved(u32),
}

/// A partition whose log is another one than was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strange {
    /// As it stands.
    pub partition: Partition,
    /// Where it is to go on: the first record that is there.
    pub next_offset: u64,
}

/// Looks at every partition, and returns those whose log is not the one that was applied.
///
/// # Errors
/// Store or log are away.
pub async fn look(database: &Database, kafka: &Kafka) -> Result<Vec<Strange>, AdoptError> {
    let facts = database.find_store().await?;
    let mut store = database.store();
    let mut strange = Vec::new();
    for part in 0..facts.partitions {
        let partition = store.partition(part).await?;
        let mut log = KafkaLog::new(kafka.clone(), part);
        let extent = log.extent().await?;
        let is_there = (extent.earliest..=extent.end).contains(&partition.next_offset);
        // As the loop does on opening: with nothing before it there is nothing to compare.
        let is_compared = extent.earliest < partition.next_offset;
        if !is_there || is_compared && !is_same(&mut log, &partition).await? {
            strange.push(Strange { partition, next_offset: extent.earliest });
        }
    }
    Ok(strange)
}

/// Adopts what [`look`] found. Positions go on from where they are.
///
/// # Errors
/// The store is away, or a partition has moved; those before it are adopted.
pub async fn adopt(database: &Database, topic: &str, strange: &[Strange]) -> Result<(), AdoptError> {
    database.name_topic(topic).await?;
    for Strange { partition, next_offset } in strange {
        if !database.adopt(partition.part, partition.position(), *next_offset).await? {
            return Err(AdoptError::Moved(partition.part));
        }
    }
    Ok(())
}

async fn is_same(log: &mut KafkaLog, partition: &Partition) -> Result<bool, LogError> {
    let Some(hash) = partition.last_hash else { return Ok(true) };
    log.seek(partition.next_offset - 1).await?;
    Ok(log.fetch().await?.is_some_and(|entries| entries.first().is_some_and(|last| record_hash(&last.bytes()) == hash)))
}
