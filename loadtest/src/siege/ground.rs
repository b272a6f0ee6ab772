//! Addresses and certificates of the besieged, for the process of the attackers.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use tunnel_client::tls_config;
use tunnel_proto::message::Hello;
use tunnel_tests::hello;

/// Where everything is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ground {
    /// The frontend on a Unix socket.
    pub(crate) uds: PathBuf,
    /// The frontend on TCP.
    pub(crate) frontend: SocketAddr,
    /// The agents' port, TCP and UDP.
    pub(crate) agents: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// A target that waits for commands.
    pub(crate) target: SocketAddr,
    /// A target that speaks first.
    pub(crate) banner: SocketAddr,
    pub(crate) ca: PathBuf,
    /// Certificate and key of an agent that is admitted.
    pub(crate) agent: (PathBuf, PathBuf),
    /// Certificate and key of a client that is admitted.
    pub(crate) client: (PathBuf, PathBuf),
    /// A token of an agent that is admitted.
    pub(crate) token: String,
    /// The length of a flood.
    pub(crate) seconds: f64,
}

impl Ground {
    /// TLS with an admitted agent's certificate.
    pub(crate) fn agent_tls(&self, alpn: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
        with_alpn(&self.ca, &self.agent, alpn)
    }

    /// An agent's greeting.
    pub(crate) fn hello(id: &str, identifiers: &str, token: &str) -> Hello {
        Hello { token: token.to_owned(), ..hello(id, identifiers) }
    }

    /// TLS with an admitted client's certificate.
    pub(crate) fn client_tls(&self, alpn: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
        with_alpn(&self.ca, &self.client, alpn)
    }
}

fn with_alpn(
    ca: &Path,
    (certificate, key): &(PathBuf, PathBuf),
    alpn: &[u8],
) -> anyhow::Result<Arc<ClientConfig>> {
    let mut config = tls_config(ca, certificate, key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}
