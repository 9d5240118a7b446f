//! HTTP/1.1 as pure functions and one pure state machine: bytes in, meaning out. No I/O, no clock, no runtime.

pub mod bearer;
pub mod body;
pub mod condition;
pub mod connection;
pub mod date;
pub mod head;
pub mod idempotency;
pub mod known;
pub mod output;
pub mod reject;
pub mod reply;
pub mod route;
pub mod site;
pub mod syntax;
