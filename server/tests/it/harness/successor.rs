//! A program of a test that a server starts as its successor.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use todo_server::control::handover::channel::Channel;
use todo_server::control::handover::protocol::Frame;

/// Meets the server that has started this process, takes its listeners, and says that it has loaded; the way to that server.
pub fn loaded() -> Channel {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor");
    let mut channel = Channel::new(UnixStream::from(socket));
    let (Frame::Offer(offer), _) = channel.receive().expect("an offer") else { panic!("the offer comes first") };
    let mut listeners = 0;
    while listeners < usize::from(offer.listeners_count) {
        listeners += channel.receive().expect("listeners").1.len();
    }
    channel.send(&Frame::Loaded, &[]).expect("it listens");
    channel
}
