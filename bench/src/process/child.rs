//! Servers that the bench starts: pinned from their first instruction, ended when the handle is dropped.

use crate::error::{Context, Error, Result};
use crate::limits::{START_TIMEOUT, STOP_TIMEOUT};
use crate::process::counters::{Counters, Listening, STATS_LINE, driver};
use crate::process::host;
use crate::request;
use crate::single::SingleClient;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where a server under test runs.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The binary.
    pub binary: PathBuf,
    /// All its threads; shards are as many as the server decides within them unless `shards_count` says so.
    pub cpus: Vec<usize>,
    /// `SHARDS`.
    pub shards_count: usize,
    /// `ACCEPT`; the server's own default when absent.
    pub accept: Option<&'static str>,
    /// Its limit of descriptors (`ulimit -n`); ours when absent.
    pub descriptors_max: Option<usize>,
    /// What it stands on.
    pub backing: Backing,
    /// Where a directory of its own is made. On a disk: in memory an fsync costs nothing.
    pub data_directory: PathBuf,
    /// Settings besides, as environment variables.
    pub variables: Vec<(String, String)>,
}

/// What a server stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// A data file of its own, filled with so many todos.
    File {
        /// `SEED_TODOS`.
        todos_count: usize,
    },
    /// The services that the variables of [`CLUSTER_VARIABLES`] name, and the todos that are there.
    Cluster,
}

/// What a server in a cluster needs to be told.
pub const CLUSTER_VARIABLES: [&str; 4] = ["KAFKA_BROKERS", "DATABASE_URL", "REDIS_URL", "JWT_SECRET"];

/// A running `todo-server`.
pub struct Server {
    process: Process,
    address: SocketAddr,
    /// Holds the data file; removed with the handle.
    directory: TempDir,
    backing: Backing,
    binary: PathBuf,
}

impl Server {
    /// Starts it and waits until it serves lists.
    pub fn start(options: &ServerOptions) -> Result<Server> {
        let directory =
            tempfile::tempdir_in(&options.data_directory).context("making a directory for the data file")?;
        let port = free_port().context("looking for a free port")?;
        let log = File::create(directory.path().join("log")).context("making a log file")?;
        let mut command = options.backing.command(&options.binary, directory.path(), options.descriptors_max)?;
        command
            .env("HTTP_HOST", "127.0.0.1")
            .env("HTTP_PORT", port.to_string())
            .env("SHARDS", options.shards_count.to_string())
            .envs(options.accept.map(|way| ("ACCEPT", way)))
            .envs(options.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("sharing the log file")?)
            .stderr(log);
        let process = Process { child: spawn_pinned(command, &options.cpus)? };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut server =
            Server { process, address, directory, backing: options.backing, binary: options.binary.clone() };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Requests and reads since its start. The request that asks is one of them.
    pub fn counters(&self) -> Result<Counters> {
        Counters::from_metrics(&self.metrics()?)
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        let response = SingleClient::connect(self.address)?.get_ok("/metrics")?;
        String::from_utf8(response.body().to_vec()).map_err(|_| Error::Unusable("/metrics is not text".into()))
    }

    /// How the shards wait: `io_uring` or `legacy`, `unknown` when the server does not tell.
    pub fn driver(&self) -> Result<String> {
        Ok(driver(&self.metrics()?).unwrap_or("unknown").to_owned())
    }

    /// Commit and target, as the binary prints them.
    pub fn version(&self) -> Result<String> {
        let output =
            Command::new(&self.binary).arg("--version").output().context("asking the server for its version")?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The directory that holds the data file.
    pub fn data_directory(&self) -> &Path {
        self.directory.path()
    }

    /// A token for writes, made by the server's own subcommand.
    pub fn token(&self) -> Result<String> {
        let mut command = self.backing.command(&self.binary, self.directory.path(), None)?;
        command.args(["token", "--sub", "bench", "--ttl", "24h"]);
        let output = command.output().context("running the token subcommand")?;
        let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() || token.is_empty() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::Unusable(format!("the token subcommand failed: {words}")));
        }
        Ok(token)
    }

    /// The whole answer to a list of `limit` todos.
    pub fn capture(&self, limit: usize) -> Result<Vec<u8>> {
        // Twice: the second is what the server keeps ready-made.
        let mut client = SingleClient::connect(self.address)?;
        client.get_ok(&request::list_target(limit))?;
        Ok(client.get_ok(&request::list_target(limit))?.bytes)
    }

    /// The body of a list of `limit` todos.
    pub fn body(&self, limit: usize) -> Result<Vec<u8>> {
        let answer = SingleClient::connect(self.address)?.get_ok(&request::list_target(limit))?;
        Ok(answer.body().to_vec())
    }

    /// It serves lists and takes writes.
    fn look_whether_ready(&self) -> Result<()> {
        let mut client = SingleClient::connect(self.address)?;
        client.get_ok("/todos?limit=1")?;
        let ready: serde_json::Value = serde_json::from_slice(client.get_ok("/ready")?.body())
            .map_err(|error| Error::Unusable(format!("/ready is no JSON: {error}")))?;
        if ready["writes"] == true { Ok(()) } else { Err(Error::Unusable(format!("no writes are taken: {ready}"))) }
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            let Err(error) = self.look_whether_ready() else { return Ok(()) };
            let ended = self.process.child.try_wait().context("looking at the server")?;
            if ended.is_some() || started.elapsed() > START_TIMEOUT {
                let words = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                let state = ended.map_or("does not serve".into(), |status| format!("ended: {status}"));
                return Err(Error::Unusable(format!("the server {state} ({error}); it said:\n{words}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Backing {
    /// The server's binary with the environment that names this.
    fn command(self, binary: &Path, directory: &Path, descriptors_max: Option<usize>) -> Result<Command> {
        let mut command = match descriptors_max {
            None => Command::new(binary),
            // A shell sets the limit before the program's first instruction, and becomes the program: the same process.
            Some(count) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("ulimit -n {count} && exec \"$0\"")).arg(binary);
                shell
            }
        };
        match self {
            Backing::File { todos_count } => {
                for variable in CLUSTER_VARIABLES {
                    command.env_remove(variable);
                }
                command.env("DATA_FILE", directory.join("todos.db")).env("SEED_TODOS", todos_count.to_string());
            }
            Backing::Cluster => {
                if let Some(variable) = CLUSTER_VARIABLES.iter().find(|name| std::env::var_os(name).is_none()) {
                    return Err(Error::Unusable(format!(
                        "{variable} is not set: `cargo xtask stack up` prints where its services are, JWT_SECRET is any 32 bytes"
                    )));
                }
            }
        }
        Ok(command)
    }
}

/// A running floor or empty loop: a subcommand of this very program.
pub struct ReferenceServer {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
    // Dropped after its standard input, whose end lets it leave by itself.
    process: Process,
}

impl ReferenceServer {
    /// Starts `program ARGUMENTS --cpu CPU --response FILE --request-bytes N` and waits for its first line.
    pub fn start<I: AsRef<OsStr>>(
        program: &Path,
        arguments: &[I],
        cpu: usize,
        response: &Path,
        request_bytes: usize,
    ) -> Result<ReferenceServer> {
        let mut command = Command::new(program);
        command.args(arguments).arg("--cpu").arg(cpu.to_string());
        command.arg("--response").arg(response).arg("--request-bytes").arg(request_bytes.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn_pinned(command, &[cpu])?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Unusable("a reference server has no standard input or output".into()));
        };
        let mut server = ReferenceServer {
            input,
            output: BufReader::new(output),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            process: Process { child },
        };
        let Listening { port } = server.read_line()?;
        server.address.set_port(port);
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Requests and reads since its start.
    pub fn counters(&mut self) -> Result<Counters> {
        writeln!(self.input, "{STATS_LINE}").context("asking a reference server for its counters")?;
        self.read_line()
    }

    fn read_line<T: serde::de::DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line).context("reading from a reference server")?;
        serde_json::from_str(&line)
            .map_err(|_| Error::Unusable(format!("a reference server said {line:?}; its last words are above")))
    }
}

/// A running peer: the program `NAME` of a directory, started with `--port N --bodies DIR`. It ends with its standard input.
pub struct PeerServer {
    // Dropped first: a peer of several processes ends them all when its input ends.
    input: Option<ChildStdin>,
    address: SocketAddr,
    process: Process,
}

impl PeerServer {
    /// Starts it and waits until it answers `target` with `body`.
    ///
    /// # Errors
    /// It does not start, or answers with another body: nothing is timed then.
    pub fn start(program: &Path, cpu: usize, bodies: &Path, target: &str, body: &[u8]) -> Result<PeerServer> {
        let port = free_port().context("looking for a free port")?;
        let mut command = Command::new(program);
        command.arg("--port").arg(port.to_string()).arg("--bodies").arg(bodies);
        if let Some(directory) = program.parent() {
            command.env("PEER_ORIGINAL", directory.join("original-replica"));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = spawn_pinned(command, &[cpu])?;
        let input = child.stdin.take();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut peer = PeerServer { input, address, process: Process { child } };
        peer.wait_until_right(program, target, body)?;
        Ok(peer)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its first process.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    fn wait_until_right(&mut self, program: &Path, target: &str, body: &[u8]) -> Result<()> {
        let started = Instant::now();
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        loop {
            match SingleClient::connect(self.address).and_then(|mut client| client.get_ok(target)) {
                Ok(answer) if answer.body() == body => return Ok(()),
                Ok(answer) => {
                    return Err(Error::Unusable(format!(
                        "{name} answers {target} with {} bytes that are not the server's {}",
                        answer.body().len(),
                        body.len()
                    )));
                }
                Err(error) if self.process.has_ended() || started.elapsed() > START_TIMEOUT => {
                    return Err(Error::Unusable(format!("{name} does not serve: {error}; its last words are above")));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        drop(self.input.take());
        self.process.wait_for_end();
    }
}

struct Process {
    child: Child,
}

impl Process {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Gives it time to end by itself.
    fn wait_for_end(&mut self) {
        let started = Instant::now();
        while !self.has_ended() && started.elapsed() < STOP_TIMEOUT {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn has_ended(&mut self) -> bool {
        // An error means that there is no such child any more.
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    /// SIGTERM, then SIGKILL.
    fn drop(&mut self) {
        let started = Instant::now();
        if !self.has_ended() {
            // Refused only when it has ended in this moment.
            let _ = kill_process(self.pid(), Signal::TERM);
        }
        while !self.has_ended() {
            if started.elapsed() > STOP_TIMEOUT {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A child inherits the CPUs of the thread that starts it, so that no instruction of it runs elsewhere.
fn spawn_pinned(mut command: Command, cpus: &[usize]) -> Result<Child> {
    let spawn = move || {
        host::pin_thread(cpus)?;
        command.spawn().context(format!("starting {}", command.get_program().to_string_lossy()))
    };
    std::thread::scope(|scope| scope.spawn(spawn).join().expect("the starting thread panicked"))
}

/// A port that was free a moment ago.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
