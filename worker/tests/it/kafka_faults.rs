//! What becomes of commands when a broker dies, freezes, loses its answers, or slows its clients down.

use std::collections::HashMap;
use std::time::Duration;

use todo_proto::command::Operation;
use todo_proto::fold::Entry;
use todo_proto::limits::RECORD_BYTES_MAX;
use todo_worker::kafka::{Kafka, KafkaLog};
use todo_worker::limits::APPEND_TIMEOUT;
use todo_worker::traits::{CommandLog, LogError, NotAppended, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep};

use crate::broker::{Appends, OwnBroker, PATIENCE, PRODUCER, read_all, topic_at};
use crate::proxy::Network;
use crate::support::create;

const REFUSED: Outcome = Outcome::NotAppended(NotAppended::Unavailable);
const PARTITIONS: u32 = 3;

/// One after the other, since each needs the only broker and a broker costs seconds.
#[tokio::test]
async fn a_broker_may_fail_in_every_way() {
    let mut broker = OwnBroker::start().await;
    loses_answers(&broker).await;
    freezes(&broker).await;
    dies(&mut broker).await;
    holds_a_transaction(&broker).await;
}

/// A topic, its appender, and what became of each ticket so far.
struct History {
    kafka: Kafka,
    appends: Appends,
    next_ticket: u32,
    outcomes: HashMap<u32, Outcome>,
}

impl History {
    async fn begin(broker: &OwnBroker) -> Self {
        let kafka = Kafka::new(&topic_at(&broker.brokers(), PARTITIONS)).unwrap();
        let appends = Appends::start(&kafka).await;
        let mut history = Self { kafka, appends, next_ticket: 0, outcomes: HashMap::new() };
        history.append_until_acknowledged().await;
        history
    }

    /// Appends a group and waits for what becomes of it, which may not take long.
    async fn append(&mut self, count: u32) -> Vec<Outcome> {
        let first = self.next_ticket;
        self.next_ticket += count;
        let begun = Instant::now();
        self.appends.append(first, (first..first + count).map(|ticket| create(ticket, &ticket.to_string())));
        let outcomes = self.appends.outcomes(count as usize).await;
        assert!(begun.elapsed() < 2 * APPEND_TIMEOUT, "an answer took {:?}", begun.elapsed());
        self.outcomes.extend(outcomes.iter().copied());
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    /// So many that every partition has some.
    async fn append_until_acknowledged(&mut self) {
        let begun = Instant::now();
        while self.append(50).await != [Outcome::Acknowledged; 50] {
            assert!(begun.elapsed() < PATIENCE, "writes are not taken again");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Each command that was acknowledged has one effect, each of unknown outcome one or none, each other none; and within a
    /// partition in the order in which they were appended.
    async fn check(&self) {
        let mut effects = HashMap::new();
        for part in 0..PARTITIONS {
            let mut last = None;
            for ticket in tickets_with_effect(&read_all(&self.kafka, part).await) {
                assert!(last < Some(ticket), "{ticket} stands behind {last:?}");
                last = Some(ticket);
                *effects.entry(ticket).or_insert(0) += 1;
            }
        }
        for (ticket, outcome) in &self.outcomes {
            let effects = effects.get(ticket).copied().unwrap_or(0);
            let right = match outcome {
                Outcome::Acknowledged => effects == 1,
                Outcome::Unknown => effects <= 1,
                Outcome::NotAppended(_) => effects == 0,
            };
            assert!(right, "{ticket}: {outcome:?} and {effects} effects");
        }
        assert_eq!(self.outcomes.len(), self.next_ticket as usize);
    }
}

/// As whoever applies the log sees it: without what is not above the last number of its producer.
fn tickets_with_effect(entries: &[Entry]) -> Vec<u32> {
    let mut last_number = 0;
    let mut tickets = Vec::new();
    for entry in entries {
        let record = entry.record.as_ref().unwrap();
        assert_eq!(record.producer, PRODUCER);
        if record.number > last_number {
            last_number = record.number;
            let Operation::Create(fields) = &record.command.operation else { panic!("only creates are appended") };
            tickets.push(fields.title.parse().unwrap());
        }
    }
    tickets
}

async fn loses_answers(broker: &OwnBroker) {
    let mut history = History::begin(broker).await;
    broker.proxy.set(Network::SwallowsAnswers);
    assert_eq!(history.append(30).await, vec![Outcome::Unknown; 30]);
    // At once, however often.
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(history.append(3).await, vec![REFUSED; 3]);
    }
    assert!(begun.elapsed() < APPEND_TIMEOUT, "{:?}", begun.elapsed());
    assert_eq!(history.appends.appender.away().unwrap().partitions_count, PARTITIONS as usize);
    broker.proxy.set(Network::Works);
    broker.proxy.cut();
    history.append_until_acknowledged().await;
    history.appends.wait_for_all().await;
    history.check().await;
    let written: usize = history.outcomes.values().filter(|outcome| **outcome != REFUSED).count();
    let mut records = 0;
    for part in 0..PARTITIONS {
        records += tickets_with_effect(&read_all(&history.kafka, part).await).len();
    }
    assert_eq!(records, written, "what nobody heard of was written all the same");
}

async fn freezes(broker: &OwnBroker) {
    let mut history = History::begin(broker).await;
    broker.freeze();
    assert_eq!(history.append(30).await, vec![Outcome::Unknown; 30]);
    assert_eq!(history.append(30).await, vec![REFUSED; 30]);
    broker.thaw();
    history.append_until_acknowledged().await;
    history.check().await;
}

async fn dies(broker: &mut OwnBroker) {
    let mut history = History::begin(broker).await;
    // A reader that stays.
    let mut log = KafkaLog::new(history.kafka.clone(), 0);
    log.seek(0).await.unwrap();
    let (entry_sender, mut entries) = mpsc::unbounded_channel();
    let reader = tokio::spawn(async move {
        let mut pause = interval(Duration::from_millis(100));
        loop {
            match log.fetch().await {
                Ok(fetched) => fetched.unwrap().into_iter().for_each(|entry| entry_sender.send(entry).unwrap()),
                Err(LogError::Unavailable(_)) => drop(pause.tick().await),
                Err(error) => panic!("{error}"),
            }
        }
    });

    // Writes go on while it dies.
    let mut refused = 0;
    for round in 0..200 {
        if round == 100 {
            broker.kill();
        }
        refused += u32::from(history.append(5).await != [Outcome::Acknowledged; 5]);
        if refused == 20 {
            break;
        }
    }
    assert_eq!(refused, 20, "a dead broker takes writes");
    broker.restart();
    history.append_until_acknowledged().await;
    history.appends.wait_for_all().await;
    for _ in 0..20 {
        assert_eq!(history.append(5).await, [Outcome::Acknowledged; 5]);
    }
    history.check().await;

    let expected = read_all(&history.kafka, 0).await;
    let mut read = Vec::new();
    while read.len() < expected.len() {
        read.push(entries.recv().await.expect("the reader goes on"));
    }
    reader.abort();
    assert_eq!(read, expected);
}

/// Its marks cannot be read, and to skip them would be to skip what is not known.
async fn holds_a_transaction(broker: &OwnBroker) {
    let settings = topic_at(&broker.brokers(), 1);
    let kafka = Kafka::new(&settings).unwrap();
    kafka.check().await.unwrap();
    let payload = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(payload.path(), "\u{1}foreign\n").unwrap();
    let [payload, servers] = [payload.path().to_str().unwrap(), &format!("bootstrap.servers={}", broker.brokers())];
    let words = ["--topic", &settings.topic, "--num-records", "3", "--throughput", "-1", "--payload-file", payload];
    let transaction =
        ["--transactional-id", "foreign", "--transaction-duration-ms", "60000", "--producer-props", servers];
    broker.tool("org.apache.kafka.tools.ProducerPerformance", &[&words[..], &transaction].concat()).await;

    let mut log = KafkaLog::new(kafka, 0);
    for offset in [0, 3] {
        log.seek(offset).await.unwrap();
        let Err(LogError::Halted(why)) = log.fetch().await else { panic!("not halted") };
        assert!(why.contains(&format!("offset {offset}")) && why.contains("transaction"), "{why}");
    }
}

/// A broker with a produce quota appends a batch, then answers with a pause. The client library looks at the pause first
/// and sends the same batch again, for as long as it is let. So there must be no quota for us; where there is one all the
/// same, a command is unknown and its copies have one number.
#[tokio::test]
async fn a_quota_makes_copies_with_one_number() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let settings = topic_at(&format!("127.0.0.1:{port}"), 1);
    let (batch_sender, mut batches) = mpsc::unbounded_channel();
    let topic = settings.topic.clone();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(serve_with_quota(client, port, topic.clone(), batch_sender.clone()));
        }
    });
    let kafka = Kafka::new(&settings).unwrap();
    let mut appends = Appends::start(&kafka).await;
    let begun = Instant::now();
    assert_eq!(appends.outcome_of(0, create(0, "copied")).await, Outcome::Unknown);
    assert!(begun.elapsed() < 2 * APPEND_TIMEOUT);
    let first: Vec<u8> = batches.recv().await.unwrap();
    assert_eq!(batches.recv().await, Some(first), "the copy is the same");
}

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;
const UNSUPPORTED_VERSION: i16 = 35;
const PAUSE_MS: i32 = 100;

/// Answers as a broker with one topic of one partition whose clients are over their quota.
async fn serve_with_quota(mut client: TcpStream, port: u16, topic: String, batches: mpsc::UnboundedSender<Vec<u8>>) {
    loop {
        // The client goes when it likes.
        let Ok(length) = client.read_u32().await else { return };
        assert!(length as usize <= 2 * RECORD_BYTES_MAX, "a request of {length} bytes");
        let mut request = vec![0; length as usize];
        client.read_exact(&mut request).await.unwrap();
        let number = |at: usize| i16::from_be_bytes([request[at], request[at + 1]]);
        let mut answer = Answer(request[4..8].to_vec());
        match (number(0), number(2)) {
            (API_VERSIONS, 0) => {
                answer.i16(0).i32(3);
                for (key, version) in [(PRODUCE, 3), (METADATA, 1), (API_VERSIONS, 0)] {
                    answer.i16(key).i16(version).i16(version);
                }
            }
            (API_VERSIONS, _) => drop(answer.i16(UNSUPPORTED_VERSION).i32(0)),
            (METADATA, 1) => {
                let (node, no_rack, no_error, not_internal) = (1, -1, 0, 0);
                answer.i32(1).i32(node).text("127.0.0.1").i32(port.into()).i16(no_rack).i32(node);
                answer.i32(1).i16(no_error).text(&topic).byte(not_internal);
                answer.i32(1).i16(no_error).i32(0).i32(node).i32(1).i32(node).i32(1).i32(node);
            }
            (PRODUCE, 3) => {
                let (no_error, offset, no_time) = (0, 0, -1);
                answer.i32(1).text(&topic).i32(1).i32(0).i16(no_error).i64(offset).i64(no_time).i32(PAUSE_MS);
                // Behind the number of the request, which is new each time. The test may have heard enough.
                let _ = batches.send(request[8..].to_vec());
            }
            (key, version) => panic!("request {key} of version {version}"),
        }
        client.write_u32(answer.0.len().try_into().unwrap()).await.unwrap();
        client.write_all(&answer.0).await.unwrap();
    }
}

/// An answer in Kafka's words, big-endian.
struct Answer(Vec<u8>);

impl Answer {
    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn byte(&mut self, byte: u8) -> &mut Self {
        self.put(&[byte])
    }

    fn i16(&mut self, number: i16) -> &mut Self {
        self.put(&number.to_be_bytes())
    }

    fn i32(&mut self, number: i32) -> &mut Self {
        self.put(&number.to_be_bytes())
    }

    fn i64(&mut self, number: i64) -> &mut Self {
        self.put(&number.to_be_bytes())
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.i16(text.len().try_into().unwrap()).put(text.as_bytes())
    }
}
