//! Where a server is dialled.

use std::net::SocketAddr;
use std::sync::Arc;

/// One address of a server, and the name that its certificate has to be for. The
/// unspecified address is that of a name which a proxy is to resolve.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Endpoint {
    pub(crate) addr: SocketAddr,
    pub(crate) name: Arc<str>,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.addr.ip().is_unspecified() {
            write!(f, "{}:{}", self.name, self.addr.port())
        } else if self.addr.ip().to_string() == *self.name {
            write!(f, "{}", self.addr)
        } else {
            write!(f, "{} ({})", self.addr, self.name)
        }
    }
}
