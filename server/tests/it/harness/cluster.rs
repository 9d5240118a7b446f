//! A cluster of a test's own on the services that the tests are run with: a database and a topic by a name that nobody
//! else uses, and workers in this process, whose messages can be lost on purpose.

use std::path::Path;
use std::process::Command;
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
use todo_worker::service::adopt;
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
        block_on(execute(&url, &format!("CREATE DATABASE {name}")));
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

    /// By partition, up to where the log is applied.
    pub fn positions(&self) -> Vec<u64> {
        block_on(positions(self.services.database.url.reveal()))
    }

    /// Writes a dump of its database, as docs/operations.md says.
    pub fn dump(&self, file: &Path) {
        let mut dump = postgres_program("pg_dump");
        dump.arg("--format=custom").arg("--file").arg(file).arg(self.services.database.url.reveal());
        succeed(dump);
    }

    /// The same topic over a new database that holds what is in the dump.
    pub fn restored(&self, dump: &Path) -> Cluster {
        let mut restored = Cluster::new();
        restored.services.kafka.topic.clone_from(&self.services.kafka.topic);
        restored.restore(dump);
        restored
    }

    /// Puts what is in the dump in the place of the database, whoever is connected to it.
    pub fn restore_in_place(&self, dump: &Path) {
        let (_, name) = self.services.database.url.reveal().rsplit_once('/').expect("a URL with a database");
        block_on(execute(&service("DATABASE_URL"), &format!("DROP DATABASE {name} WITH (FORCE)")));
        block_on(execute(&service("DATABASE_URL"), &format!("CREATE DATABASE {name}")));
        self.restore(dump);
    }

    fn restore(&self, dump: &Path) {
        let mut restore = postgres_program("pg_restore");
        restore.args(["--no-owner", "--single-transaction", "--exit-on-error", "--dbname"]);
        restore.arg(self.services.database.url.reveal()).arg(dump);
        succeed(restore);
    }

    /// The same over a topic that is not there yet.
    pub fn with_new_topic(mut self) -> Cluster {
        self.services.kafka.topic.push_str("-anew");
        self
    }

    /// What `todo-worker adopt-topic --yes` does; how many partitions were adopted.
    pub fn adopt_topic(&self) -> usize {
        block_on(async {
            let Services { kafka, database, .. } = &self.services;
            let database = Database::new(database, 3).expect("an address");
            let log = Kafka::new(kafka).expect("no TLS");
            let strange = adopt::look(&database, &log).await.expect("both answer");
            adopt::adopt(&database, &kafka.topic, &strange).await.expect("nobody applies anything");
            strange.len()
        })
    }

    /// Runs SQL in its database, past every program.
    pub fn execute(&self, sql: &str) {
        block_on(execute(self.services.database.url.reveal(), sql));
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

/// Does `work` in a database, on a connection of its own.
async fn within<T>(url: &str, work: impl AsyncFnOnce(&tokio_postgres::Client) -> T) -> T {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("Postgres answers");
    let connection = tokio::spawn(connection);
    let done = work(&client).await;
    drop(client);
    connection.await.expect("no panic").expect("it ends in good order");
    done
}

async fn execute(url: &str, sql: &str) {
    within(url, async |client| client.batch_execute(sql).await.expect("it may do so")).await;
}

async fn positions(url: &str) -> Vec<u64> {
    let asked = "SELECT base + next_offset FROM partitions ORDER BY part";
    let rows = within(url, async |client| client.query(asked, &[]).await.expect("a store")).await;
    rows.iter().map(|row| u64::try_from(row.get::<_, i64>(0)).expect("they grow from 0")).collect()
}

/// A program of the Postgres that the tests are run with: another version's may not read what it has written.
fn postgres_program(name: &str) -> Command {
    Command::new(Path::new(&service("TEST_POSTGRES_PROGRAMS")).join(name))
}

fn succeed(mut command: Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", command.get_program().display());
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
