//! HTTP/1.1 as pure functions and one pure state machine: bytes in, meaning out. No I/O, no clock, no runtime.
//!
//! - [`connection`]: one connection as a state machine, which draws on all of the following.
//! - [`site`]: what its decisions draw on.
//! - [`proxy_header`]: whose connection it is, where a proxy says that.
//! - [`head`]: a request head, found and understood (RFC 9112 3, 5 and 6.3).
//! - [`known`]: heads that need no second parse.
//! - [`body`]: a body's payload, by length or by chunks (RFC 9112 6 and 7.1).
//! - [`route`]: what a head asks for.
//! - [`pages`]: what never changes: the landing page, the API's description, the problems.
//! - [`access`]: what the access log is made of.
//! - [`bearer`]: who asks (RFC 6750, RFC 7519).
//! - [`condition`]: `If-None-Match` (RFC 9110 13.1.2).
//! - [`cors`]: which pages of other origins may ask from a browser.
//! - [`idempotency`]: the `Idempotency-Key` of a POST.
//! - [`reject`]: every answer that is the peer's fault, or nobody's at the moment (RFC 9457).
//! - [`reply`]: the head of every other answer.
//! - [`output`]: what a connection owes, and what keeps it alive.
//! - [`date`]: the `Date` field, made once a second.
//! - [`syntax`]: the byte classes of the RFCs, and lists.

pub mod access;
pub mod bearer;
pub mod body;
pub mod condition;
pub mod connection;
pub mod cors;
pub mod date;
pub mod head;
pub mod idempotency;
pub mod known;
pub mod output;
pub mod pages;
pub mod proxy_header;
pub mod reject;
pub mod reply;
pub mod route;
pub mod site;
pub mod syntax;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing_connection;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing_json;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing_proxy;
#[cfg(any(test, fuzzing))]
mod oracle;
