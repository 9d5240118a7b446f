//! The connection machine, driven as the input says, against an oracle that answers one request at a time.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| todo_server::http::fuzzing_connection::connection(data));
