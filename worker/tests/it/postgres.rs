//! What only Postgres can do wrong: sessions that freeze, networks that break around a COMMIT, disks that are full, and
//! databases that are not what was expected.

use std::time::Duration;

use todo_proto::command::TodoCommand;
use todo_proto::fold::{Batch, Entry, fold};
use todo_worker::postgres::{Database, OpenError, PgStore};
use todo_worker::traits::{Named, StoreError, TodoStore};
use tokio::time::sleep;

use crate::database::{PARTITIONS, PgHome, TOPIC, TestDatabase, service, settings};
use crate::kept_log::{self, MemoryLog, creates};
use crate::proxy::{Network, Proxy};
use crate::support::{create, entries};

/// Folds over what the store has, and leaves the transaction open.
async fn begin(store: &mut PgStore, commands: Vec<TodoCommand>) -> Result<Batch, StoreError> {
    let partition = store.partition(0).await?;
    let entries: Vec<Entry> = entries(&partition, commands);
    let begun = store.begin(0, partition.next_offset, Named::by(&entries)).await?;
    Ok(fold(&begun.partition, begun.rows, &begun.producers, &entries).batch)
}

/// Waits for what another session is about to do.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..500 {
        if holds().await {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 10 s: {what}");
}

/// A worker is stopped between its two flights, another takes its partition, and the first wakes up.
#[tokio::test]
async fn a_frozen_transaction_loses_its_partition_and_its_commit_fails() {
    let home = PgHome::new().await;
    let (mut zombie, mut other) = (home.database.store(), home.database.store());
    let late = begin(&mut zombie, vec![create(1, "zombie")]).await.unwrap();
    // Waits for the row until Postgres ends the silent session.
    let batch = begin(&mut other, vec![create(2, "other")]).await.unwrap();
    other.commit(batch).await.unwrap();
    let error = zombie.commit(late).await.unwrap_err();
    assert!(matches!(error, StoreError::Unknown(_) | StoreError::Unavailable(_)), "{error}");
    assert_eq!(zombie.partition(0).await.unwrap().next_offset, 1);
    assert_eq!(home.number("SELECT count(*) FROM todos WHERE title = 'zombie'").await, 0);
}

#[tokio::test]
async fn two_loops_on_one_partition_apply_everything_once() {
    let home = PgHome::new().await;
    let commands = creates(60);
    let run = || kept_log::run(MemoryLog::new(commands.clone()), home.database.store());
    let ((_, first, _), (_, second, _)) = tokio::join!(run(), run());
    assert_eq!((first.position.max(second.position), home.number("SELECT count(*) FROM todos").await), (60, 60));
    // What one has committed the other has not.
    assert_eq!(first.counts.commands + second.counts.commands, 60);
    assert_eq!(home.number("SELECT max(revision) FROM todos").await, 60);
}

#[tokio::test]
async fn a_network_that_breaks_around_a_commit_leaves_it_unknown() {
    let home = PgHome::new().await;
    let (proxy, database) = behind_proxy(&home).await;
    let mut store = database.store();

    let batch = begin(&mut store, vec![create(1, "lost")]).await.unwrap();
    proxy.set(Network::CutsRequests);
    assert!(matches!(store.commit(batch).await, Err(StoreError::Unknown(_))));
    proxy.set(Network::Works);
    assert_eq!(store.partition(0).await.unwrap().next_offset, 0);

    let batch = begin(&mut store, vec![create(2, "kept")]).await.unwrap();
    proxy.set(Network::SwallowsAnswers);
    let cut = async {
        eventually("the commit is done", async || home.number("SELECT count(*) FROM todos").await == 1).await;
        proxy.cut();
    };
    let (committed, ()) = tokio::join!(store.commit(batch), cut);
    assert!(matches!(committed, Err(StoreError::Unknown(_))));
    proxy.set(Network::Works);
    assert_eq!(store.partition(0).await.unwrap().next_offset, 1);
}

#[tokio::test]
async fn cut_connections_lose_and_double_nothing() {
    let home = PgHome::new().await;
    let (proxy, database) = behind_proxy(&home).await;
    let cuts = async {
        for _ in 0..10 {
            let count = home.number("SELECT count(*) FROM todos").await;
            proxy.cut();
            let moves_on = async || home.number("SELECT count(*) FROM todos").await > count.min(295);
            eventually("the loop goes on", moves_on).await;
        }
    };
    let ((_, status, _), ()) = tokio::join!(kept_log::run(MemoryLog::new(creates(300)), database.store()), cuts);
    assert_eq!((status.position, home.number("SELECT count(*) FROM todos").await), (300, 300));
    assert_eq!(home.number("SELECT count(DISTINCT revision) FROM todos").await, 300);
}

#[tokio::test]
async fn a_backend_that_is_terminated_inside_a_batch_writes_nothing() {
    let home = PgHome::new().await;
    let mut store = home.database.store();
    let batch = begin(&mut store, vec![create(1, "a")]).await.unwrap();
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND state = 'idle in transaction'";
    assert_eq!(home.number(ended).await, 1);
    assert!(store.commit(batch).await.is_err());
    assert_eq!(store.partition(0).await.unwrap().next_offset, 0);
}

/// COMMIT is on its way behind the statement that fails, and says that it went well.
#[tokio::test]
async fn a_statement_that_fails_in_the_flight_is_heard_above_the_commit() {
    let home = PgHome::new().await;
    let client = home.client().await;
    let fails_with = async |table: &str, code: &str| {
        let trigger = format!(
            "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql
                 AS $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$;
             CREATE TRIGGER fails BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION fail();"
        );
        client.batch_execute(&trigger).await.unwrap();
    };
    for table in ["todos", "producers", "partitions"] {
        for (code, expected) in [
            ("53100", StoreError::Full),
            ("22003", StoreError::Refused("no (22003)".into())),
            ("23514", StoreError::Refused("no (23514)".into())),
            ("55P03", StoreError::Unavailable("no (55P03)".into())),
            ("25006", StoreError::Unavailable("no (25006)".into())),
        ] {
            let mut store = home.database.store();
            // Before the transaction, which may not be idle for long.
            fails_with(table, code).await;
            let batch = begin(&mut store, vec![create(1, "a")]).await.unwrap();
            assert_eq!(store.commit(batch).await, Err(expected), "{code} at {table}");
            client.batch_execute(&format!("DROP TRIGGER fails ON {table}")).await.unwrap();
            assert_eq!(home.number("SELECT count(*) + sum(next_offset)::bigint FROM partitions").await, 4);
        }
    }
    assert_eq!(home.number("SELECT count(*) FROM todos").await, 0);
}

#[tokio::test]
async fn a_partition_that_somebody_holds_is_given_up_in_time() {
    let home = PgHome::new().await;
    let mut holder = home.client().await;
    let transaction = holder.transaction().await.unwrap();
    transaction.execute("SELECT 1 FROM partitions WHERE part = 0 FOR UPDATE", &[]).await.unwrap();
    let mut store = home.database.store();
    let error = begin(&mut store, vec![create(1, "a")]).await.unwrap_err();
    assert_eq!(error, StoreError::Unavailable("canceling statement due to lock timeout (55P03)".into()));
    drop(transaction);
    begin(&mut store, vec![create(1, "a")]).await.unwrap();
}

#[tokio::test]
async fn a_batch_that_is_dropped_gives_no_open_transaction_to_the_next() {
    let home = TestDatabase::new().await;
    // One connection: what the first left behind the second would find.
    let database = Database::new(&home.settings(), 1).unwrap();
    database.open_store(PARTITIONS, TOPIC).await.unwrap();
    let mut store = database.store();
    let batch = begin(&mut store, vec![create(1, "a")]).await.unwrap();
    drop(store);
    let mut store = database.store();
    assert_eq!(store.commit(batch).await, Err(StoreError::Unavailable("no batch was begun".into())));
    let batch = begin(&mut store, vec![create(2, "b")]).await.unwrap();
    // A future that is dropped half way, polled once.
    let mut commit = Box::pin(store.commit(batch));
    assert!(futures_util::poll!(commit.as_mut()).is_pending());
    drop(commit);
    let mut store = database.store();
    let next_offset = store.partition(0).await.unwrap().next_offset;
    assert!(next_offset <= 1, "it was sent, so either is right");
    let batch = match begin(&mut store, vec![create(3, "c")]).await {
        // The dropped one has got through between the two reads.
        Err(StoreError::Fenced) => begin(&mut store, vec![create(3, "c")]).await.unwrap(),
        begun => begun.unwrap(),
    };
    store.commit(batch).await.unwrap();
}

#[tokio::test]
async fn what_starts_badly_is_told_apart_and_names_the_remedy() {
    let home = TestDatabase::new().await;
    let open = async |url: &str| Database::new(&settings(url), 2).unwrap().open_store(PARTITIONS, TOPIC).await;

    let stranger = url_of(&home.url(), "nobody-of-this-name", None);
    let error = open(&stranger).await.unwrap_err();
    assert!(matches!(error, OpenError::Credentials { .. }) && !error.passes(), "{error}");
    let missing = home.url().replace("todo_test_", "todo_gone_");
    let error = open(&missing).await.unwrap_err();
    assert!(matches!(error, OpenError::DatabaseMissing { .. }) && !error.passes(), "{error}");
    let error = open("postgres://app:hidden@127.0.0.1:1/todos").await.unwrap_err();
    assert!(error.passes() && !error.to_string().contains("hidden"), "{error}");

    let database = home.open();
    assert!(matches!(database.find_store().await, Err(OpenError::Missing { .. })));
    home.client().await.batch_execute("CREATE TABLE todos (id bigint)").await.unwrap();
    let error = database.open_store(PARTITIONS, TOPIC).await.unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }) && !error.passes(), "{error}");
    home.client().await.batch_execute("DROP TABLE todos").await.unwrap();
    let facts = database.open_store(PARTITIONS, TOPIC).await.unwrap();
    assert_eq!(database.find_store().await, Ok(facts));
}

#[tokio::test]
async fn a_store_that_is_another_is_refused() {
    let home = TestDatabase::new().await;
    let database = home.open();
    database.open_store(PARTITIONS, TOPIC).await.unwrap();
    let error = database.open_store(PARTITIONS + 1, TOPIC).await.unwrap_err();
    assert_eq!(error, OpenError::Partitions { store: PARTITIONS, configured: PARTITIONS + 1 });
    let error = database.open_store(PARTITIONS, "other").await.unwrap_err();
    assert_eq!(error, OpenError::Topic { store: TOPIC.into(), configured: "other".into() });

    // A later version that lets us work on.
    let client = home.client().await;
    client.batch_execute("UPDATE store SET schema = 9").await.unwrap();
    assert_eq!(database.open_store(PARTITIONS, TOPIC).await.unwrap().schema, 9);
    client.batch_execute("UPDATE store SET min_reader = 9").await.unwrap();
    for error in [database.open_store(PARTITIONS, TOPIC).await.unwrap_err(), database.find_store().await.unwrap_err()] {
        assert!(matches!(error, OpenError::Newer { schema: 9, .. }) && !error.passes(), "{error}");
    }
}

#[tokio::test]
async fn workers_that_start_together_make_one_store() {
    let home = TestDatabase::new().await;
    let databases: Vec<Database> = (0..4).map(|_| home.open()).collect();
    let opened = databases.iter().map(async |database| {
        loop {
            match database.open_store(PARTITIONS, TOPIC).await {
                Err(error) if error.passes() => sleep(Duration::from_millis(50)).await,
                opened => return opened,
            }
        }
    });
    let facts = futures_util::future::join_all(opened).await;
    assert!(facts.iter().all(|opened| opened.is_ok() && *opened == facts[0]), "{facts:?}");
}

#[tokio::test]
async fn a_topic_made_anew_is_adopted_without_going_back() {
    let home = PgHome::new().await;
    let mut store = home.database.store();
    let batch = begin(&mut store, vec![create(1, "a"), create(2, "b")]).await.unwrap();
    store.commit(batch).await.unwrap();
    assert!(!home.database.adopt(0, 1, 0).await.unwrap(), "it stands elsewhere");
    assert!(home.database.adopt(0, 2, 0).await.unwrap());
    let partition = store.partition(0).await.unwrap();
    assert_eq!((partition.base, partition.next_offset, partition.last_hash), (2, 0, None));
    let batch = begin(&mut store, vec![create(3, "c")]).await.unwrap();
    assert_eq!(batch.rows[0].revision, 3);
    store.commit(batch).await.unwrap();
    assert!(home.database.adopt(0, 3, 40).await.unwrap(), "a topic whose oldest records are gone");
    assert_eq!(store.partition(0).await.unwrap().position(), 43);
    home.database.name_topic("new").await.unwrap();
    assert_eq!(home.database.find_store().await.unwrap().topic, "new");
}

#[tokio::test]
async fn tls_checks_what_the_mode_says() {
    let url = service("TEST_DATABASE_TLS_URL");
    let certificates = service("TEST_CA_FILE");
    let address = url.split_once('?').map_or(url.as_str(), |(address, _)| address);
    let open = async |query: &str| {
        let database = Database::new(&settings(&format!("{address}{query}")), 2)?;
        database.find_store().await
    };
    for query in ["?sslmode=require".to_owned(), format!("?sslmode=verify-full&sslrootcert={certificates}")] {
        let opened = open(&query).await;
        // Whether there is a store or not, it let us in.
        assert!(matches!(opened, Ok(_) | Err(OpenError::Missing { .. })), "{query}: {opened:?}");
    }
    let error = open("?sslmode=verify-full").await.unwrap_err().to_string();
    assert!(error.contains("certificate"), "the system's certificates do not vouch for a test's: {error}");
    let error = open("?sslmode=verify-full&sslrootcert=/nowhere.pem").await.unwrap_err();
    assert!(matches!(error, OpenError::Tls(_)), "{error}");

    let wrong = url_of(address, "", Some("wrong"));
    let error =
        Database::new(&settings(&format!("{wrong}?sslmode=require")), 2).unwrap().find_store().await.unwrap_err();
    assert!(matches!(error, OpenError::Credentials { .. }) && !error.to_string().contains("wrong"), "{error}");
}

/// The same server for another user (when there is a name), or with another password.
fn url_of(url: &str, user: &str, password: Option<&str>) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (login, place) = rest.split_once('@').unwrap();
    let (own_user, _) = login.split_once(':').unwrap_or((login, ""));
    let user = if user.is_empty() { own_user } else { user };
    let password = password.map(|password| format!(":{password}")).unwrap_or_default();
    format!("{scheme}://{user}{password}@{place}")
}

/// The database of `home`, with a network of ours between.
async fn behind_proxy(home: &PgHome) -> (Proxy, Database) {
    let url = home.home.url();
    let (front, place) = url.split_once('@').unwrap();
    let (host, rest) = place.split_once('/').unwrap();
    let proxy = Proxy::new(host.to_owned()).await;
    let database = Database::new(&settings(&format!("{front}@127.0.0.1:{}/{rest}", proxy.port)), 4).unwrap();
    (proxy, database)
}
