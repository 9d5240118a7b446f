//! What a request asks for: a pure function of its method, path and query.
//!
//! A path is compared segment by segment, each percent-decoded by itself, so that an encoded slash is
//! no separator. Nothing is normalised: `/todos/` and `/./todos` name nothing.

use memchr::memchr;
use percent_encoding::percent_decode;
use todo_proto::id::ItemId;

use super::head::{Head, Method, TargetForm};
use super::reject::Reject;

/// The first segment of every path that names items.
pub const COLLECTION: &str = "todos";

/// What is asked for. A HEAD is the GET of the same target; `Head::method` tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// The whole list.
    All,
    /// A part of the list.
    List {
        /// `1 <= limit <= limit_max`
        limit: u32,
        /// Begin behind this id, which need not exist; from the newest without one.
        after: Option<ItemId>,
    },
    /// One item.
    Item(ItemId),
    /// A new item.
    Create,
    /// A new state for an item.
    Replace(ItemId),
    /// A merge patch (RFC 7396) for an item.
    Patch(ItemId),
    /// The end of an item.
    Delete(ItemId),
    /// Is the process alive?
    Health,
    /// Does it serve?
    Ready,
    /// Its figures.
    Metrics,
    /// What may be asked here?
    Options(Allow),
}

/// The methods that a resource takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allow {
    /// `/todos`
    List,
    /// `/todos/{id}`
    Item,
    /// `/health`, `/ready`, `/metrics`
    Probe,
    /// `*`: whatever any resource takes.
    Server,
}

impl Allow {
    /// The field lines of an answer to OPTIONS, or of a 405.
    pub const fn fields(self) -> &'static str {
        match self {
            Allow::List => "Allow: GET, HEAD, POST, OPTIONS\r\n",
            // RFC 5789 3.1: who takes PATCH says in which formats.
            Allow::Item => concat!(
                "Allow: GET, HEAD, PUT, PATCH, DELETE, OPTIONS\r\n",
                "Accept-Patch: application/merge-patch+json, application/json\r\n"
            ),
            Allow::Probe => "Allow: GET, HEAD, OPTIONS\r\n",
            Allow::Server => "Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n",
        }
    }
}

/// What `head` asks for, where a list may have at most `limit_max` items at a time.
///
/// `GET /todos` is everything. With `after` alone it is as much behind that id as one answer may have,
/// `limit_max`: who goes through the list in pages wants pages.
///
/// # Errors
/// 400 for a bad `limit` or `after`, 404, 405, 501. None of them ends the connection but that of CONNECT.
pub fn route(head: &Head<'_>, limit_max: u32) -> Result<Route, Reject> {
    match head.method {
        Method::Connect => return Err(Reject::Connect),
        Method::Other => return Err(Reject::MethodUnknown),
        _ => {}
    }
    if head.form == TargetForm::Asterisk {
        return Ok(Route::Options(Allow::Server));
    }
    let resource = resource(head.path).ok_or(Reject::NotFound)?;
    match (resource, head.method) {
        (Resource::List, Method::Get | Method::Head) => list(head.query, limit_max),
        (Resource::List, Method::Post) => Ok(Route::Create),
        (Resource::Item(id), Method::Get | Method::Head) => Ok(Route::Item(id)),
        (Resource::Item(id), Method::Put) => Ok(Route::Replace(id)),
        (Resource::Item(id), Method::Patch) => Ok(Route::Patch(id)),
        (Resource::Item(id), Method::Delete) => Ok(Route::Delete(id)),
        (Resource::Probe(route), Method::Get | Method::Head) => Ok(route),
        (resource, Method::Options) => Ok(Route::Options(resource.allow())),
        (resource, _) => Err(Reject::method_not_allowed(resource.allow())),
    }
}

/// Whether the server can take what a write brings with it, as its head describes it. To be asked after
/// the sender is known and before the body is read. A body without a Content-Type is read as JSON: there
/// is nothing else here that it could be.
///
/// # Errors
/// 415 for another type or any coding, 412 for a condition that only the applied state could answer
/// (RFC 9110 13.1.1 forbids to act as if it were not there).
pub fn check_write(route: Route, head: &Head<'_>) -> Result<(), Reject> {
    if head.write_condition && route != Route::Create {
        return Err(Reject::Precondition);
    }
    let (patch, refusal) = match route {
        Route::Create | Route::Replace(_) => (false, Reject::MediaType),
        Route::Patch(_) => (true, Reject::PatchMediaType),
        _ => return Ok(()),
    };
    if head.content_coded {
        return Err(Reject::ContentCoding);
    }
    match head.content_type {
        Some(value) if !is_json(value, patch) => Err(refusal),
        _ => Ok(()),
    }
}

#[derive(Clone, Copy)]
enum Resource {
    List,
    Item(ItemId),
    Probe(Route),
}

impl Resource {
    fn allow(self) -> Allow {
        match self {
            Resource::List => Allow::List,
            Resource::Item(_) => Allow::Item,
            Resource::Probe(_) => Allow::Probe,
        }
    }
}

fn resource(path: &[u8]) -> Option<Resource> {
    let mut segments = path.strip_prefix(b"/")?.split(|&byte| byte == b'/');
    let first = segments.next()?;
    let second = segments.next();
    if segments.next().is_some() {
        return None;
    }
    match second {
        None if decodes_to(first, COLLECTION) => Some(Resource::List),
        None if decodes_to(first, "health") => Some(Resource::Probe(Route::Health)),
        None if decodes_to(first, "ready") => Some(Resource::Probe(Route::Ready)),
        None if decodes_to(first, "metrics") => Some(Resource::Probe(Route::Metrics)),
        Some(id) if decodes_to(first, COLLECTION) => decode_id(id).map(Resource::Item),
        _ => None,
    }
}

fn list(query: &[u8], limit_max: u32) -> Result<Route, Reject> {
    let mut limit = None;
    let mut after = None;
    for parameter in query.split(|&byte| byte == b'&') {
        let equals = memchr(b'=', parameter).unwrap_or(parameter.len());
        let (name, value) = (&parameter[..equals], parameter.get(equals + 1..).unwrap_or_default());
        if decodes_to(name, "limit") {
            let number = decode_number(value).filter(|number| (1..=limit_max).contains(number));
            if limit.replace(number.ok_or(Reject::LimitOutOfRange)?).is_some() {
                return Err(Reject::LimitRepeated);
            }
        } else if decodes_to(name, "after") && after.replace(decode_id(value).ok_or(Reject::AfterInvalid)?).is_some() {
            return Err(Reject::AfterRepeated);
        }
    }
    match (limit, after) {
        (None, None) => Ok(Route::All),
        (limit, after) => Ok(Route::List { limit: limit.unwrap_or(limit_max), after }),
    }
}

/// Whether `encoded` says `plain`, percent-encoded or not.
fn decodes_to(encoded: &[u8], plain: &str) -> bool {
    encoded == plain.as_bytes()
        || (encoded.len() > plain.len() && percent_decode(encoded).eq(plain.as_bytes().iter().copied()))
}

fn decode_id(encoded: &[u8]) -> Option<ItemId> {
    let mut text = [0; 36];
    let mut length = 0;
    for byte in percent_decode(encoded) {
        *text.get_mut(length)? = byte;
        length += 1;
    }
    ItemId::parse(&text[..length])
}

/// Digits only; `None` for none, for anything else, and above `u32::MAX`.
fn decode_number(encoded: &[u8]) -> Option<u32> {
    if encoded.is_empty() {
        return None;
    }
    percent_decode(encoded).try_fold(0u32, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u32::from(digit))
    })
}

/// Whether a Content-Type names JSON in UTF-8, or where `patch` a merge patch. Parameters other than
/// charset mean nothing for it.
fn is_json(content_type: &[u8], patch: bool) -> bool {
    let mut parts = content_type.split(|&byte| byte == b';').map(super::syntax::trim);
    let media_type = parts.next().unwrap_or_default();
    let known = media_type.eq_ignore_ascii_case(b"application/json")
        || (patch && media_type.eq_ignore_ascii_case(b"application/merge-patch+json"));
    known
        && parts.all(|parameter| match parameter.split_at_checked(8) {
            Some((name, value)) if name.eq_ignore_ascii_case(b"charset=") => {
                value.eq_ignore_ascii_case(b"utf-8") || value.eq_ignore_ascii_case(b"\"utf-8\"")
            }
            _ => true,
        })
}
