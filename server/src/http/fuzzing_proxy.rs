//! What the target `proxy_header` runs: the PROXY header at the front of some bytes, whole and byte by byte, against a second
//! reader that shares nothing with the first, not even its library.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::proxy_header::{Client, Find, find};

/// Longer input says nothing new.
const INPUT_BYTES_MAX: usize = 700;

/// The header at the front of `data`.
pub fn proxy_header(data: &[u8]) {
    let data = &data[..data.len().min(INPUT_BYTES_MAX)];
    let whole = find(data);
    let bytewise = (0..=data.len()).map(|length| find(&data[..length])).find(|found| *found != Ok(Find::Partial));
    assert_eq!(bytewise.unwrap_or(Ok(Find::Partial)), whole);
    assert!(whole != Ok(Find::Partial) || data.len() < 536, "more is waited for than may come");
    let expected = (0..=data.len()).find_map(|length| Some((read(&data[..length])?, length)));
    let found = match whole {
        Ok(Find::Complete { client, length }) => Some((client, length)),
        _ => None,
    };
    assert_eq!(found, expected);
}

/// What `bytes` say if they are one header and nothing else.
fn read(bytes: &[u8]) -> Option<Client> {
    if bytes.starts_with(b"PROXY") { read_text(bytes) } else { read_binary(bytes) }
}

fn read_text(bytes: &[u8]) -> Option<Client> {
    let line = bytes.strip_suffix(b"\r\n").filter(|line| !line.contains(&b'\r') && !line.contains(&b'\n'))?;
    let line = String::from_utf8_lossy((bytes.len() <= 107).then_some(line)?).into_owned();
    let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port.to_string() == text);
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Some(Client::Direct),
        ["PROXY", family, source, destination, one, other] if is_port(one) && is_port(other) => {
            let address = |text: &str| match family {
                "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
                "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
                _ => None,
            };
            address(destination)?;
            Some(Client::Named(address(source)?.to_canonical()))
        }
        _ => None,
    }
}

fn read_binary(bytes: &[u8]) -> Option<Client> {
    let rest = bytes.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n")?;
    let (&[command, family, high, low], payload) = rest.split_first_chunk()?;
    if payload.len() != usize::from(high) * 256 + usize::from(low) || payload.len() > 520 {
        return None;
    }
    let (address_bytes, client) = match (command, family) {
        (0x20, _) | (0x21, 0x00) => return Some(Client::Direct),
        (0x21, 0x11) => (12, Client::Named(Ipv4Addr::from(*payload.first_chunk::<4>()?).into())),
        (0x21, 0x21) => (36, Client::Named(Ipv6Addr::from(*payload.first_chunk::<16>()?).to_canonical())),
        (0x21, 0x31) => (216, Client::Direct),
        _ => return None,
    };
    let mut tlvs = payload.get(address_bytes..)?;
    while let Some((&[_, high, low], behind)) = tlvs.split_first_chunk() {
        tlvs = behind.get(usize::from(high) * 256 + usize::from(low)..)?;
    }
    tlvs.is_empty().then_some(client)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::fuzzing::replay;
    use super::*;

    #[test]
    fn corpus_replays() {
        replay("proxy_header", proxy_header);
    }

    proptest! {
        /// Version 2 with any command, family and length, most of them nearly right.
        #[test]
        fn binary_headers_mean_what_the_oracle_says(
            command in prop_oneof![Just(0x20), Just(0x21), any::<u8>()],
            family in prop_oneof![Just(0x00), Just(0x11), Just(0x21), Just(0x31), any::<u8>()],
            payload in prop_oneof![vec(any::<u8>(), 0..40), vec(0..4_u8, 200..560)],
            off in prop_oneof![4 => Just(0_u16), 1 => 0..4_u16],
        ) {
            let length = (payload.len() as u16).wrapping_sub(off).to_be_bytes();
            proxy_header(&[&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, &payload].concat());
        }

        /// Version 1 made of words that are right or nearly so.
        #[test]
        fn text_headers_mean_what_the_oracle_says(
            words in vec(prop_oneof![
                Just("TCP4"), Just("TCP6"), Just("UNKNOWN"), Just("192.0.2.7"), Just("2001:db8::7"), Just("::ffff:1.2.3.4"),
                Just("0"), Just("80"), Just("080"), Just("+80"), Just("65536"), Just(""), Just("x"), Just("\r"),
            ], 0..9),
            end in prop_oneof![4 => Just("\r\n"), 1 => Just("\n"), 1 => Just(" \r\n"), 1 => Just("")],
        ) {
            proxy_header(format!("PROXY {}{end}GET /", words.join(" ")).as_bytes());
        }

        /// The right shape, so that addresses are reached.
        #[test]
        fn text_headers_of_the_right_shape(
            family in prop_oneof![Just("TCP4"), Just("TCP6")],
            addresses in vec(prop_oneof![
                any::<[u8; 4]>().prop_map(|octets| Ipv4Addr::from(octets).to_string()),
                any::<[u16; 8]>().prop_map(|parts| Ipv6Addr::from(parts).to_string()),
                "[0-9a-f:.]{1,20}",
            ], 2),
            ports in vec("[0-9]{1,5}", 2),
        ) {
            let line = format!("PROXY {family} {} {} {} {}\r\n", addresses[0], addresses[1], ports[0], ports[1]);
            proxy_header(line.as_bytes());
        }
    }
}
