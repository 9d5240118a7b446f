//! A request head, whole and byte by byte, against the oracle.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| todo_server::http::fuzzing::head(data));
