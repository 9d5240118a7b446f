//! The only unsafe code of the server: descriptors that the runtime owns, buffers that the ring reads, signal masks and the timer of profiles.
//!
//! Each item has a safe face whose obligations are met here, in the line above the block.

#![expect(unsafe_code, reason = "the one place for it; see the list above")]

mod buffers;
mod signals;

pub use buffers::Gathered;
pub use signals::{block_signals, is_profile_timer_set};

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A socket type of the runtime, which tells its descriptor only as a number.
///
/// Sealed: the implementors own an open descriptor for as long as they live.
pub trait OwnsDescriptor: AsRawFd + sealed::Sealed {}

impl OwnsDescriptor for monoio::net::TcpStream {}
impl OwnsDescriptor for monoio::net::TcpListener {}

mod sealed {
    pub trait Sealed {}
    impl Sealed for monoio::net::TcpStream {}
    impl Sealed for monoio::net::TcpListener {}
}

/// The descriptor of a socket that the runtime owns, for a system call that the runtime does not offer.
pub fn borrow_fd<T: OwnsDescriptor>(owner: &T) -> BorrowedFd<'_> {
    let raw = owner.as_raw_fd();
    debug_assert!(raw >= 0, "an open descriptor is never negative");
    // SAFETY: `raw` is open: both implementors (the trait is sealed) close it only when dropped, and the result borrows
    // `owner`; -1 is excluded by the same ownership.
    unsafe { BorrowedFd::borrow_raw(raw) }
}

/// Which direction [`shutdown`] ends.
#[derive(Clone, Copy, Debug)]
pub enum Direction {
    /// No more is read: a pending read returns at once.
    Read,
    /// Both: every pending operation returns at once, on both drivers.
    Both,
}

/// The address at the other end of a socket that another task owns, known by its number only; `None` when it has gone. The number must be
/// as for [`shutdown`].
pub fn other_end(socket: i32) -> Option<SocketAddr> {
    debug_assert!(socket >= 0, "an open descriptor is never negative");
    // SAFETY: the number is of an open socket, as the caller's table has it, and nothing closes it while this function runs: the table and
    // the socket are of this thread. -1 is excluded by the same.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    SocketAddr::try_from(rustix::net::getpeername(socket).ok()??).ok()
}

/// Ends a direction of a socket that another task owns, known by its number only.
///
/// The number must be a socket of this process that is still open; the shard's table guarantees it, since a connection
/// leaves the table before its socket is closed. A stale number would end somebody else's connection.
pub fn shutdown(socket: i32, direction: Direction) {
    let how = match direction {
        Direction::Read => libc::SHUT_RD,
        Direction::Both => libc::SHUT_RDWR,
    };
    // SAFETY: shutdown(2) takes two integers and touches no memory of this process, whatever they are.
    let ended = unsafe { libc::shutdown(socket, how) };
    // ENOTCONN: the peer has reset it, and what was pending has returned by itself.
    debug_assert!(ended == 0 || std::io::Error::last_os_error().raw_os_error() == Some(libc::ENOTCONN));
}
