//! Messages from the channel of changes.
//!
//! ```text
//! loop, whichever comes first:
//!     a message            into our queue, if there is room; else a mark that some are missing
//!     a new connection     subscribe on it
//!     an error             say once that Redis is away
//!     a second has passed  ask again: it changes nothing, but the answer says that all is well
//!     an answer            say that we are subscribed, if that is news
//! ```
//!
//! 1. The client library keeps messages by number, not by bytes, and forgets the oldest. So they are taken from it at once
//!    and wait in a queue of ours with both bounds.
//! 2. It does not subscribe again by itself on a new connection, and says nothing in between. So each connection is asked
//!    for, and what comes is only whole after its answer.
//! 3. It says that it has subscribed when it has written so, and drops the answer. So a PING follows: Redis answers a
//!    connection in order, so who has the PONG is subscribed.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fred::clients::Client;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::{Message, Value};
use todo_proto::names::CHANGES_CHANNEL;
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval};

use crate::limits::{
    HEARD_BYTES_MAX, HEARD_MESSAGES_MAX, REDIS_COMMAND_TIMEOUT, REDIS_CONNECT_TIMEOUT, REDIS_SILENCE_SEEN_EVERY,
};
use crate::messages::{Heard, MessageSource};
use crate::redis::connect::{at_once, keep_up};

/// Receives what is published on the channel of changes.
pub struct Subscription {
    queue: Arc<Queue>,
}

pub(super) fn start(client: Client) -> Subscription {
    let queue = Arc::new(Queue::default());
    tokio::spawn(listen(client, Arc::clone(&queue)));
    Subscription { queue }
}

impl MessageSource for Subscription {
    async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.queue.lock().pop() {
                return heard;
            }
            self.queue.pushed.notified().await;
        }
    }
}

/// What has been heard and not taken.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    pushed: Notify,
}

#[derive(Default)]
struct Waiting {
    heard: VecDeque<Heard>,
    /// Of the messages in it.
    messages: usize,
    /// Of the messages in it.
    bytes: usize,
    /// A message found no room, and what is behind the last in the queue is not known to be whole.
    missed: bool,
}

/// What is known of the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has been said that there is none.
    Away,
    /// Not asked, or not answered, on this connection.
    Unconfirmed,
    Subscribed,
}

type Confirming = Pin<Box<dyn Future<Output = Result<(), fred::error::Error>> + Send>>;

async fn listen(client: Client, queue: Arc<Queue>) {
    let (mut messages, mut errors, mut connections) = (client.message_rx(), client.error_rx(), client.reconnect_rx());
    let keeping_up = tokio::spawn(keep_up(client.clone()));
    let mut seconds = interval(REDIS_SILENCE_SEEN_EVERY);
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Long enough for the first connection.
    seconds.reset_after(REDIS_CONNECT_TIMEOUT);
    let mut state = State::Unconfirmed;
    let mut confirming: Option<Confirming> = None;
    loop {
        let answer = async {
            match &mut confirming {
                Some(confirming) => confirming.await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            message = messages.recv() => match message {
                Ok(message) => queue.message(&message),
                Err(RecvError::Lagged(_)) => queue.missed(),
                Err(RecvError::Closed) => break,
            },
            connection = connections.recv() => match connection {
                // What was asked on another connection is not answered for this one.
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    seconds.reset();
                    state = if state == State::Away { State::Away } else { State::Unconfirmed };
                    confirming = Some(subscribe(&client));
                }
                Err(RecvError::Closed) => break,
            },
            error = errors.recv() => match error {
                Ok((error, _)) => queue.away(&mut state, error.to_string()),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
            answer = answer => {
                confirming = None;
                match answer {
                    Ok(()) if state == State::Subscribed => {}
                    Ok(()) => {
                        state = State::Subscribed;
                        queue.push(Heard::Subscribed);
                    }
                    Err(error) => queue.away(&mut state, error.to_string()),
                }
            }
            _ = seconds.tick() => {
                if confirming.is_none() {
                    confirming = Some(subscribe(&client));
                }
            }
        }
    }
    keeping_up.abort();
}

fn subscribe(client: &Client) -> Confirming {
    let client = at_once(client, REDIS_COMMAND_TIMEOUT);
    Box::pin(async move {
        client.subscribe(CHANGES_CHANNEL).await?;
        // Not a text: to a subscriber the PONG is an array.
        client.ping::<Value>(None).await.map(drop)
    })
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, heard: Heard) {
        self.lock().heard.push_back(heard);
        self.pushed.notify_one();
    }

    /// Said once.
    fn away(&self, state: &mut State, why: String) {
        if std::mem::replace(state, State::Away) != State::Away {
            self.push(Heard::Away(why));
        }
    }

    fn missed(&self) {
        self.lock().missed = true;
        self.pushed.notify_one();
    }

    fn message(&self, message: &Message) {
        let Some(bytes) = message.value.as_bytes().filter(|_| message.channel == CHANGES_CHANNEL) else { return };
        let mut waiting = self.lock();
        let fits = waiting.messages < HEARD_MESSAGES_MAX && waiting.bytes + bytes.len() <= HEARD_BYTES_MAX;
        if fits && !waiting.missed {
            waiting.messages += 1;
            waiting.bytes += bytes.len();
            // A copy: the bytes are a piece of all that one read brought, and would keep it.
            waiting.heard.push_back(Heard::Message(bytes.to_vec()));
        } else {
            waiting.missed = true;
        }
        drop(waiting);
        self.pushed.notify_one();
    }
}

impl Waiting {
    /// The mark stands where messages are missing: behind all that found room.
    fn pop(&mut self) -> Option<Heard> {
        match self.heard.pop_front() {
            Some(Heard::Message(message)) => {
                self.messages -= 1;
                self.bytes -= message.len();
                Some(Heard::Message(message))
            }
            Some(other) => Some(other),
            None => std::mem::take(&mut self.missed).then_some(Heard::Missed),
        }
    }
}
