//! The HTTP server of the Todo API: a data plane that answers reads from memory, one thread per core, and a control plane
//! that follows changes and makes writes durable. They meet in [`bridge`].
//!
//! ```text
//! serve        puts the process together            settings, startup, fill, clock
//! shard/       the data plane: waits, moves bytes   one runtime, one listener, one state per core
//!   http/      what the bytes mean                  pure: the parser, the connection machine, answers
//!   snapshot/  what there is to send                pure: pages, slices, ready-made responses
//! admission/   pure: who may do how much           addresses, buckets, their shares on shards
//! bridge       where data and control plane meet
//! control/     the control plane                    feed, reads below the floor, pages, signals
//! check        `check`: settings, facts, problems
//! counters     what a shard counts, and latency, what it times
//! transfer/    `export` and `seed`
//! sys/         the only unsafe code
//! limits       every bound and timeout
//! ```
//!
//! A read is a short walk: [`shard::connection`], [`http::connection`], [`http::head`], [`http::route`],
//! [`snapshot::response`], write. A write is one line: [`http::connection`], [`bridge`], log, apply, store, feed,
//! [`control::feed`], shard.

pub mod admission;
pub mod bridge;
pub mod check;
pub mod clock;
pub mod control;
pub mod counters;
pub mod fill;
pub mod http;
pub mod latency;
pub mod limits;
pub mod repeated;
pub mod serve;
pub mod settings;
pub mod shard;
pub mod snapshot;
pub mod startup;
pub mod sys;
pub mod transfer;
