//! The words and rules that every part of the Todo API shares. Pure: no I/O, no clock, no runtime.
//!
//! - [`names`]: where the route, the topic and the keys get their names from
//! - [`id`]: item ids (`UUIDv7`, so the id is the order) and the source of new ones
//! - [`mod@todo`]: what a todo is: its fields, the JSON that is accepted and the JSON that is answered
//! - [`command`]: a write asked for, and its record in the log, byte by byte
//! - [`fold`]: how a batch of commands changes the rows of a partition
//! - [`change`]: a write done, and the arithmetic of positions
//! - [`message`]: changes as they are published, byte by byte
//! - [`defects`]: rules that the simulator can break
//! - [`partition`]: which partition of the log a todo belongs to
//! - [`limits`]: every bound of this crate
#![forbid(unsafe_code)]

pub mod change;
pub mod command;
pub mod defects;
pub mod fold;
pub mod id;
pub mod limits;
pub mod message;
pub mod names;
pub mod partition;
pub mod todo;
