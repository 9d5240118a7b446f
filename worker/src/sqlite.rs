//! The store in one file: SQLite, write-ahead log, `synchronous=FULL`, one transaction a batch.
//!
//! One thread, `store`, holds the connection that writes; a second process that wants to write finds the lock file
//! beside the data file held. Reads have connections of their own ([`SqliteReader`]) and never wait for a write.

mod open;
mod read;
mod write;

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use todo_proto::fold::{Batch, Partition};
use tokio::sync::oneshot;

use crate::traits::{Begun, CaughtUp, Named, StoreError, TodoStore};

pub use open::OpenError;
pub use read::SqliteReader;
use write::Writer;

/// The time in ms since the Unix epoch. Given from outside, so that a test can be next week.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The one writer of a data file. Dropping it gives the file back.
pub struct SqliteStore {
    path: PathBuf,
    /// `None` only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

impl SqliteStore {
    /// Whether no other process has the data file. Changes nothing.
    ///
    /// # Errors
    /// [`OpenError::Held`]; its folder or its lock cannot be looked at.
    pub fn check_free(path: &Path) -> Result<(), OpenError> {
        open::check_free(path)
    }

    /// Opens the data file, makes it when there is none, and brings it to this version's schema. Blocks for a moment.
    /// On any error the file is as it was.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, OpenError> {
        let (path, connection, lock) = open::open(path)?;
        let mut writer = Writer::new(connection, lock, clock);
        let (jobs, inbox) = mpsc::channel::<Job>();
        let work = move || {
            while let Ok(job) = inbox.recv() {
                job(&mut writer);
                // The answer is on its way: what is done between two batches delays nobody's.
                writer.checkpoint_when_due();
            }
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(work);
        let thread = thread.map_err(|error| OpenError::Thread(error.to_string()))?;
        Ok(Self { path, jobs: Some(jobs), thread: Some(thread) })
    }

    /// Another connection, for reading.
    pub fn reader(&self) -> Result<SqliteReader, OpenError> {
        SqliteReader::open(&self.path)
    }

    /// Caps the file at `pages` pages of 4 KiB, so that a test has a full disk; returns the cap that holds, which is never
    /// below the file's size.
    #[doc(hidden)]
    pub async fn cap_pages(&mut self, pages: u64) -> Result<u64, StoreError> {
        self.call(move |writer| writer.cap_pages(pages)).await
    }

    async fn call<R: Send + 'static>(&self, job: impl FnOnce(&mut Writer) -> R + Send + 'static) -> R {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |writer| {
            // Nobody waits any more when the loop was dropped; the next `begin` rolls back.
            let _ = reply.send(job(writer));
        });
        let jobs = self.jobs.as_ref().expect("there until the store is dropped");
        jobs.send(job).expect("the store thread ends only after its last job");
        answer.await.expect("the store thread answers every job")
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store thread has panicked");
        }
    }
}

impl TodoStore for SqliteStore {
    async fn partition(&mut self, part: u32) -> Result<Partition, StoreError> {
        self.call(move |writer| writer.partition(part)).await
    }

    async fn begin(&mut self, part: u32, from: u64, named: Named) -> Result<Begun, StoreError> {
        self.call(move |writer| writer.begin(part, from, &named)).await
    }

    async fn commit(&mut self, batch: Batch) -> Result<(), StoreError> {
        self.call(move |writer| writer.commit(&batch)).await
    }

    async fn now_ms(&mut self) -> Result<u64, StoreError> {
        self.call(|writer| Ok(writer.now_ms())).await
    }

    async fn catch_up(&mut self, part: u32, next_offset: u64, now_ms: u64) -> Result<CaughtUp, StoreError> {
        self.call(move |writer| writer.catch_up(part, next_offset, now_ms)).await
    }
}

/// A number as SQLite has it: 64 bits with a sign. Hashes use all of them, everything else stays far below.
fn integer(number: u64) -> i64 {
    number.cast_signed()
}

/// The number that [`integer`] stored.
fn number(integer: i64) -> u64 {
    integer.cast_unsigned()
}

/// What an error means to whoever holds the store: nothing was written.
fn store_error(error: &rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) => {
            StoreError::Refused(error.to_string())
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => {
            StoreError::Unavailable(format!("the data file is damaged ({error}); restore it from a backup"))
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}
