//! Topics of their own in the real Kafka, and a broker that one test has for itself, behind a proxy.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use tempfile::TempDir;
use todo_proto::command::TodoCommand;
use todo_worker::kafka::{Appender, Appending, Kafka, KafkaLog, append};
use todo_worker::settings::KafkaSettings;
use todo_worker::traits::{CommandLog, Outcome};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::database::service;
use crate::proxy::Proxy;

/// Who appends in these tests.
pub const PRODUCER: [u8; 16] = [7; 16];
/// After this a test gives up what it waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A topic of its own in the shared broker; nobody has made it yet.
pub fn settings(partitions: u32) -> KafkaSettings {
    topic_at(&service("KAFKA_BROKERS"), partitions)
}

/// A topic of its own at `brokers`; nobody has made it yet.
pub fn topic_at(brokers: &str, partitions: u32) -> KafkaSettings {
    KafkaSettings {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        topic: format!("todo-test-{:016x}", fastrand::u64(..)),
        partitions,
        tls: None,
        sasl: None,
    }
}

/// An appender and where its outcomes come out. A ticket is the number of its command.
pub struct Appends {
    pub appender: Appender<u32>,
    appending: Appending<u32>,
    outcomes: mpsc::UnboundedReceiver<Vec<(u32, Outcome)>>,
}

impl Appends {
    /// Returns when every partition takes writes.
    pub async fn start(kafka: &Kafka) -> Self {
        let appends = Self::start_at(kafka, kafka.partitions_count());
        appends.wait_for_all().await;
        appends
    }

    /// A producer that nobody has heard of: another start of a process.
    pub async fn start_anew(kafka: &Kafka) -> Self {
        let appends = Self::start_as(kafka, kafka.partitions_count(), fastrand::u128(..).to_le_bytes());
        appends.wait_for_all().await;
        appends
    }

    pub fn start_at(broker: &impl append::Broker, partitions: u32) -> Self {
        Self::start_as(broker, partitions, PRODUCER)
    }

    fn start_as(broker: &impl append::Broker, partitions: u32, producer: [u8; 16]) -> Self {
        let (outcome_sender, outcomes) = mpsc::unbounded_channel();
        // A test may end before all is settled.
        let sink = Box::new(move |settled| drop(outcome_sender.send(settled)));
        let (appender, appending) = append::start(broker, partitions, producer, sink);
        Self { appender, appending, outcomes }
    }

    pub async fn wait_for_all(&self) {
        eventually("every partition takes writes", async || self.appender.away().is_none()).await;
    }

    /// Appends one group whose tickets begin at `first`.
    pub fn append(&self, first: u32, commands: impl IntoIterator<Item = TodoCommand>) {
        let group = commands.into_iter().zip(first..).collect();
        self.appender.try_append(group).map_err(|(error, _)| error).unwrap();
    }

    /// Takes nothing new, and returns every outcome that has not been taken, in the order of tickets.
    pub async fn finish(mut self) -> Vec<(u32, Outcome)> {
        self.appending.finish().await;
        let mut settled = Vec::new();
        while let Ok(more) = self.outcomes.try_recv() {
            settled.extend(more);
        }
        settled.sort_by_key(|(ticket, _)| *ticket);
        settled
    }

    /// The next `count` outcomes, in the order of tickets.
    pub async fn outcomes(&mut self, count: usize) -> Vec<(u32, Outcome)> {
        let mut settled = Vec::new();
        while settled.len() < count {
            let more = timeout(PATIENCE, self.outcomes.recv()).await;
            settled.extend(more.unwrap_or_else(|_| panic!("{} of {count} outcomes", settled.len())).unwrap());
        }
        assert_eq!(settled.len(), count);
        settled.sort_by_key(|(ticket, _)| *ticket);
        settled
    }

    /// Appends one command and returns what became of it.
    pub async fn outcome_of(&mut self, ticket: u32, command: TodoCommand) -> Outcome {
        self.append(ticket, [command]);
        self.outcomes(1).await[0].1
    }
}

/// All there is in a partition.
pub async fn read_all(kafka: &Kafka, part: u32) -> Vec<todo_proto::fold::Entry> {
    let mut log = KafkaLog::new(kafka.clone(), part);
    let end = log.extent().await.unwrap().end;
    log.seek(0).await.unwrap();
    let mut entries = Vec::new();
    while (entries.len() as u64) < end {
        entries.extend(log.fetch().await.unwrap().unwrap());
    }
    entries
}

/// Asks until it is so.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Returns when all threads of the process stand still.
pub fn freeze(process: &Child) {
    let pid = Pid::from_child(process);
    kill_process(pid, Signal::STOP).unwrap();
    let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
    assert!(status.stopped(), "{status:?}");
}

pub fn thaw(process: &Child) {
    kill_process(Pid::from_child(process), Signal::CONT).unwrap();
}

/// A broker that one test may kill. Clients reach it through the proxy only, and it ends with the value.
pub struct OwnBroker {
    pub proxy: Proxy,
    folder: TempDir,
    process: Child,
}

impl OwnBroker {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [port, controller_port] = [free_port().await, free_port().await];
        let proxy = Proxy::new(format!("127.0.0.1:{port}")).await;
        let properties = PROPERTIES
            .replace("CONTROLLER_PORT", &controller_port.to_string())
            .replace("PROXY_PORT", &proxy.port.to_string())
            .replace("PORT", &port.to_string());
        std::fs::write(folder.path().join("server.properties"), properties).unwrap();
        std::fs::write(folder.path().join("log4j2.xml"), LOGGING).unwrap();
        let format = ["format", "-t", CLUSTER, "-c", "server.properties", "--standalone"];
        let formatted = java(folder.path(), "kafka.tools.StorageTool", &format).status().unwrap();
        assert!(formatted.success(), "the folder cannot be formatted");
        let process = Self::spawn(folder.path());
        let broker = Self { proxy, folder, process };
        broker.wait_until_up().await;
        broker
    }

    /// Where clients find it.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port)
    }

    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        self.process = Self::spawn(self.folder.path());
    }

    pub async fn wait_until_up(&self) {
        let kafka = Kafka::new(&topic_at(&self.brokers(), 1)).unwrap();
        eventually("the broker answers", async || kafka.check().await.is_ok()).await;
    }

    /// Nothing moves in it, and the kernel answers for it.
    pub fn freeze(&self) {
        freeze(&self.process);
    }

    pub fn thaw(&self) {
        thaw(&self.process);
    }

    /// Runs one of Kafka's own tools, through the proxy too, which runs on this thread.
    pub async fn tool(&self, class: &str, words: &[&str]) {
        let mut tool = java(self.folder.path(), class, words);
        let status = tokio::task::spawn_blocking(move || tool.status()).await.unwrap().unwrap();
        assert!(status.success(), "{class} {words:?}");
    }

    fn spawn(folder: &Path) -> Child {
        java(folder, "kafka.Kafka", &["server.properties"]).spawn().unwrap()
    }
}

impl Drop for OwnBroker {
    fn drop(&mut self) {
        self.kill();
    }
}

const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";
const LOGGING: &str = r#"<Configuration>
  <Appenders><Console name="out"/></Appenders>
  <Loggers><Root level="error"><AppenderRef ref="out"/></Root></Loggers>
</Configuration>"#;
const PROPERTIES: &str = "process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:CONTROLLER_PORT
listeners=PLAINTEXT://127.0.0.1:PORT,CONTROLLER://127.0.0.1:CONTROLLER_PORT
advertised.listeners=PLAINTEXT://127.0.0.1:PROXY_PORT
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=data
auto.create.topics.enable=false
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
";

fn java(folder: &Path, class: &str, words: &[&str]) -> Command {
    let mut java = Command::new("java");
    java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dlog4j2.configurationFile=log4j2.xml"]);
    java.arg("-cp").arg(Path::new(&service("TEST_KAFKA_ARCHIVES")).join("*"));
    java.arg(class).args(words).current_dir(folder).stdout(Stdio::null());
    java
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}
