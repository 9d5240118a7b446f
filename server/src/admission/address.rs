//! Which addresses count as one, and which are trusted.

use std::net::IpAddr;

use ipnet::IpNet;

/// The number that an address is counted by: a whole IPv4 address, the first 64 bits of an IPv6 one, since a single host is
/// given all that lie behind them. IPv4 written as IPv6 is IPv4.
pub fn number(address: IpAddr) -> u128 {
    match address.to_canonical() {
        // As IPv6 writes it: nobody's /64.
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & (u128::MAX << 64),
    }
}

/// Whether an address is in one of the networks.
pub fn is_in(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// A network as a setting names it, or one address. The library would take 010.0.0.0, of which nobody can say whether it is 8 or 10; bits behind
/// the prefix are a slip of the pen, and nobody can say of which kind.
///
/// # Errors
/// What it should be.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let wrong = || "it is no network, such as 10.0.0.0/8 or fd00::/8, and no address".to_owned();
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let Some(prefix) = prefix else { return Ok(address.into()) };
    let bits = prefix.parse().ok().filter(|bits: &u8| bits.to_string() == prefix).ok_or_else(wrong)?;
    let network = IpNet::new(address, bits).map_err(|_| wrong())?;
    if network.addr() != network.network() {
        return Err(format!("it has bits behind its prefix: is {} meant?", network.trunc()));
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn who_counts_as_one() {
        let table = [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("2001:db8:1:2::1", "2001:db8:0:2::1", false),
            ("0.0.0.0", "::", false),
            ("::1", "127.0.0.1", false),
        ];
        for (one, other, is_one) in table {
            assert_eq!(number(address(one)) == number(address(other)), is_one, "{one} and {other}");
        }
    }

    #[test]
    fn networks() {
        let networks = ["10.0.0.0/8", "fd00::/8", "192.0.2.7"].map(|text| parse_network(text).expect("a network"));
        let table = [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("11.0.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("fd12::1", true),
            ("fe80::1", false),
        ];
        for (text, is_trusted) in table {
            assert_eq!(is_in(address(text), &networks), is_trusted, "{text}");
        }
    }

    #[test]
    fn networks_are_exact() {
        for (text, network) in
            [("10.0.0.0/8", "10.0.0.0/8"), ("::/0", "::/0"), ("192.0.2.7", "192.0.2.7/32"), ("::1", "::1/128")]
        {
            assert_eq!(parse_network(text).map(|network| network.to_string()), Ok(network.to_owned()));
        }
        for text in
            ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "010.0.0.0/8", "10.0.0.0/+8", "localhost", "10.0.0.0/8 "]
        {
            assert!(parse_network(text).is_err_and(|why| why.contains("no network")), "{text}");
        }
        assert!(parse_network("10.0.0.1/8").is_err_and(|why| why.ends_with("is 10.0.0.0/8 meant?")));
    }
}
