//! Servers that are reached without a proxy: those in `NO_PROXY`, and this host.

use std::net::IpAddr;

use tunnel_proto::network::Network;

use crate::endpoint::host_and_port;

/// The entries of `NO_PROXY`.
#[derive(Debug, Clone, Default)]
pub(super) struct Exceptions {
    /// `*`, for all servers.
    all: bool,
    addresses: Vec<(IpAddr, Option<u16>)>,
    domains: Vec<Domain>,
    networks: Vec<Network>,
}

#[derive(Debug, Clone)]
struct Domain {
    /// In lower case, with a dot in front.
    suffix: String,
    /// Whether the domain itself counts, besides the names in it.
    itself: bool,
    port: Option<u16>,
}

impl Exceptions {
    /// Reads addresses and domains, with or without ports, networks, and `*`, separated by
    /// commas. Other entries are skipped, as in Go: a mistake here does not stop an agent.
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
        let (host, port) = host_and_port(entry);
        let Ok(port) = port.map(str::parse).transpose() else { return };
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

    /// Whether a server is reached without a proxy.
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
