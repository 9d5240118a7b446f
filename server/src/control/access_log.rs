//! Writes the access log: takes records out of the shards' rings, puts them into words, and appends them to a file or to
//! standard error, one JSON object a line. On a thread of its own, which may wait for a disk or for whoever reads a pipe: then
//! rings fill, and drop and count, and nobody else waits.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use rtrb::{Consumer, RingBuffer};
use rustix::fs::OFlags;
use serde::Serialize;

use crate::clock;
use crate::http::access::{Access, Record};
use crate::limits::{ACCESS_DRAIN_EVERY, ACCESS_END_PATIENCE, ACCESS_RING_RECORDS, ACCESS_WRITE_BYTES_MAX};
use crate::repeated::Repeated;

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Nowhere.
    Off,
    /// Between the lines of `LOG`.
    StandardError,
    /// Appended to a file, which is made when it is not there.
    File(PathBuf),
}

impl Destination {
    /// Reads a setting.
    ///
    /// # Errors
    /// Nothing is said.
    pub fn parse(text: &str) -> Result<Destination, String> {
        match text {
            "" => Err("say off, stderr, or a file".to_owned()),
            "off" => Ok(Destination::Off),
            "stderr" => Ok(Destination::StandardError),
            path => Ok(Destination::File(PathBuf::from(path))),
        }
    }
}

/// What became of records that were taken out of the rings.
#[derive(Debug, Default)]
pub struct AccessMetrics {
    /// Written.
    pub written: AtomicU64,
    /// Not written, since the file or pipe did not take them.
    pub lost: AtomicU64,
}

/// Opens where the log goes; `None` when that is nowhere.
///
/// # Errors
/// Why it cannot be opened, as a sentence.
pub fn open(destination: &Destination) -> Result<Option<File>, String> {
    match destination {
        Destination::Off => Ok(None),
        Destination::StandardError => {
            // A descriptor of our own: who waits for a pipe does not hold the lock of those who log.
            let copy = io::stderr().as_fd().try_clone_to_owned();
            copy.map(|copy| Some(File::from(copy))).map_err(|error| format!("ACCESS_LOG stderr is closed ({error})"))
        }
        Destination::File(path) => open_file(path, true).map(Some),
    }
}

/// Looks whether the log could be opened, and makes nothing; what is to be said of it.
///
/// # Errors
/// As [`open`].
pub fn check(destination: &Destination) -> Result<Option<String>, String> {
    match destination {
        Destination::Off => Ok(None),
        Destination::StandardError => Ok(Some("to standard error".to_owned())),
        Destination::File(path) if path.exists() => open_file(path, false).map(|_| Some(path.display().to_string())),
        Destination::File(path) => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)
                .map(|()| Some(format!("{}, which will be made", path.display())))
                .map_err(|error| unopened(path, &error.into()))
        }
    }
}

/// Opens a file for appending; its owner and group may read it. A pipe that nobody reads is refused: opening it as others
/// do would wait until somebody does.
fn open_file(path: &Path, is_made: bool) -> Result<File, String> {
    let mut options = OpenOptions::new();
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    options.append(true).create(is_made).mode(0o640).custom_flags(nonblocking);
    let opened = options.open(path).and_then(|file| {
        // Written to it is by waiting.
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
        Ok(file)
    });
    opened.map_err(|error| unopened(path, &error))
}

fn unopened(path: &Path, error: &io::Error) -> String {
    format!("ACCESS_LOG {} cannot be opened for appending ({error})", path.display())
}

enum Order {
    Reopen,
    End,
}

/// The process's hold on its access log.
pub struct AccessLog {
    orders: Sender<Order>,
    ended: Receiver<()>,
}

/// Opens the log's file anew, when somebody has renamed it. Nothing where there is no file.
pub struct Reopener(Sender<Order>);

impl AccessLog {
    /// Each shard's side of a log that goes to `file`, and who writes it; nobody when there is none. `sample` as
    /// [`Access::new`] takes it.
    pub fn new(
        destination: Destination,
        file: Option<File>,
        shards_count: usize,
        sample: u32,
        metrics: Arc<AccessMetrics>,
    ) -> (Vec<Access>, AccessLog, Option<Writer>) {
        let (orders, given) = channel();
        let (until_ended, ended) = channel();
        let log = AccessLog { orders, ended };
        let Some(file) = file else { return ((0..shards_count).map(|_| Access::off()).collect(), log, None) };
        let rings = (0..shards_count).map(|_| RingBuffer::new(ACCESS_RING_RECORDS));
        let (producers, rings): (Vec<_>, Vec<_>) = rings.unzip();
        let accesses = producers.into_iter().map(|ring| Access::new(ring, sample)).collect();
        let writer =
            Writer { destination, rings, orders: given, sheet: Sheet::new(file, metrics), _ended: until_ended };
        (accesses, log, Some(writer))
    }

    /// For who takes the signals.
    pub fn reopener(&self) -> Reopener {
        Reopener(self.orders.clone())
    }

    /// Has everything written that the rings hold, and waits for it, but not for ever. Blocks.
    pub fn finish(self) {
        // Without a log nobody hears it, and its end has come.
        let _ = self.orders.send(Order::End);
        if self.ended.recv_timeout(ACCESS_END_PATIENCE) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the access log does not take what is left of it; that is lost");
        }
    }
}

impl Reopener {
    /// What was answered before goes to the file that is open.
    pub fn reopen(&self) {
        // As above.
        let _ = self.0.send(Order::Reopen);
    }
}

/// Who writes the log.
pub struct Writer {
    destination: Destination,
    rings: Vec<Consumer<Record>>,
    orders: Receiver<Order>,
    sheet: Sheet<File>,
    /// Its end is the word that everything is written.
    _ended: Sender<()>,
}

impl Writer {
    /// Writes what comes until it is told to end, and the rings are empty then. Blocks.
    pub fn run(mut self) {
        loop {
            let order = self.orders.recv_timeout(ACCESS_DRAIN_EVERY);
            self.drain();
            match order {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Reopen) => self.reopen(),
                Ok(Order::End) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// What each ring holds at this moment, and no more: a flood in one of them does not keep the others waiting.
    fn drain(&mut self) {
        for (shard, ring) in self.rings.iter_mut().enumerate() {
            for _ in 0..ring.slots() {
                if let Ok(record) = ring.pop() {
                    self.sheet.put(shard, &record);
                }
            }
        }
        self.sheet.write();
    }

    fn reopen(&mut self) {
        let Destination::File(path) = &self.destination else { return };
        match open_file(path, true) {
            Ok(file) => {
                self.sheet.turn(file);
                tracing::info!("SIGHUP: the access log is opened anew");
            }
            Err(why) => tracing::error!(why, "SIGHUP: the access log goes on in the file that is open"),
        }
    }
}

/// Lines on their way to a file: as many whole ones at once as a pipe takes undivided.
struct Sheet<W> {
    file: W,
    metrics: Arc<AccessMetrics>,
    lines: Vec<u8>,
    lines_count: u64,
    /// The file ends within a line.
    is_torn: bool,
    trouble: Repeated,
}

impl<W: Write> Sheet<W> {
    fn new(file: W, metrics: Arc<AccessMetrics>) -> Sheet<W> {
        let lines = Vec::with_capacity(2 * ACCESS_WRITE_BYTES_MAX);
        Sheet { file, metrics, lines, lines_count: 0, is_torn: false, trouble: Repeated::default() }
    }

    /// Goes on in another file.
    fn turn(&mut self, file: W) {
        self.write();
        (self.file, self.is_torn) = (file, false);
    }

    fn put(&mut self, shard: usize, record: &Record) {
        let before = self.lines.len();
        write_line(&mut self.lines, shard, record);
        if self.lines.len() > ACCESS_WRITE_BYTES_MAX {
            let line = self.lines.split_off(before);
            self.write();
            self.lines.extend_from_slice(&line);
        }
        self.lines_count += 1;
    }

    /// Writes what there is. What cannot be written is lost and counted, a line that has been begun with it.
    fn write(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let (mut written_bytes, mut failure) = (0, None);
        if self.is_torn {
            // So that only one line is spoiled.
            failure = self.file.write_all(b"\n").err();
            self.is_torn = failure.is_some();
        }
        while failure.is_none() && written_bytes < self.lines.len() {
            match self.file.write(&self.lines[written_bytes..]) {
                Ok(0) => failure = Some(ErrorKind::WriteZero.into()),
                Ok(count) => written_bytes += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => failure = Some(error),
            }
        }
        let written = &self.lines[..written_bytes];
        let whole_count = memchr::memchr_iter(b'\n', written).count() as u64;
        self.is_torn |= written.last().is_some_and(|last| *last != b'\n');
        self.metrics.written.fetch_add(whole_count, Relaxed);
        self.metrics.lost.fetch_add(self.lines_count - whole_count, Relaxed);
        self.lines.clear();
        self.lines_count = 0;
        if let Some(error) = failure
            && let Some(times) = self.trouble.occurred(clock::tick_us() / 1_000)
        {
            tracing::warn!(times, %error, "the access log cannot be written; lines of it are lost");
        }
    }
}

/// One line, as documented in docs/operations.md.
#[derive(Serialize)]
struct Line<'a> {
    time_ms: u64,
    shard: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "str::is_empty")]
    method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    target: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    truncated: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    status: u16,
    body_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
    #[serde(skip_serializing_if = "is_one")]
    requests: u64,
    #[serde(skip_serializing_if = "is_zero")]
    sample: u32,
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_one(value: &u64) -> bool {
    *value == 1
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Bytes as text. What JSON leaves as it is and a terminal does not (DEL, and the control characters behind ASCII) is
/// replaced like what is no UTF-8.
fn text(bytes: &[u8]) -> String {
    let is_left = |letter: char| letter.is_control() && !letter.is_ascii_control() || letter == '\u{7f}';
    String::from_utf8_lossy(bytes).replace(is_left, "\u{fffd}")
}

/// One record as a JSON object. Quotes, control bytes and what is no UTF-8 in a target cannot end it or begin another.
fn write_line(lines: &mut Vec<u8>, shard: usize, record: &Record) {
    let Record { at_ms, client, line, answer } = record;
    let version = line.version.map(|[major, minor]| [major, b'.', minor]).unwrap_or_default();
    let line = Line {
        time_ms: *at_ms,
        shard,
        address: client.map(|client| client.ip()),
        port: client.map(|client| client.port()).filter(|port| *port > 0),
        method: &text(&line.method),
        target: &text(&line.target),
        truncated: line.is_truncated,
        version: if line.version.is_some() { str::from_utf8(&version).unwrap_or_default() } else { "" },
        status: answer.status,
        body_bytes: answer.body_bytes,
        problem: answer.problem,
        requests: answer.requests,
        sample: answer.sample,
    };
    serde_json::to_writer(&mut *lines, &line).expect("a vector takes every write");
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::http::access::{Answer, RequestLine};
    use crate::http::reject::Reject;

    fn record(line: &[u8]) -> Record {
        Record {
            at_ms: 1_800_000_000_123,
            client: "[2001:db8::7]:4711".parse().ok(),
            line: RequestLine::of(line),
            answer: Answer::refused(Reject::NotFound, 17),
        }
    }

    fn line_of(record: &Record) -> String {
        let mut lines = Vec::new();
        write_line(&mut lines, 3, record);
        let line = lines.strip_suffix(b"\n").expect("one line");
        let line = String::from_utf8(line.to_vec()).expect("UTF-8");
        assert!(!line.contains(char::is_control), "nothing of it moves a terminal: {line:?}");
        line
    }

    #[test]
    fn lines() {
        let refused = line_of(&record(b"GET /nothing HTTP/1.1\r\n"));
        let expected = r#"{"time_ms":1800000000123,"shard":3,"address":"2001:db8::7","port":4711,"method":"GET","target":"/nothing","version":"1.1","status":404,"body_bytes":17,"problem":"not-found"}"#;
        assert_eq!(refused, expected);
        let answer = Answer { requests: 80, sample: 1_024, ..Answer::good(200, 5) };
        let good = Record { answer, ..record(b"GET / HTTP/1.0\r\n") };
        let expected = r#"{"time_ms":1800000000123,"shard":3,"address":"2001:db8::7","port":4711,"method":"GET","target":"/","version":"1.0","status":200,"body_bytes":5,"requests":80,"sample":1024}"#;
        assert_eq!(line_of(&good), expected);
        let unknown = Record { client: None, ..record(b"\x16\x03") };
        let expected = r#"{"time_ms":1800000000123,"shard":3,"status":404,"body_bytes":17,"problem":"not-found"}"#;
        assert_eq!(line_of(&unknown), expected);
    }

    /// Whatever bytes a target has, it is one line, one object, and nobody's but its own member.
    #[test]
    fn a_target_cannot_write_lines_of_its_own() {
        let all: Vec<u8> = (0..=255).filter(|byte| !matches!(byte, b' ' | b'\r' | b'\n')).collect();
        for target in all.chunks(100).chain([&b"\",\"status\":200}"[..], b"\xf0\x9f\x92", b"a\xc2\x9b2J"]) {
            let line = line_of(&record(&[b"GET /", target, b" HTTP/1.1\r\n"].concat()));
            let value: Value = serde_json::from_str(&line).expect("JSON");
            let expected = format!("/{}", String::from_utf8_lossy(target)).replace(['\u{7f}', '\u{9b}'], "\u{fffd}");
            assert_eq!((value["target"].as_str(), value["status"].as_u64()), (Some(expected.as_str()), Some(404)));
        }
        let long = record(&[b"GET /".as_slice(), &[0; 500], b" HTTP/1.1\r\n"].concat());
        let line = line_of(&long);
        assert!(line.contains("\"truncated\":true") && line.len() < ACCESS_WRITE_BYTES_MAX, "{line}");
    }

    /// Takes so many bytes, then fails once, then goes on.
    struct Small {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                self.room = usize::MAX;
                return Err(ErrorKind::StorageFull.into());
            }
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A disk that is full within a line spoils that line, and what is written when there is room again is whole.
    #[test]
    fn a_line_that_was_cut_spoils_no_other() {
        let record = record(b"GET /a HTTP/1.1\r\n");
        let bytes = line_of(&record).len() + 1;
        for room in [0, 1, bytes - 2, bytes, bytes + 9, 2 * bytes] {
            let mut sheet = Sheet::new(Small { taken: Vec::new(), room }, Arc::default());
            for _ in 0..3 {
                sheet.put(3, &record);
            }
            sheet.write();
            let counted = |sheet: &Sheet<Small>| [&sheet.metrics.written, &sheet.metrics.lost].map(|n| n.load(Relaxed));
            let whole = (room / bytes) as u64;
            assert_eq!(counted(&sheet), [whole, 3 - whole], "room for {room}");
            sheet.put(3, &record);
            sheet.write();
            assert_eq!(counted(&sheet), [whole + 1, 3 - whole], "room for {room}");
            let text = String::from_utf8(sheet.file.taken).expect("text");
            let good = text.lines().filter(|line| *line == line_of(&record)).count() as u64;
            assert_eq!(good, whole + 1, "room for {room}: {text}");
            assert!(text.lines().count() as u64 - good <= 1 && text.ends_with('\n'), "room for {room}: {text}");
        }
    }

    /// No write is larger than what a pipe takes undivided, and each ends with a line.
    #[test]
    fn writes_are_of_whole_lines() {
        struct Writes(Vec<Vec<u8>>);
        impl Write for Writes {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.push(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut sheet = Sheet::new(Writes(Vec::new()), Arc::default());
        let record = record(b"GET /a HTTP/1.1\r\n");
        (0..200).for_each(|_| sheet.put(3, &record));
        sheet.write();
        assert!(sheet.file.0.len() > 5);
        for write in &sheet.file.0 {
            assert!(write.len() <= ACCESS_WRITE_BYTES_MAX && write.ends_with(b"\n"));
        }
        assert_eq!(sheet.file.0.concat().iter().filter(|byte| **byte == b'\n').count(), 200);
        assert_eq!(sheet.metrics.written.load(Relaxed), 200);
    }

    #[test]
    fn destinations() {
        let table = [
            ("off", Destination::Off),
            ("stderr", Destination::StandardError),
            ("./off", Destination::File("./off".into())),
        ];
        for (text, expected) in table {
            assert_eq!(Destination::parse(text), Ok(expected));
        }
        assert!(Destination::parse("").is_err());
    }
}
