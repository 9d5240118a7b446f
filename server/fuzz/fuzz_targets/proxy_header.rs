//! A PROXY header, whole and byte by byte, against a second reader.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| todo_server::http::fuzzing_proxy::proxy_header(data));
