//! Floor servers: the least that any server of these bytes must do. They parse nothing: they count the bytes that come,
//! divide by the length of a request, and send so many copies of a captured response.
//!
//! One thread. A floor is a floor only while nearly all its CPU time is the kernel's; reports print the share.

mod epoll;
mod uring;

use crate::error::{Context, Error, Result};
use crate::limits::{FLOOR_BACKLOG, FLOOR_NOTSENT_BYTES};
use crate::process::counters::{SharedCounters, serve_control};
use crate::process::host;
use crate::run::Run;
use socket2::{Domain, Protocol, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

/// How a floor waits and sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Edge-triggered epoll, `recv` and `send`.
    SendEpoll,
    /// `io_uring`, one-shot receive and send operations.
    SendUring,
    /// Edge-triggered epoll, `recv` and `sendfile` from a sealed memfd.
    SendfileEpoll,
}

/// What a reference server needs to know; floors and the empty loop take the same.
#[derive(Clone, Debug, clap::Args)]
pub struct ReferenceArgs {
    /// Port on 127.0.0.1; 0 takes a free one, printed in the first line.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// CPU to run on.
    #[arg(long)]
    pub cpu: Option<usize>,
    /// File with one complete response, head and body.
    #[arg(long)]
    pub response: PathBuf,
    /// Length of each request.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub request_bytes: u64,
}

/// A reference server that is ready to serve: pinned, bound, announced.
pub struct Reference {
    /// Listening, `O_NONBLOCK`.
    pub listener: TcpListener,
    /// What to answer.
    pub run: Run,
    /// Length of each request, above 0.
    pub request_bytes: usize,
    /// For the control thread to read.
    pub counters: Arc<SharedCounters>,
}

impl Reference {
    /// Does all that comes before the first connection.
    pub fn prepare(args: &ReferenceArgs) -> Result<Reference> {
        if let Some(cpu) = args.cpu {
            host::pin_thread(&[cpu])?;
        }
        host::need_descriptors(0)?;
        let run = Run::from_file(&args.response)?;
        let listener = listen(args.port).context(format!("listening on port {}", args.port))?;
        let port = listener.local_addr().context("reading the port")?.port();
        let counters = Arc::new(SharedCounters::default());
        serve_control(port, Arc::clone(&counters)).context("starting the control thread")?;
        let request_bytes =
            usize::try_from(args.request_bytes).map_err(|_| Error::Unusable("request too long".into()))?;
        Ok(Reference { listener, run, request_bytes, counters })
    }
}

/// Serves until standard input ends.
pub fn serve(mode: Mode, args: &ReferenceArgs) -> Result<()> {
    let reference = Reference::prepare(args)?;
    match mode {
        Mode::SendEpoll => epoll::serve(&reference, None),
        Mode::SendfileEpoll => epoll::serve(&reference, Some(reference.run.memfd()?)),
        Mode::SendUring => uring::serve(reference),
    }
}

/// The server's own listener options: `TCP_NODELAY` and `TCP_NOTSENT_LOWAT` are inherited by what is accepted.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(FLOOR_NOTSENT_BYTES)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(FLOOR_BACKLOG)?;
    Ok(socket.into())
}
