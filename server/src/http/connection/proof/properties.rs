//! Machine and oracle agree on every stream, however it travels.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;

use super::drive::{Plan, drive};
use super::streams::stream;
use super::world::{BEARER, id_at};

/// A plan that owns its parts, and shows its input as text when it fails.
#[derive(Clone)]
struct Owned {
    input: Vec<u8>,
    choices: Vec<u8>,
    is_floored: bool,
    ends: bool,
    has_deadlines: bool,
}

impl Owned {
    fn plan(&self) -> Plan<'_> {
        let Owned { input, choices, is_floored, ends, has_deadlines } = self;
        Plan { input, pieces: &[], choices, is_floored: *is_floored, ends: *ends, has_deadlines: *has_deadlines }
    }
}

impl fmt::Debug for Owned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.plan().fmt(formatter)
    }
}

fn plan(has_deadlines: bool) -> impl Strategy<Value = Owned> {
    (stream(), vec(any::<u8>(), 0..400), any::<bool>(), any::<bool>())
        .prop_map(move |(input, choices, is_floored, ends)| Owned { input, choices, is_floored, ends, has_deadlines })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn machine_and_oracle_agree(owned in plan(false)) {
        drive(&owned.plan());
    }

    #[test]
    fn they_agree_up_to_a_deadline(owned in plan(true)) {
        drive(&owned.plan());
    }
}

/// Pipelined streams that meet every way a request can come and be answered.
fn fixed_streams() -> Vec<String> {
    let host = "Host: a\r\n";
    let bearer = format!("Authorization: {}\r\n", *BEARER);
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\n{host}\r\n");
    let post = |title: &str, more: &str| {
        let body = format!("{{\"title\":\"{title}\"}}");
        format!("POST /todos HTTP/1.1\r\n{host}{bearer}{more}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let chunked = |more: &str| {
        format!(
            "PATCH /todos/{} HTTP/1.1\r\n{host}{more}Transfer-Encoding: chunked\r\n\r\n\
             4;a=b\r\n{{\"ti\r\na\r\ntle\":\"é\"}}\r\n0\r\nT: x\r\n\r\n",
            id_at(3)
        )
    };
    let smuggled = get("/todos?limit=1");
    let with_body = |line: &str, more: &str| {
        format!("{line} HTTP/1.1\r\n{host}{more}Content-Length: {}\r\n\r\n{smuggled}", smuggled.len())
    };
    vec![
        // Known heads, the same and another in between, with an empty line before.
        [get("/todos?limit=2").repeat(3), format!("\r\n{}", get("/health")), get("/todos?limit=2").repeat(2)].concat(),
        // Writes, one refused in between, then a read.
        [post("a", ""), post("", ""), post("b", ""), get("/todos?limit=1"), post("c", "Expect: 100-continue\r\n")]
            .concat(),
        // A chunked write, one without a token, and what is behind them.
        [chunked(&bearer), chunked(""), get("/todos?limit=2")].concat(),
        // Bodies that nobody reads, that of a deferred page too.
        [with_body("GET /ready", ""), with_body("PUT /todos", ""), with_body("OPTIONS *", ""), get("/metrics")]
            .concat(),
        // A close in the middle, a fault in the middle.
        [get("/nothing"), with_body("GET /health", "Connection: close\r\n"), get("/health")].concat(),
        [
            get("/todos?limit=1"),
            "HEAD /todos?limit=x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".into(),
            "GET /\n".into(),
        ]
        .concat(),
        [with_body("POST /todos", "Expect: 100-continue\r\n"), get("/health")].concat(),
    ]
}

#[test]
fn every_split_of_fixed_streams_gives_the_same_answers() {
    for stream in fixed_streams() {
        let input = stream.as_bytes();
        let bytewise = vec![1; input.len()];
        let check = |pieces: &[usize], choices: &[u8], is_floored: bool| {
            drive(&Plan { input, pieces, choices, is_floored, ends: true, has_deadlines: false });
        };
        for length in 1..=input.len() {
            check(&[length], &[], false);
            // Ended there.
            let (input, pieces) = (&input[..length], &[]);
            drive(&Plan { input, pieces, choices: &[], is_floored: false, ends: true, has_deadlines: false });
            drive(&Plan { input, pieces, choices: &[], is_floored: false, ends: false, has_deadlines: false });
        }
        check(&bytewise, &[], false);
        check(&bytewise, &[1; 2_000], true);
    }
}

#[test]
fn every_short_write_gives_the_same_answers() {
    for stream in fixed_streams() {
        for first in 1..=255 {
            // The second choice of a read, its length, and of a write is the one that counts.
            let choices = [0, 0, first, first, 0, first];
            let input = stream.as_bytes();
            drive(&Plan { input, pieces: &[], choices: &choices, is_floored: false, ends: true, has_deadlines: false });
        }
    }
}
