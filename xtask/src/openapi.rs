//! `docs/openapi.yaml` says what the server does: each operation is called until every documented status has been
//! seen, and no other one; headers and bodies are compared with what is documented.
//!
//! `openapi.py` validates the document, turns it into JSON, and checks the bodies against its schemas.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;

use serde_json::{Value, json};

use crate::command::{command, root, scratch, succeed};
use crate::http::{self, Response};
use crate::libtest::Programs;
use crate::report::Tally;
use crate::server::Server;
use crate::tools;

/// The document as the server gives it.
const SERVED: &str = "server/src/http/page_files/openapi.json";
const METHODS: &[&str] = &["get", "post", "put", "patch", "delete"];
/// A UUIDv7 of 1970: well formed, and older than any todo.
const ABSENT_ID: &str = "00000000-0001-7000-8000-000000000000";
/// Well formed, but of version 4: names nothing.
const FOREIGN_ID: &str = "00000000-0000-4000-8000-000000000000";
/// Longer than the head bound of 8 KiB.
const OVERLONG_BYTES: usize = 9_000;
/// One more than the body bound of 64 KiB.
const OVERLONG_BODY_BYTES: usize = 64 * 1024 + 1;
/// No file of the server may grow beyond this in the last scenario (KiB, as bash's `ulimit -f` counts).
const FILE_KIB_MAX: u32 = 1024;
/// Far more requests than may be made in a second, where one may.
const REQUESTS_MAX: u32 = 200;
/// Far more writes of 40 KB than fit into that file.
const WRITES_MAX: u32 = 500;

/// Validates the document and compares it with a running server.
pub fn check(programs: &Programs) -> Result<Tally, String> {
    let server = programs.server.as_deref().ok_or("the tests have built no todo-server")?;
    let directory = scratch("openapi")?;
    let (document, exchanges) = (directory.join("openapi.json"), directory.join("exchanges.json"));
    let script = root().join("xtask/src/openapi.py");
    let mut convert = command(tools::python(), &[]);
    succeed(convert.arg(&script).arg("convert").arg(root().join("docs/openapi.yaml")).arg(&document))?;
    let text = std::fs::read_to_string(&document).map_err(|error| format!("{}: {error}", document.display()))?;
    let document_read = serde_json::from_str(&text).map_err(|error| format!("{}: {error}", document.display()))?;
    is_served(&document_read, &document)?;
    let contract = Contract::new(&document_read)?;

    let mut seen = Seen::default();
    healthy(server, &contract, &mut seen)?;
    limited(server, &contract, &mut seen)?;
    unable_to_write(server, &contract, &mut seen)?;
    draining(server, &mut seen)?;

    let mut faults = contract.compare(&seen);
    std::fs::write(&exchanges, seen.to_json(&contract).to_string())
        .map_err(|error| format!("{}: {error}", exchanges.display()))?;
    let mut bodies = command(tools::python(), &[]);
    if let Err(reason) = succeed(bodies.arg(&script).arg("bodies").arg(&document).arg(&exchanges)) {
        faults.push(reason);
    }
    if faults.is_empty() { Ok(Tally::ONE) } else { Err(faults.join("\n")) }
}

/// `/openapi.json` is a file of the server's, so that nothing has to be turned into JSON when it is built.
fn is_served(document: &Value, made: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(root().join(SERVED)).map_err(|error| format!("{SERVED}: {error}"))?;
    let served: Value = serde_json::from_str(&text).map_err(|error| format!("{SERVED}: {error}"))?;
    if served == *document {
        return Ok(());
    }
    Err(format!("{SERVED} is not what docs/openapi.yaml says: cp {} {SERVED}", made.display()))
}

/// `(path template, method in lower case, status)`.
type Case = (String, String, u16);

/// What the document promises.
struct Contract {
    responses: BTreeMap<Case, Value>,
}

impl Contract {
    fn new(document: &Value) -> Result<Self, String> {
        let mut responses = BTreeMap::new();
        for (path, item) in members(&document["paths"]) {
            for method in METHODS.iter().filter(|method| !item[**method].is_null()) {
                for (status, response) in members(&item[*method]["responses"]) {
                    let Ok(code) = status.parse() else { continue };
                    let response = resolve(document, response)?;
                    responses.insert((path.clone(), (*method).to_owned(), code), response.clone());
                }
            }
        }
        if responses.is_empty() { Err("the document names no response".to_owned()) } else { Ok(Self { responses }) }
    }

    /// The operations, as `(path, method)`.
    fn operations(&self) -> BTreeSet<(&str, &str)> {
        self.responses.keys().map(|(path, method, _)| (path.as_str(), method.as_str())).collect()
    }

    fn statuses(&self, path: &str, method: &str) -> impl Iterator<Item = u16> {
        self.responses.keys().filter(move |case| case.0 == path && case.1 == method).map(|case| case.2)
    }

    fn methods(&self, path: &str) -> BTreeSet<String> {
        let operations = self.operations();
        operations.iter().filter(|operation| operation.0 == path).map(|operation| operation.1.to_uppercase()).collect()
    }

    /// What differs between the document and the answers.
    fn compare(&self, seen: &Seen) -> Vec<String> {
        let mut faults = seen.faults.clone();
        for (case, documented) in &self.responses {
            let (path, method, status) = case;
            let name = format!("{} {path}, {status}", method.to_uppercase());
            let answers = seen.answers.get(case).map_or(&[][..], Vec::as_slice);
            match documented["x-needs"].as_str() {
                Some(reason) if answers.is_empty() => println!("not exercised here: {name}: it needs {reason}"),
                None if answers.is_empty() => faults.push(format!("{name}: documented, never seen")),
                Some(_) | None => {}
            }
            let faulty = answers.iter().filter_map(|answer| differs(documented, answer).err());
            faults.extend(faulty.map(|reason| format!("{name}: {reason}")));
        }
        let undocumented = seen.answers.keys().filter(|case| !self.responses.contains_key(*case));
        faults.extend(
            undocumented.map(|(path, method, status)| {
                format!("{} {path}, {status}: seen, not documented", method.to_uppercase())
            }),
        );
        faults
    }
}

/// What the server answered.
#[derive(Default)]
struct Seen {
    answers: BTreeMap<Case, Vec<Response>>,
    faults: Vec<String>,
}

impl Seen {
    fn note(&mut self, path: &str, method: &str, expected: u16, answer: Result<Response, String>) {
        match answer {
            Ok(response) => {
                if response.status != expected {
                    let method = method.to_uppercase();
                    self.faults.push(format!("{method} {path}: {} instead of {expected}", response.status));
                }
                let case = (path.to_owned(), method.to_owned(), response.status);
                self.answers.entry(case).or_default().push(response);
            }
            Err(reason) => self.faults.push(format!("{} {path}, {expected}: {reason}", method.to_uppercase())),
        }
    }

    /// The JSON bodies with where their schema stands, for the script.
    fn to_json(&self, contract: &Contract) -> Value {
        let mut list = Vec::new();
        for (case, answers) in &self.answers {
            let Some(documented) = contract.responses.get(case) else { continue };
            for answer in answers {
                let media_type = answer.header("content-type").unwrap_or_default();
                let schema = &documented["content"][media_type]["schema"];
                if media_type.ends_with("json") && !schema.is_null() {
                    let body = String::from_utf8_lossy(&answer.body);
                    list.push(json!({ "case": case, "schema": schema, "body": body }));
                }
            }
        }
        Value::Array(list)
    }
}

/// What requests are made with.
struct Known {
    token: String,
    /// The todo that reads, replacements and patches name.
    kept: String,
    /// The one that is deleted, so that no other request depends on the order.
    doomed: String,
}

impl Known {
    fn ask(program: &Path, directory: &Path, server: &Server) -> Result<Self, String> {
        let port = server.port;
        let token = server.token(program, directory)?;
        let list = http::exchange(port, b"GET /todos?limit=2 HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let list: Value = serde_json::from_slice(&list.body).map_err(|error| format!("GET /todos?limit=2: {error}"))?;
        let id = |index: usize| list[index]["id"].as_str().map(str::to_owned);
        let (kept, doomed) = id(0).zip(id(1)).ok_or_else(|| format!("GET /todos?limit=2: {list}"))?;
        Ok(Self { token, kept, doomed })
    }
}

/// One request about to be made.
struct Request<'a> {
    method: &'a str,
    target: String,
    version: &'a str,
    headers: Vec<String>,
    body: &'a [u8],
}

impl Request<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut head =
            format!("{} {} {}\r\nHost: localhost\r\n", self.method.to_uppercase(), self.target, self.version);
        for line in &self.headers {
            head.push_str(line);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        [head.as_bytes(), self.body].concat()
    }
}

/// All but 429 and 503, on a server with nothing wrong.
fn healthy(program: &Path, contract: &Contract, seen: &mut Seen) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let server = Server::start(program, directory.path(), &[("SEED_TODOS", "1000")])?;
    let port = server.port;
    let known = Known::ask(program, directory.path(), &server)?;
    // Their deadline is ten seconds away: begun first, read last.
    let unfinished = begin_unfinished(port, contract)?;
    for (path, method) in contract.operations() {
        for status in contract.statuses(path, method).filter(|status| !matches!(status, 408 | 429 | 503)) {
            let request = request_for(path, method, status, &known);
            seen.note(path, method, status, http::exchange(port, &request.bytes()));
        }
    }
    let paths: BTreeSet<&str> = contract.operations().iter().map(|operation| operation.0).collect();
    for path in paths {
        seen.faults.extend(check_methods(port, path, &known.kept, &contract.methods(path)));
    }
    for (path, method, answer) in unfinished {
        let answer = answer.join().map_err(|_| "a reader has panicked".to_owned())?;
        seen.note(&path, &method, 408, answer);
    }
    Ok(())
}

/// Whoever asks more than once a second is refused, whatever he asks.
fn limited(program: &Path, contract: &Contract, seen: &mut Seen) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let settings = [("SEED_TODOS", "10"), ("REQUESTS_PER_SECOND", "1"), ("LIMIT_BURST_SECONDS", "1")];
    let server = Server::start(program, directory.path(), &settings)?;
    let token = server.token(program, directory.path())?;
    let known = Known { token, kept: ABSENT_ID.to_owned(), doomed: ABSENT_ID.to_owned() };
    for (path, method) in contract.operations() {
        let request = request_for(path, method, 200, &known).bytes();
        let refused = |answer: &Result<Response, String>| answer.as_ref().map_or(true, |answer| answer.status == 429);
        let answer = (0..REQUESTS_MAX).map(|_| http::exchange(server.port, &request)).find(refused);
        seen.note(path, method, 429, answer.unwrap_or_else(|| Err("it is never refused".to_owned())));
    }
    Ok(())
}

/// A store that can no longer write: writes are 503, reads and readiness go on.
fn unable_to_write(program: &Path, contract: &Contract, seen: &mut Seen) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let mut limited = Command::new("bash");
    // Ignored, the signal turns into an error of write(2), as a full disk would be.
    limited.args(["-c", &format!("trap '' XFSZ; ulimit -f {FILE_KIB_MAX}; exec \"$0\"")]).arg(program);
    limited.env("SEED_TODOS", "10");
    let server = Server::start_command(limited, directory.path())?;
    let port = server.port;
    let known = Known::ask(program, directory.path(), &server)?;
    let body = json!({ "title": "one of many", "description": "\u{1F600}".repeat(10_000) }).to_string();
    let large = Request { body: body.as_bytes(), ..request_for("/todos", "post", 202, &known) };
    let large = Request { headers: write_headers(&known.token, large.body, "application/json"), ..large };
    let refused = |answer: &Result<Response, String>| answer.as_ref().map_or(true, |response| response.status == 503);
    let answer = (0..WRITES_MAX).map(|_| http::exchange(port, &large.bytes())).find(refused);
    seen.note("/todos", "post", 503, answer.unwrap_or_else(|| Err("the file never became too large".to_owned())));
    let writes = contract.operations().into_iter().filter(|(_, method)| *method != "get");
    for (path, method) in writes.filter(|(path, method)| contract.statuses(path, method).any(|status| status == 503)) {
        let request = request_for(path, method, 202, &known);
        seen.note(path, method, 503, http::exchange(port, &request.bytes()));
    }
    for path in ["/todos", "/ready"] {
        let request = request_for(path, "get", 200, &known);
        seen.note(path, "get", 200, http::exchange(port, &request.bytes()));
    }
    Ok(())
}

/// A request begun before SIGTERM is answered, and says that the server is going.
fn draining(program: &Path, seen: &mut Seen) -> Result<(), String> {
    let directory = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let mut server = Server::start(program, directory.path(), &[("SEED_TODOS", "10")])?;
    let stream = http::connect(server.port)?;
    let send = |bytes: &[u8]| (&stream).write_all(bytes).map_err(|error| format!("sending: {error}"));
    // In one piece, so that the answer to the first tells that the server has the beginning of the second.
    send(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /ready HTTP/1.1\r\nHost: localhost\r\n")?;
    http::read_response(&stream, false)?;
    server.terminate()?;
    server.wait_until_refusing()?;
    send(b"\r\n")?;
    seen.note("/ready", "get", 503, http::read_response(&stream, false));
    let status = server.wait()?;
    if status.success() { Ok(()) } else { Err(format!("after SIGTERM the server ended with {status}")) }
}

/// The request that should be answered with `status`.
fn request_for<'a>(path: &str, method: &'a str, status: u16, known: &Known) -> Request<'a> {
    let id = if status == 404 && method == "get" {
        ABSENT_ID
    } else if status == 404 {
        FOREIGN_ID
    } else if method == "delete" {
        &known.doomed
    } else {
        &known.kept
    };
    let name = if status == 404 { "no-such-problem" } else { "not-found" };
    let (body, media_type): (&[u8], &str) = match method {
        "post" | "put" => (br#"{"title":"Water the plants"}"#, "application/json"),
        "patch" => (br#"{"completed":true}"#, "application/merge-patch+json"),
        _ => (b"", ""),
    };
    let headers = if method == "get" { Vec::new() } else { write_headers(&known.token, body, media_type) };
    let mut request = Request {
        method,
        target: path.replace("{id}", id).replace("{name}", name),
        version: "HTTP/1.1",
        headers,
        body,
    };
    if path == "/todos" && method == "get" {
        request.target.push_str("?limit=10");
    }
    let unread = |request: &mut Request<'_>, line: String| {
        // The answer comes without the body having been read.
        request.headers.retain(|header| !header.starts_with("Content-"));
        request.headers.push(line);
        request.body = b"";
    };
    match status {
        304 => request.headers.push("If-None-Match: *".to_owned()),
        400 => request.headers.push("Host: twice".to_owned()),
        401 => request.headers.retain(|header| !header.starts_with("Authorization")),
        413 => unread(&mut request, format!("Content-Length: {OVERLONG_BODY_BYTES}")),
        414 => request.target.push_str(&format!("?pad={}", "x".repeat(OVERLONG_BYTES))),
        415 => {
            request.headers.retain(|header| !header.starts_with("Content-Type"));
            request.headers.push("Content-Type: text/plain".to_owned());
        }
        417 => request.headers.push("Expect: the-unexpected".to_owned()),
        431 => request.headers.push(format!("X-Pad: {}", "x".repeat(OVERLONG_BYTES))),
        501 => unread(&mut request, "Transfer-Encoding: gzip, chunked".to_owned()),
        505 => request.version = "HTTP/2.0",
        _ => {}
    }
    request
}

fn write_headers(token: &str, body: &[u8], media_type: &str) -> Vec<String> {
    let mut headers = vec![format!("Authorization: Bearer {token}")];
    if !body.is_empty() {
        headers.push(format!("Content-Type: {media_type}"));
        headers.push(format!("Content-Length: {}", body.len()));
    }
    headers
}

/// Opens a connection for each operation that documents 408 and leaves the head unfinished.
#[expect(clippy::type_complexity, reason = "named by its only caller at once")]
fn begin_unfinished(
    port: u16,
    contract: &Contract,
) -> Result<Vec<(String, String, JoinHandle<Result<Response, String>>)>, String> {
    let mut readers = Vec::new();
    for (path, method, _) in contract.responses.keys().filter(|case| case.2 == 408) {
        let mut stream = http::connect(port)?;
        let target = path.replace(['{', '}'], "");
        let request = format!("{} {target} HTTP/1.1\r\n", method.to_uppercase());
        stream.write_all(request.as_bytes()).map_err(|error| format!("sending: {error}"))?;
        readers.push((path.clone(), method.clone(), std::thread::spawn(move || http::read_response(&stream, false))));
    }
    Ok(readers)
}

/// HEAD answers as GET does, OPTIONS and 405 name the documented methods, and unknown methods are 501.
fn check_methods(port: u16, path: &str, id: &str, documented: &BTreeSet<String>) -> Vec<String> {
    let target = path.replace("{id}", id).replace("{name}", "not-found");
    let call = |method: &str| {
        http::exchange(port, format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
    };
    let mut expected = documented.clone();
    expected.insert("OPTIONS".to_owned());
    if documented.contains("GET") {
        expected.insert("HEAD".to_owned());
    }
    let allow_is_right = |response: &Response| {
        let allow = response.header("allow").unwrap_or_default().split(',');
        allow.map(|method| method.trim().to_owned()).collect::<BTreeSet<_>>() == expected
    };
    let mut faults = Vec::new();
    let mut judge = |method: &str, right: &dyn Fn(&Response) -> bool| match call(method) {
        Ok(response) if right(&response) => {}
        Ok(response) => faults.push(format!("{method} {path}: {} {:?}", response.status, response.headers)),
        Err(reason) => faults.push(format!("{method} {path}: {reason}")),
    };
    judge("OPTIONS", &|response| matches!(response.status, 200 | 204) && allow_is_right(response));
    judge("BREW", &|response| response.status == 501);
    judge("TRACE", &|response| response.status == 405 && allow_is_right(response));
    for method in METHODS.iter().map(|method| method.to_uppercase()).filter(|method| !documented.contains(method)) {
        judge(&method, &|response| response.status == 405 && allow_is_right(response));
    }
    if documented.contains("GET") {
        judge("HEAD", &|response| response.status == 200 && response.header("content-length").is_some());
    }
    faults
}

/// Whether an answer keeps what is documented of its headers and media type; bodies are the script's work.
fn differs(documented: &Value, answer: &Response) -> Result<(), String> {
    for (name, header) in members(&documented["headers"]) {
        if header["required"] == true && answer.header(&name.to_ascii_lowercase()).is_none() {
            return Err(format!("no {name}"));
        }
    }
    let media_type = answer.header("content-type");
    let documented: Vec<&String> = members(&documented["content"]).map(|(media_type, _)| media_type).collect();
    match media_type {
        Some(media_type) if documented.iter().any(|other| *other == media_type) => Ok(()),
        None if documented.is_empty() => Ok(()),
        Some(_) | None => Err(format!("Content-Type {media_type:?}, documented {documented:?}")),
    }
}

/// The members of an object, none for anything else.
fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Follows `$ref` within the document, also those of a response's headers, which may be shared as well.
fn resolve(document: &Value, value: &Value) -> Result<Value, String> {
    let target = match value["$ref"].as_str() {
        Some(reference) => reference
            .strip_prefix('#')
            .and_then(|pointer| document.pointer(pointer))
            .ok_or_else(|| format!("{reference} leads nowhere"))?,
        None => value,
    };
    let mut resolved = target.clone();
    if let Some(headers) = resolved["headers"].as_object_mut() {
        for header in headers.values_mut() {
            *header = resolve(document, header)?;
        }
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract() -> Contract {
        Contract::new(&json!({
            "paths": { "/todos": {
                "summary": "not an operation",
                "get": { "responses": {
                    "200": { "$ref": "#/components/responses/list" },
                    "503": { "description": "rare", "x-needs": "a broken store" },
                    "default": {},
                } },
            } },
            "components": {
                "headers": { "tag": { "required": true } },
                "responses": { "list": {
                    "headers": { "ETag": { "$ref": "#/components/headers/tag" } },
                    "content": { "application/json": { "schema": { "type": "array" } } },
                } },
            },
        }))
        .expect("a contract")
    }

    fn answer(status: u16, headers: &[(&str, &str)]) -> Response {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Response { status, headers, body: b"[]".to_vec() }
    }

    #[test]
    fn what_was_seen_is_compared_with_what_is_documented() {
        let check = |answers: Vec<Response>, expected: &[&str]| {
            let mut seen = Seen::default();
            for response in answers {
                seen.note("/todos", "get", response.status, Ok(response));
            }
            assert_eq!(contract().compare(&seen), expected);
        };
        let right = || answer(200, &[("etag", "\"a\""), ("content-type", "application/json")]);
        check(vec![right()], &[]);
        check(vec![], &["GET /todos, 200: documented, never seen"]);
        check(vec![right(), answer(418, &[])], &["GET /todos, 418: seen, not documented"]);
        check(vec![answer(200, &[("content-type", "application/json")])], &["GET /todos, 200: no ETag"]);
        check(
            vec![answer(200, &[("etag", "\"a\""), ("content-type", "text/plain")])],
            &[r#"GET /todos, 200: Content-Type Some("text/plain"), documented ["application/json"]"#],
        );
    }

    #[test]
    fn an_unexpected_status_is_a_fault_even_when_documented() {
        let mut seen = Seen::default();
        seen.note("/todos", "get", 304, Ok(answer(200, &[])));
        seen.note("/todos", "get", 408, Err("silence".to_owned()));
        assert_eq!(seen.faults, ["GET /todos: 200 instead of 304", "GET /todos, 408: silence"]);
    }

    #[test]
    fn json_bodies_go_to_the_script_with_their_schema() {
        let mut seen = Seen::default();
        seen.note("/todos", "get", 200, Ok(answer(200, &[("content-type", "application/json")])));
        seen.note("/todos", "get", 503, Ok(answer(503, &[("content-type", "application/json")])));
        let expected = json!([{ "case": ["/todos", "get", 200], "schema": { "type": "array" }, "body": "[]" }]);
        assert_eq!(seen.to_json(&contract()), expected);
    }

    #[test]
    fn requests_are_made_for_a_status() {
        let known = Known { token: "TOKEN".to_owned(), kept: "KEPT".to_owned(), doomed: "DOOMED".to_owned() };
        let text = |path: &str, method: &str, status| {
            String::from_utf8(request_for(path, method, status, &known).bytes()).expect("text")
        };
        assert_eq!(text("/todos", "get", 200), "GET /todos?limit=10 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(text("/todos/{id}", "delete", 202).contains("DELETE /todos/DOOMED HTTP/1.1\r\n"));
        assert!(!text("/todos", "post", 401).contains("TOKEN"));
        assert!(text("/todos", "post", 413).ends_with("Content-Length: 65537\r\n\r\n"));
        assert!(text("/todos/{id}", "patch", 415).contains("PATCH /todos/KEPT "));
        assert!(text("/todos", "get", 505).contains(" HTTP/2.0\r\n"));
    }

    #[test]
    fn references_are_followed() {
        assert!(resolve(&json!({}), &json!({ "$ref": "#/nowhere" })).is_err());
        assert_eq!(contract().responses.len(), 2, "200 and 503; `default` is no status");
    }
}
