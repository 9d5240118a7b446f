//! Who writes: clients that remember what they asked for and what they heard, so that it can be checked.

use std::time::Duration;

use todo_proto::command::{Operation, ProducerId, Record, TodoCommand};
use todo_proto::id::{IdSource, ItemId};
use todo_proto::partition::partition_of;
use todo_proto::todo::{TodoFields, TodoPatch};
use todo_worker::traits::Outcome;
use tokio::time::{sleep, timeout};

use crate::process::Servers;
use crate::world::{PARTITIONS, State, World};

/// Everything that was asked for.
#[derive(Default)]
pub struct History {
    pub writes: Vec<Write>,
    /// Todos that somebody made, or meant to.
    ids: Vec<ItemId>,
    /// Counts sendings and answers, so that it can be told which came first.
    moment: u64,
}

/// One write, as its client knows it.
pub struct Write {
    pub command: TodoCommand,
    /// Moment at which it was sent.
    pub sent: u64,
    /// Moment at which it was answered, and what.
    pub answered: Option<(u64, Answer)>,
    /// Under which name it was given to the log, if it was.
    pub appended: Option<Appended>,
}

/// A record's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub part: u32,
    pub producer: ProducerId,
    pub number: u64,
}

/// What a client hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// 202.
    Acknowledged,
    /// 503: it has no effect.
    NotAppended,
    /// 503: nobody knows.
    Unknown,
}

impl Answer {
    /// As a server answers it.
    pub fn of(outcome: Outcome) -> Answer {
        match outcome {
            Outcome::Acknowledged => Answer::Acknowledged,
            Outcome::NotAppended(_) => Answer::NotAppended,
            Outcome::Unknown => Answer::Unknown,
        }
    }
}

impl State {
    /// A client is about to send a command: it is given a subject, by which its record in the log is known.
    fn send(&mut self, command: &mut TodoCommand) -> usize {
        let history = &mut self.history;
        let write = history.writes.len();
        command.subject = write.to_string();
        history.moment += 1;
        history.writes.push(Write { command: command.clone(), sent: history.moment, answered: None, appended: None });
        write
    }

    /// A record was given to the log.
    pub fn given(&mut self, part: u32, record: &Record) {
        let write: usize = record.command.subject.parse().expect("its subject is a number");
        let name = Appended { part, producer: record.producer, number: record.number };
        self.history.writes[write].appended = Some(name);
    }

    fn answered(&mut self, write: usize, answer: Answer) {
        self.history.moment += 1;
        self.history.writes[write].answered = Some((self.history.moment, answer));
        self.note(&format!("client: write {write} is {answer:?}"));
    }
}

/// Writes `count` times, each time waiting for the answer, through whatever server is there.
pub async fn run(world: World, servers: Servers, count: usize) {
    let mut ids = IdSource::default();
    let mut again: Option<TodoCommand> = None;
    let mut done = 0;
    while done < count {
        let pause = Duration::from_millis(world.state().random.u64(0..60));
        sleep(pause).await;
        let Some(server) = servers.any(&mut world.state()) else { continue };
        let Some(now_ms) = server.admits(&world) else { continue };
        let mut command = match again.take().filter(|command| command.id.time_ms() + 60_000 > now_ms) {
            Some(command) => command,
            None => next_command(&mut world.state(), &mut ids, now_ms),
        };
        let write = {
            let mut state = world.state();
            let write = state.send(&mut command);
            state.note(&format!(
                "client: write {write} to server {}: {:?} {}",
                server.number,
                command.id,
                crate::oracle::short(&command.operation)
            ));
            write
        };
        done += 1;
        let answered = server.take(command.clone());
        let Ok(Ok(answer)) = timeout(Duration::from_secs(5), answered).await else { continue };
        let mut state = world.state();
        state.answered(write, answer);
        // A create may be sent again as it is, by its id; so may anything else, as a new write.
        if answer != Answer::Acknowledged && state.random.bool() {
            again = Some(command);
        }
    }
}

/// Makes so many large todos at once, in one partition: what is published of them goes in pieces.
pub async fn burst(world: World, servers: Servers, count: u64) {
    let Some(server) = servers.any(&mut world.state()) else { return };
    let Some(now_ms) = server.admits(&world) else { return };
    let mut waiting = Vec::new();
    for number in 0..count {
        let mut state = world.state();
        let id = loop {
            let id = ItemId::from_parts(now_ms + number, state.random.u128(..));
            if partition_of(id, PARTITIONS) == 0 {
                break id;
            }
        };
        let title = format!("large {}", state.history.writes.len());
        let description = "\u{1}".repeat(10_000);
        let operation = Operation::Create(TodoFields { title, description, completed: false });
        let mut command = TodoCommand { id, operation, subject: String::new(), received_at_ms: now_ms };
        state.history.ids.push(id);
        let write = state.send(&mut command);
        drop(state);
        waiting.push((write, server.take(command)));
    }
    for (write, answered) in waiting {
        if let Ok(Ok(answer)) = timeout(Duration::from_secs(5), answered).await {
            world.state().answered(write, answer);
        }
    }
}

fn next_command(state: &mut State, ids: &mut IdSource, now_ms: u64) -> TodoCommand {
    let number = state.history.writes.len();
    let title = format!("t{number}");
    if number > 0 && state.random.u8(..) < 16 {
        // A create whose answer did not reach its client is sent again, under the same id.
        let before = &state.history.writes[number - 1 - state.random.usize(0..number.min(40))].command;
        if matches!(before.operation, Operation::Create(_)) {
            return TodoCommand { received_at_ms: now_ms, ..before.clone() };
        }
    }
    let is_new = state.history.ids.len() < 3 || state.random.u8(..) < 70;
    let (id, operation) = if is_new {
        let random = state.random.u128(..);
        let id = ids.next(now_ms, random);
        state.history.ids.push(id);
        (id, Operation::Create(TodoFields { title, description: String::new(), completed: state.random.bool() }))
    } else {
        // Mostly one of the newest, so that writes meet.
        let count = state.history.ids.len();
        let newest = if state.random.u8(..) < 180 { count.min(8) } else { count };
        let id = state.history.ids[count - 1 - state.random.usize(0..newest)];
        let operation = match state.random.u8(0..10) {
            0..=2 => Operation::Replace(TodoFields { title, description: "r".to_owned(), completed: false }),
            3..=5 => Operation::Patch(TodoPatch { title: Some(title), description: None, completed: None }),
            6..=7 => {
                let completed = Some(state.random.bool());
                Operation::Patch(TodoPatch { title: None, description: None, completed })
            }
            _ => Operation::Delete,
        };
        (id, operation)
    };
    TodoCommand { id, operation, subject: String::new(), received_at_ms: now_ms }
}
