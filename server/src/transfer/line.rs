//! One todo as a line of text.

use serde::Deserialize;
use todo_proto::command::{Import, Operation, TodoCommand};
use todo_proto::id::ItemId;
use todo_proto::todo::{parse_fields, parse_time};
use todo_worker::reads::Exported;

/// The subject of imports.
const SUBJECT: &str = "import";

/// Appends a todo's line, with its end.
pub fn write_line(out: &mut Vec<u8>, todo: &Exported<'_>) {
    todo.fields.write_json(out, todo.id, todo.updated_at_ms);
    if let Some(born) = todo.born {
        let brace = out.pop();
        debug_assert_eq!(brace, Some(b'}'), "a todo's JSON is an object");
        out.extend_from_slice(format!(",\"born\":\"{born:016x}\"}}").as_bytes());
    }
    out.push(b'\n');
}

/// Reads a line: the command that imports its todo. `now_ms` is when it is asked for.
///
/// # Errors
/// What is wrong with the line, as a part of a sentence.
pub fn read_line(line: &[u8], now_ms: u64) -> Result<TodoCommand, String> {
    let fields = parse_fields(line).map_err(|error| error.reason().to_owned())?;
    let members: Members = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    let id = ItemId::parse(members.id.as_bytes()).ok_or("its id is no UUIDv7")?;
    let time = |text: Option<String>| match text {
        None => Ok(id.time_ms()),
        Some(text) => parse_time(&text).ok_or(format!("`{text}` is no time")),
    };
    if time(members.created_at)? != id.time_ms() {
        return Err("its created_at is not the time of its id".to_owned());
    }
    let updated_at_ms = time(members.updated_at)?;
    let born = match members.born {
        None => None,
        Some(text) if text.len() == 16 => {
            Some(u64::from_str_radix(&text, 16).map_err(|_| "its born is not hexadecimal")?)
        }
        Some(_) => return Err("its born must have 16 hexadecimal digits".to_owned()),
    };
    let operation = Operation::Import(Import { fields, updated_at_ms, born });
    Ok(TodoCommand { id, operation, subject: SUBJECT.to_owned(), received_at_ms: now_ms })
}

/// What a line has beside a todo's fields.
#[derive(Deserialize)]
struct Members {
    id: String,
    created_at: Option<String>,
    updated_at: Option<String>,
    born: Option<String>,
}

#[cfg(test)]
mod tests {
    use todo_proto::todo::TodoFields;

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    #[test]
    fn lines_come_back() {
        for (born, updated_at_ms) in [(None, NOW_MS), (Some(7), NOW_MS + 1), (Some(u64::MAX), NOW_MS + 123_456)] {
            let id = ItemId::from_parts(NOW_MS, 5);
            let fields = TodoFields { title: "Buy \"milk\"", description: "two\nlines", completed: true };
            let mut line = Vec::new();
            write_line(&mut line, &Exported { id, fields: fields.clone(), updated_at_ms, born });
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
            let command = read_line(&line, NOW_MS).expect("it was just written");
            let fields = TodoFields {
                title: fields.title.to_owned(),
                description: fields.description.to_owned(),
                completed: fields.completed,
            };
            assert_eq!(command.operation, Operation::Import(Import { fields, updated_at_ms, born }));
            assert_eq!((command.id, command.subject.as_str()), (id, SUBJECT));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let id = "018bcfe5-6800-7000-8000-000000000005";
        let cases = [
            (r#"{"id":"ID","title":"t"}"#, None),
            (r#"{"id":"ID","title":"t","tags":[1]}"#, None),
            (r#"{"id":"ID","title":"t","created_at":"2023-11-14T22:13:20.000Z"}"#, None),
            (r#"{"id":"ID","title":"t","created_at":"2023-11-14T22:13:21Z"}"#, Some("not the time of its id")),
            (r#"{"id":"ID","title":"t","updated_at":"soon"}"#, Some("`soon` is no time")),
            (r#"{"id":"ID"}"#, Some("title")),
            (r#"{"title":"t"}"#, Some("missing field `id`")),
            (r#"{"id":"7","title":"t"}"#, Some("no UUIDv7")),
            (r#"{"id":"ID","title":"t","born":"12"}"#, Some("16 hexadecimal digits")),
            (r#"{"id":"ID","title":"t","born":"xyzxyzxyzxyzxyzx"}"#, Some("not hexadecimal")),
            ("not JSON", Some("not valid JSON")),
            ("", Some("not valid JSON")),
        ];
        for (line, expected) in cases {
            let read = read_line(line.replace("ID", id).as_bytes(), NOW_MS);
            match expected {
                None => assert!(read.is_ok(), "{line}: {read:?}"),
                Some(words) => assert!(read.as_ref().is_err_and(|why| why.contains(words)), "{line}: {read:?}"),
            }
        }
    }
}
