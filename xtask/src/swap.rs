//! `cargo xtask swap`: the server's process is replaced again and again under load, and nobody may notice.
//!
//! ```text
//! how many reads a second can it answer?
//! half of that, in an open loop, and beside it writers, a probe each millisecond, newcomers, idle connections
//! for each round: `todo-server upgrade`
//! every answer was right and in order, no connection was lost, refused or asked to reconnect,
//! every write that was accepted is there once, and idle connections see their end when the last process closes
//! ```

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use crate::cluster::{self, Ended, Places};
use crate::command::{build_release, capture, command, root, scratch, succeed};
use crate::http::{Client, Response};
use crate::server::{self, Server};
use crate::stack::{Scoped, Security};

/// Connections that ask now and then or not at all.
const IDLE_CONNECTIONS: usize = 64;
const WRITERS: usize = 8;
/// Between two writes of a writer.
const WRITE_PAUSE: Duration = Duration::from_millis(5);
const PROBE_EVERY: Duration = Duration::from_millis(1);
/// Between two connections that are made for one request.
const NEWCOMER_EVERY: Duration = Duration::from_millis(5);
/// Load before the first swap and behind the last.
const MARGIN: Duration = Duration::from_secs(1);
/// Writes that were accepted are in the store so soon, in a cluster.
const APPLIED_WITHIN: Duration = Duration::from_secs(30);
/// From the end of the last process until its clients have seen it.
const END_WITHIN: Duration = Duration::from_secs(20);

/// How often, and what.
#[derive(Args)]
pub struct Arguments {
    /// Swaps.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Over Kafka, Postgres and Redis instead of a file.
    #[arg(long)]
    cluster: bool,
    /// From one swap to the next, in milliseconds.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(100..))]
    every_ms: u64,
    /// Take the release builds that are there.
    #[arg(long)]
    built: bool,
}

/// Runs the rounds. `Ok(false)` when somebody has noticed.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    if !arguments.built {
        build_release()?;
    }
    rounds(arguments.rounds, arguments.cluster, Duration::from_millis(arguments.every_ms))
}

/// The same with what is built already.
#[expect(clippy::print_stdout, reason = "it is what the command is for")]
pub fn rounds(rounds: u32, in_cluster: bool, every: Duration) -> Result<bool, String> {
    let mut target = Target::start(in_cluster)?;
    let capacity = target.capacity()?;
    let rate = (capacity / 2.0).floor();
    let place = if in_cluster { "a cluster" } else { "one process over a file" };
    println!("{place}: {capacity:.0} reads/s in blocks of 16, so {rate:.0} are sent each second, and {rounds} swaps");

    let mut idle = Idle::connect(target.port)?;
    let token = target.token.clone();
    let mut load = target.load(rate, every * rounds + 2 * MARGIN)?;
    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let outcome = std::thread::scope(|scope| {
        let traffic = Traffic { port: target.port, token: &token, stop: &stop, begun };
        let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(move || traffic.write(number))).collect();
        let probe = scope.spawn(move || traffic.probe());
        let newcomers = scope.spawn(move || traffic.connect());
        let swaps = target.swap(rounds, every, begun);
        // Whatever came of them, everybody has to end.
        std::thread::sleep(MARGIN);
        stop.store(true, Ordering::Relaxed);
        let join = |thread: std::thread::ScopedJoinHandle<'_, Watched>| thread.join().expect("it does not panic");
        let writes: Vec<Watched> = writers.into_iter().map(join).collect();
        (swaps, writes, join(probe), join(newcomers))
    });
    let (swaps, writes, reads, newcomers) = outcome;
    let mut violations = load.judge();
    let swaps = swaps?;
    violations.extend(idle.ask_all());
    violations.extend(target.missing(&writes)?);
    let watched = || writes.iter().chain([&reads, &newcomers]);
    violations.extend(watched().flat_map(|watched| watched.violations.iter().cloned()));
    target.end()?;
    violations.extend(idle.see_the_end());

    println!("\n| swap | took | longest read | longest write |\n| --- | --- | --- | --- |");
    for (number, swap) in swaps.iter().enumerate() {
        let write = writes.iter().map(|writes| writes.longest(swap)).max().unwrap_or_default();
        println!("| {} | {} ms | {} | {} |", number + 1, swap.took().as_millis(), ms(reads.longest(swap)), ms(write));
    }
    let longest = swaps.iter().map(|swap| reads.longest(swap)).max().unwrap_or_default();
    let between = reads.longest_outside(&swaps);
    let count = |of: fn(&Watched) -> usize| writes.iter().map(of).sum::<usize>();
    println!(
        "\n{rounds} swaps: {} reads checked by the load, {} probes, {} newcomers, {} writes accepted, {} told to try again; \
         longest pause of a read {} in swaps and {} between them; {} violations",
        load_count(&load),
        reads.waits.len(),
        newcomers.waits.len(),
        count(|writes| writes.accepted.len()),
        count(|writes| writes.refused),
        ms(longest),
        ms(between),
        violations.len(),
    );
    for violation in violations.iter().take(20) {
        println!("  {violation}");
    }
    Ok(violations.is_empty())
}

/// What is replaced.
struct Target {
    port: u16,
    token: String,
    /// The process that serves now, where it is not the first.
    successor: Option<u32>,
    /// Words and variables of its commands.
    words: Vec<String>,
    directory: PathBuf,
    first: First,
    // Dropped last.
    _stack: Option<(Ended, Box<Scoped>)>,
    _folder: tempfile::TempDir,
}

enum First {
    File(Server),
    Cluster(Ended),
}

/// One swap, from the command's beginning to its end, in the time since the load began.
struct Swap {
    from: Duration,
    to: Duration,
}

impl Swap {
    fn took(&self) -> Duration {
        self.to - self.from
    }

    /// A pause may begin a little before the command's end and be seen a little behind it.
    fn contains(&self, at: Duration) -> bool {
        self.from <= at && at <= self.to + Duration::from_millis(200)
    }
}

impl Target {
    fn start(in_cluster: bool) -> Result<Target, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
        let directory = folder.path().to_owned();
        if !in_cluster {
            let server = Server::start(&program("todo-server"), &directory, &[])?;
            let settings = server::settings(&directory, server.port);
            let words = settings.map(|(name, value)| format!("--{}={value}", name.to_lowercase().replace('_', "-")));
            let mut target = Target {
                port: server.port,
                token: String::new(),
                successor: None,
                words: words.to_vec(),
                directory,
                first: First::File(server),
                _stack: None,
                _folder: folder,
            };
            target.token = capture(target.command("token").args(["--sub", "xtask"]))?.trim().to_owned();
            return Ok(target);
        }
        let scoped = Box::new(Scoped::start("swap-stack", Security::Open)?);
        let places = Places::of(&scoped.stack);
        let logs = scratch("swap")?;
        let worker = Ended(cluster::start_worker("worker", &logs, &places)?);
        let server = Ended(cluster::start_server("server", &logs, &places)?);
        cluster::wait_until_writing(&server.0)?;
        let mut words = cluster::services(&places).to_vec();
        words.extend([format!("--http-port={}", server.0.port()), format!("--jwt-secret={}", cluster::SECRET)]);
        Ok(Target {
            port: server.0.port(),
            token: cluster::token()?,
            successor: None,
            words,
            directory,
            first: First::Cluster(server),
            _stack: Some((worker, scoped)),
            _folder: folder,
        })
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program("todo-server"));
        command.arg(name).args(&self.words).current_dir(&self.directory);
        command
    }

    /// Reads that it answers in a second.
    fn capacity(&self) -> Result<f64, String> {
        let mut load = self.generator(3.0);
        let report = capture(&mut load)?;
        let report: Value = serde_json::from_str(&report).map_err(|error| format!("{error}: {report}"))?;
        report["responses_per_second"].as_f64().ok_or_else(|| format!("no rate in {report}"))
    }

    fn load(&self, rate: f64, time: Duration) -> Result<Load, String> {
        let mut load = self.generator(time.as_secs_f64());
        let child = load.args(["--rate", &rate.to_string()]).stdout(Stdio::piped()).spawn();
        let child = child.map_err(|error| format!("the load does not start: {error}"))?;
        Ok(Load { report: Value::Null, child: Some(child) })
    }

    fn generator(&self, seconds: f64) -> Command {
        let url = format!("http://127.0.0.1:{}/todos?limit=10", self.port);
        let mut load = command(program("todo-bench"), &["load", "--json", "--url", &url, "--depth", "16"]);
        load.args(["--connections", "64", "--seconds", &seconds.to_string()]);
        load
    }

    /// Replaces the process, round after round.
    fn swap(&mut self, rounds: u32, every: Duration, begun: Instant) -> Result<Vec<Swap>, String> {
        let mut swaps = Vec::new();
        for round in 0..rounds {
            std::thread::sleep((MARGIN + every * round).saturating_sub(begun.elapsed()));
            let from = begun.elapsed();
            let said = capture(&mut self.command("upgrade")).map_err(|why| format!("swap {}: {why}", round + 1))?;
            swaps.push(Swap { from, to: begun.elapsed() });
            let pid = said.strip_prefix("process ").and_then(|rest| rest.split(' ').next()?.parse().ok());
            self.successor = Some(pid.ok_or_else(|| format!("no process in: {said}"))?);
        }
        Ok(swaps)
    }

    /// Accepted writes that are not there, and those that are there more often than they should.
    fn missing(&self, writes: &[Watched]) -> Result<Vec<String>, String> {
        let deadline = Instant::now() + APPLIED_WITHIN;
        loop {
            let found = self.stored_titles()?;
            let times = |title: &str| found.get(title).copied().unwrap_or(0);
            let wrong: Vec<String> = writes
                .iter()
                .flat_map(|writes| &writes.accepted)
                .filter(|title| times(title) != 1)
                .map(|title| format!("the write {title:?} is there {} times", times(title)))
                .collect();
            if wrong.is_empty() || Instant::now() > deadline {
                return Ok(wrong);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn stored_titles(&self) -> Result<HashMap<String, u32>, String> {
        let mut found = HashMap::new();
        for line in capture(&mut self.command("export"))?.lines() {
            let todo: Value = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
            let title = todo["title"].as_str().ok_or_else(|| format!("no title: {line}"))?;
            *found.entry(title.to_owned()).or_insert(0) += 1;
        }
        Ok(found)
    }

    /// Ends the process that serves now.
    fn end(&mut self) -> Result<(), String> {
        match (self.successor.take(), &mut self.first) {
            (Some(pid), _) => succeed(&mut command("kill", &["-TERM", &pid.to_string()])),
            (None, First::File(server)) => server.terminate(),
            (None, First::Cluster(server)) => server.0.kill(),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Only when something went wrong before its end.
        if let Some(pid) = self.successor.take()
            && let Err(reason) = succeed(&mut command("kill", &["-KILL", &pid.to_string()]))
        {
            eprintln!("{reason}");
        }
    }
}

fn program(name: &str) -> PathBuf {
    root().join(Path::new("target/release")).join(name)
}

/// The generator at work.
struct Load {
    child: Option<Child>,
    report: Value,
}

impl Load {
    /// Waits for its end; what it found wrong.
    fn judge(&mut self) -> Vec<String> {
        let Some(child) = self.child.take() else { return Vec::new() };
        let output = match child.wait_with_output() {
            Ok(output) => output,
            Err(error) => return vec![format!("the load: {error}")],
        };
        let Ok(report) = serde_json::from_slice::<Value>(&output.stdout) else {
            return vec![format!("the load ended with {} and no report", output.status)];
        };
        let faults = report["faults"].clone();
        self.report = report;
        if output.status.success() {
            Vec::new()
        } else {
            vec![format!("the load ended with {}: {faults}", output.status)]
        }
    }
}

fn load_count(load: &Load) -> u64 {
    load.report["responses"].as_u64().unwrap_or(0)
}

/// What all traffic has in common.
#[derive(Clone, Copy)]
struct Traffic<'a> {
    port: u16,
    token: &'a str,
    stop: &'a AtomicBool,
    begun: Instant,
}

/// What one client has seen.
#[derive(Default)]
struct Watched {
    /// When something was due, and how long its answer took from then.
    waits: Vec<(Duration, Duration)>,
    /// Titles of writes that were answered 202.
    accepted: Vec<String>,
    /// Writes that were told to come again, and did.
    refused: usize,
    violations: Vec<String>,
}

impl Watched {
    fn longest(&self, swap: &Swap) -> Duration {
        // One that was due before may have been answered only within.
        let touches = |(due, wait): &&(Duration, Duration)| swap.contains(*due) || swap.contains(*due + *wait);
        self.waits.iter().filter(touches).map(|(_, wait)| *wait).max().unwrap_or_default()
    }

    fn longest_outside(&self, swaps: &[Swap]) -> Duration {
        let is_outside = |(due, wait): &&(Duration, Duration)| {
            !swaps.iter().any(|swap| swap.contains(*due) || swap.contains(*due + *wait))
        };
        self.waits.iter().filter(is_outside).map(|(_, wait)| *wait).max().unwrap_or_default()
    }
}

impl Traffic<'_> {
    /// Writes on one connection; each write is another, and one that is refused is sent again.
    fn write(self, number: usize) -> Watched {
        let mut watched = Watched::default();
        let headers = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", self.token);
        let mut client = match Client::connect(self.port) {
            Ok(client) => client,
            Err(reason) => return watched.failed(reason),
        };
        let mut sequence = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            let title = format!("swap {number} {sequence}");
            let due = self.begun.elapsed();
            let response = match client.request("POST", "/todos", &headers, &format!(r#"{{"title":"{title}"}}"#)) {
                Ok(response) => response,
                Err(reason) => return watched.failed(format!("writer {number}: {reason}")),
            };
            watched.waits.push((due, self.begun.elapsed() - due));
            match response.status {
                202 => {
                    watched.accepted.push(title);
                    sequence += 1;
                }
                503 if response.header("retry-after").is_some() => watched.refused += 1,
                status => return watched.failed(format!("writer {number}: {status}")),
            }
            if closes(&response) {
                return watched.failed(format!("writer {number} is asked to reconnect"));
            }
            std::thread::sleep(WRITE_PAUSE);
        }
        watched
    }

    /// Asks on one connection each millisecond; what is late counts from when it was due.
    fn probe(self) -> Watched {
        let mut watched = Watched::default();
        let mut client = match Client::connect(self.port) {
            Ok(client) => client,
            Err(reason) => return watched.failed(reason),
        };
        let mut due = self.begun.elapsed();
        while !self.stop.load(Ordering::Relaxed) {
            match client.request("GET", "/todos?limit=10", "", "") {
                Ok(response) if response.status == 200 && !closes(&response) => {}
                Ok(response) => return watched.failed(format!("a probe: {} {:?}", response.status, response.headers)),
                Err(reason) => return watched.failed(format!("a probe: {reason}")),
            }
            let now = self.begun.elapsed();
            watched.waits.push((due, now - due));
            due += PROBE_EVERY;
            match due.checked_sub(now) {
                Some(early) => std::thread::sleep(early),
                // What was due meanwhile waits behind this one, and its wait is this one's end.
                None => due = now,
            }
        }
        watched
    }

    /// Connects again and again, each time for one answer.
    fn connect(self) -> Watched {
        let mut watched = Watched::default();
        while !self.stop.load(Ordering::Relaxed) {
            let due = self.begun.elapsed();
            let asked =
                Client::connect(self.port).and_then(|mut client| client.request("GET", "/todos?limit=1", "", ""));
            watched.waits.push((due, self.begun.elapsed() - due));
            match asked {
                Ok(response) if response.status == 200 => {}
                Ok(response) => watched.violations.push(format!("a newcomer: {}", response.status)),
                Err(reason) => watched.violations.push(format!("a newcomer: {reason}")),
            }
            std::thread::sleep(NEWCOMER_EVERY);
        }
        watched
    }
}

impl Watched {
    fn failed(mut self, reason: String) -> Watched {
        self.violations.push(reason);
        self
    }
}

fn closes(response: &Response) -> bool {
    response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
}

/// Connections that wait from before the first swap until behind the last.
struct Idle {
    clients: Vec<Client>,
}

const WHOLE_HEAD: &str = "GET /todos?limit=10 HTTP/1.1\r\nHost: localhost\r\n\r\n";

impl Idle {
    fn connect(port: u16) -> Result<Idle, String> {
        let mut clients = (0..IDLE_CONNECTIONS).map(|_| Client::connect(port)).collect::<Result<Vec<_>, _>>()?;
        for client in clients.iter_mut().step_by(2) {
            client.request("GET", "/health", "", "")?;
        }
        Ok(Idle { clients })
    }

    /// Each is answered by whoever has it now.
    fn ask_all(&mut self) -> Vec<String> {
        let ask = |(number, client): (usize, &mut Client)| match client.exchange(WHOLE_HEAD.as_bytes()) {
            Ok(response) if response.status == 200 && !closes(&response) => None,
            Ok(response) => Some(format!("idle connection {number}: {} {:?}", response.status, response.headers)),
            Err(reason) => Some(format!("idle connection {number}: {reason}")),
        };
        self.clients.iter_mut().enumerate().filter_map(ask).collect()
    }

    /// The last process has been told to end.
    fn see_the_end(&mut self) -> Vec<String> {
        let ends = |(number, client): (usize, &mut Client)| {
            client.wait_for_end(END_WITHIN).err().map(|reason| format!("idle connection {number}: {reason}"))
        };
        self.clients.iter_mut().enumerate().filter_map(ends).collect()
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_of_a_swap_is_one_that_touches_it() {
        let at = Duration::from_millis;
        let watched = Watched {
            waits: vec![(at(100), at(1)), (at(900), at(150)), (at(1_050), at(20)), (at(3_000), at(70))],
            ..Watched::default()
        };
        let swap = Swap { from: at(1_000), to: at(1_100) };
        assert_eq!(watched.longest(&swap), at(150), "it was due before and answered within");
        assert_eq!(watched.longest_outside(&[swap]), at(70));
    }
}
