//! A server under test: started on a free port in a directory of its own, ended with the value.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::command::{capture, command, line_of, succeed};
use crate::http;

/// A debug build on a busy machine takes a second or two.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Longer than the server's own drain timeout.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A running server. Dropped, it is killed.
pub struct Server {
    child: Child,
    pub port: u16,
    log: PathBuf,
}

impl Server {
    /// Starts the program with settings for `directory` and waits until it is ready.
    pub fn start(program: &Path, directory: &Path, settings: &[(&str, &str)]) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.envs(settings.iter().copied());
        Self::start_command(command, directory)
    }

    /// Starts a command that ends in the server, such as a shell that sets limits first.
    pub fn start_command(mut command: Command, directory: &Path) -> Result<Self, String> {
        let port = free_port()?;
        let log = directory.join("server.log");
        let output = File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let errors = output.try_clone().map_err(|error| format!("{}: {error}", log.display()))?;
        command.envs(settings(directory, port)).current_dir(directory);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().map_err(|error| format!("cannot start {}: {error}", line_of(&command)))?;
        let mut server = Self { child, port, log };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Asks it to drain and end, and does not wait for it.
    pub fn terminate(&mut self) -> Result<(), String> {
        succeed(&mut command("kill", &["-TERM", &self.child.id().to_string()]))
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                return Err(format!("the server was told to end and goes on:\n{}", self.log()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until no connection is accepted any more.
    pub fn wait_until_refusing(&self) -> Result<(), String> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while http::connect(self.port).is_ok() {
            if Instant::now() > deadline {
                return Err(format!("the server drains and still accepts:\n{}", self.log()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// A token for writes, made by the server's own program with the secret in its directory.
    pub fn token(&self, program: &Path, directory: &Path) -> Result<String, String> {
        self.token_by(Command::new(program), directory)
    }

    /// The same, by a command whose environment says more.
    pub fn token_by(&self, mut program: Command, directory: &Path) -> Result<String, String> {
        program.args(["token", "--sub", "xtask"]).envs(settings(directory, self.port)).current_dir(directory);
        capture(&mut program).map(|token| token.trim().to_owned())
    }

    /// Waits until the page at `path` is as wanted.
    pub fn wait_until(&self, path: &str, is_so: impl Fn(&[u8]) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        while !http::exchange(self.port, request.as_bytes()).is_ok_and(|answer| is_so(&answer.body)) {
            if Instant::now() > deadline {
                return Err(format!("{path} is not as wanted after {START_TIMEOUT:?}:\n{}", self.log()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// All that it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_else(|error| format!("{}: {error}", self.log.display()))
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.ended()? {
                return Err(format!("the server ended with {status}:\n{}", self.log()));
            }
            // Refused at first, then perhaps 503: both mean "not yet".
            let request = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            if http::exchange(self.port, request).is_ok_and(|response| response.status == 200) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("the server is not ready after {START_TIMEOUT:?}:\n{}", self.log()));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child.try_wait().map_err(|error| format!("waiting for the server: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to kill, and nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The settings of a server in `directory`; what its subcommands need as well, to find the same secret.
pub fn settings(directory: &Path, port: u16) -> [(String, String); 2] {
    let data_file = directory.join("todos.db").to_string_lossy().into_owned();
    [("HTTP_PORT".to_owned(), port.to_string()), ("DATA_FILE".to_owned(), data_file)]
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|error| format!("no free port: {error}"))?;
    listener.local_addr().map(|address| address.port()).map_err(|error| format!("no free port: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_at_once_is_reported_with_its_words() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", "echo no secret, no service; exit 3"]);
        let error = Server::start_command(command, directory.path()).err().expect("it ended");
        assert!(error.contains("exit status: 3") && error.contains("no secret, no service"), "{error}");
    }
}
