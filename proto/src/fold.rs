//! How a batch of commands changes a partition's rows. Pure: what it knows of time stands in the partition and in the
//! commands, so every worker that folds the same batch gets the same rows.
//!
//! | | absent | live | tombstone |
//! | --- | --- | --- | --- |
//! | create | live, born = its fingerprint; when its id is too old: dead letter | same fingerprint: nothing; another: dead letter | as live; without born: nothing |
//! | replace, patch | nothing | changed | nothing |
//! | delete | tombstone, unless the id is too old | tombstone | nothing |
//! | import | live, whatever its age | nothing | nothing |
//!
//! An id is *too old* when its tombstone may be gone already, so that a late copy could bring the todo back. "Nothing"
//! moves the position too.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;

use crate::change::{Change, Changes, StoreId};
use crate::command::{Import, Operation, ProducerId, Record, TodoCommand, record_hash};
use crate::defects::{Defect, is_on};
use crate::id::ItemId;
use crate::limits::{FOLD_COMMANDS_MAX, FOLD_ROW_BYTES_MAX, RETRY_WINDOW_MS};
use crate::todo::TodoFields;

/// A partition as its store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// The store's name.
    pub store_id: StoreId,
    /// The partition.
    pub part: u32,
    /// What its positions are counted from.
    pub base: u64,
    /// The first offset that is not applied.
    pub next_offset: u64,
    /// The hash of the record before it, if one was applied.
    pub last_hash: Option<u64>,
    /// Whatever was appended before this time (ms since the Unix epoch) is applied.
    pub caught_up_at_ms: u64,
}

/// A todo as its store has it, or its tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The todo.
    pub id: ItemId,
    /// The position of the last command that changed it.
    pub revision: u64,
    /// When that command arrived, in ms since the Unix epoch; never below an earlier one, nor the id's time.
    pub updated_at_ms: u64,
    /// The fingerprint of the command that made it. None for an import that did not know, and where a DELETE came first.
    pub born: Option<u64>,
    /// Its fields; `None` for a tombstone.
    pub fields: Option<TodoFields>,
}

/// What stands at one offset of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub offset: u64,
    /// What; bytes that are no record are kept as they are.
    pub record: Result<Record, Box<[u8]>>,
}

/// Why a command that was taken has no effect and is kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// A create under an id that another create has used.
    KeyReused,
    /// A create so late that its id may have been used and forgotten.
    TooOld,
    /// Not a record.
    Undecodable,
    /// The store would not take the row.
    Refused,
}

/// A command that has no effect and is kept aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its position.
    pub position: u64,
    /// Why.
    pub reason: DeadReason,
    /// Its bytes in the log.
    pub record: Vec<u8>,
}

/// How often each thing happened. `commands` is the sum of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Counts {
    pub commands: u64,
    pub changed: u64,
    pub nothing: u64,
    pub ghosts: u64,
    pub dead_letters: u64,
}

/// What a store writes in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The partition.
    pub part: u32,
    /// The offset it must stand at before.
    pub from: u64,
    /// The offset it stands at after.
    pub to: u64,
    /// The hash of the last record.
    pub last_hash: Option<u64>,
    /// Rows to put in place of those of the same ids, in ascending order of ids.
    pub rows: Vec<Row>,
    /// The last number of each producer that moved, in ascending order of producers.
    pub producers: Vec<(ProducerId, u64)>,
    /// In ascending order of positions.
    pub dead_letters: Vec<DeadLetter>,
}

/// What a fold makes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// How many of the entries it took, at least one.
    pub taken: usize,
    /// What the store writes.
    pub batch: Batch,
    /// What the feed carries.
    pub changes: Changes,
    /// What happened.
    pub counts: Counts,
}

/// Folds the front of `entries` over the rows and producers they name (those that exist, in any order). `entries` is not
/// empty and continues the partition without a gap. Takes [`FOLD_COMMANDS_MAX`] and stops behind
/// [`FOLD_ROW_BYTES_MAX`].
pub fn fold(partition: &Partition, rows: Vec<Row>, producers: &[(ProducerId, u64)], entries: &[Entry]) -> Folded {
    let mut folding = Folding::new(partition, rows, producers);
    for entry in entries.iter().take(FOLD_COMMANDS_MAX) {
        folding.take(entry);
        if folding.row_bytes > FOLD_ROW_BYTES_MAX {
            break;
        }
    }
    folding.finish(entries)
}

/// Takes the first entry alone, and only as a dead letter: the store would not have what it makes.
pub fn set_aside(partition: &Partition, producers: &[(ProducerId, u64)], entries: &[Entry]) -> Folded {
    let mut folding = Folding::new(partition, Vec::new(), producers);
    let entry = &entries[0];
    folding.begin(entry);
    if let Ok(record) = &entry.record {
        folding.producers.insert(record.producer, Number { last: record.number, moved: true });
    }
    folding.dead_letter(entry, DeadReason::Refused);
    folding.finish(entries)
}

/// Whether the tombstone of an id may be gone already, in a partition that has caught up with `caught_up_at_ms`.
pub fn is_too_old(id: ItemId, caught_up_at_ms: u64) -> bool {
    id.time_ms() + RETRY_WINDOW_MS < caught_up_at_ms
}

impl Partition {
    /// Where it stands: everything up to this position is applied.
    pub fn position(&self) -> u64 {
        self.base + self.next_offset
    }
}

impl DeadReason {
    /// As it is stored and counted.
    pub const fn name(self) -> &'static str {
        match self {
            Self::KeyReused => "key-reused",
            Self::TooOld => "too-old",
            Self::Undecodable => "undecodable",
            Self::Refused => "refused",
        }
    }
}

impl Row {
    /// Bytes of its columns, near enough for the bound of a transaction.
    pub fn bytes(&self) -> usize {
        64 + self.fields.as_ref().map_or(0, TodoFields::texts_bytes)
    }

    fn json(&self) -> Option<Box<[u8]>> {
        let fields = self.fields.as_ref()?;
        let mut json = Vec::with_capacity(self.bytes() + 192);
        fields.write_json(&mut json, self.id, self.updated_at_ms);
        Some(json.into_boxed_slice())
    }
}

impl Entry {
    /// The record's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.record {
            Ok(record) => record.encode(),
            Err(bytes) => bytes.to_vec(),
        }
    }
}

impl Counts {
    /// Adds what happened elsewhere.
    pub fn add(&mut self, other: Self) {
        self.commands += other.commands;
        self.changed += other.changed;
        self.nothing += other.nothing;
        self.ghosts += other.ghosts;
        self.dead_letters += other.dead_letters;
    }
}

struct Folding<'a> {
    partition: &'a Partition,
    /// Every row that exists, or did before; whether it is to be written.
    rows: BTreeMap<ItemId, Slot>,
    producers: BTreeMap<ProducerId, Number>,
    dead_letters: Vec<DeadLetter>,
    counts: Counts,
    /// Of the rows to be written.
    row_bytes: usize,
    /// Of the entry that is being taken.
    position: u64,
}

struct Slot {
    row: Row,
    changed: bool,
}

struct Number {
    last: u64,
    moved: bool,
}

/// What a command does to the row it names.
enum Effect {
    Nothing,
    Write(Row),
    Dead(DeadReason),
}

impl<'a> Folding<'a> {
    fn new(partition: &'a Partition, rows: Vec<Row>, producers: &[(ProducerId, u64)]) -> Self {
        let numbers = producers.iter().map(|&(producer, last)| (producer, Number { last, moved: false }));
        Self {
            partition,
            rows: rows.into_iter().map(|row| (row.id, Slot { row, changed: false })).collect(),
            producers: numbers.collect(),
            dead_letters: Vec::new(),
            counts: Counts::default(),
            row_bytes: 0,
            position: partition.position(),
        }
    }

    fn take(&mut self, entry: &Entry) {
        self.begin(entry);
        let record = match &entry.record {
            Ok(record) => record,
            Err(_) => return self.dead_letter(entry, DeadReason::Undecodable),
        };
        if !self.moves_producer(record) {
            self.counts.ghosts += 1;
            return;
        }
        match self.effect(&record.command) {
            Effect::Nothing => self.counts.nothing += 1,
            Effect::Write(row) => self.write(row),
            Effect::Dead(reason) => self.dead_letter(entry, reason),
        }
    }

    fn begin(&mut self, entry: &Entry) {
        assert_eq!(
            entry.offset,
            self.partition.next_offset + self.counts.commands,
            "whoever reads the log looks for gaps before anything is folded"
        );
        self.position += 1;
        self.counts.commands += 1;
    }

    /// Whether the record's number is above its producer's last; then it is the last.
    fn moves_producer(&mut self, record: &Record) -> bool {
        let number = Number { last: record.number, moved: true };
        match self.producers.entry(record.producer) {
            Place::Occupied(last) if last.get().last >= record.number => is_on(Defect::NoProducerNumber),
            Place::Occupied(mut last) => {
                last.insert(number);
                true
            }
            Place::Vacant(first) => {
                first.insert(number);
                true
            }
        }
    }

    fn effect(&self, command: &TodoCommand) -> Effect {
        let before = self.rows.get(&command.id).map(|slot| &slot.row);
        match (&command.operation, before) {
            (Operation::Create(fields), before) => self.create(command, fields, before),
            (Operation::Replace(fields), Some(Row { fields: Some(_), .. })) => {
                self.change(command, before, Some(fields.clone()))
            }
            (Operation::Patch(patch), Some(Row { fields: Some(fields), .. })) => {
                self.change(command, before, Some(fields.patched(patch)))
            }
            (Operation::Delete, Some(Row { fields: Some(_), .. })) => self.change(command, before, None),
            // It was deleted before it was there: the create may still be on its way, and must find a tombstone.
            (Operation::Delete, None) if !is_too_old(command.id, self.partition.caught_up_at_ms) => {
                self.change(command, None, None)
            }
            (Operation::Import(import), None) => self.import(command.id, import),
            (Operation::Replace(_) | Operation::Patch(_) | Operation::Delete | Operation::Import(_), _) => {
                Effect::Nothing
            }
        }
    }

    fn create(&self, command: &TodoCommand, fields: &TodoFields, before: Option<&Row>) -> Effect {
        let born = Some(command.fingerprint());
        match before {
            None if is_too_old(command.id, self.partition.caught_up_at_ms) => Effect::Dead(DeadReason::TooOld),
            None => Effect::Write(Row { born, ..self.row(command, None, Some(fields.clone())) }),
            Some(row) if row.born == born => Effect::Nothing,
            Some(Row { born: None, fields: None, .. }) => Effect::Nothing,
            Some(_) => Effect::Dead(DeadReason::KeyReused),
        }
    }

    fn import(&self, id: ItemId, import: &Import) -> Effect {
        Effect::Write(Row {
            id,
            revision: self.position,
            updated_at_ms: import.updated_at_ms.max(id.time_ms()),
            born: import.born,
            fields: Some(import.fields.clone()),
        })
    }

    fn change(&self, command: &TodoCommand, before: Option<&Row>, fields: Option<TodoFields>) -> Effect {
        Effect::Write(self.row(command, before, fields))
    }

    fn row(&self, command: &TodoCommand, before: Option<&Row>, fields: Option<TodoFields>) -> Row {
        let before_ms = before.map_or(command.id.time_ms(), |row| row.updated_at_ms);
        Row {
            id: command.id,
            revision: self.position,
            updated_at_ms: before_ms.max(command.received_at_ms),
            born: before.and_then(|row| row.born),
            fields,
        }
    }

    fn write(&mut self, row: Row) {
        self.counts.changed += 1;
        self.row_bytes += row.bytes();
        let before = self.rows.insert(row.id, Slot { row, changed: true });
        if let Some(Slot { row, changed: true }) = before {
            self.row_bytes -= row.bytes();
        }
    }

    fn dead_letter(&mut self, entry: &Entry, reason: DeadReason) {
        self.counts.dead_letters += 1;
        self.dead_letters.push(DeadLetter { position: self.position, reason, record: entry.bytes() });
    }

    fn finish(self, entries: &[Entry]) -> Folded {
        let partition = self.partition;
        let taken = self.counts.commands as usize;
        let rows: Vec<Row> = self.rows.into_values().filter(|slot| slot.changed).map(|slot| slot.row).collect();
        let moved = self.producers.into_iter().filter(|(_, number)| number.moved);
        let changes = rows.iter().map(|row| Change { id: row.id, revision: row.revision, json: row.json() });
        Folded {
            taken,
            changes: Changes {
                store_id: partition.store_id,
                part: partition.part,
                from: partition.position(),
                to: self.position,
                changes: changes.collect(),
            },
            batch: Batch {
                part: partition.part,
                from: partition.next_offset,
                to: partition.next_offset + self.counts.commands,
                last_hash: entries[..taken].last().map(|entry| record_hash(&entry.bytes())),
                rows,
                producers: moved.map(|(producer, number)| (producer, number.last)).collect(),
                dead_letters: self.dead_letters,
            },
            counts: self.counts,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::todo::TodoPatch;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn partition(next_offset: u64, caught_up_at_ms: u64) -> Partition {
        Partition { store_id: [7; 16], part: 3, base: 100, next_offset, last_hash: None, caught_up_at_ms }
    }

    fn fields(title: &str) -> TodoFields {
        TodoFields { title: title.into(), description: String::new(), completed: false }
    }

    fn entry(offset: u64, number: u64, id: ItemId, operation: Operation) -> Entry {
        let command = TodoCommand { id, operation, subject: "anna".into(), received_at_ms: NOW_MS };
        Entry { offset, record: Ok(Record { producer: [1; 16], number, command }) }
    }

    /// Every cell of the table: what one command does to one row.
    #[test]
    fn the_table() {
        let young = ItemId::from_parts(NOW_MS - RETRY_WINDOW_MS, 1);
        let old = ItemId::from_parts(NOW_MS - RETRY_WINDOW_MS - 1, 1);
        let create = || Operation::Create(fields("a"));
        let patch = || Operation::Patch(TodoPatch { completed: Some(true), ..TodoPatch::default() });
        let import = || Operation::Import(Import { fields: fields("a"), updated_at_ms: NOW_MS + 5, born: Some(9) });
        let born = |id| match entry(0, 1, id, create()).record {
            Ok(record) => Some(record.command.fingerprint()),
            Err(_) => None,
        };
        let row = |id, born, live: bool| {
            let fields = live.then(|| fields("before"));
            Row { id, revision: 1, updated_at_ms: NOW_MS - 9, born, fields }
        };
        let live = |born| Some(row(young, born, true));
        let tombstone = |born| Some(row(young, born, false));
        let cases: [(&str, ItemId, Option<Row>, Operation, &str); 24] = [
            ("create absent", young, None, create(), "live"),
            ("create absent, old", old, None, create(), "too-old"),
            ("create again", young, live(born(young)), create(), "nothing"),
            ("create again, old", old, Some(row(old, born(old), true)), create(), "nothing"),
            ("create other", young, live(Some(1)), create(), "key-reused"),
            ("create over an import", young, live(None), create(), "key-reused"),
            ("create deleted again", young, tombstone(born(young)), create(), "nothing"),
            ("create deleted other", young, tombstone(Some(1)), create(), "key-reused"),
            ("create behind its delete", young, tombstone(None), create(), "nothing"),
            ("replace absent", young, None, Operation::Replace(fields("b")), "nothing"),
            ("replace live", young, live(Some(1)), Operation::Replace(fields("b")), "live"),
            ("replace deleted", young, tombstone(Some(1)), Operation::Replace(fields("b")), "nothing"),
            ("patch absent", young, None, patch(), "nothing"),
            ("patch live", young, live(None), patch(), "live"),
            ("patch deleted", young, tombstone(None), patch(), "nothing"),
            ("delete absent", young, None, Operation::Delete, "tombstone"),
            ("delete absent, old", old, None, Operation::Delete, "nothing"),
            ("delete live", young, live(Some(1)), Operation::Delete, "tombstone"),
            ("delete live, old", old, Some(row(old, Some(1), true)), Operation::Delete, "tombstone"),
            ("delete deleted", young, tombstone(Some(1)), Operation::Delete, "nothing"),
            ("import absent", young, None, import(), "live"),
            ("import absent, old", old, None, import(), "live"),
            ("import live", young, live(Some(1)), import(), "nothing"),
            ("import deleted", young, tombstone(Some(1)), import(), "nothing"),
        ];
        for (name, id, before, operation, expected) in cases {
            let partition = partition(4, NOW_MS);
            let folded = fold(&partition, before.into_iter().collect(), &[], &[entry(4, 1, id, operation)]);
            let got = match (folded.batch.rows.as_slice(), folded.batch.dead_letters.as_slice()) {
                ([Row { fields: Some(_), .. }], []) => "live",
                ([Row { fields: None, .. }], []) => "tombstone",
                ([], [letter]) => letter.reason.name(),
                ([], []) => "nothing",
                _ => "more than one",
            };
            assert_eq!(got, expected, "{name}");
            assert_eq!((folded.changes.from, folded.changes.to, folded.batch.to), (104, 105, 5), "{name}");
            assert_eq!(folded.changes.changes.len(), folded.batch.rows.len(), "{name}");
            assert!(folded.batch.rows.iter().all(|row| row.revision == 105), "{name}");
        }
    }

    #[test]
    fn times_never_go_back() {
        let id = ItemId::from_parts(NOW_MS + 50, 1);
        let entries = [entry(0, 1, id, Operation::Create(fields("a"))), entry(1, 2, id, Operation::Delete)];
        let created = fold(&partition(0, 0), Vec::new(), &[], &entries[..1]).batch.rows.remove(0);
        assert_eq!(created.updated_at_ms, NOW_MS + 50);
        let later = Row { updated_at_ms: NOW_MS + 90, ..created };
        let deleted = fold(&partition(1, 0), vec![later], &[], &entries[1..]).batch.rows.remove(0);
        assert_eq!(deleted.updated_at_ms, NOW_MS + 90);
        assert!(deleted.born.is_some());
    }

    #[test]
    fn what_is_no_record_is_kept_as_it_is() {
        let entries = [Entry { offset: 0, record: Err([9, 9].into()) }];
        let folded = fold(&partition(0, 0), Vec::new(), &[], &entries);
        let letter = DeadLetter { position: 101, reason: DeadReason::Undecodable, record: vec![9, 9] };
        assert_eq!(folded.batch.dead_letters, [letter]);
        assert_eq!(folded.batch.to, 1);
    }

    #[test]
    fn what_the_store_refuses_is_set_aside_alone() {
        let id = ItemId::from_parts(NOW_MS, 1);
        let entries = [entry(0, 5, id, Operation::Delete), entry(1, 6, id, Operation::Delete)];
        let folded = set_aside(&partition(0, 0), &[([1; 16], 4)], &entries);
        assert_eq!((folded.taken, folded.batch.to, folded.changes.to), (1, 1, 101));
        assert_eq!(folded.batch.producers, [([1; 16], 5)]);
        assert_eq!(folded.batch.dead_letters[0].reason, DeadReason::Refused);
        assert!(folded.batch.rows.is_empty());
    }

    #[test]
    fn a_fold_is_bounded_in_commands_and_bytes() {
        let large = || {
            let description = "x".repeat(40_000);
            Operation::Create(TodoFields { description, ..fields("a") })
        };
        let entries: Vec<Entry> =
            (0..3_000).map(|n| entry(n, n + 1, ItemId::from_parts(NOW_MS + n, 1), large())).collect();
        let folded = fold(&partition(0, 0), Vec::new(), &[], &entries);
        assert_eq!(folded.taken, FOLD_ROW_BYTES_MAX / (40_000 + 65) + 1);
        assert_eq!(folded.batch.rows.len(), folded.taken);

        // The same row again and again is one row.
        let entries: Vec<Entry> = (0..3_000).map(|n| entry(n, n + 1, ItemId::ZERO, Operation::Delete)).collect();
        assert_eq!(fold(&partition(0, 0), Vec::new(), &[], &entries).taken, FOLD_COMMANDS_MAX);
    }

    /// The slow twin: one command at a time over everything there ever was, written from the table's rows instead of its
    /// columns.
    #[derive(Default)]
    struct Oracle {
        todos: BTreeMap<ItemId, Row>,
        numbers: HashMap<ProducerId, u64>,
        dead: Vec<(u64, DeadReason)>,
        ghosts: u64,
        position: u64,
    }

    impl Oracle {
        fn apply(&mut self, record: &Record, caught_up_at_ms: u64) {
            self.position += 1;
            if self.numbers.get(&record.producer).is_some_and(|last| *last >= record.number) {
                self.ghosts += 1;
                return;
            }
            self.numbers.insert(record.producer, record.number);
            let TodoCommand { id, operation, received_at_ms, .. } = &record.command;
            let too_old = caught_up_at_ms > id.time_ms() + RETRY_WINDOW_MS;
            let Some(row) = self.todos.get_mut(id) else {
                let (born, fields, updated_at_ms) = match operation {
                    Operation::Create(_) if too_old => return self.dead.push((self.position, DeadReason::TooOld)),
                    Operation::Create(fields) => (Some(record.command.fingerprint()), Some(fields), *received_at_ms),
                    Operation::Delete if !too_old => (None, None, *received_at_ms),
                    Operation::Import(import) => (import.born, Some(&import.fields), import.updated_at_ms),
                    _ => return,
                };
                let updated_at_ms = updated_at_ms.max(id.time_ms());
                let row = Row { id: *id, revision: self.position, updated_at_ms, born, fields: fields.cloned() };
                self.todos.insert(*id, row);
                return;
            };
            if let Operation::Create(_) = operation {
                let same = row.born == Some(record.command.fingerprint());
                if !same && (row.fields.is_some() || row.born.is_some()) {
                    self.dead.push((self.position, DeadReason::KeyReused));
                }
                return;
            }
            let Some(before) = &mut row.fields else { return };
            match operation {
                Operation::Replace(fields) => *before = fields.clone(),
                Operation::Patch(patch) => {
                    before.title = patch.title.clone().unwrap_or(before.title.clone());
                    before.description = patch.description.clone().unwrap_or(before.description.clone());
                    before.completed = patch.completed.unwrap_or(before.completed);
                }
                Operation::Delete => row.fields = None,
                Operation::Create(_) | Operation::Import(_) => return,
            }
            row.revision = self.position;
            row.updated_at_ms = row.updated_at_ms.max(*received_at_ms);
        }
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let fields = || "[ab]".prop_map(|title: String| fields(&title));
        let operation = prop_oneof![
            3 => fields().prop_map(Operation::Create),
            1 => fields().prop_map(Operation::Replace),
            1 => (proptest::option::of("[cd]"), any::<Option<bool>>()).prop_map(|(title, completed)| {
                Operation::Patch(TodoPatch { title, description: None, completed })
            }),
            2 => Just(Operation::Delete),
            1 => (fields(), 0..20_u64, any::<bool>()).prop_map(|(fields, time, known)| {
                Operation::Import(Import { fields, updated_at_ms: NOW_MS + time, born: known.then_some(1) })
            }),
        ];
        // Six ids on both sides of what is too old, two producers whose numbers often come late or twice.
        (0..6_u64, operation, 0..20_u64, 0..2_u8, 0..40_u64).prop_map(|(id, operation, time, producer, number)| {
            let id = ItemId::from_parts(NOW_MS + id, 1);
            let received_at_ms = NOW_MS + time;
            let command = TodoCommand { id, operation, subject: String::new(), received_at_ms };
            Record { producer: [producer; 16], number, command }
        })
    }

    proptest! {
        #[test]
        fn folding_batches_is_applying_one_by_one(
            mut records in prop::collection::vec(any_record(), 1..60),
            ascending: bool,
            cuts in prop::collection::vec((1..12_usize, 0..9_u64), 60),
        ) {
            if ascending {
                (1..).zip(&mut records).for_each(|(number, record)| record.number = number);
            }
            let entries: Vec<Entry> =
                (0..).zip(records).map(|(offset, record)| Entry { offset, record: Ok(record) }).collect();
            let mut oracle = Oracle { position: 100, ..Oracle::default() };
            let mut store = BTreeMap::<ItemId, Row>::new();
            let mut numbers = BTreeMap::<ProducerId, u64>::new();
            let mut follower = BTreeMap::<ItemId, (u64, Box<[u8]>)>::new();
            let (mut dead, mut counts) = (Vec::new(), Counts::default());

            let mut rest = entries.as_slice();
            let mut state = partition(0, 0);
            for (length, caught_up) in cuts {
                if rest.is_empty() {
                    break;
                }
                // From nothing is too old to everything is, and never back.
                state.caught_up_at_ms = state.caught_up_at_ms.max(NOW_MS + RETRY_WINDOW_MS + caught_up);
                let (batch, behind) = rest.split_at(length.min(rest.len()));
                rest = behind;
                for entry in batch {
                    oracle.apply(entry.record.as_ref().expect("made above"), state.caught_up_at_ms);
                }

                let producers: Vec<_> = numbers.iter().map(|(producer, last)| (*producer, *last)).collect();
                let folded = fold(&state, store.values().cloned().collect(), &producers, batch);
                prop_assert_eq!(folded.taken, batch.len());
                prop_assert_eq!(folded.changes.from, state.position());
                prop_assert!(folded.batch.rows.is_sorted_by_key(|row| row.id));
                state.next_offset = folded.batch.to;
                prop_assert_eq!(folded.changes.to, state.position());
                prop_assert_eq!(folded.batch.last_hash, Some(record_hash(&batch[batch.len() - 1].bytes())));
                store.extend(folded.batch.rows.into_iter().map(|row| (row.id, row)));
                numbers.extend(folded.batch.producers);
                dead.extend(folded.batch.dead_letters.iter().map(|letter| (letter.position, letter.reason)));
                counts.add(folded.counts);
                for change in folded.changes.changes {
                    match change.json {
                        Some(json) => { follower.insert(change.id, (change.revision, json)); }
                        None => { follower.remove(&change.id); }
                    }
                }
            }

            prop_assert_eq!(state.position(), oracle.position);
            prop_assert_eq!(&store, &oracle.todos);
            prop_assert_eq!(numbers, oracle.numbers.into_iter().collect());
            prop_assert_eq!(dead, oracle.dead);
            prop_assert_eq!(counts.ghosts, oracle.ghosts);
            prop_assert_eq!(counts.commands, counts.changed + counts.nothing + counts.ghosts + counts.dead_letters);
            let live = oracle.todos.values().filter_map(|row| Some((row.id, (row.revision, row.json()?))));
            prop_assert_eq!(follower, live.collect());
        }
    }
}
