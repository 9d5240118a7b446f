//! Opening a data file: whose it is, whether it is one of ours, and whether this version can write it. Everything is
//! looked at before anything is written.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};
use todo_proto::names::TOPIC;

use crate::limits::BUSY_TIMEOUT;

/// Why a data file cannot be opened: one sentence with the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Its directory is not there.
    #[error("the directory of {} does not exist: make it, or set DATA_FILE", path.display())]
    DirectoryMissing {
        /// The data file.
        path: PathBuf,
    },
    /// It is not there.
    #[error("there is no data file {}: set DATA_FILE to the one you mean", path.display())]
    Missing {
        /// The data file.
        path: PathBuf,
    },
    /// It is a directory, or something else that holds no bytes.
    #[error("{} is not a file: set DATA_FILE to a file's name", path.display())]
    NotAFile {
        /// The data file.
        path: PathBuf,
    },
    /// This process must not write it.
    #[error("{} cannot be written ({why}): check the permissions of the file and its directory with `ls -ld`", path.display())]
    ReadOnly {
        /// The data file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// Another process has it.
    #[error(
        "{} is held by another process{}: stop that one, or set DATA_FILE to another file",
        path.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Held {
        /// The data file.
        path: PathBuf,
        /// The process, if it wrote its number.
        pid: Option<u32>,
    },
    /// It is no SQLite database.
    #[error("{} is not a data file, and was left as it is: set DATA_FILE to another file, or move it away", path.display())]
    NotADatabase {
        /// The data file.
        path: PathBuf,
    },
    /// It is a SQLite database of another program.
    #[error("{} is a database of another program, and was left as it is: set DATA_FILE to another file", path.display())]
    Foreign {
        /// The data file.
        path: PathBuf,
    },
    /// It was ours.
    #[error("{} is damaged ({why}), and was left as it is: restore it from a backup, or move it away to start anew", path.display())]
    Damaged {
        /// The data file.
        path: PathBuf,
        /// What was found.
        why: String,
    },
    /// A later version has changed it in a way that this one does not know.
    #[error("{} was written by a newer version (schema {schema}, and this one knows {SCHEMA}): start that version", path.display())]
    Newer {
        /// The data file.
        path: PathBuf,
        /// Its schema.
        schema: u32,
    },
    /// There was no room, or the disk failed.
    #[error("{} cannot be opened ({why}): check the disk with `df -h` and `dmesg`", path.display())]
    Disk {
        /// The data file.
        path: PathBuf,
        /// What was said.
        why: String,
    },
    /// The system gave no thread.
    #[error("the store thread cannot be started ({0}): check the limit with `ulimit -u`")]
    Thread(String),
}

/// The lock on a data file; the system gives it back when the process ends, however it ends.
pub(super) struct Lock {
    _file: File,
}

/// The schema of this version: the number of the last migration.
const SCHEMA: u32 = MIGRATIONS.len() as u32;
/// The oldest schema whose programs can write what this version writes.
const MIN_READER: u32 = 1;
const MIGRATIONS: [&str; 1] = [include_str!("0001_todos.sql")];

/// "Todo" in the header tells our files from those of other programs.
const APPLICATION_ID: i32 = i32::from_be_bytes(*b"Todo");
const APPLICATION_ID_AT: usize = 68;
const HEADER_BYTES: usize = 100;
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Locks, checks and opens a data file, and migrates it. Returns its real path.
pub(super) fn open(path: &Path) -> Result<(PathBuf, Connection, Lock), OpenError> {
    let path = real_path(path)?;
    let lock = lock(&path)?;
    check_header(&path)?;
    let connection = connect(&path).map_err(|error| open_error(&path, &error))?;
    let schema = schema(&path, &connection)?;
    migrate(connection, schema).map_err(|error| open_error(&path, &error)).map(|connection| (path, connection, lock))
}

/// Checks a data file for reading only, be it beside the process that has it. Returns its real path.
pub(super) fn check(path: &Path) -> Result<PathBuf, OpenError> {
    let path = real_path(path)?;
    if !path.exists() {
        return Err(OpenError::Missing { path });
    }
    check_header(&path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags).map_err(|error| open_error(&path, &error))?;
    schema(&path, &connection)?;
    Ok(path)
}

/// What SQLite's error means to whoever opens a file.
pub(super) fn open_error(path: &Path, error: &rusqlite::Error) -> OpenError {
    let (path, why) = (path.to_owned(), error.to_string());
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::Damaged { path, why },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => OpenError::ReadOnly { path, why },
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => OpenError::Held { path, pid: None },
        _ => OpenError::Disk { path, why },
    }
}

/// The file behind symbolic links, so that two names of one file have one lock.
fn real_path(path: &Path) -> Result<PathBuf, OpenError> {
    if let Ok(real) = path.canonicalize() {
        return if real.is_file() { Ok(real) } else { Err(OpenError::NotAFile { path: real }) };
    }
    let name = path.file_name().ok_or_else(|| OpenError::NotAFile { path: path.to_owned() })?;
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    let directory = directory.canonicalize().map_err(|_| OpenError::DirectoryMissing { path: path.to_owned() })?;
    Ok(directory.join(name))
}

/// Whether [`open`] would get the lock. Holds it for a moment, shared with others who look, where there is one.
pub(super) fn check_free(path: &Path) -> Result<(), OpenError> {
    let path = real_path(path)?;
    match File::open(lock_path(&path)) {
        Ok(file) => take(file, FlockOperation::NonBlockingLockShared, &path).map(drop),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error(&path, &error)),
    }
}

fn lock(path: &Path) -> Result<Lock, OpenError> {
    let io_error = |error: io::Error| io_error(path, &error);
    // SQLite would open a file that it must not write for reading, without a word.
    if path.exists() {
        OpenOptions::new().read(true).write(true).open(path).map_err(io_error)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(lock_path(path));
    let mut file = take(file.map_err(io_error)?, FlockOperation::NonBlockingLockExclusive, path)?;
    file.set_len(0).map_err(io_error)?;
    file.seek(SeekFrom::Start(0)).map_err(io_error)?;
    writeln!(file, "{}", std::process::id()).map_err(io_error)?;
    Ok(Lock { _file: file })
}

fn lock_path(path: &Path) -> PathBuf {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    PathBuf::from(lock_path)
}

/// Takes the lock that `file` is; whoever has it already is named by what stands in it.
fn take(mut file: File, how: FlockOperation, path: &Path) -> Result<File, OpenError> {
    match flock(&file, how) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // Without the number the sentence is as true.
            let pid = file.read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
            Err(OpenError::Held { path: path.to_owned(), pid })
        }
        Err(error) => Err(io_error(path, &error.into())),
    }
}

fn io_error(path: &Path, error: &io::Error) -> OpenError {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => OpenError::DirectoryMissing { path: path.to_owned() },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            OpenError::ReadOnly { path: path.to_owned(), why: error.to_string() }
        }
        _ => OpenError::Disk { path: path.to_owned(), why: error.to_string() },
    }
}

/// Looks at the first bytes without SQLite, which would replay another program's journal into its file.
fn check_header(path: &Path) -> Result<(), OpenError> {
    let mut header = Vec::new();
    match File::open(path) {
        Ok(file) => {
            file.take(HEADER_BYTES as u64)
                .read_to_end(&mut header)
                .map_err(|error| OpenError::Disk { path: path.to_owned(), why: error.to_string() })?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(OpenError::Disk { path: path.to_owned(), why: error.to_string() }),
    }
    if header.is_empty() {
        // SQLite would take this for a new database and throw the log away. The log of a new one is never there before
        // the file has its header.
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let wal_bytes = std::fs::metadata(PathBuf::from(wal)).map_or(0, |metadata| metadata.len());
        return if wal_bytes == 0 {
            Ok(())
        } else {
            let why = "it is empty, but there is a write-ahead log beside it".to_owned();
            Err(OpenError::Damaged { path: path.to_owned(), why })
        };
    }
    let magic_bytes = header.len().min(MAGIC.len());
    if header[..magic_bytes] != MAGIC[..magic_bytes] {
        return Err(OpenError::NotADatabase { path: path.to_owned() });
    }
    match header.get(APPLICATION_ID_AT..HEADER_BYTES) {
        None => Err(OpenError::Damaged { path: path.to_owned(), why: "its header is cut off".to_owned() }),
        Some(rest) if !rest.starts_with(&APPLICATION_ID.to_be_bytes()) => {
            Err(OpenError::Foreign { path: path.to_owned() })
        }
        Some(_) => Ok(()),
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Read first: on a damaged file this fails before anything is written.
    let application_id: i32 = connection.pragma_query_one(None, "application_id")?;
    if application_id != APPLICATION_ID {
        // A new file: the header comes before the write-ahead log, which is what `check_header` counts on.
        connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
    connection.pragma_update(None, "synchronous", "full")?;
    // On macOS fsync leaves the bytes in the drive; elsewhere these say nothing.
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    // The automatic checkpoint sits inside a COMMIT and keeps its errors to itself; ours comes between two batches.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |row| row.get::<_, i64>(0))?;
    connection.pragma_update(None, "cache_size", -64 * 1024)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// The schema of the file, 0 when it is new.
fn schema(path: &Path, connection: &Connection) -> Result<u32, OpenError> {
    let schema: u32 = connection.pragma_query_one(None, "user_version").map_err(|error| open_error(path, &error))?;
    if schema > SCHEMA {
        let min_reader: u32 = connection
            .query_row("SELECT min_reader FROM store", [], |row| row.get(0))
            .map_err(|error| open_error(path, &error))?;
        if min_reader > SCHEMA {
            return Err(OpenError::Newer { path: path.to_owned(), schema });
        }
    }
    Ok(schema)
}

fn migrate(mut connection: Connection, schema: u32) -> rusqlite::Result<Connection> {
    for (migration, version) in MIGRATIONS.iter().zip(1..).skip(schema as usize) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        if version == 1 {
            let id = store_id();
            transaction.execute(
                "INSERT INTO store (id, schema, min_reader, partitions, topic) VALUES (?1, ?2, ?3, 1, ?4)",
                (id, version, MIN_READER, TOPIC),
            )?;
            transaction.execute("INSERT INTO partitions (part) VALUES (0)", [])?;
        }
        transaction.execute("UPDATE store SET schema = ?1, min_reader = ?2", (version, MIN_READER))?;
        transaction.pragma_update(None, "user_version", version)?;
        transaction.commit()?;
    }
    Ok(connection)
}

/// A new store's name.
fn store_id() -> [u8; 16] {
    // Nothing is kept secret by it; two stores of one reader must only differ.
    fastrand::u128(..).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_name_the_file_and_the_remedy() {
        let path = PathBuf::from("/data/todos.db");
        let errors = [
            OpenError::DirectoryMissing { path: path.clone() },
            OpenError::NotAFile { path: path.clone() },
            OpenError::ReadOnly { path: path.clone(), why: "why".into() },
            OpenError::Held { path: path.clone(), pid: Some(17) },
            OpenError::NotADatabase { path: path.clone() },
            OpenError::Foreign { path: path.clone() },
            OpenError::Damaged { path: path.clone(), why: "why".into() },
            OpenError::Newer { path: path.clone(), schema: 9 },
            OpenError::Disk { path, why: "why".into() },
        ];
        for error in errors {
            let sentence = error.to_string();
            assert!(sentence.contains("/data/todos.db") && sentence.contains(": "), "{sentence}");
        }
    }

    #[test]
    fn what_sqlite_says_is_told_apart() {
        let path = Path::new("x");
        let error = |code| open_error(path, &rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        assert!(matches!(error(rusqlite::ffi::SQLITE_CORRUPT), OpenError::Damaged { .. }));
        assert!(matches!(error(rusqlite::ffi::SQLITE_NOTADB), OpenError::Damaged { .. }));
        assert!(matches!(error(rusqlite::ffi::SQLITE_READONLY), OpenError::ReadOnly { .. }));
        assert!(matches!(error(rusqlite::ffi::SQLITE_BUSY), OpenError::Held { pid: None, .. }));
        assert!(matches!(error(rusqlite::ffi::SQLITE_FULL), OpenError::Disk { .. }));
        assert!(matches!(error(rusqlite::ffi::SQLITE_IOERR_READ), OpenError::Disk { .. }));
    }
}
