//! What to write next: pure but for its seed.

use crate::limits::DELETE_DISTANCE_TODOS;
use std::collections::VecDeque;
use std::io::Write;
use uuid::Uuid;

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// POST; the title carries when it was sent.
    Create,
    /// PATCH of `completed`.
    Change,
    /// DELETE of an old todo.
    Delete,
}

/// Which operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// POST only.
    Creates,
    /// Of ten: six POST, three PATCH, one DELETE, as long as there are own todos to name.
    All,
}

/// The source of writes for all connections of a writer.
pub struct Plan {
    mix: Mix,
    /// Everything of a request up to its own headers.
    common_head: String,
    random: fastrand::Rng,
    /// Own todos that live, oldest first.
    living: VecDeque<Uuid>,
    planned: u64,
}

/// The front of a title; the send time in nanoseconds follows.
pub const TITLE_FRONT: &str = "bench ";

impl Plan {
    /// `authority` is the Host, `token` what `Authorization: Bearer` carries.
    pub fn new(mix: Mix, authority: &str, token: &str, seed: u64) -> Plan {
        Plan {
            mix,
            common_head: format!("Host: {authority}\r\nAuthorization: Bearer {token}\r\n"),
            random: fastrand::Rng::with_seed(seed),
            living: VecDeque::new(),
            planned: 0,
        }
    }

    /// Appends the next request to `output`.
    pub fn append_next(&mut self, sent_ns: u64, output: &mut Vec<u8>) -> Operation {
        let operation = self.choose();
        let (line, content_type, body) = match operation {
            Operation::Create => {
                ("POST /todos".into(), "application/json", format!("{{\"title\":\"{TITLE_FRONT}{sent_ns}\"}}"))
            }
            Operation::Change => {
                let id = self.living[self.random.usize(..self.living.len())];
                let body = format!("{{\"completed\":{}}}", self.random.bool());
                (format!("PATCH /todos/{id}"), "application/merge-patch+json", body)
            }
            Operation::Delete => {
                let id = self.living.pop_front().unwrap_or_default();
                (format!("DELETE /todos/{id}"), "", String::new())
            }
        };
        let head = &self.common_head;
        let written = if body.is_empty() {
            write!(output, "{line} HTTP/1.1\r\n{head}\r\n")
        } else {
            let length = body.len();
            write!(
                output,
                "{line} HTTP/1.1\r\n{head}Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        };
        written.expect("a Vec takes everything");
        operation
    }

    /// A create was acknowledged: its todo may be named from now on.
    pub fn created(&mut self, id: Uuid) {
        if self.mix == Mix::All {
            self.living.push_back(id);
        }
    }

    fn choose(&mut self) -> Operation {
        let turn = self.planned % 10;
        self.planned += 1;
        match (self.mix, turn) {
            (Mix::All, 6..=8) if !self.living.is_empty() => Operation::Change,
            (Mix::All, 9) if self.living.len() > DELETE_DISTANCE_TODOS => Operation::Delete,
            _ => Operation::Create,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(plan: &mut Plan) -> (Operation, String) {
        let mut output = Vec::new();
        let operation = plan.append_next(42, &mut output);
        (operation, String::from_utf8(output).unwrap())
    }

    #[test]
    fn requests() {
        let mut plan = Plan::new(Mix::All, "host:1", "token", 7);
        let id = Uuid::from_u128(9);
        let (operation, text) = next(&mut plan);
        assert_eq!(operation, Operation::Create);
        assert_eq!(
            text,
            "POST /todos HTTP/1.1\r\nHost: host:1\r\nAuthorization: Bearer token\r\nContent-Type: application/json\r\n\
             Content-Length: 20\r\n\r\n{\"title\":\"bench 42\"}"
        );
        plan.created(id);
        let change = std::iter::repeat_with(|| next(&mut plan)).find(|(operation, _)| *operation == Operation::Change);
        let (_, text) = change.unwrap();
        assert!(text.starts_with(&format!("PATCH /todos/{id} HTTP/1.1\r\n")), "{text}");
    }

    #[test]
    fn the_mix() {
        let count = |mix| {
            let mut plan = Plan::new(mix, "host", "token", 7);
            (0..DELETE_DISTANCE_TODOS as u128 + 1).for_each(|id| plan.created(Uuid::from_u128(id + 1)));
            let operations: Vec<Operation> = (0..10).map(|_| next(&mut plan).0).collect();
            [Operation::Create, Operation::Change, Operation::Delete]
                .map(|kind| operations.iter().filter(|&&operation| operation == kind).count())
        };
        assert_eq!(count(Mix::Creates), [10, 0, 0]);
        assert_eq!(count(Mix::All), [6, 3, 1]);
    }

    #[test]
    fn only_old_todos_are_deleted() {
        let mut plan = Plan::new(Mix::All, "host", "token", 7);
        (1..=DELETE_DISTANCE_TODOS as u128).for_each(|id| plan.created(Uuid::from_u128(id)));
        assert!((0..100).all(|_| next(&mut plan).0 != Operation::Delete));
        plan.created(Uuid::from_u128(u128::MAX));
        let (_, text) =
            std::iter::repeat_with(|| next(&mut plan)).find(|(kind, _)| *kind == Operation::Delete).unwrap();
        assert!(text.starts_with(&format!("DELETE /todos/{} ", Uuid::from_u128(1))), "{text}");
    }
}
