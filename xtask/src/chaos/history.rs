//! What one writer asked of one todo, what was answered, and what may be there in the end.
//!
//! A write that was acknowledged took effect, once, in its place. One whose outcome is unknown may take effect at any
//! time after it was sent, but not behind a later one of the same producer that was acknowledged. One that was refused
//! never does. A checker without this rule cries wolf, or is loosened until it finds nothing.

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Acknowledged,
    Unknown,
    Refused,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// POST or PUT: the title from now on.
    Title(String),
    Delete,
}

/// One write.
#[derive(Clone, Debug)]
pub struct Write {
    pub asked: Asked,
    pub answer: Answer,
    /// The start of the server that it was sent to: a producer.
    pub producer: u64,
}

/// One todo and all that one writer did to it, in order.
#[derive(Clone, Debug)]
pub struct Todo {
    /// Canonical.
    pub id: String,
    pub writes: Vec<Write>,
}

impl Todo {
    /// Whether the todo may be like this in the end; `None` is absent.
    pub fn allows(&self, found: Option<&str>) -> Result<(), String> {
        let created =
            self.writes.iter().any(|write| write.answer == Answer::Acknowledged && write.asked != Asked::Delete);
        let deleted = |answer| self.writes.iter().any(|write| write.asked == Asked::Delete && write.answer == answer);
        let told = |what: &str| Err(format!("{} {what}: {:?}", self.id, self.writes));
        match found {
            None if created && !deleted(Answer::Acknowledged) && !deleted(Answer::Unknown) => told("is lost"),
            None => Ok(()),
            Some(_) if deleted(Answer::Acknowledged) => told("was deleted and is there"),
            Some(title) if self.may_be_last(title) => Ok(()),
            Some(title) => told(&format!("has the title {title:?}, which is not its last")),
        }
    }

    /// Whether a write of this title can be the last one that took effect.
    fn may_be_last(&self, title: &str) -> bool {
        let is_it = |write: &Write| matches!(&write.asked, Asked::Title(asked) if asked == title);
        let last_acknowledged = self.writes.iter().rposition(|write| write.answer == Answer::Acknowledged);
        self.writes.iter().enumerate().filter(|(_, write)| is_it(write)).any(|(place, write)| match write.answer {
            Answer::Refused => false,
            Answer::Acknowledged => last_acknowledged == Some(place),
            Answer::Unknown => !self.writes[place + 1..]
                .iter()
                .any(|later| later.answer == Answer::Acknowledged && later.producer == write.producer),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_there_in_the_end() {
        use Answer::{Acknowledged as Yes, Refused as No, Unknown as Maybe};
        let title = |title: &str, answer, producer| Write { asked: Asked::Title(title.to_owned()), answer, producer };
        let delete = |answer| Write { asked: Asked::Delete, answer, producer: 1 };
        let cases: [(&str, Vec<Write>, &[&str], bool); 9] = [
            ("nothing", vec![], &[], true),
            ("one", vec![title("a", Yes, 1)], &["a"], false),
            ("the last", vec![title("a", Yes, 1), title("b", Yes, 1)], &["b"], false),
            ("refused", vec![title("a", Yes, 1), title("b", No, 1)], &["a"], false),
            ("unknown", vec![title("a", Yes, 1), title("b", Maybe, 1)], &["a", "b"], false),
            ("fenced", vec![title("a", Yes, 1), title("b", Maybe, 1), title("c", Yes, 1)], &["c"], false),
            ("late copy", vec![title("a", Yes, 1), title("b", Maybe, 1), title("c", Yes, 2)], &["b", "c"], false),
            ("deleted", vec![title("a", Yes, 1), delete(Yes), title("b", Yes, 1)], &[], true),
            ("perhaps deleted", vec![title("a", Yes, 1), delete(Maybe)], &["a"], true),
        ];
        for (name, writes, titles, may_be_absent) in cases {
            let todo = Todo { id: "x".to_owned(), writes };
            for candidate in ["a", "b", "c"] {
                assert_eq!(todo.allows(Some(candidate)).is_ok(), titles.contains(&candidate), "{name}: {candidate}");
            }
            assert_eq!(todo.allows(None).is_ok(), may_be_absent, "{name}: absent");
        }
    }
}
