//! What the dashboard shows, once a second, to everybody who watches: the figures of `/metrics` as server-sent events. Built
//! once for all, and not at all while nobody watches.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use todo_worker::exposition::Format;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::bridge::{Watcher, Watching};
use crate::clock;
use crate::control::pages::Pages;
use crate::limits::{DASHBOARD_FRAME_EVERY, DASHBOARD_PATIENCE};

/// Where each watcher sees the newest frame. Clones are one.
pub type Frames = watch::Receiver<Bytes>;

/// Makes the frames and serves the watchers that shards hand over.
pub struct Watch {
    frames: watch::Sender<Bytes>,
    pages: Arc<Pages>,
    watching: Watching,
    watchers: mpsc::UnboundedReceiver<Watcher>,
    is_going: [Arc<AtomicBool>; 2],
}

impl Watch {
    /// Of the figures in `pages`, until one of `is_going` is set; and where the frames are seen.
    pub fn new(
        pages: Arc<Pages>,
        watching: Watching,
        watchers: mpsc::UnboundedReceiver<Watcher>,
        is_going: [Arc<AtomicBool>; 2],
    ) -> (Watch, Frames) {
        let (frames, seen) = watch::channel(Bytes::new());
        (Watch { frames, pages, watching, watchers, is_going }, seen)
    }

    /// Runs until the process begins to go, at most a second longer; then no watcher is kept, so that each finds the
    /// successor.
    pub async fn run(mut self, idle: Frames) {
        // Whether what stands there is of this second.
        let mut is_fresh = false;
        let mut due = interval(DASHBOARD_FRAME_EVERY);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.is_going.iter().any(|set| set.load(Ordering::Relaxed)) {
            tokio::select! {
                _ = due.tick() => {
                    is_fresh = self.watching.is_watched();
                    if is_fresh {
                        self.frames.send_replace(self.frame());
                    }
                }
                Some(watcher) = self.watchers.recv() => {
                    let mut frames = idle.clone();
                    if !is_fresh {
                        self.frames.send_replace(self.frame());
                        is_fresh = true;
                    }
                    frames.mark_changed();
                    tokio::spawn(async move {
                        // However it ends: it is the client's affair, and its page connects again.
                        let _ = serve(watcher, frames).await;
                    });
                }
            }
        }
        self.watching.end();
    }

    /// One event: the samples without their descriptions, and the time as its id.
    fn frame(&self) -> Bytes {
        let text = self.pages.text(Format::OpenMetrics).unwrap_or_else(|_| {
            tracing::error!("the metrics cannot be encoded");
            String::new()
        });
        event(&text, clock::wall_ms())
    }
}

fn event(text: &str, now_ms: u64) -> Bytes {
    let mut event = format!("id: {now_ms}\nevent: figures\n");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        event.extend(["data: ", line, "\n"]);
    }
    event.push('\n');
    event.into()
}

/// Writes to one watcher until either side ends.
async fn serve(watcher: Watcher, frames: Frames) -> std::io::Result<()> {
    let Watcher { socket, head, place } = watcher;
    let (read, mut write) = stream(socket)?.into_split();
    timeout(DASHBOARD_PATIENCE, write.write_all(&head)).await??;
    tokio::select! {
        ended = send(write, frames) => ended?,
        ended = until_end(read) => ended?,
    }
    drop(place);
    Ok(())
}

fn stream(socket: OwnedFd) -> std::io::Result<TcpStream> {
    let socket = std::net::TcpStream::from(socket);
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}

async fn send(mut write: OwnedWriteHalf, mut frames: Frames) -> std::io::Result<()> {
    while frames.changed().await.is_ok() {
        let frame = frames.borrow_and_update().clone();
        // While this waits newer frames replace each other: who is slow skips them.
        timeout(DASHBOARD_PATIENCE, write.write_all(&frame)).await??;
    }
    write.shutdown().await
}

/// Reads over whatever comes. A client that has ended its side is gone: there is nothing that it could still ask.
async fn until_end(mut read: OwnedReadHalf) -> std::io::Result<()> {
    let mut dropped = [0; 512];
    while read.read(&mut dropped).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_one_event_of_samples() {
        let frame = event("# TYPE a gauge\na{b=\"c\"} 1\nd 2.5\n# EOF\n", 17);
        assert_eq!(&frame[..], b"id: 17\nevent: figures\ndata: a{b=\"c\"} 1\ndata: d 2.5\n\n");
    }

    /// A client that does not read while three frames are made gets the first, which had left, and the newest.
    #[tokio::test]
    async fn a_slow_reader_skips_frames() {
        let (sender, frames) = watch::channel(Bytes::new());
        let (client, server) = pair().await;
        let (_read, write) = server.into_split();
        let sending = tokio::spawn(send(write, frames));
        // More than the kernel takes for a client that does not read.
        let large = Bytes::from(vec![b'1'; 16 * 1024 * 1024]);
        sender.send_replace(large.clone());
        client.readable().await.expect("the first has begun to arrive");
        for frame in ["2", "3", "4"] {
            sender.send_replace(Bytes::from_static(frame.as_bytes()));
        }
        drop(sender);
        let mut received = Vec::new();
        let (mut read, _write) = client.into_split();
        read.read_to_end(&mut received).await.expect("it ends in good order");
        sending.await.expect("no panic").expect("no error");
        assert_eq!(received.len(), large.len() + 1, "one frame more than the first");
        assert_eq!(received.last(), Some(&b'4'));
    }

    #[tokio::test]
    async fn a_client_that_goes_is_noticed() {
        let (client, server) = pair().await;
        let (read, _write) = server.into_split();
        let ended = tokio::spawn(until_end(read));
        drop(client);
        ended.await.expect("no panic").expect("an end, not an error");
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.expect("connected"), server.expect("accepted").0)
    }
}
