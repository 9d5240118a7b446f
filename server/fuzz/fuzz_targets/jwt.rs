//! A bearer token, as it comes or signed with the right secret, against the oracle.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| todo_server::http::fuzzing::jwt(data));
