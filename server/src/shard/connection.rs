//! One connection's task: moves bytes between a socket and its state machine, and decides nothing.
//!
//! ```text
//! loop:
//!     read    -> machine.receive      (waits here while the client is quiet)
//!     write   <- machine.transfer     (one operation a turn: every turn waits for the kernel, so none holds the shard)
//!     wait    for the control plane's outcomes
//!     linger, close
//! ```
//!
//! Another process may go on with the connection: between two requests its socket goes there, with what was read and not
//! looked at, and this task ends without a word to the client.
//! Who watches the dashboard leaves: its socket goes to the control plane when nothing is owed, and its task ends.
//!
//! Two ways to write: by an operation, and, what is large and ready-made, by `sendfile(2)` (see [`crate::shard::file`]).
//!
//! Two ways to read, chosen by how a client behaves (measured in LIMITS: 1.06 against 1.18 of the floor at 64
//! connections and depth 1, but 1.10 against 0.97 at 2,000):
//! 1. Everybody waits for readiness, then reads into the shard's one large buffer: an idle connection holds none.
//! 2. A busy one (small batches, one after the other) waits with a receive operation into a small buffer of its own: one
//!    round trip to the kernel less. Their number is bounded; a full buffer or a second of silence ends it.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::admission::purses::Admitted;
use crate::bridge::{Moved, Watcher};
use crate::http::connection::{Deferred, Linger, Next};
use crate::http::output::{Buffer, Held, Transfer};
use crate::http::proxy_header;
use crate::limits::{
    BUSY_AFTER_BATCHES, BUSY_READ_BUFFER_BYTES, EXHAUSTED_WAIT_MS, FILE_WRITE_BYTES_MIN, FILE_WRITE_BYTES_MIN_DIRECT,
    GATHERED_PIECES_MAX, OUTPUT_BYTES_PER_TURN,
};
use crate::shard::file;
use crate::shard::io::{self as runtime, Canceller, Stream, is_canceled};
use crate::shard::{Arrival, Peer, Shard};
use crate::snapshot::Walk;
use crate::sys::{Direction, Gathered};

/// Serves one socket to its end, or until another process goes on with it.
pub async fn serve(shard: Rc<Shard>, socket: OwnedFd, admitted: Admitted) {
    // The driver may refuse the registration when memory is short; the client sees a close, and the next is tried.
    let number = socket.as_raw_fd();
    let Ok(mut stream) = Stream::new(socket) else {
        shard.arrivals.borrow_mut().remove(&number);
        shard.counters.accept_exhausted.add(1);
        shard.let_go(admitted);
        return;
    };
    let peer = shard.register(&stream, admitted);
    poll_fn(|context| {
        peer.waker.set(Some(context.waker().clone()));
        Poll::Ready(())
    })
    .await;
    give_arrival(&shard, &peer);
    if shard.draining.get() {
        // It was queued when the process began to go: what has come with it is answered, and no more is waited for.
        peer.shutdown(Direction::Read);
    }
    let mut small_batches = 0;
    loop {
        if is_to_move(&shard, &peer) && Box::pin(move_on(&shard, &peer, &stream)).await {
            break;
        }
        shard.arm(&peer);
        let next = peer.machine.borrow().next();
        let goes_on = match next {
            Next::Read if small_batches >= BUSY_AFTER_BATCHES && !stream.is_direct() => {
                small_batches = 0;
                match shard.take_busy_buffer(&peer) {
                    // In a box of its own: an idle connection's task is a third smaller without it.
                    Some(buffer) => Box::pin(serve_busy(&shard, &peer, &mut stream, buffer)).await,
                    None => true,
                }
            }
            Next::Read => match read_when_ready(&shard, &peer, &mut stream).await {
                Some(count) => {
                    small_batches = if count < BUSY_READ_BUFFER_BYTES { small_batches + 1 } else { 0 };
                    true
                }
                None => false,
            },
            Next::Linger => {
                Box::pin(linger(&shard, &peer, &mut stream)).await;
                false
            }
            Next::Close => false,
            Next::Write | Next::Resume | Next::Wait => advance(&shard, &peer, &mut stream, next).await,
        };
        if !goes_on {
            break;
        }
    }
    if peer.is_reset.get() {
        stream.reset_on_close();
    }
    shard.unregister(&peer);
}

/// Serves a connection that sends small batches one after the other, for as long as it does; false when it is broken.
async fn serve_busy(shard: &Rc<Shard>, peer: &Rc<Peer>, stream: &mut Stream, mut buffer: Vec<u8>) -> bool {
    let canceller = Canceller::new();
    let handle = canceller.handle();
    *peer.canceller.borrow_mut() = Some(canceller);
    let goes_on = loop {
        if is_to_move(shard, peer) {
            break true;
        }
        shard.arm(peer);
        let next = peer.machine.borrow().next();
        match next {
            // Its reads are not operations any more.
            Next::Read if stream.is_direct() => break true,
            Next::Read => {
                let (result, filled) = stream.read(buffer, handle.clone()).await;
                buffer = filled;
                match result {
                    Ok(count) => {
                        received(shard, peer, &buffer[..count]);
                        if count == BUSY_READ_BUFFER_BYTES {
                            break true;
                        }
                        buffer.clear();
                    }
                    Err(error) => break is_canceled(&error),
                }
            }
            Next::Write | Next::Resume | Next::Wait => {
                if !advance(shard, peer, stream, next).await {
                    break false;
                }
            }
            Next::Linger | Next::Close => break true,
        }
    };
    *peer.canceller.borrow_mut() = None;
    shard.give_busy_buffer_back(peer, buffer);
    goes_on
}

/// Tells the machine whose connection it is, and gives it what another process has read of it. Kept with the shard until
/// here: as an argument it would make every idle connection's task larger.
fn give_arrival(shard: &Shard, peer: &Peer) {
    let arrival = shard.arrivals.borrow_mut().remove(&peer.socket.get());
    let Arrival { client, input } = arrival.unwrap_or_default();
    peer.machine.borrow_mut().set_client(client);
    peer.is_unnamed.set(client == proxy_header::Client::Awaited);
    // The limits may have changed since it was taken.
    shard.renew(peer);
    if let proxy_header::Client::Named(address) = client {
        shard.site.borrow_mut().access.name_client(peer.key.index, address);
    }
    if !input.is_empty() {
        received(shard, peer, &input);
    }
}

/// Looks up what a client may do that its proxy has just named; false when it may not have the connection.
#[cold]
fn admit_named(shard: &Shard, peer: &Peer) -> bool {
    let client = peer.machine.borrow().client();
    peer.is_unnamed.set(client == proxy_header::Client::Awaited);
    let proxy_header::Client::Named(address) = client else { return true };
    match shard.admit_from(address) {
        Ok(admitted) => {
            peer.admitted.set(admitted);
            true
        }
        Err(refused) => {
            shard.decide(|site| peer.machine.borrow_mut().turn_away(refused.into(), site));
            false
        }
    }
}

/// Whether another process goes on with the connection, now.
fn is_to_move(shard: &Shard, peer: &Peer) -> bool {
    shard.moving.get() && peer.machine.borrow().can_move()
}

/// Passes the connection on; false when nobody takes it any more. Its socket is closed here like any other's, but that is
/// no end to the client while another process has it.
async fn move_on(shard: &Shard, peer: &Peer, stream: &Stream) -> bool {
    let socket = loop {
        match stream.duplicate() {
            Ok(socket) => break socket,
            // Out of descriptors: those on their way give theirs back.
            Err(_) => runtime::sleep(Duration::from_millis(EXHAUSTED_WAIT_MS)).await,
        }
    };
    let input = shard.decide(|site| peer.machine.borrow_mut().take_input(site));
    let client = peer.machine.borrow().client();
    let refused = match &*shard.moves.borrow() {
        Some(moves) => moves.send(Moved { socket, client, input }),
        None => unreachable!("it is there from when moving begins"),
    };
    let Err(Moved { input, .. }) = refused else { return true };
    shard.moving.set(false);
    shard.decide(|site| site.moving = false);
    if !input.is_empty() {
        received(shard, peer, &input);
    }
    false
}

/// Waits for bytes, then reads into the shard's buffer; how many came, or `None` when the connection is broken.
async fn read_when_ready(shard: &Shard, peer: &Peer, stream: &mut Stream) -> Option<usize> {
    {
        let mut readable = pin!(stream.readable());
        // The wait may be dropped: it has taken nothing.
        poll_fn(|context| match is_to_move(shard, peer) {
            true => Poll::Ready(Ok(())),
            false => readable.as_mut().poll(context),
        })
        .await
        .ok()?;
    }
    let mut buffer = shard.read_buffer.borrow_mut();
    // Readiness without bytes is possible, and means to wait again.
    let Some(count) = stream.receive(&mut buffer).ok()? else { return Some(0) };
    received(shard, peer, &buffer[..count]);
    Some(count)
}

/// What is neither reading nor ending; false when the connection is broken.
async fn advance(shard: &Rc<Shard>, peer: &Rc<Peer>, stream: &mut Stream, next: Next) -> bool {
    match next {
        Next::Write => write(shard, peer, stream).await,
        Next::Resume => {
            if peer.is_unnamed.get() && !admit_named(shard, peer) {
                return true;
            }
            let purse = peer.admitted.get().requests();
            shard.decide(|site| site.within(purse, |site| peer.machine.borrow_mut().resume(site)));
            true
        }
        _ => wait(shard, peer, stream).await,
    }
}

/// Gives the machine what was read; none means that the client has ended its side.
fn received(shard: &Shard, peer: &Peer, bytes: &[u8]) {
    let mut machine = peer.machine.borrow_mut();
    shard.decide(|site| {
        peer.active_ms.set(site.now.tick_ms);
        if machine.next() != Next::Read {
            // A deadline has passed while this read was pending: what came no longer counts.
            return;
        }
        if bytes.is_empty() {
            return machine.end_of_input(site);
        }
        site.counters.reads.add(1);
        site.counters.read_bytes.add(bytes.len() as u64);
        shard.sampling.begin(peer.key, shard.clocks.tick_us);
        site.within(peer.admitted.get().requests(), |site| machine.receive(bytes, site));
    });
}

/// Writes once; false when the connection is broken.
async fn write(shard: &Rc<Shard>, peer: &Rc<Peer>, stream: &mut Stream) -> bool {
    // Before anything is taken in hand: a task that waits here is no larger for it.
    if stream.must_wait() && stream.writable().await.is_err() {
        return false;
    }
    let transfer = peer.machine.borrow_mut().transfer(&shard.site.borrow());
    let result = match transfer {
        Some(Transfer::Bytes { buffer, start, end }) => {
            give_file_if_worth(shard, &buffer, end - start);
            let bytes_min = if stream.is_direct() { FILE_WRITE_BYTES_MIN_DIRECT } else { FILE_WRITE_BYTES_MIN };
            let from_file = end - start >= bytes_min && buffer.file().is_some();
            if from_file || stream.is_direct() {
                match stream.write_direct(&buffer, start, end, from_file) {
                    Ok(Some(count)) => {
                        shard.counters.file_writes.add(u64::from(from_file));
                        Ok(count)
                    }
                    // No room: the next turn waits for it.
                    Ok(None) => return true,
                    Err(error) => Err(error),
                }
            } else {
                stream.write(buffer, start, end).await.0
            }
        }
        Some(Transfer::Slices { held, walk }) => Box::pin(stream.write_pieces(gather(&held, walk))).await,
        None => return true,
    };
    match result {
        Ok(count) if count > 0 => {
            let mut machine = peer.machine.borrow_mut();
            if machine.next() == Next::Write {
                let site = shard.site.borrow();
                site.counters.writes.add(1);
                site.counters.written_bytes.add(count as u64);
                machine.written(count, &site);
                if machine.next() != Next::Write
                    && let Some(us) = shard.sampling.end(peer.key, shard.clocks.tick_us)
                {
                    shard.counters.batches.observe_us(us);
                }
                return true;
            }
            // Cut while the write was pending.
            false
        }
        _ => false,
    }
}

/// Makes the file of a ready-made buffer that is written in large parts again and again.
fn give_file_if_worth(shard: &Shard, buffer: &Buffer, bytes: usize) {
    if !buffer.deserves_file(bytes) {
        return;
    }
    match file::sealed(buffer.bytes()) {
        Ok(file) => buffer.attach_file(file),
        // Descriptors or memory are short: the ring does it, and this is tried again when the response is remade.
        Err(_) => {
            shard.counters.files_failed.add(1);
            buffer.no_file_now();
        }
    }
}

/// The next turn's bytes of a large body, as slices.
fn gather(held: &Rc<Held>, walk: Walk) -> Gathered {
    Gathered::new(held, |held, push| {
        let mut walk = walk;
        let mut left_bytes = OUTPUT_BYTES_PER_TURN;
        for _ in 0..GATHERED_PIECES_MAX {
            if left_bytes == 0 {
                break;
            }
            let Some((piece, rest)) = walk.next(&held.snapshot, left_bytes) else { break };
            left_bytes -= piece.len();
            walk = rest;
            push(piece);
        }
    })
}

/// Hands over what memory could not answer, and waits until the machine can go on; false when the connection itself was
/// handed over.
async fn wait(shard: &Rc<Shard>, peer: &Rc<Peer>, stream: &Stream) -> bool {
    let deferred = peer.machine.borrow_mut().take_deferred();
    match deferred {
        Some(Deferred::Events) if leave(shard, peer, stream) => return false,
        Some(deferred) => {
            shard.sampling.give_up(peer.key);
            shard.hand_over(peer, deferred);
        }
        None => {}
    }
    // The task is woken by whoever changes the machine.
    poll_fn(|_| match peer.machine.borrow().next() != Next::Wait || is_to_move(shard, peer) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
    true
}

/// Gives the connection to the control plane, which writes to it from here on; false when that has no place for it. Its
/// socket is closed here like any other's, but that is no end to the client while the control plane has it.
fn leave(shard: &Shard, peer: &Peer, stream: &Stream) -> bool {
    // The place first: then a flood of watchers costs no descriptors.
    let Some(place) = shard.to_control.place() else { return false };
    let Ok(socket) = stream.duplicate() else { return false };
    shard.sampling.give_up(peer.key);
    let head = shard.decide(|site| peer.machine.borrow_mut().leave(site));
    shard.to_control.hand_over(Watcher { socket, head, place });
    true
}

/// RFC 9112 9.6: says that nothing more comes, then reads and drops for a while, so that no reset destroys what was sent.
async fn linger(shard: &Rc<Shard>, peer: &Rc<Peer>, stream: &mut Stream) {
    stream.shutdown_write();
    let mut linger = Linger::default();
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        let count = match stream.receive(&mut shard.read_buffer.borrow_mut()) {
            Ok(Some(count)) => count,
            Ok(None) => continue,
            Err(error) => return drop::<io::Error>(error),
        };
        if !peer.machine.borrow_mut().discarded(&mut linger, count, &shard.site.borrow()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle connection costs its task, its peer, and some two hundred bytes of the runtime's and the allocator's:
    /// together no more than a KiB.
    #[test]
    fn an_idle_connection_is_small() {
        fn future_bytes<F: Future>(_: fn(Rc<Shard>, OwnedFd, Admitted) -> F) -> usize {
            size_of::<F>()
        }
        let (task, peer) = (future_bytes(serve), size_of::<Peer>());
        assert!(task <= 400 && peer <= 264, "task {task}, peer {peer}");
    }
}
