//! One connection: what it still has to send, what it is owed, and what has come of the next answer.

use crate::load::exchange::answer::{AnswerHead, AnswerReader};
use crate::load::exchange::checks::{Id, Kept};
use crate::load::socket::{self, Lost};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::net::TcpStream;

/// Whether there is a socket.
pub enum Link {
    /// Usable.
    Open(TcpStream),
    /// The handshake runs.
    Opening { socket: TcpStream, since_ns: u64 },
    /// It is opened again at that time.
    Pausing { until_ns: u64 },
    /// Given up for the rest of the run.
    Lost,
}

/// A request whose answer has not come.
#[derive(Clone, Copy)]
pub struct Pending {
    /// Which request of the traffic.
    pub request_index: usize,
    /// When it was due (open loop) or sent.
    pub due_ns: u64,
}

/// One connection, over all the sockets that it has one after another.
pub struct Connection {
    pub link: Link,
    /// Counts its sockets.
    pub generation: u32,
    /// In the order in which they were sent, so in the order of the answers.
    pub pending: VecDeque<Pending>,
    /// What is before `sent_bytes` has left.
    output: Vec<u8>,
    sent_bytes: usize,
    pub reader: AnswerReader,
    /// Of the answer that is coming; `None` between answers.
    pub head: Option<AnswerHead>,
    pub kept: Kept,
    /// Requests of this socket, the pending ones included.
    pub requests_count: u64,
    /// Answers of this socket.
    pub answers_count: u64,
    /// By list: the newest id that was shown. A new socket may reach another server behind a balancer, so it forgets.
    pub newest: Vec<Option<Id>>,
}

impl Connection {
    /// Its first, of a traffic with so many lists.
    pub fn new(link: Link, lists_count: usize) -> Connection {
        Connection {
            link,
            generation: 0,
            pending: VecDeque::new(),
            output: Vec::new(),
            sent_bytes: 0,
            reader: AnswerReader::default(),
            head: None,
            kept: Kept::default(),
            requests_count: 0,
            answers_count: 0,
            newest: vec![None; lists_count],
        }
    }

    /// Forgets all that belonged to the socket.
    pub fn relink(&mut self, link: Link) {
        let lists_count = self.newest.len();
        let generation = self.generation.wrapping_add(1);
        *self = Connection { generation, ..Connection::new(link, lists_count) };
    }

    /// Puts a request behind what has not left yet.
    pub fn queue(&mut self, pending: Pending, request: &[u8]) {
        self.pending.push_back(pending);
        self.output.extend_from_slice(request);
        self.requests_count += 1;
    }

    /// Sends as much as the socket takes.
    pub fn flush(&mut self) -> Result<(), Errno> {
        if self.output.is_empty() {
            return Ok(());
        }
        let Link::Open(socket) = &self.link else { return Ok(()) };
        self.sent_bytes += socket::send_some(socket, &self.output[self.sent_bytes..])?;
        if self.sent_bytes == self.output.len() {
            self.output.clear();
            self.sent_bytes = 0;
        } else if self.sent_bytes > self.output.len() / 2 {
            // A trickle never empties it where the server is slow to read.
            self.output.drain(..self.sent_bytes);
            self.sent_bytes = 0;
        }
        Ok(())
    }

    /// The front of what is owed, or that it was not asked for.
    pub fn owed(&self) -> Result<Pending, Lost> {
        self.pending.front().copied().ok_or(Lost::Unasked)
    }
}
