//! The brokers, and one partition of the topic.
//!
//! What the client library does on its own and what is made of it here:
//!
//! 1. It has no timeouts and tries for ever. So each call has a limit of ours, above the time for which the library may try
//!    again by itself; what it does within that time costs nobody a write (a connection that the broker closed after ten
//!    idle minutes, a partition whose leader moves).
//! 2. A call that was given up leaves a connection behind of which nothing is known. So whoever got an error or a timeout
//!    drops the [`Partition`] and opens it anew, its connections with it.
//! 3. Opening a topic that is missing would make one with a single partition where the brokers allow that. So the topic is
//!    looked for first, made with the configured count when it is absent, and only then opened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rskafka::BackoffConfig;
use rskafka::chrono::{DateTime, Utc};
use rskafka::client::error::{Error, ProtocolError, RequestError};
use rskafka::client::partition::{Compression, OffsetAt, PartitionClient, UnknownTopicHandling};
use rskafka::client::{Client, ClientBuilder, Credentials, SaslConfig};
use rskafka::record::{Record, RecordAndOffset};
use tokio::time::{sleep, timeout};

use crate::limits::{
    KAFKA_FETCH_BYTES_MAX, KAFKA_FETCH_WAIT, KAFKA_FRAME_BYTES_MAX, KAFKA_OPEN_TIMEOUT, KAFKA_REQUEST_TIMEOUT,
    KAFKA_RETRY_PAUSE_BASE, KAFKA_RETRY_PAUSE_MAX, KAFKA_RETRY_PAUSE_MIN, KAFKA_RETRY_WITHIN,
};
use crate::settings::{KafkaSettings, Sasl, SaslMechanism};
use crate::tls::{TlsError, client_config};
use crate::traits::Extent;

/// Where the brokers are and how to speak to them. Clones are one.
#[derive(Clone)]
pub struct Kafka(Arc<Inner>);

/// One partition of the topic, with connections of its own. After any error: drop it.
pub struct Partition {
    client: PartitionClient,
}

/// What was fetched.
pub struct Fetched {
    /// In order, from the offset asked for on.
    pub records: Vec<RecordAndOffset>,
    /// One behind the last record that all replicas have.
    pub end: u64,
}

/// A record to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyed {
    /// The canonical id of its todo.
    pub key: [u8; 36],
    /// An encoded [`Record`](todo_proto::command::Record).
    pub value: Vec<u8>,
}

/// What the brokers do not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaError {
    /// Nobody answers as expected: try again.
    #[error("Kafka is away: {0}")]
    Away(String),
    /// The topic is another one than the store's.
    #[error(
        "topic {topic} has {found} partitions and KAFKA_PARTITIONS says {configured}: set it to what the store was made with"
    )]
    PartitionCount {
        /// Which topic.
        topic: String,
        /// What it has.
        found: usize,
        /// What the settings say.
        configured: u32,
    },
    /// There is no record at the offset that was asked for, and none is to come there.
    #[error("the log does not have offset {0}")]
    OutOfRange(u64),
    /// Somebody has written records that the client library cannot read: compressed ones, or the marks of a transaction.
    #[error("the log has records that cannot be read: {0}")]
    Unreadable(String),
}

impl KafkaError {
    /// Whether the brokers answer and refuse the login, which does not pass by itself.
    pub fn is_refused_login(&self) -> bool {
        // The client library hands the causes of a failed connection out as text only; this is Kafka's error 58.
        matches!(self, Self::Away(why) if why.contains("SaslAuthenticationFailed"))
    }
}

struct Inner {
    settings: KafkaSettings,
    tls: Option<Arc<rustls::ClientConfig>>,
    sasl: Option<SaslConfig>,
}

impl Kafka {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// The certificates to believe cannot be read.
    pub fn new(settings: &KafkaSettings) -> Result<Self, TlsError> {
        let tls = settings.tls.as_ref().map(|tls| client_config(tls.ca_file.as_deref())).transpose()?;
        let sasl = settings.sasl.as_ref().map(sasl_config);
        Ok(Self(Arc::new(Inner { settings: settings.clone(), tls: tls.map(Arc::new), sasl })))
    }

    /// How many partitions the topic is said to have.
    pub fn partitions_count(&self) -> u32 {
        self.0.settings.partitions
    }

    /// Opens a partition, and the topic before it: makes it when it is absent, and looks at the count of its partitions.
    pub async fn open(&self, part: u32) -> Result<Partition, KafkaError> {
        let opened = async {
            let client = self.client().await?;
            self.check_topic(&client).await?;
            // An unknown topic is not waited for: it may have been deleted since.
            let handling = UnknownTopicHandling::Error;
            let topic = &self.0.settings.topic;
            let client =
                client.partition_client(topic, kafka_part(part), handling).await.map_err(|error| away(&error))?;
            Ok(Partition { client })
        };
        within(KAFKA_OPEN_TIMEOUT, "no connection", opened).await
    }

    /// Looks at the topic as [`open`](Self::open) does, and opens nothing.
    pub async fn check(&self) -> Result<(), KafkaError> {
        let checked = async { self.check_topic(&self.client().await?).await };
        within(KAFKA_OPEN_TIMEOUT, "no connection", checked).await
    }

    /// Whether the topic is there. Unlike [`check`](Self::check) it makes none. Within [`KAFKA_OPEN_TIMEOUT`].
    ///
    /// # Errors
    /// The brokers do not answer, or do not let us in; the topic has another count of partitions.
    pub async fn has_topic(&self) -> Result<bool, KafkaError> {
        let looked = async { self.find_topic(&self.client().await?).await };
        within(KAFKA_OPEN_TIMEOUT, "no connection", looked).await
    }

    async fn client(&self) -> Result<Client, KafkaError> {
        let mut builder = ClientBuilder::new(self.0.settings.brokers.clone())
            .client_id(env!("CARGO_PKG_NAME"))
            .max_message_size(KAFKA_FRAME_BYTES_MAX)
            .backoff_config(BackoffConfig {
                init_backoff: KAFKA_RETRY_PAUSE_MIN,
                max_backoff: KAFKA_RETRY_PAUSE_MAX,
                base: KAFKA_RETRY_PAUSE_BASE,
                deadline: Some(KAFKA_RETRY_WITHIN),
            });
        if let Some(tls) = &self.0.tls {
            builder = builder.tls_config(Arc::clone(tls));
        }
        if let Some(sasl) = &self.0.sasl {
            builder = builder.sasl_config(sasl.clone());
        }
        builder.build().await.map_err(|error| away(&error))
    }

    async fn check_topic(&self, client: &Client) -> Result<(), KafkaError> {
        while !self.find_topic(client).await? {
            self.create_topic(client).await?;
            // Seen as soon as the brokers have told each other, which the caller's timeout bounds.
            sleep(KAFKA_RETRY_PAUSE_MAX).await;
        }
        Ok(())
    }

    /// Whether there is the topic, with the partitions that are set.
    async fn find_topic(&self, client: &Client) -> Result<bool, KafkaError> {
        let KafkaSettings { topic, partitions, .. } = &self.0.settings;
        let topics = client.list_topics().await.map_err(|error| away(&error))?;
        match topics.into_iter().find(|found| found.name == *topic) {
            None => Ok(false),
            Some(found) if found.partitions.len() == *partitions as usize => Ok(true),
            Some(found) => {
                let found = found.partitions.len();
                Err(KafkaError::PartitionCount { topic: topic.clone(), found, configured: *partitions })
            }
        }
    }

    async fn create_topic(&self, client: &Client) -> Result<(), KafkaError> {
        const REPLICAS_AS_THE_BROKER_SAYS: i16 = -1;
        let KafkaSettings { topic, partitions, .. } = &self.0.settings;
        let controller = client.controller_client().map_err(|error| away(&error))?;
        let limit_ms = i32::try_from(KAFKA_OPEN_TIMEOUT.as_millis()).expect("seconds");
        let created = controller.create_topic(topic, kafka_part(*partitions), REPLICAS_AS_THE_BROKER_SAYS, limit_ms);
        match created.await {
            Ok(()) => {
                tracing::warn!(
                    topic,
                    partitions,
                    "the topic was absent and is made with the broker's defaults: set its replicas, min.insync.replicas, \
                     retention and message.timestamp.type=LogAppendTime with Kafka's own tool"
                );
                Ok(())
            }
            Err(Error::ServerError { protocol_error: ProtocolError::TopicAlreadyExists, .. }) => Ok(()),
            Err(error) => Err(away(&error)),
        }
    }
}

impl Partition {
    /// Appends in this order, and returns when all replicas have the records. After an error they may have them too, now
    /// or later, even twice. No time limit: the caller has one.
    pub async fn append(&self, records: Vec<Keyed>) -> Result<(), KafkaError> {
        // The topic's own time counts (LogAppendTime); this one only where somebody has left it at CreateTime.
        let timestamp = now();
        let records = records.into_iter().map(|record| Record {
            key: Some(record.key.to_vec()),
            value: Some(record.value),
            headers: BTreeMap::new(),
            timestamp,
        });
        self.client.produce(records.collect(), Compression::NoCompression).await.map(drop).map_err(|error| away(&error))
    }

    /// Waits for records, a moment at most: there may be none.
    pub async fn fetch(&self, offset: u64) -> Result<Fetched, KafkaError> {
        let wait_ms = i32::try_from(KAFKA_FETCH_WAIT.as_millis()).expect("below a second");
        let fetched = async {
            let fetched = self.client.fetch_records(kafka_offset(offset), 1..KAFKA_FETCH_BYTES_MAX + 1, wait_ms).await;
            let (records, end) = fetched.map_err(|error| match error {
                Error::ServerError { protocol_error: ProtocolError::OffsetOutOfRange, .. } => {
                    KafkaError::OutOfRange(offset)
                }
                Error::Request(RequestError::ReadVersionedError(why)) => KafkaError::Unreadable(why.to_string()),
                error => away(&error),
            })?;
            Ok(Fetched { records, end: our_offset(end)? })
        };
        within(KAFKA_FETCH_WAIT + KAFKA_REQUEST_TIMEOUT, "no answer to a fetch", fetched).await
    }

    /// The offsets there are.
    pub async fn extent(&self) -> Result<Extent, KafkaError> {
        let offsets = async {
            let earliest = self.client.get_offset(OffsetAt::Earliest).await.map_err(|error| away(&error))?;
            let end = self.client.get_offset(OffsetAt::Latest).await.map_err(|error| away(&error))?;
            Ok(Extent { earliest: our_offset(earliest)?, end: our_offset(end)? })
        };
        // A fetch that was given up may be in front of it.
        within(KAFKA_FETCH_WAIT + KAFKA_REQUEST_TIMEOUT, "no answer about offsets", offsets).await
    }
}

async fn within<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = Result<T, KafkaError>>,
) -> Result<T, KafkaError> {
    timeout(limit, call).await.unwrap_or_else(|_| Err(KafkaError::Away(format!("{what} within {limit:?}"))))
}

fn away(error: &Error) -> KafkaError {
    KafkaError::Away(error.to_string())
}

fn sasl_config(sasl: &Sasl) -> SaslConfig {
    let credentials = Credentials::new(sasl.username.clone(), sasl.password.reveal().to_owned());
    match sasl.mechanism {
        SaslMechanism::Plain => SaslConfig::Plain(credentials),
        SaslMechanism::ScramSha256 => SaslConfig::ScramSha256(credentials),
        SaslMechanism::ScramSha512 => SaslConfig::ScramSha512(credentials),
    }
}

fn now() -> DateTime<Utc> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    DateTime::from_timestamp_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)).unwrap_or_default()
}

fn kafka_part(part: u32) -> i32 {
    i32::try_from(part).expect("partitions are few")
}

fn kafka_offset(offset: u64) -> i64 {
    i64::try_from(offset).expect("offsets come from Kafka")
}

fn our_offset(offset: i64) -> Result<u64, KafkaError> {
    u64::try_from(offset).map_err(|_| KafkaError::Away(format!("the broker says offset {offset}")))
}
