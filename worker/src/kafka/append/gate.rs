//! The door of one partition's queue: how much may be in it, and whether the partition takes writes at all.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::limits::PARTITION_QUEUE_BYTES_MAX;

/// What the door of a partition lets in.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Admits {
    /// The partition is away.
    Nothing,
    /// One command, and then nothing.
    Probe,
    /// Whatever there is room for.
    All,
}

/// The door, on any thread.
pub struct Gate {
    admits: AtomicU8,
    commands: AtomicUsize,
    bytes: AtomicUsize,
    /// What is wrong with the partition.
    why: Mutex<Option<String>>,
}

impl Gate {
    /// Admits nothing yet.
    pub fn new() -> Self {
        Self {
            admits: AtomicU8::new(Admits::Nothing as u8),
            commands: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            why: Mutex::new(Some("not opened yet".to_owned())),
        }
    }

    /// Lets a command in, or not. Two threads at the bound may both be refused where one would have fitted; neither ever
    /// passes it.
    pub fn enter(&self, bytes: usize) -> bool {
        self.commands.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let let_in = before + bytes <= PARTITION_QUEUE_BYTES_MAX && self.admit();
        if !let_in {
            self.leave(bytes);
        }
        let_in
    }

    fn admit(&self) -> bool {
        let admits = self.admits.load(Ordering::Acquire);
        admits == Admits::All as u8 || admits == Admits::Probe as u8 && self.take_probe()
    }

    /// Whether this thread is the one that brings the probe.
    fn take_probe(&self) -> bool {
        let (probe, nothing) = (Admits::Probe as u8, Admits::Nothing as u8);
        self.admits.compare_exchange(probe, nothing, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// What is let in from now on.
    pub fn set(&self, admits: Admits) {
        self.admits.store(admits as u8, Ordering::Release);
    }

    /// Makes room again.
    pub fn leave(&self, bytes: usize) {
        self.commands.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What is wrong with the partition; `None` when nothing is.
    pub fn why(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is wrong with the partition.
    pub fn set_why(&self, why: Option<String>) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Commands inside.
    pub fn commands_count(&self) -> usize {
        self.commands.load(Ordering::Relaxed)
    }

    /// Bytes of the commands inside.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_in() {
        let gate = Gate::new();
        let rows = [(Admits::Nothing, [false; 3]), (Admits::Probe, [true, false, false]), (Admits::All, [true; 3])];
        for (admits, expected) in rows {
            gate.set(admits);
            assert_eq!([1, 1, 1].map(|bytes| gate.enter(bytes)), expected);
        }
        assert_eq!((gate.commands_count(), gate.bytes()), (4, 4));
    }

    #[test]
    fn a_probe_without_room_is_not_taken() {
        let gate = Gate::new();
        gate.set(Admits::All);
        assert!(gate.enter(PARTITION_QUEUE_BYTES_MAX));
        gate.set(Admits::Probe);
        assert!(!gate.enter(1));
        gate.leave(PARTITION_QUEUE_BYTES_MAX);
        assert!(gate.enter(1) && !gate.enter(1));
    }
}
