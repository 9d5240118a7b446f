//! Frames and descriptors through a Unix socket between two processes. It blocks: each side has a thread for it.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use super::protocol::{Frame, HEADER_BYTES, Header, ProtocolError};
use crate::limits::HANDOVER_DESCRIPTORS_MAX;

/// One end.
pub struct Channel {
    socket: UnixStream,
}

/// What came instead of the frame that was waited for.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other process has ended.
    #[error("the other process has ended")]
    Ended,
    /// The other process says why.
    #[error("{0}")]
    Refused(String),
    /// It says nothing.
    #[error("the other process did not answer in time")]
    TooLate,
    /// It says what it should not.
    #[error("the other process cannot be understood: {0}")]
    Protocol(#[from] ProtocolError),
    /// The socket.
    #[error("the socket between the processes: {0}")]
    Socket(io::Error),
}

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// As `socketpair(2)`.
    pub fn pair() -> io::Result<(Channel, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Channel { socket: ours }, theirs))
    }

    /// The end in this socket.
    pub fn new(socket: UnixStream) -> Channel {
        Channel { socket }
    }

    /// How long one frame may be waited for; `None` is for ever.
    ///
    /// # Errors
    /// The socket's.
    pub fn set_patience(&self, patience: Option<Duration>) -> Result<(), ChannelError> {
        let set = self.socket.set_read_timeout(patience).and_then(|()| self.socket.set_write_timeout(patience));
        set.map_err(ChannelError::Socket)
    }

    /// Sends a frame with its descriptors, which stay ours too.
    ///
    /// # Errors
    /// The other process has ended, or does not read.
    pub fn send(&mut self, frame: &Frame, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let bytes = frame.encode(descriptors.len())?;
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(HANDOVER_DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(fits, "there is space for as many as a frame may have");
        }
        let sent = loop {
            match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                sent => break sent,
            }
        };
        // Descriptors went with the first byte; the rest of a long frame follows like any bytes.
        let sent = sent.map_err(|error| socket_error(error.into()))?;
        self.socket.write_all(&bytes[sent..]).map_err(socket_error)
    }

    /// Waits for the next frame. A refusal is an error.
    ///
    /// # Errors
    /// [`ChannelError`].
    pub fn receive(&mut self) -> Result<(Frame, Vec<OwnedFd>), ChannelError> {
        let mut header = [0; HEADER_BYTES];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(HANDOVER_DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut into = [IoSliceMut::new(&mut header)];
            match recvmsg(&self.socket, &mut into, &mut control, CLOSE_ON_EXEC) {
                Err(rustix::io::Errno::INTR) => {}
                received => break received,
            }
        };
        let received = received.map_err(|error| socket_error(error.into()))?;
        if received.bytes == 0 {
            return Err(ChannelError::Ended);
        }
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        self.socket.read_exact(&mut header[received.bytes..]).map_err(socket_error)?;
        let header = Header::decode(header)?;
        let mut payload = vec![0; header.payload_bytes];
        self.socket.read_exact(&mut payload).map_err(socket_error)?;
        if descriptors.len() != header.descriptors_count {
            // Some were lost on the way: this process has no room for them.
            let why = "descriptors that were passed did not arrive: raise the limit with `ulimit -n`";
            return Err(ChannelError::Socket(io::Error::other(why)));
        }
        match Frame::decode(header, &payload)? {
            Frame::Refused(why) => Err(ChannelError::Refused(why)),
            frame => Ok((frame, descriptors)),
        }
    }
}

/// macOS has no such flag; nothing is started there between two frames.
#[cfg(not(target_vendor = "apple"))]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(target_vendor = "apple")]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::empty();

fn socket_error(error: io::Error) -> ChannelError {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => ChannelError::Ended,
        ErrorKind::WouldBlock | ErrorKind::TimedOut => ChannelError::TooLate,
        _ => ChannelError::Socket(error),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;
    use crate::http::proxy_header::Client;

    fn pair() -> (Channel, Channel) {
        let (ours, theirs) = Channel::pair().expect("a socket pair");
        (ours, Channel::new(theirs))
    }

    /// Descriptors stay with their frame, whatever stands before and behind it, and work on the other side.
    #[test]
    fn descriptors_arrive_with_their_frame() {
        let (mut old, mut new) = pair();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (accepted, _) = listener.accept().expect("a connection");
        old.send(&Frame::Loaded, &[]).expect("sent");
        old.send(&Frame::Listeners, &[listener.as_fd()]).expect("sent");
        let connection = Frame::Connection(Client::Direct, b"GET /".as_slice().into());
        old.send(&connection, &[accepted.as_fd()]).expect("sent");
        old.send(&Frame::Go, &[]).expect("sent");
        drop((listener, accepted));
        assert!(matches!(new.receive().expect("a frame"), (Frame::Loaded, none) if none.is_empty()));
        let (frame, mut listeners) = new.receive().expect("a frame");
        assert_eq!((frame, listeners.len()), (Frame::Listeners, 1));
        let listener = TcpListener::from(listeners.remove(0));
        let (frame, mut sockets) = new.receive().expect("a frame");
        assert_eq!((frame, sockets.len()), (connection, 1));
        assert_eq!(new.receive().expect("a frame").0, Frame::Go);
        TcpStream::from(sockets.remove(0)).write_all(b"hello").expect("it is open");
        let mut text = String::new();
        (&client).read_to_string(&mut text).expect("it ends");
        assert_eq!(text, "hello", "closed on both sides, the client sees its end");
        TcpStream::connect(listener.local_addr().expect("bound")).expect("it still listens");
    }

    #[test]
    fn a_long_frame_arrives_whole() {
        let (mut old, mut new) = pair();
        // A byte of it says who is at the other end.
        let input: Box<[u8]> = (1..crate::limits::HANDOVER_FRAME_BYTES_MAX).map(|at| at as u8).collect();
        let frame = Frame::Connection(Client::Direct, input);
        let expected = frame.clone();
        let sender = std::thread::spawn(move || old.send(&frame, &[]));
        assert_eq!(new.receive().expect("a frame").0, expected);
        sender.join().expect("no panic").expect("sent");
    }

    #[test]
    fn an_end_a_refusal_and_silence_are_told_apart() {
        let (mut old, mut new) = pair();
        new.set_patience(Some(Duration::from_millis(10))).expect("a timeout");
        assert!(matches!(new.receive(), Err(ChannelError::TooLate)));
        old.send(&Frame::Refused("not today".to_owned()), &[]).expect("sent");
        assert!(matches!(new.receive(), Err(ChannelError::Refused(why)) if why == "not today"));
        drop(old);
        assert!(matches!(new.receive(), Err(ChannelError::Ended)));
        assert!(matches!(new.send(&Frame::Ready, &[]), Err(ChannelError::Ended)));
    }
}
