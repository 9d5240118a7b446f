//! The worker as a process, over the real Kafka, Postgres and Redis: what it does, how it shares, how it ends, and what a
//! human asks of it.

use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use rskafka::chrono::DateTime;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, UnknownTopicHandling};
use rskafka::record::Record as KafkaRecord;
use rustix::process::{Pid, Signal, kill_process};
use todo_proto::command::{Operation, TodoCommand};
use todo_proto::id::ItemId;
use todo_proto::partition::partition_of;
use todo_worker::kafka::Kafka;
use todo_worker::settings::KafkaSettings;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::broker::{Appends, eventually, settings};
use crate::database::{PARTITIONS, TestDatabase, service};
use crate::support::{HOUR_MS, acknowledged, command, fields};

/// A topic and a database of their own, and the services that all share.
struct Cluster {
    kafka: KafkaSettings,
    home: TestDatabase,
}

/// A running worker. Dropped, it is killed.
struct Worker {
    process: Child,
    /// What it logs, line by line.
    lines: mpsc::UnboundedReceiver<String>,
    port: u16,
}

impl Cluster {
    async fn new() -> Self {
        Self { kafka: settings(PARTITIONS), home: TestDatabase::new().await }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_todo-worker"));
        command
            .args(words)
            .env_clear()
            .env("KAFKA_BROKERS", self.kafka.brokers.join(","))
            .env("KAFKA_TODO_TOPIC", &self.kafka.topic)
            .env("KAFKA_PARTITIONS", PARTITIONS.to_string())
            .env("DATABASE_URL", self.home.url())
            .env("REDIS_URL", service("REDIS_URL"))
            .env("WORKER_PORT", "0")
            .kill_on_drop(true);
        command
    }

    /// Returns when it is there for the others.
    async fn worker(&self) -> Worker {
        let worker = Worker::spawn(self.command(&[])).await;
        eventually("the worker is there", async || worker.get("/ready").await.1.contains("\"because\":null")).await;
        worker
    }

    /// Runs a command to its end. Returns whether it went well, and what it said.
    async fn ask(&self, words: &[&str]) -> (bool, String) {
        let output = self.command(words).output().await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    async fn appends(&self) -> Appends {
        Appends::start_anew(&Kafka::new(&self.kafka).unwrap()).await
    }

    async fn number(&self, sql: &str) -> i64 {
        self.home.client().await.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn execute(&self, sql: &str) {
        self.home.client().await.batch_execute(sql).await.unwrap();
    }

    async fn todos(&self) -> i64 {
        self.number("SELECT count(*) FROM todos WHERE NOT deleted").await
    }
}

impl Worker {
    async fn spawn(mut command: Command) -> Self {
        let mut process = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut logged = BufReader::new(process.stderr.take().unwrap()).lines();
        let (sender, mut lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = logged.next_line().await {
                // A test may have seen enough.
                drop(sender.send(line));
            }
        });
        let line = next_line(&mut lines, "are served").await;
        let (_, rest) = line.split_once("127.0.0.1:").expect("it says where");
        let port = rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        Self { process, lines, port }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), body.to_owned())
    }

    /// The sum of one metric over its series.
    async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let value = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap();
        let is_it = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
        text.lines().filter(is_it).map(value).sum()
    }

    async fn partitions(&self) -> Vec<u64> {
        let (_, ready) = self.get("/ready").await;
        let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
        ready["partitions"].as_array().unwrap().iter().map(|part| part.as_u64().unwrap()).collect()
    }

    async fn waits_for(&self, partitions: usize) {
        eventually("it has its share", async || self.partitions().await.len() == partitions).await;
    }

    /// SIGTERM, to the end.
    async fn stop(mut self) {
        let pid = Pid::from_raw(self.process.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let status = self.process.wait().await.unwrap();
        assert!(status.success(), "{status}");
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A creation of now: this worker lives by Postgres's clock, to which the other tests' ids are years old.
fn create(number: u32, title: &str) -> TodoCommand {
    command(ItemId::from_parts(now_ms(), u128::from(number)), Operation::Create(fields(title)))
}

async fn next_line(lines: &mut mpsc::UnboundedReceiver<String>, with: &str) -> String {
    loop {
        let line = lines.recv().await.unwrap_or_else(|| panic!("it has ended without saying `{with}`"));
        if line.contains(with) {
            return line;
        }
    }
}

#[tokio::test]
async fn writes_are_applied_and_the_pages_say_so() {
    let cluster = Cluster::new().await;
    let worker = cluster.worker().await;
    assert_eq!(worker.get("/health").await.0, 200);
    let mut appends = cluster.appends().await;
    appends.append(0, (0..200).map(|number| create(number, "a")));
    assert_eq!(appends.outcomes(200).await, acknowledged(0..200));
    eventually("everything is applied", async || cluster.todos().await == 200).await;
    eventually("nothing lags", async || worker.metric("todo_worker_lag").await == 0.0).await;
    assert_eq!(worker.metric("todo_worker_commands_total").await, 200.0);
    assert_eq!(worker.metric("todo_worker_leases").await, f64::from(PARTITIONS));
    assert!(worker.metric("todo_worker_batch_commands_count").await >= f64::from(PARTITIONS));
    assert_eq!(worker.get("/ready").await.0, 200);
    worker.stop().await;
    assert_eq!(cluster.number("SELECT sum(next_offset)::bigint FROM partitions").await, 200);
}

#[tokio::test]
async fn two_workers_share_and_one_that_stops_gives_back_at_once() {
    let cluster = Cluster::new().await;
    let first = cluster.worker().await;
    first.waits_for(4).await;
    let second = cluster.worker().await;
    first.waits_for(2).await;
    second.waits_for(2).await;
    let mut appends = cluster.appends().await;
    appends.append(0, (0..300).map(|number| create(number, "a")));
    appends.outcomes(300).await;
    first.stop().await;
    // Whoever comes next waits for no lease to end.
    let free_or_taken = "SELECT count(*) FROM leases WHERE owner IS NULL OR owner = (SELECT worker FROM workers)";
    assert_eq!(cluster.number(free_or_taken).await, 4);
    second.waits_for(4).await;
    appends.append(300, (300..400).map(|number| create(number, "a")));
    appends.outcomes(100).await;
    eventually("everything is applied", async || cluster.todos().await == 400).await;
    assert_eq!(cluster.number("SELECT sum(next_offset)::bigint FROM partitions").await, 400);
}

#[tokio::test]
async fn a_killed_worker_is_taken_over_when_its_leases_end() {
    let cluster = Cluster::new().await;
    let mut first = cluster.worker().await;
    let second = cluster.worker().await;
    first.waits_for(2).await;
    second.waits_for(2).await;
    let mut appends = cluster.appends().await;
    // Killed in the middle of it.
    for ticket in 0..40 {
        appends.append(ticket, [create(ticket, "a")]);
    }
    first.process.kill().await.unwrap();
    appends.append(40, (40..400).map(|number| create(number, "a")));
    appends.outcomes(400).await;
    second.waits_for(4).await;
    eventually("everything is applied", async || cluster.todos().await == 400).await;
    assert_eq!(cluster.number("SELECT sum(next_offset)::bigint FROM partitions").await, 400);
    assert_eq!(cluster.number("SELECT count(DISTINCT (part, revision)) FROM todos").await, 400);
}

#[tokio::test]
async fn dead_letters_are_looked_at_and_written_after_all() {
    let cluster = Cluster::new().await;
    let worker = cluster.worker().await;
    // As if everything up to now were applied long since.
    cluster.execute("UPDATE partitions SET caught_up_at = store_now_ms()").await;
    worker.stop().await;
    let worker = cluster.worker().await;

    let late = ItemId::from_parts(now_ms() - 1_000 * HOUR_MS, 7);
    let part = partition_of(late, PARTITIONS).to_string();
    let mut appends = cluster.appends().await;
    let too_late: TodoCommand = command(late, Operation::Create(fields("Too late")));
    appends.append(0, [too_late]);
    appends.outcomes(1).await;
    append_bytes(&cluster.kafka, partition_of(late, PARTITIONS), b"\x01no record").await;
    eventually("both are kept aside", async || worker.metric("todo_worker_dead_letters_total").await == 2.0).await;

    let (well, said) = cluster.ask(&["dead-letters", "list"]).await;
    assert!(well && said.lines().count() == 2 && said.contains("too-old\t-\tcreate "), "{said}");
    let (well, said) = cluster.ask(&["dead-letters", "list", "--reason", "undecodable"]).await;
    assert!(well && said.lines().count() == 1, "{said}");
    let (well, said) = cluster.ask(&["dead-letters", "show", &part, "1"]).await;
    assert!(well && said.contains("\"Too late\"") && said.contains(&late.to_string()), "{said}");
    let (well, said) = cluster.ask(&["dead-letters", "replay", &part, "2"]).await;
    assert!(!well && said.contains("is undecodable: only those that are too-old"), "{said}");
    let (well, said) = cluster.ask(&["dead-letters", "show", &part, "77"]).await;
    assert!(!well && said.contains("there is no dead letter"), "{said}");

    let (well, said) = cluster.ask(&["dead-letters", "replay", &part, "1"]).await;
    assert!(well, "{said}");
    eventually("it is written", async || cluster.todos().await == 1).await;
    assert!(cluster.ask(&["dead-letters", "list"]).await.1.contains("too-old\treplayed\tcreate "));
    // Once more changes nothing.
    assert!(cluster.ask(&["dead-letters", "replay", &part, "1"]).await.0);
    let (well, said) = cluster.ask(&["dead-letters", "replay", "--all"]).await;
    assert!(well && said.starts_with("0 replayed"), "{said}");
    eventually("it is applied", async || worker.metric("todo_worker_nothing_total").await == 1.0).await;
    assert_eq!(cluster.todos().await, 1);
}

#[tokio::test]
async fn a_topic_made_anew_halts_until_it_is_adopted() {
    let mut cluster = Cluster::new().await;
    let worker = cluster.worker().await;
    let mut appends = cluster.appends().await;
    appends.append(0, (0..100).map(|number| create(number, "old")));
    appends.outcomes(100).await;
    eventually("everything is applied", async || cluster.todos().await == 100).await;
    worker.stop().await;
    let (well, said) = cluster.ask(&["adopt-topic", "--yes"]).await;
    assert!(well && said == "0 partitions adopted\n", "{said}");

    // Under another name nothing starts at all.
    let topic = std::mem::replace(&mut cluster.kafka.topic, settings(PARTITIONS).topic);
    let (well, said) = cluster.ask(&[]).await;
    assert!(!well && said.contains("adopt-topic"), "{said}");
    // Under the old name it cannot be told from a damaged one.
    cluster.execute(&format!("UPDATE store SET topic = '{}'", cluster.kafka.topic)).await;
    let mut appends = cluster.appends().await;
    appends.append(0, [create(100, "new")]);
    appends.outcomes(1).await;
    let worker = cluster.worker().await;
    eventually("it is halted", async || worker.metric("todo_worker_halted").await == f64::from(PARTITIONS)).await;
    let (status, ready) = worker.get("/ready").await;
    assert!(status == 503 && ready.contains("If the topic was made anew, adopt it"), "{ready}");
    worker.stop().await;

    let (well, said) = cluster.ask(&["adopt-topic"]).await;
    assert!(well && said.contains("4 partitions are not the ones that were applied; nothing was changed"), "{said}");
    let (well, said) = cluster.ask(&["adopt-topic", "--yes"]).await;
    assert!(well && said.contains("4 partitions adopted"), "{said}");
    let worker = cluster.worker().await;
    eventually("the new topic is applied", async || cluster.todos().await == 101).await;
    let positions = "SELECT sum(base + next_offset)::bigint FROM partitions";
    assert_eq!(cluster.number(positions).await, 101);
    assert_eq!(worker.get("/ready").await.0, 200);
    assert_ne!(cluster.kafka.topic, topic);
}

#[tokio::test]
async fn what_makes_no_sense_ends_with_a_sentence() {
    let cluster = Cluster::new().await;
    let ended = async |variable: &str, value: &str| {
        let output = cluster.command(&[]).env(variable, value).output().await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{variable}={value}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(ended("DATABASE_URL", "").await.contains("KAFKA_BROKERS is set but DATABASE_URL is not"));
    assert!(ended("KAFKA_BROKERS", "").await.contains("DATABASE_URL is set but KAFKA_BROKERS is not"));
    assert!(ended("LOG", "a=b=c").await.contains("LOG `a=b=c` is no filter"));
    let missing = cluster.home.url().replace("todo_test_", "todo_gone_");
    assert!(ended("DATABASE_URL", &missing).await.contains("make it with `createdb`"));
    cluster.worker().await.stop().await;
    assert!(ended("KAFKA_PARTITIONS", "5").await.contains("the store has 4 partitions, but KAFKA_PARTITIONS is 5"));
}

#[tokio::test]
async fn postgres_that_is_away_is_waited_for() {
    let cluster = Cluster::new().await;
    let mut command = cluster.command(&[]);
    command.env("DATABASE_URL", "postgres://app:hidden@127.0.0.1:1/todos");
    let mut worker = Worker::spawn(command).await;
    let line = next_line(&mut worker.lines, "waiting for the store").await;
    assert!(line.contains("127.0.0.1:1/todos is away") && !line.contains("hidden"), "{line}");
    let (status, ready) = worker.get("/ready").await;
    assert!(status == 503 && ready.contains("127.0.0.1:1/todos is away"), "{ready}");
    assert_eq!(worker.get("/health").await.0, 200);
    worker.stop().await;
}

/// Puts bytes into a partition past our own code.
async fn append_bytes(kafka: &KafkaSettings, part: u32, bytes: &[u8]) {
    let client = ClientBuilder::new(kafka.brokers.clone()).build().await.unwrap();
    let part = i32::try_from(part).unwrap();
    let partition = client.partition_client(&kafka.topic, part, UnknownTopicHandling::Error).await.unwrap();
    let record = KafkaRecord {
        key: None,
        value: Some(bytes.to_vec()),
        headers: Default::default(),
        timestamp: DateTime::UNIX_EPOCH,
    };
    partition.produce(vec![record], Compression::NoCompression).await.unwrap();
}
