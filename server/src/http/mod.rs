//! HTTP/1.1 as pure functions: bytes in, meaning out. No I/O, no clock, no runtime.
//!
//! - [`syntax`]: the byte classes of the RFCs, and lists.
//! - [`head`]: a request head, found and understood (RFC 9112 3, 5 and 6.3).
//! - [`body`]: a body's payload, by length or by chunks (RFC 9112 6 and 7.1).
//! - [`route`]: what a head asks for.
//! - [`bearer`]: who asks (RFC 6750, RFC 7519).
//! - [`condition`]: `If-None-Match` (RFC 9110 13.1.2).
//! - [`idempotency`]: the `Idempotency-Key` of a POST.
//! - [`date`]: the `Date` field, made once a second.
//! - [`reject`]: every answer that is the peer's fault, or nobody's at the moment (RFC 9457).

pub mod bearer;
pub mod body;
pub mod condition;
pub mod date;
pub mod head;
pub mod idempotency;
pub mod reject;
pub mod route;
pub mod syntax;

#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(any(test, fuzzing))]
mod oracle;
