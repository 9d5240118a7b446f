//! A cluster of a test's own on the services that the tests are run with: a database and a topic by a name that nobody
//! else uses, and workers in this process, whose messages can be lost on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use todo_worker::apply::{self, Status};
use todo_worker::kafka::{Kafka, KafkaLog};
use todo_worker::messages::{ChannelAway, MessageSender};
use todo_worker::postgres::Database;
use todo_worker::publish::publisher;
use todo_worker::redis::{Redis, Sender};
use todo_worker::settings::{Cluster as Services, DatabaseSettings, KafkaSettings, RedisSettings};
use tokio::sync::watch;

use super::{Options, SECRET, Server, eventually, get, run_with};

/// Partitions of every cluster here.
pub const PARTITIONS: u32 = 3;

/// Where the services of one test are.
pub struct Cluster {
    services: Services,
}

/// A worker that applies every partition. Dropped, it stops in good order.
pub struct Worker {
    /// While set, what it publishes reaches nobody.
    pub loses_messages: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// A new database without a store, and the name of a topic that is not there yet.
    pub fn new() -> Cluster {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("server_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let url = service("DATABASE_URL");
        let (server, _) = url.rsplit_once('/').expect("a URL with a database");
        block_on(create_database(&url, &name));
        let services = Services {
            kafka: KafkaSettings {
                brokers: service("KAFKA_BROKERS").split(',').map(str::to_owned).collect(),
                topic: name.replace('_', "-"),
                partitions: PARTITIONS,
                tls: None,
                sasl: None,
            },
            database: DatabaseSettings { url: secret(&format!("{server}/{name}")), pool_size: 20 },
            redis: RedisSettings {
                url: secret(&service("REDIS_URL")),
                ca_file: None,
                pool_size: 5,
                cache_ttl: Duration::from_secs(300),
                cache_limits: Vec::new(),
            },
        };
        Cluster { services }
    }

    /// The variables that a server of it is started with.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let Services { kafka, database, redis } = &self.services;
        vec![
            ("KAFKA_BROKERS", kafka.brokers.join(",")),
            ("KAFKA_TODO_TOPIC", kafka.topic.clone()),
            ("KAFKA_PARTITIONS", kafka.partitions.to_string()),
            ("DATABASE_URL", database.url.reveal().to_owned()),
            ("REDIS_URL", redis.url.reveal().to_owned()),
            ("JWT_SECRET", SECRET.to_owned()),
        ]
    }

    /// How a server of it is started.
    pub fn options(&self) -> Options {
        let variables = self.variables();
        variables.into_iter().fold(Options::new(), |options, (name, value)| options.variable(name, value))
    }

    /// A server that is ready.
    pub fn server(&self) -> Server {
        let server = self.options().start();
        is_ready(&server);
        server
    }

    /// Runs a command of the binary in this cluster.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        run_with(&std::env::temp_dir(), arguments, &self.variables())
    }

    /// A worker, which makes the store when there is none.
    pub fn worker(&self) -> Worker {
        let (stop, stopped) = watch::channel(false);
        let loses_messages = Arc::new(AtomicBool::new(false));
        let work = work(self.services.clone(), Arc::clone(&loses_messages), stopped);
        let thread = std::thread::spawn(move || block_on(work));
        Worker { loses_messages, stop, thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let ended = self.thread.take().expect("it ends once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the worker panicked");
    }
}

/// Waits until a server serves and takes writes.
pub fn is_ready(server: &Server) {
    eventually("ready for reads and writes", || {
        let ready = server.connect().ask(&get("/ready"));
        ready.status == 200 && ready.json()["writes"] == true
    });
}

fn service(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: start with `cargo xtask test`, or `cargo xtask stack up` and set KAFKA_BROKERS, \
             DATABASE_URL and REDIS_URL to what it prints"
        )
    })
}

fn secret(text: &str) -> todo_worker::settings::Secret {
    text.parse().expect("every text can be secret")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

async fn create_database(url: &str, name: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("Postgres answers");
    let connection = tokio::spawn(connection);
    client.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("it may make databases");
    drop(client);
    connection.await.expect("no panic").expect("it ends in good order");
}

async fn work(services: Services, loses_messages: Arc<AtomicBool>, stopped: watch::Receiver<bool>) {
    let Services { kafka, database, redis } = services;
    let database = Database::new(&database, PARTITIONS as usize + 2).expect("an address");
    database.open_store(kafka.partitions, &kafka.topic).await.expect("a store");
    let kafka = Kafka::new(&kafka).expect("no TLS");
    let redis = Redis::new(&redis).expect("an address");
    let (publisher, publishing) = publisher();
    let sender = LossySender { sender: redis.sender(), loses_messages };
    let publishing = tokio::spawn(publishing.run(sender));
    let loops: Vec<_> = (0..PARTITIONS)
        .map(|part| {
            let (log, store) = (KafkaLog::new(kafka.clone(), part), database.store());
            let (status, _) = watch::channel(Status::default());
            tokio::spawn(apply::run(part, log, store, publisher.clone(), status, stopped.clone()))
        })
        .collect();
    drop(publisher);
    for part in loops {
        part.await.expect("the loop does not panic");
    }
    publishing.await.expect("the publisher does not panic");
}

/// Sends to Redis, or only says so.
struct LossySender {
    sender: Sender,
    loses_messages: Arc<AtomicBool>,
}

impl MessageSender for LossySender {
    async fn send(&mut self, message: Vec<u8>) -> Result<(), ChannelAway> {
        if self.loses_messages.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.sender.send(message).await
    }
}
