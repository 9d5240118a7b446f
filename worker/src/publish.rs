//! The publisher: the changes of all own partitions, gathered for a moment, encoded, and sent to whoever follows.
//!
//! Best effort. Applying never waits for it: what finds no room in the queue, or no channel, is dropped and counted, and
//! the followers repair by position.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use todo_proto::change::Changes;
use todo_proto::message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::limits::{GATHER_MAX, PUBLISH_BYTES_MAX, PUBLISH_CHANGES_MAX};
use crate::messages::{ChannelAway, MessageSender};
use crate::traits::{ChangeFeed, FeedGone};

/// Hands changes to the one task that publishes. Cloned for each partition.
#[derive(Clone)]
pub struct Publisher {
    queue: mpsc::UnboundedSender<Waiting>,
    room: Arc<Room>,
    metrics: PublishMetrics,
}

/// The publisher's other end: the task.
pub struct Publishing {
    queue: mpsc::UnboundedReceiver<Waiting>,
    room: Arc<Room>,
    metrics: PublishMetrics,
}

/// What became of batches of changes.
#[derive(Debug, Clone)]
pub struct PublishMetrics {
    /// Batches that were sent.
    pub published: Counter,
    /// Batches that were dropped: there was no room, or no channel.
    pub dropped: Counter,
    /// Messages sent.
    pub messages: Counter,
    /// Their bytes.
    pub message_bytes: Counter,
    /// Seconds from the commit of a batch to its being sent.
    pub seconds: Histogram,
}

/// Makes a publisher. Its task ends when every handle is gone and what they had queued is sent.
pub fn publisher() -> (Publisher, Publishing) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let room = Arc::new(Room::default());
    let metrics = PublishMetrics::default();
    let publisher = Publisher { queue: sender, room: Arc::clone(&room), metrics: metrics.clone() };
    (publisher, Publishing { queue: receiver, room, metrics })
}

impl Publisher {
    /// What became of the changes so far, all handles together.
    pub fn metrics(&self) -> &PublishMetrics {
        &self.metrics
    }
}

impl Publishing {
    /// Publishes until every handle is gone.
    pub async fn run(mut self, mut sender: impl MessageSender) {
        let mut last: Option<Instant> = None;
        while let Some(first) = self.queue.recv().await {
            if let Some(last) = last {
                // What comes meanwhile shares its messages; the first after a pause waits for nothing.
                sleep_until(last + GATHER_MAX).await;
            }
            last = Some(Instant::now());
            let mut gathered = vec![first];
            while let Ok(more) = self.queue.try_recv() {
                gathered.push(more);
            }
            self.publish(gathered, &mut sender).await;
        }
    }

    async fn publish(&self, gathered: Vec<Waiting>, sender: &mut impl MessageSender) {
        let (mut changes, mut since) = (Vec::with_capacity(gathered.len()), Vec::with_capacity(gathered.len()));
        for waiting in gathered {
            self.room.leave(waiting.bytes);
            changes.push(waiting.changes);
            since.push(waiting.since);
        }
        let sent = self.send(message::encode(&changes), sender).await;
        let count = changes.len() as u64;
        match sent {
            Ok(()) => {
                self.metrics.published.inc_by(count);
                since.iter().for_each(|since| self.metrics.seconds.observe(since.elapsed().as_secs_f64()));
            }
            Err(away) => {
                tracing::debug!(%away, count, "changes were not published; followers repair");
                self.metrics.dropped.inc_by(count);
            }
        }
    }

    async fn send(&self, messages: Vec<Vec<u8>>, sender: &mut impl MessageSender) -> Result<(), ChannelAway> {
        for message in messages {
            let bytes = message.len() as u64;
            sender.send(message).await?;
            self.metrics.messages.inc();
            self.metrics.message_bytes.inc_by(bytes);
        }
        Ok(())
    }
}

impl ChangeFeed for Publisher {
    async fn publish(&mut self, changes: Changes) -> Result<(), FeedGone> {
        let bytes = bytes_of(&changes);
        if !self.room.enter(bytes) {
            self.metrics.dropped.inc();
            return Ok(());
        }
        if self.queue.send(Waiting { changes, bytes, since: Instant::now() }).is_err() {
            self.room.leave(bytes);
            self.metrics.dropped.inc();
        }
        Ok(())
    }
}

impl Default for PublishMetrics {
    fn default() -> Self {
        Self {
            published: Counter::default(),
            dropped: Counter::default(),
            messages: Counter::default(),
            message_bytes: Counter::default(),
            seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
        }
    }
}

/// A batch on its way.
struct Waiting {
    changes: Changes,
    bytes: usize,
    since: Instant,
}

/// What waits. Several partitions may pass a bound together by a batch each, and no more.
#[derive(Debug, Default)]
struct Room {
    batches: AtomicUsize,
    bytes: AtomicUsize,
}

impl Room {
    fn enter(&self, bytes: usize) -> bool {
        let fits = self.batches.load(Ordering::Relaxed) < PUBLISH_CHANGES_MAX
            && self.bytes.load(Ordering::Relaxed) + bytes <= PUBLISH_BYTES_MAX;
        if fits {
            self.batches.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        fits
    }

    fn leave(&self, bytes: usize) {
        self.batches.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

fn bytes_of(changes: &Changes) -> usize {
    let json =
        changes.changes.iter().map(|change| size_of_val(change) + change.json.as_ref().map_or(0, |json| json.len()));
    size_of::<Changes>() + json.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use todo_proto::change::Change;
    use todo_proto::id::ItemId;
    use todo_proto::limits::MESSAGE_BYTES_MAX;
    use todo_proto::message::Message;
    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;

    /// Takes messages until it is told that there is no channel.
    struct Channel {
        sent: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
        /// Messages that it still takes.
        takes: usize,
    }

    impl MessageSender for Channel {
        async fn send(&mut self, message: Vec<u8>) -> Result<(), ChannelAway> {
            if self.takes == 0 {
                return Err(ChannelAway("cut".to_owned()));
            }
            self.takes -= 1;
            self.sent.send((Instant::now(), message)).map_err(|_| ChannelAway("nobody listens".to_owned()))
        }
    }

    fn start(takes: usize) -> (Publisher, UnboundedReceiver<(Instant, Vec<u8>)>) {
        let (publisher, publishing) = publisher();
        let (sent, received) = mpsc::unbounded_channel();
        tokio::spawn(publishing.run(Channel { sent, takes }));
        (publisher, received)
    }

    fn changes(part: u32, from: u64, json_bytes: usize) -> Changes {
        let change =
            Change { id: ItemId::from_parts(1, 1), revision: from + 1, json: Some(vec![b'x'; json_bytes].into()) };
        Changes { store_id: [1; 16], part, from, to: from + 1, changes: vec![change] }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_at_once_and_what_follows_is_gathered() {
        let (mut publisher, mut received) = start(usize::MAX);
        let begun = Instant::now();
        publisher.publish(changes(0, 0, 2)).await.unwrap();
        let (at, message) = received.recv().await.unwrap();
        assert_eq!((at, Message::decode(&message).unwrap().pieces.len()), (begun, 1));
        for part in 0..3 {
            publisher.clone().publish(changes(part, 1, 2)).await.unwrap();
        }
        let (at, message) = received.recv().await.unwrap();
        assert_eq!((at, Message::decode(&message).unwrap().pieces.len()), (begun + GATHER_MAX, 3));
        drop(publisher);
        assert!(received.recv().await.is_none(), "the task ends with its last handle");
    }

    #[tokio::test(start_paused = true)]
    async fn what_finds_no_room_or_no_channel_is_dropped_and_counted() {
        let (mut publisher, publishing) = publisher();
        let json_bytes = 50 * 1024;
        let fitting = (PUBLISH_BYTES_MAX / json_bytes) as u64;
        for from in 0..fitting + 10 {
            publisher.publish(changes(0, from, json_bytes)).await.unwrap();
        }
        let dropped = publisher.metrics().dropped.get();
        assert!((10..20).contains(&dropped), "{dropped} dropped of {}", fitting + 10);

        let (sent, mut received) = mpsc::unbounded_channel();
        let task = tokio::spawn(publishing.run(Channel { sent, takes: usize::MAX }));
        let mut count = 0;
        while count < fitting + 10 - dropped {
            let (_, message) = received.recv().await.unwrap();
            assert!(message.len() <= MESSAGE_BYTES_MAX);
            count += Message::decode(&message).unwrap().pieces.len() as u64;
        }
        let metrics = publisher.metrics().clone();
        drop(publisher);
        task.await.unwrap();
        assert_eq!((metrics.published.get(), metrics.dropped.get()), (count, dropped));

        let (mut publisher, _received) = start(0);
        publisher.publish(changes(0, 0, 2)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!((publisher.metrics().published.get(), publisher.metrics().dropped.get()), (0, 1));
    }
}
