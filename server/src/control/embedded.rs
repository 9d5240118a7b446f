//! The write side of a process of its own: the apply loop over a file, and what becomes visible of it.

use std::path::PathBuf;
use std::sync::Arc;

use todo_worker::apply::{self, Status, Writing};
use todo_worker::channel::{self, ChannelFeed, ChannelLog, Published, QueueBounds, Sink};
use todo_worker::producer::new_producer;
use todo_worker::sqlite::{OpenError, SqliteReader, SqliteStore};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::bridge::{Log, Ticket};
use crate::clock;
use crate::control::Answering;
use crate::control::feed::Follower;
use crate::control::handover::protocol::Positions;
use crate::control::reads::{FileReader, Reads};

/// What it is started with.
pub struct Embedded {
    /// The store that writes are applied to.
    pub store: SqliteStore,
    /// Connections to it for reading.
    pub readers: Vec<SqliteReader>,
    /// Where writes wait.
    pub log: ChannelLog<Ticket>,
    /// Where changes are published.
    pub feed: ChannelFeed,
    /// Where they come out.
    pub published: mpsc::Receiver<Published>,
    /// Makes snapshots of them.
    pub follower: Follower,
    /// What is needed to begin anew.
    pub again: Again,
}

/// What is needed to begin anew, with the file back from a process that could not go on with it.
pub struct Again {
    /// The data file.
    pub path: PathBuf,
    /// What may wait for it.
    pub bounds: QueueBounds,
    /// Where shards append.
    pub writes: Log,
    /// Makes the way home of outcomes.
    pub outcomes: Box<dyn Fn() -> Sink<Ticket> + Send>,
    /// What the apply loop says of itself.
    pub status: watch::Sender<Status>,
}

/// It runs.
pub struct Applying {
    stop: watch::Sender<bool>,
    apply_loop: JoinHandle<SqliteStore>,
    following: JoinHandle<Follower>,
    again: Again,
}

/// It rests, and the data file is free.
pub struct Released {
    follower: Follower,
    again: Again,
}

impl Embedded {
    /// Begins to apply, to follow and to answer, on the current runtime. The first answer waits until the loop knows
    /// whether it can write, so that nobody who asks `/ready` in the first millisecond hears of a store being opened.
    pub fn begin(self, answering: Answering) -> Applying {
        let Embedded { store, readers, log, feed, published, follower, again } = self;
        let mut opened = again.status.subscribe();
        let oldest = follower.oldest();
        let applying = again.begin(store, log, feed, published, follower);
        let readers = readers.into_iter().map(FileReader::new).collect();
        tokio::spawn(async move {
            // A loop that is gone is past opening too; its end is the control plane's to see.
            let _ = opened.wait_for(|status| status.writing != Writing::Opening).await;
            let oldest = Box::new(move || Some(*oldest.borrow()));
            answering.run(Reads::new(readers, oldest, watch::Sender::default())).await;
        });
        applying
    }
}

impl Again {
    fn begin(
        self,
        store: SqliteStore,
        log: ChannelLog<Ticket>,
        feed: ChannelFeed,
        published: mpsc::Receiver<Published>,
        follower: Follower,
    ) -> Applying {
        let (stop, stopped) = watch::channel(false);
        let apply_loop = tokio::spawn(apply::run(0, log, store, feed, self.status.clone(), stopped));
        let following = tokio::spawn(follower.run(published));
        Applying { stop, apply_loop, following, again: self }
    }
}

impl Applying {
    /// Applies what was taken, however long that takes: nothing else would keep the promise of a 202. Gives the store
    /// back.
    pub async fn finish(self) -> SqliteStore {
        self.stop.send_replace(true);
        self.apply_loop.await.expect("the apply loop does not panic")
    }

    /// The same, and gives the file back too. What comes from here on is not appended.
    pub async fn release(self) -> Released {
        self.stop.send_replace(true);
        let store = self.apply_loop.await.expect("the apply loop does not panic");
        self.again.status.send_modify(|status| {
            status.writing = Writing::Failing("another process is taking over".to_owned());
        });
        // It waits for the store's thread.
        tokio::task::spawn_blocking(move || drop(store)).await.expect("closing does not panic");
        let follower = self.following.await.expect("the follower does not panic");
        Released { follower, again: self.again }
    }
}

impl Released {
    /// Everything that was ever acknowledged.
    pub fn positions(&self) -> Positions {
        let snapshot = self.follower.current();
        Positions { store_id: *snapshot.store_id(), positions: snapshot.positions().to_vec() }
    }

    /// Takes the file again, and goes on.
    ///
    /// # Errors
    /// It cannot be opened any more: reads go on, and writes have ended.
    pub fn resume(self) -> Result<Applying, OpenError> {
        let Released { follower, again } = self;
        let store = SqliteStore::open(&again.path, Arc::new(clock::wall_ms)).inspect_err(|error| {
            again.status.send_modify(|status| status.writing = Writing::Ended(error.to_string()));
        })?;
        let (appender, log) = channel::log(new_producer(), again.bounds, (again.outcomes)());
        let (feed, published) = channel::feed();
        again.writes.replace(appender);
        Ok(again.begin(store, log, feed, published, follower))
    }
}
