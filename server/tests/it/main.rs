//! The whole server, from outside: the real binary on a port of its own, spoken to over real sockets.
//!
//! Everything passes with every I/O driver and accept mode, chosen by the environment that the tests are run with:
//! `MONOIO_FORCE_LEGACY_DRIVER=1`, `ACCEPT=reuseport`, both, or neither. `KILL_ROUNDS` raises the rounds of kill -9.
//!
//! No test sleeps to be right: it waits for what must come, and fails when that has not come in [`harness::PATIENCE`].

#![expect(
    clippy::disallowed_macros,
    clippy::disallowed_methods,
    clippy::needless_pass_by_value,
    reason = "tests ask clocks, wait between looks, and say what they saw"
)]

mod abuse;
mod access_log;
#[cfg(target_os = "linux")]
mod admission;
mod api;
mod away;
mod backpressure;
mod backup;
mod closing;
mod cluster;
mod command_line;
mod cors;
mod crash;
mod deadlines;
mod descriptors;
mod drain;
mod files;
#[cfg(target_os = "linux")]
mod handover;
#[cfg(target_os = "linux")]
mod hangup;
mod harness;
mod pipelining;
mod profile;
#[cfg(target_os = "linux")]
mod proxy_header;
mod secrets;
mod start;
mod store_trouble;
mod transfer;
mod visibility;
mod watching;
mod writes;
