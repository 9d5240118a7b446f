//! Puts the process together: store, snapshot, shards, control plane; says what it has come to; waits for its end.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use todo_proto::id::ItemId;
use todo_worker::apply::Status;
use todo_worker::channel;
use todo_worker::kafka::{Kafka, append};
use todo_worker::logging;
use todo_worker::postgres::{self, Database};
use todo_worker::producer::new_producer;
use todo_worker::redis::{Redis, RedisError};
use todo_worker::settings;
use todo_worker::sqlite::{OpenError, SqliteReader, SqliteStore};
use todo_worker::tls::TlsError;
use todo_worker::traits::{Outcome, StoreError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::admission::Limits;
use crate::bridge::{self, Log, Message, Ticket, ToShard, Watching, WaysBack, Writes};
use crate::check::{self, Findings};
use crate::clock::{self, CLOCKS, CLUSTER_CLOCKS};
use crate::control::access_log::{self, AccessLog, AccessMetrics};
use crate::control::backend::Backend;
use crate::control::cluster::Cluster;
use crate::control::embedded::{Again, Embedded};
use crate::control::feed::{Follower, Window};
use crate::control::follow::drive::View;
use crate::control::gate::{Configured, Gate};
use crate::control::handover::command;
use crate::control::handover::give::Giver;
use crate::control::handover::take::{Predecessor, TakeError};
use crate::control::pages::{FeedMetrics, Pages, Sources, WriteMetrics};
use crate::control::serving::Serving;
use crate::control::watching::Watch;
use crate::control::{self, Changed, ControlError, ControlStart, Work, acceptor, admin, granting, service};
use crate::counters::ShardCounters;
use crate::http::bearer::Keys;
use crate::http::site::Rules;
use crate::limits::{DASHBOARD_STREAMS_MAX, STORE_CONNECTIONS_MAX, STORE_READERS};
use crate::settings::{Accept, CommandLine, DATA_FILE_DEFAULT, SEED_TODOS_DEFAULT, Settings, SettingsError};
use crate::shard::io::{Driver, probe_driver};
use crate::shard::{self, Clocks, ShardStart};
use crate::snapshot::{Builder, ItemChange, Snapshot};
use crate::startup::{
    Cores, Listeners, StartError, choose_cores, connections_per_shard, files_per_shard, given, grow_descriptor_table,
    listen, passed_by_systemd, raise_descriptor_limit,
};
use crate::{fill, sys};

/// Why the process cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A setting.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The port, the descriptors.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The data file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The data file, while it is read or filled.
    #[error("{path} cannot be used: {source}")]
    Store {
        /// The data file.
        path: String,
        /// What the store says.
        source: StoreError,
    },
    /// Where the services of a cluster are.
    #[error(transparent)]
    Connections(#[from] settings::SettingsError),
    /// The store of a cluster.
    #[error(transparent)]
    Database(#[from] postgres::OpenError),
    /// TLS to Kafka.
    #[error("TLS to Kafka cannot be set up: {0}")]
    Tls(#[from] TlsError),
    /// Where Redis is.
    #[error(transparent)]
    Redis(#[from] RedisError),
    /// The control plane, while it runs.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// What `check` has found, before anything was taken over.
    #[error("{0}")]
    Problems(String),
    /// The process before this one.
    #[error(transparent)]
    Take(#[from] TakeError),
    /// It has acknowledged what is not in the file.
    #[error("the data file is at position {here:?}, and the process before this one was at {there:?}")]
    Behind {
        /// Where the file is.
        here: Vec<u64>,
        /// Where that one was.
        there: Vec<u64>,
    },
    /// The sample todos.
    #[error(transparent)]
    Fill(#[from] fill::FillError),
    /// The address for metrics and dashboard.
    #[error(
        "{address} of ADMIN_ADDR cannot be listened on ({source}): set another address or port, or end what is there"
    )]
    Admin {
        /// It.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Where the access log goes.
    #[error("{0}")]
    AccessLog(String),
    /// A thread or runtime of ours.
    #[error("{what} cannot be started ({source}): the system is short of memory, threads or descriptors")]
    System {
        /// What.
        what: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Serves until SIGTERM or SIGINT, or until another process has taken over.
///
/// # Errors
/// Why it cannot start, or go on.
pub fn run(settings: &Settings) -> Result<(), ServeError> {
    let mut predecessor = Predecessor::meet()?;
    run_behind(settings, &mut predecessor).inspect_err(|error| {
        // Still here only until this process has begun to serve.
        if let Some(predecessor) = &mut predecessor {
            predecessor.refuse(&error.to_string());
        }
    })
}

fn run_behind(settings: &Settings, predecessor: &mut Option<Predecessor>) -> Result<(), ServeError> {
    if predecessor.is_some() {
        let Findings { warnings, problems, .. } = check::find(settings, true);
        if !problems.is_empty() {
            return Err(ServeError::Problems(problems.join("; ")));
        }
        // The process before this one serves with the same things away. Without Postgres nothing can be loaded, which
        // `wait_until_reached` sees.
        for warning in warnings {
            tracing::warn!("{warning}");
        }
    }
    let cluster = settings.connections.cluster()?;
    let keys = Arc::new(settings.keys(cluster.is_some())?);
    // The port before the file: who starts a second server by mistake must not touch the first one's file.
    let descriptors = raise_descriptor_limit();
    grow_descriptor_table(descriptors);
    let cores = choose_cores(settings);
    let shards_count = cores.of_shard.len();
    let connections_max = connections_per_shard(settings, descriptors, shards_count)?;
    let wanted = settings.accept.unwrap_or_else(|| Accept::default_for(shards_count));
    let sockets = match &mut *predecessor {
        Some(predecessor) => predecessor.take_listeners(),
        None => passed_by_systemd()?,
    };
    let (accept, mut listeners) = match sockets.is_empty() {
        true => (wanted, listen(settings, wanted, shards_count)?),
        false => given(sockets, settings, wanted, shards_count)?,
    };
    listeners.admin = settings.admin_addr.map(listen_admin).transpose()?;
    let (driver, refusal) = probe_driver();
    let window = Window {
        items_max: u32::try_from(settings.snapshot_todos_max).unwrap_or(u32::MAX),
        bytes_max: settings.snapshot_bytes_max,
    };
    let place = || match &cluster {
        None => settings.data_file.canonicalize().unwrap_or_else(|_| settings.data_file.clone()).display().to_string(),
        Some(cluster) => format!("the topic {}", cluster.kafka.topic),
    };
    let backing = match (&cluster, &mut *predecessor) {
        (None, None) => Backing::file(settings, window)?,
        (None, Some(predecessor)) => {
            predecessor.check_place(&place())?;
            Backing::file_of(predecessor, settings, window)?
        }
        (Some(cluster), predecessor) => {
            predecessor.as_ref().map_or(Ok(()), |predecessor| predecessor.check_place(&place()))?;
            Backing::cluster(settings, cluster)?
        }
    };
    let limits = (connections_max, descriptors);
    let driver_of = (driver, refusal.as_ref());
    let summary = summary(settings, &listeners, accept, &cores, driver_of, limits, &backing);
    let files_max = if settings.sendfile { files_per_shard(descriptors, shards_count) } else { 0 };
    // Now that there is a file to be named.
    let place = place();
    let process =
        Process { settings, keys, accept, cores, driver, descriptors, connections_max, files_max, window, place };
    process.serve(listeners, backing, &summary, predecessor)
}

fn listen_admin(address: SocketAddr) -> Result<TcpListener, ServeError> {
    admin::listen(address).map_err(|source| ServeError::Admin { address, source })
}

/// What stands behind the process, before anything runs.
struct Backing {
    /// What is served first.
    snapshot: Arc<Snapshot>,
    /// What start-up says of the store.
    store_line: String,
    /// What start-up says of the todos.
    todos_line: String,
    /// What a write survives that was answered 202.
    survives_line: &'static str,
    services: Services,
}

enum Services {
    /// No todo below `oldest` is live.
    File {
        store: SqliteStore,
        readers: Vec<SqliteReader>,
        oldest: ItemId,
    },
    Cluster {
        database: Database,
        kafka: Kafka,
        redis: Redis,
        configured: Configured,
    },
}

impl Backing {
    /// Opens the data file, fills it when it is empty, and loads it.
    fn file(settings: &Settings, window: Window) -> Result<Backing, ServeError> {
        let begun_us = clock::tick_us();
        let path = settings.data_file.display();
        let mut store = SqliteStore::open(&settings.data_file, Arc::new(clock::wall_ms))?;
        let unusable = |source| ServeError::Store { path: path.to_string(), source };
        let mut readers = (0..STORE_READERS).map(|_| store.reader()).collect::<Result<Vec<_>, _>>()?;
        let mut seeded = "";
        if settings.seed_todos > 0 && readers[0].is_empty().map_err(unusable)? {
            store = fill::fill(store, settings.seed_todos)?;
            seeded = ", all of them samples made just now (SEED_TODOS=0 starts empty)";
        }
        let snapshot = Arc::new(load(&mut readers[0], window).map_err(unusable)?);
        let oldest = oldest(&mut readers[0]).map_err(unusable)?;
        let took_ms = (clock::tick_us() - begun_us) / 1_000;
        let older = if snapshot.floor() == ItemId::ZERO { "" } else { ", older ones stay in the file" };
        Ok(Backing {
            store_line: format!("SQLite, {path}"),
            todos_line: format!("{} in memory, {took_ms} ms{older}{seeded}", snapshot.items_count()),
            survives_line: A_FILE_SURVIVES,
            snapshot,
            services: Services::File { store, readers, oldest },
        })
    }

    /// Takes the data file over from the process that has it: loads beside it, waits until it has written its last, and
    /// reads what that was.
    fn file_of(predecessor: &mut Predecessor, settings: &Settings, window: Window) -> Result<Backing, ServeError> {
        let begun_us = clock::tick_us();
        let path = settings.data_file.display();
        let unusable = |source| ServeError::Store { path: path.to_string(), source };
        let mut reader = SqliteReader::open_beside(&settings.data_file)?;
        let loaded = load(&mut reader, window).map_err(unusable)?;
        let released = predecessor.loaded()?;
        let store = SqliteStore::open(&settings.data_file, Arc::new(clock::wall_ms))?;
        let snapshot = catch_up(&loaded, &mut reader, window).map_err(unusable)?;
        if !released.are_reached_by(snapshot.store_id(), snapshot.positions()) {
            return Err(ServeError::Behind { here: snapshot.positions().to_vec(), there: released.positions });
        }
        let oldest = oldest(&mut reader).map_err(unusable)?;
        let readers = (0..STORE_READERS).map(|_| store.reader()).collect::<Result<Vec<_>, _>>()?;
        let took_ms = (clock::tick_us() - begun_us) / 1_000;
        Ok(Backing {
            store_line: format!("SQLite, {path}, taken over from another process"),
            todos_line: format!("{} in memory, {took_ms} ms", snapshot.items_count()),
            survives_line: A_FILE_SURVIVES,
            snapshot: Arc::new(snapshot),
            services: Services::File { store, readers, oldest },
        })
    }

    /// Looks at the addresses of the services; connects to none yet.
    fn cluster(settings: &Settings, cluster: &settings::Cluster) -> Result<Backing, ServeError> {
        if settings.data_file != Path::new(DATA_FILE_DEFAULT) || settings.seed_todos != SEED_TODOS_DEFAULT {
            tracing::info!("DATA_FILE and SEED_TODOS are ignored: the todos are those of the cluster");
        }
        let database = Database::new(&cluster.database, STORE_CONNECTIONS_MAX)?;
        let kafka = Kafka::new(&cluster.kafka)?;
        let redis = Redis::new(&cluster.redis)?;
        let configured = Configured { topic: cluster.kafka.topic.clone(), partitions: cluster.kafka.partitions };
        let Configured { topic, partitions } = &configured;
        let newest = settings.snapshot_todos_max;
        Ok(Backing {
            snapshot: Arc::new(Snapshot::unloaded()),
            store_line: format!(
                "Postgres, {}; writes to Kafka, {}, topic {topic}, {partitions} partitions",
                database.place(),
                cluster.kafka.brokers.join(" ")
            ),
            todos_line: format!("the newest {newest} are being loaded; GET /ready says when"),
            survives_line: match cluster.kafka.brokers.len() {
                1 => "a killed process, not a lost machine: KAFKA_BROKERS names one broker",
                // How many copies a topic has is not something that the client library tells.
                _ => "a killed process, and a lost machine where the topic has 3 copies and min.insync.replicas=2",
            },
            services: Services::Cluster { database, kafka, redis, configured },
        })
    }
}

/// What a 202 of one process over a file survives.
const A_FILE_SURVIVES: &str = "a killed process, and a power cut: the file is synced first";

/// What the rest of the start follows from.
struct Process<'a> {
    settings: &'a Settings,
    keys: Arc<Keys>,
    accept: Accept,
    cores: Cores,
    driver: Driver,
    descriptors: u64,
    connections_max: usize,
    files_max: usize,
    window: Window,
    /// Where the todos are, as another process would name it.
    place: String,
}

/// What joins the shards to what stands behind the process.
struct Joined {
    writes: Writes,
    backend: Backend,
    work: Work,
    clocks: Clocks,
}

impl Process<'_> {
    fn serve(
        &self,
        listeners: Listeners,
        backing: Backing,
        summary: &str,
        predecessor: &mut Option<Predecessor>,
    ) -> Result<(), ServeError> {
        let shards_count = self.cores.of_shard.len();
        let access_file = access_log::open(&self.settings.access_log).map_err(ServeError::AccessLog)?;
        let counters: Vec<_> = (0..shards_count).map(|_| Arc::new(ShardCounters::default())).collect();
        let ways_back = WaysBack::new(shards_count, &backing.snapshot);
        let to_shards = ways_back.to_shards();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| ServeError::System { what: "a runtime", source })?;
        let write_metrics = Arc::new(WriteMetrics::default());
        let sink = {
            let (to_shards, metrics) = (to_shards.clone(), Arc::clone(&write_metrics));
            move || outcomes_sink(to_shards.clone(), Arc::clone(&metrics))
        };
        let feed_metrics = Arc::new(FeedMetrics::default());
        let serving = Serving::new(backing.snapshot, to_shards.clone(), Arc::clone(&feed_metrics));
        let is_cluster = matches!(backing.services, Services::Cluster { .. });
        let Joined { writes, backend, work, clocks } = {
            // What the log needs to run is begun here, and runs when the control plane does.
            let _within = runtime.enter();
            self.join(backing.services, sink, serving)
        };
        let stored = backend.clone();
        let (watching, watchers) = Watching::new(DASHBOARD_STREAMS_MAX);
        let bridge = ways_back.with_log(&writes, &watching);
        let limits = Arc::new(self.settings.limits(shards_count, clocks.tick_ms(), predecessor.is_some()));
        let (wanted, wanted_seen) = watch::channel(Limits::clone(&limits));
        runtime.spawn(granting::run(Arc::clone(&limits), wanted_seen, bridge.reports, to_shards.clone(), clocks));
        let admin_elsewhere = listeners.admin.is_some();
        let ground = Ground { is_cluster, descriptors: self.descriptors, shards_count, admin_elsewhere, clocks };
        let draining = Arc::new(AtomicBool::new(false));
        let (closing, leaving) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let duplicates =
            listeners.sets.iter().flatten().map(TcpListener::try_clone).collect::<std::io::Result<Vec<_>>>();
        let duplicates = duplicates.map_err(|source| ServeError::System { what: "a listener", source })?;
        let giver = Giver {
            listeners: Arc::new(duplicates),
            place: self.place.clone(),
            program: program(),
            to_shards: to_shards.clone(),
        };
        let access_metrics = Arc::new(AccessMetrics::default());
        let (told, asks) = mpsc::channel(1);
        let port = listeners.addresses.first().map_or(self.settings.http_port, SocketAddr::port);
        let command_socket = self.settings.command_socket(port);
        let sources = Sources {
            counters: counters.clone(),
            feed: feed_metrics,
            writes: write_metrics,
            access: Arc::clone(&access_metrics),
            backend,
            draining: Arc::clone(&draining),
            driver: self.driver.name(),
        };
        let pages = Arc::new(Pages::new(sources));
        let is_going = [Arc::clone(&draining), Arc::clone(&leaving)];
        let (watch, frames) = Watch::new(Arc::clone(&pages), watching.clone(), watchers, is_going);
        runtime.spawn(watch.run(frames.clone()));
        if let Some(listener) = listeners.admin {
            let served = admin::serve(listener, Arc::clone(&pages), watching, frames);
            runtime.spawn(async {
                if let Err(error) = served.await {
                    tracing::error!(%error, "metrics and dashboard are not served");
                }
            });
        }
        let destination = self.settings.access_log.clone();
        let (accesses, access_log, writer) =
            AccessLog::new(destination, access_file, shards_count, self.settings.access_log_sample, access_metrics);
        // The acceptor holds the first half until its end.
        let (until_accepted, accepting) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let control = ControlStart {
            runtime,
            work,
            requests: bridge.requests,
            to_shards: to_shards.clone(),
            pages,
            counters: counters.clone(),
            draining,
            closing: Arc::clone(&closing),
            leaving: Arc::clone(&leaving),
            giver,
            asks,
            reread: Box::new(move || reread(ground)),
            limits: wanted,
            access_log: access_log.reopener(),
            command_socket: command_socket.clone(),
            accepting: (self.accept == Accept::Handoff).then_some(accepting),
            ready,
            drain_lead: Duration::from_millis(self.settings.drain_lead_ms),
            drain_timeout: Duration::from_millis(self.settings.drain_timeout_ms),
        };
        // Started before any thread blocks signals: this one takes them all.
        let control = spawn("control", move || control::run(control).map_err(ServeError::from))?;
        sys::block_signals();
        if let Some(writer) = writer {
            spawn("access-log", move || {
                writer.run();
                Ok(())
            })?;
        }
        let rules = Arc::new(rules(self.settings, self.connections_max, admin_elsewhere));
        let mut threads = vec![control];
        let ends = bridge.shards.into_iter().zip(counters.iter().map(Arc::clone));
        for (index, (((to_control, from_control), counters), access)) in ends.zip(accesses).enumerate() {
            let start = ShardStart {
                index: index as u16,
                driver: self.driver,
                files_max: self.files_max,
                rules: Arc::clone(&rules),
                limits: Arc::clone(&limits),
                keys: Arc::clone(&self.keys),
                to_control,
                from_control,
                counters,
                access,
                clocks,
            };
            let core = self.cores.of_shard[index];
            threads.push(spawn(&format!("shard-{index}"), move || {
                // A core that has gone meanwhile leaves the shard unpinned, which is slower and no more.
                if core.is_some_and(|core| !core_affinity::set_for_current(core)) {
                    tracing::warn!(shard = index, "cannot pin to its core");
                }
                shard::run(start).map_err(|source| ServeError::System { what: "a shard", source })
            })?);
        }
        // Said when a signal would be taken in good order. Without the control plane its own error follows below.
        if is_ready.recv().is_ok() {
            if let Some(predecessor) = &mut *predecessor {
                predecessor.wait_until_reached(&to_shards[0], || stored.store_away())?;
                predecessor.wait_until_writing(&writes);
                if is_cluster {
                    predecessor.loaded()?;
                }
                predecessor.ready()?;
            }
            hear_commands(&command_socket, told);
            if let Some(predecessor) = &mut *predecessor {
                predecessor.serving()?;
            }
            let mut sets = listeners.sets;
            if self.accept == Accept::Handoff {
                let listeners = sets.pop().unwrap_or_default();
                let (to_shards, counters) = (to_shards.clone(), counters.clone());
                threads.push(spawn("acceptor", move || {
                    acceptor::run(&listeners, &to_shards, &counters, &closing, &leaving, clocks);
                    drop(until_accepted);
                    Ok(())
                })?);
            }
            for (to_shard, listeners) in to_shards.iter().zip(sets) {
                to_shard.send(Message::Listen(listeners));
            }
            if let Some(predecessor) = predecessor.take() {
                let (to_shards, counters) = (to_shards.clone(), counters.clone());
                spawn("adopt", move || {
                    predecessor.adopt(&to_shards, &counters);
                    Ok(())
                })?;
            } else {
                service::ready();
            }
            // Nobody may listen (`todo-server | head -1`), which is no reason not to serve.
            let _ = std::io::stdout().write_all(summary.as_bytes());
        }
        // The control plane ends first, be it by an error that ends the process with the shards in it.
        let ended = threads.into_iter().try_for_each(|thread| thread.join().expect("a panic ends the process before"));
        // Nothing more comes now, unless an error ends the process with the shards in it.
        access_log.finish();
        ended
    }

    fn join(
        &self,
        services: Services,
        sink: impl Fn() -> channel::Sink<Ticket> + Send + 'static,
        serving: Serving,
    ) -> Joined {
        let producer = new_producer();
        let window = self.window;
        let refresh = Duration::from_millis(self.settings.refresh_ms);
        match services {
            Services::File { store, readers, oldest } => {
                let bounds = self.settings.queue_bounds();
                let (appender, log) = channel::log(producer, bounds, sink());
                let (feed, published) = channel::feed();
                let (status, status_seen) = watch::channel(Status::default());
                let log_of_shards = Log::new(appender);
                let writes = Writes::Embedded(log_of_shards.clone());
                let follower = Follower::new(serving, refresh, window, oldest);
                let backend = Backend::Embedded { writes: writes.clone(), status: status_seen, ages: follower.ages() };
                let path = self.settings.data_file.clone();
                let again = Again { path, bounds, writes: log_of_shards, outcomes: Box::new(sink), status };
                let embedded = Embedded { store, readers, log, feed, published, follower, again };
                Joined { writes, backend, work: Work::Embedded(Box::new(embedded)), clocks: CLOCKS }
            }
            Services::Cluster { database, kafka, redis, configured } => {
                let (appender, appending) = append::start(&kafka, configured.partitions, producer, sink());
                let gate = Gate::closed();
                let writes = Writes::Cluster { appender, gate: Arc::clone(&gate) };
                let (refused, refused_seen) = watch::channel(None);
                let (view, view_seen) = watch::channel(View::default());
                let backend = Backend::Cluster { writes: writes.clone(), view: view_seen, refused: refused_seen };
                let cluster =
                    Cluster { database, redis, configured, appending, gate, refused, view, serving, window, refresh };
                Joined { writes, backend, work: Work::Cluster(Box::new(cluster)), clocks: CLUSTER_CLOCKS }
            }
        }
    }
}

fn spawn(
    name: &str,
    work: impl FnOnce() -> Result<(), ServeError> + Send + 'static,
) -> Result<JoinHandle<Result<(), ServeError>>, ServeError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map_err(|source| ServeError::System { what: "a thread", source })
}

/// Counts outcomes and sends them home.
fn outcomes_sink(to_shards: Vec<ToShard>, metrics: Arc<WriteMetrics>) -> channel::Sink<Ticket> {
    Box::new(move |outcomes: Vec<(Ticket, Outcome)>| {
        let now_us = clock::tick_us();
        for (ticket, outcome) in &outcomes {
            metrics.seconds.observe(now_us.saturating_sub(ticket.since_us) as f64 / 1e6);
            let count = match outcome {
                Outcome::Acknowledged => &metrics.acknowledged,
                Outcome::NotAppended(_) => &metrics.not_appended,
                Outcome::Unknown => &metrics.unknown,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        bridge::deliver(&to_shards, outcomes);
    })
}

/// What stays as it is while settings change.
#[derive(Clone, Copy)]
struct Ground {
    is_cluster: bool,
    descriptors: u64,
    shards_count: usize,
    admin_elsewhere: bool,
    clocks: Clocks,
}

/// What SIGHUP changes: the log filter, at once, and what shards are told.
fn reread(ground: Ground) -> Result<Changed, String> {
    let Ground { is_cluster, descriptors, shards_count, admin_elsewhere, clocks } = ground;
    let line = CommandLine::try_read().map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let settings = line.settings;
    let keys = settings.keys(is_cluster).map_err(|error| error.to_string())?;
    let connections_max =
        connections_per_shard(&settings, descriptors, shards_count).map_err(|error| error.to_string())?;
    logging::change(&settings.log).map_err(|error| error.to_string())?;
    // Where a limit begins nobody is known: as in a process that takes another one's place.
    let limits = settings.limits(shards_count, clocks.tick_ms(), true);
    let rules = rules(&settings, connections_max, admin_elsewhere);
    Ok(Changed { rules: Arc::new(rules), keys: Arc::new(keys), limits })
}

/// `admin_elsewhere` where metrics and dashboard have an address of their own, whatever the settings say since.
fn rules(settings: &Settings, connections_max: usize, admin_elsewhere: bool) -> Rules {
    Rules {
        connections_max,
        limit_max: settings.limit_max,
        // Answers name them, so they last as long as the process: what SIGHUP replaces too, some hundred bytes each.
        allowed_origins: Box::leak(settings.cors_origins.clone().into_boxed_slice()),
        admin_elsewhere,
        proxy_from: settings.proxy_from.clone(),
        head_timeout_ms: settings.head_timeout_ms,
        body_timeout_ms: settings.body_timeout_ms,
        idle_timeout_ms: settings.idle_timeout_ms,
        progress_timeout_ms: settings.progress_timeout_ms,
    }
}

fn load(reader: &mut SqliteReader, window: Window) -> Result<Snapshot, StoreError> {
    let mut builder: Option<Builder> = None;
    let store_id = reader.stand()?.store_id;
    let items = builder.insert(Builder::new(store_id, 1));
    let bytes_max = usize::try_from(window.bytes_max).unwrap_or(usize::MAX);
    let loaded = reader.load(window.items_max as usize, bytes_max, |id, json| items.push(id, json))?;
    let floor = if loaded.older { items.oldest().unwrap_or(ItemId::MAX) } else { ItemId::ZERO };
    let builder = builder.expect("put in above");
    Ok(builder.finish(loaded.stand.positions.into(), floor))
}

/// The lowest id in the file, which only this process may write to from here on; above all ids when there is none.
fn oldest(reader: &mut SqliteReader) -> Result<ItemId, StoreError> {
    Ok(reader.oldest()?.unwrap_or(ItemId::MAX))
}

/// Listens for `todo-server upgrade`. A process that cannot serves all the same.
fn hear_commands(path: &Path, told: mpsc::Sender<command::Ask>) {
    if let Err(error) = command::listen(path, told) {
        if std::process::id() == 1 {
            // A container may have no place for it, and process 1 is not replaced anyway.
            return;
        }
        tracing::warn!(path = %path.display(), %error, "no commands are heard; SIGUSR2 still starts a successor");
    }
}

/// What is in the file beyond `loaded`; all of it anew when that is too much.
fn catch_up(loaded: &Snapshot, reader: &mut SqliteReader, window: Window) -> Result<Snapshot, StoreError> {
    let version = loaded.version() + 1;
    let [position] = *loaded.positions() else { return load(reader, window) };
    let Some(changed) = reader.changes_above(position)? else { return load(reader, window) };
    let changes: Vec<_> =
        changed.changes.iter().map(|(id, json)| ItemChange { id: *id, json: json.as_deref() }).collect();
    let newer = loaded.refresh(&changes, changed.stand.positions.into(), version);
    Ok(newer.trim(window.items_max, window.bytes_max))
}

/// The program that runs, by the name that a newer one of it will have.
fn program() -> PathBuf {
    // Unknown only without procfs; a command then needs to name it.
    let path = std::env::current_exe().unwrap_or_default();
    // proc(5): what was replaced on disk since.
    path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map_or(path.clone(), PathBuf::from)
}

/// The block that start-up prints.
fn summary(
    settings: &Settings,
    listeners: &Listeners,
    accept: Accept,
    cores: &Cores,
    (driver, refusal): (Driver, Option<&std::io::Error>),
    (connections_max, descriptors): (usize, u64),
    backing: &Backing,
) -> String {
    let mut text = String::new();
    let mut line =
        |name: &str, value: &str| writeln!(text, "  {name:<12} {value}").expect("a string takes every write");
    let addresses: Vec<String> = listeners.addresses.iter().map(|address| format!("http://{address}")).collect();
    line("addresses", &addresses.join(" "));
    if let Some(address) = listeners.admin.as_ref().and_then(|listener| listener.local_addr().ok()) {
        line("admin", &format!("http://{address}/dashboard http://{address}/metrics"));
    }
    if let Some(proxies) = settings.proxy_line() {
        line("proxy", &proxies);
    }
    let pinned = cores.of_shard.iter().flatten().map(|core| core.id.to_string()).collect::<Vec<_>>().join(" ");
    let place = match (pinned.is_empty(), cores.has_quota) {
        (false, _) => format!("pinned to CPU {pinned}"),
        (true, true) => "not pinned, since a CPU quota is in force".to_owned(),
        (true, false) => "not pinned".to_owned(),
    };
    let accept = match accept {
        Accept::Reuseport => "a listener each",
        Accept::Handoff => "one acceptor",
    };
    line("shards", &format!("{} of {} CPUs, {place}, {accept}", cores.of_shard.len(), cores.available));
    line("I/O driver", &driver_line(driver, refusal));
    line("store", &backing.store_line);
    line("todos", &backing.todos_line);
    line("descriptors", &format!("{descriptors}, so {connections_max} connections a shard"));
    line("a 202", &format!("survives {}", backing.survives_line));
    line("writes", "need a token: todo-server token --sub NAME");
    let first = addresses.first().map_or("", String::as_str);
    line("try", &format!("curl '{first}{}?limit=10'", todo_proto::names::ROUTE));
    format!("todo-server {}\n{text}", crate::settings::VERSION)
}

fn driver_line(driver: Driver, refusal: Option<&std::io::Error>) -> String {
    match refusal {
        None => driver.name().to_owned(),
        Some(error) => format!(
            "{}, some 1.2 times the CPU per request: io_uring is refused ({error}); see `sysctl kernel.io_uring_disabled`, the seccomp profile and `ulimit -l`",
            driver.name()
        ),
    }
}
