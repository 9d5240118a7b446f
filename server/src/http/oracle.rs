//! Slow, simple readers of the same grammar, to compare the fast ones with. Written line by line from
//! the RFCs, and sharing nothing with what they judge.

use super::head::Framing;

/// What the oracle finds in a head, in plain words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meaning {
    pub method: String,
    pub http11: bool,
    pub authority: String,
    pub path: String,
    pub query: String,
    pub framing: Framing,
    pub keep_alive: bool,
    pub expect_continue: bool,
    pub authorization: Option<Vec<u8>>,
    pub content_type: Option<Vec<u8>>,
    pub content_coded: bool,
    pub idempotency_key: Option<Vec<u8>>,
    pub write_condition: bool,
    pub if_none_match: Vec<Vec<u8>>,
}

/// Reads one complete head; `None` where it has to be refused.
pub fn head(bytes: &[u8]) -> Option<Meaning> {
    // One char a byte, so that the text functions of the standard library do the rest.
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let text = text.strip_suffix("\r\n\r\n")?;
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let &[method, target, version] = words.as_slice() else { return None };
    if !is_token(method) || target.is_empty() {
        return None;
    }
    let http11 = match version {
        "HTTP/1.1" => true,
        "HTTP/1.0" => false,
        _ => return None,
    };

    let mut fields: Vec<(String, &str)> = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let visible = |c: char| c == '\t' || (' '..='~').contains(&c) || c >= '\u{80}';
        if !is_token(name) || !value.chars().all(visible) {
            return None;
        }
        fields.push((name.to_ascii_lowercase(), trim(value)));
    }
    if fields.len() > 64 {
        return None;
    }
    let values = |name: &str| -> Vec<&str> {
        fields.iter().filter(|(other, _)| other == name).map(|(_, value)| *value).collect()
    };
    let at_most_one = |name: &str| -> Option<Option<&str>> {
        let values = values(name);
        (values.len() <= 1).then(|| values.first().copied())
    };
    let members = |name: &str| -> Vec<String> {
        let joined = values(name).join(",");
        joined.split(',').map(|member| trim(member).to_ascii_lowercase()).collect()
    };
    let members_but_empty =
        |name: &str| -> Vec<String> { members(name).into_iter().filter(|member| !member.is_empty()).collect() };

    let (authority, path, query) = target_parts(method, target)?;
    let host = at_most_one("host")?;
    if http11 && host.is_none() {
        return None;
    }
    let host = host.unwrap_or("");
    if !host.is_empty() && !is_authority(host) {
        return None;
    }

    let length = at_most_one("content-length")?;
    let framing = match (values("transfer-encoding").is_empty(), length) {
        (true, None) => Framing::None,
        (true, Some(digits)) if digits.chars().all(|c| c.is_ascii_digit()) => Framing::Length(digits.parse().ok()?),
        (false, None) if http11 && members("transfer-encoding") == ["chunked"] => Framing::Chunked,
        _ => return None,
    };

    let connection = members_but_empty("connection");
    if !connection.iter().all(|option| is_token(option)) {
        return None;
    }
    let has = |option: &str| connection.iter().any(|other| other == option);
    let expectations = members_but_empty("expect");
    if expectations.iter().any(|expectation| expectation != "100-continue") {
        return None;
    }

    Some(Meaning {
        method: method.to_owned(),
        http11,
        authority: authority.unwrap_or(host).to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        framing,
        keep_alive: !has("close") && (http11 || has("keep-alive")),
        expect_continue: http11 && !expectations.is_empty(),
        authorization: at_most_one("authorization")?.map(to_bytes),
        content_type: at_most_one("content-type")?.map(to_bytes),
        content_coded: !values("content-encoding").is_empty(),
        idempotency_key: at_most_one("idempotency-key")?.map(to_bytes),
        write_condition: !values("if-match").is_empty() || !values("if-unmodified-since").is_empty(),
        if_none_match: values("if-none-match").into_iter().map(to_bytes).collect(),
    })
}

/// Authority, path and query.
fn target_parts<'t>(method: &str, target: &'t str) -> Option<(Option<&'t str>, &'t str, &'t str)> {
    if target == "*" && method == "OPTIONS" {
        return Some((None, "", ""));
    }
    let (authority, rest) = if target.starts_with('/') {
        (None, target)
    } else if target.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://")) {
        let behind = &target[7..];
        let end = behind.find(['/', '?']).unwrap_or(behind.len());
        (Some(&behind[..end]), &behind[end..])
    } else if method == "CONNECT" {
        (Some(target), "")
    } else {
        return None;
    };
    if authority.is_some_and(|authority| !is_authority(authority)) {
        return None;
    }
    if rest.is_empty() && (method == "OPTIONS" || !target.contains("://")) {
        return Some((authority, "", ""));
    }
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let allowed =
        |c: char, more: &str| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/%".contains(c) || more.contains(c);
    let valid = path.chars().all(|c| allowed(c, "")) && query.chars().all(|c| allowed(c, "?"));
    let path = if path.is_empty() { "/" } else { path };
    (valid && percents_are_whole(rest)).then_some((authority, path, query))
}

fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rfind(':') {
        Some(colon) if !text[colon..].contains(']') => (&text[..colon], &text[colon + 1..]),
        _ => (text, ""),
    };
    let host_is_valid = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=%".contains(c);
            !host.is_empty() && host.chars().all(allowed) && percents_are_whole(host)
        }
    };
    host_is_valid && port.len() <= 5 && port.chars().all(|c| c.is_ascii_digit())
}

fn percents_are_whole(text: &str) -> bool {
    text.split('%').skip(1).all(|part| {
        let mut digits = part.chars();
        digits.next().is_some_and(|c| c.is_ascii_hexdigit()) && digits.next().is_some_and(|c| c.is_ascii_hexdigit())
    })
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

fn to_bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("each char is one byte of the head")).collect()
}

/// How a chunked body that is whole in `input` ends.
#[derive(Debug, PartialEq, Eq)]
pub enum ChunkedBody {
    /// The payload, and the bytes it took.
    Whole(Vec<u8>, usize),
    /// All right as far as it goes.
    Partial,
    /// To be refused.
    Refused,
}

/// Reads a chunked body line by line; bounds as in `limits`, given again.
pub fn chunked(input: &[u8], payload_bytes_max: usize) -> ChunkedBody {
    let mut payload = Vec::new();
    let mut at = 0;
    let mut extension_bytes = 0;
    loop {
        let Line { text, ended, stopped } = line(&input[at..]);
        let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = &text[digits..];
        let trimmed = extension.trim_ascii_start();
        let padding = &extension[..extension.len() - trimmed.len()];
        extension_bytes += extension.len();
        // A line that has not stopped may be about to go on, so only what is there can be wrong.
        if digits > 16
            || (digits == 0 && (stopped || !extension.is_empty()))
            || !padding.iter().all(|byte| matches!(byte, b' ' | b'\t'))
            || !(trimmed.is_empty() || trimmed[0] == b';')
            || (stopped && trimmed.is_empty() && !padding.is_empty())
            || !trimmed.iter().all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
            || extension_bytes > 1024
        {
            return ChunkedBody::Refused;
        }
        let size_is_known = stopped || !extension.is_empty();
        let size = text[..digits].iter().fold(0u128, |size, &digit| {
            size * 16 + u128::from(char::from(digit).to_digit(16).expect("counted as a digit"))
        });
        if size_is_known && payload.len() as u128 + size > payload_bytes_max as u128 {
            return ChunkedBody::Refused;
        }
        if !ended {
            return if broken_ending(&input[at + text.len()..]) { ChunkedBody::Refused } else { ChunkedBody::Partial };
        }
        at += text.len() + 2;
        if size == 0 {
            return trailers(&input[at..], payload, at);
        }
        let size = usize::try_from(size).expect("within the payload's bound");
        let here = &input[at..input.len().min(at + size)];
        payload.extend_from_slice(here);
        at += here.len();
        match &input[at..] {
            [] | [b'\r'] => return ChunkedBody::Partial,
            [b'\r', b'\n', ..] => at += 2,
            _ => return ChunkedBody::Refused,
        }
    }
}

fn trailers(input: &[u8], payload: Vec<u8>, before: usize) -> ChunkedBody {
    let mut at = 0;
    loop {
        let Line { text, ended, stopped } = line(&input[at..]);
        let colon = text.iter().position(|&byte| byte == b':');
        let (name, value) = text.split_at(colon.unwrap_or(text.len()));
        let name_is_valid = name.iter().all(|&byte| is_token(&char::from(byte).to_string()));
        let complete = colon.is_some() || text.is_empty() || !stopped;
        if !name_is_valid
            || (name.is_empty() && colon.is_some())
            || !complete
            || !value.iter().all(|&byte| byte == b'\t' || (byte >= 0x20 && byte != 0x7f))
        {
            return ChunkedBody::Refused;
        }
        if !ended {
            let partial = !broken_ending(&input[at + text.len()..]) && input.len() <= 4096;
            return if partial { ChunkedBody::Partial } else { ChunkedBody::Refused };
        }
        at += text.len() + 2;
        if at > 4096 {
            return ChunkedBody::Refused;
        }
        if text.is_empty() {
            return ChunkedBody::Whole(payload, before + at);
        }
    }
}

struct Line<'i> {
    text: &'i [u8],
    ended: bool,
    stopped: bool,
}

/// Up to the first CR or LF; `stopped` where there is one, `ended` where it is CRLF.
fn line(input: &[u8]) -> Line<'_> {
    let end = input.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(input.len());
    Line { text: &input[..end], ended: input[end..].starts_with(b"\r\n"), stopped: end < input.len() }
}

/// Whether what follows the text of a line that has not ended can no longer become CRLF.
fn broken_ending(rest: &[u8]) -> bool {
    !rest.is_empty() && rest != b"\r"
}
