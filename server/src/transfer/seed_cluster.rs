//! `seed` in a cluster: commands are appended to the log like any others, and waited for until the workers have applied
//! them.

use std::collections::VecDeque;
use std::time::Duration;

use todo_proto::command::TodoCommand;
use todo_worker::kafka::append::{self, Appender};
use todo_worker::kafka::{Appending, Kafka, KafkaError};
use todo_worker::postgres::{Database, OpenError};
use todo_worker::producer::new_producer;
use todo_worker::reads::StoreReader;
use todo_worker::settings::Cluster;
use todo_worker::tls::TlsError;
use todo_worker::traits::{Outcome, StoreError, TodoStore};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::limits::{SEED_IN_FLIGHT_MAX, SEED_PATIENCE, SEED_RETRY_PAUSE, STORE_CONNECTIONS_MAX};

/// Why a cluster was not seeded, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// TLS to Kafka.
    #[error("TLS to Kafka cannot be set up: {0}")]
    Tls(#[from] TlsError),
    /// It has todos, and nobody said that more are welcome.
    #[error("the cluster holds {there} todos already: add --append to put more beside them")]
    NotEmpty {
        /// How many.
        there: u64,
    },
    /// Kafka takes nothing.
    #[error("Kafka has taken nothing for {} s ({why}); {appended} were appended", SEED_PATIENCE.as_secs())]
    NotTaken {
        /// Those that were.
        appended: u64,
        /// What is known.
        why: String,
    },
    /// Kafka does not say where its log ends.
    #[error("it cannot be told whether all is applied: {0}")]
    End(#[from] KafkaError),
    /// Postgres, after all.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A cluster that takes commands by hand.
pub struct ClusterSeed {
    database: Database,
    kafka: Kafka,
    partitions: u32,
}

impl ClusterSeed {
    /// Looks at the store: it is there, it is the one that is set, and it is empty or `may_hold_todos`.
    ///
    /// # Errors
    /// What of that is not so.
    pub async fn begin(cluster: &Cluster, may_hold_todos: bool) -> Result<ClusterSeed, SeedError> {
        let database = Database::new(&cluster.database, STORE_CONNECTIONS_MAX)?;
        let facts = database.find_store().await?;
        facts.check(cluster.kafka.partitions, &cluster.kafka.topic)?;
        let there = database.reader().count().await?;
        if there > 0 && !may_hold_todos {
            return Err(SeedError::NotEmpty { there });
        }
        Ok(ClusterSeed { database, kafka: Kafka::new(&cluster.kafka)?, partitions: cluster.kafka.partitions })
    }

    /// The store's clock, in ms since the Unix epoch.
    ///
    /// # Errors
    /// The store's.
    pub async fn now_ms(&self) -> Result<u64, SeedError> {
        Ok(self.database.reader().look().await?.now_ms)
    }

    /// How many todos there are.
    ///
    /// # Errors
    /// The store's.
    pub async fn count(&self) -> Result<u64, SeedError> {
        Ok(self.database.reader().count().await?)
    }

    /// Appends commands that may be repeated (creates and imports). What is refused, or nobody knows of, is appended again.
    ///
    /// # Errors
    /// Kafka takes nothing for a minute.
    pub async fn append(&self, commands: impl Iterator<Item = TodoCommand>) -> Result<u64, SeedError> {
        let (settled, mut outcomes) = mpsc::unbounded_channel();
        let sink = Box::new(move |batch: Vec<(TodoCommand, Outcome)>| {
            // Nobody listens when it has been given up.
            let _ = settled.send(batch);
        });
        let (appender, appending) = append::start(&self.kafka, self.partitions, new_producer(), sink);
        let appended = feed(&appender, &mut outcomes, commands).await;
        finish(appender, appending).await;
        appended
    }

    /// Waits until the workers have applied everything that is in the log now; `says` is told when nothing moves.
    ///
    /// # Errors
    /// Kafka does not say where its log ends.
    pub async fn wait_until_applied(&self, mut says: impl FnMut(String)) -> Result<(), SeedError> {
        let mut ends = Vec::new();
        for part in 0..self.partitions {
            ends.push(self.kafka.open(part).await?.extent().await?.end);
        }
        let (mut behind_before, mut moved_at) = (u64::MAX, Instant::now());
        loop {
            let (mut store, mut behind) = (self.database.store(), 0);
            for (part, end) in (0..).zip(&ends) {
                // A store that is away moves nothing either, and is said to.
                let stands_at = store.partition(part).await.map_or(0, |partition| partition.next_offset);
                behind += end.saturating_sub(stands_at);
            }
            if behind == 0 {
                return Ok(());
            }
            if behind < behind_before {
                (behind_before, moved_at) = (behind, Instant::now());
            } else if moved_at.elapsed() > Duration::from_secs(10) {
                says(format!("{behind} commands wait to be applied and nothing moves: is a todo-worker running?"));
                moved_at = Instant::now();
            }
            sleep(SEED_RETRY_PAUSE).await;
        }
    }
}

async fn feed(
    appender: &Appender<TodoCommand>,
    outcomes: &mut mpsc::UnboundedReceiver<Vec<(TodoCommand, Outcome)>>,
    mut commands: impl Iterator<Item = TodoCommand>,
) -> Result<u64, SeedError> {
    let (mut appended, mut in_flight) = (0, 0);
    let mut again: VecDeque<TodoCommand> = VecDeque::new();
    let mut taken_at = Instant::now();
    loop {
        while in_flight < SEED_IN_FLIGHT_MAX {
            let Some(command) = again.pop_front().or_else(|| commands.next()) else { break };
            in_flight += 1;
            let group = vec![(command.clone(), command)];
            assert!(appender.try_append(group).is_ok(), "it is closed only at the end");
        }
        if in_flight == 0 {
            return Ok(appended);
        }
        let batch = timeout(SEED_PATIENCE, outcomes.recv()).await.ok().flatten().unwrap_or_default();
        let refused_before = again.len();
        for (command, outcome) in batch {
            in_flight -= 1;
            match outcome {
                Outcome::Acknowledged => {
                    appended += 1;
                    taken_at = Instant::now();
                }
                Outcome::NotAppended(_) | Outcome::Unknown => again.push_back(command),
            }
        }
        if taken_at.elapsed() > SEED_PATIENCE {
            let why = appender.away().map_or("it does not say why".to_owned(), |away| away.why);
            return Err(SeedError::NotTaken { appended, why });
        }
        if again.len() > refused_before {
            sleep(SEED_RETRY_PAUSE).await;
        }
    }
}

async fn finish(appender: Appender<TodoCommand>, appending: Appending<TodoCommand>) {
    drop(appender);
    appending.finish().await;
}
