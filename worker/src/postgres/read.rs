//! Reads beside the writers. Each is one statement, or one transaction that sees one moment, so positions belong to the
//! rows they come with. JSON is made here and not in Postgres, which takes four times as long.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::pin;

use futures_util::StreamExt;
use futures_util::future::{join3, join4};
use todo_proto::change::Change;
use todo_proto::id::ItemId;
use todo_proto::todo::TodoFields;
use tokio::time::timeout;
use tokio_postgres::{Error, Row as SqlRow};
use uuid::Uuid;

use crate::limits::{LOAD_PROGRESS_TIMEOUT, LOAD_STATEMENT_TIMEOUT, REPAIR_JSON_BYTES_MAX, REPAIR_ROWS_MAX};
use crate::postgres::connect::Lent;
use crate::postgres::{Database, NO_ANSWER, in_time, integer, item_id, number, part_column, store_error, uuid};
use crate::reads::{Below, Exported, Json, Loaded, Look, OlderReader, Repair, Stand, StoreReader};
use crate::traits::StoreError;

/// Reads for snapshots, each call over a connection out of the pool.
#[derive(Clone)]
pub struct PgReader {
    database: Database,
}

impl Database {
    /// A reader.
    pub fn reader(&self) -> PgReader {
        PgReader { database: self.clone() }
    }
}

impl PgReader {
    /// Streams every todo, newest first, as of one moment, while others write. Ends early when `take` breaks. Returns how
    /// many it gave.
    pub async fn export(
        &mut self,
        mut take: impl FnMut(&Exported<'_>) -> ControlFlow<()> + Send,
    ) -> Result<u64, StoreError> {
        let mut count = 0;
        let take_row = |row: &SqlRow| {
            count += 1;
            exported(row).map(|todo| take(&todo))
        };
        walk(&self.database, ItemId::MAX, i64::MAX, take_row).await?;
        Ok(count)
    }

    /// How many todos there are. Walks an index: some tenths of a second a million.
    pub async fn count(&mut self) -> Result<u64, StoreError> {
        let count = "SELECT count(*) FROM todos WHERE NOT deleted";
        self.database.call(async |lent| lent.query_one(count, &[]).await?.try_get(0).map(number)).await
    }
}

impl StoreReader for PgReader {
    async fn load(
        &mut self,
        todos_max: usize,
        json_bytes_max: usize,
        take: impl FnMut(ItemId, &[u8]) + Send,
    ) -> Result<Loaded, StoreError> {
        newest(&self.database, ItemId::MAX, todos_max, json_bytes_max, take).await
    }

    async fn look(&mut self) -> Result<Look, StoreError> {
        self.database.call(async |lent| look(lent).await).await?.ok_or_else(no_store)
    }

    async fn repair(&mut self, part: u32, above: u64) -> Result<Repair, StoreError> {
        self.database.call(async |lent| repair(lent, part, above).await).await?.ok_or_else(no_store)
    }
}

impl OlderReader for PgReader {
    async fn read_below(
        &mut self,
        before: ItemId,
        todos_max: usize,
        json_bytes_max: usize,
    ) -> Result<Below, StoreError> {
        let mut todos = Vec::new();
        let take = |id, json: &[u8]| todos.push((id, Json::from(json)));
        let Loaded { stand, older, .. } = newest(&self.database, before, todos_max, json_bytes_max, take).await?;
        Ok(Below { stand, todos, older })
    }

    async fn read_one(&mut self, id: ItemId) -> Result<(Stand, Option<Json>), StoreError> {
        let (stand, json) = self.database.call(async |lent| read_one(lent, id).await).await?;
        Ok((stand.ok_or_else(no_store)?, json))
    }
}

const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

const STAND: &str = "SELECT store.id, base + next_offset, caught_up_at FROM partitions, store ORDER BY part";

const LOOK: &str = "
    SELECT store.id, base + next_offset, caught_up_at, purged, store_now_ms(), store.topic,
        (SELECT id FROM todos WHERE NOT deleted ORDER BY id LIMIT 1)
    FROM partitions, store ORDER BY part";

/// One row without a todo when nothing has changed.
const REPAIR: &str = "
    SELECT found.id, updated_at, born, completed, title, description, deleted, revision,
        store.id, base + next_offset, purged
    FROM partitions CROSS JOIN store LEFT JOIN LATERAL (
        SELECT * FROM todos
        WHERE todos.part = partitions.part AND revision > $2 AND revision <= base + next_offset
        ORDER BY revision LIMIT $3) AS found ON true
    WHERE partitions.part = $1";

const NEWEST: &str = "
    SELECT id, updated_at, born, completed, title, description FROM todos
    WHERE NOT deleted AND id < $1 ORDER BY id DESC LIMIT $2";

const ONE: &str = "
    SELECT id, updated_at, born, completed, title, description FROM todos WHERE NOT deleted AND id = $1";

/// A store that somebody has emptied by hand.
fn no_store() -> StoreError {
    StoreError::Unavailable("there is no store in the database".to_owned())
}

/// The newest todos below `before`, with the bounds of [`StoreReader::load`].
async fn newest(
    database: &Database,
    before: ItemId,
    todos_max: usize,
    json_bytes_max: usize,
    mut take: impl FnMut(ItemId, &[u8]) + Send,
) -> Result<Loaded, StoreError> {
    let (mut todos_count, mut json_bytes, mut older) = (0, 0, false);
    let mut json = Vec::new();
    let take_row = |row: &SqlRow| {
        json.clear();
        let id = write_json(row, &mut json)?;
        if todos_count == todos_max || json_bytes + json.len() > json_bytes_max {
            older = true;
            return Ok(ControlFlow::Break(()));
        }
        todos_count += 1;
        json_bytes += json.len();
        take(id, &json);
        Ok(ControlFlow::Continue(()))
    };
    // One more than is wanted tells whether there are older ones.
    let rows_max = i64::try_from(todos_max).unwrap_or(i64::MAX).saturating_add(1);
    let stand = walk(database, before, rows_max, take_row).await?;
    Ok(Loaded { stand, todos_count, json_bytes, older })
}

/// Streams rows newest first, as of one moment, and says which. Memory holds those that have come and were not taken.
async fn walk(
    database: &Database,
    before: ItemId,
    rows_max: i64,
    mut take: impl FnMut(&SqlRow) -> Result<ControlFlow<()>, Error> + Send,
) -> Result<Stand, StoreError> {
    let failed = |error: Error| store_error(&error);
    let lent = in_time(database.lend()).await?;
    let (stand, rows) = in_time(async {
        let stand = lent.prepare_cached(STAND).await.map_err(failed)?;
        let newest = lent.prepare_cached(NEWEST).await.map_err(failed)?;
        let begin = format!("{SNAPSHOT}; SET LOCAL statement_timeout = {}", LOAD_STATEMENT_TIMEOUT.as_millis());
        let before = uuid(before);
        let bounds: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&before, &rows_max];
        let (began, stand, rows) =
            join3(lent.batch_execute(&begin), lent.query(&stand, &[]), lent.query_raw(&newest, bounds)).await;
        began.map_err(failed)?;
        let stand = stand.and_then(|rows| stand_of(&rows)).map_err(failed)?;
        Ok((stand.ok_or_else(no_store)?, rows.map_err(failed)?))
    })
    .await?;
    // By what has come, so that a timer is set for each packet and not for each row.
    let mut rows = pin!(rows.ready_chunks(256));
    while let Some(chunk) = in_progress(rows.next()).await? {
        for row in chunk {
            // Left early: the connection is closed, and the server stops sending.
            if take(&row.map_err(failed)?).map_err(failed)?.is_break() {
                return Ok(stand);
            }
        }
    }
    in_time(async { lent.batch_execute("COMMIT").await.map_err(failed) }).await?;
    lent.give_back();
    Ok(stand)
}

async fn in_progress<R>(next: impl Future<Output = R>) -> Result<R, StoreError> {
    timeout(LOAD_PROGRESS_TIMEOUT, next).await.map_err(|_| StoreError::Unavailable(NO_ANSWER.to_owned()))
}

async fn look(lent: &Lent) -> Result<Option<Look>, Error> {
    let rows = lent.query(&lent.prepare_cached(LOOK).await?, &[]).await?;
    let Some((stand, first)) = stand_of(&rows)?.zip(rows.first()) else { return Ok(None) };
    Ok(Some(Look {
        stand,
        purged: rows.iter().map(|row| row.try_get(3).map(number)).collect::<Result<_, _>>()?,
        oldest: first.try_get::<_, Option<Uuid>>(6)?.map(item_id),
        now_ms: number(first.try_get(4)?),
        topic: first.try_get(5)?,
    }))
}

async fn repair(lent: &Lent, part: u32, above: u64) -> Result<Option<Repair>, Error> {
    let statement = lent.prepare_cached(REPAIR).await?;
    let rows = lent.query(&statement, &[&part_column(part), &integer(above), &i64::from(REPAIR_ROWS_MAX + 1)]).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let purged = number(first.try_get(10)?);
    if rows.len() > REPAIR_ROWS_MAX as usize || above < purged {
        return Ok(Some(Repair::TooMuch));
    }
    let (mut changes, mut json_bytes) = (Vec::new(), 0);
    for row in &rows {
        let Some(id) = row.try_get::<_, Option<Uuid>>(0)?.map(item_id) else { break };
        let change = Change { id, revision: number(row.try_get(7)?), json: live_json(row)? };
        json_bytes += change.json.as_ref().map_or(0, |json| json.len());
        changes.push(change);
    }
    if json_bytes > REPAIR_JSON_BYTES_MAX {
        return Ok(Some(Repair::TooMuch));
    }
    changes.sort_unstable_by_key(|change| change.id);
    Ok(Some(Repair::Changes {
        store_id: first.try_get::<_, Uuid>(8)?.into_bytes(),
        position: number(first.try_get(9)?),
        changes,
    }))
}

async fn read_one(lent: &Lent, id: ItemId) -> Result<(Option<Stand>, Option<Json>), Error> {
    let (stand, one) = (lent.prepare_cached(STAND).await?, lent.prepare_cached(ONE).await?);
    let (began, stand, found, committed) = join4(
        lent.batch_execute(SNAPSHOT),
        lent.query(&stand, &[]),
        lent.query_opt(&one, &[&uuid(id)]),
        lent.batch_execute("COMMIT"),
    )
    .await;
    began.and(committed)?;
    let mut json = Vec::new();
    let json = match found? {
        Some(row) => {
            write_json(&row, &mut json)?;
            Some(json.into_boxed_slice())
        }
        None => None,
    };
    Ok((stand_of(&stand?)?, json))
}

/// `None` when there is no store.
fn stand_of(rows: &[SqlRow]) -> Result<Option<Stand>, Error> {
    let Some(first) = rows.first() else { return Ok(None) };
    let numbers =
        |column: usize| rows.iter().map(move |row| row.try_get(column).map(number)).collect::<Result<_, Error>>();
    let store_id = first.try_get::<_, Uuid>(0)?.into_bytes();
    Ok(Some(Stand { store_id, positions: numbers(1)?, caught_up_at_ms: numbers(2)? }))
}

/// Of a row that begins with the columns of [`NEWEST`].
fn exported(row: &SqlRow) -> Result<Exported<'_>, Error> {
    Ok(Exported {
        id: item_id(row.try_get(0)?),
        updated_at_ms: number(row.try_get(1)?),
        born: row.try_get::<_, Option<i64>>(2)?.map(number),
        fields: TodoFields { completed: row.try_get(3)?, title: row.try_get(4)?, description: row.try_get(5)? },
    })
}

fn write_json(row: &SqlRow, json: &mut Vec<u8>) -> Result<ItemId, Error> {
    let Exported { id, fields, updated_at_ms, .. } = exported(row)?;
    fields.write_json(json, id, updated_at_ms);
    Ok(id)
}

/// `None` for a tombstone. `deleted` stands behind the columns of [`NEWEST`].
fn live_json(row: &SqlRow) -> Result<Option<Json>, Error> {
    if row.try_get(6)? {
        return Ok(None);
    }
    let mut json = Vec::new();
    write_json(row, &mut json)?;
    Ok(Some(json.into_boxed_slice()))
}
