//! The new process's side: takes what the old one offers, and goes on with its connections.

#![expect(clippy::disallowed_methods, reason = "a plain thread without a runtime may sleep")]

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::{Channel, ChannelError};
use super::give::stand;
use super::protocol::{Frame, Offer, Positions, ProtocolError};
use crate::bridge::{Message, Moved, ToShard, Writes};
use crate::counters::ShardCounters;
use crate::limits::{
    HANDOVER_AWAY_PATIENCE, HANDOVER_LOAD_PATIENCE, HANDOVER_REACH_PATIENCE, HANDOVER_REACHED_WITHIN,
    HANDOVER_WRITING_PATIENCE,
};

/// The variable that says that standard input is a socket to the process before this one.
pub const SUCCESSOR: &str = "TODO_SERVER_SUCCESSOR";

/// Between two looks at how far the snapshot is.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// The process before this one.
pub struct Predecessor {
    channel: Channel,
    offer: Offer,
    listeners: Vec<TcpListener>,
    met_at: Instant,
}

/// Why this process does not take over.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The other side.
    #[error("the process before this one: {0}")]
    Channel(#[from] ChannelError),
    /// Standard input is no socket.
    #[error("standard input is no socket to another process ({0}): {SUCCESSOR} is set for `todo-server upgrade` only")]
    Input(std::io::Error),
    /// Other todos.
    #[error("the process before this one serves {theirs}, and this one would serve {ours}: restart instead")]
    Place {
        /// What that one serves.
        theirs: String,
        /// What this one would.
        ours: String,
    },
    /// Its snapshot does not get where the other's is.
    #[error("the snapshot is not as far as that of the process before this one, after {} s", HANDOVER_REACHED_WITHIN.as_secs())]
    Behind,
    /// There is nothing to load from.
    #[error("the todos cannot be loaded: {0}")]
    StoreAway(String),
}

impl Predecessor {
    /// The one that has started this process, and what it offers; `None` when this process was not started by one.
    ///
    /// # Errors
    /// It cannot be understood.
    pub fn meet() -> Result<Option<Predecessor>, TakeError> {
        if std::env::var_os(SUCCESSOR).is_none() {
            return Ok(None);
        }
        let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(TakeError::Input)?;
        // One descriptor of the socket and no more: its end is the other side's word that this process has gone.
        let nothing = std::fs::File::open("/dev/null").map_err(TakeError::Input)?;
        rustix::stdio::dup2_stdin(nothing).map_err(|error| TakeError::Input(error.into()))?;
        let mut channel = Channel::new(UnixStream::from(socket));
        let met = Self::hear_offer(&mut channel);
        match met {
            Ok((offer, listeners)) => Ok(Some(Predecessor { channel, offer, listeners, met_at: Instant::now() })),
            Err(error) => {
                // It may have gone; then nobody wants to know.
                let _ = channel.send(&Frame::Refused(error.to_string()), &[]);
                Err(error.into())
            }
        }
    }

    fn hear_offer(channel: &mut Channel) -> Result<(Offer, Vec<TcpListener>), ChannelError> {
        channel.set_patience(Some(HANDOVER_LOAD_PATIENCE))?;
        let (Frame::Offer(offer), _) = channel.receive()? else { return Err(ProtocolError::Unreadable.into()) };
        let mut listeners = Vec::new();
        while listeners.len() < usize::from(offer.listeners_count) {
            match channel.receive()? {
                (Frame::Listeners, some) if !some.is_empty() => {
                    listeners.extend(some.into_iter().map(TcpListener::from));
                }
                _ => return Err(ProtocolError::Unreadable.into()),
            }
        }
        Ok((offer, listeners))
    }

    /// The listening sockets, once.
    pub fn take_listeners(&mut self) -> Vec<TcpListener> {
        std::mem::take(&mut self.listeners)
    }

    /// Makes sure that both serve the same todos.
    ///
    /// # Errors
    /// [`TakeError::Place`].
    pub fn check_place(&self, ours: &str) -> Result<(), TakeError> {
        if self.offer.place == ours {
            return Ok(());
        }
        Err(TakeError::Place { theirs: self.offer.place.clone(), ours: ours.to_owned() })
    }

    /// Says why this process does not take over.
    pub fn refuse(&mut self, why: &str) {
        // It may have gone; then nobody wants to know.
        let _ = self.channel.send(&Frame::Refused(why.to_owned()), &[]);
    }

    /// Says that the snapshot is in memory, and waits until the other one writes nothing any more.
    ///
    /// # Errors
    /// The other side's.
    pub fn loaded(&mut self) -> Result<Positions, TakeError> {
        self.channel.send(&Frame::Loaded, &[]).map_err(TakeError::from)?;
        match self.channel.receive()? {
            (Frame::Released(positions), _) => Ok(positions),
            _ => Err(ChannelError::from(ProtocolError::Unreadable).into()),
        }
    }

    /// Waits until what is served is as far as what was offered; `store_away` says why the store does not answer.
    ///
    /// # Errors
    /// [`TakeError::StoreAway`], [`TakeError::Behind`].
    pub fn wait_until_reached(
        &self,
        to_shard: &ToShard,
        store_away: impl Fn() -> Option<String>,
    ) -> Result<(), TakeError> {
        let begun = Instant::now();
        while !is_reached(&self.offer.stand, to_shard) {
            if begun.elapsed() >= HANDOVER_AWAY_PATIENCE
                && let Some(why) = store_away()
            {
                return Err(TakeError::StoreAway(why));
            }
            if self.met_at.elapsed() >= HANDOVER_REACHED_WITHIN {
                return Err(TakeError::Behind);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Waits until this process lets writes in, which it does when it has seen where the store stands and has each partition
    /// of the log open. Not for ever: where nobody may write, the process before this one may not either.
    pub fn wait_until_writing(&self, writes: &Writes) {
        let end = Instant::now() + HANDOVER_WRITING_PATIENCE;
        while !writes.are_let_in() && Instant::now() < end {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Says that this process could serve, and waits for the word.
    ///
    /// # Errors
    /// The other side's.
    pub fn ready(&mut self) -> Result<(), TakeError> {
        self.channel.send(&Frame::Ready, &[])?;
        match self.channel.receive()? {
            (Frame::Go, _) => Ok(()),
            _ => Err(ChannelError::from(ProtocolError::Unreadable).into()),
        }
    }

    /// Says that this process has begun to serve; only then may it accept.
    ///
    /// # Errors
    /// The other side's: it goes on serving.
    pub fn serving(&mut self) -> Result<(), TakeError> {
        Ok(self.channel.send(&Frame::Serving, &[])?)
    }

    /// Takes the connections until the other one has ended. Blocks.
    pub fn adopt(mut self, to_shards: &[ToShard], counters: &[Arc<ShardCounters>]) {
        let mut handed_over = vec![0_u64; to_shards.len()];
        let (mut is_reached, mut count, mut cut) = (true, 0_u64, 0_u64);
        let end = self.channel.set_patience(None).and_then(|()| {
            loop {
                match self.channel.receive() {
                    Ok((Frame::Positions(positions), _)) => {
                        is_reached = wait_until_reached(&positions, &to_shards[0]);
                    }
                    Ok((Frame::Connection(client, input), mut sockets)) => {
                        let Some(socket) = sockets.pop() else { break Err(ProtocolError::Unreadable.into()) };
                        // Closing it is better than an answer from before its last one.
                        if !is_reached || !is_blocking(&socket) {
                            cut += 1;
                            continue;
                        }
                        let shard = emptiest(counters, &handed_over);
                        handed_over[shard] += 1;
                        count += 1;
                        to_shards[shard].send(Message::Moved(Moved { socket, client, input }));
                    }
                    Ok(_) => break Err(ProtocolError::Unreadable.into()),
                    Err(ChannelError::Ended) => break Ok(()),
                    Err(error) => break Err(error),
                }
            }
        });
        match end {
            Ok(()) => {
                tracing::info!(connections = count, "the process before this one has ended; its connections are here");
            }
            Err(error) => {
                tracing::error!(connections = count, %error, "no more connections come from the process before");
            }
        }
        if cut > 0 {
            tracing::error!(connections = cut, "closed: the snapshot did not get as far as they had seen");
        }
    }
}

/// The other process may have had it otherwise; under a ring a receive on a non-blocking socket would not wait.
fn is_blocking(socket: &OwnedFd) -> bool {
    rustix::io::ioctl_fionbio(socket, false).is_ok()
}

fn wait_until_reached(meant: &Positions, to_shard: &ToShard) -> bool {
    let end = Instant::now() + HANDOVER_REACH_PATIENCE;
    loop {
        if is_reached(meant, to_shard) {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn is_reached(meant: &Positions, to_shard: &ToShard) -> bool {
    let Positions { store_id, positions } = stand(to_shard);
    meant.are_reached_by(&store_id, &positions)
}

/// The shard with the fewest connections, those counted that are on their way to it.
fn emptiest(counters: &[Arc<ShardCounters>], handed_over: &[u64]) -> usize {
    let load = |shard: &usize| {
        let counters = &counters[*shard];
        counters.connections.get() + handed_over[*shard].saturating_sub(counters.adopted.get())
    };
    (0..counters.len()).min_by_key(load).expect("there is a shard")
}
