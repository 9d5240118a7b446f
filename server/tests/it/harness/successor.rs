//! A program of a test that a server starts as its successor.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use todo_server::control::handover::channel::Channel;
use todo_server::control::handover::protocol::Frame;

/// A program of the name that does what `body` says.
pub fn script(folder: &Path, name: &str, body: &str) -> PathBuf {
    let path = folder.join(name);
    // Closed before it is run: a file that somebody writes cannot be.
    let mut file = std::fs::File::create(&path).expect("a file");
    writeln!(file, "#!/bin/sh\n{body}").expect("it takes it");
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("its mode");
    path
}

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
