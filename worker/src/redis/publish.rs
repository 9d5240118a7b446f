//! Messages on the channel of changes.

use fred::clients::Client;
use fred::interfaces::{ClientLike, PubsubInterface};
use fred::types::Value;
use todo_proto::names::CHANGES_CHANNEL;

use crate::limits::REDIS_COMMAND_TIMEOUT;
use crate::messages::{ChannelAway, MessageSender};
use crate::redis::connect::at_once;

/// Publishes on the channel of changes. Clones share a connection.
#[derive(Clone)]
pub struct Sender {
    client: Client,
}

impl Sender {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.client.is_connected()
    }
}

impl MessageSender for Sender {
    async fn send(&mut self, message: Vec<u8>) -> Result<(), ChannelAway> {
        let publish = at_once(&self.client, REDIS_COMMAND_TIMEOUT);
        let sent: Result<(), _> = publish.publish(CHANGES_CHANNEL, Value::Bytes(message.into())).await;
        sent.map_err(|error| ChannelAway(error.to_string()))
    }
}
