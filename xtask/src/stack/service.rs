//! One process that outlives the command that started it. What is needed to find it again stands in a file beside its
//! data: its number, when it started (numbers are used again), and how it is started.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{capture, command, succeed, works};
use crate::stack::Life;

/// Java on two busy cores.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// A start that fails at once is tried again for so long.
const AGAIN_TIMEOUT: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How a service is started.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Program and arguments.
    pub words: Vec<String>,
    /// Whether it lives on without us.
    pub life: Life,
    /// Who runs it, when not we: user and group.
    pub user: Option<(u32, u32)>,
    /// Where its data lie.
    pub folder: PathBuf,
    /// Where it listens.
    pub port: u16,
    /// Where it listens with TLS.
    pub secured_port: Option<u16>,
}

/// A service, running or not.
pub struct Service {
    name: &'static str,
    directory: PathBuf,
    launch: Launch,
    pid: u32,
    /// In clock ticks since the machine was started.
    started: u64,
    /// The same process, where it is a child of ours. What has ended keeps its number until we have taken note of it, and
    /// whoever looks for it by that number (Postgres at its lock file) takes it for alive.
    child: Option<Child>,
}

impl Service {
    /// Starts one and waits until its port accepts.
    pub fn start(name: &'static str, directory: &Path, launch: Launch) -> Result<Service, String> {
        let mut service = Service { name, directory: directory.to_owned(), launch, pid: 0, started: 0, child: None };
        service.restart()?;
        Ok(service)
    }

    /// The one of this name that was started in `directory`, which may have ended since.
    pub fn find(directory: &Path, name: &'static str) -> Result<Option<Service>, String> {
        let path = directory.join(format!("{name}.json"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let read = || -> Option<Service> {
            let record: Value = serde_json::from_str(&text).ok()?;
            let number = |name: &str| record[name].as_u64();
            let port = |name: &str| number(name).and_then(|port| u16::try_from(port).ok());
            let words = record["words"].as_array()?.iter().map(|word| word.as_str().map(str::to_owned));
            let user = match (number("uid"), number("gid")) {
                (Some(uid), Some(gid)) => Some((u32::try_from(uid).ok()?, u32::try_from(gid).ok()?)),
                _ => None,
            };
            Some(Service {
                name,
                directory: directory.to_owned(),
                launch: Launch {
                    life: Life::Detached,
                    words: words.collect::<Option<_>>()?,
                    user,
                    folder: record["folder"].as_str()?.into(),
                    port: port("port")?,
                    secured_port: port("secured_port"),
                },
                pid: u32::try_from(number("pid")?).ok()?,
                started: number("started")?,
                child: None,
            })
        };
        read().map(Some).ok_or_else(|| format!("{} is no record of a service: remove it", path.display()))
    }

    /// Starts it (again) over the same data and on the same port.
    pub fn restart(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + AGAIN_TIMEOUT;
        loop {
            match self.start_once() {
                // What was killed may have left children, whose end the next one has to wait for.
                Err(_) if !self.is_running() && Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
                outcome => return outcome,
            }
        }
    }

    fn start_once(&mut self) -> Result<(), String> {
        self.take_note_of_end()?;
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.map_err(|error| format!("{}: {error}", self.log().display()))?;
        let errors = log.try_clone().map_err(|error| format!("{}: {error}", self.log().display()))?;
        let (program, arguments) = self.launch.words.split_first().ok_or("nothing to start")?;
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.launch.folder);
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        if self.launch.life == Life::Detached {
            // A group of its own: Ctrl-C at our terminal is not meant for it.
            command.process_group(0);
        }
        if let Some((uid, gid)) = self.launch.user {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().map_err(|error| format!("cannot start {program}: {error}"))?;
        self.pid = child.id();
        self.started =
            start_time(self.pid).ok_or_else(|| format!("{} ended at once: {}", self.name, self.last_words()))?;
        self.child = Some(child);
        self.record()?;
        self.wait_until_accepting()
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) -> Result<(), String> {
        if self.is_running() {
            self.signal("-KILL")?;
            let deadline = Instant::now() + START_TIMEOUT;
            while self.is_running() {
                if Instant::now() > deadline {
                    return Err(format!("{} goes on after kill -KILL", self.name));
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        self.take_note_of_end()
    }

    /// Freezes it.
    pub fn pause(&self) -> Result<(), String> {
        self.signal("-STOP")
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<(), String> {
        self.signal("-CONT")
    }

    /// Whether the process that was started is there.
    pub fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.launch.port
    }

    /// Where it listens with TLS; 0 when it does not.
    pub fn secured_port(&self) -> u16 {
        self.launch.secured_port.unwrap_or(0)
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.name))
    }

    /// Throws its data away. It has ended before.
    pub fn remove_folder(&self) -> Result<(), String> {
        match std::fs::remove_dir_all(&self.launch.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", self.launch.folder.display()))
            }
            _ => Ok(()),
        }
    }

    fn take_note_of_end(&mut self) -> Result<(), String> {
        if let Some(mut child) = self.child.take_if(|_| start_time(self.pid) != Some(self.started)) {
            child.wait().map_err(|error| format!("waiting for {}: {error}", self.name))?;
        }
        Ok(())
    }

    fn signal(&self, signal: &str) -> Result<(), String> {
        if !self.is_running() {
            return Err(format!("{} has ended: {}", self.name, self.last_words()));
        }
        succeed(&mut command("kill", &[signal, &self.pid.to_string()]))
    }

    fn wait_until_accepting(&self) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.launch.port)).is_err() {
            if !self.is_running() {
                return Err(format!("{} ended: {}", self.name, self.last_words()));
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not accept after {START_TIMEOUT:?}: {}", self.name, self.last_words()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn record(&self) -> Result<(), String> {
        let record = json!({
            "pid": self.pid,
            "started": self.started,
            "words": self.launch.words,
            "uid": self.launch.user.map(|(uid, _)| uid),
            "gid": self.launch.user.map(|(_, gid)| gid),
            "folder": self.launch.folder,
            "port": self.launch.port,
            "secured_port": self.launch.secured_port,
        });
        let path = self.directory.join(format!("{}.json", self.name));
        let written = File::create(&path).and_then(|mut file| writeln!(file, "{record}"));
        written.map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Different free ports of the loopback. Somebody else may take one meanwhile; then the service says so.
pub fn free_ports<const COUNT: usize>() -> Result<[u16; COUNT], String> {
    // All are held until all are known, so no two are the same.
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let listeners: Vec<_> =
        (0..COUNT).map(bind).collect::<Result<_, _>>().map_err(|error| format!("no free port: {error}"))?;
    let mut ports = [0; COUNT];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr().map_err(|error| format!("no free port: {error}"))?.port();
    }
    Ok(ports)
}

/// Runs a tool of a service to its end, its output into the service's log, and tells its end when it fails.
pub fn run_tool(mut tool: Command, log: &Path) -> Result<(), String> {
    let file = File::options().create(true).append(true).open(log);
    let file = file.map_err(|error| format!("{}: {error}", log.display()))?;
    let errors = file.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
    tool.stdin(Stdio::null()).stdout(file).stderr(errors);
    succeed(&mut tool).map_err(|reason| format!("{reason}; see {}", log.display()))
}

/// User and group of `name`; `None` when there is nobody of that name.
pub fn user_ids(name: &str) -> Result<Option<(u32, u32)>, String> {
    if !works(&mut command("id", &[name])) {
        return Ok(None);
    }
    let id = |flag| -> Result<u32, String> {
        let text = capture(&mut command("id", &[flag, name]))?;
        text.trim().parse().map_err(|error| format!("id {flag} {name}: {error}"))
    };
    Ok(Some((id("-u")?, id("-g")?)))
}

/// When a process started; `None` when there is none of this number, or only what its parent has not yet taken note of.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the state is the first field behind it.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let own = start_time(std::process::id()).expect("we run");
        assert!(own > 0);
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn ports_differ() {
        let mut ports = free_ports::<8>().expect("there are free ports").to_vec();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 8);
    }

    #[test]
    fn what_is_killed_is_found_dead_and_can_be_started_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let [port] = free_ports().expect("a port");
        let words = ["python3", "-m", "http.server", "--bind", "127.0.0.1", &port.to_string()];
        let launch = Launch {
            words: words.map(str::to_owned).to_vec(),
            life: Life::Ours,
            user: None,
            folder: directory.path().to_owned(),
            port,
            secured_port: None,
        };
        let mut service = Service::start("pages", directory.path(), launch).expect("it starts");
        let found = Service::find(directory.path(), "pages").expect("readable").expect("recorded");
        assert!(found.is_running() && found.pid() == service.pid());
        service.pause().expect("frozen");
        service.kill().expect("killed");
        assert!(!found.is_running());
        assert!(found.resume().is_err());
        service.restart().expect("it starts again");
        service.kill().expect("killed again");
        assert!(Service::find(directory.path(), "other").expect("readable").is_none());
    }
}
