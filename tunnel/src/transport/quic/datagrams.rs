//! The largest QUIC datagrams.
//!
//! A datagram costs about the same whatever its size: on networks with jumbo frames, large
//! ones nearly double the speed and halve the processor time per byte. QUIC begins with
//! 1,200 bytes and probes for more (RFC 8899), up to what this host's interfaces carry.

use std::net::IpAddr;
use std::path::Path;
use std::{fs, io};

/// Largest datagram that is tried, in bytes. quinn hands the kernel ten at a time, and ten of
/// more than 6,550 bytes exceed the kernel's limit for one send: they vanish without an error.
pub const LARGEST: u16 = 6500;

/// The size that every network carries, in bytes (RFC 9000 section 14).
const SMALLEST: u16 = 1200;

/// The largest on Ethernet over IPv6, in bytes.
const ETHERNET: u16 = 1452;

/// Bytes of the headers of IPv6 and UDP.
const HEADERS: u32 = 40 + 8;

/// The kernel's directory of the network interfaces of this namespace.
const INTERFACES: &str = "/sys/class/net";

/// `IFF_UP` and `IFF_LOOPBACK` of netdevice(7).
const UP: u32 = 0x1;
const LOOPBACK: u32 = 0x8;

/// The largest datagrams that are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagrams {
    /// To peers on this host.
    pub(super) here: u16,
    /// To all others.
    pub(super) elsewhere: u16,
}

impl Datagrams {
    /// As large as this host's network interfaces carry, up to [`LARGEST`]. Ethernet's where
    /// the kernel does not say.
    pub fn of_this_host() -> Self {
        Self::of(Path::new(INTERFACES))
    }

    /// At most `limit` bytes, between 1200 and [`LARGEST`].
    #[must_use]
    pub fn at_most(self, limit: u16) -> Self {
        let limit = limit.clamp(SMALLEST, LARGEST);
        Self { here: self.here.min(limit), elsewhere: self.elsewhere.min(limit) }
    }

    /// The largest that is tried to this peer, in bytes.
    pub fn to(self, peer: IpAddr) -> u16 {
        if is_here(peer) { self.here } else { self.elsewhere }
    }

    /// The largest that is tried to anybody, and taken from anybody.
    pub(super) fn largest(self) -> u16 {
        self.here.max(self.elsewhere)
    }

    fn of(interfaces: &Path) -> Self {
        // The interface that leads to the peer may carry less. Then only probes are lost.
        let (mut here, mut elsewhere) = (None, None);
        for interface in fs::read_dir(interfaces).into_iter().flatten().flatten() {
            let Ok((flags, mtu)) = read(&interface.path()) else { continue };
            if flags & UP != 0 {
                let most = if flags & LOOPBACK != 0 { &mut here } else { &mut elsewhere };
                *most = (*most).max(Some(mtu));
            }
        }
        Self { here: datagram(here), elsewhere: datagram(elsewhere) }
    }
}

/// Whether a peer is on this host.
pub(super) fn is_here(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

/// The largest datagram in a packet of `mtu` bytes.
fn datagram(mtu: Option<u32>) -> u16 {
    let Some(mtu) = mtu else { return ETHERNET };
    let most = mtu.saturating_sub(HEADERS).clamp(SMALLEST.into(), LARGEST.into());
    u16::try_from(most).unwrap_or(LARGEST)
}

/// Flags and MTU of an interface.
fn read(interface: &Path) -> io::Result<(u32, u32)> {
    let nonsense = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    let flags = fs::read_to_string(interface.join("flags"))?;
    let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).map_err(nonsense)?;
    let mtu = fs::read_to_string(interface.join("mtu"))?.trim().parse().map_err(nonsense)?;
    Ok((flags, mtu))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn of(interfaces: &[(&str, &str, &str)]) -> Datagrams {
        let dir = tempfile::tempdir().unwrap();
        for (name, flags, mtu) in interfaces {
            let dir = dir.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("flags"), format!("{flags}\n")).unwrap();
            fs::write(dir.join("mtu"), format!("{mtu}\n")).unwrap();
        }
        Datagrams::of(dir.path())
    }

    #[test]
    fn they_are_as_large_as_an_interface_that_leads_to_the_peer_carries() {
        let lo = ("lo", "0x9", "65536");
        let ethernet = of(&[lo, ("eth0", "0x1003", "1500")]);
        assert_eq!(ethernet.to(THERE), ETHERNET);
        assert_eq!(ethernet.to(Ipv4Addr::LOCALHOST.into()), LARGEST);
        assert_eq!(ethernet.to(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()), LARGEST);
        assert_eq!(ethernet.to(Ipv6Addr::LOCALHOST.into()), LARGEST);
        assert_eq!(ethernet.largest(), LARGEST);

        assert_eq!(of(&[lo, ("eth0", "0x1003", "9001"), ("veth1", "0x1003", "1500")]).to(THERE), LARGEST);
        assert_eq!(of(&[("eth0", "0x1003", "4000")]).to(THERE), 3952);
        assert_eq!(of(&[("vxlan", "0x1003", "1450")]).to(THERE), 1402);
        assert_eq!(of(&[("slow", "0x1003", "576")]).to(THERE), SMALLEST);
    }

    #[test]
    fn interfaces_that_are_down_or_say_nothing_do_not_count() {
        let odd = of(&[("eth0", "0x1003", "1500"), ("eth1", "0x1002", "9000"), ("bond", "", "9000")]);
        assert_eq!(odd.to(THERE), ETHERNET);
        assert_eq!(of(&[]).to(THERE), ETHERNET);
        assert_eq!(Datagrams::of(Path::new("/no/such/place")).largest(), ETHERNET);
    }

    #[test]
    fn a_limit_holds_for_all_peers() {
        let datagrams = of(&[("lo", "0x9", "65536"), ("eth0", "0x1003", "9001")]);
        let limited = datagrams.at_most(1300);
        assert_eq!((limited.to(THERE), limited.largest()), (1300, 1300));
        assert_eq!(datagrams.at_most(1).largest(), SMALLEST);
        assert_eq!(datagrams.at_most(u16::MAX), datagrams);
    }
}
