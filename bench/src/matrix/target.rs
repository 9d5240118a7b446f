//! What a cell is run on.

use crate::error::Result;
use crate::process::child::{PeerServer, ReferenceServer, Server};
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
    /// The server under test again, with other settings.
    #[value(skip)]
    Variant,
    /// nginx in front of two replicas that read from Redis.
    #[value(skip)]
    PeerOriginal,
    /// nginx with the bodies as files.
    #[value(skip)]
    PeerNginx,
    /// `may_minihttp`.
    #[value(skip)]
    PeerMinihttp,
    /// actix-web.
    #[value(skip)]
    PeerActix,
    /// axum.
    #[value(skip)]
    PeerAxum,
    /// ntex.
    #[value(skip)]
    PeerNtex,
}

/// All peers.
pub const PEERS: [Kind; 6] =
    [Kind::PeerOriginal, Kind::PeerNginx, Kind::PeerMinihttp, Kind::PeerActix, Kind::PeerAxum, Kind::PeerNtex];

impl Kind {
    /// A floor by send, of which the better one is *the* floor.
    pub fn is_ordinary_floor(self) -> bool {
        matches!(self, Kind::FloorEpoll | Kind::FloorUring)
    }

    /// Any floor.
    pub fn is_floor(self) -> bool {
        self.is_ordinary_floor() || self == Kind::FloorSendfile
    }

    /// What is compared with itself, by two windows a round.
    pub fn is_yardstick(self) -> bool {
        self.is_ordinary_floor() || self == Kind::Variant
    }

    /// Somebody else's server.
    pub fn is_peer(self) -> bool {
        PEERS.contains(&self)
    }

    /// As in tables and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Server => "server",
            Kind::FloorEpoll => "floor-epoll",
            Kind::FloorUring => "floor-uring",
            Kind::FloorSendfile => "floor-sendfile",
            Kind::Loop => "loop",
            Kind::Variant => "variant",
            Kind::PeerOriginal => "peer-original",
            Kind::PeerNginx => "peer-nginx",
            Kind::PeerMinihttp => "peer-minihttp",
            Kind::PeerActix => "peer-actix",
            Kind::PeerAxum => "peer-axum",
            Kind::PeerNtex => "peer-ntex",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            Kind::FloorEpoll => &["floor", "--mode", "send-epoll"],
            Kind::FloorUring => &["floor", "--mode", "send-uring"],
            Kind::FloorSendfile => &["floor", "--mode", "sendfile-epoll"],
            Kind::Loop => &["loop"],
            // Not subcommands of this program.
            _ => &[],
        }
    }
}

/// A running target.
pub enum Target<'s> {
    /// The server under test.
    Server(&'s Server),
    /// The same with other settings.
    Variant(&'s Server),
    /// A reference.
    Reference {
        /// Which one.
        kind: Kind,
        /// Its process.
        server: ReferenceServer,
    },
    /// A peer.
    Peer {
        /// Which one.
        kind: Kind,
        /// Its processes.
        server: PeerServer,
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
            Target::Variant(_) => Kind::Variant,
            Target::Reference { kind, .. } | Target::Peer { kind, .. } => *kind,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        match self {
            Target::Server(server) | Target::Variant(server) => server.address(),
            Target::Reference { server, .. } => server.address(),
            Target::Peer { server, .. } => server.address(),
        }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        match self {
            Target::Server(server) | Target::Variant(server) => server.pid(),
            Target::Reference { server, .. } => server.pid(),
            Target::Peer { server, .. } => server.pid(),
        }
    }

    /// Requests and reads since its start.
    pub fn counters(&mut self) -> Result<Counters> {
        match self {
            Target::Server(server) | Target::Variant(server) => server.counters(),
            Target::Reference { server, .. } => server.counters(),
            // Nobody counts there; the generator sends the same blocks to all.
            Target::Peer { .. } => Ok(Counters::default()),
        }
    }
}
