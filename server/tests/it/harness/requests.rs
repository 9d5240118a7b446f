//! Requests as bytes, and todos as they come back.

use serde_json::Value;

/// A GET of `target`, nothing but the Host beside it.
pub fn get(target: &str) -> Vec<u8> {
    with_fields("GET", target, &[])
}

/// A request without a body, with further fields.
pub fn with_fields(method: &str, target: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n");
    for (name, value) in fields {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    bytes.push_str("\r\n");
    bytes.into_bytes()
}

/// A request with a body of a known length, with further fields.
pub fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Vec<u8> {
    let length = body.len().to_string();
    let fields: Vec<_> = fields.iter().copied().chain([("Content-Length", length.as_str())]).collect();
    let mut bytes = with_fields(method, target, &fields);
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

/// A todo as the API shows it, with its six members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Todo {
    pub id: String,
    pub title: String,
    pub description: String,
    pub completed: bool,
    pub created_at: String,
    pub updated_at: String,
}

impl Todo {
    /// The todos of a list's body, which must be exactly theirs: compact, no member more or less.
    pub fn list(body: &[u8]) -> Vec<Todo> {
        let values: Vec<Value> = serde_json::from_slice(body).expect("an array of JSON");
        let todos: Vec<Todo> = values.iter().map(Todo::from_json).collect();
        let expected: Vec<String> = todos.iter().map(Todo::to_json).collect();
        assert_eq!(String::from_utf8_lossy(body), format!("[{}]", expected.join(",")));
        todos
    }

    /// The todo of an item's body, likewise.
    pub fn one(body: &[u8]) -> Todo {
        let todo = Todo::from_json(&serde_json::from_slice(body).expect("one JSON object"));
        assert_eq!(String::from_utf8_lossy(body), todo.to_json());
        todo
    }

    fn from_json(members: &Value) -> Todo {
        let text = |name: &str| members[name].as_str().unwrap_or_else(|| panic!("{name} of {members}")).to_owned();
        Todo {
            id: text("id"),
            title: text("title"),
            description: text("description"),
            completed: members["completed"].as_bool().expect("a bool"),
            created_at: text("created_at"),
            updated_at: text("updated_at"),
        }
    }

    fn to_json(&self) -> String {
        let text = |text: &str| Value::from(text).to_string();
        format!(
            r#"{{"id":{},"title":{},"description":{},"completed":{},"created_at":{},"updated_at":{}}}"#,
            text(&self.id),
            text(&self.title),
            text(&self.description),
            self.completed,
            text(&self.created_at),
            text(&self.updated_at),
        )
    }
}
