//! What every test needs: a server of its own, and clients that believe nothing.

mod client;
mod cluster;
mod requests;
mod server;
pub mod successor;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub use client::{Client, Response, Silence};
pub use cluster::Cluster;
pub use requests::{Todo, get, request, with_fields};
pub use server::{Options, SECRET, Server, binary, run, run_with};

/// How long anything may take that is to come; some ten times and more of what it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `what` is so, and fails when it is not in time.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends what runs beside a test when the test ends, be it by a panic: dropped, it sets its flag.
pub struct EndsWith<'a>(pub &'a AtomicBool);

impl Drop for EndsWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
