//! The loop over the real store and the channels, as the server runs it.

use todo_proto::change::Changes;
use todo_proto::command::TodoCommand;
use todo_proto::limits::FOLD_COMMANDS_MAX;
use todo_worker::apply::Writing;
use todo_worker::channel::{AppendError, Published, QueueBounds};
use todo_worker::traits::{NotAppended, Outcome, StoreError, TodoStore};

use crate::support::{Embedded, Home, NOW_MS, acknowledged, complete, create, delete, id, large};

const DISK_FULL: Outcome = Outcome::NotAppended(NotAppended::DiskFull);
const ENDED: Outcome = Outcome::NotAppended(NotAppended::Ended);

#[tokio::test]
async fn acknowledged_means_committed_and_visible() {
    let home = Home::new();
    let store = home.open();
    let mut reader = store.reader().unwrap();
    let mut embedded = Embedded::start(store, QueueBounds::default());
    embedded.append(0, vec![create(1, "a"), create(2, "b"), complete(1), delete(2)]);

    let Published { changes, committed_at, done } = embedded.feed.recv().await.unwrap();
    // Committed: a reader sees it. Not yet visible: nobody was answered.
    assert_eq!(reader.count().unwrap(), 1);
    assert!(embedded.outcomes.is_empty());
    assert_eq!(embedded.appender.waiting_count(), 4);
    let since = embedded.status.borrow().unpublished_since.expect("a commit that nobody sees");
    assert!(since <= committed_at, "from the commit on");
    let Changes { from, to, part, changes, store_id } = changes;
    assert_eq!((from, to, part, changes.len()), (0, 4, 0, 2));
    let (stand, json) = reader.read_one(id(1)).unwrap();
    assert_eq!((stand.store_id, json), (store_id, changes[0].json.clone()));
    assert_eq!((changes[1].id, changes[1].revision, changes[1].json.as_ref()), (id(2), 4, None));

    done.send(()).unwrap();
    assert_eq!(embedded.outcomes.recv().await.unwrap(), acknowledged(0..4));
    assert_eq!((embedded.appender.waiting_count(), embedded.appender.waiting_bytes()), (0, 0));
    let status = embedded.status.borrow().clone();
    assert_eq!((status.writing, status.position, status.batches), (Writing::Open, 4, 1));
    assert_eq!(status.unpublished_since, None, "everything is seen");

    // It has come to where the log ended when it looked at the clock.
    embedded.status.wait_for(|status| status.caught_up_at_ms == NOW_MS).await.unwrap();
}

#[tokio::test]
async fn what_arrives_meanwhile_is_one_batch() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), QueueBounds::default());
    embedded.append(0, vec![create(0, "first")]);
    let Published { done, .. } = embedded.feed.recv().await.unwrap();
    for number in 1..40 {
        embedded.append(number, vec![create(number, "meanwhile")]);
    }
    done.send(()).unwrap();
    assert_eq!(embedded.outcomes.recv().await.unwrap(), acknowledged([0]));
    let (changes, outcomes) = embedded.follow().await;
    assert_eq!((changes.from, changes.to), (1, 40));
    assert_eq!(outcomes, acknowledged(1..40));

    // More than a batch holds comes in several, in order.
    let many = FOLD_COMMANDS_MAX as u32 + 7;
    embedded.append(100, (100..100 + many).map(|number| create(number, "many")).collect());
    assert_eq!(embedded.follow().await.1, acknowledged(100..100 + FOLD_COMMANDS_MAX as u32));
    assert_eq!(embedded.follow().await.1, acknowledged(100 + FOLD_COMMANDS_MAX as u32..100 + many));
}

/// A small patch of a large todo makes a large row: a batch is bounded by what it reads and writes, not by what it names.
#[tokio::test]
async fn patches_of_large_todos_come_in_several_batches() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), QueueBounds::default());
    let count = 250;
    let batches = async |embedded: &mut Embedded<_>| {
        let (mut outcomes, mut batches) = (Vec::new(), 0);
        while outcomes.len() < count as usize {
            let (changes, settled) = embedded.follow().await;
            assert!(changes.changes.len() < 110, "{} large rows in one batch", changes.changes.len());
            outcomes.extend(settled);
            batches += 1;
        }
        assert_eq!(outcomes, acknowledged(0..count));
        batches
    };
    embedded.append(0, (0..count).map(large).collect());
    assert_eq!(batches(&mut embedded).await, 3);
    embedded.append(0, (0..count).map(complete).collect());
    assert_eq!(batches(&mut embedded).await, 3);
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_whole_groups() {
    let home = Home::new();
    let bytes = create(0, "a").memory_bytes();
    let by_count = QueueBounds { commands_max: 3, bytes_max: usize::MAX };
    let by_bytes = QueueBounds { commands_max: usize::MAX, bytes_max: 3 * bytes };
    let mut store = home.open();
    for (round, bounds) in (0..).zip([by_count, by_bytes]) {
        let mut embedded = Embedded::start(store, bounds);
        let first = 10 * round;
        embedded.append(first, vec![create(first, "a"), create(first + 1, "a")]);
        let group = || vec![(create(first + 2, "a"), first + 2), (create(first + 3, "a"), first + 3)];
        let (error, back) = embedded.appender.try_append(group()).unwrap_err();
        assert_eq!((error, back), (AppendError::Full, group()));
        embedded.append(first + 4, vec![create(first + 4, "a")]);
        let (_, outcomes) = embedded.follow().await;
        assert_eq!(outcomes, acknowledged([first, first + 1, first + 4]));
        // Room again.
        embedded.append(first + 5, vec![create(first + 5, "a")]);
        embedded.follow().await;
        store = embedded.stop().await;
    }
}

#[tokio::test]
async fn a_full_disk_appends_nothing_and_passes() {
    let home = Home::new();
    let mut store = home.open();
    let mut reader = store.reader().unwrap();
    let cap = store.cap_pages(40).await.unwrap();
    assert_eq!(cap, 40);
    let mut embedded = Embedded::start(store, QueueBounds::default());
    embedded.append(0, vec![create(0, "fits")]);
    assert_eq!(embedded.follow().await.1, acknowledged([0]));

    embedded.append(1, (1..50).map(large).collect());
    let outcomes = embedded.outcomes.recv().await.unwrap();
    assert_eq!(outcomes, (1..50).map(|ticket| (ticket, DISK_FULL)).collect::<Vec<_>>());
    let status = embedded.status.borrow().clone();
    assert_eq!(status.writing, Writing::Failing(StoreError::Full.to_string()));
    assert_eq!(reader.count().unwrap(), 1);

    // What fits is taken again, at the position where the disk was full.
    embedded.append(50, vec![complete(0)]);
    let (changes, outcomes) = embedded.follow().await;
    assert_eq!((changes.from, changes.to, outcomes), (1, 2, acknowledged([50])));
    assert_eq!(embedded.status.borrow().writing, Writing::Open);
    let mut store = embedded.stop().await;
    assert_eq!(store.partition(0).await.unwrap().next_offset, 2);
}

#[tokio::test]
async fn stopping_applies_what_was_appended() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), QueueBounds::default());
    for number in 0..20 {
        embedded.append(number, vec![create(number, "a")]);
    }
    embedded.ask_to_stop();
    let mut outcomes = Vec::new();
    while outcomes.len() < 20 {
        outcomes.extend(embedded.follow().await.1);
    }
    assert_eq!(outcomes, acknowledged(0..20));
    let appender = embedded.appender.clone();
    let store = embedded.stop().await;
    let (error, back) = appender.try_append(vec![(create(20, "late"), 20)]).unwrap_err();
    assert_eq!((error, back.len(), appender.waiting_count()), (AppendError::Closed, 1, 0));

    // And a next start goes on where this one ended, under a new producer or the same.
    let mut embedded = Embedded::start(store, QueueBounds::default());
    embedded.append(0, vec![create(21, "a")]);
    let changes = embedded.follow().await.0;
    assert_eq!((changes.from, changes.to), (20, 21));
}

#[tokio::test]
async fn a_reused_key_is_a_dead_letter_and_a_retry_is_nothing() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), QueueBounds::default());
    let retry = TodoCommand { received_at_ms: NOW_MS + 9, ..create(1, "a") };
    embedded.append(0, vec![create(1, "a"), retry, create(1, "b")]);
    let (changes, outcomes) = embedded.follow().await;
    assert_eq!((changes.to, changes.changes.len()), (3, 1));
    assert_eq!(changes.changes[0].revision, 1);
    assert_eq!(outcomes, acknowledged(0..3));
    let counts = embedded.status.borrow().counts;
    assert_eq!((counts.changed, counts.nothing, counts.dead_letters), (1, 1, 1));
    drop(embedded.stop().await);
    assert_eq!(home.texts("SELECT reason FROM dead_letters"), ["key-reused"]);
    assert_eq!(home.number("SELECT position FROM dead_letters"), 3);
    assert_eq!(home.texts("SELECT title FROM todos"), ["a"]);
}

#[tokio::test]
async fn a_row_that_the_store_refuses_is_set_aside_alone() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), QueueBounds::default());
    let too_long = "x".repeat(501);
    let title = |number| if number == 6 || number == 11 { too_long.as_str() } else { "a" };
    embedded.append(0, (0..16).map(|number| create(number, title(number))).collect());
    let mut outcomes = Vec::new();
    while outcomes.len() < 16 {
        outcomes.extend(embedded.follow().await.1);
    }
    assert_eq!(outcomes, acknowledged(0..16));
    let mut store = embedded.stop().await;
    assert_eq!(store.partition(0).await.unwrap().next_offset, 16);
    assert_eq!(store.reader().unwrap().count().unwrap(), 14);
    assert_eq!(home.texts("SELECT reason || position FROM dead_letters"), ["refused7", "refused12"]);
}

#[tokio::test]
async fn without_a_follower_nothing_is_acknowledged() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), QueueBounds::default());
    let Published { done, .. } = {
        embedded.append(0, vec![create(0, "a")]);
        embedded.feed.recv().await.unwrap()
    };
    drop(done);
    assert_eq!(embedded.outcomes.recv().await.unwrap(), [(0, Outcome::Unknown)]);
    embedded.append(1, vec![create(1, "a")]);
    assert_eq!(embedded.outcomes.recv().await.unwrap(), [(1, ENDED)]);
    assert!(matches!(embedded.status.borrow().writing, Writing::Ended(_)));
}

/// The file is changed under the store's feet: whoever did it, nothing is written over it.
#[tokio::test]
async fn a_fenced_store_ends_writing() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), QueueBounds::default());
    embedded.append(0, vec![create(0, "a")]);
    embedded.follow().await;
    rusqlite::Connection::open(home.path()).unwrap().execute("UPDATE partitions SET next_offset = 7", []).unwrap();
    embedded.append(1, vec![create(1, "a")]);
    assert_eq!(embedded.outcomes.recv().await.unwrap(), [(1, ENDED)]);
    assert_eq!(embedded.status.borrow().writing, Writing::Ended(StoreError::Fenced.to_string()));
    let store = embedded.stop().await;
    assert_eq!(store.reader().unwrap().count().unwrap(), 1);
}
