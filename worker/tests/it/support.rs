//! What the tests share: a store in a directory of its own, a clock that stands still, the embedded loop, and commands.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use todo_proto::change::Changes;
use todo_proto::command::{Operation, Record, TodoCommand};
use todo_proto::fold::{Entry, Partition};
use todo_proto::id::ItemId;
use todo_proto::limits::DESCRIPTION_CHARACTERS_MAX;
use todo_proto::todo::{TodoFields, TodoPatch};
use todo_worker::apply::{self, Status};
use todo_worker::channel::{self, Appender, Published, QueueBounds};
use todo_worker::sqlite::{Clock, SqliteStore};
use todo_worker::traits::Outcome;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// When the tests take place.
pub const NOW_MS: u64 = 1_700_000_000_000;
/// One hour.
pub const HOUR_MS: u64 = 60 * 60 * 1000;

/// A clock that goes when it is told to.
#[derive(Clone)]
pub struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW_MS)))
    }

    pub fn set(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }

    pub fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Arc::new(move || now.load(Ordering::Relaxed))
    }
}

/// A directory with a data file's name in it.
pub struct Home {
    pub directory: TempDir,
    pub clock: TestClock,
}

impl Home {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), clock: TestClock::new() }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("todos.db")
    }

    pub fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.path(), self.clock.clock()).unwrap()
    }

    /// One number out of the file, past our own code.
    pub fn number(&self, sql: &str) -> i64 {
        rusqlite::Connection::open(self.path()).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// One column of texts out of the file, past our own code.
    pub fn texts(&self, sql: &str) -> Vec<String> {
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }
}

/// The loop over a channel and a store, as the server runs it. A ticket is the number of its command.
pub struct Embedded<S> {
    pub appender: Appender<u32>,
    pub feed: mpsc::Receiver<Published>,
    /// One element for each call of the sink.
    pub outcomes: mpsc::UnboundedReceiver<Vec<(u32, Outcome)>>,
    pub status: watch::Receiver<Status>,
    stop: watch::Sender<bool>,
    apply_loop: JoinHandle<S>,
}

impl<S: todo_worker::traits::TodoStore + 'static> Embedded<S> {
    pub fn start(store: S, bounds: QueueBounds) -> Self {
        let (outcome_sender, outcomes) = mpsc::unbounded_channel();
        let sink = Box::new(move |settled| outcome_sender.send(settled).unwrap());
        let (appender, log) = channel::log([9; 16], bounds, sink);
        let (change_feed, feed) = channel::feed();
        let (status_sender, status) = watch::channel(Status::default());
        let (stop, stopped) = watch::channel(false);
        let apply_loop = tokio::spawn(apply::run(0, log, store, change_feed, status_sender, stopped));
        Self { appender, feed, outcomes, status, stop, apply_loop }
    }

    /// Appends one group whose tickets begin at `first`.
    pub fn append(&self, first: u32, commands: Vec<TodoCommand>) {
        let group = commands.into_iter().zip(first..).collect();
        self.appender.try_append(group).map_err(|(error, _)| error).unwrap();
    }

    /// Takes the next changes, makes them visible, and returns what the sink got.
    pub async fn follow(&mut self) -> (Changes, Vec<(u32, Outcome)>) {
        let Published { changes, done, .. } = self.feed.recv().await.unwrap();
        done.send(()).unwrap();
        (changes, self.outcomes.recv().await.unwrap())
    }

    pub fn ask_to_stop(&self) {
        self.stop.send(true).unwrap();
    }

    pub async fn stop(self) -> S {
        self.stop.send(true).unwrap();
        self.apply_loop.await.unwrap()
    }
}

/// An id of a minute ago that is the `number`-th.
pub fn id(number: u32) -> ItemId {
    ItemId::from_parts(NOW_MS - 60_000, u128::from(number))
}

pub fn fields(title: &str) -> TodoFields {
    TodoFields { title: title.into(), description: String::new(), completed: false }
}

pub fn command(id: ItemId, operation: Operation) -> TodoCommand {
    TodoCommand { id, operation, subject: "anna".into(), received_at_ms: NOW_MS }
}

pub fn create(number: u32, title: &str) -> TodoCommand {
    command(id(number), Operation::Create(fields(title)))
}

/// The largest todo there is: 40,000 bytes of description.
pub fn large(number: u32) -> TodoCommand {
    let description = "\u{1f600}".repeat(DESCRIPTION_CHARACTERS_MAX);
    command(id(number), Operation::Create(TodoFields { description, ..fields("large") }))
}

pub fn complete(number: u32) -> TodoCommand {
    command(id(number), Operation::Patch(TodoPatch { completed: Some(true), ..TodoPatch::default() }))
}

pub fn delete(number: u32) -> TodoCommand {
    command(id(number), Operation::Delete)
}

/// Numbers from the partition's position on, so that none is a ghost.
pub fn entries(partition: &Partition, commands: Vec<TodoCommand>) -> Vec<Entry> {
    let numbers = partition.position() + 1..;
    let records = numbers.zip(commands).map(|(number, command)| Record { producer: [1; 16], number, command });
    (partition.next_offset..).zip(records).map(|(offset, record)| Entry { offset, record: Ok(record) }).collect()
}

/// All of them acknowledged, in this order.
pub fn acknowledged(tickets: impl IntoIterator<Item = u32>) -> Vec<(u32, Outcome)> {
    tickets.into_iter().map(|ticket| (ticket, Outcome::Acknowledged)).collect()
}
