//! Reads below the snapshot's floor: from the store, a few at a time, in turn, each within a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use todo_proto::id::ItemId;
use todo_worker::reads::{Below, Json, OlderReader, Stand};
use todo_worker::sqlite::SqliteReader;
use todo_worker::traits::StoreError;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;

use crate::control::follow::Shown;
use crate::http::connection::{DeferredAnswer, next_link};
use crate::http::reject::Reject;
use crate::limits::{CONTROL_REQUEST_TIMEOUT_MS, COPIED_BODY_BYTES_MAX, STORE_READ_ITEMS_MAX};
use crate::snapshot::response::{Found, JSON, Query, find};
use crate::snapshot::{Builder, Snapshot};

/// Readers of the store, each lent to one request at a time, in the order in which they come.
pub struct Reads<R> {
    readers: Vec<Mutex<R>>,
    next: AtomicUsize,
    oldest: Oldest,
    /// The lowest id of the pages that were read: a commit may be read before it is followed, and who has seen its todo in
    /// a list must find it by its id.
    lowest_shown: watch::Sender<ItemId>,
    shown: watch::Sender<Shown>,
}

/// Says below which id no todo is live, neither in the store nor in what is served; `None` while nobody knows.
pub type Oldest = Box<dyn Fn() -> Option<ItemId> + Send + Sync>;

/// Reads a file, on a thread that may block.
pub struct FileReader(Arc<Mutex<SqliteReader>>);

/// What the store has.
enum Stored {
    Page { items: Vec<(ItemId, Json)>, older: bool },
    One(Option<(ItemId, Json)>),
}

impl<R: OlderReader> Reads<R> {
    /// Reads through `readers`, at least one. What is below `oldest` is asked of none of them; `shown` is told what
    /// clients are about to see.
    pub fn new(readers: Vec<R>, oldest: Oldest, shown: watch::Sender<Shown>) -> Reads<R> {
        assert!(!readers.is_empty(), "somebody must read");
        Reads {
            readers: readers.into_iter().map(Mutex::new).collect(),
            next: AtomicUsize::new(0),
            oldest,
            lowest_shown: watch::Sender::new(ItemId::MAX),
            shown,
        }
    }

    /// Answers `query` from below the floor of what is `served` then: what memory has meanwhile is not asked of the store.
    ///
    /// # Errors
    /// The store's, that it took too long, and that what it has does not fit what is served.
    pub async fn answer(&self, query: Query, served: impl Fn() -> Arc<Snapshot>) -> Result<DeferredAnswer, StoreError> {
        if !served().is_loaded() {
            return Err(StoreError::Unavailable("nothing is loaded yet".to_owned()));
        }
        if let Query::Item(id) = query
            && (self.oldest)().is_some_and(|oldest| id < oldest.min(*self.lowest_shown.borrow()))
        {
            return Ok(DeferredAnswer::Reject(Reject::NotFound));
        }
        let within = Duration::from_millis(CONTROL_REQUEST_TIMEOUT_MS);
        let too_long = |_| StoreError::Unavailable("it took longer than a second".to_owned());
        let (stand, stored) = timeout(within, self.read(query)).await.map_err(too_long)??;
        // No await from here on: what is served cannot change between this look at it and the answer.
        let snapshot = served();
        if stand.store_id != *snapshot.store_id() || !has_reached(&stand.positions, snapshot.positions()) {
            return Err(StoreError::Unavailable("it is behind the snapshot".to_owned()));
        }
        if !matches!(find(&snapshot, query), Found::Below) {
            return Err(StoreError::Unavailable("memory has it by now".to_owned()));
        }
        self.shown.send_modify(|shown| shown.note(stand.store_id, &stand.positions));
        Ok(match stored {
            Stored::One(None) => DeferredAnswer::Reject(Reject::NotFound),
            Stored::One(Some(item)) => body(stand.store_id, &[item], query, false),
            Stored::Page { items, older } => {
                if let Some((lowest, _)) = items.last() {
                    self.lowest_shown.send_if_modified(|shown| {
                        *shown = (*shown).min(*lowest);
                        false
                    });
                }
                body(stand.store_id, &items, query, older)
            }
        })
    }

    async fn read(&self, query: Query) -> Result<(Stand, Stored), StoreError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let mut reader = self.readers[turn % self.readers.len()].lock().await;
        match query {
            Query::Item(id) => {
                let (stand, json) = reader.read_one(id).await?;
                Ok((stand, Stored::One(json.map(|json| (id, json)))))
            }
            Query::List { limit, after } => {
                let before = after.unwrap_or(ItemId::MAX);
                let items_max = limit.min(STORE_READ_ITEMS_MAX) as usize;
                let below = reader.read_below(before, items_max, COPIED_BODY_BYTES_MAX).await?;
                Ok((below.stand, Stored::Page { items: below.todos, older: below.older }))
            }
        }
    }
}

impl FileReader {
    /// Reads through one connection.
    pub fn new(reader: SqliteReader) -> FileReader {
        FileReader(Arc::new(Mutex::new(reader)))
    }

    /// A read that nobody waits for any more goes on to its end, and the next one waits for it.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut SqliteReader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mut reader = Arc::clone(&self.0).lock_owned().await;
        tokio::task::spawn_blocking(move || read(&mut reader)).await.expect("a read does not panic")
    }
}

impl OlderReader for FileReader {
    async fn read_below(
        &mut self,
        before: ItemId,
        todos_max: usize,
        json_bytes_max: usize,
    ) -> Result<Below, StoreError> {
        self.blocking(move |reader| reader.read_below(before, todos_max, json_bytes_max)).await
    }

    async fn read_one(&mut self, id: ItemId) -> Result<(Stand, Option<Json>), StoreError> {
        self.blocking(move |reader| reader.read_one(id)).await
    }
}

/// No partition stands lower in the store than in memory.
fn has_reached(store: &[u64], memory: &[u64]) -> bool {
    store.len() == memory.len() && store.iter().zip(memory).all(|(store, memory)| store >= memory)
}

/// The same bytes and the same validator that memory would give.
fn body(store_id: [u8; 16], items: &[(ItemId, Json)], query: Query, older: bool) -> DeferredAnswer {
    let last = items.last().map(|(id, _)| *id);
    let mut builder = Builder::new(store_id, 0);
    for (id, json) in items {
        builder.push(*id, json);
    }
    let page = builder.finish(Box::default(), ItemId::ZERO);
    let slice = match query {
        Query::Item(id) => page.item(id).expect("it was just put in"),
        Query::List { .. } => page.all(),
    };
    let mut body = Vec::with_capacity(slice.body_bytes() as usize);
    page.copy_into(&slice, &mut body);
    let extra = match (query, last) {
        (Query::List { limit, .. }, Some(last)) if older && (slice.items_count() < limit) => next_link(last, limit),
        _ => String::new(),
    };
    DeferredAnswer::Body { status: 200, content_type: JSON, extra, etag: Some(slice.etag()), body }
}

#[cfg(test)]
mod tests {
    use todo_worker::sqlite::SqliteStore;

    use super::*;
    use crate::clock;

    /// The one reader is lent to somebody for good, so that a question would wait until its time is over.
    #[tokio::test(start_paused = true)]
    async fn what_is_older_than_all_is_no_question() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = SqliteStore::open(&folder.path().join("todos.db"), Arc::new(clock::wall_ms)).expect("a new file");
        let mut reader = store.reader().expect("a reader");
        let stand = reader.stand().expect("a store");
        let held = FileReader::new(reader);
        let held_for_good = Arc::clone(&held.0).lock_owned().await;
        let id = |time_ms| ItemId::from_parts(time_ms, 0);
        let oldest = watch::Sender::new(id(20));
        let seen = oldest.subscribe();
        let reads = Reads::new(vec![held], Box::new(move || Some(*seen.borrow())), watch::Sender::default());
        // Of a window whose floor is above all of these.
        let served = Arc::new(Builder::new(stand.store_id, 1).finish(stand.positions.into(), id(1_000)));
        let is_asked = async |time_ms| match reads.answer(Query::Item(id(time_ms)), || Arc::clone(&served)).await {
            Ok(DeferredAnswer::Reject(Reject::NotFound)) => false,
            Err(StoreError::Unavailable(why)) if why.contains("longer than a second") => true,
            _ => panic!("nothing else can come of it"),
        };
        assert_eq!((is_asked(19).await, is_asked(20).await, is_asked(21).await), (false, true, true));
        oldest.send_replace(id(10));
        assert_eq!((is_asked(9).await, is_asked(19).await), (false, true), "one that is older has come");
        reads.lowest_shown.send_replace(id(5));
        assert_eq!((is_asked(4).await, is_asked(9).await), (false, true), "one that is older was seen in a list");
        drop(held_for_good);
    }
}
