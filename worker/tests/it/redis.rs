//! Messages and documents through the real Redis.

use std::time::Duration;

use fred::interfaces::{ClientLike, KeysInterface, PubsubInterface};
use fred::types::{CustomCommand, Value};
use todo_proto::change::StoreId;
use todo_proto::id::ItemId;
use todo_worker::limits::{DOCUMENT_BYTES_MAX, HEARD_BYTES_MAX, REDIS_COMMAND_TIMEOUT, REDIS_SILENCE_MAX};
use todo_worker::messages::{Heard, MessageSender, MessageSource};
use todo_worker::reads::{Below, Json, Loaded, Look, OlderReader, Repair, Stand, StoreReader};
use todo_worker::redis::documents::{self, DocumentMetrics, Documents};
use todo_worker::redis::{Redis, Sender, Subscription};
use todo_worker::settings::RedisSettings;
use todo_worker::traits::StoreError;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::broker::{PATIENCE, eventually};
use crate::database::service;
use crate::redis_server::{OwnRedis, redis_at, settings};
use crate::support::id;

async fn heard(subscription: &mut Subscription) -> Heard {
    timeout(PATIENCE, subscription.next()).await.expect("something is heard")
}

/// Sends until it works: the connection is made in the background.
async fn send(sender: &mut Sender, message: &[u8]) {
    eventually("a message is sent", async || sender.send(message.to_vec()).await.is_ok()).await;
}

/// Both ends, connected.
async fn ends(redis: &Redis) -> (Sender, Subscription) {
    let (mut sender, mut subscription) = (redis.sender(), redis.subscription());
    assert_eq!(heard(&mut subscription).await, Heard::Subscribed);
    send(&mut sender, b"first").await;
    assert_eq!(heard(&mut subscription).await, Heard::Message(b"first".to_vec()));
    (sender, subscription)
}

#[tokio::test]
async fn messages_arrive_whole_and_in_order() {
    let server = OwnRedis::start().await;
    let (mut sender, mut subscription) = ends(&redis_at(&server.url())).await;
    // Of every byte, and larger than the largest that is ever sent.
    let message = |number: usize| (0..number * 1_000).map(|place| (place + number) as u8).collect::<Vec<u8>>();
    for number in (0..300).step_by(10) {
        sender.send(message(number)).await.unwrap();
    }
    for number in (0..300).step_by(10) {
        assert_eq!(heard(&mut subscription).await, Heard::Message(message(number)));
    }
    // Nobody else's.
    server.client().await.publish::<(), _, _>("another", "x").await.unwrap();
    sender.send(b"last".to_vec()).await.unwrap();
    assert_eq!(heard(&mut subscription).await, Heard::Message(b"last".to_vec()));
}

#[tokio::test]
async fn who_does_not_take_messages_hears_that_some_are_missing() {
    let server = OwnRedis::start().await;
    let (mut sender, mut subscription) = ends(&redis_at(&server.url())).await;
    let message = vec![7; 256 * 1024];
    let fit = HEARD_BYTES_MAX / message.len();
    for _ in 0..2 * fit {
        sender.send(message.clone()).await.unwrap();
    }
    let mut count = 0;
    loop {
        match heard(&mut subscription).await {
            Heard::Message(found) => assert!(found == message),
            Heard::Missed => break,
            other => panic!("{other:?}"),
        }
        count += 1;
    }
    assert_eq!(count, fit);
    sender.send(b"next".to_vec()).await.unwrap();
    // What was on its way is dropped or not; in the end all is well again.
    eventually("messages arrive again", async || heard(&mut subscription).await == Heard::Message(b"next".to_vec()))
        .await;
}

#[tokio::test]
async fn a_cut_subscriber_says_so_and_subscribes_again() {
    let server = OwnRedis::start().await;
    let (mut sender, mut subscription) = ends(&redis_at(&server.url())).await;
    let client = server.client().await;
    for _ in 0..3 {
        let kill = CustomCommand::new_static("CLIENT", None::<u16>, false);
        client.custom::<(), _>(kill, vec!["KILL", "TYPE", "pubsub"]).await.unwrap();
        let Heard::Away(_) = heard(&mut subscription).await else { panic!("not told") };
        assert_eq!(heard(&mut subscription).await, Heard::Subscribed);
        send(&mut sender, b"again").await;
        assert_eq!(heard(&mut subscription).await, Heard::Message(b"again".to_vec()));
    }
}

#[tokio::test]
async fn a_redis_that_dies_costs_nobody_time() {
    let mut server = OwnRedis::start().await;
    let (mut sender, mut subscription) = ends(&redis_at(&server.url())).await;
    server.kill();
    let Heard::Away(_) = heard(&mut subscription).await else { panic!("not told") };
    eventually("the sender knows", async || !sender.is_connected()).await;
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(sender.send(b"lost".to_vec()).await.is_err());
    }
    assert!(begun.elapsed() < REDIS_COMMAND_TIMEOUT, "{:?}", begun.elapsed());
    server.restart().await;
    assert_eq!(heard(&mut subscription).await, Heard::Subscribed);
    send(&mut sender, b"back").await;
    assert_eq!(heard(&mut subscription).await, Heard::Message(b"back".to_vec()));
}

#[tokio::test]
async fn a_frozen_redis_is_noticed_and_found_again() {
    let server = OwnRedis::start().await;
    let (mut sender, mut subscription) = ends(&redis_at(&server.url())).await;
    server.freeze();
    let begun = Instant::now();
    assert!(sender.send(b"late or lost".to_vec()).await.is_err());
    assert!(begun.elapsed() < 2 * REDIS_COMMAND_TIMEOUT, "{:?}", begun.elapsed());
    let Heard::Away(_) = heard(&mut subscription).await else { panic!("not told") };
    assert!(begun.elapsed() < 2 * REDIS_SILENCE_MAX, "{:?}", begun.elapsed());
    server.thaw();
    while heard(&mut subscription).await != Heard::Subscribed {}
    send(&mut sender, b"awake").await;
    while heard(&mut subscription).await != Heard::Message(b"awake".to_vec()) {}
}

#[tokio::test]
async fn nobody_waits_for_a_redis_that_was_never_there() {
    let mut server = OwnRedis::start().await;
    server.kill();
    let redis = redis_at(&server.url());
    let (mut sender, mut subscription) = (redis.sender(), redis.subscription());
    assert!(timeout(REDIS_COMMAND_TIMEOUT, sender.send(b"lost".to_vec())).await.expect("at once").is_err());
    let Heard::Away(_) = heard(&mut subscription).await else { panic!("not told") };
    server.restart().await;
    assert_eq!(heard(&mut subscription).await, Heard::Subscribed);
    send(&mut sender, b"there").await;
    assert_eq!(heard(&mut subscription).await, Heard::Message(b"there".to_vec()));
}

#[tokio::test]
async fn tls_and_a_login_and_no_wrong_ones() {
    let url = service("TEST_REDIS_TLS_URL");
    let secured =
        RedisSettings { ca_file: Some(service("TEST_CA_FILE").into()), ..settings(&url, Duration::from_secs(300)) };
    let redis = Redis::new(&secured).unwrap();
    let (mut sender, mut subscription) = (redis.sender(), redis.subscription());
    assert_eq!(heard(&mut subscription).await, Heard::Subscribed);
    let message = fastrand::u64(..).to_string().into_bytes();
    send(&mut sender, &message).await;
    // The server is everybody's, and so is its channel.
    while heard(&mut subscription).await != Heard::Message(message.clone()) {}

    let (before, after) = url.rsplit_once('@').unwrap();
    let (user, _) = before.rsplit_once(':').unwrap();
    let guessed = RedisSettings { url: format!("{user}:guessed@{after}").parse().unwrap(), ..secured.clone() };
    let Heard::Away(why) = heard(&mut Redis::new(&guessed).unwrap().subscription()).await else { panic!("let in") };
    assert!(why.contains("WRONGPASS") && !why.contains("guessed"), "{why}");

    let unknown = RedisSettings { ca_file: None, ..secured };
    let Heard::Away(why) = heard(&mut Redis::new(&unknown).unwrap().subscription()).await else { panic!("believed") };
    assert!(why.contains("InvalidCertificate"), "{why}");
}

/// A store of so many todos at a position.
#[derive(Clone)]
struct Shelf(watch::Receiver<(StoreId, u64, Vec<Vec<u8>>)>);

impl Shelf {
    fn stand(&self) -> Stand {
        let (store_id, position, _) = *self.0.borrow();
        Stand { store_id, positions: vec![position, 1], caught_up_at_ms: vec![0, 0] }
    }
}

impl StoreReader for Shelf {
    async fn load(
        &mut self,
        todos_max: usize,
        json_bytes_max: usize,
        mut take: impl FnMut(ItemId, &[u8]) + Send,
    ) -> Result<Loaded, StoreError> {
        let todos = self.0.borrow().2.clone();
        let (mut todos_count, mut json_bytes) = (0, 0);
        for json in todos.iter().take(todos_max) {
            if json_bytes + json.len() > json_bytes_max {
                break;
            }
            take(id(todos_count as u32), json);
            todos_count += 1;
            json_bytes += json.len();
        }
        Ok(Loaded { stand: self.stand(), todos_count, json_bytes, older: todos_count < todos.len() })
    }

    async fn look(&mut self) -> Result<Look, StoreError> {
        Ok(Look { stand: self.stand(), purged: vec![0, 0], oldest: None, now_ms: 0, topic: String::new() })
    }

    async fn repair(&mut self, _: u32, _: u64) -> Result<Repair, StoreError> {
        unreachable!("documents are read anew")
    }
}

impl OlderReader for Shelf {
    async fn read_below(&mut self, _: ItemId, _: usize, _: usize) -> Result<Below, StoreError> {
        unreachable!("documents are of the newest")
    }

    async fn read_one(&mut self, _: ItemId) -> Result<(Stand, Option<Json>), StoreError> {
        unreachable!("documents are lists")
    }
}

const STORE: StoreId = [1; 16];

fn todos(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("{{\"n\":{number}}}").into_bytes()).collect()
}

fn array(todos: &[Vec<u8>]) -> Option<Value> {
    let texts: Vec<&str> = todos.iter().map(|json| std::str::from_utf8(json).unwrap()).collect();
    Some(Value::String(format!("[{}]", texts.join(",")).into()))
}

/// A worker that keeps documents of a shelf.
struct Keeping {
    shelf: watch::Sender<(StoreId, u64, Vec<Vec<u8>>)>,
    owner: watch::Sender<bool>,
    metrics: DocumentMetrics,
    task: JoinHandle<()>,
}

impl Keeping {
    fn start(server: &OwnRedis, ttl: Duration, position: u64, todos: Vec<Vec<u8>>) -> Self {
        let (shelf, reader) = watch::channel((STORE, position, todos));
        let (owner, owns) = watch::channel(true);
        let documents = Documents { limits: vec![2, 10], ttl, metrics: DocumentMetrics::default() };
        let (redis, metrics) = (redis_at(&server.url()), documents.metrics.clone());
        let task = tokio::spawn(async move { documents::run(documents, Shelf(reader), &redis, owns).await });
        Self { shelf, owner, metrics, task }
    }

    /// Returns when nothing is set any more.
    async fn stop(self) {
        drop(self.owner);
        self.task.await.unwrap();
    }
}

#[tokio::test]
async fn documents_follow_the_store_and_outlive_redis() {
    let mut server = OwnRedis::start().await;
    let keeping = Keeping::start(&server, Duration::from_secs(300), 5, todos(3));
    let expect = async |server: &OwnRedis, expected: [Option<Value>; 3]| {
        let client = server.client().await;
        eventually("the documents are as expected", async || {
            let keys = ["todos:limit:2", "todos:limit:10", "todos:all"];
            let found: Vec<Option<Value>> = client.mget(keys.to_vec()).await.unwrap();
            found == expected
        })
        .await;
        let _ = client.quit().await;
    };
    let all = todos(3);
    expect(&server, [array(&all[..2]), array(&all), array(&all)]).await;
    // Nothing has moved: nothing is set.
    let written = keeping.metrics.written.get();

    let all = todos(20);
    keeping.shelf.send_replace((STORE, 6, all.clone()));
    expect(&server, [array(&all[..2]), array(&all[..10]), array(&all)]).await;
    assert_eq!((written, keeping.metrics.written.get()), (1, 2));

    // As many small ones, and then one that is too much for a document of everything.
    let mut large = todos(10);
    large.push(vec![b'1'; DOCUMENT_BYTES_MAX]);
    keeping.shelf.send_replace((STORE, 7, large.clone()));
    expect(&server, [array(&large[..2]), array(&large[..10]), None]).await;

    server.kill();
    keeping.shelf.send_replace((STORE, 8, todos(1)));
    eventually("it is noticed", async || keeping.metrics.failed.get() > 0).await;
    server.restart().await;
    expect(&server, [array(&todos(1)), array(&todos(1)), array(&todos(1))]).await;
}

#[tokio::test]
async fn an_older_state_does_not_replace_a_newer_one() {
    let server = OwnRedis::start().await;
    let client = server.client().await;
    let all = async || client.get::<Option<Value>, _>("todos:all").await.unwrap();
    let long = Duration::from_secs(300);
    let newer = Keeping::start(&server, long, 50, todos(5));
    eventually("it is there", async || all().await == array(&todos(5))).await;

    let older = Keeping::start(&server, long, 49, todos(4));
    eventually("it is refused", async || older.metrics.refused.get() > 0).await;
    assert_eq!(all().await, array(&todos(5)));
    // Another store knows nothing of those positions.
    older.shelf.send_replace(([2; 16], 1, todos(1)));
    eventually("it is taken", async || all().await == array(&todos(1))).await;

    newer.stop().await;
    older.stop().await;

    // Who is not the owner sets nothing until it is.
    let next = Keeping::start(&server, long, 80, todos(8));
    next.owner.send_replace(false);
    let third = Keeping::start(&server, long, 70, todos(7));
    eventually("the owner sets", async || all().await == array(&todos(7))).await;
    third.stop().await;
    assert_eq!(next.metrics.written.get(), 0);
    next.owner.send_replace(true);
    eventually("the next owner sets", async || all().await == array(&todos(8))).await;
    next.stop().await;
}

#[tokio::test]
async fn documents_are_renewed_before_they_end() {
    let server = OwnRedis::start().await;
    let ttl = Duration::from_secs(4);
    let keeping = Keeping::start(&server, ttl, 1, todos(1));
    let client = server.client().await;
    eventually("they are renewed", async || keeping.metrics.written.get() >= 2).await;
    let left_ms: i64 = client.pttl("todos:all").await.unwrap();
    assert!((1..=4_000).contains(&left_ms), "{left_ms}");
    keeping.stop().await;
    eventually("they end", async || client.get::<Option<Value>, _>("todos:all").await.unwrap().is_none()).await;
}
