//! The old process's side: starts the new one, offers what it has, and passes its connections on.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::channel::{Channel, ChannelError};
use super::protocol::{Frame, Offer, Positions, ProtocolError, VERSION};
use super::take::SUCCESSOR;
use crate::bridge::{Moved, ToShard};
use crate::limits::{HANDOVER_DESCRIPTORS_MAX, HANDOVER_LOAD_PATIENCE, HANDOVER_READY_PATIENCE};

/// What a process gives to its successor.
pub struct Giver {
    /// Its listening sockets. Kept beside those that accept, and let go of when those are.
    pub listeners: Arc<Vec<TcpListener>>,
    /// Where its todos are, as [`Offer::place`] says.
    pub place: String,
    /// The program to start, where nobody names another.
    pub program: PathBuf,
    /// The ways to the shards.
    pub to_shards: Vec<ToShard>,
}

/// A process that is to take over. Until it has, it is ended when this is dropped.
pub struct Successor {
    child: Child,
    has_taken_over: bool,
}

impl Giver {
    /// Starts the successor; its socket, and the process.
    ///
    /// # Errors
    /// Why there is none, as a sentence.
    pub fn start(&self, binary: Option<&Path>) -> Result<(Successor, Channel), String> {
        if std::process::id() == 1 {
            return Err(
                "this server is process 1 of its container, which ends with it: replace the container".to_owned()
            );
        }
        let program = binary.unwrap_or(&self.program);
        let unstarted = |error: std::io::Error| format!("{} cannot be started ({error})", program.display());
        let (channel, theirs) = Channel::pair().map_err(unstarted)?;
        let mut command = Command::new(program);
        command
            .args(std::env::args_os().skip(1))
            .env(SUCCESSOR, "1")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
        // They were for this process, and the sockets come another way.
        for variable in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_FDS_FIRST_FD"] {
            command.env_remove(variable);
        }
        let child = command.spawn().map_err(unstarted)?;
        tracing::info!(pid = child.id(), program = %program.display(), "the successor is started");
        Ok((Successor { child, has_taken_over: false }, channel))
    }

    /// What is offered.
    pub fn offer(&self, stand: Positions) -> Frame {
        let listeners_count = u16::try_from(self.listeners.len()).unwrap_or(u16::MAX);
        Frame::Offer(Offer { version: VERSION, listeners_count, place: self.place.clone(), stand })
    }

    /// What every shard answers from at the moment.
    pub fn stand(&self) -> Positions {
        stand(&self.to_shards[0])
    }
}

impl Successor {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It serves from here on, and lives on without us.
    pub fn take_over(&mut self) {
        self.has_taken_over = true;
    }

    /// Ends it, and waits until it has let go of everything.
    pub fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.has_taken_over {
            self.end();
        }
    }
}

/// What a shard answers from.
pub fn stand(to_shard: &ToShard) -> Positions {
    let snapshot = to_shard.slot.current();
    Positions { store_id: *snapshot.store_id(), positions: snapshot.positions().to_vec() }
}

/// Makes the offer, and waits until the successor has loaded. Blocks.
///
/// # Errors
/// Why it will not take over.
pub fn offer(mut channel: Channel, offer: &Frame, listeners: &[TcpListener]) -> Result<Channel, ChannelError> {
    channel.set_patience(Some(HANDOVER_LOAD_PATIENCE))?;
    channel.send(offer, &[])?;
    for some in listeners.chunks(HANDOVER_DESCRIPTORS_MAX) {
        let descriptors: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        channel.send(&Frame::Listeners, &descriptors)?;
    }
    expect(&mut channel, &Frame::Loaded)?;
    Ok(channel)
}

/// Gives the writes away, and waits until the successor could serve; then it does. Blocks.
///
/// # Errors
/// Why it has not taken over.
pub fn commit(mut channel: Channel, released: Positions) -> Result<Channel, ChannelError> {
    channel.set_patience(Some(HANDOVER_READY_PATIENCE))?;
    channel.send(&Frame::Released(released), &[])?;
    expect(&mut channel, &Frame::Ready)?;
    channel.send(&Frame::Go, &[])?;
    // Until then it has accepted nobody: without the word it can be ended and this process go on.
    expect(&mut channel, &Frame::Serving)?;
    channel.set_patience(None)?;
    Ok(channel)
}

/// Passes on what comes out of `moved` until its end; how many connections that were. `stand` is what clients may have
/// seen up to now. Blocks.
///
/// # Errors
/// The successor has ended.
pub fn pass_on(
    mut channel: Channel,
    moved: &Receiver<Option<Moved>>,
    stand: impl Fn() -> Positions,
) -> Result<u64, ChannelError> {
    let (mut count, mut said) = (0, Positions::default());
    while let Ok(Some(Moved { socket, client, input })) = moved.recv() {
        // Looked at after the connection has come out: whatever it was answered stands in it.
        let now = stand();
        if now != said {
            channel.send(&Frame::Positions(now.clone()), &[])?;
            said = now;
        }
        channel.send(&Frame::Connection(client, input), &[socket.as_fd()])?;
        count += 1;
    }
    Ok(count)
}

fn expect(channel: &mut Channel, expected: &Frame) -> Result<(), ChannelError> {
    let (frame, _) = channel.receive()?;
    if frame == *expected { Ok(()) } else { Err(ProtocolError::Unreadable.into()) }
}
