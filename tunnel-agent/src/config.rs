//! Flags made into values: after this nothing is a string that should not be.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tunnel::listen::bind_ip;
use tunnel::tls::{self, Identity};
use tunnel_proto::ident::{Identifiers, UnknownKeys};

use crate::cli::{Cli, Transport};

/// Everything an agent needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Servers to keep a tunnel to.
    pub servers: Vec<ServerAddr>,
    /// How to authenticate to them, and they to us.
    pub tls: Arc<rustls::ClientConfig>,
    /// Which links to try.
    pub transport: Transport,
    /// This agent's name.
    pub agent_id: String,
    /// What it serves, in the form that goes over the wire.
    pub identifiers: String,
    /// Health listener.
    pub health: (Option<IpAddr>, u16),
    /// Admin listener.
    pub admin: (Option<IpAddr>, u16),
    /// First and largest bound of the wait between attempts.
    pub retry: (Duration, Duration),
    /// Limit of a drain.
    pub grace: Duration,
}

/// Where a server is, as the operator wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerAddr {
    /// Name or address; also what the server's certificate must be for.
    pub host: String,
    /// TCP and UDP port.
    pub port: u16,
}

impl std::fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<Cli> for Config {
    type Error = anyhow::Error;

    fn try_from(cli: Cli) -> anyhow::Result<Self> {
        ensure!(!cli.ca_cert.as_os_str().is_empty(), "--ca-cert is needed to check the tunnel servers");
        ensure!(
            !cli.agent_cert.as_os_str().is_empty() && !cli.agent_key.as_os_str().is_empty(),
            "--agent-cert and --agent-key are needed to authenticate to the tunnel servers"
        );
        ensure!(
            cli.sync_interval <= cli.sync_interval_cap,
            "--sync-interval must not be larger than --sync-interval-cap"
        );
        let identity = Identity::load(&cli.agent_cert, &cli.agent_key)?;
        Identifiers::parse(&cli.agent_identifiers, UnknownKeys::Refuse).context("--agent-identifiers")?;
        Ok(Self {
            servers: servers(&cli.proxy_server_host, cli.proxy_server_port)?,
            tls: tls::agent_client(&identity, tls::load_roots(&cli.ca_cert)?)?,
            transport: cli.transport,
            agent_id: match cli.agent_id {
                id if id.is_empty() => uuid::Uuid::new_v4().to_string(),
                id => id,
            },
            identifiers: cli.agent_identifiers,
            health: (
                bind_ip(&cli.health_server_host)
                    .map_err(anyhow::Error::msg)
                    .context("--health-server-host")?,
                cli.health_server_port,
            ),
            admin: (
                bind_ip(&cli.admin_bind_address)
                    .map_err(anyhow::Error::msg)
                    .context("--admin-bind-address")?,
                cli.admin_server_port,
            ),
            retry: (cli.sync_interval, cli.sync_interval_cap),
            grace: cli.graceful_shutdown_timeout,
        })
    }
}

/// Splits `a,b:9000,[::1]:9000,::1` into hosts with ports.
fn servers(list: &str, default_port: u16) -> anyhow::Result<Vec<ServerAddr>> {
    let mut servers = Vec::new();
    for entry in list.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let (host, port) = match entry.rsplit_once(':') {
            _ if entry.ends_with(']') => (entry, default_port),
            // A bare IPv6 address has more colons and no brackets.
            Some((host, _)) if host.contains(':') && !host.ends_with(']') => (entry, default_port),
            Some((host, port)) => {
                (host, port.parse().with_context(|| format!("--proxy-server-host: port of {entry:?}"))?)
            }
            None => (entry, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        ensure!(!host.is_empty() && port != 0, "--proxy-server-host: {entry:?} is no host");
        let server = ServerAddr { host: host.to_owned(), port };
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    if servers.is_empty() {
        bail!("--proxy-server-host names no server");
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_lists() {
        let shown = |list: &str| {
            servers(list, 8091).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(shown("10.0.0.1"), "10.0.0.1:8091");
        assert_eq!(shown("a, b:9000,a"), "a:8091 b:9000");
        assert_eq!(shown("::1,[::2],[::3]:9000"), "[::1]:8091 [::2]:8091 [::3]:9000");
        for bad in ["", ",", "a:x", "a:0", ":80"] {
            assert!(servers(bad, 8091).is_err(), "{bad:?}");
        }
    }
}
