//! The log and the feed of one process: two channels.
//!
//! The log keeps nothing: an entry is in memory until the store has it, and its ticket comes back with what became of
//! it. The queue is bounded in commands and in bytes, those that are being applied included; a full queue refuses at
//! once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use todo_proto::change::Changes;
use todo_proto::command::{ProducerId, Record, TodoCommand};
use todo_proto::fold::Entry;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::limits::{FEED_MESSAGES_MAX, FETCH_BYTES_MAX, FETCH_COMMANDS_MAX, QUEUE_BYTES_MAX, QUEUE_COMMANDS_MAX};
use crate::traits::{ChangeFeed, CommandLog, Extent, FeedGone, LogError, Outcome};

/// Takes the tickets of one batch back, each with what became of its command, in the order in which they were appended.
pub type Sink<T> = Box<dyn FnMut(Vec<(T, Outcome)>) + Send>;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub struct QueueBounds {
    /// Commands.
    pub commands_max: usize,
    /// Bytes of commands.
    pub bytes_max: usize,
}

/// Appends to the log, from any thread. `T` is the ticket under which a command's outcome comes back.
pub struct Appender<T> {
    groups: mpsc::UnboundedSender<Group<T>>,
    waiting: Arc<Waiting>,
}

/// Why a group was not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Too much is waiting: try again in a moment.
    #[error("too many writes are waiting")]
    Full,
    /// The log takes nothing any more.
    #[error("no writes are taken any more")]
    Closed,
}

/// The log's other end, for the apply loop.
pub struct ChannelLog<T> {
    groups: mpsc::UnboundedReceiver<Group<T>>,
    waiting: Arc<Waiting>,
    sink: Sink<T>,
    producer: ProducerId,
    last_number: u64,
    /// Of the next entry to be settled.
    next_offset: u64,
    /// Fetched and not settled, oldest first.
    fetched: VecDeque<Ticket<T>>,
}

/// The feed's end for the apply loop.
pub struct ChannelFeed {
    messages: mpsc::Sender<Published>,
}

/// Changes on their way to the snapshot.
#[derive(Debug)]
pub struct Published {
    /// What has changed.
    pub changes: Changes,
    /// When the store had them.
    pub committed_at: Instant,
    /// To be told when every reader sees them.
    pub done: oneshot::Sender<()>,
}

/// Makes a log. `producer` is new at each start; outcomes go to `sink`.
pub fn log<T: Send + 'static>(
    producer: ProducerId,
    bounds: QueueBounds,
    sink: Sink<T>,
) -> (Appender<T>, ChannelLog<T>) {
    let (sender, groups) = mpsc::unbounded_channel();
    let waiting = Arc::new(Waiting { bounds, commands: AtomicUsize::new(0), bytes: AtomicUsize::new(0) });
    let appender = Appender { groups: sender, waiting: Arc::clone(&waiting) };
    let log = ChannelLog { groups, waiting, sink, producer, last_number: 0, next_offset: 0, fetched: VecDeque::new() };
    (appender, log)
}

/// Makes a feed.
pub fn feed() -> (ChannelFeed, mpsc::Receiver<Published>) {
    let (messages, receiver) = mpsc::channel(FEED_MESSAGES_MAX);
    (ChannelFeed { messages }, receiver)
}

impl<T> Appender<T> {
    /// Appends a group, all of it or nothing, without waiting. The group keeps its order. Refused, it comes back.
    pub fn try_append(&self, group: Vec<(TodoCommand, T)>) -> Result<(), (AppendError, Vec<(TodoCommand, T)>)> {
        let bytes = group.iter().map(|(command, _)| command.memory_bytes()).sum();
        if !self.waiting.enter(group.len(), bytes) {
            return Err((AppendError::Full, group));
        }
        self.groups.send(Group { commands: group }).map_err(|refused| {
            let commands = refused.0.commands;
            self.waiting.leave(commands.len(), bytes);
            (AppendError::Closed, commands)
        })
    }

    /// Commands that wait or are being applied.
    pub fn waiting_count(&self) -> usize {
        self.waiting.commands.load(Ordering::Relaxed)
    }

    /// Bytes of the commands that wait or are being applied.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.bytes.load(Ordering::Relaxed)
    }
}

impl<T> Clone for Appender<T> {
    fn clone(&self) -> Self {
        Self { groups: self.groups.clone(), waiting: Arc::clone(&self.waiting) }
    }
}

impl Default for QueueBounds {
    fn default() -> Self {
        Self { commands_max: QUEUE_COMMANDS_MAX, bytes_max: QUEUE_BYTES_MAX }
    }
}

impl<T: Send + 'static> CommandLog for ChannelLog<T> {
    const KEEPS: bool = false;

    /// Ends behind everything that was appended so far, in the queue too.
    async fn extent(&mut self) -> Result<Extent, LogError> {
        let waiting = self.waiting.commands.load(Ordering::Relaxed) as u64;
        Ok(Extent { earliest: self.next_offset, end: self.next_offset + waiting })
    }

    async fn seek(&mut self, offset: u64) -> Result<(), LogError> {
        debug_assert!(self.fetched.is_empty(), "a log that keeps nothing cannot go back");
        self.next_offset = offset;
        Ok(())
    }

    async fn fetch(&mut self) -> Result<Option<Vec<Entry>>, LogError> {
        // The only await comes first, so a dropped future has taken nothing.
        let Some(mut group) = self.groups.recv().await else { return Ok(None) };
        let (mut entries, mut bytes) = (Vec::new(), 0);
        loop {
            for (command, ticket) in group.commands {
                let ticket = Ticket { ticket, bytes: command.memory_bytes() };
                bytes += ticket.bytes;
                self.last_number += 1;
                let record = Ok(Record { producer: self.producer, number: self.last_number, command });
                entries.push(Entry { offset: self.next_offset + self.fetched.len() as u64, record });
                self.fetched.push_back(ticket);
            }
            if entries.len() >= FETCH_COMMANDS_MAX || bytes >= FETCH_BYTES_MAX {
                return Ok(Some(entries));
            }
            match self.groups.try_recv() {
                Ok(next) => group = next,
                Err(_) => return Ok(Some(entries)),
            }
        }
    }

    fn settle(&mut self, count: usize, outcome: Outcome) {
        let mut bytes = 0;
        let outcomes = self.fetched.drain(..count).map(|ticket| {
            bytes += ticket.bytes;
            (ticket.ticket, outcome)
        });
        let outcomes = outcomes.collect();
        if outcome == Outcome::Acknowledged {
            self.next_offset += count as u64;
        }
        self.waiting.leave(count, bytes);
        (self.sink)(outcomes);
    }

    fn close(&mut self) {
        self.groups.close();
    }
}

impl ChangeFeed for ChannelFeed {
    async fn publish(&mut self, changes: Changes) -> Result<(), FeedGone> {
        // The loop comes here straight from its commit.
        let committed_at = Instant::now();
        let (done, visible) = oneshot::channel();
        self.messages.send(Published { changes, committed_at, done }).await.map_err(|_| FeedGone)?;
        visible.await.map_err(|_| FeedGone)
    }
}

/// Commands that were appended together.
struct Group<T> {
    commands: Vec<(TodoCommand, T)>,
}

struct Ticket<T> {
    ticket: T,
    bytes: usize,
}

/// What waits, counted before it is sent and until it is settled.
struct Waiting {
    bounds: QueueBounds,
    commands: AtomicUsize,
    bytes: AtomicUsize,
}

impl Waiting {
    /// Makes room for a group, or says that there is none. Two threads at the bound may both be refused where one would
    /// have fitted; neither ever passes it.
    fn enter(&self, commands: usize, bytes: usize) -> bool {
        let commands_before = self.commands.fetch_add(commands, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits =
            commands_before + commands <= self.bounds.commands_max && bytes_before + bytes <= self.bounds.bytes_max;
        if !fits {
            self.leave(commands, bytes);
        }
        fits
    }

    fn leave(&self, commands: usize, bytes: usize) {
        self.commands.fetch_sub(commands, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}
