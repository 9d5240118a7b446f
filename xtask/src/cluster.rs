//! Servers and workers over a stack, as somebody would start them: release builds, settings as flags.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::command::{capture, command, root};
use crate::http::Client;
use crate::stack::service::{Launch, Service, free_ports};
use crate::stack::{Life, Stack};

/// From the start until `/ready` says so, on two busy cores.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// For tests: it protects nothing.
pub const SECRET: &str = "a secret of the test cluster, thirty-two bytes and more";

/// Where one process finds the services: itself, or through proxies.
#[derive(Clone, Debug)]
pub struct Places {
    pub kafka: u16,
    pub postgres: u16,
    pub redis: u16,
}

impl Places {
    /// Those of a stack itself.
    pub fn of(stack: &Stack) -> Places {
        Places { kafka: stack.kafka.port(), postgres: stack.postgres.port(), redis: stack.redis.port() }
    }
}

/// A process that ends with the value.
pub struct Ended(pub Service);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Err(reason) = self.0.kill() {
            eprintln!("{reason}");
        }
    }
}

/// Starts a server and waits until it is ready.
pub fn start_server(name: &'static str, directory: &Path, places: &Places) -> Result<Service, String> {
    let (words, port) = server_words(places)?;
    start(name, directory, words, port)
}

/// The same with a wall clock that is as far ahead, or behind, as the file `clock` says, by Debian's `faketime`.
pub fn start_server_with_clock(
    name: &'static str,
    directory: &Path,
    places: &Places,
    clock: &Path,
) -> Result<Service, String> {
    let (words, port) = server_words(places)?;
    let settings = [
        "env".to_owned(),
        // The dynamic linker puts the machine's own name for the architecture in.
        "LD_PRELOAD=/usr/$LIB/faketime/libfaketime.so.1".to_owned(),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_CACHE_DURATION=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    start(name, directory, settings.into_iter().chain(words).collect(), port)
}

fn server_words(places: &Places) -> Result<(Vec<String>, u16), String> {
    let [port] = free_ports()?;
    let mut words = vec![program("todo-server")?, format!("--http-port={port}"), "--http-host=127.0.0.1".to_owned()];
    words.extend(["--shards=1", "--pin=false"].map(str::to_owned));
    words.push(format!("--jwt-secret={SECRET}"));
    words.extend(services(places));
    Ok((words, port))
}

/// Starts a worker and waits until it is ready.
pub fn start_worker(name: &'static str, directory: &Path, places: &Places) -> Result<Service, String> {
    let [port] = free_ports()?;
    let mut words =
        vec![program("todo-worker")?, format!("--worker-port={port}"), "--worker-host=127.0.0.1".to_owned()];
    words.extend(services(places));
    start(name, directory, words, port)
}

/// A token that the servers take.
pub fn token() -> Result<String, String> {
    let mut token = command(program("todo-server")?, &["token", "--sub", "xtask"]);
    token.env("JWT_SECRET", SECRET);
    capture(&mut token).map(|token| token.trim().to_owned())
}

/// Waits until `/ready` of a service is 200.
pub fn wait_until_ready(service: &Service) -> Result<(), String> {
    wait_for(service, |_| true)
}

/// Waits until `/ready` of a server says that it takes writes: a worker has opened every partition and the server has
/// seen it.
pub fn wait_until_writing(server: &Service) -> Result<(), String> {
    wait_for(server, |body| {
        serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|ready| ready["writes"] == true)
    })
}

/// Waits until `/ready` of a server says that it takes no writes, and why: because of something with these words.
pub fn wait_until_refusing(server: &Service, words: &str) -> Result<(), String> {
    wait_for(server, |body| {
        let ready = serde_json::from_slice::<serde_json::Value>(body).ok();
        ready.is_some_and(|ready| ready["writes_refused_because"].to_string().contains(words))
    })
}

fn wait_for(service: &Service, is_well: impl Fn(&[u8]) -> bool) -> Result<(), String> {
    let deadline = Instant::now() + READY_TIMEOUT;
    loop {
        let ready = Client::connect(service.port()).and_then(|mut client| client.request("GET", "/ready", "", ""));
        match ready {
            Ok(response) if response.status == 200 && is_well(&response.body) => return Ok(()),
            Ok(response) if Instant::now() > deadline => {
                return Err(format!("not ready: {}", String::from_utf8_lossy(&response.body)));
            }
            Err(reason) if Instant::now() > deadline || !service.is_running() => {
                return Err(format!("not ready: {reason}; see {}", service.log().display()));
            }
            Ok(_) | Err(_) => std::thread::sleep(LOOK_EVERY),
        }
    }
}

fn start(name: &'static str, directory: &Path, words: Vec<String>, port: u16) -> Result<Service, String> {
    let folder = directory.to_owned();
    let launch = Launch { words, life: Life::Ours, user: None, folder, port, secured_port: None };
    let service = Service::start(name, directory, launch)?;
    wait_until_ready(&service)?;
    Ok(service)
}

/// Where the services are, as flags.
pub fn services(places: &Places) -> [String; 3] {
    use crate::stack::{DATABASE, PASSWORD, USER};
    [
        format!("--kafka-brokers=127.0.0.1:{}", places.kafka),
        format!("--database-url=postgres://{USER}:{PASSWORD}@127.0.0.1:{}/{DATABASE}", places.postgres),
        format!("--redis-url=redis://127.0.0.1:{}/0", places.redis),
    ]
}

fn program(name: &str) -> Result<String, String> {
    let path: PathBuf = root().join("target/release").join(name);
    if path.is_file() { Ok(path.display().to_string()) } else { Err(format!("{} was not built", path.display())) }
}
