//! The schema: made and brought up to date by a worker, looked at by everybody else. Migrations are numbered, only add,
//! and run in one transaction under one lock, so that of several workers that start together one makes the store.

use todo_proto::change::StoreId;
use tokio_postgres::Error;
use uuid::Uuid;

use crate::limits::{MIGRATE_LOCK_TIMEOUT, PARTITIONS_MAX};
use crate::postgres::connect::Lent;
use crate::postgres::{Database, OpenError, part_column};

/// What a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    /// Its name everywhere.
    pub store_id: StoreId,
    /// The last migration that was applied.
    pub schema: u32,
    /// The oldest schema that a program must know to work with it.
    pub min_reader: u32,
    /// Its partitions.
    pub partitions: u32,
    /// The topic it is filled from.
    pub topic: String,
}

/// The schema of this version: the number of the last migration.
const SCHEMA: u32 = MIGRATIONS.len() as u32;
/// The oldest schema whose programs can work with what this version writes.
const MIN_READER: u32 = 1;
const MIGRATIONS: [&str; 1] = [include_str!("0001_store.sql")];

/// The lock's name: whoever migrates a store of ours asks for this number.
const LOCK: i64 = i64::from_be_bytes(*b"TodoLock");

impl Database {
    /// Makes the store when there is none, brings it to this version's schema, and checks that it is the one that is set.
    /// For workers.
    ///
    /// # Errors
    /// Postgres is away, or refuses us; the store is newer than this version, or has another partition count or topic.
    pub async fn open_store(&self, partitions: u32, topic: &str) -> Result<StoreFacts, OpenError> {
        assert!((1..=PARTITIONS_MAX).contains(&partitions), "checked with the settings");
        let lent = self.open().await?;
        let facts = self.migrate(&lent, partitions, topic).await?;
        lent.give_back();
        facts.check(partitions, topic)?;
        Ok(facts)
    }

    /// What the store is. For servers, which make none.
    ///
    /// # Errors
    /// Postgres is away, or refuses us; there is no store yet; the store is newer than this version.
    pub async fn find_store(&self) -> Result<StoreFacts, OpenError> {
        let lent = self.open().await?;
        let facts = self.facts(&lent).await?;
        lent.give_back();
        facts.ok_or_else(|| OpenError::Missing { place: self.place().to_owned() })
    }

    async fn migrate(&self, lent: &Lent, partitions: u32, topic: &str) -> Result<StoreFacts, OpenError> {
        let error = |error: Error| self.open_error(&error);
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({LOCK})",
            MIGRATE_LOCK_TIMEOUT.as_millis()
        );
        lent.batch_execute(&begin).await.map_err(error)?;
        let schema = self.facts(lent).await?.map_or(0, |facts| facts.schema);
        for (migration, version) in MIGRATIONS.iter().zip(1..).skip(schema as usize) {
            lent.batch_execute(migration).await.map_err(error)?;
            if version == 1 {
                fill(lent, partitions, topic).await.map_err(error)?;
            }
            let stamp = format!("UPDATE store SET schema = {version}, min_reader = {MIN_READER}");
            lent.batch_execute(&stamp).await.map_err(error)?;
        }
        let facts = self.facts(lent).await?.expect("it was there, or was made above");
        lent.batch_execute("COMMIT").await.map_err(error)?;
        Ok(facts)
    }

    /// `None` when there is no store.
    async fn facts(&self, lent: &Lent) -> Result<Option<StoreFacts>, OpenError> {
        let facts = facts(lent).await.map_err(|error| self.open_error(&error))?;
        match facts {
            Some(facts) if facts.min_reader > SCHEMA => {
                Err(OpenError::Newer { place: self.place().to_owned(), schema: facts.schema, known: SCHEMA })
            }
            facts => Ok(facts),
        }
    }
}

impl StoreFacts {
    /// Whether the store is the one that is set.
    ///
    /// # Errors
    /// It has another partition count, or was filled from another topic.
    pub fn check(&self, partitions: u32, topic: &str) -> Result<(), OpenError> {
        if self.partitions != partitions {
            return Err(OpenError::Partitions { store: self.partitions, configured: partitions });
        }
        if self.topic != topic {
            return Err(OpenError::Topic { store: self.topic.clone(), configured: topic.to_owned() });
        }
        Ok(())
    }
}

/// A new store's one row, and those of its partitions.
async fn fill(lent: &Lent, partitions: u32, topic: &str) -> Result<(), Error> {
    // Nothing is kept secret by it; two stores of one reader must only differ.
    let store_id = Uuid::from_u128(fastrand::u128(..));
    let partitions = part_column(partitions);
    lent.execute(
        "INSERT INTO store (id, schema, min_reader, partitions, topic) VALUES ($1, 1, 1, $2, $3)",
        &[&store_id, &partitions, &topic],
    )
    .await?;
    for table in ["partitions", "leases"] {
        let rows = format!("INSERT INTO {table} (part) SELECT generate_series(0, $1::integer - 1)");
        lent.execute(&rows, &[&partitions]).await?;
    }
    Ok(())
}

async fn facts(lent: &Lent) -> Result<Option<StoreFacts>, Error> {
    let there: bool = lent.query_one("SELECT to_regclass('store') IS NOT NULL", &[]).await?.try_get(0)?;
    if !there {
        return Ok(None);
    }
    let row = lent.query_one("SELECT id, schema, min_reader, partitions, topic FROM store", &[]).await?;
    let count = |column: usize| row.try_get::<_, i32>(column).map(i32::cast_unsigned);
    Ok(Some(StoreFacts {
        store_id: row.try_get::<_, Uuid>(0)?.into_bytes(),
        schema: count(1)?,
        min_reader: count(2)?,
        partitions: count(3)?,
        topic: row.try_get(4)?,
    }))
}
