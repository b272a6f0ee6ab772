//! One form for each host and network, so that no second spelling of a target finds another agent.

use std::borrow::Cow;
use std::net::IpAddr;

use tunnel_proto::network::Network;
use tunnel_proto::target::Host;

/// Length of the prefix of IPv4-mapped IPv6 addresses (RFC 4291 section 2.5.5.2).
const MAPPED: u8 = 96;

/// An IPv4-mapped address as IPv4, and a name without its trailing dot.
pub(crate) fn canonical_host(host: &Host) -> Cow<'_, Host> {
    match host {
        Host::Ip(IpAddr::V6(ip)) => match ip.to_ipv4_mapped() {
            Some(ip) => Cow::Owned(Host::Ip(IpAddr::V4(ip))),
            None => Cow::Borrowed(host),
        },
        Host::Ip(IpAddr::V4(_)) => Cow::Borrowed(host),
        Host::Name(name) => match name.strip_suffix('.') {
            Some(name) => Cow::Owned(Host::Name(name.to_owned())),
            None => Cow::Borrowed(host),
        },
    }
}

/// A network of IPv4-mapped addresses as one of IPv4.
pub(crate) fn canonical_network(network: Network) -> Network {
    match (network.first(), network.bits().checked_sub(MAPPED)) {
        (IpAddr::V6(ip), Some(bits)) => {
            let ip = ip.to_ipv4_mapped().map(IpAddr::V4);
            ip.and_then(|ip| Network::of(ip, bits)).unwrap_or(network)
        }
        (IpAddr::V4(_) | IpAddr::V6(_), _) => network,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_target_become_one() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::ffff:a00:1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
            ("Node.", "node"),
            ("node", "node"),
        ] {
            assert_eq!(canonical_host(&Host::parse(text).unwrap()).to_string(), expected);
        }
        for (text, expected) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::/0", "::/0"),
            ("fd00::/100", "fd00::/100"),
            ("10.0.0.0/8", "10.0.0.0/8"),
        ] {
            assert_eq!(canonical_network(text.parse().unwrap()).to_string(), expected);
        }
    }
}
