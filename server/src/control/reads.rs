//! Reads below the snapshot's floor: from the store, a few at a time, each within a second.

use std::time::Duration;

use todo_proto::id::ItemId;
use todo_worker::sqlite::SqliteReader;
use todo_worker::traits::StoreError;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::bridge::ToShard;
use crate::http::connection::{DeferredAnswer, next_link};
use crate::http::reject::Reject;
use crate::limits::{CONTROL_REQUEST_TIMEOUT_MS, COPIED_BODY_BYTES_MAX, STORE_READ_ITEMS_MAX};
use crate::snapshot::Builder;
use crate::snapshot::response::{JSON, Query};

/// Readers of the store, each lent to one request at a time, in the order in which they come.
pub struct Reads {
    readers: Vec<std::sync::Arc<Mutex<SqliteReader>>>,
    next: std::sync::atomic::AtomicUsize,
}

/// What the store has.
enum Stored {
    Page { items: Vec<(ItemId, Box<[u8]>)>, older: bool },
    One(Option<(ItemId, Box<[u8]>)>),
}

impl Reads {
    /// Reads through `readers`, at least one.
    pub fn new(readers: Vec<SqliteReader>) -> Reads {
        assert!(!readers.is_empty(), "somebody must read");
        let readers = readers.into_iter().map(|reader| std::sync::Arc::new(Mutex::new(reader)));
        Reads { readers: readers.collect(), next: std::sync::atomic::AtomicUsize::new(0) }
    }

    /// Answers `query` from below the floor. The floor is that of the snapshot that is current now: what memory has
    /// meanwhile is not asked of the store.
    ///
    /// # Errors
    /// The store's, and that it took too long.
    pub async fn answer(&self, query: Query, to_shard: &ToShard) -> Result<DeferredAnswer, StoreError> {
        let snapshot = to_shard.slot.current();
        let turn = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let reader = std::sync::Arc::clone(&self.readers[turn % self.readers.len()]);
        let within = Duration::from_millis(CONTROL_REQUEST_TIMEOUT_MS);
        let too_long = |_| StoreError::Unavailable("it took longer than a second".to_owned());
        let mut reader = timeout(within, reader.lock_owned()).await.map_err(too_long)?;
        let reading = tokio::task::spawn_blocking(move || match query {
            Query::Item(id) => {
                let (stand, json) = reader.read_one(id)?;
                Ok((stand, Stored::One(json.map(|json| (id, json)))))
            }
            Query::List { limit, after } => {
                let before = after.unwrap_or(ItemId::MAX);
                let items_max = limit.min(STORE_READ_ITEMS_MAX) as usize;
                let below = reader.read_below(before, items_max, COPIED_BODY_BYTES_MAX)?;
                Ok((below.stand, Stored::Page { items: below.todos, older: below.older }))
            }
        });
        let (stand, stored) = timeout(within, reading).await.map_err(too_long)?.expect("a read does not panic")?;
        if stand.positions.iter().zip(snapshot.positions()).any(|(store, memory)| store < memory) {
            return Err(StoreError::Unavailable("it is behind the snapshot".to_owned()));
        }
        Ok(match stored {
            Stored::One(None) => DeferredAnswer::Reject(Reject::NotFound),
            Stored::One(Some(item)) => body(stand.store_id, &[item], query, false),
            Stored::Page { items, older } => body(stand.store_id, &items, query, older),
        })
    }
}

/// The same bytes and the same validator that memory would give.
fn body(store_id: [u8; 16], items: &[(ItemId, Box<[u8]>)], query: Query, older: bool) -> DeferredAnswer {
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
