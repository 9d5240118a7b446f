//! Every answer that is not the one asked for, as `application/problem+json` (RFC 9457).
//!
//! One line of the table below is one fault: status, type, title, what may follow, extra fields, and a
//! detail that says what to do about it. The bodies are put together by the compiler.

use std::io::Write as _;

use todo_proto::{item, route};

use super::date::DATE_BYTES;
use super::route::Allow;
use crate::admission::purses::Refused;

/// Everything else a response head says when it refuses.
#[derive(Clone, Copy, Debug)]
pub struct Envelope<'a> {
    /// The value of `Date`.
    pub date: &'a [u8; DATE_BYTES],
    /// What becomes of the connection; a reject that closes overrules it.
    pub persistence: Persistence,
    /// The request was a HEAD: the same head, and no body.
    pub head_only: bool,
    /// Further field lines, each with its CRLF.
    pub extra_fields: &'a [u8],
    /// What a page of another origin that may ask is told.
    pub origin_lines: &'a [u8],
}

/// What becomes of the connection after an answer, as the answer says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Goes on, as is the rule in HTTP/1.1: nothing is said.
    KeepAlive,
    /// Goes on because an HTTP/1.0 client asked for it, and is told so.
    KeepAliveEcho,
    /// Ends with this answer.
    Close,
}

impl Persistence {
    /// The field line that says it, CRLF included; empty where the rule says it.
    pub fn field(self) -> &'static str {
        match self {
            Persistence::KeepAlive => "",
            Persistence::KeepAliveEcho => "Connection: keep-alive\r\n",
            Persistence::Close => "Connection: close\r\n",
        }
    }
}

/// What one fault means, for people.
#[derive(Debug)]
pub struct Problem {
    /// The last segment of its type.
    pub slug: &'static str,
    /// Its status.
    pub status: u16,
    /// In a few words.
    pub title: &'static str,
    /// What to do about it.
    pub detail: &'static str,
    /// The connection ends with it.
    pub closes: bool,
}

/// What one fault is answered with.
struct Answer {
    status: u16,
    body: &'static str,
    closes: bool,
    fields: &'static str,
}

/// Writes the enum, its answers, its problems and the list of all of them from one table.
macro_rules! rejects {
    ($($name:ident $status:literal $slug:literal $title:literal $after:ident $fields:expr, $detail:expr;)*) => {
        /// Why a request is refused. `Copy` and without allocation, since refusing must be cheap.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reject {
            $(#[doc = concat!(stringify!($status), ": ", $detail)] $name,)*
            /// 400: the body is not a todo; the text says why, in letters that JSON needs not escape.
            Invalid(&'static str),
        }

        impl Reject {
            fn answer(self) -> &'static Answer {
                match self {
                    $(Reject::$name => const {
                        &Answer {
                            status: $status,
                            body: concat!(
                                "{\"type\":\"/problems/", $slug, "\",\"title\":\"", $title,
                                "\",\"status\":", $status, ",\"detail\":\"", $detail, "\"}"
                            ),
                            closes: rejects!(@closes $after),
                            fields: $fields,
                        }
                    },)*
                    Reject::Invalid(_) => const {
                        &Answer { status: 400, body: INVALID_OPENING, closes: false, fields: "" }
                    },
                }
            }
        }

        impl Reject {
            /// Every fault of the table; several may share a type, and then stand beside each other.
            pub const PROBLEMS: &[Problem] = &[
                $(Problem {
                    slug: $slug, status: $status, title: $title, detail: $detail, closes: rejects!(@closes $after),
                },)*
                Problem {
                    slug: "invalid-body", status: 400, title: "Body not understood", closes: false,
                    detail: "The detail of the answer names the field and what it must be.",
                },
            ];
        }

        /// The slugs of the types, in the order of [`Reject::index`].
        const SLUGS: &[&str] = &[$($slug,)* "invalid-body"];

        /// The variants without what they carry, for their numbers.
        enum Index { $($name,)* Invalid }

        impl Reject {
            /// A small number that tells the variants apart, below [`Reject::KINDS`]: an index for counters.
            pub fn index(self) -> usize {
                match self {
                    $(Reject::$name => Index::$name as usize,)*
                    Reject::Invalid(_) => Index::Invalid as usize,
                }
            }
        }

        #[cfg(test)]
        const ALL: &[Reject] = &[$(Reject::$name,)* Reject::Invalid("title must have 1 to 500 characters")];
    };
    (@closes close) => { true };
    (@closes go_on) => { false };
}

const INVALID_OPENING: &str =
    "{\"type\":\"/problems/invalid-body\",\"title\":\"Body not understood\",\"status\":400,\"detail\":\"";
const INVALID_ENDING: &str = "\"}";

// RFC 6750 3: without credentials no error code; with bad ones `invalid_token`.
const CHALLENGE: &str = concat!("WWW-Authenticate: Bearer realm=\"", item!(), "s\"\r\n");
const CHALLENGE_INVALID: &str =
    concat!("WWW-Authenticate: Bearer realm=\"", item!(), "s\", error=\"invalid_token\"\r\n");
const RETRY_SOON: &str = "Retry-After: 1\r\n";

rejects! {
    // The head. What follows it cannot be told apart any more, so each of these closes.
    RequestLine 400 "malformed-request-line" "Malformed request line" close "",
        "The first line must be: method, space, target, space, HTTP/1.1.";
    LineEnding 400 "bare-line-ending" "Bare CR or LF" close "",
        "Every line must end in CR LF, and neither may stand alone.";
    Field 400 "malformed-field" "Malformed header field" close "",
        "A field must be: name, colon, value, on one line, without space before the colon and without control bytes.";
    RepeatedField 400 "repeated-field" "Header field repeated" close "",
        "Authorization, Content-Type and Idempotency-Key may each be sent once.";
    Target 400 "malformed-target" "Malformed request target" close "",
        "The target must be a path, or an http URI, with every other byte percent-encoded; * only with OPTIONS.";
    Host 400 "invalid-host" "Host missing or invalid" close "",
        "HTTP/1.1 needs exactly one Host field: a name or address, and optionally a port.";
    ContentLength 400 "invalid-content-length" "Invalid Content-Length" close "",
        "Content-Length must be sent once, as digits alone.";
    TransferEncoding 400 "invalid-transfer-encoding" "Invalid Transfer-Encoding" close "",
        "Transfer-Encoding must be chunked, once and last, in HTTP/1.1 only, and without Content-Length.";
    Connection 400 "invalid-connection" "Invalid Connection field" close "",
        "Connection must be a list of tokens.";
    RequestTimeout 408 "request-timeout" "Request too slow" close "",
        "The request was not complete in time. Send it again, faster.";
    UriTooLong 414 "uri-too-long" "Request line too long" close "",
        "The request line alone is over the 8 KiB that a whole head may have.";
    Expectation 417 "expectation-failed" "Expectation unknown" close "",
        "Expect may only be 100-continue.";
    HeadTooLarge 431 "head-too-large" "Request head too large" close "",
        "Request line and header fields may have 8 KiB together.";
    TooManyFields 431 "too-many-fields" "Too many header fields" close "",
        "A request may have 64 header fields.";
    CodingUnknown 501 "transfer-coding-unknown" "Transfer coding not implemented" close "",
        "Send the body as it is or with chunked alone.";
    Connect 501 "connect-not-implemented" "CONNECT not implemented" close "",
        "This is an origin server, not a proxy.";
    Version 505 "version-not-supported" "HTTP version not supported" close "",
        "This server speaks HTTP/1.1 and HTTP/1.0.";

    // The body's framing: likewise.
    Chunk 400 "malformed-chunk" "Malformed chunk" close "",
        "A chunk must be: size in hexadecimal digits, CR LF, that many bytes, CR LF. Extensions may have 1 KiB in all.";
    Trailer 400 "malformed-trailer" "Malformed trailer field" close "",
        "A trailer field must be formed like a header field.";
    BodyTooLarge 413 "body-too-large" "Body too large" close "",
        "A body may have 64 KiB.";
    TrailersTooLarge 431 "trailers-too-large" "Trailer section too large" close "",
        "Trailer fields may have 4 KiB together.";

    // What was asked for.
    LimitOutOfRange 400 "limit-out-of-range" "Limit out of range" go_on "",
        "limit must be a whole number from 1 to the server's LIMIT_MAX, which is 10000 unless set otherwise.";
    LimitRepeated 400 "limit-repeated" "Limit repeated" go_on "",
        "limit may be given once.";
    AfterInvalid 400 "after-invalid" "No such position" go_on "",
        "after must be the id of a todo, as the list shows it.";
    AfterRepeated 400 "after-repeated" "Position repeated" go_on "",
        "after may be given once.";
    ProfileParameter 400 "profile-parameter" "Parameter of a profile out of range" go_on "",
        "seconds must be a whole number from 1 to 60, and hz, samples for a second of CPU time, one from 1 to 250; each at most once.";
    NotFound 404 "not-found" "Not found" go_on "",
        concat!("There is nothing here. What there is, is at ", route!(), " and ", route!(), "/{id}, and named at /.");
    MethodNotAllowedOnList 405 "method-not-allowed" "Method not allowed" go_on Allow::List.fields(),
        "The list takes GET, HEAD, POST and OPTIONS.";
    MethodNotAllowedOnItem 405 "method-not-allowed" "Method not allowed" go_on Allow::Item.fields(),
        "A todo takes GET, HEAD, PUT, PATCH, DELETE and OPTIONS.";
    MethodNotAllowedOnProbe 405 "method-not-allowed" "Method not allowed" go_on Allow::Probe.fields(),
        "This takes GET, HEAD and OPTIONS.";
    MethodUnknown 501 "method-not-implemented" "Method not implemented" go_on "",
        "Use GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS.";

    // Who asks.
    TokenMissing 401 "token-missing" "Token needed" go_on CHALLENGE,
        "Send Authorization: Bearer and a token. `todo-server token --sub NAME` makes one.";
    TokenMalformed 401 "token-malformed" "Token malformed" go_on CHALLENGE_INVALID,
        "The token is no JWT that this server reads: HS256, no crit, at most 4 KiB.";
    TokenUntrusted 401 "token-untrusted" "Token not signed by this server's secret" go_on CHALLENGE_INVALID,
        "Sign with HS256 and the secret this server was started with.";
    TokenClaims 401 "token-claims" "Token without the needed claims" go_on CHALLENGE_INVALID,
        "The token needs a numeric exp and a sub of 1 to 256 bytes; nbf, where present, must be a number.";
    TokenExpired 401 "token-expired" "Token expired" go_on CHALLENGE_INVALID,
        "The token's exp has passed. Get a new one.";
    TokenNotYetValid 401 "token-not-yet-valid" "Token not yet valid" go_on CHALLENGE_INVALID,
        "The token's nbf has not come yet.";

    // What was sent with it.
    IdempotencyKeyInvalid 400 "idempotency-key-invalid" "Idempotency-Key invalid" go_on "",
        "Idempotency-Key must be a UUIDv7, bare or in double quotes.";
    IdempotencyKeyTime 400 "idempotency-key-time" "Idempotency-Key too old or too new" go_on "",
        "The time in an Idempotency-Key must be at most 24 hours past and 60 seconds ahead. Make a new one.";
    Precondition 412 "precondition-not-evaluated" "Conditional write not supported" go_on "",
        "A write is decided when it is applied, so If-Match and If-Unmodified-Since cannot be promised. Send it without.";
    MediaType 415 "media-type" "Media type not supported" go_on "Accept: application/json\r\n",
        "Send the todo as application/json in UTF-8.";
    PatchMediaType 415 "media-type" "Media type not supported" go_on
        "Accept-Patch: application/merge-patch+json, application/json\r\n",
        "Send the patch as application/merge-patch+json in UTF-8.";
    ContentCoding 415 "content-coding" "Content coding not supported" go_on "Accept-Encoding: identity\r\n",
        "Send the body without Content-Encoding.";

    // Too much of it.
    RequestsTooMany 429 "too-many-requests" "Too many requests" go_on RETRY_SOON,
        "This address has asked more than it may for now. The request was not looked at. Wait a second.";
    WritesTooMany 429 "too-many-writes" "Too many writes" go_on RETRY_SOON,
        "The token's sub has written more than it may for now. The write was not taken. Wait a second.";
    ConnectionsTooMany 429 "too-many-connections" "Too many connections" close RETRY_SOON,
        "This address has as many connections open as it may. Close some, or use them for more than one request.";
    ConnectionsTooFast 429 "connecting-too-fast" "Connecting too fast" close RETRY_SOON,
        "This address opens more connections a second than it may. Keep one open, and wait a second for another.";

    // Nobody's fault for long.
    QueueFull 503 "queue-full" "Too many writes waiting" go_on RETRY_SOON,
        "The write was not taken. Send it again in a second.";
    NotAppended 503 "not-appended" "Write not taken" go_on RETRY_SOON,
        "The log did not take the write, and it will not take effect. Send it again.";
    OutcomeUnknown 503 "outcome-unknown" "Outcome unknown" go_on "",
        "The write may or may not take effect. PUT, PATCH and DELETE can be sent again as they are; send a POST again with the Idempotency-Key of this answer.";
    StoreUnavailable 503 "store-unavailable" "Store away" go_on RETRY_SOON,
        "What answers this cannot be reached at the moment. /ready says more. Try again.";
    WatchersFull 503 "watchers-full" "Too many dashboards open" go_on RETRY_SOON,
        "As many connections watch the dashboard as may. Close one, or try again in a moment.";
    ProfileRunning 503 "profile-running" "A profile is being taken" go_on RETRY_SOON,
        "One profile is taken at a time. Try again when the other has ended, which is within a minute.";
    ProfileFolder 503 "profile-unavailable" "No profile can be taken" go_on "",
        "A profile needs a folder for a temporary file. Set TMPDIR to one that this process may write to, or make /tmp so.";
    ProfileProgram 503 "profile-unavailable" "No profile can be taken" go_on "",
        "The program's file has been replaced since this process began, so names would be wrong. `todo-server upgrade`, then try again.";
    ProfileTimer 503 "profile-unavailable" "No profile can be taken" go_on "",
        "The timer is refused: setitimer(2) with ITIMER_PROF, and SIGPROF, must be allowed by kernel and container. The log says more.";
    Draining 503 "draining" "Shutting down" close RETRY_SOON,
        "This server is shutting down. Connect again.";
}

impl From<Refused> for Reject {
    fn from(refused: Refused) -> Reject {
        match refused {
            Refused::TooMany => Reject::ConnectionsTooMany,
            Refused::TooFast => Reject::ConnectionsTooFast,
        }
    }
}

impl Reject {
    /// How many kinds there are.
    pub const KINDS: usize = SLUGS.len();

    /// The slug of the problem type of the kind with this index.
    pub fn slug(index: usize) -> &'static str {
        SLUGS[index]
    }

    /// The 405 of a resource that takes what `allow` says.
    pub fn method_not_allowed(allow: Allow) -> Reject {
        match allow {
            Allow::List => Reject::MethodNotAllowedOnList,
            Allow::Item => Reject::MethodNotAllowedOnItem,
            // Every method that is known is allowed on `*`: only OPTIONS can name it.
            Allow::Probe | Allow::Server => Reject::MethodNotAllowedOnProbe,
        }
    }

    /// The status code, 400 to 599.
    pub fn status(self) -> u16 {
        self.answer().status
    }

    /// Whether the connection must end, because where the next request begins is no longer known.
    pub fn closes(self) -> bool {
        self.answer().closes
    }

    /// The field lines that belong to this answer alone, each with its CRLF.
    pub fn fields(self) -> &'static str {
        self.answer().fields
    }

    /// The body, in pieces to be sent one after the other; unused ones are empty.
    pub fn body(self) -> [&'static str; 3] {
        match self {
            Reject::Invalid(detail) => {
                debug_assert!(detail.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\'));
                [INVALID_OPENING, detail, INVALID_ENDING]
            }
            ready_made => [ready_made.answer().body, "", ""],
        }
    }

    /// Appends the whole answer to `output`: some 300 to 600 bytes, or the head of it for HEAD.
    #[cold]
    pub fn write(self, envelope: &Envelope<'_>, output: &mut Vec<u8>) {
        let answer = self.answer();
        let body = self.body();
        let persistence = if answer.closes { Persistence::Close } else { envelope.persistence };
        write!(
            output,
            "HTTP/1.1 {} {}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\nDate: ",
            answer.status,
            reason(answer.status),
            body.iter().map(|piece| piece.len()).sum::<usize>(),
        )
        .expect("a Vec takes every byte");
        output.extend_from_slice(envelope.date);
        output.extend_from_slice(b"\r\n");
        output.extend_from_slice(answer.fields.as_bytes());
        output.extend_from_slice(envelope.extra_fields);
        output.extend_from_slice(envelope.origin_lines);
        output.extend_from_slice(persistence.field().as_bytes());
        output.extend_from_slice(b"\r\n");
        if !envelope.head_only {
            body.iter().for_each(|piece| output.extend_from_slice(piece.as_bytes()));
        }
    }
}

/// The reason phrase of a status code that the table uses (RFC 9110 15). Empty, which RFC 9112 4 allows,
/// for any other.
fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;

    const DATE: &[u8; DATE_BYTES] = b"Sun, 06 Nov 1994 08:49:37 GMT";

    fn written(reject: Reject, persistence: Persistence, head_only: bool, extra_fields: &[u8]) -> String {
        let mut output = Vec::new();
        reject.write(&Envelope { date: DATE, persistence, head_only, extra_fields, origin_lines: b"" }, &mut output);
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn every_reject_is_a_problem_with_its_own_status() {
        for &reject in ALL {
            let text = written(reject, Persistence::KeepAlive, false, b"");
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {} {}\r\n", reject.status(), reason(reject.status()))));
            assert_ne!(reason(reject.status()), "", "{reject:?}");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{reject:?}");
            assert_eq!(head.contains("Connection: close"), reject.closes(), "{reject:?}");
            assert!(head.split("\r\n").skip(1).all(|line| line.contains(": ")), "{reject:?}: {head}");

            let problem: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(problem["status"], reject.status(), "{reject:?}");
            assert!(problem["type"].as_str().unwrap().starts_with("/problems/"), "{reject:?}");
            assert!(!problem["title"].as_str().unwrap().is_empty(), "{reject:?}");
            assert!(problem["detail"].as_str().unwrap().len() > 15, "{reject:?}");
            assert_eq!(problem.as_object().unwrap().len(), 4, "{reject:?}");
        }
    }

    #[test]
    fn one_type_means_one_title_and_status() {
        let mut seen = std::collections::HashMap::new();
        for &reject in ALL {
            let problem: serde_json::Value = serde_json::from_str(&reject.body().concat()).unwrap();
            let meaning = (problem["title"].clone(), problem["status"].clone());
            let first = seen.entry(problem["type"].to_string()).or_insert_with(|| meaning.clone());
            assert_eq!(*first, meaning, "{reject:?}");
        }
    }

    #[test]
    fn details_name_the_limits_in_force() {
        let check = |reject: Reject, figure: String| assert!(reject.body().concat().contains(&figure), "{reject:?}");
        let kib = |bytes: usize| format!("{} KiB", bytes / 1024);
        check(Reject::UriTooLong, kib(limits::REQUEST_HEAD_BYTES_MAX));
        check(Reject::HeadTooLarge, kib(limits::REQUEST_HEAD_BYTES_MAX));
        check(Reject::BodyTooLarge, kib(limits::REQUEST_BODY_BYTES_MAX));
        check(Reject::TrailersTooLarge, kib(limits::TRAILER_BYTES_MAX));
        check(Reject::Chunk, kib(limits::CHUNK_EXTENSION_BYTES_MAX));
        check(Reject::TokenMalformed, kib(limits::TOKEN_BYTES_MAX));
        check(Reject::TokenClaims, format!("{} bytes", limits::TOKEN_SUBJECT_BYTES_MAX));
        check(Reject::TooManyFields, limits::REQUEST_FIELDS_MAX.to_string());
        check(Reject::LimitOutOfRange, limits::LIST_LIMIT_MAX.to_string());
        check(Reject::ProfileParameter, format!("1 to {},", limits::PROFILE_SECONDS_MAX));
        check(Reject::ProfileParameter, format!("1 to {};", limits::PROFILE_HZ_MAX));
        check(Reject::IdempotencyKeyTime, format!("{} hours", limits::IDEMPOTENCY_KEY_BEHIND_MS_MAX / 3_600_000));
        check(Reject::IdempotencyKeyTime, format!("{} seconds", limits::IDEMPOTENCY_KEY_AHEAD_MS_MAX / 1000));
    }

    #[test]
    fn fields_that_the_rfcs_ask_for() {
        let check = |reject: Reject, line: &str| {
            let text = written(reject, Persistence::KeepAlive, true, b"");
            assert!(text.contains(&format!("\r\n{line}\r\n")), "{text}");
        };
        check(Reject::MethodNotAllowedOnList, "Allow: GET, HEAD, POST, OPTIONS");
        check(Reject::MethodNotAllowedOnItem, "Allow: GET, HEAD, PUT, PATCH, DELETE, OPTIONS");
        check(Reject::MethodNotAllowedOnProbe, "Allow: GET, HEAD, OPTIONS");
        check(Reject::TokenMissing, "WWW-Authenticate: Bearer realm=\"todos\"");
        check(Reject::TokenExpired, "WWW-Authenticate: Bearer realm=\"todos\", error=\"invalid_token\"");
        check(Reject::PatchMediaType, "Accept-Patch: application/merge-patch+json, application/json");
        check(Reject::QueueFull, "Retry-After: 1");
        check(Reject::NotAppended, "Retry-After: 1");
        check(Reject::RequestsTooMany, "Retry-After: 1");
        check(Reject::ConnectionsTooMany, "Retry-After: 1");
        assert!(!written(Reject::OutcomeUnknown, Persistence::KeepAlive, true, b"").contains("Retry-After"));
    }

    #[test]
    fn the_envelope_is_followed() {
        let whole = written(Reject::NotFound, Persistence::KeepAliveEcho, false, b"");
        let head = written(Reject::NotFound, Persistence::KeepAliveEcho, true, b"");
        assert_eq!(whole, head.clone() + &Reject::NotFound.body().concat());
        assert!(head.contains("\r\nConnection: keep-alive\r\n"));
        assert!(head.contains("\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"));
        assert!(!written(Reject::NotFound, Persistence::KeepAlive, true, b"").contains("Connection"));
        assert!(written(Reject::NotFound, Persistence::Close, true, b"").contains("\r\nConnection: close\r\n"));
        assert!(written(Reject::Target, Persistence::KeepAliveEcho, true, b"").contains("\r\nConnection: close\r\n"));
        let extra = written(Reject::OutcomeUnknown, Persistence::KeepAlive, true, b"Idempotency-Key: \"k\"\r\n");
        assert!(extra.contains("\r\nIdempotency-Key: \"k\"\r\n"));
    }
}
