//! `loop`: the server's own runtime and I/O module around nothing. It counts bytes like a floor; what lies between it and
//! the floor is the runtime's, what lies between the server and it is the server's.
//!
//! The ways of reading are the server's too: readiness and one shared buffer, or, for a connection with small batches, a
//! receive operation into a buffer of its own.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use todo_server::http::output::{Buffer, Pool};
use todo_server::limits::{BUSY_AFTER_BATCHES, BUSY_CONNECTIONS_MAX, BUSY_READ_BUFFER_BYTES, READ_BUFFER_BYTES};
use todo_server::shard::io::{self, Canceller, Listener, Runtime, Stream, probe_driver};

use crate::error::{Context, Result};
use crate::floor::{Reference, ReferenceArgs};
use crate::process::counters::SharedCounters;
use crate::run::{Debt, Run};

/// Serves until standard input ends.
///
/// # Errors
/// What keeps it from starting.
pub fn serve(args: &ReferenceArgs) -> Result<()> {
    let reference = Reference::prepare(args)?;
    let (driver, _) = probe_driver();
    let mut runtime = Runtime::build(driver).context("building the server's runtime")?;
    runtime.block_on(accept(reference))
}

struct Shared {
    run: Run,
    /// The same bytes, as the server's writes want them.
    buffer: Rc<Buffer>,
    request_bytes: usize,
    counters: Arc<SharedCounters>,
    read_buffer: RefCell<Box<[u8]>>,
    busy_count: Cell<usize>,
}

async fn accept(reference: Reference) -> Result<()> {
    let listener = Listener::new(reference.listener).context("registering the listener")?;
    let buffer = Pool::new().seal(reference.run.bytes().to_vec());
    let shared = Rc::new(Shared {
        run: reference.run,
        buffer,
        request_bytes: reference.request_bytes,
        counters: reference.counters,
        read_buffer: RefCell::new(vec![0; READ_BUFFER_BYTES].into_boxed_slice()),
        busy_count: Cell::new(0),
    });
    loop {
        listener.ready().await.context("waiting for a connection")?;
        while let Some(socket) = listener.accept().context("accepting a connection")? {
            io::spawn(connection(Rc::clone(&shared), socket));
        }
    }
}

async fn connection(shared: Rc<Shared>, socket: OwnedFd) {
    // A reset while it is served ends it like any close: the generator on the other side counts it as an error.
    let Ok(mut stream) = Stream::new(socket) else { return };
    let mut debt = Debt::default();
    let mut small_batches = 0;
    let mut own: Option<Vec<u8>> = None;
    let canceller = Canceller::new();
    loop {
        let count = if let Some(buffer) = own.take() {
            let (result, mut filled) = stream.read(buffer, canceller.handle()).await;
            let Ok(count) = result else { break };
            if count < BUSY_READ_BUFFER_BYTES {
                filled.clear();
                own = Some(filled);
            } else {
                shared.busy_count.set(shared.busy_count.get() - 1);
                small_batches = 0;
            }
            count
        } else if small_batches >= BUSY_AFTER_BATCHES && shared.busy_count.get() < BUSY_CONNECTIONS_MAX {
            shared.busy_count.set(shared.busy_count.get() + 1);
            own = Some(Vec::with_capacity(BUSY_READ_BUFFER_BYTES));
            continue;
        } else {
            if stream.readable().await.is_err() {
                break;
            }
            match stream.receive(&mut shared.read_buffer.borrow_mut()) {
                Ok(Some(count)) => {
                    small_batches = if count < BUSY_READ_BUFFER_BYTES { small_batches + 1 } else { 0 };
                    count
                }
                Ok(None) => continue,
                Err(_) => break,
            }
        };
        if count == 0 {
            break;
        }
        let requests_count = debt.received(count, shared.request_bytes, &shared.run);
        shared.counters.add_read(requests_count);
        while let Some(range) = debt.next(&shared.run) {
            match stream.write(Rc::clone(&shared.buffer), range.start, range.end).await.0 {
                Ok(sent) if sent > 0 => debt.sent(sent, &shared.run),
                _ => break,
            }
        }
    }
    if own.is_some() {
        shared.busy_count.set(shared.busy_count.get() - 1);
    }
}
