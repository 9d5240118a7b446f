//! A look into bodies: JSON or not, and whether a list has gone back.

use crate::limits::{CHECKED_BODY_BYTES_MAX, FIRST_OBJECT_BYTES_MAX};
use crate::load::exchange::answer::AnswerHead;
use serde::Deserialize;
use std::borrow::Cow;

/// How much of a body is kept until it is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// None of it.
    #[default]
    Nothing,
    /// The first object of a list.
    Front,
    /// All of it.
    Whole,
}

impl Keep {
    fn bytes_max(self) -> usize {
        match self {
            Keep::Nothing => 0,
            Keep::Front => FIRST_OBJECT_BYTES_MAX,
            // One more, which says that there was more.
            Keep::Whole => CHECKED_BODY_BYTES_MAX + 1,
        }
    }
}

/// The body of the answer that a connection is receiving, as far as it is wanted.
#[derive(Default)]
pub struct Kept {
    pub keep: Keep,
    bytes: Vec<u8>,
}

impl Kept {
    pub fn begin(&mut self, keep: Keep) {
        self.keep = keep;
        self.bytes.clear();
    }

    pub fn extend(&mut self, body: &[u8]) {
        let room = self.keep.bytes_max().saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&body[..body.len().min(room)]);
    }
}

/// The id of a todo, a row, a post: numbers are compared as numbers, all else byte by byte (UUIDv7 and ULID grow so).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// A number, or a text of digits only.
    Number(u64),
    /// Any other text.
    Text(Box<str>),
}

/// What is wrong with a body.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    #[error("no JSON: {0}")]
    Json(serde_json::Error),
    #[error("the newest id went back, from {before:?} to {now:?}")]
    WentBack { before: Id, now: Id },
}

/// Which bodies are looked into, and how many were.
#[derive(Default)]
pub struct Checks {
    json_every: Option<u64>,
    newest_never_back: bool,
    until_json: u64,
    /// Bodies that were parsed from end to end.
    pub json_checked: u64,
    /// Lists whose newest id was compared.
    pub newest_checked: u64,
    /// Bodies that were to be looked into and are encoded, or too long.
    pub unread: u64,
}

impl Checks {
    pub fn new(json_every: Option<u64>, newest_never_back: bool) -> Checks {
        Checks { json_every, newest_never_back, until_json: json_every.unwrap_or(0), ..Checks::default() }
    }

    /// What to keep of the body behind this head. Called once for each good answer that has a body.
    pub fn keep(&mut self, head: &AnswerHead, is_list: bool) -> Keep {
        let mut is_json_due = false;
        if let Some(every) = self.json_every {
            self.until_json -= 1;
            is_json_due = self.until_json == 0;
            if is_json_due {
                self.until_json = every;
            }
        }
        let keep = match (is_json_due, self.newest_never_back && is_list) {
            (true, _) => Keep::Whole,
            (false, true) => Keep::Front,
            (false, false) => return Keep::Nothing,
        };
        if head.is_encoded {
            self.unread += 1;
            return Keep::Nothing;
        }
        keep
    }

    /// Looks into a complete body. `newest`: the newest id that its connection has seen of its list.
    pub fn inspect(&mut self, kept: &Kept, newest: Option<&mut Option<Id>>) -> Result<(), Wrong> {
        let body = kept.bytes.as_slice();
        if kept.keep == Keep::Whole {
            if body.len() > CHECKED_BODY_BYTES_MAX {
                self.unread += 1;
                return Ok(());
            }
            self.json_checked += 1;
            serde_json::from_slice::<serde::de::IgnoredAny>(body).map_err(Wrong::Json)?;
        }
        let Some(newest) = newest.filter(|_| self.newest_never_back && kept.keep != Keep::Nothing) else {
            return Ok(());
        };
        // No list, an empty one, or objects without an id: nothing to compare.
        let Some(id) = first_id(body) else { return Ok(()) };
        self.newest_checked += 1;
        match newest {
            Some(before) if id < *before => Err(Wrong::WentBack { before: before.clone(), now: id }),
            _ => {
                *newest = Some(id);
                Ok(())
            }
        }
    }
}

/// The id of the first object of a list, of which only the front may be there.
fn first_id(front: &[u8]) -> Option<Id> {
    #[derive(Deserialize)]
    struct First<'a> {
        #[serde(borrow)]
        id: FirstId<'a>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum FirstId<'a> {
        Number(u64),
        Text(#[serde(borrow)] Cow<'a, str>),
    }
    let objects = front.trim_ascii_start().strip_prefix(b"[")?;
    let first = serde_json::Deserializer::from_slice(objects).into_iter::<First>().next()?.ok()?;
    Some(match first.id {
        FirstId::Number(number) => Id::Number(number),
        FirstId::Text(text) => match text.parse() {
            // `parse` takes a sign too.
            Ok(number) if text.bytes().all(|byte| byte.is_ascii_digit()) => Id::Number(number),
            _ => Id::Text(text.into()),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::exchange::answer::Framing;

    const HEAD: AnswerHead = AnswerHead { status: 200, framing: Framing::Chunked, closes: false, is_encoded: false };

    fn kept(keep: Keep, body: &[u8]) -> Kept {
        let mut kept = Kept::default();
        kept.begin(keep);
        for piece in body.chunks(7) {
            kept.extend(piece);
        }
        kept
    }

    #[test]
    fn first_ids() {
        let text = |text: &str| Some(Id::Text(text.into()));
        let table: [(&str, Option<Id>); 11] = [
            (r#"[{"id":7},{"id":9}]"#, Some(Id::Number(7))),
            (r#" [ {"title":"a","id":"0190-b","x":[{"id":1}]}"#, text("0190-b")),
            (r#"[{"id":"42"}]"#, Some(Id::Number(42))),
            (r#"[{"id":"+42"}]"#, text("+42")),
            (r#"[{"id":"a\"b"}]"#, text("a\"b")),
            (r#"[{"id":7,"title":"cut o"#, None),
            (r#"[{"title":"a"}]"#, None),
            (r#"[{"id":null}]"#, None),
            ("[]", None),
            (r#"{"id":7}"#, None),
            ("", None),
        ];
        for (body, expected) in table {
            assert_eq!(first_id(body.as_bytes()), expected, "{body}");
        }
        assert!(Id::Number(9) < Id::Number(10));
    }

    #[test]
    fn every_so_many_th_body_is_parsed() {
        let mut checks = Checks::new(Some(3), false);
        let keeps: Vec<Keep> = (0..6).map(|_| checks.keep(&HEAD, true)).collect();
        use Keep::{Nothing, Whole};
        assert_eq!(keeps, [Nothing, Nothing, Whole, Nothing, Nothing, Whole]);
        assert!(checks.inspect(&kept(Whole, br#"{"a":[1,2]}"#), None).is_ok());
        assert!(matches!(checks.inspect(&kept(Whole, br#"{"a":[1,2}"#), None), Err(Wrong::Json(_))));
        assert_eq!((checks.json_checked, checks.unread), (2, 0));
        let encoded = AnswerHead { is_encoded: true, ..HEAD };
        assert_eq!(Checks::new(Some(1), true).keep(&encoded, true), Nothing);
    }

    #[test]
    fn a_list_that_goes_back_is_wrong() {
        let mut checks = Checks::new(None, true);
        assert_eq!(checks.keep(&HEAD, false), Keep::Nothing);
        assert_eq!(checks.keep(&HEAD, true), Keep::Front);
        let mut newest = None;
        for (id, is_right) in [(5, true), (5, true), (11, true), (10, false), (11, true)] {
            let mut body = format!("[{{\"id\":{id}}},{{\"title\":\"").into_bytes();
            body.resize(FIRST_OBJECT_BYTES_MAX * 2, b'x');
            assert_eq!(checks.inspect(&kept(Keep::Front, &body), Some(&mut newest)).is_ok(), is_right, "{id}");
        }
        assert!(checks.inspect(&kept(Keep::Front, b"[]"), Some(&mut newest)).is_ok());
        assert_eq!((checks.newest_checked, newest), (5, Some(Id::Number(11))));
    }
}
