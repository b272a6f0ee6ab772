//! Addresses that no node or pod has, or that give credentials away: refused unless a rule names
//! them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::rule::Span;

/// A class of addresses that is refused unless a rule allows a network within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Special {
    /// The name of the rule.
    pub(crate) rule: &'static str,
    /// The addresses of the class around the address in question.
    pub(crate) span: Span,
}

/// Services of clouds that hand out credentials, with their sources:
/// Amazon EC2 user guide "Access instance metadata" and "Task IAM role" of ECS; EKS user guide
/// "Set up the Amazon EKS Pod Identity Agent"; Google Compute Engine "About VM metadata"; Azure
/// "What is IP address 168.63.129.16?"; Alibaba Cloud ECS "Instance metadata"; Oracle Cloud
/// Infrastructure "Getting instance metadata", and for Classic "Retrieving instance metadata";
/// Scaleway in cloud-init's documentation; Akamai "Metadata service API"; Tencent Cloud CVM
/// "Viewing instance metadata"; OpenStack Nova "Metadata service".
const METADATA_V4: [Ipv4Addr; 8] = [
    // Amazon, Azure, Google, Oracle, OpenStack, and most others.
    Ipv4Addr::new(169, 254, 169, 254),
    // Amazon ECS, and EKS Pod Identity.
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    // Scaleway.
    Ipv4Addr::new(169, 254, 42, 42),
    // Tencent.
    Ipv4Addr::new(169, 254, 0, 23),
    // Alibaba.
    Ipv4Addr::new(100, 100, 100, 200),
    // Azure WireServer.
    Ipv4Addr::new(168, 63, 129, 16),
    // Oracle Cloud Classic.
    Ipv4Addr::new(192, 0, 0, 192),
];

/// As [`METADATA_V4`].
const METADATA_V6: [Ipv6Addr; 8] = [
    // Amazon, and EKS Pod Identity.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Oracle.
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    // Scaleway.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    // Akamai.
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    // Alibaba.
    Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0x100, 0x200),
    // OpenStack.
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// Names of such services. An agent would refuse them by their addresses; agents of other
/// programs would not.
const METADATA_NAMES: [&str; 4] =
    ["metadata.google.internal", "metadata.goog", "instance-data.ec2.internal", "metadata.tencentyun.com"];

const METADATA: &str = "builtin/metadata";
const LINK_LOCAL: &str = "builtin/link-local";
const MULTICAST: &str = "builtin/multicast";
const UNSPECIFIED: &str = "builtin/unspecified";
const BROADCAST: &str = "builtin/broadcast";

/// The class of an address, the narrowest if there are two. The address is in its plain form
/// ([`crate::spelling::plain`]).
pub(crate) fn of(ip: IpAddr) -> Option<Special> {
    let (rule, bits) = match ip {
        IpAddr::V4(ip) => of_v4(ip)?,
        IpAddr::V6(ip) => of_v6(ip)?,
    };
    Some(Special { rule, span: Span::of(ip, bits) })
}

fn of_v4(ip: Ipv4Addr) -> Option<(&'static str, u8)> {
    match ip.octets() {
        // On Linux a connection to 0.0.0.0 reaches the host itself. The rest of 0.0.0.0/8 is "this
        // network" (RFC 1122 section 3.2.1.3), which no destination is in.
        [0, ..] => Some((UNSPECIFIED, 8)),
        [255, 255, 255, 255] => Some((BROADCAST, 32)),
        [224..=239, ..] => Some((MULTICAST, 4)),
        [100 | 168 | 169 | 192, ..] if METADATA_V4.contains(&ip) => Some((METADATA, 32)),
        [169, 254, ..] => Some((LINK_LOCAL, 16)),
        _ => None,
    }
}

fn of_v6(ip: Ipv6Addr) -> Option<(&'static str, u8)> {
    match ip.segments()[0] {
        0 if ip.is_unspecified() => Some((UNSPECIFIED, 128)),
        0xff00..=0xffff => Some((MULTICAST, 8)),
        0xfd00..=0xfebf if METADATA_V6.contains(&ip) => Some((METADATA, 128)),
        0xfe80..=0xfebf => Some((LINK_LOCAL, 10)),
        _ => None,
    }
}

/// The class of a name, in lower case and without a trailing dot.
pub(crate) fn of_name(name: &str) -> Option<&'static str> {
    METADATA_NAMES.contains(&name).then_some(METADATA)
}
