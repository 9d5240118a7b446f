//! What the fuzz target of request bodies runs: the domain's reader against `serde_json`'s own idea of a value.

use serde_json::Value;
use todo_proto::id::ItemId;
use todo_proto::todo::{TodoError, TodoFields, TodoPatch, parse_fields, parse_patch};

use super::fuzzing::Members;

/// A body, read as a whole todo and as a patch.
pub fn json(data: &[u8]) {
    let whole = parse_fields(data);
    let patch = parse_patch(data);
    match serde_json::from_slice::<Value>(data) {
        Ok(value) if depth(&value) > 32 => {
            assert_eq!((whole.err(), patch.err()), (Some(TodoError::TooDeep), Some(TodoError::TooDeep)));
        }
        Ok(Value::Object(_)) => {
            let Members(members) = serde_json::from_slice(data).expect("it is an object");
            compare(&members, whole, patch);
        }
        Ok(_) => assert!(whole.is_err() && patch.is_err()),
        // What is only read over may hold more: the oracle makes numbers and texts of it.
        Err(error) if is_about_what_is_read_over(&error.to_string()) => {}
        Err(error) => assert!(whole.is_err() && patch.is_err(), "{error}"),
    }
}

fn compare(members: &[(String, Value)], whole: Result<TodoFields, TodoError>, patch: Result<TodoPatch, TodoError>) {
    if patch == Err(TodoError::TooDeep) {
        // Of two members of one name further inside the oracle knows only the last.
        assert_eq!(whole.err(), Some(TodoError::TooDeep));
        return;
    }
    let expected = expected(members);
    let expected_whole = expected.clone().and_then(|patch| {
        Some(TodoFields {
            title: patch.title?,
            description: patch.description.unwrap_or_default(),
            completed: patch.completed.unwrap_or_default(),
        })
    });
    assert_eq!(patch.ok(), expected);
    assert_eq!(whole.as_ref().ok(), expected_whole.as_ref());
    if let Ok(fields) = whole {
        let mut written = Vec::new();
        fields.write_json(&mut written, ItemId::from_parts(1, 2), 3);
        let read = serde_json::from_slice::<Value>(&written).expect("what is answered is JSON");
        assert_eq!((&read["title"], &read["description"]), (&fields.title.into(), &fields.description.into()));
        assert_eq!(read["completed"], fields.completed);
    }
}

/// The patch that these members are; `None` where one of them is refused.
fn expected(members: &[(String, Value)]) -> Option<TodoPatch> {
    let named = |name: &'static str| members.iter().filter(move |(other, _)| other == name).map(|(_, value)| value);
    if ["title", "description", "completed"].into_iter().any(|name| named(name).count() > 1) {
        return None;
    }
    let text = |value: &Value, least: usize, most: usize| {
        let text = value.as_str()?;
        ((least..=most).contains(&text.chars().count()) && !text.contains('\0')).then(|| text.to_owned())
    };
    let title = match named("title").next() {
        None => None,
        Some(value) => Some(text(value, 1, 500)?),
    };
    let description = match named("description").next() {
        None => None,
        Some(Value::Null) => Some(String::new()),
        Some(value) => Some(text(value, 0, 10_000)?),
    };
    let completed = match named("completed").next() {
        None => None,
        Some(Value::Null) => Some(false),
        Some(value) => Some(value.as_bool()?),
    };
    Some(TodoPatch { title, description, completed })
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn is_about_what_is_read_over(words: &str) -> bool {
    ["number out of range", "lone leading surrogate", "unexpected end of hex escape", "recursion limit exceeded"]
        .iter()
        .any(|known| words.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::super::fuzzing::replay;
    use super::*;

    #[test]
    fn corpus_replays() {
        replay("json", json);
    }
}
