//! What must come of what the log has, told independently: one command after the other, nothing forgotten.

use std::collections::{BTreeMap, HashMap};

use todo_proto::command::{Operation, ProducerId, Record, TodoCommand};
use todo_proto::fold::Row;
use todo_proto::id::ItemId;
use todo_proto::limits::RETRY_WINDOW_MS;
use todo_proto::todo::TodoFields;
use todo_worker::reads::Json;

use crate::store::json;

/// The truth at every position.
pub struct Oracle {
    parts: Vec<Part>,
    /// What each todo was, from which position of its partition on; `None` when it was deleted.
    pub versions: BTreeMap<ItemId, Todo>,
}

#[derive(Default)]
struct Part {
    /// Everything that was appended, in order. Applied up to `rows`' position.
    records: Vec<Vec<u8>>,
    applied: usize,
    numbers: HashMap<ProducerId, u64>,
    /// From a position on, what the partition had caught up with.
    caught_up: Vec<(u64, u64)>,
}

/// One todo's life.
pub struct Todo {
    pub part: u32,
    pub versions: Vec<(u64, Option<Json>)>,
    row: Model,
}

/// A row as the table in the protocol's page has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Model {
    /// There was something: a todo, or its tombstone.
    pub is_known: bool,
    pub born: Option<u64>,
    pub title: Option<String>,
    pub description: String,
    pub completed: bool,
    pub updated_at_ms: u64,
}

impl Oracle {
    pub fn new(partitions: u32) -> Oracle {
        Oracle { parts: (0..partitions).map(|_| Part::default()).collect(), versions: BTreeMap::new() }
    }

    /// A batch is in the log.
    pub fn appended(&mut self, part: u32, records: &[Vec<u8>]) {
        let part = part as usize;
        self.parts.resize_with(self.parts.len().max(part + 1), Part::default);
        self.parts[part].records.extend_from_slice(records);
    }

    /// The store has noted that a partition has caught up.
    pub fn caught_up(&mut self, part: u32, position: u64, at_ms: u64) {
        self.parts[part as usize].caught_up.push((position, at_ms));
    }

    /// What every partition has at these positions. False when the log has not that much.
    pub fn advance(&mut self, positions: &[u64]) -> bool {
        (0..).zip(positions).all(|(part, position)| self.advance_part(part, *position as usize))
    }

    /// The newest version of every todo at these positions that is live.
    pub fn live_at<'a>(&'a self, positions: &'a [u64]) -> impl DoubleEndedIterator<Item = (ItemId, &'a Json)> {
        self.versions.iter().filter_map(|(id, todo)| {
            let position = positions.get(todo.part as usize)?;
            let count = todo.versions.partition_point(|(revision, _)| revision <= position);
            let (_, json) = todo.versions[..count].last()?;
            Some((*id, json.as_ref()?))
        })
    }

    fn advance_part(&mut self, part: u32, position: usize) -> bool {
        let Some(held) = self.parts.get(part as usize) else { return position == 0 };
        if held.records.len() < position {
            return false;
        }
        while self.parts[part as usize].applied < position {
            let held = &mut self.parts[part as usize];
            let before = held.applied as u64;
            held.applied += 1;
            let record = Record::decode(&held.records[before as usize]).expect("we encoded it");
            let caught_up = held.caught_up.iter().rfind(|(at, _)| *at <= before);
            let caught_up_at_ms = caught_up.map_or(0, |(_, at_ms)| *at_ms);
            let last = held.numbers.entry(record.producer).or_insert(0);
            if record.number > *last {
                *last = record.number;
                self.apply(part, before + 1, &record.command, caught_up_at_ms);
            }
        }
        true
    }

    fn apply(&mut self, part: u32, position: u64, command: &TodoCommand, caught_up_at_ms: u64) {
        let before = self.versions.get(&command.id).map(|todo| todo.row.clone()).unwrap_or_default();
        let is_too_old = command.id.time_ms() + RETRY_WINDOW_MS < caught_up_at_ms;
        let Some(after) = before.after(command, is_too_old) else { return };
        let todo = self.versions.entry(command.id).or_insert_with(|| Todo {
            part,
            versions: Vec::new(),
            row: Model::default(),
        });
        todo.versions.push((position, after.json_of(command.id)));
        todo.row = after;
    }
}

impl Model {
    /// What a command makes of it; `None` for nothing.
    pub fn after(&self, command: &TodoCommand, is_too_old: bool) -> Option<Model> {
        let received_at_ms = command.received_at_ms;
        let fields = |fields: &TodoFields, born, before_ms: u64| Model {
            is_known: true,
            born,
            title: Some(fields.title.clone()),
            description: fields.description.clone(),
            completed: fields.completed,
            updated_at_ms: before_ms.max(received_at_ms),
        };
        match &command.operation {
            Operation::Create(made) => {
                let born = Some(command.fingerprint());
                (!self.is_known && !is_too_old).then(|| fields(made, born, command.id.time_ms()))
            }
            Operation::Replace(made) => self.title.is_some().then(|| fields(made, self.born, self.updated_at_ms)),
            Operation::Patch(patch) => self.title.is_some().then(|| {
                let mut after = self.clone();
                after.title = patch.title.clone().or(after.title);
                after.description = patch.description.clone().unwrap_or(after.description);
                after.completed = patch.completed.unwrap_or(after.completed);
                after.updated_at_ms = after.updated_at_ms.max(received_at_ms);
                after
            }),
            Operation::Delete if self.is_known && self.title.is_none() => None,
            Operation::Delete if !self.is_known && is_too_old => None,
            Operation::Delete => Some(Model { title: None, is_known: true, ..self.clone() }),
            Operation::Import(_) => unreachable!("nobody imports here"),
        }
    }

    /// The JSON it is answered as; `None` where nothing is.
    pub fn json_of(&self, id: ItemId) -> Option<Json> {
        let fields =
            TodoFields { title: self.title.clone()?, description: self.description.clone(), completed: self.completed };
        json(&Row { id, revision: 0, updated_at_ms: self.updated_at_ms, born: None, fields: Some(fields) })
    }
}

/// An operation in a few letters.
pub fn short(operation: &Operation) -> String {
    match operation {
        Operation::Create(fields) => format!("create {}", fields.title),
        Operation::Replace(fields) => format!("replace {}", fields.title),
        Operation::Patch(patch) => format!("patch {:?} {:?}", patch.title, patch.completed),
        Operation::Delete => "delete".to_owned(),
        Operation::Import(_) => "import".to_owned(),
    }
}
