//! The floor by `io_uring`: one operation in flight per connection, one system call per round.

use crate::error::{Context, Result};
use crate::floor::Reference;
use crate::limits::{FLOOR_CONNECTIONS_MAX, FLOOR_OWN_READ_BYTES, FLOOR_RING_ENTRIES};
use crate::process::counters::SharedCounters;
use crate::run::{Debt, Run};
use crate::sys::ring::{Completion, Ring};
use rustix::fd::OwnedFd;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;

/// Serves for ever.
pub fn serve(reference: Reference) -> Result<()> {
    // The ring may use the run until the process ends.
    let run: &'static Run = Box::leak(Box::new(reference.run));
    let ring = Ring::new(FLOOR_RING_ENTRIES, run.bytes(), FLOOR_CONNECTIONS_MAX, FLOOR_OWN_READ_BYTES)
        .context("creating an io_uring (Linux 6.1 with io_uring allowed is needed)")?;
    let mut floor = RingFloor {
        ring,
        run,
        request_bytes: reference.request_bytes,
        counters: reference.counters,
        connections: Vec::new(),
        free: Vec::new(),
    };
    floor.serve(&reference.listener).context("using the io_uring")
}

struct RingFloor {
    ring: Ring,
    run: &'static Run,
    request_bytes: usize,
    counters: Arc<SharedCounters>,
    /// By slot. A connection has exactly one operation in flight, so none is over when its slot is freed.
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

struct Connection {
    socket: OwnedFd,
    debt: Debt,
}

impl RingFloor {
    fn serve(&mut self, listener: &TcpListener) -> io::Result<()> {
        self.ring.accept(listener)?;
        loop {
            self.ring.submit_and_wait()?;
            while let Some(completion) = self.ring.next_completion() {
                match completion {
                    Completion::Accepted { socket, more } => {
                        if let Ok(socket) = socket {
                            self.open(socket)?;
                        }
                        if !more {
                            self.ring.accept(listener)?;
                        }
                    }
                    Completion::Received { slot, result: Ok(received_bytes @ 1..) } => {
                        if let Some(connection) = &mut self.connections[slot] {
                            let requests_count = connection.debt.received(received_bytes, self.request_bytes, self.run);
                            self.counters.add_read(requests_count);
                            self.go_on(slot)?;
                        }
                    }
                    Completion::Sent { slot, result: Ok(sent_bytes @ 1..) } => {
                        if let Some(connection) = &mut self.connections[slot] {
                            connection.debt.sent(sent_bytes, self.run);
                            self.go_on(slot)?;
                        }
                    }
                    // The peer has gone.
                    Completion::Received { slot, .. } | Completion::Sent { slot, .. } => {
                        self.connections[slot] = None;
                        self.free.push(slot);
                    }
                }
            }
        }
    }

    fn open(&mut self, socket: OwnedFd) -> io::Result<()> {
        let slot = match self.free.pop() {
            Some(slot) => slot,
            // Closed at once; the generator counts it as lost.
            None if self.connections.len() == FLOOR_CONNECTIONS_MAX => return Ok(()),
            None => {
                self.connections.push(None);
                self.connections.len() - 1
            }
        };
        self.connections[slot] = Some(Connection { socket, debt: Debt::default() });
        self.go_on(slot)
    }

    /// Submits the connection's next operation: a send while anything is owed, else a receive.
    fn go_on(&mut self, slot: usize) -> io::Result<()> {
        let Some(connection) = &self.connections[slot] else { return Ok(()) };
        match connection.debt.next(self.run) {
            Some(part) => self.ring.send(&connection.socket, slot, part),
            None => self.ring.receive(&connection.socket, slot),
        }
    }
}
