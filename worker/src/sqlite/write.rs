//! The one connection that writes.

use rusqlite::wal::CheckpointMode;
use rusqlite::{CachedStatement, Connection, ErrorCode, OptionalExtension, Row as SqlRow};
use todo_proto::change::StoreId;
use todo_proto::command::ProducerId;
use todo_proto::fold::{Batch, DeadReason, Partition, Row};
use todo_proto::id::ItemId;
use todo_proto::limits::RETRY_WINDOW_MS;
use todo_proto::todo::TodoFields;

use crate::limits::{
    KEY_REUSED_KEPT_MAX, PRODUCER_KEPT_MS, PURGE_ROWS_MAX, READ_ROW_BYTES_MAX, TOMBSTONE_KEPT_MS, WAL_PAGES_MAX,
};
use crate::sqlite::open::Lock;
use crate::sqlite::{Clock, integer, number, store_error};
use crate::traits::{Begun, CaughtUp, Named, StoreError};

pub(super) struct Writer {
    connection: Connection,
    clock: Clock,
    /// Why nothing is written any more.
    ended: Option<String>,
    /// Dropped last: the file is given back when it is closed.
    _lock: Lock,
}

const PARTITION: &str = "SELECT store.id, base, next_offset, last_hash, caught_up_at FROM partitions, store";

impl Writer {
    pub(super) fn new(connection: Connection, lock: Lock, clock: Clock) -> Self {
        Self { connection, clock, ended: None, _lock: lock }
    }

    pub(super) fn begin(&mut self, part: u32, from: u64, named: &Named) -> Result<Begun, StoreError> {
        self.open_transaction()?;
        let begun = self.read(part, from, named).map_err(|error| store_error(&error));
        let begun = begun.and_then(|found| found.ok_or(StoreError::Fenced));
        self.roll_back_unless(begun)
    }

    pub(super) fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.connection.is_autocommit() {
            return Err(StoreError::Unavailable("no batch was begun".into()));
        }
        let written = self.write(batch).map_err(|error| store_error(&error));
        let written = written.and_then(|moved| if moved { Ok(()) } else { Err(StoreError::Fenced) });
        self.roll_back_unless(written)?;
        self.end_transaction()
    }

    pub(super) fn catch_up(&mut self, part: u32, next_offset: u64, now_ms: u64) -> Result<CaughtUp, StoreError> {
        self.open_transaction()?;
        let caught_up = self.forget(part, next_offset, now_ms).map_err(|error| store_error(&error));
        let caught_up = caught_up.and_then(|found| found.ok_or(StoreError::Fenced));
        let caught_up = self.roll_back_unless(caught_up)?;
        self.end_transaction()?;
        Ok(caught_up)
    }

    /// Writes the log back into the file when it has grown. A full disk or a reader in the way put it off; any other
    /// error ends writing: what the file holds from now on is not known.
    pub(super) fn checkpoint_when_due(&mut self) {
        if self.ended.is_some() || !self.connection.is_autocommit() {
            return;
        }
        let checkpoint = |mode| self.connection.wal_checkpoint_v2(Some("main"), mode);
        // The first only counts pages. Passive, not truncating: a log that is overwritten in place syncs in half the time of
        // one that grows anew (64 KiB: 4.2 against 8.5 ms on a busy disk), and no reader has to be waited for.
        let due = checkpoint(CheckpointMode::NOOP).map(|(pages, _)| u64::try_from(pages).unwrap_or(0) > WAL_PAGES_MAX);
        let done = due.and_then(|due| if due { checkpoint(CheckpointMode::PASSIVE).map(drop) } else { Ok(()) });
        match done.as_ref().map_err(rusqlite::Error::sqlite_error_code) {
            Ok(()) | Err(Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)) => {}
            Err(_) => self.ended = done.err().map(|error| format!("a checkpoint failed: {error}")),
        }
    }

    pub(super) fn cap_pages(&mut self, pages: u64) -> Result<u64, StoreError> {
        let cap = self.connection.pragma_update_and_check(None, "max_page_count", integer(pages), |row| row.get(0));
        cap.map(number).map_err(|error| store_error(&error))
    }

    pub(super) fn partition(&self, part: u32) -> Result<Partition, StoreError> {
        let partition = self.connection.prepare_cached(&format!("{PARTITION} WHERE part = ?1"));
        let partition = partition.and_then(|mut statement| statement.query_row([part], |row| partition_of(part, row)));
        partition.map_err(|error| store_error(&error))
    }

    pub(super) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    fn open_transaction(&self) -> Result<(), StoreError> {
        if let Some(why) = &self.ended {
            return Err(StoreError::Ended(why.clone()));
        }
        if !self.connection.is_autocommit() {
            self.execute("ROLLBACK")?;
        }
        self.execute("BEGIN IMMEDIATE")
    }

    /// A full disk rolls back inside COMMIT, and so does one that is busy. Whatever else may have been half done.
    fn end_transaction(&mut self) -> Result<(), StoreError> {
        let Err(error) = self.statement("COMMIT").and_then(|mut statement| statement.execute([])) else {
            return Ok(());
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                self.roll_back_unless(Err(store_error(&error)))
            }
            _ => {
                self.ended = Some(format!("a commit failed: {error}"));
                Err(StoreError::Unknown(error.to_string()))
            }
        }
    }

    /// After an error the transaction is gone; many errors have rolled it back already.
    fn roll_back_unless<R>(&self, result: Result<R, StoreError>) -> Result<R, StoreError> {
        if result.is_err() && !self.connection.is_autocommit() {
            self.execute("ROLLBACK")?;
        }
        result
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        self.statement(sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(|error| store_error(&error))
    }

    fn statement(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        self.connection.prepare_cached(sql)
    }

    /// `None` when the partition stands elsewhere.
    fn read(&self, part: u32, from: u64, named: &Named) -> rusqlite::Result<Option<Begun>> {
        let partition = self
            .statement(&format!("{PARTITION} WHERE part = ?1 AND next_offset = ?2"))?
            .query_row((part, integer(from)), |row| partition_of(part, row))
            .optional()?;
        let Some(partition) = partition else { return Ok(None) };

        let mut rows = Vec::new();
        let mut by_id = self.statement(
            "SELECT revision, updated_at, born, deleted, completed, title, description FROM todos WHERE id = ?1",
        )?;
        let (mut ids_read, mut row_bytes) = (0, 0);
        for &id in &named.ids {
            let row = by_id.query_row([id.to_bytes()], |row| row_of(id, row)).optional()?;
            ids_read += 1;
            row_bytes += row.as_ref().map_or(0, Row::bytes);
            rows.extend(row);
            if row_bytes > READ_ROW_BYTES_MAX {
                break;
            }
        }

        let mut producers: Vec<(ProducerId, u64)> = Vec::new();
        let mut by_producer = self.statement("SELECT last_number FROM producers WHERE part = ?1 AND producer = ?2")?;
        for &producer in &named.producers {
            let last = by_producer.query_row((part, producer), |row| row.get(0).map(number)).optional()?;
            producers.extend(last.map(|last| (producer, last)));
        }
        Ok(Some(Begun { partition, ids_read, rows, producers }))
    }

    /// False when the partition stands elsewhere.
    fn write(&self, batch: &Batch) -> rusqlite::Result<bool> {
        let mut upsert = self.statement(
            "INSERT INTO todos (id, part, revision, deleted, completed, updated_at, born, title, description)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (id) DO UPDATE SET part = excluded.part, revision = excluded.revision,
                 deleted = excluded.deleted, completed = excluded.completed, updated_at = excluded.updated_at,
                 born = excluded.born, title = excluded.title, description = excluded.description",
        )?;
        for row in &batch.rows {
            let (title, description, completed) = row.fields.as_ref().map_or(("", "", false), |fields| {
                (fields.title.as_str(), fields.description.as_str(), fields.completed)
            });
            upsert.execute((
                row.id.to_bytes(),
                batch.part,
                integer(row.revision),
                row.fields.is_none(),
                completed,
                integer(row.updated_at_ms),
                row.born.map(integer),
                title,
                description,
            ))?;
        }
        let mut producer = self.statement(
            "INSERT INTO producers (part, producer, last_number, seen) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (part, producer) DO UPDATE SET last_number = excluded.last_number, seen = excluded.seen",
        )?;
        let now_ms = integer(self.now_ms());
        for (id, last_number) in &batch.producers {
            producer.execute((batch.part, id, integer(*last_number), now_ms))?;
        }
        if !batch.dead_letters.is_empty() {
            self.write_dead_letters(batch, now_ms)?;
        }
        let moved = self
            .statement("UPDATE partitions SET next_offset = ?1, last_hash = ?2 WHERE part = ?3 AND next_offset = ?4")?
            .execute((integer(batch.to), batch.last_hash.map(integer), batch.part, integer(batch.from)))?;
        Ok(moved == 1)
    }

    fn write_dead_letters(&self, batch: &Batch, now_ms: i64) -> rusqlite::Result<()> {
        let mut insert = self
            .statement("INSERT INTO dead_letters (part, position, reason, record, at) VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for letter in &batch.dead_letters {
            insert.execute((batch.part, integer(letter.position), letter.reason.name(), &letter.record, now_ms))?;
        }
        let dropped = self
            .statement(
                "DELETE FROM dead_letters WHERE part = ?1 AND reason = ?2 AND position <= (
                     SELECT position FROM dead_letters WHERE part = ?1 AND reason = ?2
                     ORDER BY position DESC LIMIT 1 OFFSET ?3)",
            )?
            .execute((batch.part, DeadReason::KeyReused.name(), KEY_REUSED_KEPT_MAX))?;
        self.statement("UPDATE partitions SET dead_letters_dropped = dead_letters_dropped + ?1 WHERE part = ?2")?
            .execute((integer(dropped as u64), batch.part))?;
        Ok(())
    }

    /// `None` when the partition stands elsewhere.
    fn forget(&self, part: u32, next_offset: u64, now_ms: u64) -> rusqlite::Result<Option<CaughtUp>> {
        let caught_up_at_ms = self
            .statement(
                "UPDATE partitions SET caught_up_at = max(caught_up_at, ?1) WHERE part = ?2 AND next_offset = ?3
                 RETURNING caught_up_at",
            )?
            .query_row((integer(now_ms), part, integer(next_offset)), |row| row.get(0).map(number))
            .optional()?;
        let Some(caught_up_at_ms) = caught_up_at_ms else { return Ok(None) };
        self.statement("DELETE FROM producers WHERE part = ?1 AND seen < ?2")?
            .execute((part, integer(caught_up_at_ms.saturating_sub(PRODUCER_KEPT_MS))))?;

        // Ids below this one are too old to be created again.
        let too_old = ItemId::from_parts(caught_up_at_ms.saturating_sub(RETRY_WINDOW_MS), 0);
        let mut purge = self.statement(
            "DELETE FROM todos WHERE id IN (
                 SELECT id FROM todos WHERE deleted = 1 AND part = ?1 AND id < ?2 AND updated_at < ?3 LIMIT ?4)
             RETURNING revision",
        )?;
        let unseen = integer(caught_up_at_ms.saturating_sub(TOMBSTONE_KEPT_MS));
        let (mut purged, mut rows) = (0_i64, purge.query((part, too_old.to_bytes(), unseen, PURGE_ROWS_MAX))?);
        let mut purged_count = 0;
        while let Some(row) = rows.next()? {
            purged = purged.max(row.get(0)?);
            purged_count += 1;
        }
        drop(rows);
        if purged_count > 0 {
            self.statement("UPDATE partitions SET purged = max(purged, ?1) WHERE part = ?2")?
                .execute((purged, part))?;
        }
        Ok(Some(CaughtUp { caught_up_at_ms, more: purged_count == PURGE_ROWS_MAX }))
    }
}

fn partition_of(part: u32, row: &SqlRow<'_>) -> rusqlite::Result<Partition> {
    Ok(Partition {
        store_id: row.get::<_, StoreId>(0)?,
        part,
        base: number(row.get(1)?),
        next_offset: number(row.get(2)?),
        last_hash: row.get::<_, Option<i64>>(3)?.map(number),
        caught_up_at_ms: number(row.get(4)?),
    })
}

fn row_of(id: ItemId, row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let deleted: bool = row.get(3)?;
    let fields = if deleted {
        None
    } else {
        Some(TodoFields { completed: row.get(4)?, title: row.get(5)?, description: row.get(6)? })
    };
    Ok(Row {
        id,
        revision: number(row.get(0)?),
        updated_at_ms: number(row.get(1)?),
        born: row.get::<_, Option<i64>>(2)?.map(number),
        fields,
    })
}
