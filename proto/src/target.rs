//! Targets: `name:port`, `1.2.3.4:port` and `[v6]:port`.
//!
//! Names that a resolver would read as an address (`127.1`, `0x7f000001`,
//! `2130706433`) are refused, so that the checked target is the dialled one.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Longest DNS name in its textual form (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

/// A host and a port to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    host: Host,
    port: u16,
}

/// The host part of a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name, in lower case.
    Name(String),
}

/// Why a text is no target. The error texts are Go's, because runbooks name them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No `:port` at the end.
    #[error("address {0}: missing port in address")]
    MissingPort(String),
    /// The port is not a number from 1 to 65535.
    #[error("address {0}: invalid port")]
    InvalidPort(String),
    /// The host is neither an address nor a name.
    #[error("address {0}: invalid host")]
    InvalidHost(String),
}

impl Target {
    /// A target; `port` is not 0.
    pub const fn new(host: Host, port: u16) -> Self {
        Self { host, port }
    }

    /// The host.
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let shown = || text.chars().take(MAX_NAME).flat_map(char::escape_default).collect::<String>();
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once("]:").ok_or_else(|| TargetError::MissingPort(shown()))?;
                let ip: Ipv6Addr = host.parse().map_err(|_| TargetError::InvalidHost(shown()))?;
                (Host::Ip(IpAddr::V6(ip)), port)
            }
            None => {
                let (host, port) = text.rsplit_once(':').ok_or_else(|| TargetError::MissingPort(shown()))?;
                (Host::parse_unbracketed(host).ok_or_else(|| TargetError::InvalidHost(shown()))?, port)
            }
        };
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        match port.parse::<u16>() {
            Ok(port) if digits && port != 0 => Ok(Self { host, port }),
            Ok(_) | Err(_) => Err(TargetError::InvalidPort(shown())),
        }
    }
}

impl Host {
    /// Reads a host without brackets.
    pub fn parse(text: &str) -> Option<Self> {
        text.parse::<Ipv6Addr>()
            .map(|ip| Self::Ip(IpAddr::V6(ip)))
            .ok()
            .or_else(|| Self::parse_unbracketed(text))
    }

    fn parse_unbracketed(text: &str) -> Option<Self> {
        if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
            return Some(Self::Ip(IpAddr::V4(ip)));
        }
        is_name(text).then(|| Self::Name(text.to_ascii_lowercase()))
    }
}

/// Letters, digits, `-`, `_` and dots; no empty label but behind a trailing dot.
/// The last label must not be a number: resolvers read that as an address.
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() || text.len() > MAX_NAME {
        return false;
    }
    let label_ok = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let last = text.rsplit('.').next().unwrap_or(text);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    text.split('.').all(label_ok) && !numeric
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn printed(text: &str) -> String {
        text.parse::<Target>().map_or_else(|e| format!("error: {e}"), |t| t.to_string())
    }

    #[test]
    fn accepted_forms_print_in_one_canonical_form() {
        for (text, expected) in [
            ("10.99.0.1:10250", "10.99.0.1:10250"),
            ("Node-1:10250", "node-1:10250"),
            ("svc.ns.svc.:443", "svc.ns.svc.:443"),
            ("[fd00:0::1]:10250", "[fd00::1]:10250"),
            ("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80"),
            ("a_b.example:1", "a_b.example:1"),
        ] {
            assert_eq!(printed(text), expected);
        }
    }

    #[test]
    fn other_forms_are_refused_with_a_reason() {
        for (text, reason) in [
            ("", "missing port in address"),
            ("localhost", "missing port in address"),
            ("[::1]", "missing port in address"),
            ("localhost:", "invalid port"),
            ("localhost:0", "invalid port"),
            ("localhost:65536", "invalid port"),
            ("localhost:+80", "invalid port"),
            ("localhost:http", "invalid port"),
            (":80", "invalid host"),
            ("::1:80", "invalid host"),
            ("[10.0.0.1]:80", "invalid host"),
            ("[fe80::1%eth0]:80", "invalid host"),
            ("127.1:80", "invalid host"),
            ("2130706433:80", "invalid host"),
            ("0x7f000001:80", "invalid host"),
            ("0177.0.0.1:80", "invalid host"),
            ("a..b:80", "invalid host"),
            ("a b:80", "invalid host"),
            ("a/b:80", "invalid host"),
            ("a\u{0}b:80", "invalid host"),
            ("ünïcode:80", "invalid host"),
        ] {
            let printed = printed(text);
            assert!(printed.starts_with("error: ") && printed.ends_with(reason), "{text:?}: {printed}");
        }
    }

    #[test]
    fn errors_are_short_and_printable() {
        let error = "\u{1b}[31m".repeat(10_000).parse::<Target>().unwrap_err().to_string();
        assert!(error.len() < 4_000 && error.chars().all(|c| !c.is_control()), "{error}");
    }

    proptest! {
        #[test]
        fn printing_and_reading_agree(text in "\\PC{0,40}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
            }
        }
    }
}
