//! Whom no proxy is asked for: `NO_PROXY`, and this host itself.

use std::net::IpAddr;

use tunnel_proto::network::Network;

/// The entries of `NO_PROXY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Exceptions {
    /// `*`: everybody.
    all: bool,
    addresses: Vec<(IpAddr, Option<u16>)>,
    domains: Vec<Domain>,
    networks: Vec<Network>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Domain {
    /// In lower case, with a dot in front.
    suffix: String,
    /// Also the domain itself, not only names in it.
    itself: bool,
    port: Option<u16>,
}

impl Exceptions {
    /// Reads what separates commas: addresses and domains, with ports or
    /// without, networks, and `*`. What is none of these is left out, as Go
    /// does: a mistake here must not stop an agent.
    pub(super) fn parse(text: &str) -> Self {
        let mut exceptions = Self::default();
        for entry in text.split(',').map(|entry| entry.trim().to_ascii_lowercase()) {
            if entry == "*" {
                return Self { all: true, ..Self::default() };
            }
            exceptions.add(&entry);
        }
        exceptions
    }

    fn add(&mut self, entry: &str) {
        if let Ok(network) = entry.parse() {
            return self.networks.push(network);
        }
        let Some((host, port)) = host_and_port(entry) else { return };
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.addresses.push((ip.to_canonical(), port));
        }
        let name = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        match name.strip_prefix('.') {
            Some("") => {}
            Some(_) => self.domains.push(Domain { suffix: name.to_owned(), itself: false, port }),
            None if name.is_empty() => {}
            None => self.domains.push(Domain { suffix: format!(".{name}"), itself: true, port }),
        }
    }

    /// Whether a server is to be reached without a proxy.
    pub(super) fn contain(&self, host: &str, port: u16) -> bool {
        let host = host.trim().to_ascii_lowercase();
        let same_port = |only: Option<u16>| only.is_none_or(|only| only == port);
        if self.all || host == "localhost" {
            return true;
        }
        if let Ok(ip) = host.parse::<IpAddr>() {
            let ip = ip.to_canonical();
            return ip.is_loopback()
                || self.networks.iter().any(|network| network.contains(ip))
                || self.addresses.iter().any(|(known, only)| *known == ip && same_port(*only));
        }
        self.domains.iter().any(|domain| {
            let within = host.ends_with(&domain.suffix);
            let is_it = domain.itself && domain.suffix[1..] == host;
            (within || is_it) && same_port(domain.port)
        })
    }
}

/// Splits `host:port`, `[v6]:port`, and what has no port. `None` when there is
/// no host, or no port that could match.
fn host_and_port(entry: &str) -> Option<(&str, Option<u16>)> {
    let unbracketed =
        |host: &'_ str| host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).is_some();
    let (host, port) = match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || unbracketed(host) => (host, Some(port.parse().ok()?)),
        Some(_) | None => (entry, None),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some((host, port))
}
