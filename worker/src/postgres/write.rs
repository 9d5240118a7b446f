//! The store of one apply loop.
//!
//! ```text
//! begin:  BEGIN | hold the partition at its offset | rows | producers            one flight
//! commit: rows | producers | dead letters | move the partition | COMMIT          one flight
//! ```
//!
//! A flight is sent at once and answered in order; a statement that fails makes the rest of its transaction fail, and
//! COMMIT behind it rolls back *and says that it went well*. So every answer is looked at. That the partition moves is
//! known before anything is sent: its row is held since `begin`, and the batch is compared with what was begun.

use futures_util::future::{join, join4, join5};
use todo_proto::command::ProducerId;
use todo_proto::fold::{Batch, DeadReason, Partition, Row};
use todo_proto::id::ItemId;
use todo_proto::limits::RETRY_WINDOW_MS;
use todo_proto::todo::TodoFields;
use tokio::time::timeout;
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::{Error, Row as SqlRow, Statement};
use uuid::Uuid;

use crate::limits::{
    CALL_TIMEOUT, KEY_REUSED_KEPT_MAX, PRODUCER_KEPT_MS, PURGE_ROWS_MAX, READ_ROW_BYTES_MAX, TOMBSTONE_KEPT_MS,
};
use crate::postgres::connect::Lent;
use crate::postgres::{
    Database, NO_ANSWER, in_time, integer, item_id, number, part_column, sentence, store_error, uuid,
};
use crate::traits::{Begun, CaughtUp, Named, StoreError, TodoStore};

/// Writes the batches of one apply loop. Holds a connection from `begin` to `commit`, and none between two batches.
pub struct PgStore {
    database: Database,
    /// A transaction that holds its partition.
    begun: Option<Open>,
}

impl Database {
    /// A store for one apply loop.
    pub fn store(&self) -> PgStore {
        PgStore { database: self.clone(), begun: None }
    }
}

impl TodoStore for PgStore {
    async fn partition(&mut self, part: u32) -> Result<Partition, StoreError> {
        let found = self.database.call(async |lent| partition(lent, part).await).await?;
        found.ok_or_else(|| StoreError::Unavailable(format!("the store has no partition {part}")))
    }

    async fn begin(&mut self, part: u32, from: u64, named: Named) -> Result<Begun, StoreError> {
        // Begun before and left: closed, so rolled back.
        self.begun = None;
        let (open, begun) = in_time(Open::begin(&self.database, part, from, &named)).await?;
        self.begun = Some(open);
        Ok(begun)
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        let open = self.begun.take().ok_or_else(|| StoreError::Unavailable("no batch was begun".to_owned()))?;
        if (open.part, open.from) != (batch.part, batch.from) {
            return Err(StoreError::Fenced);
        }
        timeout(CALL_TIMEOUT, open.commit(&batch))
            .await
            .unwrap_or_else(|_| Err(StoreError::Unknown(NO_ANSWER.to_owned())))
    }

    async fn now_ms(&mut self) -> Result<u64, StoreError> {
        let clock = "SELECT store_now_ms()";
        self.database.call(async |lent| lent.query_one(clock, &[]).await?.try_get(0).map(number)).await
    }

    async fn catch_up(&mut self, part: u32, next_offset: u64, now_ms: u64) -> Result<CaughtUp, StoreError> {
        let caught_up = async {
            let lent = self.database.lend().await?;
            let caught_up = catch_up(&lent, part, next_offset, now_ms).await.map_err(|error| store_error(&error))?;
            let caught_up = caught_up.ok_or(StoreError::Fenced)?;
            // What it notes is true whether this one got through or not, and is noted again in a minute.
            lent.batch_execute("COMMIT").await.map_err(|error| StoreError::Unknown(sentence(&error)))?;
            lent.give_back();
            Ok(caught_up)
        };
        in_time(caught_up).await
    }
}

/// A transaction that holds its partition.
struct Open {
    lent: Lent,
    statements: Statements,
    part: u32,
    from: u64,
}

impl Open {
    async fn begin(database: &Database, part: u32, from: u64, named: &Named) -> Result<(Self, Begun), StoreError> {
        let lent = database.lend().await?;
        let read = read(&lent, part, from, named).await;
        let (statements, found) = read.map_err(|error| store_error(&error))?;
        let begun = found.ok_or(StoreError::Fenced)?;
        Ok((Self { lent, statements, part, from }, begun))
    }

    async fn commit(self, batch: &Batch) -> Result<(), StoreError> {
        let Self { lent, statements, .. } = self;
        // Polled in this order, so sent in this order.
        let (rows, producers, dead_letters, moved, committed) = join5(
            write_rows(&lent, &statements, batch),
            write_producers(&lent, &statements, batch),
            write_dead_letters(&lent, &statements, batch),
            move_partition(&lent, &statements, batch),
            lent.execute(&statements.commit, &[]),
        )
        .await;
        let moved_count = rows.and(producers).and(dead_letters).and(moved).map_err(|error| write_error(&error))?;
        committed.map_err(|error| StoreError::Unknown(sentence(&error)))?;
        assert_eq!(moved_count, 1, "the partition's row was held since it was compared");
        lent.give_back();
        Ok(())
    }
}

/// What an error of a statement before COMMIT means, with COMMIT already on its way: the server has refused the statement
/// and so the transaction; anything but its word leaves open how far it got.
fn write_error(error: &Error) -> StoreError {
    match error.as_db_error().map(DbError::parsed_severity) {
        Some(Some(Severity::Error)) => store_error(error),
        _ => StoreError::Unknown(sentence(error)),
    }
}

/// Prepared before a transaction begins: to prepare is a flight of its own, and would let COMMIT overtake.
struct Statements {
    begin: Statement,
    commit: Statement,
    hold: Statement,
    rows: Statement,
    producers: Statement,
    write_rows: Statement,
    write_producers: Statement,
    write_dead_letters: Statement,
    drop_dead_letters: Statement,
    move_partition: Statement,
}

impl Statements {
    /// From the connection's cache, but for the first time.
    async fn prepare(lent: &Lent) -> Result<Self, Error> {
        Ok(Self {
            begin: lent.prepare_cached("BEGIN").await?,
            commit: lent.prepare_cached("COMMIT").await?,
            hold: lent.prepare_cached(HOLD).await?,
            rows: lent.prepare_cached(ROWS).await?,
            producers: lent.prepare_cached(PRODUCERS).await?,
            write_rows: lent.prepare_cached(WRITE_ROWS).await?,
            write_producers: lent.prepare_cached(WRITE_PRODUCERS).await?,
            write_dead_letters: lent.prepare_cached(WRITE_DEAD_LETTERS).await?,
            drop_dead_letters: lent.prepare_cached(DROP_DEAD_LETTERS).await?,
            move_partition: lent.prepare_cached(MOVE_PARTITION).await?,
        })
    }
}

const PARTITION: &str =
    "SELECT store.id, base, next_offset, last_hash, caught_up_at FROM partitions, store WHERE part = $1";

const HOLD: &str = "
    SELECT store.id, base, next_offset, last_hash, caught_up_at FROM partitions, store
    WHERE part = $1 AND next_offset = $2 FOR UPDATE OF partitions";

/// In the order of the ids asked for, up to the row that passes the bound: two thousand large rows would be 80 MB.
const ROWS: &str = "
    SELECT n, id, revision, updated_at, born, deleted, completed, title, description
    FROM (
        SELECT wanted.n, todos.*, sum(octet_length(title) + octet_length(description))
            OVER (ORDER BY wanted.n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
        FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, n) JOIN todos USING (id)
    ) AS found
    WHERE bytes_before IS NULL OR bytes_before <= $2::bigint
    ORDER BY n";

const PRODUCERS: &str = "SELECT producer, last_number FROM producers WHERE part = $1 AND producer = ANY ($2)";

const WRITE_ROWS: &str = "
    INSERT INTO todos (part, id, revision, deleted, completed, updated_at, born, title, description)
    SELECT $1, * FROM unnest(
        $2::uuid[], $3::bigint[], $4::boolean[], $5::boolean[], $6::bigint[], $7::bigint[], $8::text[], $9::text[])
    ON CONFLICT (id) DO UPDATE SET part = excluded.part, revision = excluded.revision, deleted = excluded.deleted,
        completed = excluded.completed, updated_at = excluded.updated_at, born = excluded.born,
        title = excluded.title, description = excluded.description";

const WRITE_PRODUCERS: &str = "
    INSERT INTO producers (part, producer, last_number, seen)
    SELECT $1, producer, last_number, store_now_ms()
    FROM unnest($2::uuid[], $3::bigint[]) AS moved (producer, last_number)
    ON CONFLICT (part, producer) DO UPDATE SET last_number = excluded.last_number, seen = excluded.seen";

const WRITE_DEAD_LETTERS: &str = "
    INSERT INTO dead_letters (part, position, reason, record, at)
    SELECT $1, position, reason, record, store_now_ms()
    FROM unnest($2::bigint[], $3::text[], $4::bytea[]) AS letters (position, reason, record)";

const DROP_DEAD_LETTERS: &str = "
    WITH dropped AS (
        DELETE FROM dead_letters WHERE part = $1 AND reason = $2 AND position <= (
            SELECT position FROM dead_letters WHERE part = $1 AND reason = $2
            ORDER BY position DESC LIMIT 1 OFFSET $3)
        RETURNING 1)
    UPDATE partitions SET dead_letters_dropped = dead_letters_dropped + (SELECT count(*) FROM dropped) WHERE part = $1";

const MOVE_PARTITION: &str =
    "UPDATE partitions SET next_offset = $1, last_hash = $2 WHERE part = $3 AND next_offset = $4";

async fn partition(lent: &Lent, part: u32) -> Result<Option<Partition>, Error> {
    let statement = lent.prepare_cached(PARTITION).await?;
    let row = lent.query_opt(&statement, &[&part_column(part)]).await?;
    row.map(|row| partition_of(part, &row)).transpose()
}

/// `None` when the partition stands elsewhere.
async fn read(lent: &Lent, part: u32, from: u64, named: &Named) -> Result<(Statements, Option<Begun>), Error> {
    let statements = Statements::prepare(lent).await?;
    let (part_column, from, bytes_max) = (part_column(part), integer(from), READ_ROW_BYTES_MAX as i64);
    let ids: Vec<Uuid> = named.ids.iter().copied().map(uuid).collect();
    let producers: Vec<Uuid> = named.producers.iter().copied().map(Uuid::from_bytes).collect();
    let (began, held, rows, numbers) = join4(
        lent.execute(&statements.begin, &[]),
        lent.query_opt(&statements.hold, &[&part_column, &from]),
        lent.query(&statements.rows, &[&ids, &bytes_max]),
        lent.query(&statements.producers, &[&part_column, &producers]),
    )
    .await;
    began?;
    let Some(held) = held? else { return Ok((statements, None)) };
    let (ids_read, rows) = rows_of(&rows?, named.ids.len())?;
    let numbers = numbers?;
    let numbers = numbers.iter().map(producer_of).collect::<Result<_, _>>()?;
    let begun = Begun { partition: partition_of(part, &held)?, ids_read, rows, producers: numbers };
    Ok((statements, Some(begun)))
}

async fn write_rows(lent: &Lent, statements: &Statements, batch: &Batch) -> Result<(), Error> {
    if batch.rows.is_empty() {
        return Ok(());
    }
    let mut columns = Columns::default();
    for row in &batch.rows {
        columns.push(row);
    }
    let Columns { ids, revisions, deleted, completed, updated_at, born, titles, descriptions } = &columns;
    lent.execute(
        &statements.write_rows,
        &[&part_column(batch.part), ids, revisions, deleted, completed, updated_at, born, titles, descriptions],
    )
    .await
    .map(drop)
}

/// Rows turned over: an array a column.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    revisions: Vec<i64>,
    deleted: Vec<bool>,
    completed: Vec<bool>,
    updated_at: Vec<i64>,
    born: Vec<Option<i64>>,
    titles: Vec<&'a str>,
    descriptions: Vec<&'a str>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, row: &'a Row) {
        let (title, description, completed) = row
            .fields
            .as_ref()
            .map_or(("", "", false), |fields| (fields.title.as_str(), fields.description.as_str(), fields.completed));
        self.ids.push(uuid(row.id));
        self.revisions.push(integer(row.revision));
        self.deleted.push(row.fields.is_none());
        self.completed.push(completed);
        self.updated_at.push(integer(row.updated_at_ms));
        self.born.push(row.born.map(integer));
        self.titles.push(title);
        self.descriptions.push(description);
    }
}

async fn write_producers(lent: &Lent, statements: &Statements, batch: &Batch) -> Result<(), Error> {
    if batch.producers.is_empty() {
        return Ok(());
    }
    let (producers, numbers): (Vec<Uuid>, Vec<i64>) =
        batch.producers.iter().map(|&(producer, last)| (Uuid::from_bytes(producer), integer(last))).unzip();
    lent.execute(&statements.write_producers, &[&part_column(batch.part), &producers, &numbers]).await.map(drop)
}

async fn write_dead_letters(lent: &Lent, statements: &Statements, batch: &Batch) -> Result<(), Error> {
    if batch.dead_letters.is_empty() {
        return Ok(());
    }
    let (part, letters) = (part_column(batch.part), &batch.dead_letters);
    let positions: Vec<i64> = letters.iter().map(|letter| integer(letter.position)).collect();
    let reasons: Vec<&str> = letters.iter().map(|letter| letter.reason.name()).collect();
    let records: Vec<&[u8]> = letters.iter().map(|letter| &letter.record[..]).collect();
    let (written, dropped) = join(
        lent.execute(&statements.write_dead_letters, &[&part, &positions, &reasons, &records]),
        lent.execute(
            &statements.drop_dead_letters,
            &[&part, &DeadReason::KeyReused.name(), &i64::from(KEY_REUSED_KEPT_MAX)],
        ),
    )
    .await;
    written.and(dropped).map(drop)
}

async fn move_partition(lent: &Lent, statements: &Statements, batch: &Batch) -> Result<u64, Error> {
    let (to, last_hash, from) = (integer(batch.to), batch.last_hash.map(integer), integer(batch.from));
    lent.execute(&statements.move_partition, &[&to, &last_hash, &part_column(batch.part), &from]).await
}

/// Leaves the transaction open; `None` when the partition stands elsewhere. Once a minute, so one by one.
async fn catch_up(lent: &Lent, part: u32, next_offset: u64, now_ms: u64) -> Result<Option<CaughtUp>, Error> {
    let part = part_column(part);
    lent.batch_execute("BEGIN").await?;
    let noted = lent
        .query_opt(
            "UPDATE partitions SET caught_up_at = greatest(caught_up_at, $1) WHERE part = $2 AND next_offset = $3
             RETURNING caught_up_at",
            &[&integer(now_ms), &part, &integer(next_offset)],
        )
        .await?;
    let Some(noted) = noted else { return Ok(None) };
    let caught_up_at_ms = number(noted.try_get(0)?);
    let unseen = integer(caught_up_at_ms.saturating_sub(PRODUCER_KEPT_MS));
    lent.execute("DELETE FROM producers WHERE part = $1 AND seen < $2", &[&part, &unseen]).await?;

    // Ids below this one are too old to be created again.
    let too_old = ItemId::from_parts(caught_up_at_ms.saturating_sub(RETRY_WINDOW_MS), 0);
    let unseen = integer(caught_up_at_ms.saturating_sub(TOMBSTONE_KEPT_MS));
    let purged = lent
        .query_one(
            "WITH purged AS (
                 DELETE FROM todos WHERE id IN (
                     SELECT id FROM todos WHERE deleted AND part = $1 AND id < $2 AND updated_at < $3 LIMIT $4)
                 RETURNING revision)
             SELECT count(*), coalesce(max(revision), 0) FROM purged",
            &[&part, &uuid(too_old), &unseen, &i64::from(PURGE_ROWS_MAX)],
        )
        .await?;
    let (purged_count, revision): (i64, i64) = (purged.try_get(0)?, purged.try_get(1)?);
    if purged_count > 0 {
        let rises = "UPDATE partitions SET purged = greatest(purged, $1) WHERE part = $2";
        lent.execute(rises, &[&revision, &part]).await?;
    }
    Ok(Some(CaughtUp { caught_up_at_ms, more: purged_count == i64::from(PURGE_ROWS_MAX) }))
}

fn partition_of(part: u32, row: &SqlRow) -> Result<Partition, Error> {
    Ok(Partition {
        store_id: row.try_get::<_, Uuid>(0)?.into_bytes(),
        part,
        base: number(row.try_get(1)?),
        next_offset: number(row.try_get(2)?),
        last_hash: row.try_get::<_, Option<i64>>(3)?.map(number),
        caught_up_at_ms: number(row.try_get(4)?),
    })
}

/// The rows up to the one that passes the bound, and how many of the ids that covers.
fn rows_of(found: &[SqlRow], ids_count: usize) -> Result<(usize, Vec<Row>), Error> {
    let (mut rows, mut row_bytes) = (Vec::with_capacity(found.len()), 0);
    for sql_row in found {
        let row = row_of(sql_row)?;
        row_bytes += row.bytes();
        rows.push(row);
        if row_bytes > READ_ROW_BYTES_MAX {
            let nth: i64 = sql_row.try_get(0)?;
            return Ok((nth as usize, rows));
        }
    }
    Ok((ids_count, rows))
}

fn row_of(row: &SqlRow) -> Result<Row, Error> {
    let deleted: bool = row.try_get(5)?;
    let fields = if deleted {
        None
    } else {
        Some(TodoFields { completed: row.try_get(6)?, title: row.try_get(7)?, description: row.try_get(8)? })
    };
    Ok(Row {
        id: item_id(row.try_get(1)?),
        revision: number(row.try_get(2)?),
        updated_at_ms: number(row.try_get(3)?),
        born: row.try_get::<_, Option<i64>>(4)?.map(number),
        fields,
    })
}

fn producer_of(row: &SqlRow) -> Result<(ProducerId, u64), Error> {
    Ok((row.try_get::<_, Uuid>(0)?.into_bytes(), number(row.try_get(1)?)))
}
