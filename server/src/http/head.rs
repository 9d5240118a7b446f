//! A request head: where it ends, and what it says (RFC 9112 2, 3, 5, 6.3 and 9.3).
//!
//! ```text
//! find the empty line, looking at new bytes only
//! split the lines into method, target, version and fields
//! for each field that matters here: note its value
//! check the target, then Host
//! decide how the body is framed, and whether the connection goes on
//! ```
//!
//! What the code adds to that:
//!
//! 1. A head of which two servers could think differently is refused, and the connection ends: that
//!    closes every way to smuggle a request past a proxy. So a bare CR or LF, a space before a colon, a
//!    folded line, a second length, a length beside chunked.
//! 2. `httparse` splits the lines, once a head. It lets through what is checked behind it: bare LF,
//!    empty lines in front, any byte in a target.
//! 3. The result borrows from the head and is read from it alone: no allocation, and equal bytes mean
//!    equal things, which is what lets a shard remember heads.

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use memchr::{memchr, memchr_iter};

use super::reject::Reject;
use super::syntax::{self, is_token, members};
use crate::limits::{REQUEST_FIELDS_MAX, REQUEST_HEAD_BYTES_MAX};

/// Where the head at the front of a buffer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// The empty line has not come.
    Partial {
        /// Whether more is here than the empty line that may precede a request: only then does the
        /// head's deadline run, and only then is there a request to answer 408.
        begun: bool,
    },
    /// `buffer[start..end]` is the head, its empty line included. `start` is 2 where an empty line
    /// preceded it (RFC 9112 2.2), else 0.
    Complete {
        /// 0 or 2.
        start: usize,
        /// `start < end <= start + REQUEST_HEAD_BYTES_MAX`, `end <= buffer.len()`
        end: usize,
    },
}

/// Looks for the end of the head at the front of `buffer`. `scanned` is the length that the same buffer
/// had at the last call that found it partial, or 0: bytes before it are not searched again.
///
/// # Errors
/// 414 or 431 where the head passes its bound, 400 as soon as a line ends in LF alone or the first byte
/// cannot begin a request. A peer that speaks another protocol is so told at once, not at the deadline.
pub fn find_end(buffer: &[u8], scanned: usize) -> Result<Find, Reject> {
    let start = if buffer.starts_with(b"\r\n") { 2 } else { 0 };
    match buffer.get(start) {
        None => return Ok(Find::Partial { begun: false }),
        Some(&first) if syntax::is(syntax::TOKEN, first) => {}
        Some(b'\r') if buffer == b"\r" => return Ok(Find::Partial { begun: false }),
        Some(b'\r' | b'\n') if start == 0 => return Err(Reject::LineEnding),
        Some(_) => return Err(Reject::RequestLine),
    }
    let window = buffer.len().min(start + REQUEST_HEAD_BYTES_MAX);
    let from = scanned.clamp(start, window);
    for line_feed in memchr_iter(b'\n', &buffer[from..window]).map(|index| from + index) {
        // The first byte is a token's, so there is one before the line feed; where that is a carriage
        // return, there is one before it too.
        if buffer[line_feed - 1] != b'\r' {
            return Err(Reject::LineEnding);
        }
        if buffer[line_feed - 2] == b'\n' {
            return Ok(Find::Complete { start, end: line_feed + 1 });
        }
    }
    if window < start + REQUEST_HEAD_BYTES_MAX {
        return Ok(Find::Partial { begun: true });
    }
    match memchr(b'\n', &buffer[start..window]) {
        None => Err(Reject::UriTooLong),
        Some(_) => Err(Reject::HeadTooLarge),
    }
}

/// Whether the request at the front of `buffer`, complete or not, is a HEAD: then its answer has no body
/// even where the head was refused.
pub fn asks_head_only(buffer: &[u8]) -> bool {
    buffer.strip_prefix(b"\r\n").unwrap_or(buffer).starts_with(b"HEAD ")
}

/// One request head, understood. Borrows from its bytes.
#[derive(Clone, Debug)]
pub struct Head<'a> {
    /// The method, as far as it is known here.
    pub method: Method,
    /// The version of the request.
    pub version: Version,
    /// Which of the four forms the target has.
    pub form: TargetForm,
    /// The host the request is for, with its port where one is given: the target's, else that of Host.
    /// Empty where HTTP/1.0 named none.
    pub authority: &'a [u8],
    /// The path, percent-encoded, beginning with a slash. Empty for `*` and a bare authority.
    pub path: &'a [u8],
    /// What follows the question mark, percent-encoded; empty without one.
    pub query: &'a [u8],
    /// How the body is framed.
    pub framing: Framing,
    /// Whether the connection goes on after the answer (RFC 9112 9.3).
    pub keep_alive: bool,
    /// Whether the answer says so: HTTP/1.0 asked for it.
    pub keep_alive_echo: bool,
    /// Whether the client waits for a 100 before it sends the body (RFC 9110 10.1.1).
    pub expect_continue: bool,
    /// The first `Accept`.
    pub accept: Option<&'a [u8]>,
    /// `Authorization`.
    pub authorization: Option<&'a [u8]>,
    /// `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// Whether there is a `Content-Encoding`, whatever it says.
    pub content_coded: bool,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<&'a [u8]>,
    /// Whether there is an `If-Match` or `If-Unmodified-Since`.
    pub write_condition: bool,
    /// `Origin`; nothing where it is repeated.
    pub origin: Option<&'a [u8]>,
    /// Whether there is an `Upgrade`, which is ignored.
    upgrade: bool,
    /// The field lines where an `If-None-Match` is among them, else nothing.
    if_none_match_lines: &'a [u8],
}

/// A request method (RFC 9110 9.3, RFC 5789). Names are case-sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the method of that name")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Connect,
    /// TRACE or QUERY: methods of the standards that nothing here takes.
    Unused,
    /// A method nobody here knows.
    Other,
}

/// The version of a request that is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
}

/// The form of a request target (RFC 9112 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm {
    /// A path.
    Origin,
    /// An http URI, as a proxy gets it.
    Absolute,
    /// `*`, with OPTIONS: the server as a whole.
    Asterisk,
    /// Host and port, with CONNECT.
    Authority,
}

/// How the body is framed (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body: neither a length nor a coding is given.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks until the last one.
    Chunked,
}

impl<'a> Head<'a> {
    /// Reads one complete head, as [`find_end`] found it.
    ///
    /// # Errors
    /// The first fault found. The connection has to close: what follows a head that was not understood
    /// has no known meaning.
    pub fn parse(bytes: &'a [u8]) -> Result<Head<'a>, Reject> {
        let mut storage = [const { MaybeUninit::uninit() }; REQUEST_FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut storage) {
            // It takes LF alone for the end of a line, which RFC 9112 2.2 allows and which is how two
            // servers come to see two different heads. CR alone it takes for nothing.
            Ok(_) if !line_feeds_follow_carriage_returns(bytes) => return Err(Reject::LineEnding),
            Ok(httparse::Status::Complete(length)) if length == bytes.len() && bytes[0] != b'\r' => {}
            Ok(_) => return Err(Reject::RequestLine),
            Err(error) => return Err(explain(error, bytes)),
        }
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(Reject::RequestLine);
        };
        let method = Method::of(method.as_bytes());
        let version = if version == 0 { Version::Http10 } else { Version::Http11 };

        let mut fields = Fields::default();
        for field in &*request.headers {
            fields.take(field.name.as_bytes(), field.value)?;
        }
        let target = Target::parse(method, target.as_bytes())?;
        let host = fields.host(version)?;
        let framing = fields.framing(version)?;
        if fields.expect_other {
            return Err(Reject::Expectation);
        }
        let http11 = version == Version::Http11;
        let keep_alive = !fields.connection_close && (http11 || fields.connection_keep_alive);
        Ok(Head {
            method,
            version,
            form: target.form,
            authority: target.authority.unwrap_or(host),
            path: target.path,
            query: target.query,
            framing,
            keep_alive,
            keep_alive_echo: keep_alive && !http11,
            expect_continue: fields.expect_continue && http11,
            accept: fields.accept,
            authorization: fields.authorization,
            content_type: fields.content_type,
            content_coded: fields.content_coded,
            idempotency_key: fields.idempotency_key,
            write_condition: fields.write_condition,
            origin: if fields.origin_repeated { None } else { fields.origin },
            upgrade: fields.upgrade,
            if_none_match_lines: if fields.if_none_match { bytes } else { b"" },
        })
    }

    /// The values of `If-None-Match`, line by line, in order.
    pub fn if_none_match(&self) -> impl Iterator<Item = &'a [u8]> {
        // The head was accepted, so each line is name, colon, value, CRLF; the request line is skipped.
        self.if_none_match_lines.split(|&byte| byte == b'\n').skip(1).filter_map(|line| {
            let colon = memchr(b':', line)?;
            let value = line[colon + 1..].strip_suffix(b"\r")?;
            line[..colon].eq_ignore_ascii_case(b"if-none-match").then(|| syntax::trim(value))
        })
    }

    /// Whether there is an `If-None-Match`.
    pub fn has_condition(&self) -> bool {
        !self.if_none_match_lines.is_empty()
    }

    /// Whether a shard may remember this head: a GET that is answered from its target alone, over a
    /// connection that goes on as HTTP/1.1 does.
    pub fn is_plain(&self) -> bool {
        self.method == Method::Get
            && self.version == Version::Http11
            && self.keep_alive
            && self.framing == Framing::None
            && self.authorization.is_none()
            && !self.has_condition()
            && !self.expect_continue
            && !self.upgrade
    }
}

impl Method {
    fn of(name: &[u8]) -> Method {
        match name {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"PATCH" => Method::Patch,
            b"DELETE" => Method::Delete,
            b"OPTIONS" => Method::Options,
            b"CONNECT" => Method::Connect,
            b"TRACE" | b"QUERY" => Method::Unused,
            _ => Method::Other,
        }
    }
}

fn line_feeds_follow_carriage_returns(bytes: &[u8]) -> bool {
    memchr_iter(b'\n', bytes).all(|index| index > 0 && bytes[index - 1] == b'\r')
}

fn carriage_returns_precede_line_feeds(bytes: &[u8]) -> bool {
    memchr_iter(b'\r', bytes).all(|index| bytes.get(index + 1) == Some(&b'\n'))
}

#[cold]
fn explain(error: httparse::Error, bytes: &[u8]) -> Reject {
    if !line_feeds_follow_carriage_returns(bytes) || !carriage_returns_precede_line_feeds(bytes) {
        return Reject::LineEnding;
    }
    match error {
        httparse::Error::TooManyHeaders => Reject::TooManyFields,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => Reject::Field,
        // One error for a version that is not ours and for none at all; the third word tells.
        httparse::Error::Version => {
            let line = bytes.split(|&byte| byte == b'\r').next().unwrap_or_default();
            match line.splitn(3, |&byte| byte == b' ').nth(2) {
                Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => Reject::Version,
                _ => Reject::RequestLine,
            }
        }
        _ => Reject::RequestLine,
    }
}

/// The fields that matter here, as they come.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    connection_close: bool,
    connection_keep_alive: bool,
    content_length: Option<u64>,
    transfer_encoding: bool,
    chunked: bool,
    other_coding: bool,
    expect_continue: bool,
    expect_other: bool,
    accept: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    content_coded: bool,
    idempotency_key: Option<&'a [u8]>,
    if_none_match: bool,
    write_condition: bool,
    origin: Option<&'a [u8]>,
    origin_repeated: bool,
    upgrade: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Reject> {
        // The length of a name tells most fields apart, and most fields that come do not matter.
        let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
        match name.len() {
            4 if is(b"host") => once(&mut self.host, value, Reject::Host)?,
            // Only `/metrics` looks at it, whose clients send one.
            6 if is(b"accept") => self.accept = self.accept.or(Some(value)),
            6 if is(b"expect") => self.take_expect(value),
            6 if is(b"origin") => self.origin_repeated |= self.origin.replace(value).is_some(),
            7 if is(b"upgrade") => self.upgrade = true,
            8 if is(b"if-match") => self.write_condition = true,
            10 if is(b"connection") => self.take_connection(value)?,
            12 if is(b"content-type") => once(&mut self.content_type, value, Reject::RepeatedField)?,
            13 if is(b"authorization") => once(&mut self.authorization, value, Reject::RepeatedField)?,
            13 if is(b"if-none-match") => self.if_none_match = true,
            14 if is(b"content-length") => self.take_content_length(value)?,
            15 if is(b"idempotency-key") => once(&mut self.idempotency_key, value, Reject::RepeatedField)?,
            16 if is(b"content-encoding") => self.content_coded = true,
            17 if is(b"transfer-encoding") => self.take_transfer_encoding(value)?,
            19 if is(b"if-unmodified-since") => self.write_condition = true,
            _ => {}
        }
        Ok(())
    }

    fn take_connection(&mut self, value: &[u8]) -> Result<(), Reject> {
        for option in members(value).filter(|option| !option.is_empty()) {
            if !is_token(option) {
                return Err(Reject::Connection);
            }
            self.connection_close |= option.eq_ignore_ascii_case(b"close");
            self.connection_keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
        Ok(())
    }

    /// RFC 9112 6.3 lets a server take `5, 5` for 5. Refused here: who sends it is broken or tries.
    fn take_content_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let length = value
            .iter()
            .try_fold(0u64, |length, &digit| length.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0'))));
        match length {
            Some(length) if digits => once(&mut self.content_length, length, Reject::ContentLength),
            _ => Err(Reject::ContentLength),
        }
    }

    /// The codings of all lines are one list (RFC 9112 6.1). An empty member, which lists may have
    /// elsewhere, is refused: parsers disagree about `, chunked`.
    fn take_transfer_encoding(&mut self, value: &[u8]) -> Result<(), Reject> {
        self.transfer_encoding = true;
        for coding in members(value) {
            if self.chunked || !is_token(coding) {
                return Err(Reject::TransferEncoding);
            }
            if coding.eq_ignore_ascii_case(b"chunked") {
                self.chunked = true;
            } else {
                self.other_coding = true;
            }
        }
        Ok(())
    }

    fn take_expect(&mut self, value: &[u8]) {
        for expectation in members(value).filter(|expectation| !expectation.is_empty()) {
            if expectation.eq_ignore_ascii_case(b"100-continue") {
                self.expect_continue = true;
            } else {
                self.expect_other = true;
            }
        }
    }

    /// RFC 9112 3.2: one valid Host in HTTP/1.1, at most one before. It may be empty, which is what a
    /// client sends whose target has no authority.
    fn host(&self, version: Version) -> Result<&'a [u8], Reject> {
        match self.host {
            Some(host) if host.is_empty() || is_authority(host) => Ok(host),
            None if version == Version::Http10 => Ok(b""),
            _ => Err(Reject::Host),
        }
    }

    fn framing(&self, version: Version) -> Result<Framing, Reject> {
        match (self.transfer_encoding, self.content_length) {
            (false, None) => Ok(Framing::None),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (true, Some(_)) => Err(Reject::TransferEncoding),
            (true, None) if version == Version::Http10 || !self.chunked => Err(Reject::TransferEncoding),
            (true, None) if self.other_coding => Err(Reject::CodingUnknown),
            (true, None) => Ok(Framing::Chunked),
        }
    }
}

/// Fills `slot`, or says that it was full.
fn once<T>(slot: &mut Option<T>, value: T, repeated: Reject) -> Result<(), Reject> {
    if slot.replace(value).is_some() { Err(repeated) } else { Ok(()) }
}

struct Target<'a> {
    form: TargetForm,
    authority: Option<&'a [u8]>,
    path: &'a [u8],
    query: &'a [u8],
}

impl<'a> Target<'a> {
    fn parse(method: Method, target: &'a [u8]) -> Result<Target<'a>, Reject> {
        if target.starts_with(b"/") {
            return Target::of_path(TargetForm::Origin, None, target);
        }
        let asterisk = Target { form: TargetForm::Asterisk, authority: None, path: b"", query: b"" };
        if target == b"*" && method == Method::Options {
            return Ok(asterisk);
        }
        if let Some((b"://", rest)) = target
            .split_at_checked(4)
            .and_then(|(scheme, rest)| scheme.eq_ignore_ascii_case(b"http").then(|| rest.split_at_checked(3)).flatten())
        {
            let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if !is_authority(authority) {
                return Err(Reject::Target);
            }
            // RFC 9112 3.2.4: OPTIONS without a path asks about the server.
            if path.is_empty() && method == Method::Options {
                return Ok(Target { authority: Some(authority), ..asterisk });
            }
            return Target::of_path(TargetForm::Absolute, Some(authority), path);
        }
        if method == Method::Connect && is_authority(target) {
            return Ok(Target { form: TargetForm::Authority, authority: Some(target), path: b"", query: b"" });
        }
        Err(Reject::Target)
    }

    fn of_path(form: TargetForm, authority: Option<&'a [u8]>, target: &'a [u8]) -> Result<Target<'a>, Reject> {
        let (path, query) = match memchr(b'?', target) {
            Some(mark) => (&target[..mark], &target[mark + 1..]),
            None => (target, &b""[..]),
        };
        if syntax::all(syntax::PATH, path)
            && syntax::all(syntax::QUERY, query)
            && syntax::percent_encoding_is_complete(path)
            && syntax::percent_encoding_is_complete(query)
        {
            // RFC 9110 4.2.3: an empty path is the same as the slash.
            Ok(Target { form, authority, path: if path.is_empty() { b"/" } else { path }, query })
        } else {
            Err(Reject::Target)
        }
    }
}

/// Whether `bytes` is a host that is not empty, and optionally a port (RFC 3986 3.2.2, 3.2.3). No
/// userinfo (RFC 9110 4.2.4); no `IPvFuture`, since there is none.
fn is_authority(bytes: &[u8]) -> bool {
    let (host_is_valid, port) = if let Some(inside) = bytes.strip_prefix(b"[") {
        let Some(end) = memchr(b']', inside) else { return false };
        let address = str::from_utf8(&inside[..end]).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
        (address.is_some(), &inside[end + 1..])
    } else {
        let end = memchr(b':', bytes).unwrap_or(bytes.len());
        let name = &bytes[..end];
        let valid = !name.is_empty() && syntax::all(syntax::HOST_NAME, name);
        (valid && syntax::percent_encoding_is_complete(name), &bytes[end..])
    };
    let port_is_valid = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_is_valid && port_is_valid
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::{fuzzing, oracle};

    /// Whole heads of several kinds, for the tests that cut and change them.
    const HEADS: &[&str] = &[
        "GET /todos?limit=10 HTTP/1.1\r\nHost: localhost:8080\r\n\r\n",
        "\r\nHEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "PUT http://[::1]:80/a%2fb?c HTTP/1.1\r\nhost:a\r\nContent-Length: 12\r\nExpect:100-continue\r\n\r\n",
        "POST /todos HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nAuthorization: Bearer a.b.c\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"a\", W/\"b\"\r\nConnection: close, x\r\n\r\n",
    ];

    /// What a whole buffer comes to: search, then parse.
    fn read(buffer: &[u8]) -> Result<Head<'_>, Reject> {
        match find_end(buffer, 0)? {
            Find::Complete { start, end } => Head::parse(&buffer[start..end]),
            Find::Partial { .. } => panic!("partial: {}", buffer.escape_ascii()),
        }
    }

    /// A GET in HTTP/1.1 with these further lines.
    fn with(lines: &str) -> String {
        format!("GET /todos HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
    }

    fn check_reject(name: &str, buffer: impl AsRef<[u8]>, expected: Reject) {
        let buffer = buffer.as_ref();
        let found = read(buffer).map(|head| format!("{head:?}"));
        assert_eq!(found, Err(expected), "{name}: {}", buffer.escape_ascii());
        assert!(expected.closes(), "{name}: the connection cannot go on behind a head that was not understood");
    }

    #[test]
    fn line_by_line_faults() {
        let line = |first: &str| format!("{first}\r\nHost: a\r\n\r\n");
        check_reject("bare LF behind the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n", Reject::LineEnding);
        check_reject("bare LF behind a field", "GET / HTTP/1.1\r\nHost: a\n\r\n", Reject::LineEnding);
        check_reject("bare LF for the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", Reject::LineEnding);
        check_reject("bare LF in front", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Reject::LineEnding);
        check_reject("bare CR in a value", with("A: b\rc\r\n"), Reject::LineEnding);
        check_reject("bare CR in a target", line("GET /\r HTTP/1.1"), Reject::LineEnding);
        check_reject("bare CR in front", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", Reject::LineEnding);
        check_reject("CR CR LF", with("A: b\r\r\n"), Reject::LineEnding);
        check_reject("two empty lines in front", format!("\r\n\r\n{}", with("")), Reject::RequestLine);

        check_reject("a space in front", format!(" {}", with("")), Reject::RequestLine);
        check_reject("no target", line("GET HTTP/1.1"), Reject::RequestLine);
        check_reject("no version", line("GET /"), Reject::RequestLine);
        check_reject("two spaces before the target", line("GET  / HTTP/1.1"), Reject::RequestLine);
        check_reject("two spaces before the version", line("GET /  HTTP/1.1"), Reject::RequestLine);
        check_reject("a space behind the version", line("GET / HTTP/1.1 "), Reject::RequestLine);
        check_reject("a tab for a space", line("GET\t/ HTTP/1.1"), Reject::RequestLine);
        check_reject("a fourth word", line("GET / x HTTP/1.1"), Reject::RequestLine);
        check_reject("a fourth word, other version", line("GET / x HTTP/2.0"), Reject::RequestLine);
        check_reject("a delimiter in the method", line("GE(T / HTTP/1.1"), Reject::RequestLine);
        check_reject("a TLS hello", "\x16\x03\x01\x02", Reject::RequestLine);

        check_reject("HTTP/1.2", line("GET / HTTP/1.2"), Reject::Version);
        check_reject("HTTP/2.0", line("GET / HTTP/2.0"), Reject::Version);
        check_reject("HTTP/0.9", line("GET / HTTP/0.9"), Reject::Version);
        check_reject("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Reject::Version);
        check_reject("lower case version", line("GET / http/1.1"), Reject::RequestLine);
        check_reject("HTTP/1.10", line("GET / HTTP/1.10"), Reject::RequestLine);
        check_reject("HTTP/11", line("GET / HTTP/11"), Reject::RequestLine);
        check_reject("HTTP/1.x", line("GET / HTTP/1.x"), Reject::RequestLine);

        check_reject("a folded line", with("A: b\r\n c\r\n"), Reject::Field);
        check_reject("a folded line, by tab", with("A: b\r\n\tc\r\n"), Reject::Field);
        check_reject("the first field folded", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", Reject::Field);
        check_reject("a space before the colon", with("A : b\r\n"), Reject::Field);
        check_reject("a tab before the colon", with("A\t: b\r\n"), Reject::Field);
        check_reject("no name", with(": b\r\n"), Reject::Field);
        check_reject("no colon", with("A\r\n"), Reject::Field);
        check_reject("a delimiter in a name", with("A[]: b\r\n"), Reject::Field);
        check_reject("a byte over ASCII in a name", with("\u{c4}: b\r\n"), Reject::Field);
        for control in (0..0x20u8).chain([0x7f]).filter(|byte| !matches!(byte, b'\t' | b'\n' | b'\r')) {
            let name = format!("control byte {control:#04x} in a value");
            check_reject(&name, with(&format!("A: b{}c\r\n", char::from(control))), Reject::Field);
        }
    }

    #[test]
    fn targets() {
        let line = |target: &str, method: &str| format!("{method} {target} HTTP/1.1\r\nHost: h:1\r\n\r\n");
        let check = |target: &str, form, authority: &str, path: &str, query: &str| {
            let buffer = line(target, if form == TargetForm::Asterisk { "OPTIONS" } else { "GET" });
            let head = read(buffer.as_bytes()).unwrap();
            assert_eq!(head.form, form, "{target}");
            let parts = [head.authority, head.path, head.query].map(|part| str::from_utf8(part).unwrap());
            assert_eq!(parts, [authority, path, query], "{target}");
        };
        check("/", TargetForm::Origin, "h:1", "/", "");
        check("/todos?limit=10", TargetForm::Origin, "h:1", "/todos", "limit=10");
        check("/a?b?c", TargetForm::Origin, "h:1", "/a", "b?c");
        check("/a?", TargetForm::Origin, "h:1", "/a", "");
        check("//a", TargetForm::Origin, "h:1", "//a", "");
        check("/%41%2f", TargetForm::Origin, "h:1", "/%41%2f", "");
        check("/-._~!$&'()*+,;=:@", TargetForm::Origin, "h:1", "/-._~!$&'()*+,;=:@", "");
        check("http://other:2/a?b", TargetForm::Absolute, "other:2", "/a", "b");
        check("HTTP://other/", TargetForm::Absolute, "other", "/", "");
        check("http://other", TargetForm::Absolute, "other", "/", "");
        check("http://other?b", TargetForm::Absolute, "other", "/", "b");
        check("http://[::1]:2/", TargetForm::Absolute, "[::1]:2", "/", "");
        check("*", TargetForm::Asterisk, "h:1", "", "");
        check("http://other", TargetForm::Asterisk, "other", "", "");

        let refuse = |target: &str, method: &str| check_reject(target, line(target, method), Reject::Target);
        refuse("*", "GET");
        refuse("**", "OPTIONS");
        refuse("https://other/", "GET");
        refuse("ftp://other/", "GET");
        refuse("http:/a", "GET");
        refuse("http:///a", "GET");
        refuse("http://", "GET");
        refuse("http://user@other/", "GET");
        refuse("http://other:99999999/", "GET");
        refuse("h:1", "GET");
        refuse("todos", "GET");
        refuse("?limit=1", "GET");
        refuse("/%4", "GET");
        refuse("/%zz", "GET");
        refuse("/a?%", "GET");
        for delimiter in "\"<>\\^`{|}#[]".chars() {
            refuse(&format!("/a{delimiter}b"), "GET");
            refuse(&format!("/a?{delimiter}"), "GET");
        }
        let not_ascii = line("/\u{e4}", "GET");
        assert!(read(not_ascii.as_bytes()).is_err_and(|reject| reject.status() == 400));

        // CONNECT is understood, so that it can be told what is wrong with it: the route answers 501.
        assert_eq!(read(line("h:443", "CONNECT").as_bytes()).unwrap().form, TargetForm::Authority);
        assert_eq!(read(line("/", "CONNECT").as_bytes()).unwrap().method, Method::Connect);
    }

    #[test]
    fn hosts() {
        let with_host = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n");
        for good in ["a", "a.b", "a:80", "a:", "1.2.3.4:5", "[::1]", "[::ffff:1.2.3.4]:80", "", "a%20b", "a_b", "a,b"] {
            assert!(read(with_host(&format!("Host: {good}\r\n")).as_bytes()).is_ok(), "{good}");
        }
        let bad = ["a b", "a/b", "u@a", "a:b", "a:80:80", "a:999999", ":80", "[::1", "::1", "[a]", "[::1]x", "a%2"];
        for bad in bad {
            check_reject(bad, with_host(&format!("Host: {bad}\r\n")), Reject::Host);
        }
        check_reject("missing", with_host(""), Reject::Host);
        check_reject("twice", with_host("Host: a\r\nHost: a\r\n"), Reject::Host);
        check_reject(
            "twice, and the target names one",
            "GET http://a/ HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
            Reject::Host,
        );
        check_reject("missing, and the target names one", "GET http://a/ HTTP/1.1\r\n\r\n", Reject::Host);
        check_reject("twice in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", Reject::Host);
        assert_eq!(read(b"GET / HTTP/1.0\r\n\r\n").unwrap().authority, b"");
    }

    #[test]
    fn framings() {
        let check =
            |lines: &str, expected| assert_eq!(read(with(lines).as_bytes()).unwrap().framing, expected, "{lines}");
        check("", Framing::None);
        check("Content-Length: 0\r\n", Framing::Length(0));
        check("content-length:12\r\n", Framing::Length(12));
        check("Content-Length: \t007 \r\n", Framing::Length(7));
        check("Content-Length: 18446744073709551615\r\n", Framing::Length(u64::MAX));
        check("Transfer-Encoding: chunked\r\n", Framing::Chunked);
        check("transfer-encoding:CHUNKED\r\n", Framing::Chunked);

        for value in ["", "-1", "+1", "1 2", "1,1", "1, 1", "0x1", "1.0", "a", "18446744073709551616", "\u{ff11}"] {
            check_reject(value, with(&format!("Content-Length: {value}\r\n")), Reject::ContentLength);
        }
        check_reject("equal twice", with("Content-Length: 1\r\nContent-Length: 1\r\n"), Reject::ContentLength);
        check_reject("differing", with("Content-Length: 1\r\nContent-Length: 2\r\n"), Reject::ContentLength);

        for value in [
            "",
            "gzip",
            "identity",
            "chunked, gzip",
            "chunked, chunked",
            "chunked,",
            ",chunked",
            "chunked;a=b",
            "\"chunked\"",
            "xchunked, chunked x",
            "gzip, chunked, chunked",
        ] {
            check_reject(value, with(&format!("Transfer-Encoding: {value}\r\n")), Reject::TransferEncoding);
        }
        let chunked = "Transfer-Encoding: chunked\r\n";
        check_reject("chunked on two lines", with(&format!("{chunked}{chunked}")), Reject::TransferEncoding);
        check_reject("both", with(&format!("{chunked}Content-Length: 1\r\n")), Reject::TransferEncoding);
        check_reject("both, the other way", with(&format!("Content-Length: 0\r\n{chunked}")), Reject::TransferEncoding);
        check_reject("in HTTP/1.0", format!("POST / HTTP/1.0\r\n{chunked}\r\n"), Reject::TransferEncoding);
        check_reject("unknown before", with("Transfer-Encoding: gzip, chunked\r\n"), Reject::CodingUnknown);
        check_reject(
            "unknown before, two lines",
            with(&format!("Transfer-Encoding: x\r\n{chunked}")),
            Reject::CodingUnknown,
        );
        check_reject(
            "unknown and a length",
            with("Transfer-Encoding: x, chunked\r\nContent-Length: 1\r\n"),
            Reject::TransferEncoding,
        );
    }

    #[test]
    fn connections() {
        let check = |version: &str, lines: &str, keep_alive, echo| {
            let buffer = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
            let head = read(buffer.as_bytes()).unwrap();
            assert_eq!((head.keep_alive, head.keep_alive_echo), (keep_alive, echo), "{buffer}");
        };
        check("1.1", "", true, false);
        check("1.1", "Connection: keep-alive\r\n", true, false);
        check("1.1", "Connection: close\r\n", false, false);
        check("1.1", "connection: foo, CLOSE ,bar\r\n", false, false);
        check("1.1", "Connection: keep-alive, close\r\n", false, false);
        check("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false, false);
        check("1.1", "Connection: closed, xclose\r\n", true, false);
        check("1.1", "Connection: ,, Upgrade\r\nUpgrade: h2c\r\n", true, false);
        check("1.1", "Connection:\r\n", true, false);
        check("1.0", "", false, false);
        check("1.0", "Connection: Keep-Alive\r\n", true, true);
        check("1.0", "Connection: close, keep-alive\r\n", false, false);
        check_reject("no token", with("Connection: close;x\r\n"), Reject::Connection);
        check_reject("two words", with("Connection: close x\r\n"), Reject::Connection);
    }

    #[test]
    fn expectations() {
        let check = |version: &str, value: &str, expected| {
            let buffer = format!("PUT / HTTP/{version}\r\nHost: a\r\nExpect: {value}\r\n\r\n");
            let found = read(buffer.as_bytes()).map(|head| head.expect_continue);
            assert_eq!(found, expected, "{buffer}");
        };
        check("1.1", "100-continue", Ok(true));
        check("1.1", "100-Continue", Ok(true));
        check("1.1", "100-continue, 100-continue", Ok(true));
        check("1.1", "", Ok(false));
        check("1.0", "100-continue", Ok(false));
        check("1.1", "200-ok", Err(Reject::Expectation));
        check("1.1", "100-continue, x", Err(Reject::Expectation));
        check("1.1", "100-continue;a=b", Err(Reject::Expectation));
        check("1.0", "x", Err(Reject::Expectation));
    }

    #[test]
    fn other_fields() {
        let buffer = with(concat!(
            "Authorization:  Bearer x \r\nCONTENT-TYPE: application/json\r\nContent-Encoding: gzip\r\n",
            "If-None-Match: \"a\"\r\nIdempotency-Key: k\r\nIf-Match: *\r\nif-none-match: \t\"b\" \r\nIf-None-Match:\r\n",
        ));
        let head = read(buffer.as_bytes()).unwrap();
        assert_eq!(head.authorization, Some(&b"Bearer x"[..]));
        assert_eq!(head.content_type, Some(&b"application/json"[..]));
        assert_eq!(head.idempotency_key, Some(&b"k"[..]));
        assert!(head.content_coded && head.write_condition && head.has_condition());
        assert_eq!(head.if_none_match().collect::<Vec<_>>(), [&b"\"a\""[..], b"\"b\"", b""]);
        for name in ["Authorization", "Content-Type", "Idempotency-Key"] {
            check_reject(name, with(&format!("{name}: a\r\n{name}: a\r\n")), Reject::RepeatedField);
        }
    }

    #[test]
    fn only_what_the_target_alone_decides_is_plain() {
        let check =
            |lines: &str, expected| assert_eq!(read(with(lines).as_bytes()).unwrap().is_plain(), expected, "{lines}");
        check("", true);
        check("Accept: */*\r\nUser-Agent: x\r\nRange: bytes=0-1\r\nIf-Modified-Since: x\r\n", true);
        check("Connection: keep-alive\r\n", true);
        check("Connection: close\r\n", false);
        check("Content-Length: 0\r\n", false);
        check("Transfer-Encoding: chunked\r\n", false);
        check("Authorization: x\r\n", false);
        check("If-None-Match: \"a\"\r\n", false);
        check("Expect: 100-continue\r\n", false);
        check("Upgrade: h2c\r\n", false);
        assert!(!read(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().is_plain());
        assert!(!read(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap().is_plain());
    }

    #[test]
    fn methods() {
        let check = |name: &str, expected| {
            assert_eq!(read(format!("{name} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap().method, expected);
        };
        check("GET", Method::Get);
        check("HEAD", Method::Head);
        check("POST", Method::Post);
        check("PUT", Method::Put);
        check("PATCH", Method::Patch);
        check("DELETE", Method::Delete);
        check("OPTIONS", Method::Options);
        check("CONNECT", Method::Connect);
        check("TRACE", Method::Unused);
        check("get", Method::Other);
        check("GETS", Method::Other);
        assert!(asks_head_only(b"HEAD ") && asks_head_only(b"\r\nHEAD /") && !asks_head_only(b"HEADS /"));
    }

    #[test]
    fn bounds() {
        let padded =
            |head: &str, fill: &str, length: usize| head.replacen('~', &fill.repeat(length + 1 - head.len()), 1);
        let field = "GET / HTTP/1.1\r\nHost: a\r\nA: ~\r\n\r\n";
        assert!(read(padded(field, "b", REQUEST_HEAD_BYTES_MAX).as_bytes()).is_ok());
        check_reject("one byte over", padded(field, "b", REQUEST_HEAD_BYTES_MAX + 1), Reject::HeadTooLarge);
        check_reject("never ends", padded(field, "b", READ_BYTES), Reject::HeadTooLarge);
        assert!(read(padded(&format!("\r\n{field}"), "b", REQUEST_HEAD_BYTES_MAX + 2).as_bytes()).is_ok());

        let target = "GET /~ HTTP/1.1\r\nHost: a\r\n\r\n";
        assert!(read(padded(target, "b", REQUEST_HEAD_BYTES_MAX).as_bytes()).is_ok());
        check_reject("line fits, head does not", padded(target, "b", REQUEST_HEAD_BYTES_MAX + 1), Reject::HeadTooLarge);
        check_reject("line does not fit", padded(target, "b", REQUEST_HEAD_BYTES_MAX + 13), Reject::UriTooLong);
        check_reject("a method without end", "A".repeat(REQUEST_HEAD_BYTES_MAX), Reject::UriTooLong);

        // One of them is Host.
        assert!(read(with(&"A: b\r\n".repeat(REQUEST_FIELDS_MAX - 1)).as_bytes()).is_ok());
        check_reject("one field over", with(&"A: b\r\n".repeat(REQUEST_FIELDS_MAX)), Reject::TooManyFields);
    }

    /// More than any bound: what a whole read may bring.
    const READ_BYTES: usize = crate::limits::READ_BUFFER_BYTES;

    #[test]
    fn every_prefix_is_partial() {
        for head in HEADS {
            for length in 0..head.len() {
                let begun = !b"\r\n".starts_with(&head.as_bytes()[..length]);
                let found = find_end(&head.as_bytes()[..length], length.saturating_sub(1));
                assert_eq!(found, Ok(Find::Partial { begun }), "{length} of {head:?}");
            }
            let start = if head.starts_with('\r') { 2 } else { 0 };
            let more = format!("{head}GET / HT");
            assert_eq!(find_end(more.as_bytes(), 0), Ok(Find::Complete { start, end: head.len() }));
        }
    }

    #[test]
    fn bytes_that_no_search_delimited_are_refused() {
        for bytes in [&b""[..], b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n", b"GET / HT\r\n\r\n"] {
            assert!(Head::parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
        let two = with("") + &with("");
        assert_eq!(Head::parse(two.as_bytes()).map(|head| head.method), Err(Reject::RequestLine));
        let late = format!("\r\n{}", with(""));
        assert_eq!(Head::parse(late.as_bytes()).map(|head| head.method), Err(Reject::RequestLine));
    }

    #[test]
    fn any_one_byte_changed_is_refused_or_explained() {
        for head in HEADS {
            assert!(read(head.as_bytes()).is_ok(), "{head:?}");
            for index in 0..head.len() {
                for byte in 0..=255 {
                    let mut changed = head.as_bytes().to_vec();
                    changed[index] = byte;
                    // Compares with the oracle, and panics where they differ.
                    fuzzing::head(&changed);
                }
            }
        }
    }

    fn fragment() -> impl Strategy<Value = String> {
        const NAMES: &[&str] =
            &["Host", "Connection", "Content-Length", "Transfer-Encoding", "Expect", "If-None-Match", "Upgrade", "A"];
        const VALUES: &[&str] = &[
            "a",
            "close",
            "keep-alive",
            "chunked",
            "gzip",
            "1",
            "100-continue",
            "\"x\"",
            "",
            ",",
            " ",
            "[::1]:1",
            "a%2",
            "\u{1}",
        ];
        let name = prop::sample::select(NAMES).prop_map(str::to_owned);
        let value = prop::collection::vec(prop::sample::select(VALUES), 0..3).prop_map(|parts| parts.join(", "));
        let ending = prop::sample::select(&["\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r\n "][..]);
        let colon = prop::sample::select(&[":", ": ", ":\t ", " :"][..]);
        (name, colon, value, ending).prop_map(|(name, colon, value, ending)| format!("{name}{colon}{value}{ending}"))
    }

    proptest! {
        #[test]
        fn assembled_heads_mean_what_the_oracle_says(
            method in prop::sample::select(&["GET", "HEAD", "OPTIONS", "CONNECT", "post", "G(T"][..]),
            target in prop::sample::select(&["/", "*", "/a?b", "http://a", "http://a:1?b", "a:1", "/%4", "/{}"][..]),
            version in prop::sample::select(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1"][..]),
            with_host in any::<bool>(),
            fragments in prop::collection::vec(fragment(), 0..5),
        ) {
            let host = if with_host { "Host: a\r\n" } else { "" };
            let text = format!("{method} {target} {version}\r\n{host}{}\r\n", fragments.concat());
            fuzzing::head(text.as_bytes());
        }
    }

    #[test]
    fn the_oracle_can_say_both() {
        assert!(HEADS.iter().all(|head| oracle::head(head.trim_start().as_bytes()).is_some()));
        assert!(oracle::head(b"GET / HTTP/1.1\r\n\r\n").is_none());
    }
}
