//! The real binary as a child process, with a data file of its own, on a port that the system chooses.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use todo_server::clock::wall_ms;
use todo_server::http::bearer::Keys;

use super::requests::{request, with_fields};
use super::{Client, PATIENCE};

/// The key of the tokens of every server here.
pub const SECRET: &str = "an HS256 secret that is for tests only";

/// How a server is started.
#[derive(Clone, Default)]
pub struct Options {
    flags: Vec<OsString>,
    variables: Vec<(&'static str, String)>,
    wrapper: Option<String>,
}

/// A running server. Dropped, it is killed.
pub struct Server {
    child: Child,
    options: Options,
    folder: TempDir,
    /// The first address it said it listens on.
    pub address: SocketAddr,
    /// The block that it printed.
    pub summary: String,
    token: String,
    /// Gives everything that it logged, once it has ended.
    log: Option<Log>,
    /// The process that has taken its place.
    successor: Option<Pid>,
}

impl Options {
    /// A port and a secret, and all else as it is by default.
    pub fn bare() -> Options {
        Options::default().flag("--http-port", 0).flag("--jwt-secret", SECRET)
    }

    /// Two shards, 100 todos, no pinning: many servers run beside each other here.
    pub fn new() -> Options {
        Options::bare().flag("--shards", 2).flag("--seed-todos", 100).flag("--pin", false)
    }

    /// One more flag; a later one of the same name wins.
    pub fn flag(mut self, name: &str, value: impl ToString) -> Options {
        if let Some(at) = self.flags.iter().position(|flag| flag == name) {
            self.flags.drain(at..at + 2);
        }
        self.flags.extend([OsString::from(name), OsString::from(value.to_string())]);
        self
    }

    /// One more environment variable.
    pub fn variable(mut self, name: &'static str, value: impl ToString) -> Options {
        self.variables.push((name, value.to_string()));
        self
    }

    /// Runs the server as what `shell` ends in, for limits that a process inherits: `ulimit -n 100; exec "$@"`.
    pub fn wrapped(mut self, shell: &str) -> Options {
        self.wrapper = Some(shell.to_owned());
        self
    }

    /// Starts a server with a new data file, and waits until it serves.
    pub fn start(self) -> Server {
        self.start_in(tempfile::tempdir().expect("a temporary folder"))
    }

    /// Starts a server with the data file in `folder`, and waits until it serves.
    pub fn start_in(self, folder: TempDir) -> Server {
        let (child, address, summary, log) = spawn(&self, folder.path());
        let token = Keys::new(SECRET.as_bytes()).sign("tests", wall_ms() / 1_000, 3_600).expect("a token");
        Server { child, options: self, folder, address, summary, token, log: Some(log), successor: None }
    }

    fn command(&self, folder: &Path) -> Command {
        let mut command = match &self.wrapper {
            None => Command::new(binary()),
            Some(shell) => {
                let mut command = Command::new("sh");
                command.args(["-c", shell, "sh"]).arg(binary());
                command
            }
        };
        own_process(&mut command);
        command
            .arg("--data-file")
            .arg(data_file(folder))
            .args(&self.flags)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .env("DATA_FOLDER", folder)
            .stdin(Stdio::null());
        command
    }
}

impl Server {
    /// A server as [`Options::new`] describes it.
    pub fn start() -> Server {
        Options::new().start()
    }

    /// Kills it as nothing can be caught, and starts another with the same file on the same port, at once.
    pub fn kill_and_restart(self) -> Server {
        let port = self.address.port();
        self.kill_and_restart_with(|options| options.flag("--http-port", port))
    }

    /// Kills it as nothing can be caught, and starts another with the same file and changed options.
    pub fn kill_and_restart_with(mut self, change: impl FnOnce(Options) -> Options) -> Server {
        self.child.kill().expect("it runs");
        let status = self.child.wait().expect("it is ours");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "it ran until it was killed");
        let options = change(self.options.clone());
        options.start_in(self.take_folder())
    }

    /// Ends it by SIGTERM; how it exited, and what it logged.
    pub fn stop(mut self) -> (ExitStatus, String) {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Ends it by SIGTERM, which must succeed, and starts another with the same file and changed options.
    pub fn stop_and_restart(self, change: impl FnOnce(Options) -> Options) -> Server {
        self.signal(Signal::TERM);
        self.restart_when_ended(change)
    }

    /// Waits for its end by a signal that was sent, which must be a success, and starts another with the same file.
    pub fn wait_and_restart(self) -> Server {
        self.restart_when_ended(|options| options)
    }

    fn restart_when_ended(mut self, change: impl FnOnce(Options) -> Options) -> Server {
        let (status, log) = self.wait();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("the drain timeout has passed"), "it waited for nobody: {log}");
        let options = change(self.options.clone());
        options.start_in(self.take_folder())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    /// Waits until it has logged `words`.
    pub fn has_logged(&mut self, words: &str) {
        self.log.as_mut().expect("it has not ended").await_words(words);
    }

    /// Waits until it ends by itself; how it exited, and what it logged.
    pub fn wait(&mut self) -> (ExitStatus, String) {
        let status = exit_of(&mut self.child);
        (status, self.log.take().expect("it ends once").whole())
    }

    /// Has it replaced by `todo-server upgrade`, with more arguments; what the command said.
    pub fn try_upgrade(&self, arguments: &[&str]) -> Output {
        let port = self.address.port().to_string();
        let folder = self.folder.path();
        let file = self.data_file();
        let common = ["upgrade", "--http-port", &port, "--data-file", file.to_str().expect("text")];
        run_with(folder, &[&common, arguments].concat(), &self.options.variables)
    }

    /// The same, which must succeed: the process meant is the new one from here on.
    pub fn upgrade(&mut self, arguments: &[&str]) {
        let Output { status, stdout, stderr } = self.try_upgrade(arguments);
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        let said = String::from_utf8(stdout).expect("text");
        let pid =
            said.strip_prefix("process ").and_then(|rest| rest.split(' ').next()).and_then(|pid| pid.parse().ok());
        self.successor =
            Some(Pid::from_raw(pid.unwrap_or_else(|| panic!("no process in: {said}"))).expect("a process"));
    }

    /// The process that has taken its place.
    pub fn successor_pid(&self) -> i32 {
        self.successor.expect("it was replaced").as_raw_pid()
    }

    /// Waits for the end of the process that was replaced, which must be a success.
    pub fn wait_for_the_old_one(&mut self) {
        assert_eq!(exit_of(&mut self.child).code(), Some(0));
    }

    /// Whether the process that was replaced has ended.
    pub fn has_the_old_one_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_some()
    }

    /// Ends the process that has taken its place by SIGTERM; what all of them logged.
    pub fn stop_successor(mut self) -> String {
        kill_process(self.successor.take().expect("it was replaced"), Signal::TERM).expect("it runs");
        self.log.take().expect("it ends once").whole()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A new connection to it.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// A write with a good token.
    pub fn write(&self, method: &str, target: &str, body: &str) -> Vec<u8> {
        let authorization = self.authorization();
        if method == "DELETE" {
            return with_fields(method, target, &[("Authorization", &authorization)]);
        }
        request(method, target, &[("Authorization", &authorization), ("Content-Type", "application/json")], body)
    }

    /// A POST of a todo with `title`.
    pub fn post(&self, title: &str) -> Vec<u8> {
        self.write("POST", "/todos", &serde_json::json!({ "title": title }).to_string())
    }

    /// The value of `Authorization` that it accepts.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// [`Response::metric`] of `/metrics` as it is now.
    pub fn metric(&self, series: &str) -> f64 {
        self.connect().ask(&super::get("/metrics")).metric(series)
    }

    /// Its data file.
    pub fn data_file(&self) -> PathBuf {
        data_file(self.folder.path())
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Bytes of memory that it has in use (its resident set).
    #[cfg(target_os = "linux")]
    pub fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("procfs");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// CPU time that it has used.
    #[cfg(target_os = "linux")]
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("procfs");
        // proc(5): utime and stime are the 14th and 15th field, counted from 1; the second, in parentheses, is a name.
        let fields: Vec<&str> = stat.rsplit_once(") ").expect("a name").1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        // A tick is 10 ms on every architecture that this runs on (`getconf CLK_TCK`).
        Duration::from_millis(ticks * 10)
    }

    /// The folder, which the next server goes on with.
    fn take_folder(&mut self) -> TempDir {
        std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a temporary folder"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        if let Some(successor) = self.successor {
            let _ = kill_process(successor, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_todo-server")
}

/// The services that tests are run with are not for a process over a file.
fn own_process(command: &mut Command) {
    for variable in ["KAFKA_BROKERS", "DATABASE_URL", "REDIS_URL"] {
        command.env_remove(variable);
    }
}

/// Runs the binary to its end, which must come by itself, in `folder`.
pub fn run(folder: &Path, arguments: &[&str]) -> Output {
    run_with(folder, arguments, &[])
}

/// As [`run`], with environment variables.
pub fn run_with(folder: &Path, arguments: &[&str], variables: &[(&'static str, String)]) -> Output {
    let mut command = Command::new(binary());
    own_process(&mut command);
    command
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let (stdout, stderr) = (Log::new(child.stdout.take()), Log::new(child.stderr.take()));
    let status = exit_of(&mut child);
    Output { status, stdout: stdout.whole().into_bytes(), stderr: stderr.whole().into_bytes() }
}

fn data_file(folder: &Path) -> PathBuf {
    folder.join("todos.db")
}

fn spawn(options: &Options, folder: &Path) -> (Child, SocketAddr, String, Log) {
    let mut command = options.command(folder);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let log = Log::new(child.stderr.take());
    let lines = lines(child.stdout.take());
    let end = Instant::now() + PATIENCE;
    let mut summary = String::new();
    // The block ends with the line to try; by then the port is open.
    while !summary.contains("\n  try ") {
        let Ok(line) = lines.recv_timeout(end.saturating_duration_since(Instant::now())) else {
            let _ = child.kill();
            panic!("it does not start:\n{summary}{}", log.whole());
        };
        summary.push_str(&line);
    }
    let address = summary.lines().find_map(|line| line.strip_prefix("  addresses ")).expect("a line with addresses");
    let first = address.trim().split(' ').next().and_then(|url| url.strip_prefix("http://")).expect("an address");
    let address = first.parse().expect("an address and a port");
    (child, address, summary, log)
}

/// Waits for a child's end, and kills it when that does not come.
fn exit_of(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("the process does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a process writes to a pipe.
struct Log {
    /// Behind a lock, so that threads of a test can share the server.
    #[expect(clippy::disallowed_types, reason = "a test's, not the server's")]
    lines: std::sync::Mutex<Receiver<String>>,
    so_far: String,
}

impl Log {
    fn new(pipe: Option<impl Read + Send + 'static>) -> Log {
        Log { lines: lines(pipe).into(), so_far: String::new() }
    }

    /// Waits until it holds `words`.
    fn await_words(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.so_far.contains(words) {
            let line =
                self.lines.get_mut().expect("one thread").recv_timeout(end.saturating_duration_since(Instant::now()));
            self.so_far.push_str(&line.unwrap_or_else(|_| panic!("no word of \"{words}\" in: {}", self.so_far)));
        }
    }

    /// Everything, once the last process that has the pipe has ended.
    fn whole(mut self) -> String {
        self.so_far.extend(self.lines.get_mut().expect("one thread").iter());
        self.so_far
    }
}

/// The lines that a pipe brings, each with its end.
fn lines(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let mut pipe = BufReader::new(pipe.expect("it was asked for"));
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        while matches!(pipe.read_line(&mut line), Ok(1..)) {
            // Read on when nobody listens: a full pipe would stop the server.
            let _ = sender.send(std::mem::take(&mut line));
        }
    });
    receiver
}
