//! Pages of other origins: who may read an answer from a browser, and that nobody else notices.

use crate::harness::{Options, Server, get, with_fields};

const ALLOWED: &str = "https://app.example";

fn server() -> Server {
    Options::new().variable("CORS_ORIGINS", format!("{ALLOWED},http://localhost:3000")).start()
}

/// Lists, items, refusals, writes and deferred pages say it to an allowed origin, and to no other.
#[test]
fn an_allowed_origin_is_told_so_by_every_answer() {
    let server = server();
    let mut client = server.connect();
    let first = client.ask(&get("/todos?limit=1")).json()[0]["id"].as_str().expect("an id").to_owned();
    let item = format!("/todos/{first}");
    for target in
        ["/todos?limit=10", "/todos", item.as_str(), "/todos?limit=x", "/nothing", "/ready", "/", "/todos?limit=10"]
    {
        for origin in [ALLOWED, "https://evil.example"] {
            let answer = client.ask(&with_fields("GET", target, &[("Origin", origin)]));
            let expected = (origin == ALLOWED).then_some(ALLOWED);
            assert_eq!(answer.field("Access-Control-Allow-Origin"), expected, "{target}");
            assert_eq!(answer.lines.contains(&"Vary: Origin".to_owned()), expected.is_some(), "{target}");
        }
        // Between them the plain answer is what it always was.
        assert_eq!(client.ask(&get(target)).field("Access-Control-Allow-Origin"), None, "{target}");
    }
    let authorization = server.authorization();
    let fields = [("Authorization", authorization.as_str()), ("Origin", ALLOWED)];
    let answer = client.ask(&with_fields("DELETE", &item, &fields));
    assert_eq!((answer.status, answer.field("Access-Control-Allow-Origin")), (202, Some(ALLOWED)));
    let etag = client.ask(&get("/todos?limit=3")).field("ETag").expect("a tag").to_owned();
    let answer = client.ask(&with_fields("GET", "/todos?limit=3", &[("If-None-Match", &etag), ("Origin", ALLOWED)]));
    assert_eq!((answer.status, answer.field("Access-Control-Allow-Origin")), (304, Some(ALLOWED)));
}

#[test]
fn a_preflight_is_answered_once_for_two_hours() {
    let server = server();
    let ask = |origin| {
        let fields = [("Origin", origin), ("Access-Control-Request-Method", "PATCH")];
        server.connect().ask(&with_fields("OPTIONS", "/todos/x", &fields));
        server.connect().ask(&with_fields("OPTIONS", "/todos", &fields))
    };
    let allowed = ask(ALLOWED);
    assert_eq!(allowed.status, 204);
    assert_eq!(allowed.field("Access-Control-Allow-Origin"), Some(ALLOWED));
    assert!(allowed.field("Access-Control-Allow-Methods").expect("methods").contains("PATCH"));
    assert!(allowed.field("Access-Control-Allow-Headers").expect("fields").contains("Authorization"));
    assert_eq!(allowed.field("Access-Control-Max-Age"), Some("7200"));
    let names = allowed.field_names();
    assert_eq!(names.iter().filter(|name| **name == "Access-Control-Allow-Origin").count(), 1);
    assert_eq!(ask("https://evil.example").field("Access-Control-Allow-Origin"), None);
}

#[test]
fn without_configured_origins_nobody_is_told_anything() {
    let server = Server::start();
    let answer = server.connect().ask(&with_fields("GET", "/todos?limit=10", &[("Origin", ALLOWED)]));
    assert!(answer.field_names().iter().all(|name| !name.starts_with("Access-Control") && *name != "Vary"));
}
