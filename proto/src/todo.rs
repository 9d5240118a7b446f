//! What a todo is: its fields and their rules, the JSON bodies that are accepted, the JSON that is answered.
//!
//! A description is always a string, `""` when there is none, and `completed` is always there: both have a default. So in
//! a merge patch (RFC 7396), where `null` removes a member, `null` puts them back to their default, and in a whole todo
//! `null` is the same as absent. A title has no default and cannot be removed.
//!
//! Accepted is one JSON object in UTF-8 (RFC 8259) and nothing behind it but white space. Members of other names are
//! ignored; a known one must not come twice.

use std::fmt;

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::id::ItemId;
use crate::limits::{DESCRIPTION_CHARACTERS_MAX, JSON_DEPTH_MAX, TITLE_CHARACTERS_MAX};

/// A whole todo, as POST and PUT give it. Its other members follow from its id and its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TodoFields<Text = String> {
    /// 1 to 500 characters, no NUL.
    pub title: Text,
    /// Up to 10,000 characters, no NUL; empty when there is none.
    pub description: Text,
    /// Whether it is done.
    pub completed: bool,
}

/// The fields that a PATCH names; the others stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TodoPatch {
    /// The new title.
    pub title: Option<String>,
    /// The new description; empty when the patch removes it.
    pub description: Option<String>,
    /// The new state; false when the patch removes it.
    pub completed: Option<bool>,
}

/// Why a body is not a todo or not a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "`reason` says each in a sentence")]
pub enum TodoError {
    NotUtf8,
    TooDeep,
    NotJson,
    LoneSurrogate,
    TrailingBytes,
    NotAnObject,
    DuplicateMember,
    TitleMissing,
    TitleNull,
    TitleNotAString,
    TitleEmpty,
    TitleTooLong,
    TitleNul,
    DescriptionNotAString,
    DescriptionTooLong,
    DescriptionNul,
    CompletedNotABool,
}

/// Reads the body of a POST or PUT.
pub fn parse_fields(body: &[u8]) -> Result<TodoFields, TodoError> {
    let members = parse_members(body)?;
    let title = title(members.title)?.ok_or(TodoError::TitleMissing)?;
    let description = description(members.description)?.unwrap_or_default();
    let completed = completed(&members.completed)?.unwrap_or_default();
    Ok(TodoFields { title, description, completed })
}

/// Reads the body of a PATCH, a merge patch (RFC 7396). One that names no field is a patch too.
pub fn parse_patch(body: &[u8]) -> Result<TodoPatch, TodoError> {
    let members = parse_members(body)?;
    Ok(TodoPatch {
        title: title(members.title)?,
        description: description(members.description)?,
        completed: completed(&members.completed)?,
    })
}

/// Reads a time as a todo's JSON has it, RFC 3339: milliseconds since the Unix epoch. `None` for anything else, and for
/// times before 1970.
pub fn parse_time(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<Timestamp>().ok()?.as_millisecond()).ok()
}

impl<Text: AsRef<str>> TodoFields<Text> {
    /// Appends the todo's JSON: compact, at most [`ITEM_JSON_BYTES_MAX`](crate::limits::ITEM_JSON_BYTES_MAX) bytes.
    /// `created_at` is the id's time; times are RFC 3339 in UTC with milliseconds, up to the end of the year 9999.
    pub fn write_json(&self, out: &mut Vec<u8>, id: ItemId, updated_at_ms: u64) {
        out.extend_from_slice(b"{\"id\":\"");
        out.extend_from_slice(&id.hyphenated());
        out.extend_from_slice(b"\",\"title\":");
        write_text(out, self.title.as_ref());
        out.extend_from_slice(b",\"description\":");
        write_text(out, self.description.as_ref());
        out.extend_from_slice(if self.completed { b",\"completed\":true" } else { b",\"completed\":false" });
        out.extend_from_slice(b",\"created_at\":\"");
        write_time(out, id.time_ms());
        out.extend_from_slice(b"\",\"updated_at\":\"");
        write_time(out, updated_at_ms);
        out.extend_from_slice(b"\"}");
    }
}

impl TodoFields {
    /// Bytes of its texts.
    pub fn texts_bytes(&self) -> usize {
        self.title.len() + self.description.len()
    }

    /// The fields with those that `patch` names replaced.
    #[must_use]
    pub fn patched(&self, patch: &TodoPatch) -> Self {
        Self {
            title: patch.title.as_ref().unwrap_or(&self.title).clone(),
            description: patch.description.as_ref().unwrap_or(&self.description).clone(),
            completed: patch.completed.unwrap_or(self.completed),
        }
    }
}

impl TodoError {
    /// One sentence for the client.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotUtf8 => "The body is not UTF-8.",
            Self::TooDeep => "The body nests arrays or objects more than 32 deep.",
            Self::NotJson => "The body is not valid JSON.",
            Self::LoneSurrogate => "A string holds a lone surrogate.",
            Self::TrailingBytes => "Something follows the JSON object.",
            Self::NotAnObject => "The body is not a JSON object.",
            Self::DuplicateMember => "A member comes twice.",
            Self::TitleMissing => "The title is missing.",
            Self::TitleNull => "The title cannot be null.",
            Self::TitleNotAString => "The title is not a string.",
            Self::TitleEmpty => "The title is empty.",
            Self::TitleTooLong => "The title is longer than 500 characters.",
            Self::TitleNul => "The title holds a NUL character.",
            Self::DescriptionNotAString => "The description is not a string.",
            Self::DescriptionTooLong => "The description is longer than 10,000 characters.",
            Self::DescriptionNul => "The description holds a NUL character.",
            Self::CompletedNotABool => "The member completed is neither true nor false.",
        }
    }
}

impl fmt::Display for TodoError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}

impl std::error::Error for TodoError {}

fn write_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a Vec takes every byte, and a str is always JSON");
}

fn write_time(out: &mut Vec<u8>, time_ms: u64) {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    // An id can name a time after the year 9999, which RFC 3339 cannot.
    let time = i64::try_from(time_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    PRINTER.print_timestamp(&time.unwrap_or(Timestamp::MAX), out).expect("a Vec takes every byte");
}

fn title(value: Value) -> Result<Option<String>, TodoError> {
    let text = match value {
        Value::Absent => return Ok(None),
        Value::Null => return Err(TodoError::TitleNull),
        Value::Text(text) => text,
        Value::Bool(_) | Value::Other => return Err(TodoError::TitleNotAString),
    };
    if text.is_empty() {
        Err(TodoError::TitleEmpty)
    } else if text.chars().count() > TITLE_CHARACTERS_MAX {
        Err(TodoError::TitleTooLong)
    } else if text.contains('\0') {
        Err(TodoError::TitleNul)
    } else {
        Ok(Some(text))
    }
}

fn description(value: Value) -> Result<Option<String>, TodoError> {
    let text = match value {
        Value::Absent => return Ok(None),
        Value::Null => String::new(),
        Value::Text(text) => text,
        Value::Bool(_) | Value::Other => return Err(TodoError::DescriptionNotAString),
    };
    if text.chars().count() > DESCRIPTION_CHARACTERS_MAX {
        Err(TodoError::DescriptionTooLong)
    } else if text.contains('\0') {
        Err(TodoError::DescriptionNul)
    } else {
        Ok(Some(text))
    }
}

fn completed(value: &Value) -> Result<Option<bool>, TodoError> {
    match value {
        Value::Absent => Ok(None),
        Value::Null => Ok(Some(false)),
        &Value::Bool(completed) => Ok(Some(completed)),
        Value::Text(_) | Value::Other => Err(TodoError::CompletedNotABool),
    }
}

/// The members of a body whose names are known, not yet judged.
#[derive(Default)]
struct Members {
    title: Value,
    description: Value,
    completed: Value,
    duplicate: bool,
}

#[derive(Default)]
enum Value {
    #[default]
    Absent,
    Null,
    Bool(bool),
    Text(String),
    /// A number, an array or an object: read over, for no member takes one.
    Other,
}

#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Name {
    Title,
    Description,
    Completed,
    #[serde(other)]
    Unknown,
}

fn parse_members(body: &[u8]) -> Result<Members, TodoError> {
    // serde_json reads over unknown members without looking at their UTF-8, and has a deeper bound than ours.
    let text = std::str::from_utf8(body).map_err(|_| TodoError::NotUtf8)?;
    if is_too_deep(body) {
        return Err(TodoError::TooDeep);
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = Members::deserialize(&mut deserializer).map_err(|error| json_error(&error))?;
    deserializer.end().map_err(|_| TodoError::TrailingBytes)?;
    if members.duplicate { Err(TodoError::DuplicateMember) } else { Ok(members) }
}

/// Whether brackets outside of strings stand deeper than the bound. Text that is no JSON is for the parser to refuse.
fn is_too_deep(body: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in body {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' if depth == JSON_DEPTH_MAX => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cold]
fn json_error(error: &serde_json::Error) -> TodoError {
    // Every member takes a value of any kind, so only the outermost value can be of a wrong one.
    if error.is_data() {
        return TodoError::NotAnObject;
    }
    // The crate tells these apart in words only; a test notices when the words change.
    let words = error.to_string();
    let surrogate = ["lone leading surrogate in hex escape", "unexpected end of hex escape"];
    if surrogate.iter().any(|known| words.starts_with(known)) { TodoError::LoneSurrogate } else { TodoError::NotJson }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Members::default();
        while let Some(name) = map.next_key::<Name>()? {
            let member = match name {
                Name::Title => &mut members.title,
                Name::Description => &mut members.description,
                Name::Completed => &mut members.completed,
                Name::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            members.duplicate |= !matches!(member, Value::Absent);
            *member = map.next_value()?;
        }
        Ok(members)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(title: &str, description: &str, completed: bool) -> TodoFields {
        TodoFields { title: title.into(), description: description.into(), completed }
    }

    #[test]
    fn whole_todos() {
        let cases: [(&str, &[u8], Result<TodoFields, TodoError>); 34] = [
            ("title alone", br#"{"title":"a"}"#, Ok(fields("a", "", false))),
            ("all", br#"{"title":"a","description":"b","completed":true}"#, Ok(fields("a", "b", true))),
            ("null is absent", br#"{"title":"a","description":null,"completed":null}"#, Ok(fields("a", "", false))),
            ("white space", b" \t\r\n{ \"title\" : \"a\" } \n", Ok(fields("a", "", false))),
            (
                "unknown members",
                br#"{"id":1e999,"x":[{"title":2}],"title":"a","x":"\ud800"}"#,
                Ok(fields("a", "", false)),
            ),
            ("escaped name", br#"{"\u0074itle":"a"}"#, Ok(fields("a", "", false))),
            ("surrogate pair", br#"{"title":"\ud83d\ude00"}"#, Ok(fields("😀", "", false))),
            (
                "brackets in a string",
                br#"{"title":"\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["}"#,
                Ok(fields("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "", false)),
            ),
            ("other controls are text", br#"{"title":"\u0001"}"#, Ok(fields("\u{1}", "", false))),
            ("empty body", b"", Err(TodoError::NotJson)),
            ("cut off", br#"{"title":"a""#, Err(TodoError::NotJson)),
            ("comma at the end", br#"{"title":"a",}"#, Err(TodoError::NotJson)),
            ("single quotes", b"{'title':'a'}", Err(TodoError::NotJson)),
            ("raw control byte", b"{\"title\":\"a\nb\"}", Err(TodoError::NotJson)),
            ("byte order mark", b"\xef\xbb\xbf{\"title\":\"a\"}", Err(TodoError::NotJson)),
            ("bad number", br#"{"title":"a","x":01}"#, Err(TodoError::NotJson)),
            ("not UTF-8", b"{\"title\":\"\xff\"}", Err(TodoError::NotUtf8)),
            ("not UTF-8 where ignored", b"{\"title\":\"a\",\"x\":\"\xc0\x80\"}", Err(TodoError::NotUtf8)),
            ("array", br#"["title","a"]"#, Err(TodoError::NotAnObject)),
            ("string", br#""title""#, Err(TodoError::NotAnObject)),
            ("number", b"7", Err(TodoError::NotAnObject)),
            ("null", b"null", Err(TodoError::NotAnObject)),
            ("second object", br#"{"title":"a"}{}"#, Err(TodoError::TrailingBytes)),
            ("twice", br#"{"title":"a","title":"a"}"#, Err(TodoError::DuplicateMember)),
            ("null, then once", br#"{"title":"a","completed":null,"completed":true}"#, Err(TodoError::DuplicateMember)),
            ("no title", br#"{"description":"b"}"#, Err(TodoError::TitleMissing)),
            ("title null", br#"{"title":null}"#, Err(TodoError::TitleNull)),
            ("title a number", br#"{"title":1}"#, Err(TodoError::TitleNotAString)),
            ("title an object", br#"{"title":{"a":[1]}}"#, Err(TodoError::TitleNotAString)),
            ("title empty", br#"{"title":""}"#, Err(TodoError::TitleEmpty)),
            ("title NUL", br#"{"title":"a\u0000"}"#, Err(TodoError::TitleNul)),
            ("description a bool", br#"{"title":"a","description":true}"#, Err(TodoError::DescriptionNotAString)),
            ("description NUL", br#"{"title":"a","description":"\u0000"}"#, Err(TodoError::DescriptionNul)),
            ("completed a string", br#"{"title":"a","completed":"true"}"#, Err(TodoError::CompletedNotABool)),
        ];
        for (name, body, expected) in cases {
            assert_eq!(parse_fields(body), expected, "{name}");
        }
    }

    #[test]
    fn lone_surrogates_are_refused() {
        for text in [r"\ud800", r"\udc00", r"\ud800x", r"\ud800\n", r"\ud800\ud800", r"\udc00\ud800"] {
            let body = format!(r#"{{"title":"{text}"}}"#);
            assert_eq!(parse_fields(body.as_bytes()), Err(TodoError::LoneSurrogate), "{text}");
        }
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        let body = |title: usize, description: usize| {
            format!(r#"{{"title":"{}","description":"{}"}}"#, "é".repeat(title), "漢".repeat(description))
        };
        for (title, description, expected) in [
            (500, 10_000, None),
            (501, 0, Some(TodoError::TitleTooLong)),
            (1, 10_001, Some(TodoError::DescriptionTooLong)),
        ] {
            assert_eq!(parse_fields(body(title, description).as_bytes()).err(), expected, "{title} {description}");
        }
    }

    #[test]
    fn depth_is_bounded_wherever_it_is() {
        let body = |member: &str, depth: usize| {
            format!(r#"{{"title":"a","{member}":{}{}}}"#, "[".repeat(depth), "]".repeat(depth))
        };
        let deepest = JSON_DEPTH_MAX - 1;
        assert!(parse_fields(body("x", deepest).as_bytes()).is_ok());
        for member in ["x", "title"] {
            assert_eq!(parse_fields(body(member, deepest + 1).as_bytes()), Err(TodoError::TooDeep));
        }
        assert_eq!(parse_fields("[".repeat(60_000).as_bytes()), Err(TodoError::TooDeep));
    }

    #[test]
    fn patches_change_what_they_name() {
        let before = fields("a", "b", true);
        let cases: [(&[u8], Result<TodoFields, TodoError>); 6] = [
            (b"{}", Ok(before.clone())),
            (br#"{"title":"c"}"#, Ok(fields("c", "b", true))),
            (br#"{"description":null}"#, Ok(fields("a", "", true))),
            (br#"{"completed":null,"other":3}"#, Ok(fields("a", "b", false))),
            (br#"{"title":null}"#, Err(TodoError::TitleNull)),
            (b"[]", Err(TodoError::NotAnObject)),
        ];
        for (body, expected) in cases {
            assert_eq!(parse_patch(body).map(|patch| before.patched(&patch)), expected);
        }
    }

    #[test]
    fn times_come_back() {
        for time_ms in [0, 1, 1_700_000_000_123, 253_402_207_200_000] {
            let mut text = Vec::new();
            write_time(&mut text, time_ms);
            assert_eq!(parse_time(std::str::from_utf8(&text).unwrap()), Some(time_ms));
        }
        for text in ["", "2023", "2023-11-14 22:13", "1969-12-31T23:59:59.999Z", "yesterday"] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }

    #[test]
    fn json_is_compact_and_in_order() {
        let id = ItemId::from_parts(1_700_000_000_123, 5);
        let mut out = b"[".to_vec();
        fields("a\"\\\n", "é", true).write_json(&mut out, id, 1_700_000_001_000);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"[{"id":"018bcfe5-687b-7000-8000-000000000005","title":"a\"\\\n","description":"é","completed":true,"#,
                r#""created_at":"2023-11-14T22:13:20.123Z","updated_at":"2023-11-14T22:13:21.000Z"}"#
            )
        );
    }

    #[test]
    fn the_longest_todo_fits_its_bound() {
        let longest = fields(&"\u{1}".repeat(TITLE_CHARACTERS_MAX), &"\u{1}".repeat(DESCRIPTION_CHARACTERS_MAX), false);
        for time_ms in [0, u64::MAX] {
            let mut out = Vec::new();
            longest.write_json(&mut out, ItemId::from_parts(time_ms, 0), time_ms);
            assert!(out.len() <= crate::limits::ITEM_JSON_BYTES_MAX);
            assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        }
    }
}
