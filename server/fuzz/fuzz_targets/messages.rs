//! Messages of changes, any bytes, to a follower that serves.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| todo_server::control::follow::fuzzing::messages(data));
