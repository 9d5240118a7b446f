//! The log of a cluster: a Kafka topic.
//!
//! - [`connect`]: the brokers, and one partition of the topic, every call with a time limit of our own
//! - [`append`]: commands in, from any thread; one batch in flight per partition
//! - [`log`]: one partition of it, for the apply loop

pub mod append;
pub mod connect;
pub mod log;

pub use append::{Appender, Appending};
pub use connect::{Kafka, KafkaError};
pub use log::KafkaLog;
