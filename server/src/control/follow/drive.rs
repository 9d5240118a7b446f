//! Waits for what a follower is told of, and does what it asks.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use todo_proto::id::ItemId;
use todo_worker::messages::{Heard, MessageSource};
use todo_worker::reads::{Look, Repair, StoreReader};
use todo_worker::traits::StoreError;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::{Ask, Follow, FollowCounts, Shown};
use crate::control::feed::Window;
use crate::limits::{AWAITED_LOOKS_MAX, LOAD_RETRY, LOOK_APART_MIN, LOOK_EVERY, LOOK_EVERY_UNHEARD, SUBSCRIBE_WAIT};
use crate::snapshot::{Builder, Snapshot};

/// What a follower is started with.
pub struct FollowStart<R, M> {
    /// Reads the store; a clone may be in use beside it.
    pub reader: R,
    /// Where messages come out.
    pub source: M,
    /// Bounds of the snapshot.
    pub window: Window,
    /// Shortest time between two snapshots.
    pub refresh: Duration,
    /// What reads of the store have shown.
    pub shown: watch::Receiver<Shown>,
    /// Told what is seen of the store.
    pub view: watch::Sender<View>,
}

/// What is known of the store.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The newest look, and when it was asked for.
    pub look: Option<(Look, Instant)>,
    /// No todo below this is live, neither in the store nor in what is served; `None` while nobody knows.
    pub oldest: Option<ItemId>,
    /// Why the store does not answer; `None` while it does.
    pub store_away: Option<String>,
    /// Why no messages come; `None` while they do.
    pub messages_away: Option<String>,
    /// What is served contains everything that the store had then.
    pub as_of: Option<Instant>,
    /// How often each thing happened.
    pub counts: FollowCounts,
    /// Seconds until what a look saw was served.
    pub age_seconds: Ages,
}

/// Seconds until what a look saw was served; where commits are seen themselves, from each of them.
#[derive(Debug, Clone)]
pub struct Ages(pub Histogram);

/// Follows the store for ever; `serve` is given each snapshot in turn.
pub async fn run<R, M>(start: FollowStart<R, M>, mut serve: impl FnMut(Arc<Snapshot>))
where
    R: StoreReader + Clone + 'static,
    M: MessageSource,
{
    let FollowStart { reader, mut source, window, refresh, shown, view } = start;
    let begun = Instant::now();
    let mut follow = Follow::new(window, 0);
    let mut served = Served { view, awaited: VecDeque::new(), snapshot: None, last: None };
    let mut looking: Option<Answer<Asked>> = None;
    let mut loading: Option<Answer<Result<Snapshot, StoreError>>> = None;
    let (mut look_at, mut load_at, mut looked_at) = (begun, begun, begun);
    loop {
        if loading.is_none() && follow.wants_load() && load_at <= Instant::now() {
            loading = Some(Box::pin(load(reader.clone(), window, follow.begin_load())));
        }
        if looking.is_none() {
            if let Some(ask) = follow.ask(&shown.borrow()) {
                looking = Some(Box::pin(repair(reader.clone(), ask)));
            } else if look_at <= Instant::now() {
                looked_at = Instant::now();
                look_at = looked_at + if follow.hears() { LOOK_EVERY } else { LOOK_EVERY_UNHEARD };
                follow.asks_look();
                looking = Some(Box::pin(look(reader.clone())));
            }
        }
        if let Some(newer) = follow.replace(&shown.borrow()) {
            serve(Arc::clone(&newer));
            served.note(newer);
        }
        served.count(&follow);
        // The first refresh after a pause waits for nothing; what comes meanwhile shares the next.
        let refresh_at = served.last.map_or(begun, |last| last + refresh);
        // What is under way wakes by itself.
        let look_due = looking.is_none().then_some(look_at);
        let load_due = (loading.is_none() && follow.wants_load()).then_some(load_at);
        let wake_at = look_due.into_iter().chain(load_due).min();
        tokio::select! {
            biased;
            () = sleep_until(refresh_at), if follow.is_fresh() => {
                let newer = follow.refresh();
                serve(Arc::clone(&newer));
                served.note(newer);
            }
            asked = answer(&mut looking) => match asked {
                Asked::Look(Ok(look)) => {
                    served.looked(&look, looked_at);
                    follow.looked(look);
                }
                Asked::Repair(ask, Ok(repair)) => follow.repaired(ask, repair),
                // What was to be repaired is seen again by the next look.
                Asked::Look(Err(error)) | Asked::Repair(_, Err(error)) => served.store_is_away(&error),
            },
            loaded = answer(&mut loading) => match loaded {
                Ok(snapshot) => follow.loaded(snapshot),
                Err(error) => {
                    served.store_is_away(&error);
                    load_at = Instant::now() + LOAD_RETRY;
                    follow.load_failed();
                }
            },
            heard = source.next() => {
                if !matches!(heard, Heard::Message(_)) {
                    served.heard(&heard);
                    look_at = look_at.min((looked_at + LOOK_APART_MIN).max(Instant::now()));
                }
                follow.heard(heard);
            }
            () = sleep_until(wake_at.unwrap_or(begun)), if wake_at.is_some() => {}
            () = sleep_until(begun + SUBSCRIBE_WAIT), if !follow.has_heard() => follow.give_channel_up(),
        }
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

enum Asked {
    Look(Result<Look, StoreError>),
    Repair(Ask, Result<Repair, StoreError>),
}

/// The answer that is waited for, once; for ever when none is.
async fn answer<T>(waiting: &mut Option<Answer<T>>) -> T {
    match waiting {
        Some(answer) => {
            let answered = answer.await;
            *waiting = None;
            answered
        }
        None => pending().await,
    }
}

async fn look(mut reader: impl StoreReader) -> Asked {
    Asked::Look(reader.look().await)
}

async fn repair(mut reader: impl StoreReader, ask: Ask) -> Asked {
    Asked::Repair(ask, reader.repair(ask.part, ask.above).await)
}

async fn load(mut reader: impl StoreReader, window: Window, version: u64) -> Result<Snapshot, StoreError> {
    // The hashes of the todos are keyed by the store's name, so it must be known first.
    let store_id = reader.look().await?.stand.store_id;
    let mut builder = Builder::new(store_id, version);
    let bytes_max = usize::try_from(window.bytes_max).unwrap_or(usize::MAX);
    let loaded = reader.load(window.items_max as usize, bytes_max, |id, json| builder.push(id, json)).await?;
    if loaded.stand.store_id != store_id {
        return Err(StoreError::Unavailable("it has become another store".to_owned()));
    }
    let floor = if loaded.older { builder.oldest().unwrap_or(ItemId::MAX) } else { ItemId::ZERO };
    Ok(builder.finish(loaded.stand.positions.into(), floor))
}

/// What is served, and what others are told of it.
struct Served {
    view: watch::Sender<View>,
    /// Looks whose positions what is served has not reached, oldest first.
    awaited: VecDeque<(Instant, Look)>,
    snapshot: Option<Arc<Snapshot>>,
    /// When it was.
    last: Option<Instant>,
}

impl Served {
    fn note(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshot = Some(snapshot);
        self.last = Some(Instant::now());
        self.measure();
    }

    fn looked(&mut self, look: &Look, asked_at: Instant) {
        if self.awaited.len() < AWAITED_LOOKS_MAX {
            self.awaited.push_back((asked_at, look.clone()));
        }
        self.view.send_modify(|view| {
            if let Some(why) = view.store_away.take() {
                tracing::info!(why, "the store answers again");
            }
            view.look = Some((look.clone(), asked_at));
        });
        self.measure();
    }

    fn measure(&mut self) {
        let Some(snapshot) = &self.snapshot else { return };
        let has_reached = |(_, look): &mut (Instant, Look)| {
            look.stand.store_id != *snapshot.store_id()
                || look.stand.positions.iter().zip(snapshot.positions()).all(|(seen, served)| seen <= served)
        };
        while let Some((asked_at, _)) = self.awaited.pop_front_if(has_reached) {
            self.view.send_modify(|view| {
                view.as_of = Some(asked_at);
                view.age_seconds.0.observe(asked_at.elapsed().as_secs_f64());
            });
        }
    }

    fn store_is_away(&self, error: &StoreError) {
        self.view.send_if_modified(|view| {
            let is_new = view.store_away.is_none();
            if is_new {
                tracing::warn!(%error, "the store does not answer; what is served grows old");
                view.store_away = Some(error.to_string());
            }
            is_new
        });
    }

    fn heard(&self, heard: &Heard) {
        match heard {
            Heard::Message(_) => {}
            Heard::Missed => tracing::warn!("messages were dropped: they came faster than they could be taken"),
            Heard::Subscribed => {
                tracing::info!("changes are heard");
                self.view.send_modify(|view| view.messages_away = None);
            }
            Heard::Away(why) => {
                tracing::warn!(why, "changes are not heard; the store is looked at more often");
                self.view.send_modify(|view| view.messages_away = Some(why.clone()));
            }
        }
    }

    /// Nobody waits for these: they are read when somebody asks.
    fn count(&self, follow: &Follow) {
        self.view.send_if_modified(|view| {
            (view.counts, view.oldest) = (follow.counts(), follow.oldest());
            false
        });
    }
}

impl Default for Ages {
    fn default() -> Ages {
        Ages(Histogram::new(exponential_buckets(0.000_5, 2.0, 16)))
    }
}
