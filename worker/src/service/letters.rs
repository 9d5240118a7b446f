//! What a human does with dead letters: list, show, replay.

use jiff::Timestamp;
use todo_proto::command::{Import, Operation, Record, TodoCommand};
use todo_proto::todo::TodoFields;

use crate::postgres::DeadLetterRow;

/// One line: partition, position, time, reason, whether it was replayed, what it was.
pub fn line(letter: &DeadLetterRow) -> String {
    let what = match Record::decode(&letter.record) {
        Ok(record) => format!("{} {}", name(&record.command.operation), record.command.id),
        Err(error) => error.to_string(),
    };
    let replayed = if letter.replayed_ms.is_some() { "replayed" } else { "-" };
    let DeadLetterRow { part, position, reason, at_ms, .. } = letter;
    format!("{part}\t{position}\t{}\t{reason}\t{replayed}\t{what}", time(*at_ms))
}

/// All that it holds, a line each.
pub fn text(letter: &DeadLetterRow) -> String {
    let mut lines = vec![
        format!("partition   {}", letter.part),
        format!("position    {}", letter.position),
        format!("reason      {}", letter.reason),
        format!("kept aside  {}", time(letter.at_ms)),
        format!("replayed    {}", letter.replayed_ms.map_or("no".to_owned(), time)),
    ];
    match Record::decode(&letter.record) {
        Ok(Record { producer, number, command }) => lines.extend([
            format!("producer    {} number {number}", uuid::Uuid::from_bytes(producer)),
            format!("received    {} from {:?}", time(command.received_at_ms), command.subject),
            format!("operation   {}", name(&command.operation)),
            format!("id          {}", command.id),
            format!("fields      {}", fields(&command)),
        ]),
        Err(error) => lines.extend([
            format!("record      {error}"),
            format!("bytes       {}", letter.record.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        ]),
    }
    lines.join("\n")
}

/// The command that writes the todo whose creation came too late, whatever its age; `None` for any other record: only a
/// creation holds all that a todo is.
pub fn import_of(letter: &DeadLetterRow, now_ms: u64) -> Option<TodoCommand> {
    let Record { command, .. } = Record::decode(&letter.record).ok()?;
    let born = Some(command.fingerprint());
    let Operation::Create(fields) = command.operation else { return None };
    let import = Import { fields, updated_at_ms: command.received_at_ms.max(command.id.time_ms()), born };
    Some(TodoCommand { operation: Operation::Import(import), received_at_ms: now_ms, ..command })
}

fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Create(_) => "create",
        Operation::Replace(_) => "replace",
        Operation::Patch(_) => "patch",
        Operation::Delete => "delete",
        Operation::Import(_) => "import",
    }
}

/// The fields that the command names, as JSON.
fn fields(command: &TodoCommand) -> serde_json::Value {
    let whole = |TodoFields { title, description, completed }: &TodoFields| serde_json::json!({ "title": title, "description": description, "completed": completed });
    match &command.operation {
        Operation::Create(fields) | Operation::Replace(fields) => whole(fields),
        Operation::Import(import) => whole(&import.fields),
        Operation::Patch(patch) => serde_json::json!({
            "title": patch.title, "description": patch.description, "completed": patch.completed,
        }),
        Operation::Delete => serde_json::json!({}),
    }
}

fn time(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use todo_proto::id::ItemId;
    use todo_proto::todo::TodoPatch;

    use super::*;

    fn letter(operation: Operation) -> DeadLetterRow {
        let id = ItemId::from_parts(1_700_000_000_000, 7);
        let command = TodoCommand { id, operation, subject: "anna".into(), received_at_ms: 1_700_000_005_000 };
        let record = Record { producer: [1; 16], number: 3, command }.encode();
        DeadLetterRow { part: 2, position: 9, reason: "too-old".into(), record, at_ms: 0, replayed_ms: None }
    }

    fn create() -> Operation {
        Operation::Create(TodoFields { title: "Milk".into(), description: String::new(), completed: true })
    }

    #[test]
    fn a_late_creation_becomes_an_import_and_nothing_else_does() {
        let late = letter(create());
        let created = Record::decode(&late.record).expect("a record").command;
        let import = import_of(&late, 5).expect("it can be written");
        assert_eq!((import.id, import.received_at_ms), (created.id, 5));
        let Operation::Import(import) = import.operation else { panic!("an import") };
        assert_eq!((import.updated_at_ms, import.born), (1_700_000_005_000, Some(created.fingerprint())));
        assert_eq!(import.fields.title, "Milk");

        assert_eq!(import_of(&letter(Operation::Patch(TodoPatch::default())), 5), None);
        assert_eq!(import_of(&DeadLetterRow { record: vec![0], ..letter(create()) }, 5), None);
    }

    #[test]
    fn letters_are_readable() {
        let late = letter(create());
        assert_eq!(line(&late), "2\t9\t1970-01-01T00:00:00Z\ttoo-old\t-\tcreate 018bcfe5-6800-7000-8000-000000000007");
        let text_of = text(&late);
        assert!(text_of.contains(r#"fields      {"completed":true,"description":"","title":"Milk"}"#), "{text_of}");
        let broken = DeadLetterRow { record: vec![1, 255], ..late };
        assert!(text(&broken).ends_with("record      not a record: cut off\nbytes       01ff"), "{}", text(&broken));
    }
}
