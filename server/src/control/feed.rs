//! Changes become snapshots: at most one each refresh interval, each at every shard before its writes are acknowledged.

use std::sync::Arc;
use std::time::Duration;

use todo_proto::change::{Changes, Fit};
use todo_proto::id::ItemId;
use todo_worker::channel::Published;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::control::follow::drive::Ages;
use crate::control::serving::Serving;
use crate::snapshot::{ItemChange, Snapshot};

/// Makes snapshots of changes and gives them to the shards.
pub struct Follower {
    serving: Serving,
    refresh: Duration,
    window: Window,
    /// No todo below this is live, neither in the store nor in what is served.
    oldest: watch::Sender<ItemId>,
    /// Seconds from each commit until it was served.
    ages: Ages,
}

/// Bounds of the snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Newest items held.
    pub items_max: u32,
    /// Bytes of JSON held.
    pub bytes_max: u64,
}

impl Follower {
    /// Follows from what is served. No todo below `oldest` is live in the store.
    pub fn new(serving: Serving, refresh: Duration, window: Window, oldest: ItemId) -> Follower {
        Follower { serving, refresh, window, oldest: watch::Sender::new(oldest), ages: Ages::default() }
    }

    /// No todo below this is live, neither in the store nor in what is served. One that is deleted does not raise it:
    /// lower than need be costs a question, higher a todo.
    pub fn oldest(&self) -> watch::Receiver<ItemId> {
        self.oldest.subscribe()
    }

    /// Seconds from each commit until it was served.
    pub fn ages(&self) -> Ages {
        self.ages.clone()
    }

    /// What is served.
    pub fn current(&self) -> &Snapshot {
        self.serving.current()
    }

    /// Follows until the feed ends; then another feed may be followed from there.
    pub async fn run(mut self, mut feed: mpsc::Receiver<Published>) -> Follower {
        let mut last: Option<Instant> = None;
        while let Some(first) = feed.recv().await {
            if let Some(last) = last {
                // What comes meanwhile shares the next snapshot; the first one after a pause waits for nothing.
                tokio::time::sleep_until(last + self.refresh).await;
            }
            let mut batch = vec![first];
            while let Ok(more) = feed.try_recv() {
                batch.push(more);
            }
            let begun = Instant::now();
            self.publish(&batch);
            last = Some(begun);
            self.serving.metrics().refresh_seconds.observe(begun.elapsed().as_secs_f64());
            for published in batch {
                self.ages.0.observe(published.committed_at.elapsed().as_secs_f64());
                // The loop that waited may be gone, at the end of the process.
                let _ = published.done.send(());
            }
        }
        self
    }

    fn publish(&mut self, batch: &[Published]) {
        let current = self.serving.current();
        let mut positions: Box<[u64]> = current.positions().into();
        let mut changes = Vec::new();
        for published in batch {
            take(&published.changes, &mut positions, &mut changes);
        }
        // Before anybody can have seen them: whoever has must find them again.
        if let Some(lowest) = lowest_live(&changes) {
            self.oldest.send_if_modified(|oldest| {
                *oldest = lowest.min(*oldest);
                false
            });
        }
        let newer = current.refresh(&changes, positions, current.version() + 1);
        self.serving.serve(Arc::new(newer.trim(self.window.items_max, self.window.bytes_max)));
    }
}

/// PROTOCOL "Load and follow", MESSAGE: takes what is newer than the position, in order.
fn take<'a>(message: &'a Changes, positions: &mut [u64], changes: &mut Vec<ItemChange<'a>>) {
    let position = &mut positions[message.part as usize];
    match message.fit(*position) {
        Fit::Old => {}
        Fit::Next => {
            let newer = message.changes.iter().filter(|change| change.revision > *position);
            changes.extend(newer.map(|change| ItemChange { id: change.id, json: change.json.as_deref() }));
            *position = message.to;
        }
        // The channel neither loses nor reorders: a gap would be a fault of ours, and going on would hide it for ever.
        Fit::Gap => panic!("changes from {} do not follow position {position}", message.from),
    }
}

/// A client may choose an id that is older than all others.
fn lowest_live(changes: &[ItemChange<'_>]) -> Option<ItemId> {
    changes.iter().filter(|change| change.json.is_some()).map(|change| change.id).min()
}

#[cfg(test)]
mod tests {
    use todo_proto::change::Change;

    use super::*;

    fn message(from: u64, to: u64) -> Changes {
        let changes = (from + 1..=to).map(|revision| Change {
            id: ItemId::from_parts(revision, 0),
            revision,
            json: Some(Box::from(&b"{}"[..])),
        });
        Changes { store_id: [0; 16], part: 0, from, to, changes: changes.collect() }
    }

    #[test]
    fn only_what_is_newer_is_taken() {
        let table = [((0, 3), 3, 3), ((2, 5), 5, 2), ((1, 4), 5, 0), ((5, 5), 5, 0), ((5, 6), 6, 1)];
        let mut positions = [0];
        for ((from, to), stands_at, taken) in table {
            let message = message(from, to);
            let mut changes = Vec::new();
            take(&message, &mut positions, &mut changes);
            assert_eq!((positions[0], changes.len()), (stands_at, taken), "({from}, {to}]");
        }
    }

    #[test]
    fn the_lowest_id_that_lives_is_found() {
        let (low, middle, high) = (ItemId::from_parts(1, 0), ItemId::from_parts(2, 0), ItemId::from_parts(3, 0));
        let (live, deleted) = (Some(&b"{}"[..]), None);
        let table = [
            (vec![], None),
            (vec![(middle, live)], Some(middle)),
            (vec![(middle, live), (high, live), (low, live)], Some(low)),
            (vec![(low, deleted), (high, live), (middle, live)], Some(middle)),
            (vec![(low, deleted)], None),
        ];
        for (changes, lowest) in table {
            let changes: Vec<_> = changes.into_iter().map(|(id, json)| ItemChange { id, json }).collect();
            assert_eq!(lowest_live(&changes), lowest);
        }
    }

    #[test]
    #[should_panic(expected = "do not follow position 3")]
    fn a_gap_is_our_fault() {
        take(&message(4, 5), &mut [3], &mut Vec::new());
    }
}
