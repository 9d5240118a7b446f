//! A chunked body, whole and in pieces, against the oracle.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| todo_server::http::fuzzing::chunked(data));
