//! A generator's sockets: none of these calls waits, but the first connect.

use crate::error::{Context, Result};
use crate::limits::{SINGLE_REQUEST_TIMEOUT, SLOW_RECEIVE_BYTES};
use crate::scan::Fault;
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The server's answer is not HTTP as it must be.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// Answers were owed, or the connection was to be kept.
    #[error("the server closed the connection")]
    Closed,
    /// More answers than requests.
    #[error("an answer that nobody asked for")]
    Unasked,
    /// A reset, for example.
    #[error("{0}")]
    System(#[from] Errno),
    /// A connection that could not be opened again.
    #[error("connecting again: {0}")]
    Connect(io::Error),
}

/// Connects, and waits for it.
pub fn open(address: &SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect_timeout(address, SINGLE_REQUEST_TIMEOUT)?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    reset_at_end(&socket)?;
    Ok(socket)
}

/// Connects a client that reads slowly, of whose answers little waits in its own kernel. It blocks.
pub fn open_slow(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Before the connect: the window that is offered in it depends on this.
    socket.set_recv_buffer_size(SLOW_RECEIVE_BYTES)?;
    socket.connect_timeout(&address.into(), timeout)?;
    Ok(socket.into())
}

/// Begins to connect; whether that is done already, as it often is within a host.
pub fn begin_open(address: &SocketAddr) -> io::Result<(TcpStream, bool)> {
    begin_open_with(address, None)
}

/// The same with a receive buffer of so many bytes; the system's when absent.
pub fn begin_open_with(address: &SocketAddr, receive_bytes: Option<usize>) -> io::Result<(TcpStream, bool)> {
    let socket = Socket::new(Domain::for_address(*address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.set_tcp_nodelay(true)?;
    let is_open = match socket.connect(&(*address).into()) {
        Ok(()) => true,
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => false,
        Err(error) => return Err(error),
    };
    let socket = TcpStream::from(socket);
    reset_at_end(&socket)?;
    Ok((socket, is_open))
}

/// A reset at the end: thousands of connections a second in `TIME_WAIT` would use up the ports.
fn reset_at_end(socket: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))
}

/// All edges of a connection, told with this number.
pub fn watch(epoll: &OwnedFd, socket: &TcpStream, number: u64) -> Result<()> {
    let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
    epoll::add(epoll, socket, epoll::EventData::new_u64(number), interest | epoll::EventFlags::ET)
        .context("watching a connection")
}

/// Sends what the socket takes; how much that was.
pub fn send_some(socket: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    let mut sent_bytes = 0;
    while sent_bytes < bytes.len() {
        match retry_on_intr(|| send(&socket, &bytes[sent_bytes..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL)) {
            Ok(count) => sent_bytes += count,
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent_bytes)
}

/// Bytes that came, 0 at the end of the stream; `None` when there are none yet.
pub fn receive(socket: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> Result<Option<usize>, Errno> {
    match retry_on_intr(|| recv(socket, &mut *buffer, flags | RecvFlags::DONTWAIT)) {
        Ok((_, count)) => Ok(Some(count)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(error),
    }
}
