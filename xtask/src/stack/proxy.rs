//! A TCP proxy that can be told to fail: what stands between two parts of a cluster in a test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(20);
const CHUNK_BYTES: usize = 64 * 1024;

/// How the wire behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// It moves bytes.
    Whole,
    /// Connections are reset, and new ones closed.
    Cut,
    /// Bytes stay where they are; nobody is told.
    Frozen,
    /// Every chunk of bytes comes so much later.
    Slow(Duration),
}

/// A proxy on a port of its own. It ends with the value.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    mode: AtomicU8,
    delay_ms: AtomicU64,
    ended: AtomicBool,
    /// Both ends of every connection, to be cut.
    streams: Mutex<Vec<TcpStream>>,
}

const WHOLE: u8 = 0;
const CUT: u8 = 1;
const FROZEN: u8 = 2;
const SLOW: u8 = 3;

impl Proxy {
    /// Listens on a free port of the loopback and connects to `target` there.
    pub fn start(target: u16) -> Result<Proxy, String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| format!("no free port: {error}"))?;
        Self::on(listener, target)
    }

    /// The same on a port that is known already.
    pub fn start_at(port: u16, target: u16) -> Result<Proxy, String> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| format!("port {port}: {error}"))?;
        Self::on(listener, target)
    }

    fn on(listener: TcpListener, target: u16) -> Result<Proxy, String> {
        let port = listener.local_addr().map_err(|error| format!("no address: {error}"))?.port();
        let shared = Arc::new(Shared {
            target,
            mode: AtomicU8::new(WHOLE),
            delay_ms: AtomicU64::new(0),
            ended: AtomicBool::new(false),
            streams: Mutex::new(Vec::new()),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Proxy { port, shared })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the wire, for connections that are open too.
    pub fn set(&self, wire: Wire) {
        let mode = match wire {
            Wire::Whole => WHOLE,
            Wire::Cut => CUT,
            Wire::Frozen => FROZEN,
            Wire::Slow(delay) => {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                self.shared.delay_ms.store(delay_ms, Ordering::Relaxed);
                SLOW
            }
        };
        self.shared.mode.store(mode, Ordering::Relaxed);
        if mode == CUT {
            self.shared.cut();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.cut();
        // Wakes the accepting thread; when nobody listens any more there is nobody to wake.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn cut(&self) {
        let mut streams = self.streams.lock().expect("nobody panics with it");
        for stream in streams.drain(..) {
            // Gone already: that is what was wanted.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.ended.load(Ordering::Relaxed) {
            return;
        }
        let Ok(client) = client else { continue };
        if shared.mode.load(Ordering::Relaxed) == CUT {
            continue;
        }
        // A target that is away looks like one that closes at once.
        let Ok(target) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.target)) else { continue };
        let pair = || -> std::io::Result<_> {
            client.set_nodelay(true)?;
            target.set_nodelay(true)?;
            Ok(((client.try_clone()?, target.try_clone()?), (client.try_clone()?, target.try_clone()?)))
        };
        let Ok(((from_client, to_target), (to_client, from_target))) = pair() else { continue };
        let mut streams = shared.streams.lock().expect("nobody panics with it");
        streams.retain(|stream| stream.peer_addr().is_ok());
        streams.extend([client, target]);
        drop(streams);
        // The cut may have come between the look above and the list: then it has missed these two.
        if shared.mode.load(Ordering::Relaxed) == CUT {
            shared.cut();
        }
        for (from, to) in [(from_client, to_target), (from_target, to_client)] {
            let shared = Arc::clone(shared);
            thread::spawn(move || move_bytes(from, to, &shared));
        }
    }
}

fn move_bytes(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut chunk).unwrap_or(0);
        while shared.mode.load(Ordering::Relaxed) == FROZEN && !shared.ended.load(Ordering::Relaxed) {
            thread::sleep(LOOK_EVERY);
        }
        if shared.mode.load(Ordering::Relaxed) == SLOW {
            thread::sleep(Duration::from_millis(shared.delay_ms.load(Ordering::Relaxed)));
        }
        if read == 0 || to.write_all(&chunk[..read]).is_err() {
            // The other direction may have closed it before.
            let _ = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Write));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// Sends each chunk back.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut chunk = [0; 16];
                    while let Ok(read) = stream.read(&mut chunk)
                        && read > 0
                        && stream.write_all(&chunk[..read]).is_ok()
                    {}
                });
            }
        });
        port
    }

    fn client(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("settable");
        stream
    }

    fn ping(stream: &mut TcpStream) -> bool {
        stream.write_all(b"ping").is_ok() && matches!(stream.read(&mut [0; 16]), Ok(4))
    }

    #[test]
    fn a_wire_does_as_it_is_told() {
        let proxy = Proxy::start(echo()).expect("it starts");
        let mut first = client(&proxy);
        assert!(ping(&mut first));
        proxy.set(Wire::Frozen);
        assert!(!ping(&mut first), "nothing comes");
        proxy.set(Wire::Whole);
        assert!(matches!(first.read(&mut [0; 16]), Ok(4)), "it came late");
        proxy.set(Wire::Slow(Duration::from_millis(50)));
        let begun = Instant::now();
        assert!(ping(&mut first) && begun.elapsed() >= Duration::from_millis(100));
        proxy.set(Wire::Cut);
        assert!(!ping(&mut first) && !ping(&mut client(&proxy)));
        proxy.set(Wire::Whole);
        assert!(ping(&mut client(&proxy)));
    }
}
