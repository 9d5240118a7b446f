//! Puts response heads together. The plain head of a list is exactly: status line, Content-Type, Content-Length, Date,
//! ETag, and `Vary: Accept-Encoding` on lists over 8 KiB (from the first day, so that sizes do not change later).

use std::io::Write;

use crate::http::cors::AllowedOrigin;
use crate::http::date::HttpDate;
use crate::http::reject::Persistence;
use crate::limits::VARY_BODY_BYTES_MIN;
use crate::snapshot::ETag;

/// How one answer is framed, whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The request was a HEAD: GET's head, no body (RFC 9110 9.3.2).
    pub head_only: bool,
    /// What becomes of the connection.
    pub persistence: Persistence,
    /// Whose page asked from a browser, if it may.
    pub origin: Option<&'static AllowedOrigin>,
}

impl Form {
    /// HTTP/1.1, kept alive, with its body: the only form that is ready-made.
    pub const PLAIN: Form = Form { head_only: false, persistence: Persistence::KeepAlive, origin: None };
    /// The answer after which the connection closes.
    pub const CLOSING: Form = Form { head_only: false, persistence: Persistence::Close, origin: None };

    /// Whether the connection closes behind this answer.
    pub fn closes(self) -> bool {
        self.persistence == Persistence::Close
    }

    /// The field lines for the page that asked; none for everybody else.
    pub fn origin_lines(self) -> &'static str {
        self.origin.map_or("", AllowedOrigin::lines)
    }

    /// The same, closing.
    pub fn closing(self) -> Form {
        Form { persistence: Persistence::Close, ..self }
    }
}

/// What a head says beside the date.
#[derive(Default)]
pub struct Fields<'a> {
    /// Media type of the body; `None` where there is no body to speak of.
    pub content_type: Option<&'static str>,
    /// Length of the body that GET has; `None` for 204 and 304.
    pub content_length: Option<u64>,
    /// Validator of the body.
    pub etag: Option<&'a ETag>,
    /// Whether a coding of the body could be chosen by Accept-Encoding.
    pub vary: bool,
    /// Whole further lines, each with its CRLF.
    pub extra: &'a [u8],
    /// They have all that a page of another origin is to be told.
    pub is_preflight: bool,
}

/// Whether a list of so many bytes carries `Vary: Accept-Encoding`.
pub fn varies(body_bytes: u64) -> bool {
    body_bytes >= VARY_BODY_BYTES_MIN
}

/// Appends a whole head, its empty line included. Allocates only if `out` must grow.
pub fn write_head(out: &mut Vec<u8>, status: u16, form: Form, date: &HttpDate, fields: &Fields<'_>) {
    out.extend_from_slice(status_line(status));
    if let Some(content_type) = fields.content_type {
        out.extend_from_slice(b"Content-Type: ");
        out.extend_from_slice(content_type.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if let Some(length) = fields.content_length {
        write!(out, "Content-Length: {length}\r\n").expect("a vector takes every write");
    }
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(date.bytes());
    out.extend_from_slice(b"\r\n");
    if let Some(etag) = fields.etag {
        out.extend_from_slice(b"ETag: ");
        out.extend_from_slice(etag.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    if fields.vary {
        out.extend_from_slice(b"Vary: Accept-Encoding\r\n");
    }
    out.extend_from_slice(fields.extra);
    // What answers OPTIONS says more, and by itself.
    if let Some(origin) = form.origin.filter(|_| !fields.is_preflight) {
        out.extend_from_slice(origin.lines().as_bytes());
    }
    out.extend_from_slice(form.persistence.field().as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// The status line of what is not refused; refusals have their own (`reject`).
fn status_line(status: u16) -> &'static [u8] {
    match status {
        200 => b"HTTP/1.1 200 OK\r\n",
        202 => b"HTTP/1.1 202 Accepted\r\n",
        204 => b"HTTP/1.1 204 No Content\r\n",
        304 => b"HTTP/1.1 304 Not Modified\r\n",
        503 => b"HTTP/1.1 503 Service Unavailable\r\n",
        _ => {
            debug_assert!(false, "status {status} has no line");
            b"HTTP/1.1 500 Internal Server Error\r\n"
        }
    }
}
