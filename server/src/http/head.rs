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
//! 2. `httparse` splits the lines, once a head. It lets through what is checked before it (bare LF) and
//!    behind it (targets, versions).
//! 3. The result borrows from the head and is read from it alone: no allocation, and equal bytes mean
//!    equal things, which is what lets a shard remember heads.

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use memchr::{memchr, memchr_iter, memchr2_iter};

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
    /// TRACE, or a method nobody here knows.
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
        if !line_endings_are_whole(bytes) {
            return Err(Reject::LineEnding);
        }
        let mut storage = [const { MaybeUninit::uninit() }; REQUEST_FIELDS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut storage) {
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
            authorization: fields.authorization,
            content_type: fields.content_type,
            content_coded: fields.content_coded,
            idempotency_key: fields.idempotency_key,
            write_condition: fields.write_condition,
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
            _ => Method::Other,
        }
    }
}

/// Whether CR and LF come as pairs only. `httparse` takes LF alone for the end of a line, which RFC 9112
/// 2.2 allows and which is how two servers come to see two different heads.
fn line_endings_are_whole(bytes: &[u8]) -> bool {
    memchr2_iter(b'\r', b'\n', bytes).all(|index| match bytes[index] {
        b'\r' => bytes.get(index + 1) == Some(&b'\n'),
        _ => index > 0 && bytes[index - 1] == b'\r',
    })
}

#[cold]
fn explain(error: httparse::Error, bytes: &[u8]) -> Reject {
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
    authorization: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    content_coded: bool,
    idempotency_key: Option<&'a [u8]>,
    if_none_match: bool,
    write_condition: bool,
    upgrade: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, name: &[u8], value: &'a [u8]) -> Result<(), Reject> {
        // The length of a name tells most fields apart, and most fields that come do not matter.
        let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
        match name.len() {
            4 if is(b"host") => once(&mut self.host, value, Reject::Host)?,
            6 if is(b"expect") => self.take_expect(value),
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
