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

/// A network as a setting names it: `10.0.0.0/8`, or an address alone.
///
/// # Errors
/// What it should be.
pub fn parse_network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let network = network.map_err(|_| format!("`{text}` is no network: write one as in 10.0.0.0/8 or fd00::/8"))?;
    if network.addr() == network.network() {
        Ok(network)
    } else {
        Err(format!("`{text}` has bits behind its length: {} is the network", network.trunc()))
    }
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
        assert!(parse_network("10.0.0.1/8").expect_err("bits behind").contains("10.0.0.0/8"));
        for text in ["", "10.0.0.0/33", "localhost", "10.0.0.0/-1", "10.0.0"] {
            assert!(parse_network(text).is_err(), "{text}");
        }
    }
}
