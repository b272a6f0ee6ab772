//! Addresses that servers advertise in their Leases.
//!
//! Writers of Leases choose them, so they are few, short and never names.

use std::net::{IpAddr, SocketAddr};

/// The annotation of a Lease with the address for agents of its server: an IP address and a port.
pub const ADDRESS: &str = "tunnel-server/address";

/// Longest text of an address, in bytes. The longest one there is, an IPv6 address in brackets with its port, has 47.
const LONGEST: usize = 64;

/// Whether an address may lead to one server.
#[must_use]
pub const fn leads_somewhere(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    }
}

/// Reads an annotation; `None` for one that names no server's address.
pub(super) fn read(text: &str) -> Option<SocketAddr> {
    if text.len() > LONGEST {
        return None;
    }
    let addr: SocketAddr = text.parse().ok()?;
    // A zone is one of the writer's host.
    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    (addr.port() != 0 && leads_somewhere(addr.ip())).then_some(addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_is_an_ip_address_with_a_port_or_nothing() {
        for (text, addr) in [
            ("10.0.0.7:8132", "10.0.0.7:8132"),
            ("[fd00::7]:8132", "[fd00::7]:8132"),
            ("[::ffff:10.0.0.7]:8132", "10.0.0.7:8132"),
            ("[fe80::7%3]:8132", "[fe80::7]:8132"),
        ] {
            assert_eq!(read(text), Some(addr.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            "10.0.0.7",
            "10.0.0.7:0",
            "0.0.0.0:8132",
            "[::]:8132",
            "[::ffff:0.0.0.0]:8132",
            "224.0.0.1:8132",
            "[ff02::1]:8132",
            "255.255.255.255:8132",
            "control-plane.example:8132",
            "10.0.0.7:8132,10.0.0.8:8132",
            " 10.0.0.7:8132",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        // Longer than any address, though the parser would take it.
        assert_eq!(read(&format!("[fe80::7%{:0>50}]:8132", 3)), None);
    }
}
