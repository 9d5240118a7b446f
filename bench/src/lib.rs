//! The bench of the Todo API: a load generator, reference servers, and the runs that compare them.
//!
//! - `scan` finds and checks responses in a stream; `load` is the generator around it; `single` sends one request.
//! - `headers`, `mix`, `input` and `condition` read what a load is asked to send and to be judged by.
//! - `run`, `floor` and `sys` are the reference servers: what any server must do at least.
//! - `empty_loop` is the server's own runtime and I/O around nothing.
//! - `process` starts servers and reads what the kernel and they themselves tell about their work.
//! - `matrix` runs server and references interleaved and judges the ratios; `statistics` is its arithmetic.
//! - `writes` sends writes: their rate, what they cost the reads, and how old what is read is.
//! - `balance` counts how evenly shards share connections; `scaling` measures what another shard adds.
//! - `memory` holds connections open, idle or never read; `drip` takes a byte a second while writes run.
//! - `abuse` attacks a server while others use it, and says what they notice.
//! - `report` makes one page of a run, and compares two.
//! - `audit` checks what other clients printed; it measures nothing.
//!
//! A server under test is judged by its CPU time per checked answer. Requests per second depend on the generator's
//! core too and are a server's result only while that core is not the limit.

#![cfg(target_os = "linux")]

pub mod abuse;
pub mod audit;
pub mod balance;
pub mod clock;
pub mod condition;
pub mod drip;
pub mod empty_loop;
pub mod error;
pub mod floor;
pub mod headers;
pub mod input;
pub mod limits;
pub mod load;
pub mod matrix;
pub mod memory;
pub mod mix;
pub mod process;
pub mod report;
pub mod request;
pub mod run;
pub mod scaling;
pub mod scan;
pub mod single;
pub mod statistics;
pub mod sys;
pub mod writes;
