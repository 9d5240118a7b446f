//! Connections: where the database is, how its server is believed, what every session begins with, and a pool that takes
//! back only connections on which nothing is open.

use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;

use deadpool_postgres::{
    ClientWrapper, Manager, ManagerConfig, Object, Pool, PoolError, QueueMode, RecyclingMethod, Runtime,
};
use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::limits::{
    CONNECT_TIMEOUT, IDLE_IN_TRANSACTION_TIMEOUT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, LOCK_TIMEOUT,
    POOL_WAIT_TIMEOUT, STATEMENT_TIMEOUT, TCP_USER_TIMEOUT,
};
use crate::postgres::{in_time, sentence, store_error};
use crate::settings::DatabaseSettings;
use crate::tls::{TlsError, client_config, unchecked_client_config};
use crate::traits::StoreError;

/// A database, and a pool of connections to it. None is opened before it is needed.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    /// Host, port and name, for sentences.
    place: String,
}

/// Why a store cannot be opened: one sentence with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The address makes no sense. Says nothing of what is in it.
    #[error("DATABASE_URL cannot be used ({0}): write postgres://user:password@host:port/database?sslmode=verify-full")]
    Url(String),
    /// TLS cannot be set up.
    #[error("TLS to Postgres cannot be set up: {0}")]
    Tls(String),
    /// Postgres does not let us in.
    #[error("Postgres at {place} refuses the login ({why}): check user and password in DATABASE_URL, and pg_hba.conf")]
    Credentials {
        /// Host, port and database.
        place: String,
        /// What it said.
        why: String,
    },
    /// It has no such database.
    #[error("there is no database at {place}: make it with `createdb`, or set DATABASE_URL to another")]
    DatabaseMissing {
        /// Host, port and database.
        place: String,
    },
    /// It does not let us do what must be done.
    #[error("the user of DATABASE_URL lacks rights at {place} ({why}): make it the database's owner")]
    Forbidden {
        /// Host, port and database.
        place: String,
        /// What it said.
        why: String,
    },
    /// There are tables by our names that are not ours.
    #[error("the database at {place} is used by another program ({why}): set DATABASE_URL to a database of its own")]
    Foreign {
        /// Host, port and database.
        place: String,
        /// What it said.
        why: String,
    },
    /// A later version has changed the store in a way that this one does not know.
    #[error(
        "the store at {place} was written by a newer version (schema {schema}, and this one knows {known}): start that version"
    )]
    Newer {
        /// Host, port and database.
        place: String,
        /// Its schema.
        schema: u32,
        /// The last schema that this version knows.
        known: u32,
    },
    /// The partition of an id would be another one.
    #[error(
        "the store has {store} partitions, but KAFKA_PARTITIONS is {configured}: set it to {store}; a store keeps its count for life"
    )]
    Partitions {
        /// Those of the store.
        store: u32,
        /// Those that are set.
        configured: u32,
    },
    /// Its offsets are those of another log.
    #[error(
        "the store was filled from topic {store}, but KAFKA_TODO_TOPIC is {configured}: set it back, or adopt the new topic with `todo-worker adopt-topic`"
    )]
    Topic {
        /// That of the store.
        store: String,
        /// That which is set.
        configured: String,
    },
    /// There is no store yet; only a worker makes one.
    #[error("there is no store at {place} yet: start a todo-worker, which makes it")]
    Missing {
        /// Host, port and database.
        place: String,
    },
    /// It will pass by itself.
    #[error("Postgres at {place} is away ({why})")]
    Away {
        /// Host, port and database.
        place: String,
        /// What is known.
        why: String,
    },
}

/// A connection out of the pool. It goes back by [`give_back`](Self::give_back) only; dropped, by an error or with the
/// future that used it, it is closed, and the server rolls back what was open on it.
pub(super) struct Lent {
    object: Option<Object>,
}

impl Database {
    /// A database with at most `connections_max` connections, but never more than the settings allow. Connects to nothing.
    ///
    /// # Errors
    /// An address that makes no sense; certificates that cannot be used.
    pub fn new(settings: &DatabaseSettings, connections_max: usize) -> Result<Self, OpenError> {
        let (mut config, checks) = parse(settings.url.reveal())?;
        let options = session_options(config.get_options());
        config
            .application_name(concat!("million-rps ", env!("CARGO_PKG_VERSION")))
            .options(options)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        let place = place(&config);
        let tls = match checks {
            Checks::Nothing => unchecked_client_config(),
            Checks::Certificate { roots } => {
                client_config(roots.as_deref()).map_err(|error: TlsError| OpenError::Tls(error.to_string()))?
            }
        };
        // What comes back has nothing open on it, so nothing needs to be asked of it.
        let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(config, MakeRustlsConnect::new(tls), manager_config);
        let pool = Pool::builder(manager)
            .max_size(connections_max.min(settings.pool_size as usize))
            // The one that was used last: the caches of its backend are warm.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_WAIT_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .build()
            .expect("the runtime is given, which is all that building asks for");
        Ok(Self { pool, place })
    }

    /// Host, port and name of the database, without user or password.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Connections that are open.
    pub fn connections_count(&self) -> usize {
        self.pool.status().size
    }

    pub(super) async fn lend(&self) -> Result<Lent, StoreError> {
        match self.pool.get().await {
            Ok(object) => Ok(Lent { object: Some(object) }),
            Err(PoolError::Backend(error)) => Err(store_error(&error)),
            Err(error) => Err(StoreError::Unavailable(format!("no connection: {error}"))),
        }
    }

    /// One call of a few flights, given up in time. Its connection goes back to the pool only when it went well.
    pub(super) async fn call<R>(&self, call: impl AsyncFnOnce(&Lent) -> Result<R, Error>) -> Result<R, StoreError> {
        in_time(async {
            let lent = self.lend().await?;
            let done = call(&lent).await.map_err(|error| store_error(&error))?;
            lent.give_back();
            Ok(done)
        })
        .await
    }

    /// As [`lend`](Self::lend), for whoever starts: tells what passes from what does not.
    pub(super) async fn open(&self) -> Result<Lent, OpenError> {
        match self.pool.get().await {
            Ok(object) => Ok(Lent { object: Some(object) }),
            Err(PoolError::Backend(error)) => Err(self.open_error(&error)),
            Err(error) => Err(OpenError::Away { place: self.place.clone(), why: error.to_string() }),
        }
    }

    /// What an error means to whoever starts.
    pub(super) fn open_error(&self, error: &Error) -> OpenError {
        let (place, why) = (self.place.clone(), sentence(error));
        match error.code() {
            Some(code) if code.code().starts_with("28") => OpenError::Credentials { place, why },
            Some(&SqlState::INVALID_CATALOG_NAME) => OpenError::DatabaseMissing { place },
            Some(&SqlState::INSUFFICIENT_PRIVILEGE) => OpenError::Forbidden { place, why },
            Some(&(SqlState::DUPLICATE_TABLE | SqlState::UNDEFINED_COLUMN | SqlState::DUPLICATE_FUNCTION)) => {
                OpenError::Foreign { place, why }
            }
            // The crate has no other name for a login that it cannot even try.
            None if why.contains("password missing") || why.starts_with("authentication error") => {
                OpenError::Credentials { place, why }
            }
            _ => OpenError::Away { place, why },
        }
    }
}

impl OpenError {
    /// Whether waiting helps. Whatever else ends the process with this sentence.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Missing { .. })
    }
}

impl Lent {
    /// Nothing is open on it: the next one may have it.
    pub(super) fn give_back(mut self) {
        drop(self.object.take());
    }
}

impl Deref for Lent {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.object.as_ref().expect("there until it is given back")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            // Out of the pool, and with the last reference the socket is closed.
            drop(Object::take(object));
        }
    }
}

/// What is looked at before a server is believed.
#[derive(Debug, PartialEq, Eq)]
enum Checks {
    /// Nothing: the bytes are encrypted, for whoever answers.
    Nothing,
    /// Its certificate and its name, against these certificates or the system's.
    Certificate { roots: Option<PathBuf> },
}

/// Reads an address. `sslmode` and `sslrootcert` are ours, since the crate knows neither the modes that check nor a file;
/// all the rest is the crate's.
fn parse(url: &str) -> Result<(Config, Checks), OpenError> {
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(OpenError::Url("it does not begin with postgres://".to_owned()));
    }
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut roots, mut others) = ("prefer", None, Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", value)) => mode = value,
            Some(("sslrootcert", value)) => roots = Some(path(value)?),
            _ => others.push(parameter),
        }
    }
    let mut config = Config::from_str(&format!("{address}?{}", others.join("&")))
        .map_err(|error| OpenError::Url(sentence(&error)))?;
    if config.get_hosts().is_empty() {
        return Err(OpenError::Url("it names no host".to_owned()));
    }
    let (ssl_mode, checks) = match (mode, roots) {
        ("disable", None) => (SslMode::Disable, Checks::Nothing),
        ("prefer", None) => (SslMode::Prefer, Checks::Nothing),
        ("require", None) => (SslMode::Require, Checks::Nothing),
        // With certificates at hand nobody means "believe anybody".
        ("require" | "verify-full", roots) => (SslMode::Require, Checks::Certificate { roots }),
        ("disable" | "prefer", Some(_)) => {
            return Err(OpenError::Url(format!("sslrootcert says nothing with sslmode={mode}; use verify-full")));
        }
        _ => {
            return Err(OpenError::Url("sslmode must be disable, prefer, require or verify-full".to_owned()));
        }
    };
    config.ssl_mode(ssl_mode);
    Ok((config, checks))
}

fn path(value: &str) -> Result<PathBuf, OpenError> {
    let path = percent_decode_str(value).decode_utf8();
    path.map(|path| PathBuf::from(&*path)).map_err(|_| OpenError::Url("sslrootcert is not UTF-8".to_owned()))
}

/// What every session begins with; ours come last and win.
fn session_options(given: Option<&str>) -> String {
    let settings = [
        ("lock_timeout", LOCK_TIMEOUT.as_millis().to_string()),
        ("statement_timeout", STATEMENT_TIMEOUT.as_millis().to_string()),
        // A worker frozen inside a transaction would hold its partition for ever.
        ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT.as_millis().to_string()),
        // Planning anew took half of what Postgres spends on a small batch. A plan made while a table was empty would
        // be kept, and scan it for ever: so scans are what is taken when there is no index at all, and their price, which
        // is a mark and not an estimate, must not look worth compiling.
        ("plan_cache_mode", "force_generic_plan".to_owned()),
        ("enable_seqscan", "off".to_owned()),
        ("jit", "off".to_owned()),
    ];
    let ours = settings.iter().map(|(name, value)| format!("-c {name}={value}"));
    given.map(str::to_owned).into_iter().chain(ours).collect::<Vec<_>>().join(" ")
}

fn place(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let name = config.get_dbname().or_else(|| config.get_user()).unwrap_or_default();
    format!("{host}:{port}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_tls() {
        let certificate = |path: Option<&str>| Checks::Certificate { roots: path.map(PathBuf::from) };
        let cases = [
            ("", SslMode::Prefer, Checks::Nothing),
            ("?sslmode=disable", SslMode::Disable, Checks::Nothing),
            ("?sslmode=require", SslMode::Require, Checks::Nothing),
            ("?sslmode=verify-full", SslMode::Require, certificate(None)),
            ("?sslmode=verify-full&sslrootcert=%2Fa%20b.pem", SslMode::Require, certificate(Some("/a b.pem"))),
            ("?sslrootcert=/ca.pem&application_name=x&sslmode=require", SslMode::Require, certificate(Some("/ca.pem"))),
        ];
        for (query, mode, expected) in cases {
            let (config, checks) = parse(&format!("postgres://app:secret@db/todos{query}")).expect(query);
            assert_eq!((config.get_ssl_mode(), checks), (mode, expected), "{query}");
            assert_eq!(place(&config), "db:5432/todos");
        }
    }

    #[test]
    fn addresses_that_make_no_sense_are_refused_without_repeating_them() {
        let urls = [
            "mysql://app:secret@db/todos",
            "host=db password=secret",
            "postgres://app:secret@/todos",
            "postgres://app:secret@db:port/todos",
            "postgres://app:secret@db/todos?sslmode=allow",
            "postgres://app:secret@db/todos?sslmode=prefer&sslrootcert=/ca.pem",
            "postgres://app:secret@db/todos?sslrootcert=%ff&sslmode=verify-full",
            "postgres://app:secret@db/todos?color=red",
        ];
        for url in urls {
            let sentence = parse(url).map(|_| ()).expect_err(url).to_string();
            assert!(
                sentence.starts_with("DATABASE_URL cannot be used (") && !sentence.contains("secret"),
                "{sentence}"
            );
        }
    }

    #[test]
    fn our_options_come_last() {
        let options = session_options(Some("-c lock_timeout=0"));
        assert!(options.starts_with("-c lock_timeout=0 -c lock_timeout="), "{options}");
    }
}
