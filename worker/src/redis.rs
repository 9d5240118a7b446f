//! The fast path between workers and servers, and a courtesy to everybody else. Nothing right depends on Redis, and nothing
//! waits for it.
//!
//! - [`connect`]: a connection that is kept up
//! - [`publish`]: messages on the channel of changes
//! - [`subscribe`]: messages from it
//! - [`documents`]: the newest todos as JSON, under the keys of the original

pub mod connect;
pub mod documents;
pub mod publish;
pub mod subscribe;

pub use connect::{Redis, RedisError};
pub use publish::Sender;
pub use subscribe::Subscription;
