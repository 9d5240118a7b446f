//! What an attack may leave behind: the server's memory, descriptors and gauges.

use crate::error::{Context, Error, Result};
use crate::process::child::Server;
use crate::process::counters::metric_sum;
use crate::process::memory::kibibytes;
use serde::{Deserialize, Serialize};
use std::fs;

/// A look at the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Resident memory (`VmRSS`).
    pub resident_bytes: u64,
    /// Its highest since the process began (`VmHWM`).
    pub highest_bytes: u64,
    /// Descriptors open.
    pub descriptors_count: usize,
    /// Connections, by its own gauge; the one that asks is one of them.
    pub connections_count: u64,
    /// Bytes of unfinished requests, by its own gauge.
    pub input_bytes: u64,
    /// Bytes of answers that are not taken, by its own gauge.
    pub unsent_bytes: u64,
}

/// Resident memory now, and its highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// `VmRSS`.
    pub now_bytes: u64,
    /// `VmHWM`.
    pub highest_bytes: u64,
}

/// What a gauge may be off when everything is as before: an answer that is just being sent.
const UNSENT_SLACK_BYTES: u64 = 1024 * 1024;
/// Descriptors that are not connections come and go: the store's, a file of a ready-made response.
const DESCRIPTORS_SLACK: usize = 24;

impl State {
    /// Looks at it, by one request.
    pub fn read(server: &Server) -> Result<State> {
        let metrics = server.metrics()?;
        let gauge =
            |name: &str| metric_sum(&metrics, name).ok_or_else(|| Error::Unusable(format!("/metrics has no {name}")));
        let resident = Resident::read(server)?;
        let descriptors = fs::read_dir(directory(server) + "/fd").context("counting the server's descriptors")?;
        Ok(State {
            resident_bytes: resident.now_bytes,
            highest_bytes: resident.highest_bytes,
            descriptors_count: descriptors.count(),
            connections_count: gauge("todo_connections")?,
            input_bytes: gauge("todo_input_bytes")?,
            unsent_bytes: gauge("todo_unsent_bytes")?,
        })
    }

    /// Whether nothing is held that was not held `before`. Memory is judged by its bound: an allocator keeps what it had.
    pub fn is_back(&self, before: &State) -> bool {
        self.connections_count <= before.connections_count
            && self.descriptors_count <= before.descriptors_count + DESCRIPTORS_SLACK
            && self.input_bytes <= before.input_bytes
            && self.unsent_bytes <= before.unsent_bytes + UNSENT_SLACK_BYTES
    }
}

impl Resident {
    /// Looks at it, without asking the server anything.
    pub fn read(server: &Server) -> Result<Resident> {
        let status = fs::read_to_string(directory(server) + "/status").context("reading the server's memory")?;
        Resident::parse(&status).ok_or_else(|| Error::Unusable("the server's memory is not told".into()))
    }

    fn parse(status: &str) -> Option<Resident> {
        let bytes = |name| kibibytes(status, name).map(|count| count * 1024);
        Some(Resident { now_bytes: bytes("VmRSS:")?, highest_bytes: bytes("VmHWM:")? })
    }
}

fn directory(server: &Server) -> String {
    format!("/proc/{}", server.pid().as_raw_nonzero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_kibibytes() {
        let status = "Name:\tx\nVmHWM:\t      12 kB\nVmRSS:\t 7 kB\n";
        assert_eq!(Resident::parse(status), Some(Resident { now_bytes: 7 * 1024, highest_bytes: 12 * 1024 }));
        assert_eq!(Resident::parse("VmRSS:\t 7 kB\n"), None);
    }

    #[test]
    fn what_is_held_is_not_back() {
        let before = State { connections_count: 1, descriptors_count: 40, ..State::default() };
        assert!(before.is_back(&before));
        let table = [
            State { connections_count: 2, ..before },
            State { descriptors_count: 40 + DESCRIPTORS_SLACK + 1, ..before },
            State { input_bytes: 1, ..before },
            State { unsent_bytes: UNSENT_SLACK_BYTES + 1, ..before },
        ];
        for held in table {
            assert!(!held.is_back(&before), "{held:?}");
        }
        assert!(State { resident_bytes: 1 << 30, ..before }.is_back(&before));
    }
}
