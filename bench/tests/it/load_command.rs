//! `todo-bench load` as a script sees it: its exit code, its JSON, and what it says when it is refused.

use crate::exchanges::{Asked, Said, response, serve};
use serde_json::Value;
use std::process::{Command, Output};

fn load(arguments: &[&str]) -> Output {
    load_for("0.2", arguments)
}

fn load_for(seconds: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_todo-bench"));
    command.args(["load", "--connections", "2", "--depth", "2", "--seconds", seconds, "--warmup", "0.05", "--json"]);
    command.args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn todos(asked: &Asked) -> Said {
    match asked.target.as_str() {
        "/chunked" => {
            Said::Answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n".to_vec())
        }
        "/broken" => Said::Answer(response("200 OK", b"[")),
        "/rarely" if asked.index % 10 == 9 => Said::Answer(response("503 Busy", b"")),
        "/none" => Said::Answer(response("404 Not Found", b"")),
        _ if asked.method == "HEAD" => Said::Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_vec()),
        _ if asked.method == "POST" && asked.body != b"{}" => Said::Answer(response("400 Bad Request", b"")),
        _ => Said::Answer(response("200 OK", b"[]")),
    }
}

#[test]
fn the_exit_code_and_the_json_say_how_it_went() {
    let base = format!("http://{}", serve(todos));
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let body = write("body", "{}");
    let mix = write("mix", "8 GET /a browser-head\n1 POST /a body=body\n1 GET /none status=404\n");
    let table: [(&str, &[&str], i32, &str); 17] = [
        ("/a", &[], 0, "blocks"),
        ("/a", &["--json-every", "1"], 0, "exchanges"),
        ("/a", &["--trickle"], 0, "blocks"),
        ("/a", &["--rate", "500"], 0, "blocks"),
        ("/chunked", &["--json-every", "1"], 0, "exchanges"),
        ("/a", &["--method", "HEAD"], 0, "exchanges"),
        ("/a", &["--method", "POST", "--body", &body], 0, "exchanges"),
        ("/a", &["--method", "POST"], 1, "exchanges"),
        ("/a", &["--mix", &mix], 0, "exchanges"),
        ("/a", &["--requests-per-connection", "3"], 0, "exchanges"),
        ("/a", &["--slow-readers", "2", "--slow-bytes-per-second", "100"], 0, "blocks"),
        ("/none", &[], 1, "exchanges"),
        ("/none", &["--status", "404"], 0, "blocks"),
        ("/broken", &["--json-every", "1"], 1, "exchanges"),
        ("/rarely", &["--reconnect"], 1, "exchanges"),
        ("/rarely", &["--fail-if", "non-2xx>50%"], 0, "exchanges"),
        ("/rarely", &["--fail-if", "non-2xx>1%"], 1, "exchanges"),
    ];
    for (target, arguments, code, generator) in table {
        let url = base.clone() + target;
        let output = load(&[&["--url", &url], arguments].concat());
        let (summary, errors) = (json(&output), errors(&output));
        assert_eq!(output.status.code(), Some(code), "{target} {arguments:?}: {summary:#} {errors}");
        assert_eq!(summary["generator"], generator, "{target} {arguments:?}");
        assert!(summary["block_latency_us"]["p9999"].as_f64().unwrap() >= 0.0);
        let is_good = code == 0;
        assert_eq!(summary["responses"].as_u64().unwrap() > 0, is_good || target == "/rarely");
        assert!(!is_good || summary["throughput_is_its_own"].is_boolean());
    }
}

#[test]
fn a_condition_fails_the_run_and_says_why() {
    let url = format!("http://{}/a", serve(todos));
    let table: [(&[&str], i32, &str); 4] = [
        (&["--fail-if", "p99>60s", "--fail-if", "errors>0"], 0, ""),
        (&["--fail-if", "p99>60s", "--fail-if", "p50<1s"], 1, "failed by p50<1s: "),
        (&["--fail-if", "errors>=0"], 1, "failed by errors>=0: 0"),
        (&["--fail-if", "non-2xx<50%"], 1, "failed by non-2xx<50%: 0.000 %"),
    ];
    for (arguments, code, words) in table {
        let output = load(&[&["--url", &url], arguments].concat());
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", errors(&output));
        assert!(errors(&output).contains(words), "{arguments:?}: {}", errors(&output));
        assert_eq!(json(&output)["conditions"].as_array().unwrap().len(), arguments.len() / 2);
    }
    // Whoever was the limit, so many are never reached; whether that is the server's fault depends on who was.
    let output = load(&["--url", &url, "--fail-if", "rps<1e12"]);
    let expected = if json(&output)["throughput_is_its_own"] == true { 1 } else { 3 };
    assert_eq!(output.status.code(), Some(expected), "{}", errors(&output));
}

#[test]
fn a_line_a_second_where_it_is_asked_for() {
    let url = format!("http://{}/a", serve(todos));
    let errors_of = |arguments: &[&str]| errors(&load_for("1.5", &[&["--url", &url], arguments].concat()));
    let told = errors_of(&["--progress"]);
    assert!(told.contains("answers/s, p99 so far") && told.contains("0 errors"), "{told}");
    assert!(told.lines().count() <= 2, "{told}");
    // Standard error is no terminal here.
    assert_eq!(errors_of(&[]), "");
}

#[test]
fn what_cannot_run_is_refused_with_a_remedy() {
    let url = format!("http://{}/a", serve(todos));
    let directory = tempfile::tempdir().unwrap();
    let mix = directory.path().join("mix");
    std::fs::write(&mix, "1 GET /a\nnonsense\n").unwrap();
    let mix = mix.to_str().unwrap();
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{free}/");
    let table: [(&[&str], &str); 10] = [
        (&["--url", &nobody], "is the server running"),
        (&["--url", "https://localhost/"], "TLS"),
        (&["--url", "http://::1:80/"], "brackets"),
        (&["--url", &url, "--fail-if", "p99>5"], "a condition is like"),
        (&["--url", &url, "--header", "Content-Length: 3"], "made from the body"),
        (&["--url", &url, "--header", "Connection: close"], "--requests-per-connection"),
        (&["--url", &url, "--headers", "/nowhere/at/all"], "reading"),
        (&["--url", &url, "--mix", mix], "line 2 of the mix"),
        (&["--url", &url, "--slow-readers", "1"], "slow-bytes-per-second"),
        (&["--url", &url, "--depth", "0"], "depth is 1 to"),
    ];
    for (arguments, words) in table {
        let output = Command::new(env!("CARGO_BIN_EXE_todo-bench")).arg("load").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(errors(&output).contains(words), "{arguments:?}: {}", errors(&output));
        assert!(output.stdout.is_empty());
    }
}
