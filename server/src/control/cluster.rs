//! One server of a cluster: it appends to Kafka, and follows Postgres by what Redis brings.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use todo_worker::kafka::Appending;
use todo_worker::messages::MessageSource;
use todo_worker::postgres::{Database, OpenError, PgReader};
use todo_worker::redis::Redis;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::bridge::Ticket;
use crate::clock;
use crate::control::Answering;
use crate::control::feed::Window;
use crate::control::follow::Shown;
use crate::control::follow::drive::{self, FollowStart, View};
use crate::control::gate::{Configured, Gate, refusal, store_clock_ms};
use crate::control::reads::Reads;
use crate::control::serving::Serving;
use crate::limits::{GATE_EVERY, STORE_READERS, STORE_WAIT_LOG_EVERY, STORE_WAIT_RETRY};

/// What it is started with.
pub struct Cluster {
    /// The store.
    pub database: Database,
    /// The channel of changes.
    pub redis: Redis,
    /// The log that it appends to.
    pub configured: Configured,
    /// The tasks that append.
    pub appending: Appending<Ticket>,
    /// What shards look at before they append.
    pub gate: Arc<Gate>,
    /// Told why no writes are taken.
    pub refused: watch::Sender<Option<String>>,
    /// Told what is seen of the store.
    pub view: watch::Sender<View>,
    /// Gives snapshots to the shards.
    pub serving: Serving,
    /// Bounds of the snapshot.
    pub window: Window,
    /// Shortest time between two snapshots.
    pub refresh: Duration,
}

/// It runs.
pub struct Following {
    following: JoinHandle<Result<Infallible, OpenError>>,
    appending: Appending<Ticket>,
    shown: watch::Sender<Shown>,
}

impl Cluster {
    /// Begins to append, to follow and to answer, on the current runtime.
    pub fn begin(self, answering: Answering) -> Following {
        let Cluster { database, redis, configured, appending, gate, refused, view, serving, window, refresh } = self;
        tokio::spawn(keep_gate(view.subscribe(), gate, refused, configured));
        let shown = watch::Sender::new(Shown::default());
        let readers = (0..STORE_READERS).map(|_| database.reader()).collect();
        let seen = view.subscribe();
        let oldest = Box::new(move || seen.borrow().oldest);
        tokio::spawn(answering.run(Reads::new(readers, oldest, shown.clone())));
        // The subscription comes before the load, so that what is published meanwhile is not missed.
        let start = FollowStart {
            reader: database.reader(),
            source: redis.subscription(),
            window,
            refresh,
            shown: shown.subscribe(),
            view: view.clone(),
        };
        let following = tokio::spawn(follow(database, view, start, serving));
        Following { following, appending, shown }
    }
}

impl Following {
    /// Waits for what ends the process: the store will never let it in.
    pub async fn failed(&mut self) -> OpenError {
        match (&mut self.following).await.expect("the follower does not panic") {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    /// What reads of the store have shown to clients.
    pub fn shown(&self) -> watch::Receiver<Shown> {
        self.shown.subscribe()
    }

    /// Appends what was taken, or gives it up in time: every command is answered.
    pub async fn finish(self) {
        self.appending.finish().await;
        self.following.abort();
    }
}

async fn follow(
    database: Database,
    view: watch::Sender<View>,
    start: FollowStart<PgReader, impl MessageSource>,
    mut serving: Serving,
) -> Result<Infallible, OpenError> {
    wait_for_store(&database, &view).await?;
    drive::run(start, |newer| serving.serve(newer)).await;
    unreachable!("following has no end")
}

/// Waits until there is a store that this version can read.
async fn wait_for_store(database: &Database, view: &watch::Sender<View>) -> Result<(), OpenError> {
    let mut said: Option<Instant> = None;
    loop {
        let error = match database.find_store().await {
            Ok(_) => {
                view.send_modify(|view| view.store_away = None);
                return Ok(());
            }
            Err(error) if error.passes() => error,
            Err(error) => return Err(error),
        };
        if said.is_none_or(|at| at.elapsed() >= STORE_WAIT_LOG_EVERY) {
            tracing::warn!("waiting: {error}");
            said = Some(Instant::now());
        }
        view.send_modify(|view| view.store_away = Some(error.to_string()));
        sleep(STORE_WAIT_RETRY).await;
    }
}

/// Opens and shuts the gate by what is seen of the store, and sets the clock of writes by it.
async fn keep_gate(
    mut view: watch::Receiver<View>,
    gate: Arc<Gate>,
    refused: watch::Sender<Option<String>>,
    configured: Configured,
) {
    let mut turn = interval(GATE_EVERY);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let why = {
            let view = view.borrow_and_update();
            let now = Instant::now();
            if let Some((look, looked_at)) = &view.look {
                clock::set_store_ms(store_clock_ms(look, *looked_at, now));
            }
            refusal(&view, clock::wall_ms(), now, &configured)
        };
        gate.set(why.is_none());
        refused.send_if_modified(|before| {
            let is_news = *before != why;
            match (&before, &why) {
                (None, Some(why)) => tracing::warn!(why, "no writes are taken"),
                (Some(_), None) => tracing::info!("writes are taken"),
                _ => {}
            }
            *before = why;
            is_news
        });
        tokio::select! {
            _ = turn.tick() => {}
            changed = view.changed() => if changed.is_err() {
                return;
            },
        }
    }
}
