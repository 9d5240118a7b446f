//! The one file that knows the runtime: accept, read, write, close, sleep, spawn.
//!
//! Everything above it speaks of [`Listener`] and [`Stream`], so another runtime would be another file with this face.
//! What the runtime gets wrong is mended here and nowhere else:
//!
//! 1. Its accept operation sets no CLOEXEC and spins when the descriptor table is full: a listener waits for readiness
//!    and then calls `accept4` itself.
//! 2. Dropping a pending read loses bytes that the kernel already took: a read is only ever ended by its
//!    [`Canceller`] (the bytes come back) or by `shutdown(2)` on the socket.
//! 3. A task that wakes itself stops all I/O of its thread: the only ways to wait are the operations of this file.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use monoio::buf::{IoBuf, IoVecBuf};
use monoio::io::{AsyncWriteRent, CancelableAsyncReadRent};
pub use monoio::io::{CancelHandle, Canceller};
use monoio::time::TimeDriver;
use monoio::{LegacyDriver, Runtime as MonoioRuntime, RuntimeBuilder};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags};

use crate::http::output::Buffer;
use crate::limits::DIRECT_WRITES_MAX;

/// How a shard waits for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// One submission and completion ring per shard.
    IoUring,
    /// Readiness by epoll (Linux) or kqueue (macOS); about 1.2 times the CPU per request.
    Legacy,
}

impl Driver {
    /// The name that start-up, metrics and reports print.
    pub fn name(self) -> &'static str {
        match self {
            Driver::IoUring => "io_uring",
            Driver::Legacy if cfg!(target_os = "macos") => "kqueue",
            Driver::Legacy => "epoll",
        }
    }
}

/// One thread's runtime: built on the thread that runs it.
pub enum Runtime {
    /// On a ring.
    #[cfg(target_os = "linux")]
    IoUring(MonoioRuntime<TimeDriver<monoio::IoUringDriver>>),
    /// On readiness.
    Legacy(MonoioRuntime<TimeDriver<LegacyDriver>>),
}

impl Runtime {
    /// Builds the runtime of the calling thread with `driver`.
    ///
    /// Ring flags: without `single_issuer` and `defer_taskrun` a ring costs up to 1.27 times as much at depth 1, so a kernel
    /// that refuses them (before 6.1) gets the legacy driver instead; there is no rung in between.
    ///
    /// # Errors
    /// What the kernel answered: EPERM where a seccomp profile or `kernel.io_uring_disabled` forbids rings, EINVAL for
    /// flags it does not know, ENOMEM when the locked-memory limit is too small.
    pub fn build(driver: Driver) -> io::Result<Runtime> {
        match driver {
            #[cfg(target_os = "linux")]
            Driver::IoUring => {
                let mut ring = io_uring::IoUring::builder();
                ring.setup_single_issuer().setup_defer_taskrun();
                let builder = RuntimeBuilder::<monoio::IoUringDriver>::new();
                Ok(Runtime::IoUring(builder.with_entries(RING_ENTRIES).uring_builder(ring).enable_timer().build()?))
            }
            #[cfg(not(target_os = "linux"))]
            Driver::IoUring => Err(io::Error::from(io::ErrorKind::Unsupported)),
            Driver::Legacy => Ok(Runtime::Legacy(RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?)),
        }
    }

    /// Runs `future` and everything it spawns until it ends.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        match self {
            #[cfg(target_os = "linux")]
            Runtime::IoUring(runtime) => runtime.block_on(future),
            Runtime::Legacy(runtime) => runtime.block_on(future),
        }
    }
}

/// Submission entries of a shard's ring. More (8,192) and fewer (256) made no difference up to 6,000 connections.
const RING_ENTRIES: u32 = 4096;

/// Which driver this process can have, and why not io_uring when it cannot. Tried for real, on a thread that ends.
pub fn probe_driver() -> (Driver, Option<io::Error>) {
    // The runtime itself honours this variable; asking for it is a choice, not a failure.
    if std::env::var_os("MONOIO_FORCE_LEGACY_DRIVER").is_some_and(|value| value == "1") {
        return (Driver::Legacy, None);
    }
    let probe = std::thread::spawn(|| Runtime::build(Driver::IoUring).map(drop));
    match probe.join().expect("the probe does not panic") {
        Ok(()) => (Driver::IoUring, None),
        Err(refusal) => (Driver::Legacy, Some(refusal)),
    }
}

/// Runs `future` beside the others of this shard.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(future));
}

/// Waits `duration` (resolution 1 ms) on the shard's timer.
pub async fn sleep(duration: Duration) {
    monoio::time::sleep(duration).await;
}

/// Waits for either of two futures and drops the other, which must have nothing to lose (so never a read).
pub async fn first(one: impl Future, other: impl Future) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => other.as_mut().poll(context).map(drop),
    })
    .await;
}

/// A listening socket of this shard.
pub struct Listener {
    inner: monoio::net::TcpListener,
}

impl Listener {
    /// Takes a listening, non-blocking socket into the calling thread's runtime.
    ///
    /// # Errors
    /// The legacy driver's registration may fail (ENOMEM, ENOSPC).
    pub fn new(listener: StdListener) -> io::Result<Listener> {
        Ok(Listener { inner: monoio::net::TcpListener::from_std(listener)? })
    }

    /// Waits until a connection is likely to be there. No accept is left pending in the kernel, so none is taken that a
    /// successor on the same port should have.
    ///
    /// # Errors
    /// As `poll(2)`.
    pub async fn ready(&self) -> io::Result<()> {
        self.inner.readable(false).await
    }

    /// Takes one connection that is already there, or says that there is none.
    ///
    /// # Errors
    /// As `accept4(2)`: EMFILE, ENFILE, ENOBUFS and ENOMEM mean "wait a little"; what concerns only one connection
    /// (ECONNABORTED and its like) is skipped here.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        accept(self.inner_fd())
    }

    /// Whether no connection is queued.
    pub fn is_empty(&self) -> bool {
        let mut poll = [rustix::event::PollFd::from_borrowed_fd(self.inner_fd(), rustix::event::PollFlags::IN)];
        let at_once = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            match rustix::event::poll(&mut poll, Some(&at_once)) {
                // Even one that does not wait, when a profile's signal falls into it. Who believed it would close a
                // listener with a connection in it.
                Err(Errno::INTR) => {}
                polled => return !matches!(polled, Ok(1..)),
            }
        }
    }

    fn inner_fd(&self) -> BorrowedFd<'_> {
        crate::sys::borrow_fd(&self.inner)
    }
}

/// Takes one connection from `listener` without waiting: close-on-exec, and non-blocking only where the driver needs it
/// (under a ring a receive on a non-blocking socket answers EAGAIN instead of waiting).
///
/// # Errors
/// As [`Listener::accept`].
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => return Ok(Some(socket)),
            Err(Errno::AGAIN) => return Ok(None),
            // Errors of the connection that was about to be taken (accept(2), "Error handling"), not of the listener.
            Err(Errno::INTR | Errno::CONNABORTED | Errno::PROTO | Errno::NETDOWN | Errno::HOSTUNREACH) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The address that a connection comes from; `None` when it has gone.
pub fn peer_address(socket: &OwnedFd) -> Option<IpAddr> {
    other_end(socket).map(|address| address.ip())
}

fn other_end(socket: impl AsFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getpeername(socket).ok()??).ok()
}

/// Writes `answer`, which fits the empty buffer of a new connection, and says that nothing more comes. Who cannot be told has
/// gone.
pub fn say_and_end(socket: &OwnedFd, answer: &[u8]) {
    let _ = rustix::net::send(socket, answer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let _ = rustix::net::shutdown(socket, Shutdown::Write);
    // What has come already is taken out of the socket: with it unread the close would be a reset.
    let _ = receive(socket.as_fd(), &mut [0; 4_096]);
}

/// One connection's socket in the calling thread's runtime.
///
/// It begins with the runtime's operations. The first write from a file makes it *direct*: non-blocking, written by system
/// calls, because there is no operation for `sendfile(2)` and an operation on a non-blocking socket answers EAGAIN instead
/// of waiting. It goes back when large writes stop.
pub struct Stream {
    inner: monoio::net::TcpStream,
    /// Direct writes without a file that are still to come before it goes back; 0 while it is not direct.
    direct_writes_left: u8,
    /// The last thing done was a direct write.
    has_written_direct: bool,
}

impl Stream {
    /// Takes an accepted socket into the calling thread's runtime.
    ///
    /// # Errors
    /// The legacy driver's registration may fail (ENOMEM, ENOSPC).
    pub fn new(socket: OwnedFd) -> io::Result<Stream> {
        if monoio::utils::is_legacy() {
            rustix::io::ioctl_fionbio(&socket, true)?;
        }
        let socket = std::net::TcpStream::from(socket);
        let inner = monoio::net::TcpStream::from_std(socket)?;
        Ok(Stream { inner, direct_writes_left: 0, has_written_direct: false })
    }

    /// Waits until there is something to read (bytes, the end of the stream, an error).
    ///
    /// # Errors
    /// As `poll(2)`.
    pub fn readable(&mut self) -> impl Future<Output = io::Result<()>> + '_ {
        self.has_written_direct = false;
        self.inner.readable(false)
    }

    /// Reads what is there into `buffer` without waiting; `None` when nothing is.
    ///
    /// # Errors
    /// As `recv(2)`.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        receive(crate::sys::borrow_fd(&self.inner), buffer)
    }

    /// Waits for bytes into the spare capacity of `buffer`, whose length becomes what was read; 0 is the end of the
    /// stream. Ended through `cancel`, the error is [`is_canceled`] and no byte is lost.
    ///
    /// # Errors
    /// As `recv(2)`, and ECANCELED.
    pub fn read(
        &mut self,
        buffer: Vec<u8>,
        cancel: CancelHandle,
    ) -> impl Future<Output = (io::Result<usize>, Vec<u8>)> + '_ {
        // Not an async fn, here and below: that would hold every argument twice for as long as it waits.
        self.inner.cancelable_read(buffer, cancel)
    }

    /// Writes a part of `buffer`; answers how many bytes the kernel took. The buffer stays alive until it has them.
    ///
    /// # Errors
    /// As `send(2)`.
    pub fn write(
        &mut self,
        buffer: Rc<Buffer>,
        start: usize,
        end: usize,
    ) -> impl Future<Output = (io::Result<usize>, impl IoBuf)> + '_ {
        self.inner.write(buffer.slice(start..end))
    }

    /// Writes the pieces of one owned value; answers how many bytes the kernel took.
    ///
    /// # Errors
    /// As `writev(2)`.
    pub async fn write_pieces(&mut self, pieces: impl IoVecBuf) -> io::Result<usize> {
        self.leave_direct()?;
        self.inner.writev(pieces).await.0
    }

    /// Whether it is written by system calls at the moment. Then a read operation would not wait either.
    pub fn is_direct(&self) -> bool {
        self.direct_writes_left > 0
    }

    /// Whether a write must wait for [`writable`](Stream::writable): the last thing done was a direct write. Without it one
    /// with much to say would hold the shard; after one that found no room it would spin.
    pub fn must_wait(&self) -> bool {
        self.has_written_direct
    }

    /// Waits until there is room for a direct write. It goes to the end of the round even when there is.
    ///
    /// # Errors
    /// As `poll(2)`.
    pub fn writable(&self) -> impl Future<Output = io::Result<()>> + '_ {
        self.inner.writable(false)
    }

    /// Writes a part of `buffer` by a system call, from its file if it has one and that is wanted; answers how many bytes
    /// the kernel took, `None` when there is no room.
    ///
    /// # Errors
    /// As `sendfile(2)` and `send(2)`.
    pub fn write_direct(
        &mut self,
        buffer: &Buffer,
        start: usize,
        end: usize,
        from_file: bool,
    ) -> io::Result<Option<usize>> {
        let file = buffer.file().filter(|_| from_file);
        if file.is_some() {
            self.enter_direct()?;
        }
        let socket = crate::sys::borrow_fd(&self.inner);
        let sent = match file {
            Some(file) => send_file(socket, file, start, end),
            None => rustix::net::send(socket, &buffer.bytes()[start..end], SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
        };
        self.has_written_direct = true;
        match sent {
            Ok(count) => {
                self.wrote(file.is_some())?;
                Ok(Some(count))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn wrote(&mut self, from_file: bool) -> io::Result<()> {
        if from_file {
            self.direct_writes_left = DIRECT_WRITES_MAX;
            return Ok(());
        }
        match self.direct_writes_left {
            1 => self.leave_direct(),
            left => {
                self.direct_writes_left = left - 1;
                Ok(())
            }
        }
    }

    /// Nothing is in flight when a write begins, so the flag changes under nobody.
    fn enter_direct(&mut self) -> io::Result<()> {
        if !self.is_direct() {
            if !monoio::utils::is_legacy() {
                rustix::io::ioctl_fionbio(crate::sys::borrow_fd(&self.inner), true)?;
            }
            self.direct_writes_left = DIRECT_WRITES_MAX;
        }
        Ok(())
    }

    fn leave_direct(&mut self) -> io::Result<()> {
        if self.is_direct() {
            if !monoio::utils::is_legacy() {
                rustix::io::ioctl_fionbio(crate::sys::borrow_fd(&self.inner), false)?;
            }
            self.direct_writes_left = 0;
        }
        Ok(())
    }

    /// Another descriptor of the socket, which outlives this one.
    ///
    /// # Errors
    /// As `fcntl(2)`: EMFILE.
    pub fn duplicate(&self) -> io::Result<OwnedFd> {
        Ok(rustix::io::fcntl_dupfd_cloexec(crate::sys::borrow_fd(&self.inner), 0)?)
    }

    /// The address of its other end; `None` when that has gone already.
    pub fn client(&self) -> Option<SocketAddr> {
        other_end(crate::sys::borrow_fd(&self.inner))
    }

    /// The socket's number, for [`crate::sys::shutdown`] by the sweep. Not to be kept beyond the stream's life.
    pub fn raw(&self) -> i32 {
        self.inner.as_raw_fd()
    }

    /// Says "no more from here" and leaves the other direction open (RFC 9112 9.6, the lingering close).
    pub fn shutdown_write(&self) {
        // The peer may be gone already (ENOTCONN); the close that follows is the same either way.
        let _ = rustix::net::shutdown(crate::sys::borrow_fd(&self.inner), Shutdown::Write);
    }

    /// Makes the coming close a reset: what the kernel still queues for a peer that does not read is dropped.
    pub fn reset_on_close(&self) {
        // Only a socket that is gone already refuses this.
        let _ = rustix::net::sockopt::set_socket_linger(crate::sys::borrow_fd(&self.inner), Some(Duration::ZERO));
    }
}

/// Whether a read was ended by its canceller.
pub fn is_canceled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::CANCELED.raw_os_error())
}

#[cfg(target_os = "linux")]
fn send_file(socket: BorrowedFd<'_>, file: BorrowedFd<'_>, start: usize, end: usize) -> rustix::io::Result<usize> {
    let mut offset = start as u64;
    rustix::fs::sendfile(socket, file, Some(&mut offset), end - start)
}

/// Nobody makes a file here.
#[cfg(not(target_os = "linux"))]
fn send_file(_: BorrowedFd<'_>, _: BorrowedFd<'_>, _: usize, _: usize) -> rustix::io::Result<usize> {
    Err(Errno::NOSYS)
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT) {
        Ok((count, _)) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
