//! The server.
pub mod bridge;
pub mod counters;
pub mod http;
pub mod limits;
#[cfg(any())]
pub mod shard;
pub mod snapshot;
#[cfg(any())]
pub mod sys;
