//! Redis: a channel that loses, delays and repeats messages, and forgets its subscribers.

use std::time::Duration;

use todo_worker::messages::{ChannelAway, Heard, MessageSender, MessageSource};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::world::{Fault, State, World};

/// Who listens.
#[derive(Default)]
pub struct Channel {
    subscribers: Vec<mpsc::UnboundedSender<Heard>>,
    is_away: bool,
}

impl Channel {
    fn tell(&mut self, heard: &Heard) {
        self.subscribers.retain(|subscriber| subscriber.send(heard.clone()).is_ok());
    }
}

impl State {
    /// Redis ends; whoever listened hears so.
    pub fn end_redis(&mut self) {
        self.channel.is_away = true;
        self.channel.tell(&Heard::Away("connection closed".to_owned()));
    }

    /// An empty one is there; subscriptions are made again.
    pub fn start_redis(&mut self) {
        self.channel.is_away = false;
        self.channel.tell(&Heard::Subscribed);
    }
}

/// A worker's end.
pub struct Sender(pub World);

/// A server's end.
pub struct Source(mpsc::UnboundedReceiver<Heard>);

impl Source {
    pub fn open(world: &World) -> Source {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = world.state();
        let first =
            if state.channel.is_away { Heard::Away("connection refused".to_owned()) } else { Heard::Subscribed };
        sender.send(first).expect("the receiver is here");
        state.channel.subscribers.push(sender);
        Source(receiver)
    }
}

impl MessageSender for Sender {
    async fn send(&mut self, message: Vec<u8>) -> Result<(), ChannelAway> {
        self.0.pause().await;
        let mut state = self.0.state();
        if state.channel.is_away {
            return Err(ChannelAway("connection refused".to_owned()));
        }
        let heard = Heard::Message(message);
        for subscriber in state.channel.subscribers.clone() {
            if state.strikes(Fault::LostMessage, 20) {
                continue;
            }
            if state.strikes(Fault::LateMessage, 30) {
                later(&mut state, &subscriber, &heard);
                continue;
            }
            if state.strikes(Fault::RepeatedMessage, 20) {
                later(&mut state, &subscriber, &heard);
            }
            // A server that has ended hears nothing.
            let _ = subscriber.send(heard.clone());
        }
        Ok(())
    }
}

fn later(state: &mut State, subscriber: &mpsc::UnboundedSender<Heard>, heard: &Heard) {
    let (subscriber, heard) = (subscriber.clone(), heard.clone());
    let after = Duration::from_millis(state.random.u64(1..1_500));
    tokio::spawn(async move {
        sleep(after).await;
        // A server that has ended hears nothing.
        let _ = subscriber.send(heard);
    });
}

impl MessageSource for Source {
    async fn next(&mut self) -> Heard {
        match self.0.recv().await {
            Some(heard) => heard,
            None => std::future::pending().await,
        }
    }
}
