//! Filling a store: many commands by the way of every write, the log and the loop, while nobody follows.

use todo_proto::change::Changes;
use todo_proto::command::{ProducerId, TodoCommand};
use tokio::sync::{mpsc, watch};

use crate::apply::{self, Status, Writing};
use crate::channel::{self, Appender, QueueBounds};
use crate::limits::FETCH_COMMANDS_MAX;
use crate::traits::{ChangeFeed, FeedGone, Outcome, TodoStore};

/// Why a store was not filled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("filling ended after {applied} commands: {why}")]
pub struct FillError {
    /// Commands that are in the store.
    pub applied: u64,
    /// What the loop said.
    pub why: String,
}

/// Applies `commands` to partition 0 of a store that nobody else writes, and gives the store back. Returns how many took
/// effect.
pub async fn fill<S: TodoStore>(
    store: S,
    producer: ProducerId,
    commands: impl Iterator<Item = TodoCommand>,
) -> (S, Result<u64, FillError>) {
    let (outcome_sender, outcomes) = mpsc::unbounded_channel();
    let sink = Box::new(move |settled: Vec<((), Outcome)>| {
        for ((), outcome) in settled {
            // The feeder has left: it was told of a failure before.
            let _ = outcome_sender.send(outcome);
        }
    });
    let (appender, log) = channel::log(producer, QueueBounds::default(), sink);
    let (status_sender, status) = watch::channel(Status::default());
    let (stop, stopped) = watch::channel(false);
    let feeding = async move {
        let fed = feed(&appender, outcomes, commands).await;
        // The loop ends either way; without a receiver it has ended already.
        let _ = stop.send(true);
        fed
    };
    let (store, fed) = tokio::join!(apply::run(0, log, store, Unfollowed, status_sender, stopped), feeding);
    let status = status.borrow().clone();
    let result = match fed {
        Ok(()) => Ok(status.counts.changed),
        // The loop knows more, unless a later batch went well.
        Err(why) => Err(match status.writing {
            Writing::Failing(why) | Writing::Ended(why) => FillError { applied: status.counts.commands, why },
            Writing::Opening | Writing::Open => FillError { applied: status.counts.commands, why },
        }),
    };
    (store, result)
}

/// A feed without followers.
struct Unfollowed;

impl ChangeFeed for Unfollowed {
    async fn publish(&mut self, _: Changes) -> Result<(), FeedGone> {
        Ok(())
    }
}

/// Keeps two batches under way: one is applied, one waits. Ends with why as soon as a command was not
/// acknowledged.
async fn feed(
    appender: &Appender<()>,
    mut outcomes: mpsc::UnboundedReceiver<Outcome>,
    commands: impl Iterator<Item = TodoCommand>,
) -> Result<(), String> {
    let mut commands = commands.peekable();
    let mut waiting = 0;
    while waiting > 0 || commands.peek().is_some() {
        if waiting <= FETCH_COMMANDS_MAX && commands.peek().is_some() {
            let group: Vec<_> = commands.by_ref().take(FETCH_COMMANDS_MAX).map(|command| (command, ())).collect();
            waiting += group.len();
            appender.try_append(group).map_err(|(error, _)| error.to_string())?;
        } else {
            match outcomes.recv().await {
                Some(Outcome::Acknowledged) => waiting -= 1,
                Some(Outcome::NotAppended(reason)) => return Err(reason.to_string()),
                Some(Outcome::Unknown) => return Err("the outcome of a batch is unknown".to_owned()),
                None => return Err("the loop has ended".to_owned()),
            }
        }
    }
    Ok(())
}
