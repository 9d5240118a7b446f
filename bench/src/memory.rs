//! What connections cost when they do nothing, and when they ask and never read.

use crate::error::{Context, Result};
use crate::limits::SINGLE_REQUEST_TIMEOUT;
use crate::process::child::Server;
use crate::process::host;
use crate::process::memory::Memory;
use crate::request;
use crate::single::SingleClient;
use rustix::net::{SendFlags, send};
use serde::{Deserialize, Serialize};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Between two looks at the memory.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What the connections did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// Asked once, were answered, and waited.
    Idle,
    /// Asked and never read.
    Stalled {
        /// Todos in each list.
        limit: usize,
        /// Lists that each asked for.
        depth: usize,
    },
}

/// Memory before connections and with them.
#[derive(Debug, Serialize, Deserialize)]
pub struct MemoryReport {
    /// What they did.
    pub connections: Held,
    /// Connections held.
    pub connections_count: usize,
    /// A served server without connections.
    pub before: Memory,
    /// Each part's peak while they were held.
    pub held: Memory,
}

impl MemoryReport {
    /// Process memory (resident, and memfds that are not mapped) that each connection added.
    pub fn process_bytes_per_connection(&self) -> f64 {
        let grown_bytes = self.held.process_bytes().saturating_sub(self.before.process_bytes());
        grown_bytes as f64 / self.connections_count as f64
    }

    /// All that was added: process and the kernel's TCP memory, both ends of the connections.
    pub fn grown_bytes(&self) -> u64 {
        self.held.total_bytes().saturating_sub(self.before.total_bytes())
    }
}

/// Connections that asked once, were answered, and wait.
pub fn idle(server: &Server, connections_count: usize, settle: Duration) -> Result<MemoryReport> {
    host::need_descriptors(connections_count + 64)?;
    let before = serve_and_look(server)?;
    let mut clients = Vec::with_capacity(connections_count);
    for _ in 0..connections_count {
        let mut client = SingleClient::connect(server.address())?;
        client.get_ok(&request::list_target(10))?;
        clients.push(client);
    }
    std::thread::sleep(settle);
    Ok(MemoryReport { connections: Held::Idle, connections_count, before, held: look(server)? })
}

/// Connections that ask for `depth` long lists each and never read.
pub fn stall(
    server: &Server,
    connections_count: usize,
    limit: usize,
    depth: usize,
    hold: Duration,
) -> Result<MemoryReport> {
    host::need_descriptors(connections_count + 64)?;
    let before = serve_and_look(server)?;
    let block = request::get(&server.address().to_string(), &request::list_target(limit)).repeat(depth);
    let mut sockets = Vec::with_capacity(connections_count);
    for _ in 0..connections_count {
        let socket = TcpStream::connect_timeout(&server.address(), SINGLE_REQUEST_TIMEOUT).context("connecting")?;
        // What the server does not take now it would not take later either: it may stop reading from such a client.
        send(&socket, &block, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).context("sending a block")?;
        sockets.push(socket);
    }
    let started = Instant::now();
    let mut held = look(server)?;
    while started.elapsed() < hold {
        std::thread::sleep(LOOK_INTERVAL);
        held = held.peak(look(server)?);
    }
    Ok(MemoryReport { connections: Held::Stalled { limit, depth }, connections_count, before, held })
}

/// What the first request makes is not a connection's.
fn serve_and_look(server: &Server) -> Result<Memory> {
    server.capture(10)?;
    look(server)
}

fn look(server: &Server) -> Result<Memory> {
    Memory::read(server.pid()).context("reading the server's memory")
}

/// Prints each part.
pub fn print(report: &MemoryReport) {
    let mebibytes = crate::matrix::mebibytes;
    println!("{} connections", report.connections_count);
    println!("  {:<34} {:>9} {:>9}", "MiB", "before", "held");
    let row = |name: &str, of: fn(&Memory) -> u64| {
        println!("  {name:<34} {:>9.2} {:>9.2}", mebibytes(of(&report.before)), mebibytes(of(&report.held)));
    };
    row("resident (RSS)", Memory::resident_bytes);
    row("  of it anonymous", |memory| memory.anonymous_bytes);
    row("  of it shared (mapped memfds)", |memory| memory.shared_bytes);
    row("memfds, mapped or not", |memory| memory.memfd_bytes);
    row("the kernel's TCP, both ends", |memory| memory.tcp_bytes);
    println!("  process memory per connection: {:.0} bytes", report.process_bytes_per_connection());
    println!("  all of it grew by {:.2} MiB", mebibytes(report.grown_bytes()));
}
