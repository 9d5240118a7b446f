//! The suite of `TodoStore`: what every store must do. Each test takes a harness, so that another store runs the same.

use todo_proto::command::{Operation, TodoCommand};
use todo_proto::fold::{Batch, DeadLetter, DeadReason, Folded, Partition, fold};
use todo_proto::limits::RETRY_WINDOW_MS;
use todo_worker::limits::{PRODUCER_KEPT_MS, PURGE_ROWS_MAX, READ_ROW_BYTES_MAX};
use todo_worker::postgres::PgStore;
use todo_worker::sqlite::SqliteStore;
use todo_worker::traits::{Named, StoreError, TodoStore};

use crate::database::PgHome;
use crate::support::{HOUR_MS, Home, NOW_MS, command, complete, create, delete, entries, fields, id, large};

/// A store of one implementation, and what a test must know beside its trait.
trait Harness {
    type Store: TodoStore;

    async fn new() -> Self;
    fn open(&self) -> Self::Store;
    async fn set_clock(&self, now_ms: u64);
    /// Rows, tombstones included.
    async fn rows_count(&self) -> i64;
    /// The revision up to which tombstones were purged.
    async fn purged(&self) -> i64;
    /// The reasons of the dead letters, oldest first.
    async fn dead_letters(&self) -> Vec<String>;
}

impl Harness for Home {
    type Store = SqliteStore;

    async fn new() -> Self {
        Self::new()
    }

    fn open(&self) -> SqliteStore {
        self.open()
    }

    async fn set_clock(&self, now_ms: u64) {
        self.clock.set(now_ms);
    }

    async fn rows_count(&self) -> i64 {
        self.number("SELECT count(*) FROM todos")
    }

    async fn purged(&self) -> i64 {
        self.number("SELECT purged FROM partitions")
    }

    async fn dead_letters(&self) -> Vec<String> {
        self.texts("SELECT reason FROM dead_letters ORDER BY position")
    }
}

impl Harness for PgHome {
    type Store = PgStore;

    async fn new() -> Self {
        Self::new().await
    }

    fn open(&self) -> PgStore {
        self.database.store()
    }

    async fn set_clock(&self, now_ms: u64) {
        self.set_clock(now_ms).await;
    }

    async fn rows_count(&self) -> i64 {
        self.number("SELECT count(*) FROM todos").await
    }

    async fn purged(&self) -> i64 {
        self.number("SELECT purged FROM partitions WHERE part = 0").await
    }

    async fn dead_letters(&self) -> Vec<String> {
        let letters = "SELECT reason FROM dead_letters ORDER BY position";
        self.client().await.query(letters, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }
}

macro_rules! suite {
    ($harness:ty: $($test:ident)*) => {
        $(#[tokio::test]
        async fn $test() {
            super::$test(<$harness as Harness>::new().await).await;
        })*
    };
}

macro_rules! whole_suite {
    ($harness:ty) => {
        suite! { $harness:
            a_new_store_begins_at_nothing
            what_is_committed_is_there_when_opened_again
            what_is_not_committed_is_not_there
            a_partition_that_stands_elsewhere_is_fenced
            a_commit_without_begin_writes_nothing
            reading_stops_when_rows_are_large
            a_refused_row_takes_the_batch_with_it
            catching_up_never_goes_back
            tombstones_are_purged_when_nothing_can_ask_for_them
            purging_goes_in_pieces
            producers_are_forgotten
            only_the_newest_reused_keys_are_kept
        }
    };
}

mod sqlite {
    use super::*;

    whole_suite!(Home);
}

mod postgres {
    use super::*;

    whole_suite!(PgHome);
}

async fn begin_and_fold(store: &mut impl TodoStore, commands: Vec<TodoCommand>) -> Folded {
    let partition = store.partition(0).await.unwrap();
    let entries = entries(&partition, commands);
    let begun = store.begin(0, partition.next_offset, Named::by(&entries)).await.unwrap();
    assert_eq!(begun.partition, partition);
    fold(&partition, begun.rows, &begun.producers, &entries)
}

async fn apply(store: &mut impl TodoStore, commands: Vec<TodoCommand>) -> Folded {
    let folded = begin_and_fold(store, commands).await;
    store.commit(folded.batch.clone()).await.unwrap();
    folded
}

async fn a_new_store_begins_at_nothing<H: Harness>(harness: H) {
    let partition = harness.open().partition(0).await.unwrap();
    let store_id = partition.store_id;
    assert_eq!(
        partition,
        Partition { store_id, part: 0, base: 0, next_offset: 0, last_hash: None, caught_up_at_ms: 0 }
    );
    assert_ne!(store_id, H::new().await.open().partition(0).await.unwrap().store_id);
}

async fn what_is_committed_is_there_when_opened_again(harness: impl Harness) {
    let mut store = harness.open();
    let first = apply(&mut store, vec![create(1, "a"), create(2, "b"), complete(1), delete(2)]).await;
    let before = store.partition(0).await.unwrap();
    assert_eq!((before.next_offset, before.last_hash), (4, first.batch.last_hash));
    drop(store);

    let mut store = harness.open();
    assert_eq!(store.partition(0).await.unwrap(), before);
    let named = Named { ids: vec![id(1), id(2), id(3)], producers: vec![[1; 16], [2; 16]] };
    let begun = store.begin(0, 4, named).await.unwrap();
    assert_eq!(begun.rows, first.batch.rows);
    assert_eq!(begun.producers, [([1; 16], 4)]);
}

async fn what_is_not_committed_is_not_there(harness: impl Harness) {
    let mut store = harness.open();
    // Left behind by a loop that was dropped, and by a process that ended.
    begin_and_fold(&mut store, vec![create(1, "a")]).await;
    let second = begin_and_fold(&mut store, vec![create(2, "b")]).await;
    assert_eq!(second.batch.from, 0);
    drop(store);
    let mut store = harness.open();
    assert_eq!(store.partition(0).await.unwrap().next_offset, 0);
    drop(store);
    assert_eq!(harness.rows_count().await, 0);
}

async fn a_partition_that_stands_elsewhere_is_fenced(harness: impl Harness) {
    let mut store = harness.open();
    apply(&mut store, vec![create(1, "a")]).await;
    for from in [0, 2] {
        assert_eq!(store.begin(0, from, Named::default()).await, Err(StoreError::Fenced));
        assert_eq!(store.catch_up(0, from, NOW_MS).await, Err(StoreError::Fenced));
    }
    assert_eq!(store.begin(7, 1, Named::default()).await, Err(StoreError::Fenced));
    // Begun rightly, but the batch is another's.
    let folded = begin_and_fold(&mut store, vec![create(2, "b")]).await;
    let stale = Batch { from: 0, to: 1, ..folded.batch };
    assert_eq!(store.commit(stale).await, Err(StoreError::Fenced));
    assert_eq!(store.partition(0).await.unwrap().next_offset, 1);
    assert_eq!(harness.rows_count().await, 1);
}

async fn a_commit_without_begin_writes_nothing(harness: impl Harness) {
    let mut store = harness.open();
    let folded = begin_and_fold(&mut store, vec![create(1, "a")]).await;
    store.commit(folded.batch.clone()).await.unwrap();
    assert!(matches!(store.commit(folded.batch).await, Err(StoreError::Unavailable(_))));
    assert_eq!(store.partition(0).await.unwrap().next_offset, 1);
}

async fn reading_stops_when_rows_are_large(harness: impl Harness) {
    let mut store = harness.open();
    let count = 120;
    for number in 0..count {
        apply(&mut store, vec![large(number)]).await;
    }
    let named = Named { ids: (0..count).map(id).collect(), producers: Vec::new() };
    let begun = store.begin(0, u64::from(count), named).await.unwrap();
    assert_eq!(begun.ids_read, READ_ROW_BYTES_MAX / begun.rows[0].bytes() + 1);
    assert_eq!(begun.rows.len(), begun.ids_read);
}

async fn a_refused_row_takes_the_batch_with_it(harness: impl Harness) {
    let mut store = harness.open();
    let folded = begin_and_fold(&mut store, vec![create(1, "a"), create(2, "")]).await;
    assert!(matches!(store.commit(folded.batch).await, Err(StoreError::Refused(_))));
    assert_eq!(store.partition(0).await.unwrap().next_offset, 0);
    assert_eq!(harness.rows_count().await, 0);
    apply(&mut store, vec![create(1, "a")]).await;
}

async fn catching_up_never_goes_back(harness: impl Harness) {
    let mut store = harness.open();
    assert_eq!(store.now_ms().await, Ok(NOW_MS));
    for (now_ms, expected) in [(NOW_MS, NOW_MS), (NOW_MS - 5, NOW_MS), (NOW_MS + 5, NOW_MS + 5)] {
        assert_eq!(store.catch_up(0, 0, now_ms).await.unwrap().caught_up_at_ms, expected);
        assert_eq!(store.partition(0).await.unwrap().caught_up_at_ms, expected);
    }
}

async fn tombstones_are_purged_when_nothing_can_ask_for_them(harness: impl Harness) {
    let mut store = harness.open();
    let old = command(id(1), Operation::Create(fields("old")));
    apply(&mut store, vec![old.clone(), delete(1), create(2, "stays")]).await;
    let gone_ms = id(1).time_ms() + RETRY_WINDOW_MS + 1;

    // Its id may still be created again: the tombstone says no.
    store.catch_up(0, 3, gone_ms - 1).await.unwrap();
    assert_eq!((harness.rows_count().await, harness.purged().await), (2, 0));
    assert!(apply(&mut store, vec![old.clone()]).await.batch.dead_letters.is_empty());

    // Deleted less than an hour ago: it stays for the followers.
    let received_at_ms = gone_ms - HOUR_MS;
    apply(&mut store, vec![TodoCommand { received_at_ms, ..delete(2) }]).await;
    store.catch_up(0, 5, gone_ms).await.unwrap();
    assert_eq!((harness.rows_count().await, harness.purged().await), (1, 2));
    store.catch_up(0, 5, gone_ms + 1).await.unwrap();
    assert_eq!((harness.rows_count().await, harness.purged().await), (0, 5));

    // And no late copy brings it back.
    let late = apply(&mut store, vec![old]).await;
    assert_eq!(late.batch.dead_letters[0].reason, DeadReason::TooOld);
    assert_eq!((harness.rows_count().await, harness.dead_letters().await), (0, vec!["too-old".to_owned()]));
}

async fn purging_goes_in_pieces(harness: impl Harness) {
    let mut store = harness.open();
    for piece in 0..2 {
        let first = piece * PURGE_ROWS_MAX;
        apply(&mut store, (first..first + PURGE_ROWS_MAX).map(delete).collect()).await;
    }
    apply(&mut store, vec![delete(2 * PURGE_ROWS_MAX)]).await;
    let next_offset = u64::from(2 * PURGE_ROWS_MAX + 1);
    for (more, left) in [(true, PURGE_ROWS_MAX + 1), (true, 1), (false, 0)] {
        assert_eq!(store.catch_up(0, next_offset, NOW_MS + RETRY_WINDOW_MS).await.unwrap().more, more);
        assert_eq!(harness.rows_count().await, i64::from(left));
    }
    assert_eq!(harness.purged().await.cast_unsigned(), next_offset);
}

async fn producers_are_forgotten(harness: impl Harness) {
    let mut store = harness.open();
    apply(&mut store, vec![create(1, "a")]).await;
    let named = || Named { ids: Vec::new(), producers: vec![[1; 16]] };
    for (now_ms, kept) in [(NOW_MS + PRODUCER_KEPT_MS, 1), (NOW_MS + PRODUCER_KEPT_MS + 1, 0)] {
        store.catch_up(0, 1, now_ms).await.unwrap();
        assert_eq!(store.begin(0, 1, named()).await.unwrap().producers.len(), kept);
    }
    // Seen by the store's clock, whatever the commands say.
    harness.set_clock(NOW_MS + PRODUCER_KEPT_MS + 1).await;
    apply(&mut store, vec![create(2, "b")]).await;
    store.catch_up(0, 2, NOW_MS + PRODUCER_KEPT_MS + 1).await.unwrap();
    assert_eq!(store.begin(0, 2, named()).await.unwrap().producers.len(), 1);
}

async fn only_the_newest_reused_keys_are_kept(harness: impl Harness) {
    let mut store = harness.open();
    let kept = u64::from(todo_worker::limits::KEY_REUSED_KEPT_MAX);
    let letter = |position, reason| DeadLetter { position, reason, record: vec![1] };
    let mut folded = begin_and_fold(&mut store, vec![create(1, "a")]).await;
    folded.batch.dead_letters.push(letter(0, DeadReason::TooOld));
    folded.batch.dead_letters.extend((1..=kept + 3).map(|position| letter(position, DeadReason::KeyReused)));
    store.commit(folded.batch).await.unwrap();
    let reasons = harness.dead_letters().await;
    assert_eq!((reasons.len() as u64, reasons[0].as_str()), (kept + 1, "too-old"));
}
