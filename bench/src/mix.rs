//! A file of requests that are mixed.
//!
//! A line is `WEIGHT METHOD TARGET`, then in any order what is special about it:
//!
//! ```text
//! # reads of two sizes, and one write in a hundred
//! 80 GET /todos?limit=10
//! 19 GET /todos?limit=100 browser-head
//!  1 POST /todos headers=token.txt body=todo.json status=202
//! ```
//!
//! `headers=FILE` and `body=FILE` are looked for beside the mix; `status=NNN`, any 2xx without it; `browser-head` adds what
//! a browser sends; `no-newest` leaves the line out where newest ids are compared (a page further back, another order).

use crate::error::{Error, Result};
use crate::headers;
use crate::input;
use crate::limits::REQUEST_BODY_BYTES_MAX;
use crate::load::exchange::Request;
use crate::request;
use std::path::Path;

/// What all lines share.
pub struct MixBase<'a> {
    /// What Host says.
    pub host: &'a str,
    /// Header lines for every request.
    pub header_lines: &'a str,
    /// Where the files lie that lines name.
    pub directory: &'a Path,
}

/// The requests of a mix, in its order.
///
/// # Errors
/// The number of the first line that is none, and why.
pub fn parse(text: &str, base: &MixBase) -> Result<Vec<Request>> {
    let mut requests = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let request = parse_line(line, base);
        requests.push(request.map_err(|error| Error::Unusable(format!("line {} of the mix: {error}", index + 1)))?);
    }
    if requests.is_empty() {
        return Err(Error::Unusable("the mix has no request: a line is `WEIGHT METHOD TARGET`".into()));
    }
    Ok(requests)
}

fn parse_line(line: &str, base: &MixBase) -> Result<Request> {
    let refuse = |why: &str| Error::Unusable(format!("{line}: {why}"));
    let mut words = line.split_ascii_whitespace();
    let (Some(weight), Some(method), Some(target)) = (words.next(), words.next(), words.next()) else {
        return Err(refuse("a line is `WEIGHT METHOD TARGET`"));
    };
    let weight: u32 = weight.parse().map_err(|_| refuse("the weight is no whole number"))?;
    request::check_target(target)?;
    let mut header_lines = base.header_lines.to_owned() + "\n";
    let (mut body, mut expected, mut is_list) = (None, None, true);
    for word in words {
        match word.split_once('=') {
            Some(("headers", file)) => header_lines += &(input::text(&base.directory.join(file))? + "\n"),
            Some(("body", file)) if body.is_none() => {
                body = Some(input::bytes(&base.directory.join(file), REQUEST_BODY_BYTES_MAX)?);
            }
            Some(("status", status)) if expected.is_none() => expected = Some(status.parse()?),
            None if word == "browser-head" => header_lines += headers::BROWSER,
            None if word == "no-newest" => is_list = false,
            _ => {
                return Err(refuse(&format!(
                    "`{word}` is unknown or repeated: headers=FILE, body=FILE, status=NNN, browser-head or no-newest"
                )));
            }
        }
    }
    let field_lines = headers::field_lines(&header_lines)?;
    let bytes = request::with(method, base.host, target, &field_lines, body.as_deref())?;
    let request = Request::new(method, target, bytes);
    Ok(Request {
        weight,
        expected: expected.unwrap_or_default(),
        list: request.list.clone().filter(|_| is_list),
        ..request
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::exchange::{StatusExpected, Traffic};

    fn parse_in(directory: &Path, text: &str) -> Result<Vec<Request>> {
        parse(text, &MixBase { host: "host", header_lines: "A: 1", directory })
    }

    #[test]
    fn lines_become_requests() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("token"), "# a token\nAuthorization: Bearer abc\n").unwrap();
        std::fs::write(directory.path().join("todo"), "{\"title\":\"a\"}").unwrap();
        let text = "# all\n\n80 GET /todos?limit=10\n  19\tHEAD /todos browser-head \n\
                    1 POST /todos body=todo status=202 headers=token\n5 GET /todos?cursor=x no-newest\n";
        let requests = parse_in(directory.path(), text).unwrap();
        assert_eq!(requests[0].bytes, b"GET /todos?limit=10 HTTP/1.1\r\nHost: host\r\nA: 1\r\n\r\n");
        assert!(requests[1].bytes.len() > 400 && requests[1].is_head);
        assert_eq!(
            requests[2].bytes,
            b"POST /todos HTTP/1.1\r\nHost: host\r\nA: 1\r\nAuthorization: Bearer abc\r\nContent-Length: 13\r\n\r\n{\"title\":\"a\"}"
        );
        assert_eq!(requests.iter().map(|request| request.weight).collect::<Vec<_>>(), [80, 19, 1, 5]);
        let expected = [StatusExpected::Success, StatusExpected::Success, StatusExpected::Exactly(202)];
        assert!(requests.iter().zip(expected).all(|(request, expected)| request.expected == expected));
        let lists: Vec<_> = requests.iter().map(|request| request.list.as_deref()).collect();
        assert_eq!(lists, [Some("/todos"), None, None, None]);
        assert!(Traffic::new(requests).is_ok());
    }

    #[test]
    fn what_is_no_line_is_refused_by_its_number() {
        let table = [
            ("", "no request"),
            ("# nothing", "no request"),
            ("80 GET", "WEIGHT METHOD TARGET"),
            ("many GET /", "whole number"),
            ("-1 GET /", "whole number"),
            ("1 GET todos", "begins with /"),
            ("1 GET /#a", "fragment"),
            ("1 GE(T /", "method"),
            ("1 GET / status=99", "status"),
            ("1 GET / status=200 status=201", "repeated"),
            ("1 GET / colour=red", "unknown"),
            ("1 GET / body=none", "none"),
        ];
        for (line, expected) in table {
            let error = parse_in(Path::new("."), &format!("# first\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains(expected), "{line}: {error}");
            assert!(expected == "no request" || error.contains("line 2"), "{line}: {error}");
        }
    }
}
