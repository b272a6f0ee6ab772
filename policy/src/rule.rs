//! One rule: the destinations, ports and identities that it is about.

use std::net::IpAddr;

use tunnel_proto::network::Network;
use tunnel_proto::target::Host;

use crate::decide::Subject;
use crate::special::Special;
use crate::spelling::{number, plain};

/// Everything that a rule looks at. A server knows no address of a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// In lower case and without a trailing dot.
    pub(crate) name: Option<&'a str>,
    /// In its plain form.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) subject: Subject<'a>,
}

impl Asked<'_> {
    fn is_of(&self, identities: &[Identity]) -> bool {
        let Subject { identity, also } = self.subject;
        let is = |who: &str| identities.iter().any(|one| one.is(who));
        identity.is_some_and(is) || also.iter().any(|who| is(who))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) name: String,
    pub(crate) allow: bool,
    /// Empty for all destinations, as with the others.
    pub(crate) to: Box<[Pattern]>,
    pub(crate) ports: Box<[Ports]>,
    pub(crate) identities: Box<[Identity]>,
}

impl Rule {
    /// Whether the rule is about a destination, and decides: a special one is allowed only by a
    /// network within its class, or its own name.
    pub(crate) fn decides(&self, asked: &Asked<'_>, special: Option<Special>, special_name: bool) -> bool {
        let is_opened = |pattern: &Pattern| match pattern {
            Pattern::Network(span) => special.is_none_or(|special| span.is_within(&special.span)),
            Pattern::Name(_) => special.is_none(),
            Pattern::Suffix(_) => special.is_none() && !special_name,
        };
        let to = match self.allow {
            true if self.to.is_empty() => special.is_none() && !special_name,
            true => self.to.iter().any(|pattern| pattern.matches(asked) && is_opened(pattern)),
            false => self.to.is_empty() || self.to.iter().any(|pattern| pattern.matches(asked)),
        };
        to && (self.ports.is_empty() || self.ports.iter().any(|ports| ports.contains(asked.port)))
            && (self.identities.is_empty() || asked.is_of(&self.identities))
    }
}

/// An entry of `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Network(Span),
    Name(Box<str>),
    /// With its leading dot.
    Suffix(Box<str>),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            let network: Network = text.parse().map_err(|error| format!("to: {error}"))?;
            return Ok(Self::Network(Span::of_network(network)));
        }
        let (suffix, host) = text.strip_prefix("*.").map_or((false, text), |host| (true, host));
        let bare = host.strip_suffix('.').unwrap_or(host);
        match Host::parse(bare) {
            Some(Host::Ip(ip)) if !suffix => Ok(Self::Network(Span::of_network_of(ip))),
            Some(Host::Name(name)) if suffix => Ok(Self::Suffix(format!(".{name}").into())),
            Some(Host::Name(name)) => Ok(Self::Name(name.into())),
            Some(Host::Ip(_)) | None => {
                let usual = number(bare).map_or(String::new(), |ip| format!(" ({bare} is {ip})"));
                Err(format!("to: {text:?} is no network, host name or *.suffix{usual}"))
            }
        }
    }

    fn matches(&self, asked: &Asked<'_>) -> bool {
        match self {
            Self::Network(span) => asked.address.is_some_and(|ip| span.contains(ip)),
            Self::Name(name) => asked.name == Some(name),
            Self::Suffix(suffix) => asked.name.is_some_and(|name| name.ends_with(&**suffix)),
        }
    }
}

/// The first and the last address of a network. IPv4 addresses are held as IPv4-mapped ones, so
/// that a comparison of numbers decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    first: u128,
    last: u128,
}

impl Span {
    /// The network of an address with a prefix of `bits`, which the address has.
    pub(crate) fn of(ip: IpAddr, bits: u8) -> Self {
        let bits = if ip.is_ipv4() { 96 + bits } else { bits };
        let rest = u128::MAX.checked_shr(bits.into()).unwrap_or(0);
        let number = number_of(ip);
        Self { first: number & !rest, last: number | rest }
    }

    fn of_network(network: Network) -> Self {
        Self::of(network.first(), network.bits())
    }

    fn of_network_of(ip: IpAddr) -> Self {
        Self::of(plain(ip), if plain(ip).is_ipv4() { 32 } else { 128 })
    }

    fn contains(&self, ip: IpAddr) -> bool {
        (self.first..=self.last).contains(&number_of(ip)) && (ip.is_ipv4() == self.is_v4())
    }

    /// A network such as `::/0` contains IPv4-mapped addresses, and no connection goes there.
    fn is_v4(&self) -> bool {
        self.first >> 32 == 0xffff && self.last >> 32 == 0xffff
    }

    /// The first and the last address of an IPv4 network.
    pub(crate) fn v4(&self) -> Option<(u32, u32)> {
        // The lowest 32 bits of an IPv4-mapped address.
        let number = |mapped: u128| (mapped & u128::from(u32::MAX)) as u32;
        self.is_v4().then(|| (number(self.first), number(self.last)))
    }

    pub(crate) const fn numbers(&self) -> (u128, u128) {
        (self.first, self.last)
    }

    fn is_within(&self, other: &Self) -> bool {
        other.first <= self.first && self.last <= other.last
    }
}

fn number_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// A range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| match text.parse() {
            Ok(port) if port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Some(port),
            _ => None,
        };
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("ports: {text:?} is no port from 1 to 65535, and no range such as 30000-32767")),
        }
    }

    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

/// A whole identity, or the beginning of some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Identity {
    Whole(Box<str>),
    Prefix(Box<str>),
}

impl Identity {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (prefix, bare) = text.strip_suffix('*').map_or((false, text), |bare| (true, bare));
        if bare.contains('*') || text.is_empty() {
            return Err(format!("identities: {text:?} is no identity, and no prefix such as node-*"));
        }
        Ok(if prefix { Self::Prefix(bare.into()) } else { Self::Whole(bare.into()) })
    }

    fn is(&self, identity: &str) -> bool {
        match self {
            Self::Whole(whole) => **whole == *identity,
            Self::Prefix(prefix) => identity.starts_with(&**prefix),
        }
    }
}
