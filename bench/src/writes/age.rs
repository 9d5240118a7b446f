//! How old what is read is.
//!
//! A read's age is its own send time minus the send time of the oldest write that was sent by then, was acknowledged
//! later (or before), and whose id is newer than all ids the read shows; 0 when there is none. So an age counts from
//! the moment a client sent a write, through log and snapshot, to the moment a read that should have shown it left.

use crate::limits::BODY_FRONT_BYTES;
use crate::scan::Bodies;
use crate::writes::plan::{Operation, TITLE_FRONT};
use crate::writes::writer::Write;
use uuid::Uuid;

/// Every acknowledged create, by id.
pub struct Created {
    /// Ascending.
    ids: Vec<Uuid>,
    sent_ns: Vec<u64>,
    /// The earliest send time among this and all newer ids.
    sent_ns_min: Vec<u64>,
}

impl Created {
    /// Of one writer's records.
    pub fn new(writes: &[Write]) -> Created {
        let is_create = |write: &&Write| write.operation == Operation::Create && write.is_acknowledged();
        let mut creates: Vec<(Uuid, u64)> =
            writes.iter().filter(is_create).map(|write| (write.id, write.sent_ns)).collect();
        creates.sort_unstable();
        let (ids, sent_ns): (Vec<Uuid>, Vec<u64>) = creates.into_iter().unzip();
        let mut sent_ns_min = sent_ns.clone();
        for index in (1..sent_ns_min.len()).rev() {
            sent_ns_min[index - 1] = sent_ns_min[index - 1].min(sent_ns_min[index]);
        }
        Created { ids, sent_ns, sent_ns_min }
    }

    /// The age of a read that left at `read_ns` and showed nothing newer than `newest` (nil: nothing at all).
    pub fn age_ns(&self, newest: Uuid, read_ns: u64) -> u64 {
        let first_newer = self.ids.partition_point(|id| *id <= newest);
        // If the earliest of them was sent after the read, all were.
        self.sent_ns_min.get(first_newer).map_or(0, |&sent_ns| read_ns.saturating_sub(sent_ns))
    }

    /// When the create with this id was sent; `None` for a todo of somebody else.
    pub fn sent_ns(&self, id: Uuid) -> Option<u64> {
        self.ids.binary_search(&id).ok().map(|index| self.sent_ns[index])
    }
}

/// Equal reads of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Which connection.
    pub connection_index: usize,
    /// When the block was sent.
    pub sent_ns: u64,
    /// The newest id shown; nil for an empty list.
    pub newest: Uuid,
    /// The send time in its title, if it was written by a bench.
    pub title_ns: Option<u64>,
    /// How many reads showed this.
    pub reads_count: u64,
}

/// Looks at the front of every list.
pub struct ListObserver {
    /// By connection: the front of the body that is coming.
    fronts: Vec<Vec<u8>>,
    connection_index: usize,
    sent_ns: u64,
    /// By connection: the newest id seen so far.
    newest: Vec<Uuid>,
    /// In order of arrival.
    pub observations: Vec<Observation>,
    /// Reads whose newest id was older than one shown before on the same connection.
    pub went_back_count: u64,
    /// Bodies that are no list of todos.
    pub unreadable_count: u64,
}

impl ListObserver {
    /// For a generator thread with so many connections.
    pub fn new(connections_count: usize) -> ListObserver {
        ListObserver {
            fronts: vec![Vec::with_capacity(BODY_FRONT_BYTES); connections_count],
            connection_index: 0,
            sent_ns: 0,
            newest: vec![Uuid::nil(); connections_count],
            observations: Vec::new(),
            went_back_count: 0,
            unreadable_count: 0,
        }
    }
}

impl Bodies for ListObserver {
    const WANTED: bool = true;

    fn select(&mut self, connection_index: usize, sent_ns: u64) {
        (self.connection_index, self.sent_ns) = (connection_index, sent_ns);
    }

    fn fragment(&mut self, bytes: &[u8]) {
        let front = &mut self.fronts[self.connection_index];
        let room = BODY_FRONT_BYTES - front.len();
        front.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end(&mut self) {
        let front = &mut self.fronts[self.connection_index];
        let newest = newest_todo(front);
        front.clear();
        let Some((newest, title_ns)) = newest else {
            self.unreadable_count += 1;
            return;
        };
        let newest_before = &mut self.newest[self.connection_index];
        self.went_back_count += u64::from(newest < *newest_before);
        *newest_before = newest.max(*newest_before);
        let (connection_index, sent_ns) = (self.connection_index, self.sent_ns);
        let seen = Observation { connection_index, sent_ns, newest, title_ns, reads_count: 1 };
        match self.observations.last_mut() {
            Some(last) if (Observation { reads_count: 1, ..*last }) == seen => last.reads_count += 1,
            _ => self.observations.push(seen),
        }
    }
}

/// Id and send time of the first todo of a list, from the front of its JSON; a nil id for an empty list.
fn newest_todo(front: &[u8]) -> Option<(Uuid, Option<u64>)> {
    if front == b"[]" {
        return Some((Uuid::nil(), None));
    }
    let (id, rest) = front.strip_prefix(b"[{\"id\":\"")?.split_at_checked(36)?;
    let id = Uuid::try_parse_ascii(id).ok()?;
    let title = rest.strip_prefix(b"\",\"title\":\"").and_then(|title| title.strip_prefix(TITLE_FRONT.as_bytes()));
    let digits = title.and_then(|title| title.split(|&byte| byte == b'"').next());
    let sent_ns = digits.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    Some((id, sent_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(id: u128, sent_ns: u64) -> Write {
        Write {
            operation: Operation::Create,
            due_ns: sent_ns,
            sent_ns,
            answered_ns: sent_ns + 5,
            status: 202,
            id: Uuid::from_u128(id),
        }
    }

    #[test]
    fn ages() {
        let mut writes = vec![create(1, 100), create(2, 130), create(4, 120), create(3, 140)];
        // Never acknowledged, or no create: no read owes them.
        writes.push(Write { status: 503, ..create(9, 10) });
        writes.push(Write { operation: Operation::Change, ..create(9, 10) });
        let created = Created::new(&writes);
        let table = [
            ("all shown", 4, 200, 0),
            ("newest missing", 3, 200, 80),
            ("the oldest of the missing was not sent first", 2, 200, 80),
            ("three missing", 1, 200, 80),
            ("nothing shown", 0, 200, 100),
            ("missing, but only just sent", 3, 120, 0),
            ("missing, sent later", 3, 110, 0),
            ("one sent, one not yet", 1, 125, 5),
            ("shown before sent by this clock", 4, 90, 0),
            ("a stranger's newer todo shown", 50, 200, 0),
        ];
        for (name, newest, read_ns, expected) in table {
            assert_eq!(created.age_ns(Uuid::from_u128(newest), read_ns), expected, "{name}");
            // The definition, word by word.
            let missing = writes.iter().filter(|write| {
                let is_create = write.operation == Operation::Create && write.is_acknowledged();
                is_create && write.sent_ns <= read_ns && write.id > Uuid::from_u128(newest)
            });
            let slow = missing.map(|write| write.sent_ns).min().map_or(0, |sent_ns| read_ns - sent_ns);
            assert_eq!(slow, expected, "{name}");
        }
        assert_eq!(created.sent_ns(Uuid::from_u128(4)), Some(120));
        assert_eq!(created.sent_ns(Uuid::from_u128(9)), None);
    }

    #[test]
    fn fronts() {
        let id = "01932c5e-7a3b-7def-8123-456789abcdef";
        let uuid = Uuid::try_parse(id).unwrap();
        let table = [
            ("[]".to_owned(), Some((Uuid::nil(), None))),
            (format!("[{{\"id\":\"{id}\",\"title\":\"bench 42\",\"desc"), Some((uuid, Some(42)))),
            (format!("[{{\"id\":\"{id}\",\"title\":\"Buy milk\""), Some((uuid, None))),
            (format!("[{{\"id\":\"{}\"", &id[..35]), None),
            ("{\"type\":\"about:blank\"}".to_owned(), None),
            (String::new(), None),
        ];
        for (front, expected) in table {
            assert_eq!(newest_todo(front.as_bytes()), expected, "{front}");
        }
    }

    #[test]
    fn observations_are_merged_and_watched_for_steps_back() {
        let list = |id: u128| format!("[{{\"id\":\"{}\",\"title\":\"bench 7\"}}]", Uuid::from_u128(id));
        let mut observer = ListObserver::new(2);
        for (connection_index, sent_ns, body) in [
            (0, 10, list(5)),
            (0, 10, list(5)),
            (0, 10, list(6)),
            (1, 11, list(5)),
            (0, 12, list(4)),
            (0, 13, "?".into()),
        ] {
            observer.select(connection_index, sent_ns);
            let (front, rest) = body.as_bytes().split_at(body.len().min(3));
            observer.fragment(front);
            observer.fragment(rest);
            observer.end();
        }
        let seen: Vec<_> = observer.observations.iter().map(|seen| (seen.newest.as_u128(), seen.reads_count)).collect();
        assert_eq!(seen, [(5, 2), (6, 1), (5, 1), (4, 1)]);
        assert_eq!((observer.went_back_count, observer.unreadable_count), (1, 1));
    }
}
