//! The write side of the Todo API: commands in, truth and changes out.
//!
//! - [`traits`]: the three seams, [`CommandLog`](traits::CommandLog), [`TodoStore`](traits::TodoStore) and
//!   [`ChangeFeed`](traits::ChangeFeed), and what can go wrong at each
//! - [`apply`]: the loop between them, the same for every log, store and feed
//! - [`channel`]: the log and the feed of one process, in memory
//! - [`kafka`]: the log of a cluster
//! - [`sqlite`]: the store in one file, and the reads that a snapshot needs
//! - [`postgres`]: the store of a cluster, its reads, leases and dead letters
//! - [`redis`]: the fast path of a cluster, and documents for everybody else
//! - [`reads`]: what a snapshot reads of a store
//! - [`producer`]: the name of a process in a log
//! - [`messages`]: the fast path from publishers to followers
//! - [`publish`]: gathers changes and sends them as messages
//! - [`command_line`]: what the worker is told
//! - [`service`]: the worker as a process
//! - [`exposition`]: the text of metrics
//! - [`process`]: what the system knows of a process, as metrics
//! - [`settings`]: where the services of a cluster are
//! - [`tls`]: whom to believe
//! - [`sample`] and [`fill`]: varied todos, and how a store is filled with them
//! - [`logging`]: what a process says on standard error
//! - [`limits`]: every bound of this crate
//!
//! A write's way: [`channel::Appender`], [`apply::run`], [`sqlite::SqliteStore`], [`channel::ChannelFeed`], and back as an
//! [`Outcome`](traits::Outcome).
#![forbid(unsafe_code)]

pub mod apply;
pub mod channel;
pub mod command_line;
pub mod exposition;
pub mod fill;
pub mod kafka;
pub mod limits;
pub mod logging;
pub mod messages;
pub mod postgres;
pub mod process;
pub mod producer;
pub mod publish;
pub mod reads;
pub mod redis;
pub mod sample;
pub mod service;
pub mod settings;
pub mod sqlite;
pub mod tls;
pub mod traits;
