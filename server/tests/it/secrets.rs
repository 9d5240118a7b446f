//! No secret comes out: not by a log at its most talkative, a page, an answer, a summary or the process's arguments.

use crate::harness::{Options, get, request};
use todo_server::clock::wall_ms;
use todo_server::http::bearer::Keys;

const MARKED: &str = "marked-secret-0123456789abcdef-current";
const MARKED_PREVIOUS: &str = "marked-secret-0123456789abcdef-previous";

#[test]
fn no_secret_comes_out() {
    let server = Options::default()
        .flag("--http-port", 0)
        .flag("--log", "trace")
        .variable("JWT_SECRET", MARKED)
        .variable("JWT_SECRET_PREVIOUS", MARKED_PREVIOUS)
        .start();
    let token = Keys::new(MARKED.as_bytes()).sign("somebody", wall_ms() / 1_000, 60).expect("a token");
    let (claims, signature) = token.rsplit_once('.').expect("three parts");
    let mut client = server.connect();
    let mut said = server.summary.clone();
    let bad = format!("Bearer {claims}.{}", signature.chars().rev().collect::<String>());
    for (authorization, status) in [(format!("Bearer {token}"), 202), (bad, 401), ("Bearer x".to_owned(), 401)] {
        let response = client.ask(&request("POST", "/todos", &[("Authorization", &authorization)], r#"{"title":"t"}"#));
        assert_eq!(response.status, status);
        said.push_str(&String::from_utf8_lossy(&response.body));
        client = server.connect();
    }
    for page in ["/metrics", "/ready", "/health", "/todos?limit=10"] {
        said.push_str(&String::from_utf8_lossy(&client.ask(&get(page)).body));
    }
    #[cfg(target_os = "linux")]
    said.push_str(
        &std::fs::read_to_string(format!("/proc/{}/cmdline", server.pid().as_raw_nonzero())).expect("procfs"),
    );
    let (status, log) = server.stop();
    assert!(status.success(), "{log}");
    assert!(log.contains("SIGTERM"), "it talks, else this proves nothing: {log}");
    said.push_str(&log);
    for secret in ["marked-secret", signature] {
        assert!(!said.contains(secret), "{secret} came out");
    }
}

/// Who gives a secret as an argument is told that others can read it, without its being repeated.
#[test]
fn a_secret_among_the_arguments_is_warned_of() {
    let (_, log) = Options::default().flag("--http-port", 0).flag("--jwt-secret", MARKED).start().stop();
    assert!(log.contains("JWT_SECRET_FILE") && !log.contains(MARKED), "{log}");
    let (_, log) = Options::default().flag("--http-port", 0).variable("JWT_SECRET", MARKED).start().stop();
    assert!(!log.contains("JWT_SECRET_FILE"), "{log}");
}
