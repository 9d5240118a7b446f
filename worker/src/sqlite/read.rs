//! Reads beside the writer: loading a snapshot, and what lies below it. Each is one read transaction, so the positions
//! belong to the rows.

use std::ops::ControlFlow;
use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row as SqlRow, Transaction};
use todo_proto::id::ItemId;
use todo_proto::todo::TodoFields;

use crate::limits::{BUSY_TIMEOUT, REPAIR_JSON_BYTES_MAX, REPAIR_ROWS_MAX};
use crate::reads::{Below, Changed, Exported, Json, Loaded, Stand};
use crate::sqlite::open::{check, open_error};
use crate::sqlite::{OpenError, integer, number, store_error};
use crate::traits::StoreError;

/// A connection that reads. One thread uses it at a time; it blocks.
pub struct SqliteReader {
    connection: Connection,
}

const COLUMNS: &str = "id, updated_at, completed, title, description";

impl SqliteReader {
    /// Reads a data file beside the process that has it.
    pub fn open_beside(path: &Path) -> Result<Self, OpenError> {
        Self::open(&check(path)?)
    }

    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            // Opened for writing, since the write-ahead log's index is shared memory; but nothing is written.
            connection.pragma_update(None, "query_only", true)?;
            Ok(connection)
        };
        open().map(|connection| Self { connection }).map_err(|error| open_error(path, &error))
    }

    /// Streams the newest todos, newest first, each with its JSON, until there are `todos_max` of them or the next would
    /// pass `json_bytes_max`. Holds no more than one at a time.
    pub fn load(
        &mut self,
        todos_max: usize,
        json_bytes_max: usize,
        take: impl FnMut(ItemId, &[u8]),
    ) -> Result<Loaded, StoreError> {
        self.in_transaction(|transaction| walk(transaction, ItemId::MAX, todos_max, json_bytes_max, take))
    }

    /// Reads the todos below `before`, newest first, with the bounds of [`load`](Self::load).
    pub fn read_below(&mut self, before: ItemId, todos_max: usize, json_bytes_max: usize) -> Result<Below, StoreError> {
        let mut todos = Vec::new();
        let Loaded { stand, older, .. } = self.in_transaction(|transaction| {
            walk(transaction, before, todos_max, json_bytes_max, |id, json| todos.push((id, json.into())))
        })?;
        Ok(Below { stand, todos, older })
    }

    /// Reads one todo; `None` when there is none of this id.
    pub fn read_one(&mut self, id: ItemId) -> Result<(Stand, Option<Json>), StoreError> {
        self.in_transaction(|transaction| {
            let sql = format!("SELECT {COLUMNS} FROM todos WHERE id = ?1 AND deleted = 0");
            let mut statement = transaction.prepare_cached(&sql)?;
            let json = statement.query_row([id.to_bytes()], |row| {
                let mut json = Vec::new();
                write_json(row, &mut json)?;
                Ok(json.into_boxed_slice())
            });
            Ok((stand(transaction)?, json.optional()?))
        })
    }

    /// Streams every todo, newest first, as of one moment, while another process may write. Ends early when `take` breaks.
    /// Returns how many it gave.
    pub fn export(&mut self, mut take: impl FnMut(&Exported<'_>) -> ControlFlow<()>) -> Result<u64, StoreError> {
        self.in_transaction(|transaction| {
            let sql = format!("SELECT {COLUMNS}, born FROM todos WHERE deleted = 0 ORDER BY id DESC");
            let mut statement = transaction.prepare(&sql)?;
            let mut rows = statement.query([])?;
            let mut count = 0;
            while let Some(row) = rows.next()? {
                let born = row.get::<_, Option<i64>>(5)?.map(number);
                let updated_at_ms = number(row.get(1)?);
                let todo = Exported { id: ItemId::from_bytes(row.get(0)?), fields: fields(row)?, updated_at_ms, born };
                count += 1;
                if take(&todo).is_break() {
                    break;
                }
            }
            Ok(count)
        })
    }

    /// What has changed above `position`, each todo as it is now; `None` when that is more than
    /// [`REPAIR_ROWS_MAX`] or [`REPAIR_JSON_BYTES_MAX`], or tombstones among it were purged.
    pub fn changes_above(&mut self, position: u64) -> Result<Option<Changed>, StoreError> {
        self.in_transaction(|transaction| {
            let purged: u64 = transaction
                .query_row("SELECT purged FROM partitions WHERE part = 0", [], |row| row.get(0).map(number))?;
            let sql = format!("SELECT {COLUMNS}, deleted FROM todos WHERE part = 0 AND revision > ?1 LIMIT ?2");
            let mut statement = transaction.prepare(&sql)?;
            let mut rows = statement.query((integer(position), REPAIR_ROWS_MAX + 1))?;
            let (mut changes, mut json_bytes) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let mut json = Vec::new();
                let id = write_json(row, &mut json)?;
                json_bytes += json.len();
                if json_bytes > REPAIR_JSON_BYTES_MAX {
                    return Ok(None);
                }
                let is_deleted: bool = row.get(5)?;
                changes.push((id, (!is_deleted).then(|| json.into_boxed_slice())));
            }
            let is_complete = purged <= position && changes.len() <= REPAIR_ROWS_MAX as usize;
            let stand = stand(transaction)?;
            Ok(is_complete.then_some(Changed { stand, changes }))
        })
    }

    /// Where the store stands.
    pub fn stand(&mut self) -> Result<Stand, StoreError> {
        self.in_transaction(stand)
    }

    /// The oldest todo's id.
    pub fn oldest(&mut self) -> Result<Option<ItemId>, StoreError> {
        self.in_transaction(|transaction| {
            transaction
                .query_row("SELECT id FROM todos WHERE deleted = 0 ORDER BY id LIMIT 1", [], |row| row.get(0))
                .map(ItemId::from_bytes)
                .optional()
        })
    }

    /// How many todos there are. Walks the smallest index: a tenth of a second a million.
    pub fn count(&mut self) -> Result<u64, StoreError> {
        self.in_transaction(|transaction| {
            transaction.query_row(
                "SELECT (SELECT count(*) FROM todos) - (SELECT count(*) FROM todos WHERE deleted = 1)",
                [],
                |row| row.get(0).map(number),
            )
        })
    }

    /// Whether nothing was ever written: a store whose todos were all deleted is not empty.
    pub fn is_empty(&mut self) -> Result<bool, StoreError> {
        self.in_transaction(|transaction| Ok(stand(transaction)?.positions.iter().all(|position| *position == 0)))
    }

    fn in_transaction<R>(
        &mut self,
        read: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<R>,
    ) -> Result<R, StoreError> {
        let read = self.connection.transaction().and_then(|transaction| read(&transaction));
        read.map_err(|error| store_error(&error))
    }
}

fn stand(transaction: &Transaction<'_>) -> rusqlite::Result<Stand> {
    let store_id = transaction.query_row("SELECT id FROM store", [], |row| row.get(0))?;
    let mut statement =
        transaction.prepare_cached("SELECT base + next_offset, caught_up_at FROM partitions ORDER BY part")?;
    let parts = statement.query_map([], |row| Ok((number(row.get(0)?), number(row.get(1)?))))?;
    let (positions, caught_up_at_ms) = parts.collect::<rusqlite::Result<Vec<_>>>()?.into_iter().unzip();
    Ok(Stand { store_id, positions, caught_up_at_ms })
}

fn walk(
    transaction: &Transaction<'_>,
    before: ItemId,
    todos_max: usize,
    json_bytes_max: usize,
    mut take: impl FnMut(ItemId, &[u8]),
) -> rusqlite::Result<Loaded> {
    let mut loaded = Loaded { stand: stand(transaction)?, todos_count: 0, json_bytes: 0, older: false };
    let sql = format!("SELECT {COLUMNS} FROM todos WHERE deleted = 0 AND id < ?1 ORDER BY id DESC");
    let mut statement = transaction.prepare_cached(&sql)?;
    let mut rows = statement.query([before.to_bytes()])?;
    let mut json = Vec::new();
    while let Some(row) = rows.next()? {
        if loaded.todos_count == todos_max {
            loaded.older = true;
            break;
        }
        json.clear();
        let id = write_json(row, &mut json)?;
        if loaded.json_bytes + json.len() > json_bytes_max {
            loaded.older = true;
            break;
        }
        loaded.todos_count += 1;
        loaded.json_bytes += json.len();
        take(id, &json);
    }
    Ok(loaded)
}

fn write_json(row: &SqlRow<'_>, json: &mut Vec<u8>) -> rusqlite::Result<ItemId> {
    let id = ItemId::from_bytes(row.get(0)?);
    fields(row)?.write_json(json, id, number(row.get(1)?));
    Ok(id)
}

/// Of a row that begins with [`COLUMNS`].
fn fields<'a>(row: &'a SqlRow<'_>) -> rusqlite::Result<TodoFields<&'a str>> {
    Ok(TodoFields { title: row.get_ref(3)?.as_str()?, description: row.get_ref(4)?.as_str()?, completed: row.get(2)? })
}
