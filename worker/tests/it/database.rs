//! A database of its own for each test, in the real Postgres.

use todo_worker::postgres::Database;
use todo_worker::settings::DatabaseSettings;
use tokio_postgres::{Client, NoTls};

use crate::support::NOW_MS;

/// Partitions of a test's store.
pub const PARTITIONS: u32 = 4;
/// Topic of a test's store.
pub const TOPIC: &str = "todo-commands";

/// A database that goes with its test.
pub struct TestDatabase {
    server_url: String,
    name: String,
}

/// A store in a database of its own. Its clock stands still.
pub struct PgHome {
    pub database: Database,
    pub home: TestDatabase,
}

/// The variable of a service, or a sentence that says where services come from.
pub fn service(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!("start with `cargo xtask test`, or `cargo xtask stack up` and set {variable}");
    })
}

impl TestDatabase {
    pub async fn new() -> Self {
        let server_url = service("DATABASE_URL");
        let name = format!("todo_test_{:016x}", fastrand::u64(..));
        connect(&server_url).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        Self { server_url, name }
    }

    pub fn url(&self) -> String {
        let (address, query) = self.server_url.split_once('?').unwrap_or((&self.server_url, ""));
        let (server, _) = address.rsplit_once('/').expect("a URL with a database");
        format!("{server}/{}?{query}", self.name)
    }

    /// Settings of a pool that a test can exhaust.
    pub fn settings(&self) -> DatabaseSettings {
        settings(&self.url())
    }

    pub fn open(&self) -> Database {
        Database::new(&self.settings(), 16).unwrap()
    }

    /// A connection past our own code.
    pub async fn client(&self) -> Client {
        connect(&self.url()).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (url, drop) = (self.server_url.clone(), format!("DROP DATABASE {} WITH (FORCE)", self.name));
        // The test's runtime waits for nothing any more, so one of its own.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { connect(&url).await.batch_execute(&drop).await })
        });
        if let Err(error) = dropped.join().expect("it connects as the test did")
            && !std::thread::panicking()
        {
            panic!("{error}");
        }
    }
}

impl PgHome {
    pub async fn new() -> Self {
        let home = TestDatabase::new().await;
        let database = home.open();
        database.open_store(PARTITIONS, TOPIC).await.unwrap();
        let home = Self { database, home };
        home.set_clock(NOW_MS).await;
        home
    }

    pub async fn set_clock(&self, now_ms: u64) {
        let clock = format!(
            "CREATE OR REPLACE FUNCTION store_now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS 'SELECT {now_ms}::bigint'"
        );
        self.client().await.batch_execute(&clock).await.unwrap();
    }

    pub async fn client(&self) -> Client {
        self.home.client().await
    }

    /// One number, past our own code.
    pub async fn number(&self, sql: &str) -> i64 {
        self.client().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

pub fn settings(url: &str) -> DatabaseSettings {
    DatabaseSettings { url: url.parse().unwrap(), pool_size: 5_000 }
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    // It ends with the client, or with the server, which a test may have ended.
    tokio::spawn(connection);
    client
}
