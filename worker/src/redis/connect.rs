//! A connection to Redis that is kept up.
//!
//! What the client library does on its own and what is made of it here:
//!
//! 1. It can wait for ever for a connection, and for an answer. So nobody waits for a connection (it is made in the
//!    background, again and again), a command fails at once while there is none, and each has a time limit.
//! 2. It sends a command again whose connection broke. So one attempt is all that a command has.
//! 3. A server that answers nothing any more goes unnoticed while nothing is asked. So whoever holds a connection asks
//!    something every second, and a connection that leaves it unanswered is closed and made anew.

use std::sync::Arc;
use std::time::Duration;

use fred::clients::{Client, WithOptions};
use fred::interfaces::ClientLike;
use fred::types::config::{
    Config, ConnectionConfig, Options, PerformanceConfig, ReconnectPolicy, TcpConfig, UnresponsiveConfig,
};
use tokio::time::sleep;

use crate::limits::{
    REDIS_BROADCAST_MESSAGES_MAX, REDIS_COMMAND_TIMEOUT, REDIS_CONNECT_TIMEOUT, REDIS_PAUSE_MAX, REDIS_PAUSE_MIN,
    REDIS_SILENCE_MAX, REDIS_SILENCE_SEEN_EVERY,
};
use crate::redis::publish::Sender;
use crate::redis::subscribe::{self, Subscription};
use crate::settings::RedisSettings;
use crate::tls::{TlsError, client_config};

/// Where Redis is. Clones are one.
#[derive(Clone)]
pub struct Redis(Arc<Config>);

/// Why Redis cannot be spoken to, ever: one sentence with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// The URL.
    #[error("REDIS_URL cannot be used ({0}): it must be redis://user:password@host:port/0, or rediss://… for TLS")]
    Url(String),
    /// The certificates.
    #[error("REDIS_CA_FILE: {0}")]
    Tls(#[from] TlsError),
}

impl Redis {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// The URL makes no sense, or the certificates to believe cannot be read.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisError> {
        let (scheme, rest) = settings.url.reveal().split_once("://").ok_or(RedisError::Url("no scheme".to_owned()))?;
        let tls = match scheme {
            "redis" => None,
            "rediss" => Some(client_config(settings.ca_file.as_deref())?),
            // Without the URL itself: it holds the password.
            _ => return Err(RedisError::Url("unknown scheme".to_owned())),
        };
        // Its own way to TLS would take the process's default provider, and there is none.
        let parsed = Config::from_url_centralized(&format!("redis://{rest}"));
        let mut config = parsed.map_err(|error| RedisError::Url(error.details().to_owned()))?;
        config.tls = tls.map(Into::into);
        config.fail_fast = false;
        Ok(Self(Arc::new(config)))
    }

    /// Host and port, without user or password.
    pub fn place(&self) -> String {
        self.0.server.hosts().first().map_or_else(String::new, ToString::to_string)
    }

    /// Sends messages. Connects in the background, on the current runtime and for as long as that lives.
    pub fn sender(&self) -> Sender {
        Sender::new(self.connect())
    }

    /// Receives messages. Connects in the background, on the current runtime and for as long as that lives.
    pub fn subscription(&self) -> Subscription {
        subscribe::start(self.client())
    }

    /// A client whose connection is made, and made again, in the background, and is known to be dead within seconds.
    pub(super) fn connect(&self) -> Client {
        let client = self.client();
        tokio::spawn(keep_up(client.clone()));
        let asking = client.clone();
        tokio::spawn(async move {
            loop {
                sleep(REDIS_SILENCE_SEEN_EVERY).await;
                // Only that it is asked matters: who stays silent is cut off by the client.
                let _ = at_once(&asking, REDIS_COMMAND_TIMEOUT).ping::<()>(None).await;
            }
        });
        client
    }

    fn client(&self) -> Client {
        let performance = PerformanceConfig {
            default_command_timeout: REDIS_COMMAND_TIMEOUT,
            broadcast_channel_capacity: REDIS_BROADCAST_MESSAGES_MAX,
            ..PerformanceConfig::default()
        };
        let connection = ConnectionConfig {
            connection_timeout: REDIS_CONNECT_TIMEOUT,
            internal_command_timeout: REDIS_CONNECT_TIMEOUT,
            max_command_attempts: 1,
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(REDIS_SILENCE_MAX),
                interval: REDIS_SILENCE_SEEN_EVERY,
            },
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            ..ConnectionConfig::default()
        };
        let pause_ms = |pause: Duration| u32::try_from(pause.as_millis()).expect("seconds");
        let for_ever = 0;
        let policy =
            ReconnectPolicy::new_exponential(for_ever, pause_ms(REDIS_PAUSE_MIN), pause_ms(REDIS_PAUSE_MAX), 2);
        Client::new((*self.0).clone(), Some(performance), Some(connection), Some(policy))
    }
}

/// Keeps the client connected, whatever it thinks of an error.
pub(super) async fn keep_up(client: Client) {
    loop {
        if let Err(why) = client.connect().await {
            tracing::warn!(%why, "the task of a Redis connection has ended");
        }
        sleep(REDIS_PAUSE_MAX).await;
    }
}

/// The client for one command that fails at once when there is no connection, and after `limit` without an answer.
pub(super) fn at_once(client: &Client, limit: Duration) -> WithOptions<Client> {
    let options = Options { max_attempts: Some(1), timeout: Some(limit), fail_fast: true, ..Options::default() };
    client.with_options(&options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redis(url: &str) -> Result<Redis, RedisError> {
        Redis::new(&RedisSettings {
            url: url.parse().expect("any text"),
            ca_file: None,
            pool_size: 1,
            cache_ttl: Duration::from_secs(300),
            cache_limits: Vec::new(),
        })
    }

    #[test]
    fn urls_that_make_no_sense_are_refused_without_being_shown() {
        for url in
            ["", "secret", "http://u:secret@host", "redis://", "redis://u:secret@host:port/0", "redis://h/secret"]
        {
            let sentence = redis(url).map(drop).expect_err(url).to_string();
            assert!(sentence.contains("REDIS_URL"), "{sentence}");
            assert!(!sentence.contains("secret"), "{sentence}");
        }
    }

    #[test]
    fn urls_say_everything() {
        let Redis(config) = redis("redis://anna:s%20cret@host:7000/3").expect("a URL");
        assert_eq!(config.username.as_deref(), Some("anna"));
        assert_eq!(config.password.as_deref(), Some("s cret"));
        assert_eq!(config.database, Some(3));
        assert_eq!(config.server.hosts()[0].to_string(), "host:7000");
        assert_eq!(redis("redis://anna:secret@host:7000/3").expect("a URL").place(), "host:7000");
        let Redis(config) = redis("redis://localhost").expect("a URL");
        assert_eq!(config.server.hosts()[0].to_string(), "localhost:6379");
        assert!(config.tls.is_none());
    }
}
