//! The fast path between publishers and followers: messages that may be lost, late or repeated. Nothing right depends
//! on them; whoever missed one reads the store.

use std::future::Future;

/// Sends messages to every follower.
pub trait MessageSender: Send {
    /// Hands one message to the channel. An error means that it may be lost; it is not sent again.
    fn send(&mut self, message: Vec<u8>) -> impl Future<Output = Result<(), ChannelAway>> + Send;
}

/// Where messages come out.
pub trait MessageSource: Send {
    /// Waits for what happens next. Never ends: a source that is away says so once and goes on trying. Dropping the
    /// future loses nothing.
    fn next(&mut self) -> impl Future<Output = Heard> + Send;
}

/// What happens at a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A message, whole.
    Message(Vec<u8>),
    /// The subscription is confirmed (again): what is sent from now on arrives, what was sent before may be missing.
    Subscribed,
    /// Messages were dropped here, since nobody took them in time.
    Missed,
    /// There is no channel for now.
    Away(String),
}

/// The channel does not take messages just now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the channel of changes is away: {0}")]
pub struct ChannelAway(pub String);
