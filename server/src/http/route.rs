//! What a request asks for: a pure function of its method, path and query.
//!
//! A path is compared segment by segment, each percent-decoded by itself, so that an encoded slash is
//! no separator. Nothing is normalised: `/todos/` and `/./todos` name nothing.

use memchr::memchr;
use percent_encoding::percent_decode;
use todo_proto::id::ItemId;

use super::head::{Head, Method, TargetForm};
use super::pages::StaticPage;
use super::reject::Reject;

/// The first segment of every path that names items.
pub const COLLECTION: &str = todo_proto::names::ROUTE.split_at(1).1;

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
    /// A page that never changes.
    Page(StaticPage),
    /// Its figures, again and again.
    Events,
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
    /// `/health`, `/ready`, `/metrics`, and every page that never changes.
    Probe,
    /// `*`: whatever any resource takes.
    Server,
}

impl Route {
    /// Whether it is for who runs the server: on an address of its own, where there is one.
    pub fn is_administrative(self) -> bool {
        matches!(self, Route::Metrics | Route::Events | Route::Page(StaticPage::Dashboard))
    }
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
    if head.write_condition && matches!(route, Route::Replace(_) | Route::Patch(_) | Route::Delete(_)) {
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
    // RFC 9110 4.2.3: no path is the path `/`.
    let mut segments = path.strip_prefix(b"/").or((path.is_empty()).then_some(path))?.split(|&byte| byte == b'/');
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
        None if first.is_empty() => Some(page(StaticPage::Landing)),
        None if decodes_to(first, "openapi.json") => Some(page(StaticPage::OpenApi)),
        None if decodes_to(first, "dashboard") => Some(page(StaticPage::Dashboard)),
        Some(name) if decodes_to(first, "dashboard") => {
            decodes_to(name, "events").then_some(Resource::Probe(Route::Events))
        }
        None if decodes_to(first, "problems") => Some(page(StaticPage::Problems)),
        // A slug needs no encoding, and has none where this server names it.
        Some(slug) if decodes_to(first, "problems") => {
            str::from_utf8(slug).ok().and_then(StaticPage::of_problem).map(page)
        }
        _ => None,
    }
}

fn page(page: StaticPage) -> Resource {
    Resource::Probe(Route::Page(page))
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

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
    const LIMIT_MAX: u32 = 10_000;

    fn id() -> ItemId {
        ItemId::parse(ID.as_bytes()).unwrap()
    }

    fn read(request: &str, lines: &str) -> Result<(Route, Result<(), Reject>), Reject> {
        let bytes = format!("{} HTTP/1.1\r\nHost: a\r\n{lines}\r\n", request.replace("{id}", ID));
        let head = Head::parse(bytes.as_bytes()).unwrap();
        let route = route(&head, LIMIT_MAX)?;
        Ok((route, check_write(route, &head)))
    }

    fn check(request: &str, expected: Result<Route, Reject>) {
        assert_eq!(read(request, "").map(|(route, _)| route), expected, "{request}");
    }

    #[test]
    fn resources() {
        check("GET /todos", Ok(Route::All));
        check("HEAD /todos", Ok(Route::All));
        check("POST /todos", Ok(Route::Create));
        check("POST /todos?limit=x", Ok(Route::Create));
        check("OPTIONS /todos", Ok(Route::Options(Allow::List)));
        check("GET /todos/{id}", Ok(Route::Item(id())));
        check("HEAD /todos/{id}?limit=x", Ok(Route::Item(id())));
        check("PUT /todos/{id}", Ok(Route::Replace(id())));
        check("PATCH /todos/{id}", Ok(Route::Patch(id())));
        check("DELETE /todos/{id}", Ok(Route::Delete(id())));
        check("OPTIONS /todos/{id}", Ok(Route::Options(Allow::Item)));
        check("GET /health", Ok(Route::Health));
        check("HEAD /ready", Ok(Route::Ready));
        check("GET /metrics?x", Ok(Route::Metrics));
        check("GET /", Ok(Route::Page(StaticPage::Landing)));
        check("GET http://a", Ok(Route::Page(StaticPage::Landing)));
        check("HEAD /openapi.json", Ok(Route::Page(StaticPage::OpenApi)));
        check("GET /problems", Ok(Route::Page(StaticPage::Problems)));
        check("GET /problems/not-found", Ok(Route::Page(StaticPage::Problem("not-found"))));
        check("GET /dashboard", Ok(Route::Page(StaticPage::Dashboard)));
        check("GET /dashboard/%65vents", Ok(Route::Events));
        check("OPTIONS /problems/not-found", Ok(Route::Options(Allow::Probe)));
        check("OPTIONS /health", Ok(Route::Options(Allow::Probe)));
        check("OPTIONS *", Ok(Route::Options(Allow::Server)));
        check("OPTIONS http://a", Ok(Route::Options(Allow::Server)));
        check("GET http://b/todos?limit=2", Ok(Route::List { limit: 2, after: None }));
    }

    #[test]
    fn nothing_there() {
        for path in [
            "//",
            "//todos",
            "/problems/",
            "/problems/no-such",
            "/problems/not-found/x",
            "/openapi.json/",
            "/dashboard/",
            "/dashboard/other",
            "/dashboard/events/",
            "/todos/",
            "/todos//",
            "/todo",
            "/todoss",
            "/Todos",
            "/./todos",
            "/todos/{id}/",
            "/todos/{id}/x",
            "/todos/1",
            "/todos/{id}0",
            "/todos%2F{id}",
            "/todos/01890a5d-ac96-474b-bcce-b302099a8057",
            "/todos/01890a5dac96774bbcceb302099a8057",
            "/health/",
            "/health/x",
        ] {
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
                check(&format!("{method} {path}"), Err(Reject::NotFound));
            }
        }
    }

    #[test]
    fn percent_encoding_is_understood() {
        check("GET /%74odos", Ok(Route::All));
        check("GET /%74%6f%64%6F%73", Ok(Route::All));
        check("GET /todos/%30%31890a5d%2dac96-774b-bcce-b302099a8057", Ok(Route::Item(id())));
        check("GET /he%61lth", Ok(Route::Health));
        check("GET /todos?%6cimit=%31%30", Ok(Route::List { limit: 10, after: None }));
        check("GET /todos?limit=1%26", Err(Reject::LimitOutOfRange));
        check("GET /todos?limit%3D1", Ok(Route::All));
        check("GET /todos?a%66ter=%30{id}", Err(Reject::AfterInvalid));
        check(
            "GET /todos?after=0%31890a5d-ac96-774b-bcce-b302099a8057&limit=5",
            Ok(Route::List { limit: 5, after: Some(id()) }),
        );
        check("GET /%2574odos", Err(Reject::NotFound));
    }

    #[test]
    fn limits() {
        for (value, limit) in [("1", 1), ("10", 10), ("10000", 10_000), ("007", 7)] {
            check(&format!("GET /todos?limit={value}"), Ok(Route::List { limit, after: None }));
        }
        for value in [
            "",
            "0",
            "00",
            "-1",
            "+1",
            "10001",
            "4294967297",
            "99999999999999999999",
            "1.0",
            "1e3",
            "a",
            "%20",
            "1%20",
            "0x1",
            "1,2",
            "%ff",
        ] {
            check(&format!("GET /todos?limit={value}"), Err(Reject::LimitOutOfRange));
        }
        check("GET /todos?limit", Err(Reject::LimitOutOfRange));
        check("GET /todos?limit=1&limit=1", Err(Reject::LimitRepeated));
        check("GET /todos?limit=1&%6cimit=2", Err(Reject::LimitRepeated));
        check("GET /todos?limit=1&limit=0", Err(Reject::LimitOutOfRange));
        let others = "GET /todos?&a&b=c&&Limit=0&limits=0&+limit=0&x=limit=0&limit=3&=4&";
        check(others, Ok(Route::List { limit: 3, after: None }));
        check("GET /todos?", Ok(Route::All));
        check("GET /todos?x=1", Ok(Route::All));
    }

    #[test]
    fn positions() {
        check("GET /todos?after={id}", Ok(Route::List { limit: LIMIT_MAX, after: Some(id()) }));
        check("GET /todos?after={id}&limit=2", Ok(Route::List { limit: 2, after: Some(id()) }));
        check(
            "GET /todos?after=01890A5D-AC96-774B-BCCE-B302099A8057&limit=2",
            Ok(Route::List { limit: 2, after: Some(id()) }),
        );
        check("GET /todos?after=", Err(Reject::AfterInvalid));
        check("GET /todos?after&limit=2", Err(Reject::AfterInvalid));
        check("GET /todos?after=01890a5d-ac96-474b-bcce-b302099a8057", Err(Reject::AfterInvalid));
        check("GET /todos?after={id}&after={id}", Err(Reject::AfterRepeated));
    }

    #[test]
    fn methods() {
        for method in ["PUT", "PATCH", "DELETE"] {
            check(&format!("{method} /todos"), Err(Reject::MethodNotAllowedOnList));
        }
        check("POST /todos/{id}", Err(Reject::MethodNotAllowedOnItem));
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            for path in ["/health", "/ready", "/metrics"] {
                check(&format!("{method} {path}"), Err(Reject::MethodNotAllowedOnProbe));
            }
        }
        // RFC 9110 15.5.6: known, and not for anything here.
        check("TRACE /todos", Err(Reject::MethodNotAllowedOnList));
        check("TRACE /todos/{id}", Err(Reject::MethodNotAllowedOnItem));
        check("QUERY /health", Err(Reject::MethodNotAllowedOnProbe));
        check("TRACE /nothing", Err(Reject::NotFound));
        for method in ["get", "BREW", "PROPFIND"] {
            check(&format!("{method} /todos"), Err(Reject::MethodUnknown));
            check(&format!("{method} /nothing"), Err(Reject::MethodUnknown));
        }
        check("CONNECT a:443", Err(Reject::Connect));
        check("CONNECT /todos", Err(Reject::Connect));
    }

    #[test]
    fn what_a_write_brings_with_it() {
        let check = |request: &str, lines: &str, expected| {
            assert_eq!(read(request, lines).unwrap().1, expected, "{request}, {lines}");
        };
        let json = [
            "application/json",
            "APPLICATION/json",
            "application/json; charset=UTF-8",
            "application/json;charset=\"utf-8\";a=b",
        ];
        for value in json {
            for request in ["POST /todos", "PUT /todos/{id}", "PATCH /todos/{id}"] {
                check(request, &format!("Content-Type: {value}\r\n"), Ok(()));
            }
        }
        let other = [
            "",
            "text/plain",
            "application/jsonx",
            "application/x-www-form-urlencoded",
            "json",
            "application/json; charset=latin1",
        ];
        for value in other {
            let line = format!("Content-Type: {value}\r\n");
            check("POST /todos", &line, Err(Reject::MediaType));
            check("PUT /todos/{id}", &line, Err(Reject::MediaType));
            check("PATCH /todos/{id}", &line, Err(Reject::PatchMediaType));
            check("DELETE /todos/{id}", &line, Ok(()));
            check("GET /todos", &line, Ok(()));
        }
        check("POST /todos", "", Ok(()));
        check("PATCH /todos/{id}", "Content-Type: application/merge-patch+json\r\n", Ok(()));
        check("PUT /todos/{id}", "Content-Type: application/merge-patch+json\r\n", Err(Reject::MediaType));
        for coding in ["gzip", "identity", ""] {
            let line = format!("Content-Type: application/json\r\nContent-Encoding: {coding}\r\n");
            check("POST /todos", &line, Err(Reject::ContentCoding));
            check("PATCH /todos/{id}", &line, Err(Reject::ContentCoding));
        }
        for line in ["If-Match: *\r\n", "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n"] {
            check("PUT /todos/{id}", line, Err(Reject::Precondition));
            check("DELETE /todos/{id}", line, Err(Reject::Precondition));
            check("GET /todos/{id}", line, Ok(()));
        }
    }
}
