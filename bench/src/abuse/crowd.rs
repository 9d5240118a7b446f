//! The connections of one attack, all driven by one thread.
//!
//! ```text
//! until it is stopped:
//!     as many steps as are due, round the connections:
//!         closed?  open it    output left?  send it    else what the attack says
//!     sleep a millisecond
//! reset them all
//! ```
//!
//! Nothing here waits for the server: what a socket does not take, or does not have, is looked at again at the next step. Steps
//! that the thread was too late for are left out, so that a pause is not followed by a burst.

use crate::abuse::attacks::{Act, Attack, Turn, Words};
use crate::clock;
use crate::error::{Context, Result};
use crate::limits::{ATTACK_BEHIND_MAX, ATTACK_TICK};
use crate::load::socket;
use crate::sys::scheduling;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What an attack did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crowd {
    /// Steps that its rate asked for.
    pub steps_due: u64,
    /// Steps made: fewer where those who measure, or others on the machine, needed the core.
    pub steps: u64,
    /// Connections opened.
    pub opened: u64,
    /// Connections that could not be opened.
    pub refused: u64,
    /// Connections that the server ended.
    pub ended: u64,
    /// Bytes that the sockets took.
    pub sent_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
}

impl Crowd {
    /// Both.
    pub fn add(&mut self, other: Crowd) {
        self.steps_due += other.steps_due;
        self.steps += other.steps;
        self.opened += other.opened;
        self.refused += other.refused;
        self.ended += other.ended;
        self.sent_bytes += other.sent_bytes;
        self.read_bytes += other.read_bytes;
    }
}

/// Attacks until `stop` is set; every connection is closed then. The calling thread gives way to everybody else on its CPU.
pub fn attack(attack: &Attack, address: SocketAddr, words: &Words, seed: u64, stop: &AtomicBool) -> Result<Crowd> {
    scheduling::be_idle().context("giving way to those who measure")?;
    let mut attackers = Attackers {
        attack,
        address,
        words,
        random: fastrand::Rng::with_seed(seed),
        slots: std::iter::repeat_with(Slot::default).take(attack.connections_count).collect(),
        lives: 0,
        buffer: vec![0; READ_BYTES],
        done: Crowd::default(),
    };
    let begun_ns = clock::now_ns();
    let (mut before_ns, mut due, mut next) = (begun_ns, 0.0, 0);
    while !stop.load(Ordering::Relaxed) {
        let now_ns = clock::now_ns();
        let passed = Duration::from_nanos(now_ns - before_ns).min(ATTACK_BEHIND_MAX);
        before_ns = now_ns;
        due += passed.as_secs_f64() * f64::from(attack.steps_per_second);
        while due >= 1.0 {
            due -= 1.0;
            attackers.step(next);
            attackers.done.steps += 1;
            next = (next + 1) % attack.connections_count;
        }
        std::thread::sleep(ATTACK_TICK);
    }
    let lasted = Duration::from_nanos(clock::now_ns() - begun_ns).as_secs_f64();
    attackers.done.steps_due = (lasted * f64::from(attack.steps_per_second)) as u64;
    Ok(attackers.done)
}

/// Bytes taken by one read at most.
const READ_BYTES: usize = 256 * 1024;

struct Attackers<'a> {
    attack: &'a Attack,
    address: SocketAddr,
    words: &'a Words,
    random: fastrand::Rng,
    slots: Vec<Slot>,
    /// Connections so far.
    lives: u64,
    buffer: Vec<u8>,
    done: Crowd,
}

/// Room for a connection.
#[derive(Default)]
struct Slot {
    socket: Option<TcpStream>,
    life: u64,
    step: u32,
    output: Vec<u8>,
    // 0 <= sent <= output.len()
    sent: usize,
}

impl Attackers<'_> {
    fn step(&mut self, index: usize) {
        let Some(socket) = self.slots[index].socket.take() else { return self.open(index) };
        match self.go_on(index, &socket) {
            Ok(true) => self.slots[index].socket = Some(socket),
            Ok(false) => {}
            // A reset, or the end of the stream: the server's right.
            Err(_) => self.done.ended += 1,
        }
    }

    fn open(&mut self, index: usize) {
        match socket::begin_open_with(&self.address, self.attack.receive_bytes) {
            Ok((socket, _)) => {
                self.slots[index] = Slot { socket: Some(socket), life: self.lives, ..Slot::default() };
                self.lives += 1;
                self.done.opened += 1;
            }
            Err(_) => self.done.refused += 1,
        }
    }

    /// One step of an open connection; false when it is to be closed.
    fn go_on(&mut self, index: usize, socket: &TcpStream) -> Result<bool, Errno> {
        self.look_for_end(socket)?;
        let slot = &mut self.slots[index];
        if slot.sent == slot.output.len() {
            let turn = &mut Turn { step: slot.step, life: slot.life, random: &mut self.random, words: self.words };
            slot.step += 1;
            match (self.attack.play)(turn) {
                Act::Send(bytes) => (slot.output, slot.sent) = (bytes, 0),
                Act::Read(count) => {
                    let wanted = count.min(self.buffer.len());
                    let received = socket::receive(socket, &mut self.buffer[..wanted], RecvFlags::empty())?;
                    self.done.read_bytes += received.unwrap_or(0) as u64;
                }
                Act::Wait => {}
                Act::Reset => return Ok(false),
                Act::Close => {
                    // Without this its end is a reset.
                    socket2::SockRef::from(socket).set_linger(None).map_err(|_| Errno::INVAL)?;
                    return Ok(false);
                }
            }
        }
        let sent_bytes = socket::send_some(socket, &slot.output[slot.sent..])?;
        slot.sent += sent_bytes;
        self.done.sent_bytes += sent_bytes as u64;
        if slot.sent == slot.output.len() {
            // Thousands of connections do not keep what they have sent.
            (slot.output, slot.sent) = (Vec::new(), 0);
        }
        Ok(true)
    }

    /// An error when the server has ended the connection, or its own side of it and that is enough for this attack.
    fn look_for_end(&self, socket: &TcpStream) -> Result<(), Errno> {
        let mut ends = PollFlags::HUP | PollFlags::ERR;
        if !self.attack.is_stubborn {
            ends |= PollFlags::RDHUP;
        }
        let mut looked = [PollFd::new(socket, ends)];
        poll(&mut looked, Some(&clock::timespec(0)))?;
        if looked[0].revents().intersects(ends) { Err(Errno::PIPE) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abuse::attacks::ATTACKS;
    use std::io::Read;
    use std::net::TcpListener;

    /// What a listener sees of an attack: bytes come, and at the end every connection is gone.
    #[test]
    fn an_attack_comes_and_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), AtomicBool::new(false));
        let words = Words::new(address.to_string(), "a.b.C");
        let slow_head = &ATTACKS[0];
        std::thread::scope(|scope| {
            let crowd = scope.spawn(|| attack(slow_head, address, &words, 1, &stop).unwrap());
            let (mut first, _) = listener.accept().unwrap();
            let mut front = [0; 16];
            first.read_exact(&mut front).unwrap();
            assert_eq!(&front, b"GET /todos?limit");
            stop.store(true, Ordering::Relaxed);
            let crowd = crowd.join().unwrap();
            assert!(crowd.opened > 0 && crowd.sent_bytes > 0 && crowd.ended == 0, "{crowd:?}");
            let mut rest = Vec::new();
            let end = first.read_to_end(&mut rest).unwrap_err();
            assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
        });
    }

    /// A server that closes is seen, and the connection comes again.
    #[test]
    fn who_is_closed_comes_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), AtomicBool::new(false));
        let words = Words::new(address.to_string(), "a.b.C");
        let one = Attack { connections_count: 1, ..clone(&ATTACKS[4]) };
        std::thread::scope(|scope| {
            let crowd = scope.spawn(|| attack(&one, address, &words, 1, &stop).unwrap());
            drop(listener.accept().unwrap());
            drop(listener.accept().unwrap());
            stop.store(true, Ordering::Relaxed);
            let crowd = crowd.join().unwrap();
            assert!(crowd.opened >= 2 && crowd.ended >= 1, "{crowd:?}");
        });
    }

    fn clone(attack: &Attack) -> Attack {
        Attack { ..*attack }
    }
}
