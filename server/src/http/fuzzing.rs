//! What the fuzz targets run, one function a target. The committed corpora go through the same
//! functions in the ordinary tests. Each compares the code with its oracle, and panics where they differ.

use std::fmt;
use std::sync::LazyLock;

use jsonwebtoken::{Algorithm, EncodingKey};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::bearer::Keys;
use super::body::{Body, Progress};
use super::head::{Find, Framing, Head, asks_head_only, find_end};
use super::oracle::{self, ChunkedBody};
use super::reject::Reject;
use super::route::{check_write, route};
use super::{condition, idempotency};

const SECRET: &[u8] = b"a secret of thirty-two bytes....";
const NOW_UNIX_SECONDS: u64 = 1_800_000_000;
const PAYLOAD_BYTES_MAX: usize = 4096;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new(SECRET));

/// A request head, whole and byte by byte, against the oracle. What is accepted goes on to the route.
pub fn head(data: &[u8]) {
    // Bytes that no search delimited must not harm either.
    let _any = Head::parse(data);

    let whole = find_end(data, 0);
    let mut bytewise = Ok(Find::Partial { begun: false });
    for length in 1..=data.len() {
        bytewise = find_end(&data[..length], length - 1);
        if !matches!(bytewise, Ok(Find::Partial { .. })) {
            break;
        }
    }
    assert_eq!(whole, bytewise);

    let Ok(Find::Complete { start, end }) = whole else { return };
    let bytes = &data[start..end];
    match (Head::parse(bytes), oracle::head(bytes)) {
        (Ok(head), Some(meaning)) => {
            assert_same_meaning(&head, &meaning);
            assert_eq!(asks_head_only(data), meaning.method == "HEAD");
            use_head(&head);
        }
        (Err(reject), None) => assert!(reject.closes(), "{reject:?}"),
        (found, expected) => panic!("found {found:?}, expected {expected:?}"),
    }
}

/// Compares each part of a head with what the oracle read.
pub fn assert_same_meaning(head: &Head<'_>, meaning: &oracle::Meaning) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let owned = |value: Option<&[u8]>| value.map(<[u8]>::to_vec);
    let found = oracle::Meaning {
        // The enum knows some names only; which ones is the route table's to test.
        method: meaning.method.clone(),
        http11: head.version == super::head::Version::Http11,
        authority: text(head.authority),
        path: text(head.path),
        query: text(head.query),
        framing: head.framing,
        keep_alive: head.keep_alive,
        expect_continue: head.expect_continue,
        authorization: owned(head.authorization),
        content_type: owned(head.content_type),
        content_coded: head.content_coded,
        idempotency_key: owned(head.idempotency_key),
        write_condition: head.write_condition,
        if_none_match: head.if_none_match().map(<[u8]>::to_vec).collect(),
    };
    assert_eq!(found, *meaning);
    assert_eq!(head.keep_alive_echo, head.keep_alive && !meaning.http11);
    assert_eq!(head.has_condition(), !meaning.if_none_match.is_empty());
    if head.is_plain() {
        assert_eq!(meaning.method, "GET");
        assert!(meaning.http11 && meaning.keep_alive && meaning.framing == Framing::None);
        assert!(meaning.authorization.is_none() && meaning.if_none_match.is_empty() && !meaning.expect_continue);
    }
}

fn use_head(head: &Head<'_>) {
    match route(head, 10_000) {
        Ok(route) => {
            let refused = check_write(route, head).err();
            assert!(refused.is_none_or(|reject| matches!(reject.status(), 412 | 415)));
        }
        Err(reject) => assert!(matches!(reject.status(), 400 | 404 | 405 | 501)),
    }
    if let Some(value) = head.idempotency_key {
        let key = idempotency::key(value, NOW_UNIX_SECONDS * 1000);
        assert!(key.is_ok() || key.is_err_and(|reject| reject.status() == 400));
    }
    if condition::if_none_match(head.if_none_match(), b"\"a\"") {
        // Only `*` can name a tag that the lines do not contain.
        assert!(head.if_none_match().any(|line| line.contains(&b'*') || line.contains(&b'a')));
    }
}

/// A chunked body, whole and in pieces, against the oracle. The first byte says how many of the next ones
/// are lengths of pieces.
pub fn chunked(data: &[u8]) {
    let Some((&pieces_count, rest)) = data.split_first() else { return };
    let Some((pieces, input)) = rest.split_at_checked(usize::from(pieces_count % 16)) else { return };

    let whole = decode(&[input]);
    let mut parts = Vec::new();
    let mut left = input;
    for &length in pieces {
        let (part, behind) = left.split_at(left.len().min(usize::from(length)));
        parts.push(part);
        left = behind;
    }
    parts.push(left);
    assert_eq!(whole, decode(&parts));
    assert_eq!(whole, decode(&input.chunks(1).collect::<Vec<_>>()));

    let found = match &whole {
        Ok((payload, progress)) if progress.done => ChunkedBody::Whole(payload.clone(), progress.consumed),
        Ok(_) => ChunkedBody::Partial,
        Err(_) => ChunkedBody::Refused,
    };
    assert_eq!(found, oracle::chunked(input, PAYLOAD_BYTES_MAX));
}

fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, Progress), Reject> {
    let mut body = Body::new(Framing::Chunked, PAYLOAD_BYTES_MAX)?;
    let mut dropped = body.clone();
    let mut payload = Vec::new();
    let mut total = Progress { consumed: 0, done: false };
    for part in parts {
        let read = body.read(part, &mut payload);
        assert_eq!(read, dropped.discard(part));
        let progress = read?;
        assert!(progress.done || progress.consumed == part.len());
        assert_eq!(progress.done, body.is_done());
        assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        total = Progress { consumed: total.consumed + progress.consumed, done: progress.done };
    }
    Ok((payload, total))
}

/// A token. Behind an even first byte: the field's value as it is. Behind an odd one: a token's header and
/// claims in JSON, a line each, which are signed with the right secret.
pub fn jwt(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    if mode % 2 == 0 {
        match KEYS.verify(Some(rest), NOW_UNIX_SECONDS) {
            Ok(subject) => assert!((1..=256).contains(&subject.len())),
            Err(reject) => assert_eq!(reject.status(), 401),
        }
        return;
    }
    let mut lines = rest.splitn(2, |&byte| byte == b'\n');
    let (Some(header), Some(claims)) = (lines.next(), lines.next()) else { return };
    let found = KEYS.verify(Some(&signed(SECRET, header, claims)), NOW_UNIX_SECONDS);
    let expected = subject(claims).filter(|_| header_is_ours(header));
    match found {
        Ok(subject) => assert_eq!(Some(&*subject), expected.as_deref()),
        Err(reject) => {
            assert_eq!(reject.status(), 401);
            // Other headers may break rules that the oracle does not know; this one does not.
            assert!(header != br#"{"alg":"HS256"}"# || expected.is_none(), "{reject:?}");
        }
    }
}

/// An `Authorization` value: `header` and `claims` signed with HS256, whatever they say.
pub fn signed(secret: &[u8], header: &[u8], claims: &[u8]) -> Vec<u8> {
    let message = format!("{}.{}", base64_url(header), base64_url(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("HMAC takes any key");
    format!("Bearer {message}.{signature}").into_bytes()
}

fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, &byte| bits << 8 | usize::from(byte)) << (8 * (3 - group.len()));
        for digit in 0..=group.len() {
            text.push(char::from(DIGITS[bits >> (18 - 6 * digit) & 63]));
        }
    }
    text
}

fn header_is_ours(header: &[u8]) -> bool {
    let Ok(Value::Object(header)) = serde_json::from_slice(header) else { return false };
    header.get("alg").is_some_and(|algorithm| algorithm == "HS256") && header.get("crit").is_none_or(Value::is_null)
}

fn subject(claims: &[u8]) -> Option<String> {
    let Members(members) = serde_json::from_slice(claims).ok()?;
    let registered = ["exp", "nbf", "sub", "iss", "aud"];
    if registered.iter().any(|name| members.iter().filter(|(other, _)| other == name).count() > 1) {
        return None;
    }
    let claims = Value::Object(members.into_iter().collect());
    let time = |name: &str| claims.get(name).map(|value| value.as_f64().unwrap_or(f64::NAN));
    let now = NOW_UNIX_SECONDS as f64;
    let in_time = time("exp").is_some_and(|expiry| now < expiry) && time("nbf").is_none_or(|start| start <= now);
    let subject = claims.get("sub")?.as_str()?;
    (in_time && (1..=256).contains(&subject.len())).then(|| subject.to_owned())
}

/// An object with its members as they stand: `Value` would keep the last of two with one name.
pub(super) struct Members(pub(super) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// Fails on four bytes that only a fuzzer which learns from comparisons finds: proof that fuzzing works.
pub fn must_fail(data: &[u8]) {
    if let [b't', b'0', b'D', b'!', ..] = data {
        panic!("found, as it should be");
    }
}

/// Runs each committed input of a target through it.
#[cfg(test)]
#[expect(clippy::disallowed_macros, reason = "what a test that fails shows")]
pub(crate) fn replay(target: &str, entry: fn(&[u8])) {
    let directory = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs_count = 0;
    for file in std::fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        // Shown only where the test fails: the last one is the culprit.
        println!("{}", path.display());
        entry(&std::fs::read(&path).unwrap());
        inputs_count += 1;
    }
    assert!(inputs_count >= 6, "{directory} has {inputs_count} inputs");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpora_replay() {
        replay("head", head);
        replay("chunked", chunked);
        replay("jwt", jwt);
        replay("must_fail", must_fail);
    }

    #[test]
    #[should_panic(expected = "found, as it should be")]
    fn the_planted_fault_is_there() {
        must_fail(b"t0D!");
    }

    #[test]
    fn base64_of_rfc_4648() {
        let check = |plain: &[u8], encoded| assert_eq!(base64_url(plain), encoded);
        check(b"", "");
        check(b"f", "Zg");
        check(b"fo", "Zm8");
        check(b"foo", "Zm9v");
        check(b"foob", "Zm9vYg");
        check(&[0xfb, 0xff], "-_8");
    }
}
