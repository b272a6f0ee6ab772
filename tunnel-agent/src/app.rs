//! The agent as a whole: bind everything, then run, then drain.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info};
use tunnel::drain::Drain;
use tunnel::listen::{UnixSocket, bind_tcp};
use tunnel_operate::{api, socket};
use tunnel_program::admin::{self, AdminMetrics, Check, NotReady, Readiness};
use tunnel_program::process;

use crate::config::Config;
use crate::fleet::{Fleet, Sources};
use crate::metrics::Metrics;
use crate::operate::Operating;

pub use crate::fleet::Lookup;

/// How long tunnels may take to close once nothing is left on them.
const TUNNELS_CLOSE: std::time::Duration = std::time::Duration::from_secs(2);

/// An agent whose listeners are bound.
#[derive(Debug)]
pub struct App {
    config: Arc<Config>,
    registry: Registry,
    metrics: Metrics,
    health: TcpListener,
    admin: TcpListener,
    commands: Option<UnixSocket>,
    started: Instant,
    drain: Drain,
    sources: Sources,
}

impl App {
    /// Binds all listeners; needs a runtime.
    ///
    /// # Errors
    /// When an address is not available.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry)?;
        metrics.limit_stalled(config.stalled_memory);
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let (ip, port) = config.health;
        let health = bind_tcp(ip, port).with_context(|| format!("health listener on port {port}"))?;
        let (ip, port) = config.admin;
        let admin = bind_tcp(ip, port).with_context(|| format!("admin listener on port {port}"))?;
        let commands = socket::bind(&config.admin_socket)?;
        Ok(Self {
            config: Arc::new(config),
            registry,
            metrics,
            health,
            admin,
            commands,
            started: Instant::now(),
            drain: Drain::new(),
            sources: Sources::default(),
        })
    }

    /// Counts servers also by Leases: how many are valid, or `None` while that
    /// is not known.
    #[must_use]
    pub fn counting_leases(mut self, count: watch::Receiver<Option<u32>>) -> Self {
        self.sources.leases = Some(count);
        self
    }

    /// Resolves the servers' names in another way than the system does.
    #[must_use]
    pub fn resolving_with(mut self, lookup: Lookup) -> Self {
        self.sources.lookup = Some(lookup);
        self
    }

    /// Where the metrics are.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The drain that ends this agent.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Where the health listener is.
    ///
    /// # Errors
    /// When the socket does not say.
    pub fn health_addr(&self) -> std::io::Result<SocketAddr> {
        self.health.local_addr()
    }

    /// Runs until a signal, then drains.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub async fn run_until_signal(self) -> anyhow::Result<()> {
        let drain = self.drain.clone();
        self.run(async move { process::wait_for_signal(&drain).await }).await
    }

    /// Runs until `stop`, then drains: asks the servers for no more work, lets
    /// connections end, closes the tunnels.
    ///
    /// # Errors
    /// When `stop` fails, or Leases are to be counted and there are no
    /// credentials for the Kubernetes API.
    pub async fn run(mut self, stop: impl Future<Output = std::io::Result<()>>) -> anyhow::Result<()> {
        info!(
            agent_id = self.config.agent_id,
            servers = ?self.config.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            transport = ?self.config.transport,
            identifiers = self.config.identifiers,
            "tunnel agent {}",
            env!("CARGO_PKG_VERSION")
        );
        if let (Some(leases), None) = (&self.config.leases, &self.sources.leases) {
            self.sources.leases = Some(crate::leases::follow(leases, &self.metrics, &self.drain).await?);
        }
        let fleet = Fleet::start(&self.config, &self.metrics, &self.drain, self.sources);
        let readiness = readiness(&fleet, &self.drain);
        let health = admin::health_routes(self.registry.clone(), readiness, NotReady::List);
        let metrics = AdminMetrics::On(self.health.local_addr().context("health listener")?.port());
        let admin = admin::admin_routes(metrics, self.config.profiling);
        for (what, listener, routes) in [("health", self.health, health), ("admin", self.admin, admin)] {
            let drain = self.drain.clone();
            self.drain.spawn("admin", async move {
                if let Err(error) = admin::serve(listener, routes, drain).await {
                    error!(%error, "the {what} listener failed");
                }
            });
        }
        if let Some(commands) = self.commands {
            let operating =
                Operating::new(&self.config, fleet.clone(), &self.metrics, &self.drain, self.started);
            socket::serve(commands, api::routes(operating), &self.drain);
        }
        let stopped = stop.await.context("signals");
        let drained = self.drain.run(self.config.grace).await;
        // Without connections the tunnels close by themselves, after the last
        // bytes and after dials that were still on their way.
        if drained.cut == 0 {
            let _ = tokio::time::timeout(TUNNELS_CLOSE, fleet.all_ended()).await;
        }
        info!(cut = drained.cut, "drained");
        self.drain.finish().await;
        stopped
    }
}

fn readiness(fleet: &Fleet, drain: &Drain) -> Readiness {
    let (servers, drain) = (fleet.servers(), drain.clone());
    Arc::new(move || {
        let servers = servers.borrow();
        let failure = if drain.has_started() {
            Some("draining".to_owned())
        } else if servers.connected == 0 {
            Some("no servers connected".to_owned())
        } else {
            None
        };
        vec![Check { name: "server-connected", failure, note: Some(servers.to_string()) }]
    })
}
