//! The floor by epoll: edge-triggered, no `epoll_ctl` after the accept, one read buffer for all.

use crate::error::{Context, Result};
use crate::floor::Reference;
use crate::limits::{EVENTS_PER_WAIT, FLOOR_CONNECTIONS_MAX, FLOOR_SHARED_READ_BYTES};
use crate::run::Debt;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

/// Event data of the listener; connections have their index in the table.
const LISTENER: u64 = u64::MAX;

/// Serves for ever; with a memfd of the run by sendfile.
pub fn serve(reference: &Reference, memfd: Option<OwnedFd>) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("creating an epoll")?;
    let listener = epoll::EventData::new_u64(LISTENER);
    epoll::add(&epoll, &reference.listener, listener, epoll::EventFlags::IN).context("watching the listener")?;
    let mut floor = EpollFloor { reference, memfd, epoll, connections: Vec::new(), free: Vec::new() };
    let mut buffer = vec![0; FLOOR_SHARED_READ_BYTES];
    let mut events = Vec::with_capacity(EVENTS_PER_WAIT);
    loop {
        events.clear();
        match epoll::wait(&floor.epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for requests"),
        }
        for event in &events {
            if event.data.u64() == LISTENER {
                floor.accept()?;
            } else {
                floor.handle(event.data.u64() as usize, event.flags, &mut buffer);
            }
        }
    }
}

struct EpollFloor<'r> {
    reference: &'r Reference,
    memfd: Option<OwnedFd>,
    epoll: OwnedFd,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
}

struct Connection {
    socket: OwnedFd,
    debt: Debt,
    /// The socket may hold bytes for which no further edge will come.
    readable: bool,
    /// The peer has sent its last byte: read up to the end, for which no edge will come.
    ended: bool,
}

impl EpollFloor<'_> {
    fn accept(&mut self) -> Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match accept_with(&self.reference.listener, flags) {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
            Err(error) => return Err(error).context("accepting"),
        };
        let index = match self.free.pop() {
            Some(index) => index,
            // Closed at once; the generator counts it as lost.
            None if self.connections.len() == FLOOR_CONNECTIONS_MAX => return Ok(()),
            None => {
                self.connections.push(None);
                self.connections.len() - 1
            }
        };
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &socket, data, interest | epoll::EventFlags::ET).context("watching a connection")?;
        self.connections[index] = Some(Connection { socket, debt: Debt::default(), readable: false, ended: false });
        Ok(())
    }

    fn handle(&mut self, index: usize, flags: epoll::EventFlags, buffer: &mut [u8]) {
        // One wait reports a socket once, so an event never meets a connection that took its index meanwhile.
        let Some(connection) = &mut self.connections[index] else { return };
        connection.readable |= flags.intersects(!epoll::EventFlags::OUT);
        connection.ended |= flags.intersects(!(epoll::EventFlags::OUT | epoll::EventFlags::IN));
        if connection.serve(self.reference, self.memfd.as_ref(), buffer).is_err() {
            self.connections[index] = None;
            self.free.push(index);
        }
    }
}

/// The peer has gone, or its socket is broken.
struct Gone;

impl Connection {
    /// Sends what is owed, then reads, until one of both would wait.
    fn serve(&mut self, reference: &Reference, memfd: Option<&OwnedFd>, buffer: &mut [u8]) -> Result<(), Gone> {
        loop {
            while let Some(range) = self.debt.next(&reference.run) {
                let sent = match memfd {
                    None => send(&self.socket, &reference.run.bytes()[range], SendFlags::NOSIGNAL),
                    Some(memfd) => sendfile(&self.socket, memfd, Some(&mut (range.start as u64)), range.len()),
                };
                match sent {
                    Ok(sent_bytes) => self.debt.sent(sent_bytes, &reference.run),
                    // A client that does not read is not read from either; its edge comes when there is room.
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(_) => return Err(Gone),
                }
            }
            if !self.readable {
                return Ok(());
            }
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((_, 0)) => return Err(Gone),
                Ok((_, received_bytes)) => self.received(received_bytes, reference, buffer.len()),
                Err(Errno::AGAIN) => self.readable = false,
                Err(_) => return Err(Gone),
            }
        }
    }

    fn received(&mut self, received_bytes: usize, reference: &Reference, asked_bytes: usize) {
        // Less than asked for: the socket is empty, and the next bytes bring an edge.
        self.readable = self.ended || received_bytes == asked_bytes;
        let requests_count = self.debt.received(received_bytes, reference.request_bytes, &reference.run);
        reference.counters.add_read(requests_count);
    }
}
