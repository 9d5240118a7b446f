//! Commands into the real Kafka and out of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rskafka::chrono::DateTime;
use rskafka::client::ClientBuilder;
use rskafka::client::partition::{Compression, PartitionClient, UnknownTopicHandling};
use rskafka::record::Record as KafkaRecord;
use todo_proto::command::{Operation, Record, TodoCommand};
use todo_proto::id::ItemId;
use todo_proto::partition::partition_of;
use todo_proto::todo::TodoPatch;
use todo_worker::channel::AppendError;
use todo_worker::kafka::append::{self, Broker};
use todo_worker::kafka::connect::{Keyed, Partition};
use todo_worker::kafka::{Kafka, KafkaError, KafkaLog};
use todo_worker::limits::{APPEND_TIMEOUT, FETCH_PACE, KAFKA_OPEN_TIMEOUT, PARTITION_QUEUE_BYTES_MAX};
use todo_worker::settings::{KafkaSettings, Sasl, SaslMechanism, TlsSettings};
use todo_worker::traits::{CommandLog, LogError, NotAppended, Outcome};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, timeout};

use crate::broker::{Appends, PRODUCER, eventually, read_all, settings};
use crate::database::service;
use crate::support::{acknowledged, command, create, id, large};

const REFUSED: Outcome = Outcome::NotAppended(NotAppended::Unavailable);

/// The `step`-th change of the `todo`-th todo.
fn step(todo: u32, step: u32) -> TodoCommand {
    let patch = TodoPatch { title: Some(format!("step {step}")), ..TodoPatch::default() };
    command(id(todo), Operation::Patch(patch))
}

#[tokio::test]
async fn commands_stand_in_their_partition_in_order() {
    let kafka = Kafka::new(&settings(3)).unwrap();
    let mut appends = Appends::start(&kafka).await;
    let mut ticket = 0;
    for number in 0..20 {
        // Some are larger than a batch.
        let large = large(1_000 + number);
        appends.append(ticket, (0..50).map(|todo| step(todo, number)).chain([large]));
        ticket += 51;
    }
    assert_eq!(appends.outcomes(ticket as usize).await, acknowledged(0..ticket));
    assert_eq!((appends.appender.waiting_count(), appends.appender.waiting_bytes()), (0, 0));

    let mut last_steps: HashMap<ItemId, u32> = HashMap::new();
    let mut read = 0;
    for part in 0..3 {
        let mut numbers = 1..;
        for (entry, offset) in read_all(&kafka, part).await.into_iter().zip(0..) {
            let Record { producer, number, command } = entry.record.unwrap();
            assert_eq!((entry.offset, producer, Some(number)), (offset, PRODUCER, numbers.next()));
            assert_eq!(partition_of(command.id, 3), part);
            if let Operation::Patch(patch) = command.operation {
                let next = last_steps.entry(command.id).or_default();
                assert_eq!(patch.title, Some(format!("step {next}")), "{}", command.id);
                *next += 1;
            }
            read += 1;
        }
    }
    assert_eq!(read, ticket);
    assert!(last_steps.len() == 50 && last_steps.values().all(|steps| *steps == 20), "{last_steps:?}");
}

#[tokio::test]
async fn what_waits_is_appended_at_the_end_and_nothing_after() {
    let kafka = Kafka::new(&settings(2)).unwrap();
    let appends = Appends::start(&kafka).await;
    appends.append(0, (0..200).map(|number| create(number, "last")));
    let appender = appends.appender.clone();
    assert_eq!(appends.finish().await, acknowledged(0..200));
    let (refusal, group) = appender.try_append(vec![(create(200, "too late"), 200)]).unwrap_err();
    assert_eq!((refusal, group.len()), (AppendError::Closed, 1));
}

/// Kafka, except for one partition.
#[derive(Clone)]
struct OneAway {
    kafka: Kafka,
    part: u32,
}

impl Broker for OneAway {
    type Partition = Partition;

    async fn open(&self, part: u32) -> Result<Partition, KafkaError> {
        if part == self.part {
            Err(KafkaError::Away("its leader has gone".to_owned()))
        } else {
            self.kafka.open(part).await
        }
    }
}

#[tokio::test]
async fn a_partition_that_is_away_refuses_nobody_else() {
    let kafka = Kafka::new(&settings(4)).unwrap();
    let mut appends = Appends::start_at(&OneAway { kafka, part: 2 }, 4);
    let away = async || appends.appender.away();
    eventually("only one is away", async || away().await.is_some_and(|away| away.partitions_count == 1)).await;
    assert_eq!(away().await.unwrap().why, "Kafka is away: its leader has gone");
    appends.append(0, (0..100).map(|number| create(number, "some")));
    for (ticket, outcome) in appends.outcomes(100).await {
        let expected = if partition_of(id(ticket), 4) == 2 { REFUSED } else { Outcome::Acknowledged };
        assert_eq!(outcome, expected, "{ticket}");
    }
    assert_eq!(appends.appender.waiting_bytes(), 0);
}

/// Kafka that appends, and says so later, with a sign of what it was asked.
#[derive(Clone)]
struct Late {
    kafka: Kafka,
    /// How many records each batch had.
    batches: UnboundedSender<usize>,
    /// How late the batch of each number is.
    by: fn(u32) -> Duration,
    batches_count: Arc<AtomicU32>,
}

struct LatePartition {
    partition: Partition,
    broker: Late,
}

impl Late {
    fn new(kafka: &Kafka, by: fn(u32) -> Duration) -> (Self, UnboundedReceiver<usize>) {
        let (batches, receiver) = unbounded_channel();
        (Self { kafka: kafka.clone(), batches, by, batches_count: Arc::default() }, receiver)
    }
}

impl Broker for Late {
    type Partition = LatePartition;

    async fn open(&self, part: u32) -> Result<LatePartition, KafkaError> {
        Ok(LatePartition { partition: self.kafka.open(part).await?, broker: self.clone() })
    }
}

impl append::Appends for LatePartition {
    async fn append(&mut self, records: Vec<Keyed>) -> Result<(), KafkaError> {
        self.broker.batches.send(records.len()).unwrap();
        self.partition.append(records).await?;
        sleep((self.broker.by)(self.broker.batches_count.fetch_add(1, Ordering::SeqCst))).await;
        Ok(())
    }
}

#[tokio::test]
async fn a_queue_is_bounded_and_who_waited_too_long_is_not_sent() {
    let kafka = Kafka::new(&settings(1)).unwrap();
    let (slow, mut batches) = Late::new(&kafka, |_| APPEND_TIMEOUT.mul_f64(0.6));
    let mut appends = Appends::start_at(&slow, 1);
    appends.wait_for_all().await;
    let commands_max = PARTITION_QUEUE_BYTES_MAX / large(0).memory_bytes();
    let [fit, all] = [commands_max, commands_max + 5].map(|count| u32::try_from(count).unwrap());
    appends.append(0, (0..all).map(large));
    let mut expected: Vec<_> = (fit..all).map(|ticket| (ticket, REFUSED)).collect();
    assert_eq!(appends.outcomes(5).await, expected, "more than fit, and at once");
    assert_eq!(batches.recv().await, Some(1));

    // The second waits for the first, and the third for both, which is too long.
    expected = (0..fit).map(|ticket| (ticket, if ticket < 2 { Outcome::Acknowledged } else { REFUSED })).collect();
    assert_eq!(appends.outcomes(commands_max).await, expected);
    assert_eq!((batches.recv().await, batches.try_recv().ok()), (Some(1), None));
    assert_eq!(appends.appender.waiting_bytes(), 0);
    assert_eq!(read_all(&kafka, 0).await.len(), 2);
}

#[tokio::test]
async fn after_an_unknown_batch_one_command_is_tried_alone() {
    let kafka = Kafka::new(&settings(1)).unwrap();
    let (silent, mut batches) =
        Late::new(&kafka, |batch| if batch == 0 { 10 * APPEND_TIMEOUT } else { Duration::ZERO });
    let mut appends = Appends::start_at(&silent, 1);
    appends.wait_for_all().await;
    appends.append(0, [create(0, "not answered")]);
    assert_eq!(batches.recv().await, Some(1));
    // Behind a batch in flight: they wait, and are not sent.
    appends.append(1, [create(1, "waits"), create(2, "waits")]);
    let expected = [(0, Outcome::Unknown), (1, REFUSED), (2, REFUSED)];
    assert_eq!(appends.outcomes(3).await, expected);

    eventually("a probe is let in", async || {
        appends.append(3, [create(3, "probe")]);
        appends.outcomes(1).await[0].1 == Outcome::Acknowledged
    })
    .await;
    assert_eq!(batches.recv().await, Some(1));
    appends.append(4, (4..10).map(|number| create(number, "all")));
    assert_eq!(appends.outcomes(6).await, acknowledged(4..10));
    assert!(appends.appender.away().is_none());

    // The one without an answer is there all the same, and the numbers of those that were not sent are not used for others.
    let titles = read_all(&kafka, 0).await.into_iter().map(|entry| {
        let record = entry.record.unwrap();
        let Operation::Create(fields) = record.command.operation else { panic!("only creates were appended") };
        (record.number, fields.title)
    });
    let titles: Vec<(u64, String)> = titles.collect();
    assert!(titles.is_sorted_by(|before, after| before.0 < after.0), "{titles:?}");
    let texts: Vec<&str> = titles.iter().map(|(_, title)| title.as_str()).collect();
    assert_eq!(texts, ["not answered", "probe", "all", "all", "all", "all", "all", "all"]);
}

#[tokio::test]
async fn a_topic_of_another_size_is_named_and_refused() {
    let three = settings(3);
    Kafka::new(&three).unwrap().check().await.unwrap();
    let kafka = Kafka::new(&KafkaSettings { partitions: 5, ..three.clone() }).unwrap();
    let expected = KafkaError::PartitionCount { topic: three.topic, found: 3, configured: 5 };
    assert_eq!(kafka.check().await, Err(expected.clone()));
    let Err(LogError::Halted(why)) = KafkaLog::new(kafka.clone(), 0).extent().await else { panic!("not halted") };
    assert_eq!(why, expected.to_string());

    let mut appends = Appends::start_at(&kafka, 5);
    let away = async || appends.appender.away().unwrap();
    eventually("the appender says it", async || away().await.why == expected.to_string()).await;
    assert_eq!(appends.outcome_of(0, create(0, "nowhere")).await, REFUSED);
}

#[tokio::test]
async fn nobody_at_the_port_is_said_within_the_limit() {
    let closed = KafkaSettings { brokers: vec!["127.0.0.1:1".to_owned()], ..settings(1) };
    let kafka = Kafka::new(&closed).unwrap();
    let mut log = KafkaLog::new(kafka.clone(), 0);
    let answer = timeout(KAFKA_OPEN_TIMEOUT + Duration::from_secs(1), log.extent()).await;
    let Err(LogError::Unavailable(why)) = answer.unwrap() else { panic!("somebody answers") };
    assert!(why.contains("Connection refused"), "{why}");
    let mut appends = Appends::start_at(&kafka, 1);
    assert_eq!(appends.outcome_of(0, create(0, "nowhere")).await, REFUSED);
}

/// One partition of a topic past our own code.
async fn raw(settings: &KafkaSettings) -> PartitionClient {
    let client = ClientBuilder::new(settings.brokers.clone()).build().await.unwrap();
    client.partition_client(&settings.topic, 0, UnknownTopicHandling::Error).await.unwrap()
}

/// A topic of one partition: for the log, and past our own code.
async fn one_partition() -> (Kafka, PartitionClient) {
    let settings = settings(1);
    let kafka = Kafka::new(&settings).unwrap();
    kafka.check().await.unwrap();
    let raw = raw(&settings).await;
    (kafka, raw)
}

async fn produce(raw: &PartitionClient, values: impl IntoIterator<Item = Option<Vec<u8>>>) {
    let record = |value| KafkaRecord {
        key: None,
        value,
        headers: BTreeMap::new(),
        timestamp: DateTime::from_timestamp_millis(1_700_000_000_000).unwrap(),
    };
    raw.produce(values.into_iter().map(record).collect(), Compression::NoCompression).await.unwrap();
}

#[tokio::test]
async fn bytes_that_are_no_record_are_kept_and_a_later_format_halts() {
    let settings = settings(1);
    let kafka = Kafka::new(&settings).unwrap();
    kafka.check().await.unwrap();
    let good = Record { producer: PRODUCER, number: 1, command: create(0, "good") };
    let mut later = good.encode();
    later[0] = 9;
    produce(&raw(&settings).await, [Some(b"\x01garbage".to_vec()), None, Some(good.encode()), Some(later)]).await;

    let mut log = KafkaLog::new(kafka, 0);
    log.seek(0).await.unwrap();
    let entries = log.fetch().await.unwrap().unwrap();
    let records: Vec<_> = entries.into_iter().map(|entry| entry.record).collect();
    assert_eq!(records, [Err(b"\x01garbage".to_vec().into()), Err(Vec::new().into()), Ok(good)]);
    for _ in 0..2 {
        let Err(LogError::Halted(why)) = log.fetch().await else { panic!("not halted") };
        assert!(why.contains("offset 3 of partition 0 has a record of format 9"), "{why}");
    }
}

#[tokio::test]
async fn offsets_that_are_not_there_halt() {
    let (kafka, raw) = one_partition().await;
    produce(&raw, (0..10).map(|_| Some(vec![1]))).await;
    raw.delete_records(4, 5_000).await.unwrap();

    let mut log = KafkaLog::new(kafka, 0);
    let extent = log.extent().await.unwrap();
    assert_eq!((extent.earliest, extent.end), (4, 10));
    for offset in [3, 11] {
        log.seek(offset).await.unwrap();
        let Err(LogError::Halted(why)) = log.fetch().await else { panic!("not halted at {offset}") };
        assert!(why.contains(&format!("does not have offset {offset}")) && why.contains("adopt"), "{why}");
    }
    log.seek(4).await.unwrap();
    assert_eq!(log.fetch().await.unwrap().unwrap().len(), 6);
}

#[tokio::test]
async fn batches_of_a_busy_partition_begin_apart() {
    let (kafka, raw) = one_partition().await;
    produce(&raw, (0..10).map(|_| Some(vec![1]))).await;
    let mut log = KafkaLog::new(kafka, 0);
    log.seek(0).await.unwrap();
    assert_eq!(log.fetch().await.unwrap().unwrap().len(), 10);
    let fetched = Instant::now();
    produce(&raw, (0..2).map(|_| Some(vec![1]))).await;
    assert_eq!(log.fetch().await.unwrap().unwrap().len(), 2);
    // The pace counts from a moment before `fetched`.
    assert!(fetched.elapsed() >= FETCH_PACE * 9 / 10, "{:?}", fetched.elapsed());
}

#[tokio::test]
async fn a_fetch_that_was_dropped_loses_nothing() {
    let (kafka, raw) = one_partition().await;
    let mut log = KafkaLog::new(kafka, 0);
    log.seek(0).await.unwrap();
    let mut next_offset = 0;
    for round in 0..20_u64 {
        produce(&raw, [Some(vec![1])]).await;
        // Sometimes before it is sent, sometimes while it waits, sometimes after the answer.
        if let Ok(fetched) = timeout(Duration::from_micros(round * 500), log.fetch()).await {
            for entry in fetched.unwrap().unwrap() {
                assert_eq!(entry.offset, next_offset);
                next_offset += 1;
            }
        }
    }
    while next_offset < 20 {
        for entry in log.fetch().await.unwrap().unwrap() {
            assert_eq!(entry.offset, next_offset);
            next_offset += 1;
        }
    }
    log.close();
    assert_eq!(log.fetch().await, Ok(None));
}

fn secured(mechanism: SaslMechanism, password: &str) -> KafkaSettings {
    KafkaSettings {
        brokers: vec![service("TEST_KAFKA_SASL_BROKERS")],
        tls: Some(TlsSettings { ca_file: Some(service("TEST_CA_FILE").into()) }),
        sasl: Some(Sasl { mechanism, username: service("TEST_KAFKA_USERNAME"), password: password.parse().unwrap() }),
        ..settings(1)
    }
}

#[tokio::test]
async fn secured_listeners_take_every_login_and_no_wrong_one() {
    for mechanism in [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512] {
        let kafka = Kafka::new(&secured(mechanism, &service("TEST_KAFKA_PASSWORD"))).unwrap();
        let mut appends = Appends::start(&kafka).await;
        appends.append(0, (0..20).map(|number| create(number, "secret")));
        assert_eq!(appends.outcomes(20).await, acknowledged(0..20));
        assert_eq!(read_all(&kafka, 0).await.len(), 20);
    }
    let guessed = Kafka::new(&secured(SaslMechanism::Plain, "guessed")).unwrap();
    let refused = guessed.check().await.expect_err("any password is taken");
    assert!(refused.is_refused_login() && !refused.to_string().contains("guessed"), "{refused}");
}

#[tokio::test]
async fn a_broker_with_an_unknown_certificate_is_not_spoken_to() {
    let known = secured(SaslMechanism::Plain, &service("TEST_KAFKA_PASSWORD"));
    let system = KafkaSettings { tls: Some(TlsSettings { ca_file: None }), ..known.clone() };
    let Err(KafkaError::Away(why)) = Kafka::new(&system).unwrap().check().await else { panic!("anybody is believed") };
    assert!(why.contains("certificate"), "{why}");
    let plain = KafkaSettings { tls: None, sasl: None, ..known };
    assert!(matches!(Kafka::new(&plain).unwrap().check().await, Err(KafkaError::Away(_))));
}
