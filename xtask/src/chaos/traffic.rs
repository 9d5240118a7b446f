//! Writers and readers at both servers. A writer has todos of its own and does one thing after the other, so that their
//! histories are known; a reader keeps one connection and sees that nothing on it goes back.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::chaos::history::{Answer, Asked, Todo, Write};
use crate::cluster;
use crate::http::{Client, Response};

const WRITERS_PER_SERVER: usize = 2;
/// Of one writer, before it begins with new ones.
const TODOS_PER_WRITER: usize = 6;
/// Between two writes of one writer: the checks are the point, not the load.
const PAUSE: Duration = Duration::from_millis(3);

/// What was done in a round.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub acknowledged: u64,
    pub unknown: u64,
    pub refused: u64,
    pub reads: u64,
    pub slowest: Duration,
}

impl Counts {
    /// Adds those of another round.
    pub fn add(&mut self, other: &Counts) {
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.reads += other.reads;
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Writers and readers at work.
pub struct Traffic {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<(Vec<Todo>, Counts)>>,
    readers: Vec<JoinHandle<Counts>>,
}

struct Shared {
    servers: Vec<Server>,
    headers: String,
    stop: AtomicBool,
    violations: Mutex<Vec<String>>,
    /// Of todos that somebody has written, for readers.
    ids: Mutex<Vec<String>>,
}

struct Server {
    port: u16,
    /// Grows with every start: a producer each.
    producer: AtomicU64,
    /// It is being killed, or frozen: its failures are meant.
    away: AtomicBool,
}

/// Begins, at servers on these ports.
pub fn begin(ports: &[u16], round: u32, random: &mut fastrand::Rng) -> Traffic {
    let server = |&port| Server { port, producer: AtomicU64::new(0), away: AtomicBool::new(false) };
    let token = cluster::token().expect("the program that serves also makes tokens");
    let shared = Arc::new(Shared {
        servers: ports.iter().map(server).collect(),
        headers: format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"),
        stop: AtomicBool::new(false),
        violations: Mutex::new(Vec::new()),
        ids: Mutex::new(Vec::new()),
    });
    let mut traffic = Traffic { shared: Arc::clone(&shared), writers: Vec::new(), readers: Vec::new() };
    for server in 0..ports.len() {
        for number in 0..WRITERS_PER_SERVER {
            let (shared, random) = (Arc::clone(&shared), random.fork());
            let name = format!("r{round}w{server}{number}");
            traffic.writers.push(std::thread::spawn(move || Writer::new(&shared, server, name, random).run()));
        }
        let (shared, random) = (Arc::clone(&shared), random.fork());
        traffic.readers.push(std::thread::spawn(move || read_until_stopped(&shared, server, random)));
    }
    traffic
}

/// The title of a todo at a server; `None` when it has none.
pub fn read(port: u16, location: &str) -> Result<Option<String>, String> {
    let response = Client::connect(port)?.request("GET", location, "", "")?;
    title(&response)
}

impl Traffic {
    /// The server's failures are meant from now on, or not any more; a new start is a new producer.
    pub fn set_away(&self, server: usize, away: bool) {
        let server = &self.shared.servers[server];
        server.producer.fetch_add(1, Ordering::Relaxed);
        server.away.store(away, Ordering::Relaxed);
    }

    /// Writes a todo that nobody else touches, and says where it is. An error when it was not acknowledged.
    pub fn mark(&self, server: usize) -> Result<String, String> {
        let mut client = Client::connect(self.shared.servers[server].port)?;
        let response = client.request("POST", "/todos", &self.shared.headers, r#"{"title":"mark"}"#)?;
        match response.header("location") {
            Some(location) if response.status == 202 => Ok(location.to_owned()),
            _ => Err(format!("{} {}", response.status, String::from_utf8_lossy(&response.body))),
        }
    }

    /// Ends it: the histories, the sums, and what was seen to be wrong.
    pub fn end(self) -> Result<(Vec<Todo>, Counts, Vec<String>), String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let (mut todos, mut counts) = (Vec::new(), Counts::default());
        for writer in self.writers {
            let (written, counted) = writer.join().map_err(|_| "a writer has panicked")?;
            todos.extend(written);
            counts.add(&counted);
        }
        for reader in self.readers {
            counts.add(&reader.join().map_err(|_| "a reader has panicked")?);
        }
        let violations = std::mem::take(&mut *self.shared.violations.lock().expect("nobody panics with it"));
        Ok((todos, counts, violations))
    }
}

impl Shared {
    fn violation(&self, text: String) {
        self.violations.lock().expect("nobody panics with it").push(text);
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    server: &'a Server,
    name: String,
    random: fastrand::Rng,
    client: Option<Client>,
    todos: Vec<Todo>,
    counts: Counts,
    sequence: u64,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared, server: usize, name: String, random: fastrand::Rng) -> Writer<'a> {
        let server = &shared.servers[server];
        Writer { shared, server, name, random, client: None, todos: Vec::new(), counts: Counts::default(), sequence: 0 }
    }

    fn run(mut self) -> (Vec<Todo>, Counts) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.write();
            std::thread::sleep(PAUSE);
        }
        (self.todos, self.counts)
    }

    fn write(&mut self) {
        let recent = self.todos.len().saturating_sub(TODOS_PER_WRITER);
        if recent + TODOS_PER_WRITER > self.todos.len() || self.random.u8(..) < 8 {
            self.todos.push(Todo { id: new_id(&mut self.random), writes: Vec::new() });
        }
        let place = self.random.usize(recent..self.todos.len());
        let id = self.todos[place].id.clone();
        let location = format!("/todos/{id}");
        self.sequence += 1;
        let title = format!("{} {}", self.name, self.sequence);
        let first = !self.todos[place].writes.iter().any(|write| write.answer == Answer::Acknowledged);
        let begun = self.todos[place].writes.first().map(|write| write.asked.clone());
        // Looked at first: what is sent to a server that dies meanwhile was that one's.
        let producer = self.server.producer.load(Ordering::Relaxed);
        let (answer, asked) = match begun {
            // Until it is acknowledged, the same POST again: it is one todo, however often it arrives.
            _ if first => {
                let Asked::Title(title) = begun.unwrap_or(Asked::Title(title)) else {
                    unreachable!("a history begins with a POST")
                };
                let headers = format!("{}Idempotency-Key: {id}\r\n", self.shared.headers);
                (self.send("POST", "/todos", &headers, &body(&title)), Asked::Title(title))
            }
            _ if self.random.u8(..) < 10 => {
                (self.send("DELETE", &location, &self.shared.headers.clone(), ""), Asked::Delete)
            }
            _ => (self.send("PUT", &location, &self.shared.headers.clone(), &body(&title)), Asked::Title(title)),
        };
        match answer {
            Answer::Acknowledged => self.counts.acknowledged += 1,
            Answer::Unknown => self.counts.unknown += 1,
            Answer::Refused => self.counts.refused += 1,
        }
        self.todos[place].writes.push(Write { asked, answer, producer });
        if first && answer == Answer::Acknowledged {
            self.shared.ids.lock().expect("nobody panics with it").push(id);
        }
    }

    fn send(&mut self, method: &str, target: &str, headers: &str, body: &str) -> Answer {
        let begun = Instant::now();
        let client = match self.client.take() {
            Some(client) => Ok(client),
            None => Client::connect(self.server.port),
        };
        // Nothing was sent.
        let Ok(mut client) = client else { return Answer::Refused };
        let answer = match client.request(method, target, headers, body) {
            Err(_) => return Answer::Unknown,
            Ok(response) => {
                let answer = judge(&response);
                if answer.is_none() {
                    let text = String::from_utf8_lossy(&response.body).into_owned();
                    self.shared.violation(format!("{method} {target}: {} {text}", response.status));
                }
                answer.unwrap_or(Answer::Unknown)
            }
        };
        self.client = Some(client);
        if !self.server.away.load(Ordering::Relaxed) {
            self.counts.slowest = self.counts.slowest.max(begun.elapsed());
        }
        answer
    }
}

/// `None` for an answer that a write never has.
fn judge(response: &Response) -> Option<Answer> {
    match response.status {
        202 => Some(Answer::Acknowledged),
        503 if response.header("retry-after").is_some() => Some(Answer::Refused),
        503 => Some(Answer::Unknown),
        _ => None,
    }
}

/// What a reader knows of a todo, on one connection.
#[derive(Default)]
struct Seen {
    sequence: u64,
    there: bool,
    gone: bool,
}

fn read_until_stopped(shared: &Shared, server: usize, mut random: fastrand::Rng) -> Counts {
    let server = &shared.servers[server];
    let (mut counts, mut seen) = (Counts::default(), HashMap::<String, Seen>::new());
    let mut client = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let id = {
            let ids = shared.ids.lock().expect("nobody panics with it");
            random.choice(ids.iter()).cloned()
        };
        let Some(id) = id else {
            std::thread::sleep(PAUSE);
            continue;
        };
        let away = server.away.load(Ordering::Relaxed);
        let response = match client.take() {
            Some(client) => Ok(client),
            None => {
                seen.clear();
                Client::connect(server.port)
            }
        }
        .and_then(|mut connection| {
            let response = connection.request("GET", &format!("/todos/{id}"), "", "")?;
            client = Some(connection);
            title(&response)
        });
        match response {
            Ok(title) => {
                counts.reads += 1;
                if let Err(reason) = seen.entry(id.clone()).or_default().look(title.as_deref()) {
                    shared.violation(format!("port {}: {id} {reason}", server.port));
                }
            }
            Err(reason) if !away && !server.away.load(Ordering::Relaxed) => {
                shared.violation(format!("a read failed at port {}, which was not killed: {reason}", server.port));
                std::thread::sleep(PAUSE);
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    counts
}

impl Seen {
    fn look(&mut self, title: Option<&str>) -> Result<(), String> {
        let Some(title) = title else {
            self.gone |= self.there;
            return Ok(());
        };
        if self.gone {
            return Err(format!("was gone and is there again, as {title:?}"));
        }
        self.there = true;
        let sequence = title.rsplit(' ').next().and_then(|digits| digits.parse().ok());
        let sequence = sequence.ok_or_else(|| format!("has a title that nobody wrote: {title:?}"))?;
        if sequence < self.sequence {
            return Err(format!("went back from write {} to {sequence}", self.sequence));
        }
        self.sequence = sequence;
        Ok(())
    }
}

fn title(response: &Response) -> Result<Option<String>, String> {
    let text = String::from_utf8_lossy(&response.body);
    match response.status {
        404 => Ok(None),
        200 => {
            let todo: Value = serde_json::from_slice(&response.body).map_err(|error| format!("{error}: {text}"))?;
            todo["title"].as_str().map(|title| Some(title.to_owned())).ok_or_else(|| format!("no title: {text}"))
        }
        status => Err(format!("{status} {text}")),
    }
}

fn body(title: &str) -> String {
    format!(r#"{{"title":"{title}","description":"","completed":false}}"#)
}

/// A UUIDv7 of now (RFC 9562, 5.7), canonical.
fn new_id(random: &mut fastrand::Rng) -> String {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis());
    let bits = now_ms << 80 | random.u128(..) >> 48;
    let bits = bits & !(0xf << 76) & !(0b11 << 62) | 0x7 << 76 | 0b10 << 62;
    let digits = format!("{bits:032x}");
    let mut id = String::with_capacity(36);
    for (place, digit) in digits.chars().enumerate() {
        if matches!(place, 8 | 12 | 16 | 20) {
            id.push('-');
        }
        write!(id, "{digit}").expect("a string takes every write");
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_goes_back_on_one_connection() {
        let check = |titles: &[Option<&str>]| {
            let mut seen = Seen::default();
            titles.iter().try_for_each(|title| seen.look(*title))
        };
        assert!(check(&[None, Some("a 1"), Some("a 1"), Some("a 3"), None, None]).is_ok());
        assert!(check(&[Some("a 2"), Some("a 1")]).is_err());
        assert!(check(&[Some("a 2"), None, Some("a 2")]).is_err());
        assert!(check(&[Some("a")]).is_err());
    }

    #[test]
    fn ids_are_of_now() {
        let id = new_id(&mut fastrand::Rng::with_seed(1));
        assert_eq!((id.len(), &id[14..15]), (36, "7"));
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"));
    }

    #[test]
    fn answers_are_told_apart() {
        let response = |status, headers: &[&str]| Response {
            status,
            headers: headers.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect(),
            body: Vec::new(),
        };
        let table = [
            (response(202, &[]), Some(Answer::Acknowledged)),
            (response(503, &["retry-after"]), Some(Answer::Refused)),
            (response(503, &[]), Some(Answer::Unknown)),
            (response(400, &[]), None),
        ];
        for (response, expected) in table {
            assert_eq!(judge(&response), expected, "{response:?}");
        }
    }
}
