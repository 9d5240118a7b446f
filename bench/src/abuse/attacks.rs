//! The attacks: each says what one of its connections does next, and what it may cost at most.

use crate::request;
use todo_server::limits::{INPUT_BYTES_MAX, REQUEST_HEAD_BYTES_MAX, UNSENT_BYTES_MAX};

/// Todos in the lists that readers ask for and do not take: some 180 KB.
const LONG_LIST: usize = 1_000;
/// Descriptors of a server that is to run out of them.
const FEW_DESCRIPTORS: usize = 256;

/// One way to hurt a server.
#[derive(Debug)]
pub struct Attack {
    /// As an argument names it.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
    /// What the server does about it.
    pub defence: &'static str,
    /// Connections at once. One that has ended is opened again.
    pub connections_count: usize,
    /// Steps of all connections together: a connect, or what `play` says. So bounded because the attack shares its core with
    /// those who measure.
    pub steps_per_second: u32,
    /// Receive buffer of its sockets; the system's when absent.
    pub receive_bytes: Option<usize>,
    /// Goes on behind the server's end of the stream, until the connection is reset.
    pub is_stubborn: bool,
    /// Descriptor limit of the server; the default when absent.
    pub descriptors_max: Option<usize>,
    /// The server is full, so that newcomers may be turned away while it lasts.
    pub turns_newcomers_away: bool,
    /// What the server may hold for it, by its bounds, beside what each connection costs.
    pub may_hold_bytes: usize,
    /// What a connection does next.
    pub play: fn(&mut Turn<'_>) -> Act,
}

/// A connection's turn.
pub struct Turn<'a> {
    /// Steps since it was opened, from 0.
    pub step: u32,
    /// Which of all connections of the attack it is, from 0.
    pub life: u64,
    /// Seeded.
    pub random: &'a mut fastrand::Rng,
    /// What requests are made of.
    pub words: &'a Words,
}

/// What requests are made of.
pub struct Words {
    authority: String,
    token: String,
    forged: String,
}

/// What a connection does.
#[derive(Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends; what the socket does not take is tried again at the next step.
    Send(Vec<u8>),
    /// Reads so many bytes at most.
    Read(usize),
    /// Nothing, and stays.
    Wait,
    /// Ends with a reset.
    Reset,
    /// Ends as one should.
    Close,
}

impl Words {
    /// `token` is one that the server takes.
    pub fn new(authority: String, token: &str) -> Words {
        // The first character of the signature: all of its six bits count.
        let at = token.rfind('.').map_or(0, |dot| dot + 1);
        let other = if token.as_bytes().get(at) == Some(&b'A') { "B" } else { "A" };
        let mut forged = token.to_owned();
        forged.replace_range(at..(at + 1).min(token.len()), other);
        Words { authority, token: token.to_owned(), forged }
    }

    fn get(&self, target: &str) -> Vec<u8> {
        request::get(&self.authority, target)
    }

    fn lists(&self, count: usize) -> Vec<u8> {
        self.get(&request::list_target(LONG_LIST)).repeat(count)
    }

    /// The head of a POST with a token, and `framing` behind it.
    fn post(&self, token: &str, framing: &str) -> Vec<u8> {
        let authority = &self.authority;
        format!(
            "POST /todos HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\n{framing}\r\n\r\n"
        )
        .into_bytes()
    }

    /// A whole write.
    fn write(&self, token: &str) -> Vec<u8> {
        let body = br#"{"title":"of an attack"}"#;
        let mut request = self.post(token, &format!("Content-Length: {}", body.len()));
        request.extend_from_slice(body);
        request
    }
}

/// What most attacks have in common.
const PLAIN: Attack = Attack {
    name: "",
    what: "",
    defence: "",
    connections_count: 64,
    steps_per_second: 1_000,
    receive_bytes: None,
    is_stubborn: false,
    descriptors_max: None,
    turns_newcomers_away: false,
    may_hold_bytes: 0,
    play: |_| Act::Wait,
};

/// All of them.
pub static ATTACKS: [Attack; 19] = [
    Attack {
        name: "slow-head",
        what: "1,000 connections, a byte of a head each second",
        defence: "408 after HEAD_TIMEOUT_MS, counted from the head's first byte",
        connections_count: 1_000,
        play: slow_head,
        ..PLAIN
    },
    Attack {
        name: "slow-body",
        what: "1,000 connections with a good token, a byte of a body each second",
        defence: "408 after BODY_TIMEOUT_MS, counted from the end of the head",
        connections_count: 1_000,
        play: slow_body,
        ..PLAIN
    },
    Attack {
        name: "slow-read",
        what: "256 connections ask for 16 long lists each and read 8 bytes, four times a second",
        defence: "nothing is read from who does not read; bounded answers in flight; reset after PROGRESS_TIMEOUT_MS",
        connections_count: 256,
        steps_per_second: 1_024,
        receive_bytes: Some(4 * 1024),
        may_hold_bytes: UNSENT_BYTES_MAX,
        play: slow_read,
        ..PLAIN
    },
    Attack {
        name: "never-read",
        what: "256 connections ask for 80 long lists again and again and read nothing",
        defence: "the same",
        connections_count: 256,
        steps_per_second: 512,
        may_hold_bytes: UNSENT_BYTES_MAX,
        play: never_read,
        ..PLAIN
    },
    Attack {
        name: "idle",
        what: "5,000 connections that say nothing",
        defence: "no buffer for who is idle; closed after IDLE_TIMEOUT_MS",
        connections_count: 5_000,
        steps_per_second: 5_000,
        ..PLAIN
    },
    Attack {
        name: "idle-beyond",
        what: "1,000 silent connections to a server of 256 descriptors, opened again when closed",
        defence: "the longest idle one makes room; some descriptors are set aside for the store",
        connections_count: 1_000,
        descriptors_max: Some(FEW_DESCRIPTORS),
        turns_newcomers_away: true,
        ..PLAIN
    },
    Attack {
        name: "heads-beyond",
        what: "the same with half a head on each",
        defence: "who has been without a whole request longest makes room",
        connections_count: 1_000,
        descriptors_max: Some(FEW_DESCRIPTORS),
        turns_newcomers_away: true,
        play: half_head,
        ..PLAIN
    },
    Attack {
        name: "churn",
        what: "connections opened and closed, with a request, without one, by a reset: 1,000 a second",
        defence: "accepted in rounds of 64, nothing kept",
        steps_per_second: 2_400,
        play: churn,
        ..PLAIN
    },
    Attack {
        name: "huge-head",
        what: "heads of 60 KB, 300 a second",
        defence: "431 at 8 KiB, then close",
        steps_per_second: 900,
        play: huge_head,
        ..PLAIN
    },
    Attack {
        name: "endless-head",
        what: "heads that never end, 2 MB/s, whatever is answered",
        defence: "431 at 8 KiB; 256 KiB or 2 s more are read and dropped, then a reset",
        steps_per_second: 2_000,
        is_stubborn: true,
        may_hold_bytes: 64 * REQUEST_HEAD_BYTES_MAX,
        play: endless_head,
        ..PLAIN
    },
    Attack {
        name: "huge-body",
        what: "bodies of 1 GB with a good token, 16 MB/s, whatever is answered",
        defence: "413 from the head alone, then the same",
        is_stubborn: true,
        play: huge_body,
        ..PLAIN
    },
    Attack {
        name: "endless-chunks",
        what: "chunked bodies that never end, with a good token, 4 MB/s, whatever is answered",
        defence: "413 at 64 KiB, then the same",
        is_stubborn: true,
        may_hold_bytes: INPUT_BYTES_MAX,
        play: endless_chunks,
        ..PLAIN
    },
    Attack {
        name: "resets",
        what: "a read and a write, reset behind each of their bytes in turn, 1,000 a second",
        defence: "nothing is kept of a connection that has ended; a write that came whole may take effect",
        steps_per_second: 3_000,
        play: resets,
        ..PLAIN
    },
    Attack {
        name: "resets-in-answers",
        what: "8 long lists asked for, reset after some KB of them, 150 a second",
        defence: "what is in flight owns what it sends, and is let go of",
        steps_per_second: 600,
        may_hold_bytes: UNSENT_BYTES_MAX,
        play: resets_in_answers,
        ..PLAIN
    },
    Attack {
        name: "random-bytes",
        what: "up to 1,024 random bytes, 300 connections a second",
        defence: "400 and close",
        steps_per_second: 1_200,
        play: random_bytes,
        ..PLAIN
    },
    Attack {
        name: "tls",
        what: "a TLS ClientHello, 300 connections a second",
        defence: "400 and close",
        steps_per_second: 1_200,
        play: client_hello,
        ..PLAIN
    },
    Attack {
        name: "bad-tokens",
        what: "writes whose signature is wrong, 16 at once, 4,000 a second",
        defence: "401 on the shard: one HMAC, nothing crosses to the store",
        steps_per_second: 500,
        play: bad_tokens,
        ..PLAIN
    },
    Attack {
        name: "refused",
        what: "400, 404, 405, 413, 414, 415, 431, 501 and 505 in turn, 300 a second",
        defence: "ready-made answers, no log line",
        steps_per_second: 1_200,
        play: refused,
        ..PLAIN
    },
    Attack {
        name: "dear-reads",
        what: "lists of 10,000 todos, each with another cursor, 40 a second, all of it read",
        defence: "slices of the snapshot, 256 KiB of each connection a turn",
        connections_count: 8,
        steps_per_second: 1_000,
        may_hold_bytes: UNSENT_BYTES_MAX,
        play: dear_reads,
        ..PLAIN
    },
];

fn slow_head(turn: &mut Turn<'_>) -> Act {
    Act::Send(match turn.step {
        0 => half_a_head(turn.words),
        _ => vec![b'a'],
    })
}

fn slow_body(turn: &mut Turn<'_>) -> Act {
    Act::Send(match turn.step {
        0 => turn.words.post(&turn.words.token, "Content-Length: 1000"),
        _ => vec![b' '],
    })
}

fn slow_read(turn: &mut Turn<'_>) -> Act {
    if turn.step == 0 { Act::Send(turn.words.lists(16)) } else { Act::Read(8) }
}

fn never_read(turn: &mut Turn<'_>) -> Act {
    Act::Send(turn.words.lists(80))
}

fn half_head(turn: &mut Turn<'_>) -> Act {
    if turn.step == 0 { Act::Send(half_a_head(turn.words)) } else { Act::Wait }
}

fn half_a_head(words: &Words) -> Vec<u8> {
    let mut head = words.get("/todos?limit=10");
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"X-Slow: ");
    head
}

fn churn(turn: &mut Turn<'_>) -> Act {
    match (turn.life % 3, turn.step) {
        (0, 0) => Act::Close,
        (1, 0) => Act::Reset,
        (_, 0) => Act::Send(turn.words.get("/todos?limit=10")),
        _ => Act::Close,
    }
}

fn huge_head(turn: &mut Turn<'_>) -> Act {
    if turn.step > 0 {
        return Act::Read(4 * 1024);
    }
    let mut head = half_a_head(turn.words);
    head.resize(60 * 1024, b'a');
    Act::Send(head)
}

fn endless_head(turn: &mut Turn<'_>) -> Act {
    Act::Send(if turn.step == 0 { half_a_head(turn.words) } else { b"a\r\nX-More: ".repeat(93) })
}

fn huge_body(turn: &mut Turn<'_>) -> Act {
    Act::Send(match turn.step {
        0 => turn.words.post(&turn.words.token, "Content-Length: 1000000000"),
        _ => vec![b'x'; 16 * 1024],
    })
}

fn endless_chunks(turn: &mut Turn<'_>) -> Act {
    Act::Send(match turn.step {
        0 => turn.words.post(&turn.words.token, "Transfer-Encoding: chunked"),
        _ => [b"1000\r\n".as_slice(), &[b' '; 4 * 1024], b"\r\n"].concat(),
    })
}

fn resets(turn: &mut Turn<'_>) -> Act {
    if turn.step > 0 {
        return Act::Reset;
    }
    let mut stream = turn.words.get("/todos?limit=10");
    stream.extend_from_slice(&turn.words.write(&turn.words.token));
    let cut = turn.life as usize % (stream.len() + 1);
    stream.truncate(cut);
    Act::Send(stream)
}

fn resets_in_answers(turn: &mut Turn<'_>) -> Act {
    match turn.step {
        0 => Act::Send(turn.words.lists(8)),
        1 => Act::Read(turn.random.usize(1..64 * 1024)),
        _ => Act::Reset,
    }
}

fn random_bytes(turn: &mut Turn<'_>) -> Act {
    match turn.step {
        0 => {
            let length = turn.random.usize(1..=1024);
            Act::Send((0..length).map(|_| turn.random.u8(..)).collect())
        }
        1 => Act::Read(4 * 1024),
        _ => Act::Reset,
    }
}

/// A `ClientHello` of TLS 1.2: record, handshake, version, random, no session, one cipher suite, no compression.
fn client_hello(turn: &mut Turn<'_>) -> Act {
    match turn.step {
        0 => {
            let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 3];
            hello.extend((0..32).map(|_| turn.random.u8(..)));
            hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
            Act::Send(hello)
        }
        1 => Act::Read(4 * 1024),
        _ => Act::Reset,
    }
}

fn bad_tokens(turn: &mut Turn<'_>) -> Act {
    if turn.step.is_multiple_of(2) {
        Act::Send(turn.words.write(&turn.words.forged).repeat(16))
    } else {
        Act::Read(64 * 1024)
    }
}

fn refused(turn: &mut Turn<'_>) -> Act {
    match turn.step {
        0 => Act::Send(refused_request(turn.life, turn.words)),
        1 => Act::Read(4 * 1024),
        _ => Act::Reset,
    }
}

fn refused_request(number: u64, words: &Words) -> Vec<u8> {
    let line = |line: &str| format!("{line}\r\nHost: {}\r\n\r\n", words.authority).into_bytes();
    match number % 9 {
        0 => line("GET /todos?limit=x HTTP/1.1"),
        1 => words.get("/nothing"),
        2 => line("DELETE /todos HTTP/1.1"),
        3 => words.post(&words.token, "Content-Length: 65537"),
        4 => words.get(&format!("/{}", "a".repeat(REQUEST_HEAD_BYTES_MAX))),
        5 => {
            let authority = &words.authority;
            let token = &words.token;
            let head = format!("POST /todos HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n");
            format!("{head}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}").into_bytes()
        }
        6 => line(&format!("GET / HTTP/1.1{}", "\r\nX: y".repeat(65))),
        7 => words.post(&words.token, "Transfer-Encoding: gzip, chunked"),
        _ => line("GET / HTTP/3.0"),
    }
}

fn dear_reads(turn: &mut Turn<'_>) -> Act {
    if !turn.step.is_multiple_of(25) {
        return Act::Read(256 * 1024);
    }
    // Behind a random place in the last of times: nearly the whole list, never the same one.
    let after = format!("ffffffff-ffff-7fff-bfff-{:012x}", turn.random.u64(..1 << 48));
    Act::Send(turn.words.get(&format!("/todos?limit=10000&after={after}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn words() -> Words {
        Words::new("127.0.0.1:1".into(), "head.claims.Signature")
    }

    fn play(attack: &Attack, step: u32, life: u64) -> Act {
        (attack.play)(&mut Turn { step, life, random: &mut fastrand::Rng::with_seed(1), words: &words() })
    }

    #[test]
    fn names_differ_and_everything_is_said() {
        let names: HashSet<_> = ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), ATTACKS.len());
        for attack in &ATTACKS {
            assert!(!attack.what.is_empty() && !attack.defence.is_empty(), "{}", attack.name);
            assert!(attack.connections_count > 0 && attack.steps_per_second > 0, "{}", attack.name);
        }
    }

    #[test]
    fn a_forged_token_differs_in_its_signature() {
        assert_eq!(words().forged, "head.claims.Aignature");
        assert_eq!(Words::new(String::new(), "h.c.A").forged, "h.c.B");
    }

    /// Each byte of the two requests is once the last that comes, and so is none.
    #[test]
    fn resets_come_at_every_point() {
        let attack = ATTACKS.iter().find(|attack| attack.name == "resets").unwrap();
        let whole = words().get("/todos?limit=10").len() + words().write("head.claims.Signature").len();
        let lengths: HashSet<usize> = (0..=whole as u64)
            .map(|life| match play(attack, 0, life) {
                Act::Send(bytes) => bytes.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths.len(), whole + 1);
        assert_eq!(play(attack, 1, 0), Act::Reset);
    }

    #[test]
    fn a_hello_has_the_lengths_it_names() {
        let attack = ATTACKS.iter().find(|attack| attack.name == "tls").unwrap();
        let Act::Send(hello) = play(attack, 0, 0) else { panic!("it says hello") };
        assert_eq!(hello.len(), 5 + usize::from(hello[4]));
        assert_eq!(hello.len(), 9 + usize::from(hello[8]));
    }

    /// What the server refuses is tested where it refuses; here only that each of them is another request.
    #[test]
    fn refused_requests_differ() {
        let all: HashSet<_> = (0..9).map(|number| refused_request(number, &words())).collect();
        assert_eq!(all.len(), 9);
    }
}
