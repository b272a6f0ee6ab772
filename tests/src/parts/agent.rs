//! Agents in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser as _;
use tunnel::liveness::Patience;
use tunnel::transport::Link;

use super::{Flags, Running, command_line};
use crate::pki::{Pki, Who};
use crate::scrape::{Metrics, get};
use crate::wait::wait_for;

/// How to start an agent.
#[derive(Debug, Clone)]
pub struct AgentSpec {
    /// Its id.
    pub id: String,
    /// How long it waits for silent servers; `None` is the default.
    pub patience: Option<Patience>,
    /// Time between two looks at its files; `None` is the default.
    pub renewal: Option<Duration>,
    flags: Flags,
}

impl AgentSpec {
    /// An agent of this id on this link that serves the targets on an address.
    pub fn new(id: &str, link: Link, serves: Ipv4Addr) -> Self {
        let spec = Self { id: id.to_owned(), patience: None, renewal: None, flags: Flags::new() };
        spec.flag("transport", link.label()).flag("agent-identifiers", &format!("ipv4={serves}"))
    }

    /// One more flag, without its dashes.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// An agent in this process.
#[derive(Debug)]
pub struct Agent {
    /// Its id.
    pub id: String,
    /// Health listener.
    pub health: SocketAddr,
    running: Running,
}

impl Agent {
    /// Starts an agent from its flags, without waiting for its tunnels.
    pub fn start(pki: &Pki, servers: &[SocketAddr], spec: &AgentSpec) -> Self {
        Self::start_with(pki, servers, spec, |app| app)
    }

    /// As [`Agent::start`], with a change that no flag makes.
    pub fn start_with(
        pki: &Pki,
        servers: &[SocketAddr],
        spec: &AgentSpec,
        with: impl FnOnce(tunnel_agent::app::App) -> tunnel_agent::app::App,
    ) -> Self {
        let servers = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let shown = |path: PathBuf| path.display().to_string();
        let defaults = [
            ("ca-cert", shown(pki.ca())),
            ("agent-cert", shown(pki.cert(Who::Agent))),
            ("agent-key", shown(pki.key(Who::Agent))),
            ("proxy-server-host", servers),
            ("agent-id", spec.id.clone()),
            ("health-server-host", "127.0.0.1".to_owned()),
            ("health-server-port", "0".to_owned()),
            ("admin-server-port", "0".to_owned()),
            // The usual back-off spreads the agents of a fleet, and would make tests slow.
            ("sync-interval", "50ms".to_owned()),
            ("sync-interval-cap", "200ms".to_owned()),
        ];
        let cli = tunnel_agent::cli::Cli::try_parse_from(command_line("tunnel-agent", defaults, &spec.flags))
            .unwrap();
        let mut config = tunnel_agent::config::Config::try_from(cli).unwrap();
        config.patience = spec.patience.unwrap_or(config.patience);
        config.renewal = spec.renewal.unwrap_or(config.renewal);
        let app = with(tunnel_agent::app::App::bind(config).unwrap());
        let health = app.health_addr().unwrap();
        let running = Running::start(app.drain().clone(), |stop| async move {
            app.run(stop.wait()).await.unwrap();
        });
        Self { id: spec.id.clone(), health, running }
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Metrics {
        Metrics::of(self.health).await.unwrap()
    }

    /// Dials answered with a connection.
    pub async fn dials(&self) -> i64 {
        self.metrics().await.sum("tunnel_agent_dials_total", &["outcome=\"connected\""])
    }

    /// Open connections, those being dialled included.
    pub async fn connections(&self) -> i64 {
        self.metrics().await.value("tunnel_agent_connections")
    }

    /// Waits until no connection is open.
    pub async fn wait_until_idle(&self) {
        wait_for(&format!("{} to be idle", self.id), async || {
            let metrics = self.metrics().await;
            match metrics.value("tunnel_agent_connections") {
                0 => Ok(()),
                _ => Err(metrics.show("tunnel_agent")),
            }
        })
        .await;
    }

    /// Status and text of `/readyz`.
    ///
    /// # Errors
    /// When the health listener is gone.
    pub async fn readiness(&self) -> std::io::Result<(u16, String)> {
        get(self.health, "/readyz").await
    }

    /// Waits until the agent has tunnels to `connected` of `wanted` servers.
    pub async fn wait_for_servers(&self, connected: i64, wanted: i64) {
        wait_for(&format!("{connected} of {wanted} servers at {}", self.id), async || {
            let metrics = self.metrics().await;
            let value = |name| metrics.value(name);
            match (value("tunnel_agent_servers_connected"), value("tunnel_agent_servers_wanted")) {
                found if found == (connected, wanted) => Ok(()),
                _ => Err(metrics.show("tunnel_agent")),
            }
        })
        .await;
    }

    /// Attempts to connect with this outcome.
    pub async fn attempts(&self, outcome: &str) -> i64 {
        let label = format!("outcome=\"{outcome}\"");
        self.metrics().await.sum("tunnel_agent_tunnel_attempts_total", &[&label])
    }

    /// Drains, as after SIGTERM.
    pub fn drain(&self) {
        self.running.signal.start();
    }

    /// Cuts all connections and waits for the end.
    pub async fn kill(&self) {
        self.running.kill(&self.id).await;
    }

    /// Waits for the end of a drain that [`Agent::drain`] began.
    pub async fn ended(&self, limit: Duration) {
        self.running.ended(limit, &self.id).await;
    }
}
