//! Streams of requests, good and bad, for the property tests.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::world::{BEARER, ITEMS_COUNT, WALL_MS, id_at};

/// Up to sixteen requests, now and then with a few bytes changed or cut off.
pub fn stream() -> impl Strategy<Value = Vec<u8>> {
    let whole = vec(requests(), 1..12).prop_map(|parts| parts.concat());
    let place = any::<prop::sample::Index>();
    let damage = prop_oneof![
        6 => Just(Vec::new()),
        1 => vec((place, any::<u8>()), 1..3),
    ];
    (whole, damage, prop::option::weighted(0.3, any::<prop::sample::Index>())).prop_map(|(mut bytes, damage, cut)| {
        for (place, byte) in damage {
            let at = place.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()) + 1);
        }
        bytes
    })
}

/// One request, often several times in a row, as clients of a benchmark send it.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![8 => read(), 8 => write(), 3 => other(), 1 => garbage()];
    (one, prop_oneof![3 => Just(1usize), 2 => 2..5usize, 1 => 60..90usize])
        .prop_map(|(request, times)| if request.len() > 2_000 { request } else { request.repeat(times) })
}

fn read() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![8 => Just("GET"), 1 => Just("HEAD")];
    let target = prop_oneof![
        4 => select(&[1, 2, 3, 10, 50, 99, 101, 150, 10_000][..]).prop_map(|limit| format!("/todos?limit={limit}")),
        2 => (0..ITEMS_COUNT + 5, 1..40u32)
            .prop_map(|(index, limit)| format!("/todos?after={}&limit={limit}", id_at(index))),
        3 => (0..ITEMS_COUNT + 5).prop_map(|index| format!("/todos/{}", id_at(index))),
        1 => select(&["/health", "/ready", "/metrics", "/dashboard/events", "/todos?limit=0", "/todos?limit=x", "/nothing"][..])
            .prop_map(str::to_owned),
        1 => Just("/todos".to_owned()),
    ];
    (method, target, version(), fields(false))
        .prop_map(|(method, target, version, fields)| head(method, &target, version, &fields, b""))
}

fn write() -> impl Strategy<Value = Vec<u8>> {
    let target = prop_oneof![
        5 => Just(("POST", "/todos".to_owned())),
        3 => (select(&["PUT", "PATCH", "DELETE"][..]), 0..9u64)
            .prop_map(|(method, index)| (method, format!("/todos/{}", id_at(index)))),
        // Too far ahead to name anything.
        1 => Just(("PUT", format!("/todos/{}", todo_proto::id::ItemId::from_parts(WALL_MS + 60_001, 1)))),
    ];
    let body = prop_oneof![
        6 => (0..40usize).prop_map(|length| format!("{{\"title\":\"{}\"}}", "t".repeat(length + 1))),
        2 => Just("{\"title\":\"\"}".to_owned()),
        1 => Just("{".to_owned()),
        1 => Just(String::new()),
        1 => (300..40_000usize).prop_map(|length| format!("{{\"title\":\"t\",\"x\":\"{}\"}}", "y".repeat(length))),
        1 => Just("z".repeat(70_000)),
    ];
    let token = prop_oneof![6 => Just(true), 1 => Just(false)];
    (target, version(), fields(true), token, body, any::<bool>(), 1..70usize).prop_map(
        |((method, target), version, mut fields, has_token, body, is_chunked, chunk)| {
            if has_token {
                fields.push_str(&format!("Authorization: {}\r\n", *BEARER));
            }
            framed(
                method,
                &target,
                version,
                &fields,
                body.as_bytes(),
                (is_chunked && version == "1.1").then_some(chunk),
            )
        },
    )
}

/// What has no answer of its own, with bodies that must be read over.
fn other() -> impl Strategy<Value = Vec<u8>> {
    let request = select(
        &[
            ("OPTIONS", "*"),
            ("OPTIONS", "/todos"),
            ("OPTIONS", "/health"),
            ("PUT", "/todos"),
            ("POST", "/health"),
            ("DELETE", "/ready"),
            ("BREW", "/todos"),
            ("TRACE", "/todos"),
            ("CONNECT", "a:80"),
            ("POST", "/nothing"),
            ("GET", "/metrics"),
            ("GET", "/ready"),
            ("GET", "/todos?limit=3"),
            ("HEAD", "/nothing"),
        ][..],
    );
    let body = prop_oneof![
        2 => Just(Vec::new()),
        3 => Just(b"GET /todos?limit=1 HTTP/1.1\r\nHost: smuggled\r\n\r\n".to_vec()),
        1 => Just(vec![b'b'; 3_000]),
        1 => Just(vec![b'b'; 65_537]),
    ];
    (request, version(), fields(false), body, any::<bool>(), 1..70usize).prop_map(
        |((method, target), version, fields, body, is_chunked, chunk)| {
            framed(method, target, version, &fields, &body, (is_chunked && version == "1.1").then_some(chunk))
        },
    )
}

fn garbage() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        Just(b"\x16\x03\x01\x02\x00\x01".to_vec()),
        Just(b"GET /todos HTTP/2.0\r\nHost: a\r\n\r\n".to_vec()),
        Just(b"GET /todos HTTP/1.1\r\n\r\n".to_vec()),
        Just(b"HEAD /todos HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec()),
        Just(b"GET /todos HTTP/1.1\nHost: a\n\n".to_vec()),
        Just(b"GET /todos HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n".to_vec()),
        Just(b"POST /todos HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()),
        Just([b"GET /todos HTTP/1.1\r\nHost: a\r\nX: ".as_slice(), &[b'x'; 8_300], b"\r\n\r\n"].concat()),
        Just([b"GET /".as_slice(), &[b'x'; 8_300], b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat()),
        vec(any::<u8>(), 1..40),
    ]
}

fn version() -> impl Strategy<Value = &'static str> {
    prop_oneof![12 => Just("1.1"), 1 => Just("1.0")]
}

/// Field lines that change what happens, seldom.
fn fields(is_write: bool) -> impl Strategy<Value = String> {
    let common = select(
        &[
            "Connection: close\r\n",
            "Connection: keep-alive\r\n",
            "Expect: 100-continue\r\n",
            "Expect: a-coffee\r\n",
            "Upgrade: h2c\r\n",
            "User-Agent: somebody\r\n",
            "If-None-Match: *\r\n",
            "If-None-Match: \"x\", W/\"y\"\r\n",
        ][..],
    );
    let of_writes = select(
        &[
            "Content-Type: application/json\r\n",
            "Content-Type: text/plain\r\n",
            "Content-Encoding: gzip\r\n",
            "If-Match: \"x\"\r\n",
            "Idempotency-Key: 018f4e2a-7b1c-7def-8123-456789abcdef\r\n",
            "Idempotency-Key: 01a3185c-5000-7def-8123-456789abcdef\r\n",
            "Authorization: Basic YTpi\r\n",
        ][..],
    );
    let none = Just(String::new());
    let one =
        prop_oneof![2 => common.prop_map(str::to_owned), u32::from(is_write) => of_writes.prop_map(str::to_owned)];
    prop_oneof![4 => none, 1 => vec(one, 1..3).prop_map(|lines| lines.concat())]
}

fn head(method: &str, target: &str, version: &str, fields: &str, body: &[u8]) -> Vec<u8> {
    [format!("{method} {target} HTTP/{version}\r\nHost: a\r\n{fields}\r\n").as_bytes(), body].concat()
}

/// A request with its body, in chunks of at most so many bytes where a number is given.
fn framed(method: &str, target: &str, version: &str, fields: &str, body: &[u8], chunk: Option<usize>) -> Vec<u8> {
    let Some(chunk) = chunk else {
        let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        return head(method, target, version, &format!("{fields}{length}"), body);
    };
    let mut chunked = Vec::new();
    // Large bodies would be slow in small pieces, and no other than in large ones.
    for piece in body.chunks(if body.len() > 1_000 { 20_000 } else { chunk }) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(piece);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    head(method, target, version, &format!("{fields}Transfer-Encoding: chunked\r\n"), &chunked)
}
