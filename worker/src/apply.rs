//! The apply loop: commands out of the log, over the rows, into the store, on to the feed.
//!
//! ```text
//! partition = store.partition(); log.seek(partition.next_offset)
//! loop:
//!     entries = log.fetch()
//!     store.begin(partition.next_offset, what the entries name)   -> rows, producers
//!     fold(entries over rows)                                     -> rows, dead letters, changes
//!     store.commit(rows, producers, dead letters, next offset)
//!     feed.publish(changes)
//!     log.settle(entries, acknowledged)
//! ```
//!
//! What the code adds, and what each buys:
//!
//! 1. Opening compares the hash of the record before `next_offset` with the log, so that a log made anew under the old
//!    name stops the partition instead of being skipped in part.
//! 2. `begin` and `commit` compare the offset with the store's (the fence): of two loops on one partition one writes,
//!    the other reads the partition again.
//! 3. A row that the store refuses halves the batch until its command is alone; that one becomes a dead letter, and the
//!    partition goes on.
//! 4. A store that is away or full is waited out when the log keeps its entries. When it does not, the entries are
//!    answered *not appended* and the next ones are tried, so that nobody waits.
//! 5. A commit with an unknown outcome: the partition is read again, which tells; a log that keeps nothing answers *unknown*
//!    and writing ends, since the store could not be trusted to tell.
//! 6. Once a minute the store's clock and then the log's end are read; when the loop has come to that end, everything
//!    older than that clock is applied, and what only served late copies is forgotten.
//! 7. Stopping closes the log, and the loop ends when it has applied what was in.

use std::time::Duration;

use todo_proto::change::Changes;
use todo_proto::command::record_hash;
use todo_proto::defects::{Defect, is_on};
use todo_proto::fold::{Counts, Entry, Folded, Partition, fold, set_aside};
use todo_proto::limits::FOLD_COMMANDS_MAX;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::limits::{BACK_OFF_MAX, BACK_OFF_MIN, CATCH_UP_EVERY};
use crate::traits::{CaughtUp, ChangeFeed, CommandLog, LogError, Named, NotAppended, Outcome, StoreError, TodoStore};

/// What everybody else may know of a loop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether writes have an effect.
    pub writing: Writing,
    /// Where the partition stands.
    pub position: u64,
    /// The first offset of its log that is not applied.
    pub next_offset: u64,
    /// Everything appended before this (ms since the Unix epoch) is applied.
    pub caught_up_at_ms: u64,
    /// When the oldest commit was made whose changes the feed has not passed on yet; `None` when there is none. Where the
    /// feed says that readers see them (`channel`), what they see is as old as that. Nobody is woken when it ends.
    pub unpublished_since: Option<Instant>,
    /// Transactions committed.
    pub batches: u64,
    /// Batches that had to be given up or tried again.
    pub failures: u64,
    /// What became of the commands.
    pub counts: Counts,
}

/// Whether writes have an effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Writing {
    /// Not known yet.
    #[default]
    Opening,
    /// They have.
    Open,
    /// The last batch had none, and the next is tried: keep them coming.
    Failing(String),
    /// They have none until a restart.
    Ended(String),
}

/// Runs the loop of partition `part` until `stop` is true (or its sender gone) and the log is at its end. Gives the
/// store back.
pub async fn run<L: CommandLog, S: TodoStore, F: ChangeFeed>(
    part: u32,
    log: L,
    store: S,
    feed: F,
    status: watch::Sender<Status>,
    stop: watch::Receiver<bool>,
) -> S {
    let mut minute = interval(CATCH_UP_EVERY);
    minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut apply_loop = ApplyLoop {
        part,
        log,
        store,
        feed,
        status,
        stop,
        closed: false,
        minute,
        look: None,
        partition: None,
        pending: Vec::new(),
        take: Take::UpTo(FOLD_COMMANDS_MAX),
        back_off: BACK_OFF_MIN,
    };
    let leave = loop {
        if let Err(leave) = apply_loop.turn().await {
            break leave;
        }
    };
    if let Leave::Ended(why) = leave {
        apply_loop.refuse_until_closed(why).await;
    }
    apply_loop.store
}

struct ApplyLoop<L, S, F> {
    part: u32,
    log: L,
    store: S,
    feed: F,
    status: watch::Sender<Status>,
    stop: watch::Receiver<bool>,
    /// The log was closed, for a stop.
    closed: bool,
    minute: Interval,
    /// What the clock and the log's end were a while ago, until both have been made use of.
    look: Option<Look>,
    /// As the last commit left it; `None` when it is to be read (again).
    partition: Option<Partition>,
    /// Fetched and not applied; the first stands at the partition's next offset.
    pending: Vec<Entry>,
    take: Take,
    back_off: Duration,
}

#[derive(Clone, Copy)]
struct Look {
    now_ms: u64,
    end: u64,
}

/// What the next batch takes of what is pending.
#[derive(Clone, Copy)]
enum Take {
    UpTo(usize),
    /// One, and as a dead letter: the store has refused it.
    Aside,
}

/// The loop is over.
enum Leave {
    /// The log is at its end, or keeps what is left.
    Done,
    /// Writing has ended, for this reason.
    Ended(String),
}

enum Next {
    Fetched(Result<Option<Vec<Entry>>, LogError>),
    Stop,
    Minute,
    MoreToForget,
}

/// Who failed.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl<L: CommandLog, S: TodoStore, F: ChangeFeed> ApplyLoop<L, S, F> {
    async fn turn(&mut self) -> Result<(), Leave> {
        let Some(next_offset) = self.partition.as_ref().map(|partition| partition.next_offset) else {
            return match self.open().await {
                Ok(()) => Ok(()),
                Err(trouble) => self.wait_out(trouble).await,
            };
        };
        if let Some(look) = self.look.filter(|look| look.end <= next_offset) {
            self.catch_up(next_offset, look).await?;
            if self.partition.is_none() {
                return Ok(()); // somebody else has moved it: nothing may be fetched before its place is known
            }
        }
        if !self.pending.is_empty() {
            return self.apply(next_offset).await;
        }
        match self.next(next_offset).await {
            Next::Fetched(Ok(Some(entries))) => self.accept(entries, next_offset),
            Next::Fetched(Ok(None)) => Err(Leave::Done),
            Next::Fetched(Err(error)) => {
                // The log that comes back may be another under the old name: its last record is compared again.
                self.partition = None;
                self.wait_out(error.into()).await
            }
            Next::Stop => {
                self.closed = true;
                self.log.close();
                Ok(())
            }
            Next::Minute => {
                self.look = self.look().await;
                Ok(())
            }
            Next::MoreToForget => Ok(()),
        }
    }

    /// Step 1: reads the partition and finds its place in the log.
    async fn open(&mut self) -> Result<(), Trouble> {
        let partition = self.store.partition(self.part).await?;
        let next_offset = partition.next_offset;
        if L::KEEPS {
            let extent = self.log.extent().await?;
            if next_offset < extent.earliest || extent.end < next_offset {
                return Err(LogError::Halted(format!(
                    "partition {} is applied up to offset {next_offset}, but its log goes from {} to {}. \
                     If the topic was made anew, adopt it; else restore it.",
                    self.part, extent.earliest, extent.end
                ))
                .into());
            }
            let is_compared = extent.earliest < next_offset && !is_on(Defect::NoLastHash);
            if let Some(hash) = partition.last_hash.filter(|_| is_compared) {
                self.compare_last(next_offset - 1, hash).await?;
            }
        }
        self.log.seek(next_offset).await?;
        self.status.send_modify(|status| {
            status.writing = Writing::Open;
            status.position = partition.position();
            status.next_offset = partition.next_offset;
            status.caught_up_at_ms = partition.caught_up_at_ms;
        });
        self.partition = Some(partition);
        Ok(())
    }

    async fn compare_last(&mut self, offset: u64, hash: u64) -> Result<(), LogError> {
        self.log.seek(offset).await?;
        let same = match self.log.fetch().await?.as_deref() {
            Some([last, ..]) => last.offset == offset && record_hash(&last.bytes()) == hash,
            // The lease has gone meanwhile: the next fetch ends the loop.
            Some([]) | None => true,
        };
        if same {
            return Ok(());
        }
        Err(LogError::Halted(format!(
            "the record at offset {offset} of partition {} is not the one that was applied. \
             If the topic was made anew, adopt it; else restore it.",
            self.part
        )))
    }

    async fn next(&mut self, next_offset: u64) -> Next {
        let more_to_forget = self.look.is_some_and(|look| look.end <= next_offset);
        tokio::select! {
            biased;
            () = stopped(&mut self.stop), if !self.closed => Next::Stop,
            _ = self.minute.tick() => Next::Minute,
            fetched = self.log.fetch() => Next::Fetched(fetched),
            () = std::future::ready(()), if more_to_forget => Next::MoreToForget,
        }
    }

    fn accept(&mut self, entries: Vec<Entry>, next_offset: u64) -> Result<(), Leave> {
        self.pending = entries;
        match (next_offset..).zip(&self.pending).find(|(expected, entry)| entry.offset != *expected) {
            None => Ok(()),
            Some((expected, entry)) => Err(Leave::Ended(format!(
                "the log of partition {} has a gap: offset {expected} was expected and {} came. Restore the topic.",
                self.part, entry.offset
            ))),
        }
    }

    async fn apply(&mut self, next_offset: u64) -> Result<(), Leave> {
        let attempt = match self.take {
            Take::UpTo(count) => count.min(self.pending.len()),
            Take::Aside => 1,
        };
        let folded = match self.write(next_offset, attempt).await {
            Ok(folded) => folded,
            Err(error) => return self.recover(attempt, error).await,
        };
        self.back_off = BACK_OFF_MIN;
        self.take = match self.take {
            // Rows are large: asking for many would read them again and again.
            Take::UpTo(_) if folded.taken < attempt => Take::UpTo(folded.taken),
            Take::UpTo(count) => Take::UpTo((2 * count).min(FOLD_COMMANDS_MAX)),
            Take::Aside => Take::UpTo(FOLD_COMMANDS_MAX),
        };
        self.pending.drain(..folded.taken);
        self.status.send_modify(|status| {
            status.writing = Writing::Open;
            status.position = folded.changes.to;
            status.next_offset = next_offset + folded.taken as u64;
            status.unpublished_since.get_or_insert_with(Instant::now);
            status.batches += 1;
            status.counts.add(folded.counts);
        });
        match self.feed.publish(folded.changes).await {
            Ok(()) => {
                self.status.send_if_modified(|status| {
                    status.unpublished_since = None;
                    false
                });
                self.log.settle(folded.taken, Outcome::Acknowledged);
                Ok(())
            }
            // Durable, but "who has read a 202 sees the write" cannot be kept.
            Err(gone) => {
                self.log.settle(folded.taken, Outcome::Unknown);
                Err(Leave::Ended(gone.to_string()))
            }
        }
    }

    /// Steps 2 and 3: one batch, in two flights to the store.
    async fn write(&mut self, next_offset: u64, attempt: usize) -> Result<Written, StoreError> {
        let entries = &self.pending[..attempt];
        let named = Named::by(entries);
        let begun = self.store.begin(self.part, next_offset, named.clone()).await?;
        // A topic was adopted meanwhile, and stands where the old one stood: what was fetched is of the old one.
        if self.partition.as_ref().is_some_and(|known| known.base != begun.partition.base) {
            return Err(StoreError::Fenced);
        }
        // What names a row that was not read waits for the next batch.
        let unread = named.ids.get(begun.ids_read);
        let names_unread = |entry: &Entry| entry.record.as_ref().is_ok_and(|record| Some(&record.command.id) == unread);
        let read = entries.iter().position(names_unread).unwrap_or(entries.len());
        let entries = &entries[..read];
        let mut partition = begun.partition;
        let Folded { taken, batch, changes, counts } = match self.take {
            Take::UpTo(_) => fold(&partition, begun.rows, &begun.producers, entries),
            Take::Aside => set_aside(&partition, &begun.producers, entries),
        };
        partition.next_offset = batch.to;
        partition.last_hash = batch.last_hash;
        self.store.commit(batch).await?;
        self.partition = Some(partition);
        Ok(Written { taken, changes, counts })
    }

    /// Steps 3 to 5: what is done about a batch that was not written, or not for sure.
    async fn recover(&mut self, attempt: usize, error: StoreError) -> Result<(), Leave> {
        match error {
            StoreError::Refused(why) => self.narrow(attempt, &why),
            StoreError::Full | StoreError::Unavailable(_) if L::KEEPS => self.wait_out(error.into()).await,
            StoreError::Full | StoreError::Unavailable(_) => {
                self.note_failure(&error);
                let reason = if error == StoreError::Full { NotAppended::DiskFull } else { NotAppended::Unavailable };
                self.refuse_pending(reason);
                Ok(())
            }
            StoreError::Fenced | StoreError::Unknown(_) if L::KEEPS => self.read_again(error).await,
            StoreError::Unknown(_) => {
                self.pending.drain(..attempt);
                self.log.settle(attempt, Outcome::Unknown);
                Err(Leave::Ended(error.to_string()))
            }
            StoreError::Fenced | StoreError::Ended(_) => Err(Leave::Ended(error.to_string())),
        }
    }

    /// The store tells where the partition stands now, and the log has everything from there.
    async fn read_again(&mut self, error: StoreError) -> Result<(), Leave> {
        self.pending.clear();
        self.partition = None;
        self.wait_out(error.into()).await
    }

    fn narrow(&mut self, attempt: usize, why: &str) -> Result<(), Leave> {
        self.status.send_modify(|status| status.failures += 1);
        self.take = match self.take {
            Take::UpTo(_) if attempt > 1 => Take::UpTo(attempt / 2),
            Take::UpTo(_) => {
                tracing::warn!(part = self.part, why, "a command is kept aside: the store refuses what it makes");
                Take::Aside
            }
            Take::Aside => return Err(Leave::Ended(format!("the store refuses even a dead letter: {why}"))),
        };
        Ok(())
    }

    /// An error that passes by itself is waited out, any other ends writing.
    async fn wait_out(&mut self, trouble: Trouble) -> Result<(), Leave> {
        match trouble {
            Trouble::Log(LogError::Halted(_)) | Trouble::Store(StoreError::Refused(_) | StoreError::Ended(_)) => {
                return Err(Leave::Ended(trouble.to_string()));
            }
            Trouble::Log(LogError::Unavailable(_))
            | Trouble::Store(
                StoreError::Fenced | StoreError::Full | StoreError::Unavailable(_) | StoreError::Unknown(_),
            ) => self.note_failure(&trouble),
        }
        let pause = self.back_off;
        self.back_off = (2 * pause).min(BACK_OFF_MAX);
        tokio::select! {
            biased;
            () = stopped(&mut self.stop) => {
                // A log that keeps its entries has them for the next owner; another one's have no effect.
                Err(if L::KEEPS { Leave::Done } else { Leave::Ended(trouble.to_string()) })
            }
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Said once, when it begins: a store that is away fails every batch.
    fn note_failure(&self, error: &impl ToString) {
        let why = error.to_string();
        self.status.send_modify(|status| {
            status.failures += 1;
            if status.writing != Writing::Failing(why.clone()) {
                tracing::warn!(part = self.part, why, "writes fail for now");
                status.writing = Writing::Failing(why);
            }
        });
    }

    /// Step 6: first the clock, then the log's end, so that what is behind that end was appended after.
    async fn look(&mut self) -> Option<Look> {
        let looked: Result<Look, Trouble> = async {
            let now_ms = self.store.now_ms().await?;
            let end = self.log.extent().await?.end;
            Ok(Look { now_ms, end })
        }
        .await;
        looked
            .map_err(
                |trouble| tracing::warn!(part = self.part, %trouble, "no look at the log's end; again in a minute"),
            )
            .ok()
    }

    async fn catch_up(&mut self, next_offset: u64, look: Look) -> Result<(), Leave> {
        match self.store.catch_up(self.part, next_offset, look.now_ms).await {
            Ok(CaughtUp { caught_up_at_ms, more }) => {
                self.look = more.then_some(look);
                self.status.send_modify(|status| status.caught_up_at_ms = caught_up_at_ms);
                Ok(())
            }
            Err(error @ (StoreError::Full | StoreError::Unavailable(_))) => {
                self.look = None;
                tracing::warn!(part = self.part, %error, "cannot note how far it has caught up; again in a minute");
                Ok(())
            }
            Err(error @ (StoreError::Fenced | StoreError::Unknown(_))) if L::KEEPS => {
                self.look = None;
                self.read_again(error).await
            }
            Err(error) => Err(Leave::Ended(error.to_string())),
        }
    }

    fn refuse_pending(&mut self, reason: NotAppended) {
        if !self.pending.is_empty() {
            self.log.settle(self.pending.len(), Outcome::NotAppended(reason));
            self.pending.clear();
        }
    }

    /// Writing has ended: whoever still waits, or comes, hears so at once.
    async fn refuse_until_closed(&mut self, why: String) {
        tracing::error!(part = self.part, why, "writing has ended until a restart");
        self.status.send_modify(|status| status.writing = Writing::Ended(why));
        if L::KEEPS {
            return stopped(&mut self.stop).await;
        }
        self.refuse_pending(NotAppended::Ended);
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut self.stop), if !self.closed => {
                    self.closed = true;
                    self.log.close();
                }
                fetched = self.log.fetch() => match fetched {
                    Ok(Some(entries)) => {
                        self.log.settle(entries.len(), Outcome::NotAppended(NotAppended::Ended));
                    }
                    Ok(None) | Err(_) => return,
                },
            }
        }
    }
}

/// What is left of a fold when the store has its part.
struct Written {
    taken: usize,
    changes: Changes,
    counts: Counts,
}

/// Returns when the loop is to stop, be it because nobody is left to say so.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    while !*stop.borrow_and_update() {
        if stop.changed().await.is_err() {
            return;
        }
    }
}
