//! Addresses of servers: as the operator writes them, and as they are dialled.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// A server as the operator names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddr {
    /// Host name or address. The server's certificate has to be for it.
    pub host: String,
    /// TCP and UDP port.
    pub port: u16,
}

impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One address of servers, with the name that their certificate has to be for. The
/// unspecified address stands for a name that a proxy resolves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    pub(crate) name: Arc<str>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.addr.ip().is_unspecified() {
            write!(f, "{}:{}", self.name, self.addr.port())
        } else if self.addr.ip().to_string() == *self.name {
            write!(f, "{}", self.addr)
        } else {
            write!(f, "{} ({})", self.addr, self.name)
        }
    }
}

/// Splits `host`, `host:port`, `v6`, `[v6]` and `[v6]:port`. Neither part is checked.
pub(crate) fn host_and_port(text: &str) -> (&str, Option<&str>) {
    let (host, port) = match text.rsplit_once(':') {
        // A bare IPv6 address has more colons and no brackets.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    (host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host), port)
}
