//! An `io_uring` of three operations (accept, receive, send) whose buffers live as long as the process.
//!
//! The kernel reads and writes those buffers while operations are pending, also after a ring is dropped (its
//! operations are cancelled asynchronously). So nothing here is ever freed: a floor ends with its process.

#![expect(unsafe_code, reason = "submissions carry raw pointers; LIMITS: a floor without a ring is 1.1 times dearer")]

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::io;
use std::ops::Range;

/// One completion.
#[derive(Debug)]
pub enum Completion {
    /// A connection came, or could not be taken.
    Accepted {
        /// Close-on-exec, blocking.
        socket: io::Result<OwnedFd>,
        /// Accepting goes on by itself.
        more: bool,
    },
    /// Bytes came into the slot's buffer; 0 is the end of the stream.
    Received {
        /// The slot it was submitted with.
        slot: usize,
        /// Bytes, at most a slot's.
        result: io::Result<usize>,
    },
    /// Bytes have left.
    Sent {
        /// The slot it was submitted with.
        slot: usize,
        /// Bytes, at most those submitted.
        result: io::Result<usize>,
    },
}

/// What the completion's user data says in its upper half; the slot is in the lower.
const ACCEPT: u64 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;

/// The ring with its buffers.
pub struct Ring {
    ring: IoUring,
    output: &'static [u8],
    /// `slots_count * slot_bytes` bytes, leaked, written by the kernel alone and read by nobody.
    input: *mut u8,
    slots_count: usize,
    slot_bytes: usize,
}

impl Ring {
    /// A ring for the calling thread (`single_issuer`, `defer_taskrun`: Linux 6.1).
    pub fn new(entries: u32, output: &'static [u8], slots_count: usize, slot_bytes: usize) -> io::Result<Ring> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries)?;
        let input = Box::leak(vec![0; slots_count * slot_bytes].into_boxed_slice()).as_mut_ptr();
        Ok(Ring { ring, output, input, slots_count, slot_bytes })
    }

    /// Accepts connections until it completes without `more`.
    pub fn accept(&mut self, listener: impl AsFd) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(descriptor(&listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push(&entry.user_data(user_data(ACCEPT, 0)))
    }

    /// Receives once into the slot's own buffer.
    pub fn receive(&mut self, socket: impl AsFd, slot: usize) -> io::Result<()> {
        assert!(slot < self.slots_count, "slot {slot} of {}", self.slots_count);
        let buffer = self.input.wrapping_add(slot * self.slot_bytes);
        let entry = opcode::Recv::new(descriptor(&socket), buffer, self.slot_bytes as u32).build();
        self.push(&entry.user_data(user_data(RECEIVE, slot)))
    }

    /// Sends a part of the output; the kernel goes on after a short send where it can.
    pub fn send(&mut self, socket: impl AsFd, slot: usize, part: Range<usize>) -> io::Result<()> {
        let bytes = &self.output[part];
        let length = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = opcode::Send::new(descriptor(&socket), bytes.as_ptr(), length).flags(flags).build();
        self.push(&entry.user_data(user_data(SEND, slot)))
    }

    /// Submits everything and waits for at least one completion.
    pub fn submit_and_wait(&mut self) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(|_| ()),
            }
        }
    }

    /// Takes a completion that is here.
    pub fn next_completion(&mut self) -> Option<Completion> {
        let entry = self.ring.completion().next()?;
        let slot = (entry.user_data() & u64::from(u32::MAX)) as usize;
        let result = usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        Some(match entry.user_data() >> 32 {
            ACCEPT => Completion::Accepted {
                // SAFETY: only `accept` submits with this user data, and a successful accept returns a new descriptor
                // that nobody else knows; each completion is taken once.
                socket: result.map(|_| unsafe { OwnedFd::from_raw_fd(entry.result()) }),
                more: cqueue::more(entry.flags()),
            },
            RECEIVE => Completion::Received { slot, result },
            _ => Completion::Sent { slot, result },
        })
    }

    /// Every entry comes from the functions above.
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: the entry's buffer is valid until the operation is over, because it is never freed: `accept` has
        // none, `receive` names `slot_bytes` bytes within the leaked `input` (asserted there), which no reference in
        // this process covers, and `send` a part of the static `output` (bounds-checked there), which is only read.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.map_err(|_| io::ErrorKind::OutOfMemory.into())
    }
}

fn descriptor(file: &impl AsFd) -> Fd {
    Fd(file.as_fd().as_raw_fd())
}

fn user_data(operation: u64, slot: usize) -> u64 {
    operation << 32 | slot as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn only_completion(ring: &mut Ring) -> Completion {
        ring.submit_and_wait().unwrap();
        ring.next_completion().unwrap()
    }

    #[test]
    fn the_safe_twin_sees_the_same_bytes() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let mut ring = Ring::new(8, b"0123456789", 2, 4).unwrap();

        ring.send(&socket, 1, 3..7).unwrap();
        let completion = only_completion(&mut ring);
        assert!(matches!(completion, Completion::Sent { slot: 1, result: Ok(4) }), "{completion:?}");
        let mut bytes = [0; 4];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"3456");

        // Six bytes into slots of four: never more than a slot holds.
        peer.write_all(b"abcdef").unwrap();
        for expected in [4, 2] {
            ring.receive(&socket, 1).unwrap();
            let completion = only_completion(&mut ring);
            let Completion::Received { slot: 1, result: Ok(count) } = completion else { panic!("{completion:?}") };
            assert_eq!(count, expected);
        }
    }

    #[test]
    fn accepts_stay_armed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut ring = Ring::new(8, b"", 1, 1).unwrap();
        ring.accept(&listener).unwrap();
        for _ in 0..2 {
            let _peer = TcpStream::connect(address).unwrap();
            let completion = only_completion(&mut ring);
            assert!(matches!(completion, Completion::Accepted { socket: Ok(_), more: true }), "{completion:?}");
        }
    }

    #[test]
    #[should_panic(expected = "slot 1 of 1")]
    fn a_slot_out_of_bounds_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ring = Ring::new(8, b"", 1, 1).unwrap();
        ring.receive(&listener, 1).unwrap();
    }
}
