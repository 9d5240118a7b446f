//! What a cell is run on.

use crate::error::Result;
use crate::process::child::{ReferenceServer, Server};
use crate::process::counters::Counters;
use rustix::process::Pid;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::Path;

/// The server under test, or one of the references.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The server under test.
    #[value(skip)]
    Server,
    /// Floor by epoll and send.
    FloorEpoll,
    /// Floor by `io_uring` and send.
    FloorUring,
    /// Floor by epoll and sendfile.
    FloorSendfile,
    /// The server's own runtime and I/O with a byte counter for a parser.
    Loop,
}

impl Kind {
    /// A floor by send, of which the better one is *the* floor.
    pub fn is_ordinary_floor(self) -> bool {
        matches!(self, Kind::FloorEpoll | Kind::FloorUring)
    }

    /// Any floor.
    pub fn is_floor(self) -> bool {
        self.is_ordinary_floor() || self == Kind::FloorSendfile
    }

    /// As in tables and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Server => "server",
            Kind::FloorEpoll => "floor-epoll",
            Kind::FloorUring => "floor-uring",
            Kind::FloorSendfile => "floor-sendfile",
            Kind::Loop => "loop",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Kind::Server => &[],
            Kind::FloorEpoll => &["floor", "--mode", "send-epoll"],
            Kind::FloorUring => &["floor", "--mode", "send-uring"],
            Kind::FloorSendfile => &["floor", "--mode", "sendfile-epoll"],
            Kind::Loop => &["loop"],
        }
    }
}

/// A running target.
pub enum Target<'s> {
    /// The server under test.
    Server(&'s Server),
    /// A reference.
    Reference {
        /// Which one.
        kind: Kind,
        /// Its process.
        server: ReferenceServer,
    },
}

impl Target<'_> {
    /// Starts a reference, a subcommand of `program`, that answers each `request_bytes` bytes with the response in `file`.
    pub fn start_reference(
        kind: Kind,
        program: &Path,
        cpu: usize,
        file: &Path,
        request_bytes: usize,
    ) -> Result<Target<'static>> {
        let server = ReferenceServer::start(program, kind.arguments(), cpu, file, request_bytes)?;
        Ok(Target::Reference { kind, server })
    }

    /// Which one it is.
    pub fn kind(&self) -> Kind {
        match self {
            Target::Server(_) => Kind::Server,
            Target::Reference { kind, .. } => *kind,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        match self {
            Target::Server(server) => server.address(),
            Target::Reference { server, .. } => server.address(),
        }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        match self {
            Target::Server(server) => server.pid(),
            Target::Reference { server, .. } => server.pid(),
        }
    }

    /// Requests and reads since its start.
    pub fn counters(&mut self) -> Result<Counters> {
        match self {
            Target::Server(server) => server.counters(),
            Target::Reference { server, .. } => server.counters(),
        }
    }
}
