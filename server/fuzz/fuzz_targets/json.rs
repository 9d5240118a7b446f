//! A request body, as a todo and as a patch, against what JSON is elsewhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| todo_server::http::fuzzing_json::json(data));
