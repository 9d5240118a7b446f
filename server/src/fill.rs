//! Sample todos for an empty store: appended and applied like any other write.

use std::sync::{Arc, Mutex};

use todo_proto::command::ProducerId;
use todo_worker::apply::{self, Status};
use todo_worker::channel::{self, AppendError, QueueBounds};
use todo_worker::sample::SampleTodos;
use todo_worker::sqlite::SqliteStore;
use todo_worker::traits::Outcome;
use tokio::sync::{oneshot, watch};

use crate::clock;
use crate::limits::FILL_GROUP_COMMANDS;

/// Why a store could not be filled.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The store took only some of them.
    #[error("{refused} of {count} sample todos were not taken: is the disk full?")]
    Refused {
        /// How many.
        refused: u64,
        /// Of how many.
        count: u64,
    },
    /// No runtime.
    #[error("a runtime cannot be started ({0}): the system is short of memory or descriptors")]
    System(#[from] std::io::Error),
}

/// A producer's name, new for every process and log.
pub fn new_producer() -> ProducerId {
    let mut random = fastrand::Rng::new();
    random.u128(..).to_le_bytes()
}

/// Fills `store` with `count` varied todos, the newest made now. Gives the store back.
///
/// # Errors
/// [`FillError`].
pub fn fill(store: SqliteStore, count: u64) -> Result<SqliteStore, FillError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(append_all(store, count))
}

async fn append_all(store: SqliteStore, count: u64) -> Result<SqliteStore, FillError> {
    let outcomes = Arc::new(Mutex::new(0));
    let refused = Arc::clone(&outcomes);
    let sink = move |batch: Vec<(Option<oneshot::Sender<()>>, Outcome)>| {
        for (last_of_group, outcome) in batch {
            if outcome != Outcome::Acknowledged {
                *refused.lock().expect("nobody panics with it") += 1;
            }
            if let Some(done) = last_of_group {
                // The filler waits for each group in turn; it has gone only when it was refused.
                let _ = done.send(());
            }
        }
    };
    let (appender, log) = channel::log(new_producer(), QueueBounds::default(), Box::new(sink));
    let (feed, mut published) = channel::feed();
    let (status, _seen) = watch::channel(Status::default());
    let (stop, stopped) = watch::channel(false);
    let applying = tokio::spawn(apply::run(0, log, store, feed, status, stopped));
    // Nobody follows yet: what is published is visible as soon as it is stored.
    let following = tokio::spawn(async move {
        while let Some(published) = published.recv().await {
            let _ = published.done.send(());
        }
    });
    let mut commands = SampleTodos::new(clock::tick_us(), count, clock::wall_ms()).peekable();
    let mut waiting: Option<oneshot::Receiver<()>> = None;
    while commands.peek().is_some() {
        let mut group: Vec<_> = commands.by_ref().take(FILL_GROUP_COMMANDS).map(|command| (command, None)).collect();
        let (done, next) = oneshot::channel();
        if let Some((_, last)) = group.last_mut() {
            *last = Some(done);
        }
        while let Err((error, back)) = appender.try_append(group) {
            assert_eq!(error, AppendError::Full, "the log is open until this is done");
            group = back;
            tokio::task::yield_now().await;
        }
        // One group is applied while the next is made.
        if let Some(waiting) = waiting.replace(next) {
            let _ = waiting.await;
        }
    }
    stop.send_replace(true);
    let store = applying.await.expect("the apply loop does not panic");
    following.await.expect("the follower does not panic");
    let refused = *outcomes.lock().expect("nobody panics with it");
    if refused > 0 {
        return Err(FillError::Refused { refused, count });
    }
    Ok(store)
}
