//! The PROXY protocol, versions 1 and 2: what a proxy says, before the first request, of whose connection it passes on
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! | header | whose connection it is |
//! | --- | --- |
//! | 1: TCP4, TCP6. 2: PROXY, a stream over IPv4 or IPv6 | the source address's |
//! | 1: UNKNOWN. 2: LOCAL; PROXY, unspecified or a stream over a Unix socket | the socket's own: the proxy's, as for its health checks |
//! | any other | nobody's: refused |
//!
//! `ppp` reads what is whole. Where a header ends, and how long it may be, is decided here: what the library says of a part
//! is wrong in places (a line that is cut before its last port is a fault to it).

use std::net::IpAddr;

use memchr::memchr2;
use ppp::{v1, v2};

use crate::limits::{PROXY_BINARY_BYTES_MAX, PROXY_TEXT_BYTES_MAX};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Client {
    /// Whom the socket names.
    #[default]
    Direct,
    /// The header that says it is still to come.
    Awaited,
    /// Whom the header has named; never an IPv4 address in the clothes of IPv6.
    Named(IpAddr),
}

/// What stands at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Find {
    /// The beginning of a header, or nothing yet.
    Partial,
    /// A header.
    Complete {
        /// What it says; never [`Client::Awaited`].
        client: Client,
        /// Its bytes. What follows them is HTTP.
        length: usize,
    },
}

/// There is no header, or none that can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

const TEXT_PREFIX: &[u8] = b"PROXY ";
const UNKNOWN: &[u8] = b"PROXY UNKNOWN";

/// Bytes of a version 2 header that say how long it is, and first of all what it is.
const BINARY_FIXED_BYTES: usize = 16;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Looks for the header at the front of `input`.
///
/// # Errors
/// [`Refused`], as soon as no further bytes could make a header of it.
pub fn find(input: &[u8]) -> Result<Find, Refused> {
    match input.first() {
        None => Ok(Find::Partial),
        Some(b'P') => find_text(input),
        Some(_) => find_binary(input),
    }
}

fn find_text(input: &[u8]) -> Result<Find, Refused> {
    check_beginning(input, TEXT_PREFIX)?;
    let window = &input[..input.len().min(PROXY_TEXT_BYTES_MAX)];
    let is_full = window.len() == PROXY_TEXT_BYTES_MAX;
    match memchr2(b'\r', b'\n', window) {
        Some(end) if window[end..].starts_with(b"\r\n") => {
            let length = end + 2;
            Ok(Find::Complete { client: read_text(&window[..length])?, length })
        }
        Some(end) if window[end..] == *b"\r" && !is_full => Ok(Find::Partial),
        None if !is_full => Ok(Find::Partial),
        _ => Err(Refused),
    }
}

/// A whole line with its CRLF.
fn read_text(line: &[u8]) -> Result<Client, Refused> {
    // Whatever else stands in it is to be ignored.
    if line.strip_prefix(UNKNOWN).is_some_and(|rest| rest.starts_with(b" ") || rest == b"\r\n") {
        return Ok(Client::Direct);
    }
    // The library takes a sign before a port, as the standard library's numbers do.
    if line.contains(&b'+') {
        return Err(Refused);
    }
    match v1::Header::try_from(line).map_err(|_| Refused)?.addresses {
        v1::Addresses::Tcp4(addresses) => Ok(named(addresses.source_address)),
        v1::Addresses::Tcp6(addresses) => Ok(named(addresses.source_address)),
        v1::Addresses::Unknown => Err(Refused),
    }
}

fn find_binary(input: &[u8]) -> Result<Find, Refused> {
    check_beginning(input, v2::PROTOCOL_PREFIX)?;
    let Some((fixed, _)) = input.split_first_chunk::<BINARY_FIXED_BYTES>() else { return Ok(Find::Partial) };
    let [.., version_command, _, high, low] = *fixed;
    let length = BINARY_FIXED_BYTES + usize::from(u16::from_be_bytes([high, low]));
    if length > PROXY_BINARY_BYTES_MAX || !matches!(version_command, LOCAL | PROXY) {
        return Err(Refused);
    }
    let Some(header) = input.get(..length) else { return Ok(Find::Partial) };
    // What follows LOCAL is to be skipped, whatever it is.
    let client = if version_command == LOCAL { Client::Direct } else { read_binary(header)? };
    Ok(Find::Complete { client, length })
}

/// A whole header of command PROXY.
fn read_binary(header: &[u8]) -> Result<Client, Refused> {
    use v2::{Addresses, Protocol};
    let header = v2::Header::try_from(header).map_err(|_| Refused)?;
    // Nothing of them is used, but a header that is not made of them was not made by a proxy.
    if header.tlvs().any(|tlv| tlv.is_err()) {
        return Err(Refused);
    }
    match (header.protocol, header.addresses) {
        (Protocol::Stream, Addresses::IPv4(addresses)) => Ok(named(addresses.source_address)),
        (Protocol::Stream, Addresses::IPv6(addresses)) => Ok(named(addresses.source_address)),
        (Protocol::Stream, Addresses::Unix(_)) | (Protocol::Unspecified, Addresses::Unspecified) => Ok(Client::Direct),
        _ => Err(Refused),
    }
}

/// Refuses what cannot become a header that begins so.
fn check_beginning(input: &[u8], beginning: &[u8]) -> Result<(), Refused> {
    let common = input.len().min(beginning.len());
    if input[..common] == beginning[..common] { Ok(()) } else { Err(Refused) }
}

fn named(address: impl Into<IpAddr>) -> Client {
    Client::Named(address.into().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &[u8] = &[192, 0, 2, 7, 198, 51, 100, 1, 0xc0, 0, 0, 80];
    const TLVS: &[u8] = &[0x04, 0, 2, 9, 9, 0xea, 0, 0, 0x05, 0, 1, 7];

    /// A version 2 header.
    fn binary(version_command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let fixed = [v2::PROTOCOL_PREFIX, &[version_command, family], &(payload.len() as u16).to_be_bytes()];
        [&fixed.concat(), payload].concat()
    }

    fn v6(source: &str) -> Vec<u8> {
        let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        [&octets(source)[..], &octets("2001:db8::1")[..], &[0xc0, 0, 0, 80]].concat()
    }

    fn client(text: &str) -> Client {
        Client::Named(text.parse().unwrap())
    }

    /// `header` is one, whatever follows it and wherever it is cut.
    fn check(name: &str, header: impl AsRef<[u8]>, client: Client) {
        let header = header.as_ref();
        let complete = Ok(Find::Complete { client, length: header.len() });
        assert_eq!(find(header), complete, "{name}");
        for behind in [&b"GET / HTTP/1.1\r\n"[..], b"\r\n", b"\n", b"PROXY UNKNOWN\r\n", &[0xff; 600]] {
            assert_eq!(find(&[header, behind].concat()), complete, "{name}, {behind:?} behind it");
        }
        for length in 0..header.len() {
            assert_eq!(find(&header[..length]), Ok(Find::Partial), "{name}, the first {length}");
        }
    }

    /// `input` is none, and what it begins with is none or not yet one.
    fn refuse(name: &str, input: impl AsRef<[u8]>) {
        let input = input.as_ref();
        assert_eq!(find(input), Err(Refused), "{name}");
        assert_eq!(find(&[input, b"\r\n"].concat()), Err(Refused), "{name}, with an end");
        for length in 0..input.len() {
            assert!(!matches!(find(&input[..length]), Ok(Find::Complete { .. })), "{name}, the first {length}");
        }
    }

    #[test]
    fn text_that_is_a_header() {
        check("TCP4", "PROXY TCP4 192.0.2.7 198.51.100.1 49152 80\r\n", client("192.0.2.7"));
        check("least", "PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", client("0.0.0.0"));
        check("most", "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", client("255.255.255.255"));
        check("TCP6", "PROXY TCP6 2001:db8::7 2001:db8::1 49152 80\r\n", client("2001:db8::7"));
        check("case", "PROXY TCP6 2001:DB8::7 ::1 1 1\r\n", client("2001:db8::7"));
        check("IPv4 in IPv6", "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 1 2\r\n", client("192.0.2.7"));
        let long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        check("long", format!("PROXY TCP6 {long} {long} 65535 65535\r\n"), client(long));
        check("UNKNOWN", "PROXY UNKNOWN\r\n", Client::Direct);
        check("UNKNOWN with addresses", format!("PROXY UNKNOWN {long} {long} 65535 65535\r\n"), Client::Direct);
        check("UNKNOWN with anything", b"PROXY UNKNOWN a b c d e f g \xff + \0\r\n", Client::Direct);
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(PROXY_TEXT_BYTES_MAX - 16));
        assert_eq!(longest.len(), PROXY_TEXT_BYTES_MAX);
        check("longest", longest, Client::Direct);
    }

    #[test]
    fn text_that_is_none() {
        let lines = [
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP44 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY unknown\r\n",
            "proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXYxTCP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 \r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 \r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1\r\n",
            "PROXY TCP4 192.0.2 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.02.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4 0xc0.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 host 1 2\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP6 2001:db8::7 198.51.100.1 1 2\r\n",
            "PROXY TCP6 [2001:db8::7] [2001:db8::1] 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 2001:db8::1 1 2\r\n",
            "PROXY TCP6 2001:db8:::7 2001:db8::1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 02\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 00 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 -1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 +2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 0x2\r\n",
            "PROXY TCP4\t192.0.2.7 198.51.100.1 1 2\r\n",
            // Line ends.
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r \n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\r\n",
            "PROXY UNKNOWN\n",
            "\r\nPROXY UNKNOWN\r\n",
            // What is no such line at all.
            "POST /todos HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n",
            "GET / HTTP/1.1\r\n",
            " PROXY UNKNOWN\r\n",
        ];
        for line in lines {
            refuse(&line.escape_debug().to_string(), line);
        }
        refuse("not UTF-8", b"PROXY TCP4 192.0.2.7 198.51.100.1 1 \xff2\r\n");
        refuse("too long by one", format!("PROXY UNKNOWN {}\r\n", "x".repeat(PROXY_TEXT_BYTES_MAX - 15)));
        refuse("without an end", format!("PROXY UNKNOWN {}", "x".repeat(PROXY_TEXT_BYTES_MAX - 14)));
        refuse("cut within its end", format!("PROXY UNKNOWN {}\r", "x".repeat(PROXY_TEXT_BYTES_MAX - 15)));
    }

    #[test]
    fn bytes_that_are_a_header() {
        check("IPv4", binary(0x21, 0x11, V4), client("192.0.2.7"));
        check("IPv4 and TLVs", binary(0x21, 0x11, &[V4, TLVS].concat()), client("192.0.2.7"));
        check("IPv6", binary(0x21, 0x21, &v6("2001:db8::7")), client("2001:db8::7"));
        check("IPv6 and TLVs", binary(0x21, 0x21, &[&v6("2001:db8::7"), TLVS].concat()), client("2001:db8::7"));
        check("IPv4 in IPv6", binary(0x21, 0x21, &v6("::ffff:192.0.2.7")), client("192.0.2.7"));
        check("Unix", binary(0x21, 0x31, &[b'/'; 216]), Client::Direct);
        check("Unix and TLVs", binary(0x21, 0x31, &[&[b'/'; 216], TLVS].concat()), Client::Direct);
        check("unspecified", binary(0x21, 0x00, b""), Client::Direct);
        check("unspecified, with anything", binary(0x21, 0x00, b"anything"), Client::Direct);
        check("LOCAL", binary(0x20, 0x00, b""), Client::Direct);
        check("LOCAL of a family", binary(0x20, 0x11, V4), Client::Direct);
        check("LOCAL with TLVs", binary(0x20, 0x00, TLVS), Client::Direct);
        check("LOCAL with anything", binary(0x20, 0xff, b"anything"), Client::Direct);
        let room = PROXY_BINARY_BYTES_MAX - BINARY_FIXED_BYTES - V4.len() - 3;
        let filling = [&[0x04], &(room as u16).to_be_bytes()[..], &vec![0; room]].concat();
        let longest = binary(0x21, 0x11, &[V4, &filling].concat());
        assert_eq!(longest.len(), PROXY_BINARY_BYTES_MAX);
        check("longest", longest, client("192.0.2.7"));
    }

    #[test]
    fn bytes_that_are_none() {
        for version_command in [0x00, 0x01, 0x11, 0x22, 0x2f, 0x30, 0x31, 0xff] {
            refuse("another version or command", binary(version_command, 0x11, V4));
        }
        for family in [0x01, 0x02, 0x03, 0x10, 0x12, 0x13, 0x1f, 0x40, 0x41, 0xff] {
            refuse("another family or protocol", binary(0x21, family, V4));
        }
        for family in [0x20, 0x22, 0x30, 0x32] {
            refuse("no stream", binary(0x21, family, &[0; 216]));
        }
        for length in 0..V4.len() {
            refuse("short for IPv4", binary(0x21, 0x11, &V4[..length]));
        }
        refuse("IPv4 for IPv6", binary(0x21, 0x21, V4));
        refuse("short for IPv6", binary(0x21, 0x21, &v6("2001:db8::7")[..35]));
        refuse("short for Unix", binary(0x21, 0x31, &[b'/'; 215]));
        for length in (0..TLVS.len()).filter(|length| ![0, 5, 8].contains(length)) {
            refuse("a TLV that is cut", binary(0x21, 0x11, &[V4, &TLVS[..length]].concat()));
        }
        refuse("a TLV that is too long", binary(0x21, 0x11, &[V4, &[4, 0, 1]].concat()));
        let too_long = PROXY_BINARY_BYTES_MAX - BINARY_FIXED_BYTES + 1;
        refuse("too long by one", binary(0x20, 0x00, &vec![0; too_long]));
        refuse("too long, before it has come", &binary(0x20, 0x00, &vec![0; too_long])[..BINARY_FIXED_BYTES]);
        refuse("as long as can be said", [v2::PROTOCOL_PREFIX, &[0x21, 0x11, 0xff, 0xff]].concat());
        for at in 0..v2::PROTOCOL_PREFIX.len() {
            let mut header = binary(0x21, 0x11, V4);
            header[at] ^= 0x20;
            refuse("another signature", &header[..=at]);
        }
    }
}
