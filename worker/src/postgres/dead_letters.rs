//! Commands that had no effect and are kept aside, for a human who looks at them.

use todo_proto::fold::DeadReason;
use tokio_postgres::{Error, Row as SqlRow};

use crate::limits::DEAD_LETTERS_LISTED_MAX;
use crate::postgres::{Database, integer, number, part_column};
use crate::traits::StoreError;

/// The dead letters of a store.
#[derive(Clone)]
pub struct DeadLetters {
    database: Database,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// Its partition.
    pub part: u32,
    /// Its position there.
    pub position: u64,
    /// Why it is one, as in [`DeadReason::name`].
    pub reason: String,
    /// Its bytes in the log.
    pub record: Vec<u8>,
    /// When it was kept aside, in ms since the Unix epoch by Postgres's clock.
    pub at_ms: u64,
    /// When it was replayed, if it was.
    pub replayed_ms: Option<u64>,
}

impl Database {
    /// The dead letters.
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters { database: self.clone() }
    }
}

impl DeadLetters {
    /// The newest, at most [`DEAD_LETTERS_LISTED_MAX`], of one reason or of all.
    pub async fn list(&self, reason: Option<DeadReason>) -> Result<Vec<DeadLetterRow>, StoreError> {
        self.database
            .call(async |lent| {
                let reason = reason.map(DeadReason::name);
                let rows = lent.query(LIST, &[&reason, &i64::from(DEAD_LETTERS_LISTED_MAX)]).await?;
                rows.iter().map(letter).collect()
            })
            .await
    }

    /// The one of partition `part` at `position`; `None` when there is none.
    pub async fn show(&self, part: u32, position: u64) -> Result<Option<DeadLetterRow>, StoreError> {
        self.database
            .call(async |lent| {
                let row = lent.query_opt(SHOW, &[&part_column(part), &integer(position)]).await?;
                row.as_ref().map(letter).transpose()
            })
            .await
    }

    /// Those of one reason that were not replayed, oldest first, at most [`DEAD_LETTERS_LISTED_MAX`].
    pub async fn not_replayed(&self, reason: DeadReason) -> Result<Vec<DeadLetterRow>, StoreError> {
        self.database
            .call(async |lent| {
                let rows = lent.query(NOT_REPLAYED, &[&reason.name(), &i64::from(DEAD_LETTERS_LISTED_MAX)]).await?;
                rows.iter().map(letter).collect()
            })
            .await
    }

    /// Notes that it was replayed. The first time stays.
    pub async fn mark_replayed(&self, part: u32, position: u64) -> Result<(), StoreError> {
        self.database
            .call(async |lent| lent.execute(MARK, &[&part_column(part), &integer(position)]).await.map(drop))
            .await
    }

    /// How many there are by reason, and how many of a reused key were dropped for newer ones.
    pub async fn counts(&self) -> Result<(Vec<(String, u64)>, u64), StoreError> {
        self.database
            .call(async |lent| {
                let rows = lent.query("SELECT reason, count(*) FROM dead_letters GROUP BY reason ORDER BY reason", &[]);
                let count = |row: &SqlRow| Ok((row.try_get(0)?, number(row.try_get(1)?)));
                let counts = rows.await?.iter().map(count).collect::<Result<_, Error>>()?;
                let dropped = "SELECT coalesce(sum(dead_letters_dropped), 0)::bigint FROM partitions";
                let dropped = lent.query_one(dropped, &[]).await?.try_get(0)?;
                Ok((counts, number(dropped)))
            })
            .await
    }
}

const LIST: &str = "
    SELECT part, position, reason, record, at, replayed FROM dead_letters
    WHERE $1::text IS NULL OR reason = $1 ORDER BY at DESC, part, position DESC LIMIT $2";

const SHOW: &str = "
    SELECT part, position, reason, record, at, replayed FROM dead_letters WHERE part = $1 AND position = $2";

const NOT_REPLAYED: &str = "
    SELECT part, position, reason, record, at, replayed FROM dead_letters
    WHERE reason = $1 AND replayed IS NULL ORDER BY part, position LIMIT $2";

const MARK: &str = "
    UPDATE dead_letters SET replayed = coalesce(replayed, store_now_ms()) WHERE part = $1 AND position = $2";

fn letter(row: &SqlRow) -> Result<DeadLetterRow, Error> {
    Ok(DeadLetterRow {
        part: row.try_get::<_, i32>(0)?.cast_unsigned(),
        position: number(row.try_get(1)?),
        reason: row.try_get(2)?,
        record: row.try_get(3)?,
        at_ms: number(row.try_get(4)?),
        replayed_ms: row.try_get::<_, Option<i64>>(5)?.map(number),
    })
}
