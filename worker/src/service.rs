//! The worker of a cluster as a process: partitions by lease, one apply loop for each, changes on to the servers, and pages
//! that say how it is.

pub mod adopt;
mod board;
pub mod letters;
mod measured;
mod owner;
mod pages;
pub mod replay;

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::apply::{self, stopped};
use crate::command_line::Settings;
use crate::kafka::{Kafka, KafkaLog};
use crate::limits::{SIDE_CONNECTIONS_MAX, START_LINE_EVERY, START_RETRY_EVERY, STOP_TIMEOUT};
use crate::postgres::{Database, OpenError, PgReader, StoreFacts};
use crate::publish::publisher;
use crate::redis::documents::{self, DocumentMetrics, Documents};
use crate::redis::{Redis, RedisError};
use crate::service::board::Board;
use crate::service::measured::{ApplyMetrics, Measured};
use crate::service::owner::{LoopStart, Owner};
use crate::service::pages::{Counted, Pages};
use crate::settings::{Cluster, SettingsError};
use crate::tls::TlsError;

/// Why the worker does not run: one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Settings that make no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There is no cluster to work for.
    #[error("a worker needs a cluster: set KAFKA_BROKERS and DATABASE_URL")]
    NoCluster,
    /// The store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The way to Redis.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The way to Kafka.
    #[error("KAFKA_CA_FILE: {0}")]
    Kafka(TlsError),
    /// The pages' address.
    #[error("{host}:{port} cannot be listened on ({why}): set WORKER_HOST and WORKER_PORT, or stop whoever has it")]
    Listen {
        /// The address.
        host: String,
        /// The port.
        port: u16,
        /// What the system says.
        why: io::Error,
    },
}

/// The cluster that is set.
///
/// # Errors
/// A mix that makes no sense, or none.
pub fn cluster(settings: &Settings) -> Result<Cluster, ServiceError> {
    settings.connections.cluster()?.ok_or(ServiceError::NoCluster)
}

/// Works until `stop` is true: then batches are finished, changes published, and leases given back.
///
/// # Errors
/// What no waiting helps against.
pub async fn run(settings: &Settings, mut stop: watch::Receiver<bool>) -> Result<(), ServiceError> {
    let cluster = cluster(settings)?;
    let database = Database::new(&cluster.database, settings.worker_pool_size as usize)?;
    // Beside the pool of the loops, which may all be in use: a lease that waits for a batch would be lost.
    let side = Database::new(&cluster.database, SIDE_CONNECTIONS_MAX)?;
    let board = Arc::new(Board::waiting("the store is being opened"));
    let (metrics, (publisher, publishing)) = (ApplyMetrics::default(), publisher());
    let (limits, ttl) = (cluster.redis.cache_limits.clone(), cluster.redis.cache_ttl);
    let documents = Documents { limits, ttl, metrics: DocumentMetrics::default() };
    let counted =
        Counted { apply: metrics.clone(), publish: publisher.metrics().clone(), documents: documents.metrics.clone() };
    let pages = Pages::new(Arc::clone(&board), counted);
    let listener = listen(settings).await?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "/health, /ready and /metrics are served");
    }
    let serving = tokio::spawn(serve(listener, pages));

    let facts = tokio::select! {
        () = stopped(&mut stop) => return Ok(()),
        facts = wait_for_store(&database, &cluster, &board) => facts?,
    };
    tracing::info!(place = database.place(), partitions = facts.partitions, "the store is open");

    let redis = Redis::new(&cluster.redis)?;
    let kafka = Kafka::new(&cluster.kafka).map_err(ServiceError::Kafka)?;
    let publishing = tokio::spawn(publishing.run(redis.sender()));
    let (owns_first, first_is_here) = watch::channel(false);
    let documents = tokio::spawn(keep_documents(documents, side.reader(), redis, first_is_here));
    let run = move |LoopStart { part, status, stop, log_end }| {
        let log = KafkaLog::new(kafka.clone(), part).noting_end(log_end);
        let store = Measured::new(database.store(), metrics.clone());
        let applying = apply::run(part, log, store, publisher.clone(), status, stop);
        async move {
            applying.await;
        }
    };
    let worker = fastrand::u128(..).to_be_bytes();
    Owner::new(side.leases(worker), run, Arc::clone(&board), owns_first).run(stop).await;
    board.set_trouble(Some("the worker is shutting down".to_owned()));
    // The loops have ended and with them the last handles: what they had queued is sent, unless the channel is away.
    for (what, task) in [("changes", publishing), ("documents", documents)] {
        if timeout(STOP_TIMEOUT, task).await.is_err() {
            tracing::warn!("the last {what} did not get to Redis in time; servers repair");
        }
    }
    serving.abort();
    Ok(())
}

async fn keep_documents(documents: Documents, reader: PgReader, redis: Redis, owner: watch::Receiver<bool>) {
    documents::run(documents, reader, &redis, owner).await;
}

/// Postgres that is away is waited for; whatever else is wrong with it is for a human.
async fn wait_for_store(database: &Database, cluster: &Cluster, board: &Board) -> Result<StoreFacts, OpenError> {
    let mut said: Option<Instant> = None;
    loop {
        match database.open_store(cluster.kafka.partitions, &cluster.kafka.topic).await {
            Err(error) if error.passes() => {
                board.set_trouble(Some(error.to_string()));
                if said.is_none_or(|said| said.elapsed() >= START_LINE_EVERY) {
                    tracing::warn!(%error, "waiting for the store");
                    said = Some(Instant::now());
                }
                sleep(START_RETRY_EVERY).await;
            }
            outcome => return outcome,
        }
    }
}

async fn listen(settings: &Settings) -> Result<TcpListener, ServiceError> {
    let (host, port) = (settings.worker_host.clone(), settings.worker_port);
    let listener = TcpListener::bind((host.as_str(), port)).await;
    listener.map_err(|why| ServiceError::Listen { host, port, why })
}

async fn serve(listener: TcpListener, pages: Pages) {
    if let Err(error) = axum::serve(listener, pages.router()).await {
        tracing::error!(%error, "/health, /ready and /metrics are not served any more");
    }
}
