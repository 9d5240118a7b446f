//! A planted fault. A run that does not find it within seconds is no fuzzing.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| todo_server::http::fuzzing::must_fail(data));
