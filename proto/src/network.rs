//! Networks in CIDR form: `10.1.0.0/16`, `fd00::/8`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and the length of its prefix. The bits behind the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// The text is not in CIDR form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write it as 10.1.0.0/16")]
pub struct NetworkError(String);

impl Network {
    /// The network of an address with a prefix of `bits`; `None` if the address is
    /// shorter.
    pub fn of(ip: IpAddr, bits: u8) -> Option<Self> {
        let first = match ip {
            IpAddr::V4(ip) if bits <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
            }
            IpAddr::V6(ip) if bits <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { first, bits })
    }

    /// Its first address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The length of the prefix in bits.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether the network contains an address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.first.is_ipv4() == ip.is_ipv4() && Self::of(ip, self.bits) == Some(*self)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let bad = || NetworkError(text.chars().take(64).collect());
        let (ip, bits) = text.split_once('/').ok_or_else(bad)?;
        if bits.is_empty() || bits.len() > 3 || !bits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let ip = ip.parse().map_err(|_| bad())?;
        bits.parse().ok().and_then(|bits| Self::of(ip, bits)).ok_or_else(bad)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_lose_the_bits_behind_the_prefix() {
        for (text, printed) in [
            ("10.1.2.3/16", "10.1.0.0/16"),
            ("127.0.0.1/16", "127.0.0.0/16"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("fd00:1::5/32", "fd00:1::/32"),
            ("fd00::5/128", "fd00::5/128"),
            ("fd00::5/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), printed);
        }
        for bad in
            ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0/8", "a/8", "::/+8", "::/256"]
        {
            assert!(bad.parse::<Network>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_in_networks() {
        let within =
            |network: &str, ip: &str| network.parse::<Network>().unwrap().contains(ip.parse().unwrap());
        assert!(within("10.1.0.0/16", "10.1.255.255"));
        assert!(!within("10.1.0.0/16", "10.2.0.0"));
        assert!(within("0.0.0.0/0", "255.255.255.255"));
        assert!(within("fd00::/8", "fdff::1"));
        assert!(!within("::/0", "10.0.0.1"));
        assert!(!within("0.0.0.0/0", "::1"));
    }
}
