//! Writes, and what they do to reads.
//!
//! - `plan` decides what to write; `writer` sends it and keeps a record of every write.
//! - `age` says how old what was read is; `interference` measures reads beside writes, `compare` those of two servers.
//! - `durable` counts acknowledged writes; `pairs` reads each write back on another connection.

pub mod age;
pub mod compare;
pub mod durable;
pub mod interference;
pub mod pairs;
pub mod plan;
pub mod writer;
