//! A network that fails on demand: a TCP proxy before a service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What becomes of bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// They arrive.
    Works,
    /// The next ones that a client sends do not arrive, and its connection breaks.
    CutsRequests,
    /// What the service says does not arrive.
    SwallowsAnswers,
}

/// Forwards connections to one address. Ends with its value.
pub struct Proxy {
    pub port: u16,
    network: Arc<AtomicU8>,
    /// Sent to when every open connection is to break.
    breaks: watch::Sender<u64>,
    _acceptor: JoinSet<()>,
}

impl Proxy {
    pub async fn new(upstream: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let network = Arc::new(AtomicU8::new(Network::Works as u8));
        let (breaks, broken) = watch::channel(0);
        let mut acceptor = JoinSet::new();
        let shared = Arc::clone(&network);
        acceptor.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                // A service that is away refuses the client too.
                let Ok(service) = TcpStream::connect(&upstream).await else { continue };
                connections.spawn(forward(client, service, Arc::clone(&shared), broken.clone()));
            }
        });
        Self { port, network, breaks, _acceptor: acceptor }
    }

    pub fn set(&self, network: Network) {
        self.network.store(network as u8, Ordering::SeqCst);
    }

    /// Breaks every open connection.
    pub fn cut(&self) {
        self.breaks.send_modify(|count| *count += 1);
    }
}

async fn forward(client: TcpStream, service: TcpStream, network: Arc<AtomicU8>, mut broken: watch::Receiver<u64>) {
    broken.mark_unchanged();
    for socket in [&client, &service] {
        socket.set_nodelay(true).unwrap();
    }
    let ((client_reads, client_writes), (service_reads, service_writes)) = (client.into_split(), service.into_split());
    tokio::select! {
        () = pump(client_reads, service_writes, || network.load(Ordering::SeqCst) != Network::CutsRequests as u8, true) => {}
        () = pump(service_reads, client_writes, || network.load(Ordering::SeqCst) != Network::SwallowsAnswers as u8, false) => {}
        _ = broken.changed() => {}
    }
}

/// Until one side ends, or until what must not pass has come and that breaks the connection.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, passes: impl Fn() -> bool, breaks: bool) {
    let mut buffer = vec![0; 64 * 1024];
    // Either side may break at any time: that is what a proxy is for.
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        match (passes(), breaks) {
            (true, _) if to.write_all(&buffer[..count]).await.is_err() => return,
            (true, _) | (false, false) => {}
            (false, true) => return,
        }
    }
}
