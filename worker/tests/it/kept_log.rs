//! The loop over a log that keeps its entries, and a store that fails when it is told to: what a cluster adds. The log and
//! the faults are of memory; the store below is the real one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use todo_proto::change::Changes;
use todo_proto::command::{Record, TodoCommand};
use todo_proto::fold::{Batch, Entry, Partition};
use todo_worker::apply::{self, Status, Writing};
use todo_worker::channel::QueueBounds;
use todo_worker::sqlite::SqliteStore;
use todo_worker::traits::{
    Begun, CaughtUp, ChangeFeed, CommandLog, Extent, FeedGone, LogError, Named, NotAppended, Outcome, StoreError,
    TodoStore,
};
use tokio::sync::{mpsc, watch};

use crate::support::{Embedded, Home, create};

/// A log of what it was made with. At its end it is closed.
pub struct MemoryLog {
    entries: Vec<Entry>,
    earliest: u64,
    next: u64,
    /// Where it ends the next times that somebody asks: it grows.
    ends: VecDeque<u64>,
    /// At its end it is away once, and then it has these entries.
    becomes: Option<Vec<Entry>>,
}

impl MemoryLog {
    pub fn new(commands: Vec<TodoCommand>) -> Self {
        let record = |(number, command)| Record { producer: [1; 16], number, command };
        let records = (1..).zip(commands).map(record).collect();
        Self::of_records(records)
    }

    fn of_records(records: Vec<Record>) -> Self {
        let entry = |(offset, record)| Entry { offset, record: Ok(record) };
        Self {
            entries: (0..).zip(records).map(entry).collect(),
            earliest: 0,
            next: 0,
            ends: VecDeque::new(),
            becomes: None,
        }
    }
}

impl CommandLog for MemoryLog {
    const KEEPS: bool = true;

    async fn extent(&mut self) -> Result<Extent, LogError> {
        let end = self.ends.pop_front().unwrap_or_else(|| self.entries.last().map_or(0, |entry| entry.offset + 1));
        Ok(Extent { earliest: self.earliest, end })
    }

    async fn seek(&mut self, offset: u64) -> Result<(), LogError> {
        self.next = offset;
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Option<Vec<Entry>>, LogError> {
        let fetched: Vec<Entry> =
            self.entries.iter().filter(|entry| entry.offset >= self.next).take(3).cloned().collect();
        self.next = fetched.last().map_or(self.next, |entry| entry.offset + 1);
        if let Some(entries) = self.becomes.take_if(|_| fetched.is_empty()) {
            self.entries = entries;
            return Err(LogError::Unavailable("it was deleted".into()));
        }
        Ok(Some(fetched).filter(|entries| !entries.is_empty()))
    }

    fn settle(&mut self, _: usize, _: Outcome) {}

    fn close(&mut self) {
        self.entries.clear();
    }
}

/// What becomes of a commit.
enum Fault {
    /// Nothing is written, and the error says so.
    Fails(StoreError),
    /// Nothing is written, and nobody knows.
    LostBefore,
    /// All is written, and nobody knows.
    LostAfter,
}

/// A store whose next commits go wrong.
struct FaultyStore {
    store: SqliteStore,
    faults: VecDeque<Fault>,
}

impl TodoStore for FaultyStore {
    async fn partition(&mut self, part: u32) -> Result<Partition, StoreError> {
        self.store.partition(part).await
    }

    async fn begin(&mut self, part: u32, from: u64, named: Named) -> Result<Begun, StoreError> {
        self.store.begin(part, from, named).await
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        let unknown = || Err(StoreError::Unknown("the connection broke".into()));
        match self.faults.pop_front() {
            None => self.store.commit(batch).await,
            Some(Fault::Fails(error)) => Err(error),
            Some(Fault::LostBefore) => unknown(),
            Some(Fault::LostAfter) => {
                self.store.commit(batch).await?;
                unknown()
            }
        }
    }

    async fn now_ms(&mut self) -> Result<u64, StoreError> {
        self.store.now_ms().await
    }

    async fn catch_up(&mut self, part: u32, next_offset: u64, now_ms: u64) -> Result<CaughtUp, StoreError> {
        self.store.catch_up(part, next_offset, now_ms).await
    }
}

/// Remembers what was published.
#[derive(Clone, Default)]
struct MemoryFeed(Arc<Mutex<Vec<(u64, u64)>>>);

impl ChangeFeed for MemoryFeed {
    async fn publish(&mut self, changes: Changes) -> Result<(), FeedGone> {
        self.0.lock().unwrap().push((changes.from, changes.to));
        Ok(())
    }
}

/// Runs the loop to the log's end. Returns the store, the last status, and what was published.
pub async fn run<S: TodoStore>(log: MemoryLog, store: S) -> (S, Status, Vec<(u64, u64)>) {
    let feed = MemoryFeed::default();
    let (status_sender, mut status) = watch::channel(Status::default());
    let (stop, stopped) = watch::channel(false);
    let ended = async move {
        // A loop that has ended waits to be told that it may go.
        let ended = |status: &Status| matches!(status.writing, Writing::Ended(_));
        if status.wait_for(ended).await.is_ok() {
            stop.send(true).unwrap();
        }
        status.borrow().clone()
    };
    let (store, status) = tokio::join!(apply::run(0, log, store, feed.clone(), status_sender, stopped), ended);
    let published = feed.0.lock().unwrap().clone();
    (store, status, published)
}

pub fn creates(count: u32) -> Vec<TodoCommand> {
    (0..count).map(|number| create(number, "a")).collect()
}

#[tokio::test]
async fn faults_lose_and_double_nothing() {
    let unavailable = || Fault::Fails(StoreError::Unavailable("away".into()));
    let whole = [(0, 3), (3, 6), (6, 8)];
    let cases = [
        ("none", vec![], whole.as_slice()),
        ("away", vec![unavailable(), unavailable()], whole.as_slice()),
        ("full", vec![Fault::Fails(StoreError::Full)], whole.as_slice()),
        ("lost before", vec![Fault::LostBefore], whole.as_slice()),
        // The followers repair what was committed and not published.
        ("lost after", vec![Fault::LostAfter], &whole[1..]),
    ];
    for (name, faults, expected) in cases {
        let home = Home::new();
        let failures = faults.len() as u64;
        let store = FaultyStore { store: home.open(), faults: faults.into() };
        let (mut store, status, published) = run(MemoryLog::new(creates(8)), store).await;
        assert_eq!(published, expected, "{name}");
        assert_eq!((status.writing, status.position, status.failures), (Writing::Open, 8, failures), "{name}");
        assert_eq!(store.partition(0).await.unwrap().next_offset, 8, "{name}");
        assert_eq!(store.store.reader().unwrap().count().unwrap(), 8, "{name}");
    }
}

#[tokio::test]
async fn an_unknown_commit_of_a_log_that_keeps_nothing_ends_writing() {
    let home = Home::new();
    let store = FaultyStore { store: home.open(), faults: [Fault::LostAfter].into() };
    let mut embedded = Embedded::start(store, QueueBounds::default());
    embedded.append(0, creates(2));
    assert_eq!(embedded.outcomes.recv().await.unwrap(), [(0, Outcome::Unknown), (1, Outcome::Unknown)]);
    embedded.append(2, vec![create(2, "a")]);
    assert_eq!(embedded.outcomes.recv().await.unwrap(), [(2, Outcome::NotAppended(NotAppended::Ended))]);
    assert!(matches!(&embedded.status.borrow().writing, Writing::Ended(why) if why.contains("connection broke")));
    let mut store = embedded.stop().await;
    assert_eq!(store.partition(0).await.unwrap().next_offset, 2);
}

#[tokio::test]
async fn numbers_that_come_twice_or_late_are_ghosts() {
    let home = Home::new();
    let record = |number, todo| Record { producer: [1; 16], number, command: create(todo, "a") };
    let other = Record { producer: [2; 16], ..record(1, 9) };
    let records = vec![record(1, 1), record(2, 2), record(2, 3), record(1, 4), other, record(5, 5), record(4, 6)];
    let (store, status, _) = run(MemoryLog::of_records(records), home.open()).await;
    assert_eq!((status.counts.ghosts, status.counts.changed, status.position), (3, 4, 7));
    let mut ids = Vec::new();
    store.reader().unwrap().load(9, usize::MAX, |id, _| ids.push(id)).unwrap();
    assert_eq!(ids, [9, 5, 2, 1].map(crate::support::id));
}

#[tokio::test]
async fn another_log_under_the_old_name_halts() {
    let home = Home::new();
    let (store, status, _) = run(MemoryLog::new(creates(5)), home.open()).await;
    assert_eq!(status.position, 5);

    // The same and more: goes on. Cut at the front, but not beyond what is applied: goes on without comparing.
    let (store, status, _) = run(MemoryLog::new(creates(6)), store).await;
    assert_eq!((status.writing, status.position), (Writing::Open, 6));
    let mut cut = MemoryLog::new(creates(7));
    cut.earliest = 6;
    cut.entries.drain(..6);
    let (mut store, status, _) = run(cut, store).await;
    assert_eq!((status.writing, status.position), (Writing::Open, 7));

    let mut beyond = MemoryLog::new(creates(9));
    beyond.earliest = 8;
    let mut gap = MemoryLog::new(creates(9));
    gap.entries.remove(7);
    let other = MemoryLog::new((0..9).map(|number| create(number, "other")).collect());
    for (name, log) in [("cut beyond", beyond), ("shorter", MemoryLog::new(creates(4))), ("other", other), ("gap", gap)]
    {
        let (same, status, published) = run(log, store).await;
        store = same;
        assert!(matches!(status.writing, Writing::Ended(_)), "{name}: {status:?}");
        assert!(published.is_empty(), "{name}");
        assert_eq!(store.partition(0).await.unwrap().next_offset, 7, "{name}");
    }
}

/// Two loops on one partition, as when a lease was lost and not noticed: the fence lets one of them write each batch.
#[tokio::test]
async fn a_second_owner_is_fenced_and_reads_again() {
    let home = Home::new();
    let mut store = FaultyStore { store: home.open(), faults: VecDeque::new() };
    store.faults.push_back(Fault::Fails(StoreError::Fenced));
    let (store, status, published) = run(MemoryLog::new(creates(4)), store).await;
    assert_eq!((status.writing, status.failures), (Writing::Open, 1));
    assert_eq!(published, [(0, 3), (3, 4)]);
    assert_eq!(store.store.reader().unwrap().count().unwrap(), 4);
}

/// A store that stays away does not keep a loop that is to stop.
#[tokio::test]
async fn stopping_does_not_wait_for_the_store() {
    let home = Home::new();
    let away = || Fault::Fails(StoreError::Unavailable("away".into()));
    let store = FaultyStore { store: home.open(), faults: std::iter::repeat_with(away).take(1_000).collect() };
    let (status_sender, mut status) = watch::channel(Status::default());
    let (stop, stopped) = watch::channel(false);
    let (done, mut finished) = mpsc::channel(1);
    let log = MemoryLog::new(creates(1));
    tokio::spawn(async move {
        let store = apply::run(0, log, store, MemoryFeed::default(), status_sender, stopped).await;
        done.send(store.faults.len()).await.unwrap();
    });
    status.wait_for(|status| status.failures > 0).await.unwrap();
    stop.send(true).unwrap();
    assert!(finished.recv().await.unwrap() > 900);
}

/// What happens beside a loop, once, the next time it calls the store.
enum Beside {
    /// Another owner applies the next entry while this one notes how far it has caught up.
    AppliesNext(Entry),
    /// A human adopts a topic made anew, which has grown to where the old one stood, before a batch begins.
    AdoptsTopic,
}

/// A store that somebody else uses too.
struct SharedStore {
    store: SqliteStore,
    beside: Option<Beside>,
}

impl TodoStore for SharedStore {
    async fn partition(&mut self, part: u32) -> Result<Partition, StoreError> {
        self.store.partition(part).await
    }

    async fn begin(&mut self, part: u32, from: u64, named: Named) -> Result<Begun, StoreError> {
        let mut begun = self.store.begin(part, from, named).await?;
        if self.beside.take_if(|beside| matches!(beside, Beside::AdoptsTopic)).is_some() {
            begun.partition.base += 100;
        }
        Ok(begun)
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.store.commit(batch).await
    }

    async fn now_ms(&mut self) -> Result<u64, StoreError> {
        self.store.now_ms().await
    }

    async fn catch_up(&mut self, part: u32, next_offset: u64, now_ms: u64) -> Result<CaughtUp, StoreError> {
        if let Some(Beside::AppliesNext(entry)) = self.beside.take_if(|beside| matches!(beside, Beside::AppliesNext(_)))
        {
            assert_eq!(entry.offset, next_offset);
            let entries = [entry];
            let begun = self.store.begin(part, next_offset, Named::by(&entries)).await?;
            let folded = todo_proto::fold::fold(&begun.partition, begun.rows, &begun.producers, &entries);
            self.store.commit(folded.batch).await?;
        }
        self.store.catch_up(part, next_offset, now_ms).await
    }
}

/// A loop that met another owner while it noted how far it had caught up fetched on from where it had been, and folded the
/// other one's entries again.
#[tokio::test]
async fn an_owner_met_while_catching_up_is_not_overlooked() {
    let home = Home::new();
    let log = MemoryLog { ends: [9, 9].into(), ..MemoryLog::new(creates(12)) };
    let beside = Some(Beside::AppliesNext(log.entries[9].clone()));
    let (store, status, published) = run(log, SharedStore { store: home.open(), beside }).await;
    assert_eq!((status.writing, status.position, status.failures), (Writing::Open, 12, 1));
    assert_eq!(published, [(0, 3), (3, 6), (6, 9), (10, 12)], "the other owner has published the tenth");
    assert_eq!(store.store.reader().unwrap().count().unwrap(), 12);
}

/// A topic that is deleted and made anew shows itself to a loop that runs by an error like any other, and may have grown past
/// the old one when it answers again.
#[tokio::test]
async fn a_log_that_was_away_is_compared_again() {
    let home = Home::new();
    let after = (0..9).map(|number| create(number, "other")).collect();
    let log = MemoryLog { becomes: Some(MemoryLog::new(after).entries), ..MemoryLog::new(creates(3)) };
    let (mut store, status, published) = run(log, home.open()).await;
    assert!(matches!(&status.writing, Writing::Ended(why) if why.contains("adopt it")), "{status:?}");
    assert_eq!(published, [(0, 3)]);
    assert_eq!(store.partition(0).await.unwrap().next_offset, 3);
}

/// What was fetched from the old topic is not written at the same offset of the one that was adopted meanwhile.
#[tokio::test]
async fn a_batch_of_the_topic_before_is_not_written() {
    let home = Home::new();
    let store = SharedStore { store: home.open(), beside: Some(Beside::AdoptsTopic) };
    let (mut store, status, published) = run(MemoryLog::new(creates(4)), store).await;
    assert_eq!((status.writing, status.failures), (Writing::Open, 1));
    assert_eq!(published, [(0, 3), (3, 4)], "read again, and then all of it");
    assert_eq!(store.partition(0).await.unwrap().base, 0);
}
