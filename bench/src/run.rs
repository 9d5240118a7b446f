//! What a reference server sends: copies of one response of the server under test, back to back.

use crate::error::{Context, Error, Result};
use crate::limits::RUN_BYTES_MAX;
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::io::Write;
use std::ops::Range;
use std::path::Path;

/// Contiguous copies of one response, so that any number of answers leaves as slices of one buffer.
pub struct Run {
    bytes: Vec<u8>,
    response_bytes: usize,
}

impl Run {
    /// As many copies as fit in `RUN_BYTES_MAX`, at least one; refuses an empty response.
    pub fn new(response: &[u8]) -> Result<Run> {
        if response.is_empty() {
            return Err(Error::Unusable("the captured response is empty".into()));
        }
        let copies_count = (RUN_BYTES_MAX / response.len()).max(1);
        Ok(Run { bytes: response.repeat(copies_count), response_bytes: response.len() })
    }

    /// Reads the captured response from a file.
    pub fn from_file(path: &Path) -> Result<Run> {
        Run::new(&std::fs::read(path).context(format!("reading {}", path.display()))?)
    }

    /// All copies.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of one response.
    pub fn response_bytes(&self) -> usize {
        self.response_bytes
    }

    /// The same bytes as a sealed memfd, for sendfile.
    pub fn memfd(&self) -> Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = std::fs::File::from(memfd_create("run", flags).context("creating a memfd")?);
        file.write_all(&self.bytes).context("filling a memfd")?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).context("sealing a memfd")?;
        Ok(file.into())
    }
}

/// What one connection is owed, counted in bytes: the whole of a reference server's protocol.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debt {
    /// Bytes of a request that is not complete; 0 <= this < request bytes.
    request_part_bytes: usize,
    /// Bytes of answers that have not left.
    owed_bytes: usize,
    /// Where in the response the next byte is; 0 <= this < response bytes.
    phase_bytes: usize,
}

impl Debt {
    /// `bytes_count` bytes of requests came: the number of requests that they completed.
    pub fn received(&mut self, bytes_count: usize, request_bytes: usize, run: &Run) -> u64 {
        let bytes = self.request_part_bytes + bytes_count;
        let requests_count = bytes / request_bytes;
        self.request_part_bytes = bytes % request_bytes;
        self.owed_bytes += requests_count * run.response_bytes;
        requests_count as u64
    }

    /// `bytes_count` bytes of [`Debt::next`] have left.
    pub fn sent(&mut self, bytes_count: usize, run: &Run) {
        debug_assert!(bytes_count <= self.owed_bytes);
        self.owed_bytes -= bytes_count;
        self.phase_bytes = (self.phase_bytes + bytes_count) % run.response_bytes;
    }

    /// The part of the run to send next; `None` when nothing is owed.
    pub fn next(&self, run: &Run) -> Option<Range<usize>> {
        let end = run.bytes.len().min(self.phase_bytes.saturating_add(self.owed_bytes));
        (self.owed_bytes > 0).then_some(self.phase_bytes..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_bounded() {
        let table = [(1, RUN_BYTES_MAX), (400, RUN_BYTES_MAX / 400 * 400), (RUN_BYTES_MAX + 1, RUN_BYTES_MAX + 1)];
        for (response_bytes, run_bytes) in table {
            assert_eq!(Run::new(&vec![7; response_bytes]).unwrap().bytes().len(), run_bytes);
        }
        assert!(Run::new(b"").is_err());
    }

    #[test]
    fn every_byte_owed_leaves_in_order() {
        // 100,000 bytes a response: a run holds two, so a batch of five needs three sends or more.
        let response: Vec<u8> = (0..100_000u32).map(|index| (index % 251) as u8).collect();
        let run = Run::new(&response).unwrap();
        let mut debt = Debt::default();
        let mut sent = Vec::new();
        let mut requests_count = 0;
        for received_bytes in [0, 9, 2, 39] {
            requests_count += debt.received(received_bytes, 10, &run);
            // A socket that takes little at a time, and stops in the middle of a response.
            for _ in 0..3 {
                if let Some(range) = debt.next(&run) {
                    let taken = range.len().min(70_001);
                    sent.extend_from_slice(&run.bytes()[range.start..range.start + taken]);
                    debt.sent(taken, &run);
                }
            }
        }
        while let Some(range) = debt.next(&run) {
            sent.extend_from_slice(&run.bytes()[range.clone()]);
            debt.sent(range.len(), &run);
        }
        assert_eq!(requests_count, 5);
        assert_eq!(sent, response.repeat(5));
    }

    #[test]
    fn the_memfd_holds_the_run_and_is_sealed() {
        let run = Run::new(b"response").unwrap();
        let memfd = run.memfd().unwrap();
        let mut bytes = vec![0; run.bytes().len()];
        assert_eq!(rustix::io::pread(&memfd, &mut bytes, 0), Ok(bytes.len()));
        assert_eq!(bytes, run.bytes());
        assert_eq!(rustix::io::pwrite(&memfd, b"x", 0), Err(rustix::io::Errno::PERM));
    }
}
