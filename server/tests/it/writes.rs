//! The writing half of the API: what is accepted, what it does, what is refused at the door.

use serde_json::json;
use todo_proto::id::ItemId;
use todo_server::clock::wall_ms;
use todo_server::http::bearer::Keys;

use crate::harness::{Client, Options, Response, SECRET, Server, Todo, get, request, with_fields};

#[test]
fn a_todo_lives_from_post_to_delete() {
    let server = Options::new().flag("--seed-todos", 0).start();
    let mut client = server.connect();
    assert_eq!(client.ask(&get("/todos")).body, b"[]");

    let created =
        client.ask(&server.write("POST", "/todos", r#"{"title":"Überweisung \"7\" 🦀","completed":true,"x":[{}]}"#));
    let id = created.accepted();
    let item = format!("/todos/{id}");
    assert_eq!(created.field("Location"), Some(item.as_str()));
    assert_eq!(created.body, format!("{{\"id\":\"{id}\"}}").as_bytes());
    let todo = read(&mut client, &item).expect("it is there");
    assert_eq!((todo.title.as_str(), todo.description.as_str(), todo.completed), ("Überweisung \"7\" 🦀", "", true));
    assert!(todo.updated_at >= todo.created_at);
    assert!(todo.created_at.len() == 24 && todo.created_at.ends_with('Z'), "{}", todo.created_at);

    let replaced = client.ask(&server.write("PUT", &item, r#"{"title":"two","description":"whole"}"#));
    assert_eq!((replaced.accepted(), replaced.field("Location")), (id.clone(), None));
    let second = read(&mut client, &item).expect("it is there");
    assert_eq!((second.title.as_str(), second.description.as_str(), second.completed), ("two", "whole", false));
    assert_eq!(second.created_at, todo.created_at);
    assert!(second.updated_at >= todo.updated_at);

    client.ask(&patch(&server, &item, r#"{"completed":true,"description":null}"#)).accepted();
    let third = read(&mut client, &item).expect("it is there");
    assert_eq!((third.title.as_str(), third.description.as_str(), third.completed), ("two", "", true));

    client.ask(&server.write("DELETE", &item, "")).accepted();
    assert_eq!(read(&mut client, &item), None);
    // Decided when it is applied: accepted, and without effect.
    client.ask(&server.write("PUT", &item, r#"{"title":"back?"}"#)).accepted();
    client.ask(&patch(&server, &item, r#"{"title":"back?"}"#)).accepted();
    client.ask(&server.write("DELETE", &item, "")).accepted();
    assert_eq!(client.ask(&get("/todos")).body, b"[]");
}

#[test]
fn an_id_that_can_name_nothing_is_not_found() {
    let server = Server::start();
    let mut client = server.connect();
    let soon = ItemId::from_parts(wall_ms() + 50_000, 1);
    let ahead = ItemId::from_parts(wall_ms() + 90_000, 1);
    for (id, status) in [
        (hyphenated(soon), 202),
        (hyphenated(ahead), 404),
        ("01890a5d-ac96-474b-bcce-b302099a8057".into(), 404),
        ("x".into(), 404),
    ] {
        for method in ["PUT", "PATCH", "DELETE"] {
            let response = client.ask(&server.write(method, &format!("/todos/{id}"), r#"{"title":"t"}"#));
            assert_eq!(response.status, status, "{method} {id}: {response}");
        }
    }
}

#[test]
fn a_post_sent_again_with_its_key_is_one_todo() {
    let server = Server::start();
    let mut client = server.connect();
    let key = hyphenated(ItemId::from_parts(wall_ms(), 0xabc));
    let post = |key: &str, body: &str| {
        let authorization = server.authorization();
        request("POST", "/todos", &[("Authorization", &authorization), ("Idempotency-Key", key)], body)
    };
    let body = r#"{"title":"once","description":"","completed":false}"#;
    for quoted in [key.clone(), format!("\"{key}\""), key.to_uppercase()] {
        assert_eq!(client.ask(&post(&quoted, body)).accepted(), key);
    }
    // Defaults filled in it is the same todo; with other fields the first one stands.
    client.ask(&post(&key, r#"{"title":"once"}"#)).accepted();
    client.ask(&post(&key, r#"{"title":"another"}"#)).accepted();
    let todos = Todo::list(&client.ask(&get("/todos")).body);
    assert_eq!(todos.len(), 101);
    assert_eq!(todos.iter().filter(|todo| todo.id == key && todo.title == "once").count(), 1);
    // Nor does a retry bring back what has been deleted since.
    client.ask(&server.write("DELETE", &format!("/todos/{key}"), "")).accepted();
    client.ask(&post(&key, body)).accepted();
    assert_eq!(read(&mut client, &format!("/todos/{key}")), None);

    let old = hyphenated(ItemId::from_parts(wall_ms() - 25 * 3_600_000, 1));
    let new = hyphenated(ItemId::from_parts(wall_ms() + 90_000, 1));
    for (key, slug) in
        [(old.as_str(), "idempotency-key-time"), (&new, "idempotency-key-time"), ("17", "idempotency-key-invalid")]
    {
        let response = client.ask(&post(key, body));
        assert_eq!((response.status, response.problem().as_str()), (400, slug), "{key}");
    }
}

#[test]
fn who_may_write_is_decided_before_the_body() {
    let server = Server::start();
    let mut client = server.connect();
    let now = wall_ms() / 1_000;
    let good = Keys::new(SECRET.as_bytes());
    let expired = good.sign("me", now - 100, 50).expect("a token");
    let untrusted = Keys::new(b"another secret of more than 32 bytes").sign("me", now, 50).expect("a token");
    let nameless = good.sign("", now, 50).expect("a token");
    let none_algorithm = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJtZSIsImV4cCI6OTk5OTk5OTk5OX0.";
    let table = [
        (None, "token-missing"),
        (Some("Basic bWU6bWU=".to_owned()), "token-missing"),
        (Some("Bearer x".to_owned()), "token-malformed"),
        (Some(format!("Bearer {none_algorithm}")), "token-malformed"),
        (Some(format!("Bearer {untrusted}")), "token-untrusted"),
        (Some(format!("Bearer {expired}")), "token-expired"),
        (Some(format!("bearer {nameless}")), "token-claims"),
    ];
    for (authorization, slug) in table {
        let fields: Vec<(&str, &str)> = authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
        let response = client.ask(&request("POST", "/todos", &fields, "no JSON at all"));
        assert_eq!((response.status, response.problem().as_str()), (401, slug), "{authorization:?}");
        assert!(
            response.field("WWW-Authenticate").is_some_and(|value| value.starts_with("Bearer realm=")),
            "{response}"
        );
    }
    assert_eq!(client.ask(&get("/todos?limit=1")).status, 200, "reads are public, and the connection goes on");
}

#[test]
fn a_body_that_is_no_todo_is_refused_with_the_reason() {
    let server = Server::start();
    let mut client = server.connect();
    let long_title = json!({ "title": "t".repeat(501) }).to_string();
    let long_description = json!({ "title": "t", "description": "d".repeat(10_001) }).to_string();
    let deep = format!(r#"{{"title":"t","x":{}{}}}"#, "[".repeat(40), "]".repeat(40));
    let bodies = [
        "",
        "{",
        "[]",
        "17",
        r#"{"title":"t"} x"#,
        "{}",
        r#"{"title":null}"#,
        r#"{"title":7}"#,
        r#"{"title":""}"#,
        r#"{"title":"a\u0000b"}"#,
        r#"{"title":"\ud800"}"#,
        r#"{"title":"t","title":"t"}"#,
        r#"{"title":"t","completed":"yes"}"#,
        r#"{"title":"t","description":7}"#,
        &long_title,
        &long_description,
        &deep,
    ];
    for body in bodies {
        let response = client.ask(&server.write("POST", "/todos", body));
        assert_eq!((response.status, response.problem().as_str()), (400, "invalid-body"), "{body}: {response}");
    }
    let longest = json!({ "title": "é".repeat(500), "description": "🦀".repeat(10_000) });
    let id = client.ask(&server.write("POST", "/todos", &longest.to_string())).accepted();
    let todo = read(&mut client, &format!("/todos/{id}")).expect("it is there");
    assert_eq!(
        (json!(todo.title), json!(todo.description)),
        (longest["title"].clone(), longest["description"].clone())
    );
}

#[test]
fn other_media_types_codings_and_conditions_are_refused() {
    let server = Server::start();
    let mut client = server.connect();
    let authorization = server.authorization();
    let id = Todo::list(&client.ask(&get("/todos?limit=1")).body).remove(0).id;
    let item = format!("/todos/{id}");
    let mut ask = |method: &str, target: &str, field: (&str, &str)| -> Response {
        client.ask(&request(method, target, &[("Authorization", &authorization), field], r#"{"title":"t"}"#))
    };
    let table = [
        ("POST", "/todos", ("Content-Type", "text/plain"), 415, ("Accept", Some("application/json"))),
        ("POST", "/todos", ("Content-Type", "application/merge-patch+json"), 415, ("Accept", Some("application/json"))),
        ("PUT", item.as_str(), ("Content-Encoding", "gzip"), 415, ("Accept-Encoding", Some("identity"))),
        (
            "PATCH",
            &item,
            ("Content-Type", "application/json-patch+json"),
            415,
            ("Accept-Patch", Some("application/merge-patch+json, application/json")),
        ),
        ("PATCH", &item, ("Content-Type", "application/merge-patch+json"), 202, ("Location", None)),
        ("PUT", &item, ("Content-Type", "Application/JSON; charset=\"UTF-8\""), 202, ("Location", None)),
        ("PUT", &item, ("If-Match", "*"), 412, ("ETag", None)),
        ("DELETE", &item, ("If-Unmodified-Since", "Fri, 31 Dec 9999 23:59:59 GMT"), 412, ("ETag", None)),
    ];
    for (method, target, field, status, (name, value)) in table {
        let response = ask(method, target, field);
        assert_eq!((response.status, response.field(name)), (status, value), "{method} {field:?}: {response}");
    }
}

#[test]
fn bodies_come_chunked_expected_and_too_large() {
    let server = Server::start();
    let mut client = server.connect();
    let authorization = server.authorization();
    let chunked = [("Authorization", authorization.as_str()), ("Transfer-Encoding", "chunked")];
    let mut bytes = with_fields("POST", "/todos", &chunked);
    bytes.extend_from_slice(
        b"8;ext=\"x\"\r\n{\"title\"\r\n003\r\n:\"c\r\n7\r\nhunked\"\r\n1\r\n}\r\n0\r\nTrailer: x\r\n\r\n",
    );
    let id = client.ask(&bytes).accepted();
    assert_eq!(read(&mut client, &format!("/todos/{id}")).expect("it is there").title, "chunked");

    let body = r#"{"title":"expected"}"#;
    let length = body.len().to_string();
    let expecting =
        [("Authorization", authorization.as_str()), ("Expect", "100-continue"), ("Content-Length", length.as_str())];
    client.send(&with_fields("POST", "/todos", &expecting));
    assert_eq!(client.response(false).status, 100);
    client.ask(body.as_bytes()).accepted();
    // Refused by its head: a final answer instead of the 100, and the unsent body makes it close.
    let refused = client.ask(&with_fields("POST", "/todos", &expecting[1..]));
    assert_eq!(refused.status, 401, "{refused}");
    client.expect_close();

    let mut client = server.connect();
    let too_large = [("Authorization", authorization.as_str()), ("Content-Length", "65537")];
    let response = client.ask(&with_fields("POST", "/todos", &too_large));
    assert!(response.status == 413 && response.closes(), "{response}");
    client.expect_close();
}

/// A todo of an id that is older than all is 404 without a question to the store. To see that nobody asked, the todo is put
/// into the file behind the server's back: asked for, it would have been found. What a client has made older than all
/// others since the start is found all the same.
#[test]
fn the_store_is_not_asked_for_what_is_older_than_all() {
    let server = Options::new().flag("--seed-todos", 0).start();
    let hours_ago = |hours: u64| hyphenated(ItemId::from_parts(wall_ms() - hours * 3_600_000, 1));
    let create = |server: &Server, id: &str| {
        let authorization = server.authorization();
        let fields = [("Authorization", authorization.as_str()), ("Idempotency-Key", id)];
        let made = server.connect().ask(&request("POST", "/todos", &fields, r#"{"title":"made"}"#));
        assert_eq!(made.accepted(), id);
    };
    let status = |client: &mut Client, id: &str| client.ask(&get(&format!("/todos/{id}"))).status;
    let (first, second) = (hours_ago(2), hours_ago(1));
    create(&server, &first);
    create(&server, &second);
    // Memory holds the newest alone, so the store is asked for all that is older.
    let server = server.stop_and_restart(|options| options.flag("--snapshot-todos-max", 1));
    let mut client = server.connect();
    assert_eq!(status(&mut client, &first), 200, "from the file");
    let put_behind = |id: &str| {
        let behind = rusqlite::Connection::open(server.data_file()).expect("the data file");
        let copied = behind.execute(
            "INSERT INTO todos SELECT unhex(replace(?1, '-', '')), part, 0, deleted, completed, updated_at, born, title,
                 description FROM todos WHERE id = unhex(replace(?2, '-', ''))",
            [id, &first],
        );
        assert_eq!(copied.expect("a row"), 1);
    };
    let (between, older) = (hyphenated(ItemId::from_parts(wall_ms() - 5_400_000, 1)), hours_ago(5));
    put_behind(&between);
    put_behind(&older);
    assert_eq!(status(&mut client, &between), 200, "the store is asked, and has it");
    assert_eq!(status(&mut client, &older), 404, "and not for this one");
    let chosen = hours_ago(4);
    create(&server, &chosen);
    assert_eq!(status(&mut client, &chosen), 200, "who has read a 202 sees the write");
    assert_eq!(status(&mut client, &older), 404, "still older than all that came through the server");
}

fn read(client: &mut Client, target: &str) -> Option<Todo> {
    let response = client.ask(&get(target));
    match response.status {
        200 => Some(Todo::one(&response.body)),
        _ => {
            assert_eq!((response.status, response.problem().as_str()), (404, "not-found"), "{response}");
            None
        }
    }
}

fn patch(server: &Server, target: &str, body: &str) -> Vec<u8> {
    let authorization = server.authorization();
    let fields = [("Authorization", authorization.as_str()), ("Content-Type", "application/merge-patch+json")];
    request("PATCH", target, &fields, body)
}

fn hyphenated(id: ItemId) -> String {
    String::from_utf8_lossy(&id.hyphenated()).into_owned()
}
