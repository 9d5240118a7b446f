//! Data files of all sorts: each is opened, or refused with its own sentence and left byte for byte as it was.

use std::fs;
use std::path::Path;

use todo_worker::limits::REPAIR_ROWS_MAX;
use todo_worker::sqlite::{OpenError, SqliteReader, SqliteStore};
use todo_worker::traits::{StoreError, TodoStore};

use crate::support::{Embedded, Home, acknowledged, complete, create, delete, id};

fn open_error(home: &Home) -> OpenError {
    match SqliteStore::open(&home.path(), home.clock.clock()) {
        Ok(_) => panic!("it opened"),
        Err(error) => error,
    }
}

/// Opens a file of `bytes`, which must be refused and stay as it is.
fn refused(bytes: &[u8]) -> OpenError {
    let home = Home::new();
    fs::write(home.path(), bytes).unwrap();
    let error = open_error(&home);
    assert_eq!(fs::read(home.path()).unwrap(), bytes, "{error}");
    error
}

/// The bytes of a store with some todos in it, closed.
async fn data_file() -> Vec<u8> {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), Default::default());
    embedded.append(0, (0..200).map(|number| create(number, &"long title ".repeat(20))).collect());
    embedded.follow().await;
    drop(embedded.stop().await);
    fs::read(home.path()).unwrap()
}

fn sqlite_file(sql: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("other.db");
    rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    fs::read(path).unwrap()
}

#[tokio::test]
async fn what_is_not_a_data_file_is_refused() {
    let whole = data_file().await;
    for bytes in [b"hello".as_slice(), b"SQLite format 2", &[0; 4096], &whole[1..]] {
        assert!(matches!(refused(bytes), OpenError::NotADatabase { .. }));
    }
    for sql in ["CREATE TABLE notes (text)", "PRAGMA application_id = 7; CREATE TABLE todos (id)"] {
        assert!(matches!(refused(&sqlite_file(sql)), OpenError::Foreign { .. }));
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let whole = data_file().await;
    let mut wild_root = whole.clone();
    // The page of the schema: its b-tree header stands behind the file's.
    wild_root[100..108].fill(0xff);
    let cases = [&whole[..16], &whole[..99], &whole[..4096], &whole[..whole.len() / 2], wild_root.as_slice()];
    for bytes in cases {
        let error = refused(bytes);
        assert!(matches!(error, OpenError::Damaged { .. }), "{} bytes: {error}", bytes.len());
    }
}

#[tokio::test]
async fn damage_inside_is_said_when_it_is_read() {
    let home = Home::new();
    let mut bytes = data_file().await;
    let pages = bytes.len() / 4096;
    for page in bytes.chunks_exact_mut(4096).skip(pages / 2) {
        page[..64].fill(0xff);
    }
    fs::write(home.path(), &bytes).unwrap();
    let store = home.open();
    let error = store.reader().unwrap().load(usize::MAX, usize::MAX, |_, _| {}).unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(why) if why.contains("damaged")), "{error}");
}

#[tokio::test]
async fn an_empty_file_beside_a_log_is_not_a_new_store() {
    let home = Home::new();
    fs::write(home.path(), b"").unwrap();
    let log = home.directory.path().join("todos.db-wal");
    fs::write(&log, b"what was committed").unwrap();
    assert!(matches!(open_error(&home), OpenError::Damaged { .. }));
    assert_eq!(fs::read(&log).unwrap(), b"what was committed");
    fs::remove_file(log).unwrap();
    drop(home.open());
}

#[tokio::test]
async fn a_newer_file_is_refused_unless_it_allows_us() {
    let home = Home::new();
    fs::write(home.path(), data_file().await).unwrap();
    let change = |sql| rusqlite::Connection::open(home.path()).unwrap().execute_batch(sql).unwrap();
    change("PRAGMA user_version = 99; UPDATE store SET schema = 99, min_reader = 1");
    assert_eq!(home.open().partition(0).await.unwrap().next_offset, 200);
    change("UPDATE store SET min_reader = 98");
    assert!(matches!(open_error(&home), OpenError::Newer { schema: 99, .. }));
    assert_eq!(home.number("PRAGMA user_version"), 99);
}

#[tokio::test]
async fn one_process_holds_the_file() {
    let home = Home::new();
    let mut store = home.open();
    let held = |path: &Path| match SqliteStore::open(path, home.clock.clock()) {
        Err(OpenError::Held { pid, .. }) => pid,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it opened twice"),
    };
    assert_eq!(held(&home.path()), Some(std::process::id()));
    let link = home.directory.path().join("link.db");
    std::os::unix::fs::symlink(home.path(), &link).unwrap();
    assert_eq!(held(&link), Some(std::process::id()));

    // Beside the writer there is room for readers, of another process too.
    store.partition(0).await.unwrap();
    assert_eq!(home.number("SELECT count(*) FROM todos"), 0);
    drop(store);
    drop(home.open());
}

#[test]
fn places_without_a_file_are_told_apart() {
    let home = Home::new();
    let open = |path: &str| match SqliteStore::open(&home.directory.path().join(path), home.clock.clock()) {
        Ok(_) => panic!("{path} opened"),
        Err(error) => error,
    };
    fs::create_dir(home.directory.path().join("directory")).unwrap();
    fs::write(home.directory.path().join("file"), "x").unwrap();
    assert!(matches!(open("nowhere/todos.db"), OpenError::DirectoryMissing { .. }));
    assert!(matches!(open("file/todos.db"), OpenError::DirectoryMissing { .. }));
    assert!(matches!(open("directory"), OpenError::NotAFile { .. }));
    assert!(matches!(open(".."), OpenError::NotAFile { .. }));
    // Nobody makes files here, root neither.
    #[cfg(target_os = "linux")]
    assert!(matches!(open("/sys/todos.db"), OpenError::ReadOnly { .. }));
}

#[tokio::test]
async fn a_store_is_found_again_after_an_end_without_goodbye() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), Default::default());
    embedded.append(0, vec![create(1, "a")]);
    assert_eq!(embedded.follow().await.1, acknowledged([0]));

    // What the disk holds at this moment, in a place where nobody closes it.
    let after = Home::new();
    for name in ["todos.db", "todos.db-wal"] {
        fs::copy(home.directory.path().join(name), after.directory.path().join(name)).unwrap();
    }
    let mut reader = after.open().reader().unwrap();
    assert_eq!(reader.count().unwrap(), 1);
    assert_eq!(reader.load(9, 9_999, |_, _| {}).unwrap().stand.positions, [1]);
}

/// What a process reads that has loaded a file while another one still wrote it: every todo that has changed since, once and
/// as it is now, or the word that it must load again.
#[tokio::test]
async fn what_has_changed_above_a_position_is_read_beside_the_writer() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), Default::default());
    embedded.append(0, (0..5).map(|number| create(number, "a")).collect());
    embedded.follow().await;
    embedded.append(5, vec![complete(1), delete(3), complete(4), create(7, "b"), complete(7)]);
    let (changes, _) = embedded.follow().await;
    let mut reader = SqliteReader::open_beside(&home.path()).unwrap();
    let changed = reader.changes_above(5).unwrap().expect("it is little");
    assert_eq!(changed.stand.positions, [10]);
    let mut read = changed.changes;
    read.sort_by_key(|(id, _)| *id);
    let published: Vec<_> = changes.changes.into_iter().map(|change| (change.id, change.json)).collect();
    assert_eq!(read, published);
    assert_eq!(
        read.iter().map(|(id, json)| (*id, json.is_some())).collect::<Vec<_>>(),
        [(id(1), true), (id(3), false), (id(4), true), (id(7), true)]
    );
    assert!(reader.changes_above(10).unwrap().expect("nothing").changes.is_empty());
    drop(embedded.stop().await);
    rusqlite::Connection::open(home.path()).unwrap().execute("UPDATE partitions SET purged = 8", []).unwrap();
    assert_eq!(reader.changes_above(7).unwrap(), None, "a tombstone may be missing");
    assert!(reader.changes_above(8).unwrap().is_some());
}

#[tokio::test]
async fn more_changes_than_a_repair_reads_are_not_read() {
    let home = Home::new();
    let mut embedded = Embedded::start(home.open(), Default::default());
    let (mut first, mut applied) = (0, 0);
    while first <= REPAIR_ROWS_MAX {
        embedded.append(first, (first..first + 1_000).map(|number| create(number, "a")).collect());
        first += 1_000;
        while applied < first {
            applied += embedded.follow().await.1.len() as u32;
        }
    }
    let mut reader = SqliteReader::open_beside(&home.path()).unwrap();
    assert_eq!(reader.changes_above(0).unwrap(), None);
    let above = u64::from(first - REPAIR_ROWS_MAX);
    assert_eq!(reader.changes_above(above).unwrap().expect("just so many").changes.len(), REPAIR_ROWS_MAX as usize);
    drop(embedded.stop().await);
}
