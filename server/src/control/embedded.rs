//! The write side of a process of its own: the apply loop over a file, and what becomes visible of it.

use todo_worker::apply::{self, Status, Writing};
use todo_worker::channel::{ChannelFeed, ChannelLog, Published};
use todo_worker::sqlite::{SqliteReader, SqliteStore};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::bridge::Ticket;
use crate::control::Answering;
use crate::control::feed::Follower;
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
    /// What the apply loop says of itself.
    pub status: watch::Sender<Status>,
}

/// It runs.
pub struct Applying {
    stop: watch::Sender<bool>,
    apply_loop: JoinHandle<SqliteStore>,
}

impl Embedded {
    /// Begins to apply, to follow and to answer, on the current runtime. The first answer waits until the loop knows
    /// whether it can write, so that nobody who asks `/ready` in the first millisecond hears of a store being opened.
    pub fn begin(self, answering: Answering) -> Applying {
        let (stop, stopped) = watch::channel(false);
        let mut opened = self.status.subscribe();
        let apply_loop = tokio::spawn(apply::run(0, self.log, self.store, self.feed, self.status, stopped));
        tokio::spawn(self.follower.run(self.published));
        let readers = self.readers.into_iter().map(FileReader::new).collect();
        tokio::spawn(async move {
            // A loop that is gone is past opening too; its end is the control plane's to see.
            let _ = opened.wait_for(|status| status.writing != Writing::Opening).await;
            answering.run(Reads::new(readers, None, watch::Sender::default())).await;
        });
        Applying { stop, apply_loop }
    }
}

impl Applying {
    /// Applies what was taken, however long that takes: nothing else would keep the promise of a 202. Gives the store
    /// back.
    pub async fn finish(self) -> SqliteStore {
        self.stop.send_replace(true);
        self.apply_loop.await.expect("the apply loop does not panic")
    }
}
