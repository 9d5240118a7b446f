//! Where the services of a cluster are: flags and environment variables that the server and the worker share, and what is
//! wrong with a mix of them.

#![expect(clippy::doc_markdown, reason = "these comments are help texts, read in a terminal")]

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use todo_proto::names::TOPIC;

use crate::limits::{CACHE_LIMIT_MAX, PARTITIONS_MAX};

/// Where the services are. With none of them there is no cluster.
#[derive(Clone, Debug, Args)]
pub struct Connections {
    /// Kafka brokers, separated by commas; unset means no cluster, but one process over a file
    #[arg(long, env, global = true, value_name = "HOST:PORT,…", help_heading = "Cluster")]
    pub kafka_brokers: Option<String>,

    /// The topic of commands
    #[arg(long, env, global = true, default_value = TOPIC, value_name = "TOPIC", help_heading = "Cluster")]
    pub kafka_todo_topic: String,

    /// Partitions of the topic; the store remembers them, and a difference stops writing
    #[arg(long, env, global = true, default_value_t = 32, value_name = "N", help_heading = "Cluster", value_parser = clap::value_parser!(u32).range(1..=i64::from(PARTITIONS_MAX)))]
    pub kafka_partitions: u32,

    /// Speak TLS to the brokers
    #[arg(long, env, global = true, help_heading = "Cluster")]
    pub kafka_tls: bool,

    /// PEM certificates to believe for Kafka [default: the system's]
    #[arg(long, env, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub kafka_ca_file: Option<PathBuf>,

    /// How to log in to Kafka
    #[arg(long, env, global = true, ignore_case = true, value_name = "HOW", help_heading = "Cluster")]
    pub kafka_sasl_mechanism: Option<SaslMechanism>,

    /// User for Kafka
    #[arg(long, env, global = true, value_name = "NAME", help_heading = "Cluster")]
    pub kafka_username: Option<String>,

    /// Password for Kafka
    #[arg(long, env, global = true, hide_env_values = true, value_name = "SECRET", help_heading = "Cluster")]
    pub kafka_password: Option<Secret>,

    /// File that holds the password for Kafka
    #[arg(long, env, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub kafka_password_file: Option<PathBuf>,

    /// Postgres, as postgres://user:password@host:port/database?sslmode=…&sslrootcert=FILE, where sslmode is disable,
    /// prefer (the default), require or verify-full
    #[arg(long, env, global = true, hide_env_values = true, value_name = "URL", help_heading = "Cluster")]
    pub database_url: Option<Secret>,

    /// File that holds the DATABASE_URL
    #[arg(long, env, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub database_url_file: Option<PathBuf>,

    /// Connections to Postgres at most; few are ever opened
    #[arg(long, env, global = true, default_value_t = 5_000, value_name = "N", help_heading = "Cluster", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub db_pool_size: u32,

    /// Redis, as redis://… or rediss://user:password@host:port/0 for TLS [default: redis://localhost:6379/0]
    #[arg(long, env, global = true, hide_env_values = true, value_name = "URL", help_heading = "Cluster")]
    pub redis_url: Option<Secret>,

    /// File that holds the REDIS_URL
    #[arg(long, env, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub redis_url_file: Option<PathBuf>,

    /// PEM certificates to believe for Redis [default: the system's]
    #[arg(long, env, global = true, value_name = "FILE", help_heading = "Cluster")]
    pub redis_ca_file: Option<PathBuf>,

    /// Connections to Redis at most; few are ever opened
    #[arg(long, env, global = true, default_value_t = 5_000, value_name = "N", help_heading = "Cluster", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub redis_pool_size: u32,

    /// Time for which the documents in Redis live, in seconds
    #[arg(long, env, global = true, default_value_t = 300, value_name = "SECONDS", help_heading = "Cluster", value_parser = clap::value_parser!(u64).range(2..=31_536_000))]
    pub cache_ttl_sec: u64,

    /// Limits whose documents are kept in Redis
    #[arg(long, env, global = true, value_delimiter = ',', default_values_t = [10, 1_000], value_name = "N,…", help_heading = "Cluster", value_parser = clap::value_parser!(u32).range(1..=i64::from(CACHE_LIMIT_MAX)))]
    pub cache_limits: Vec<u32>,
}

/// How to log in to Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SaslMechanism {
    /// The password itself, so only over TLS
    #[value(name = "PLAIN")]
    Plain,
    /// A proof of the password
    #[value(name = "SCRAM-SHA-256")]
    ScramSha256,
    /// A proof of the password
    #[value(name = "SCRAM-SHA-512")]
    ScramSha512,
}

/// What must not be printed: its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// The services of a cluster, all of them known and every secret read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The log.
    pub kafka: KafkaSettings,
    /// The truth.
    pub database: DatabaseSettings,
    /// The fast path, and the documents.
    pub redis: RedisSettings,
}

/// The log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaSettings {
    /// `host:port` each, at least one.
    pub brokers: Vec<String>,
    /// The topic.
    pub topic: String,
    /// Its partitions, at least one.
    pub partitions: u32,
    /// TLS, if any.
    pub tls: Option<TlsSettings>,
    /// Who logs in, if anybody.
    pub sasl: Option<Sasl>,
}

/// TLS to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM certificates to believe; the system's when there are none.
    pub ca_file: Option<PathBuf>,
}

/// A login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sasl {
    /// How.
    pub mechanism: SaslMechanism,
    /// Who.
    pub username: String,
    /// The proof.
    pub password: Secret,
}

/// The truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// Where, with the password in it.
    pub url: Secret,
    /// Connections at most.
    pub pool_size: u32,
}

/// The fast path, and the documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where, with the password in it.
    pub url: Secret,
    /// PEM certificates to believe; the system's when there are none.
    pub ca_file: Option<PathBuf>,
    /// Connections at most.
    pub pool_size: u32,
    /// For how long a document lives.
    pub cache_ttl: Duration,
    /// Which lists have a document.
    pub cache_limits: Vec<u32>,
}

/// Why settings cannot be used: one sentence with the remedy.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A cluster lacks a service.
    #[error("{set} is set but {missing} is not: a cluster needs both; unset {set} for one process over a file")]
    Missing {
        /// What says that there is a cluster.
        set: &'static str,
        /// What it lacks.
        missing: &'static str,
    },
    /// A secret in two places.
    #[error("{0} and {0}_FILE are both set: keep one of them")]
    Twice(&'static str),
    /// A secret's file.
    #[error("{name}_FILE {} cannot be used ({why}): check it with `ls -l`", path.display())]
    File {
        /// The variable, without `_FILE`.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A setting that only makes sense with another.
    #[error("{set} is set but {missing} is not: {remedy}")]
    Alone {
        /// What is there.
        set: &'static str,
        /// What is not.
        missing: &'static str,
        /// What to do.
        remedy: &'static str,
    },
}

const REDIS_URL_DEFAULT: &str = "redis://localhost:6379/0";

impl Connections {
    /// Whether any broker is named.
    pub fn is_cluster(&self) -> bool {
        !brokers(self.kafka_brokers.as_deref().unwrap_or_default()).is_empty()
    }

    /// The cluster that is set; `None` when nothing of it is, which means one process over a file.
    ///
    /// # Errors
    /// A mix that makes no sense, or a secret's file that cannot be read.
    pub fn cluster(&self) -> Result<Option<Cluster>, SettingsError> {
        let brokers = brokers(self.kafka_brokers.as_deref().unwrap_or_default());
        let database_url = secret("DATABASE_URL", self.database_url.as_ref(), self.database_url_file.as_deref())?;
        let redis_url = secret("REDIS_URL", self.redis_url.as_ref(), self.redis_url_file.as_deref())?;
        let missing = |set, missing| Err(SettingsError::Missing { set, missing });
        let database_url = match (brokers.is_empty(), database_url, &redis_url) {
            (false, Some(url), _) => url,
            (false, None, _) => return missing("KAFKA_BROKERS", "DATABASE_URL"),
            (true, Some(_), _) => return missing("DATABASE_URL", "KAFKA_BROKERS"),
            (true, None, Some(_)) => return missing("REDIS_URL", "KAFKA_BROKERS"),
            (true, None, None) => return Ok(None),
        };
        Ok(Some(Cluster {
            kafka: KafkaSettings {
                brokers,
                topic: self.kafka_todo_topic.clone(),
                partitions: self.kafka_partitions,
                tls: self.kafka_tls()?,
                sasl: self.sasl()?,
            },
            database: DatabaseSettings { url: database_url, pool_size: self.db_pool_size },
            redis: RedisSettings {
                // Nobody waits for Redis, so a guess costs nothing when it is wrong.
                url: redis_url.unwrap_or_else(|| Secret(REDIS_URL_DEFAULT.to_owned())),
                ca_file: self.redis_ca_file.clone(),
                pool_size: self.redis_pool_size,
                cache_ttl: Duration::from_secs(self.cache_ttl_sec),
                cache_limits: self.cache_limits.clone(),
            },
        }))
    }

    fn kafka_tls(&self) -> Result<Option<TlsSettings>, SettingsError> {
        match (self.kafka_tls, &self.kafka_ca_file) {
            (true, ca_file) => Ok(Some(TlsSettings { ca_file: ca_file.clone() })),
            (false, None) => Ok(None),
            (false, Some(_)) => {
                let remedy = "set KAFKA_TLS=true to speak TLS, or unset the file";
                Err(SettingsError::Alone { set: "KAFKA_CA_FILE", missing: "KAFKA_TLS", remedy })
            }
        }
    }

    fn sasl(&self) -> Result<Option<Sasl>, SettingsError> {
        let password = secret("KAFKA_PASSWORD", self.kafka_password.as_ref(), self.kafka_password_file.as_deref())?;
        let username = self.kafka_username.clone().filter(|name| !name.is_empty());
        let alone = |set, missing, remedy| Err(SettingsError::Alone { set, missing, remedy });
        match (self.kafka_sasl_mechanism, username, password) {
            (Some(mechanism), Some(username), Some(password)) => Ok(Some(Sasl { mechanism, username, password })),
            (None, None, None) => Ok(None),
            (Some(_), None, _) => alone("KAFKA_SASL_MECHANISM", "KAFKA_USERNAME", "set who logs in"),
            (Some(_), _, None) => alone(
                "KAFKA_SASL_MECHANISM",
                "KAFKA_PASSWORD",
                "set it, or KAFKA_PASSWORD_FILE to a file that holds it",
            ),
            (None, Some(_), _) => alone("KAFKA_USERNAME", "KAFKA_SASL_MECHANISM", "set how to log in"),
            (None, None, Some(_)) => alone("KAFKA_PASSWORD", "KAFKA_SASL_MECHANISM", "set how to log in"),
        }
    }
}

/// A secret that stands in the variable `name` or in the file that `name` with `_FILE` behind it names, without the white
/// space around it. An empty variable is none.
///
/// # Errors
/// Both are set; the file cannot be read, or holds nothing.
pub fn secret(
    name: &'static str,
    value: Option<&Secret>,
    file: Option<&Path>,
) -> Result<Option<Secret>, SettingsError> {
    match (value.filter(|value| !value.0.is_empty()), file.filter(|path| !path.as_os_str().is_empty())) {
        (Some(_), Some(_)) => Err(SettingsError::Twice(name)),
        (Some(value), None) => Ok(Some(value.clone())),
        (None, None) => Ok(None),
        (None, Some(path)) => {
            let unusable = |why: String| SettingsError::File { name, path: path.to_owned(), why };
            let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
            match text.trim() {
                "" => Err(unusable("it is empty".to_owned())),
                secret => Ok(Some(Secret(secret.to_owned()))),
            }
        }
    }
}

impl Secret {
    /// The secret itself, for whoever must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

fn brokers(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|broker| !broker.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use clap::builder::Resettable;
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        connections: Connections,
    }

    /// Only what the arguments say: the tests themselves run in an environment that names services.
    fn connections(arguments: &[&str]) -> Connections {
        let command = CommandLine::command().mut_args(|argument| argument.env(Resettable::Reset));
        let matches = command.get_matches_from(["test"].iter().chain(arguments));
        CommandLine::from_arg_matches(&matches).expect("the same arguments").connections
    }

    const BOTH: [&str; 2] = ["--kafka-brokers=a:9092, b:9092,", "--database-url=postgres://u:hidden@h/d"];

    #[test]
    fn a_whole_cluster() {
        let cluster = connections(&BOTH).cluster().expect("it makes sense").expect("it is one");
        assert_eq!(cluster.kafka.brokers, ["a:9092", "b:9092"]);
        assert_eq!((cluster.kafka.topic.as_str(), cluster.kafka.partitions), ("todo-commands", 32));
        assert_eq!(
            (cluster.redis.url.reveal(), &cluster.redis.cache_limits[..]),
            (REDIS_URL_DEFAULT, &[10, 1_000][..])
        );
        assert_eq!(connections(&["--kafka-brokers="]).cluster(), Ok(None));
    }

    #[test]
    fn a_mix_that_makes_no_sense_names_what_is_missing() {
        let cases: [(&[&str], &str); 8] = [
            (&["--kafka-brokers=a:1"], "KAFKA_BROKERS is set but DATABASE_URL is not"),
            (&["--database-url=postgres://h"], "DATABASE_URL is set but KAFKA_BROKERS is not"),
            (&["--redis-url=redis://h"], "REDIS_URL is set but KAFKA_BROKERS is not"),
            (&["--kafka-ca-file=ca.pem"], "KAFKA_CA_FILE is set but KAFKA_TLS is not"),
            (&["--kafka-sasl-mechanism=plain"], "KAFKA_SASL_MECHANISM is set but KAFKA_USERNAME is not"),
            (
                &["--kafka-sasl-mechanism=scram-sha-512", "--kafka-username=u"],
                "KAFKA_SASL_MECHANISM is set but KAFKA_PASSWORD is not",
            ),
            (&["--kafka-username=u"], "KAFKA_USERNAME is set but KAFKA_SASL_MECHANISM is not"),
            (&["--kafka-password=p"], "KAFKA_PASSWORD is set but KAFKA_SASL_MECHANISM is not"),
        ];
        for (arguments, expected) in cases {
            let alone = arguments[0].starts_with("--kafka-") && arguments[0] != "--kafka-brokers=a:1";
            let with_cluster: Vec<&str> = arguments.iter().chain(BOTH.iter().filter(|_| alone)).copied().collect();
            let sentence = connections(&with_cluster).cluster().expect_err(expected).to_string();
            assert!(sentence.starts_with(expected), "{sentence}");
        }
    }

    #[test]
    fn secrets_come_from_files_too_and_are_never_printed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("url");
        let file = format!("--database-url-file={}", path.display());
        let from_file = || connections(&["--kafka-brokers=a:1", &file]).cluster();
        assert!(matches!(from_file(), Err(SettingsError::File { name: "DATABASE_URL", .. })));
        std::fs::write(&path, " \n").expect("writable");
        assert!(matches!(from_file(), Err(SettingsError::File { name: "DATABASE_URL", .. })));
        std::fs::write(&path, "postgres://u:hidden@h/d\n").expect("writable");
        let cluster = from_file().expect("it makes sense").expect("it is one");
        assert_eq!(cluster.database.url.reveal(), "postgres://u:hidden@h/d");
        assert!(!format!("{cluster:?}").contains("hidden"));

        let twice = connections(&[BOTH[0], BOTH[1], &file]);
        assert_eq!(twice.cluster(), Err(SettingsError::Twice("DATABASE_URL")));
        assert!(!format!("{twice:?}").contains("hidden"));
    }
}
