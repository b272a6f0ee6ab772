//! The agent as a whole: bind the listeners, run, drain.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;
use tunnel::drain::Drain;
use tunnel::listen::UnixSocket;
use tunnel_kube::leases::Counted;
use tunnel_operate::{api, socket};
use tunnel_program::admin::{self, AdminMetrics, Check, Liveness, NotReady, Query, Readiness};
use tunnel_program::process;
use tunnel_program::renewal::Renewal;
use tunnel_program::seldom;

use crate::config::Config;
use crate::fleet::{Fleet, Sources};
use crate::metrics::Metrics;
use crate::operate::Operating;
use crate::renew;

pub use crate::fleet::Lookup;

/// An agent whose listeners are bound.
pub struct App {
    config: Arc<Config>,
    registry: Registry,
    metrics: Metrics,
    health: TcpListener,
    admin: TcpListener,
    commands: Option<UnixSocket>,
    started: Instant,
    renewal: Renewal,
    drain: Drain,
    sources: Sources,
}

impl App {
    /// Binds the listeners; needs a runtime.
    ///
    /// # Errors
    /// When an address cannot be bound, with the listener and its port.
    pub fn bind(config: Config) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let metrics = Metrics::register(&registry)?;
        metrics.limit_stalled(config.stalled_memory);
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let health = config.health.listen("health listener")?;
        let admin = config.admin.listen("admin listener")?;
        let commands = socket::bind(&config.admin_socket, metrics.socket("admin"))?;
        let drain = Drain::new();
        Ok(Self {
            renewal: Renewal::new(config.renewal, metrics.renewal(), drain.clone()),
            config: Arc::new(config),
            registry,
            metrics,
            health,
            admin,
            commands,
            started: Instant::now(),
            drain,
            sources: Sources::default(),
        })
    }

    /// Sets the valid Leases of servers, `None` while they are unknown, in place of asking the
    /// Kubernetes API.
    #[must_use]
    pub fn counting_leases(mut self, count: watch::Receiver<Option<Counted>>) -> Self {
        self.sources.leases = Some(count);
        self
    }

    /// Resolves the servers' names with `lookup`, in place of the system's resolver.
    #[must_use]
    pub fn resolving_with(mut self, lookup: Lookup) -> Self {
        self.sources.lookup = Some(lookup);
        self
    }

    /// The registry of the agent's metrics.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The drain that ends the agent.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// The address of the health listener.
    ///
    /// # Errors
    /// As [`TcpListener::local_addr`].
    pub fn health_addr(&self) -> std::io::Result<SocketAddr> {
        self.health.local_addr()
    }

    /// [`App::run`] until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// As [`App::run`], and when signals cannot be received.
    pub async fn run_until_signal(self) -> anyhow::Result<()> {
        let drain = self.drain.clone();
        process::look_on_hangup(&self.renewal, &drain).context("signals")?;
        self.run(async move { process::wait_for_signal(&drain).await }).await
    }

    /// Runs until `stop`, then drains: asks the servers for no more work, lets connections
    /// end within the grace period, and closes the tunnels.
    ///
    /// # Errors
    /// When `stop` fails, or Leases are counted without credentials for the Kubernetes API.
    pub async fn run(mut self, stop: impl Future<Output = std::io::Result<()>>) -> anyhow::Result<()> {
        info!(
            agent_id = self.config.agent_id,
            servers = ?self.config.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            transport = ?self.config.transport,
            identifiers = self.config.identifiers,
            "tunnel agent {}",
            env!("CARGO_PKG_VERSION")
        );
        self.metrics.look_at_udp();
        self.sources.tokens = renew::follow(&self.renewal, &self.config);
        if let (Some(leases), None) = (&self.config.leases, &self.sources.leases) {
            self.sources.leases = Some(crate::leases::follow(leases, &self.metrics, &self.renewal).await?);
        }
        self.drain.spawn("seldom lines", seldom::tell_the_rest(self.drain.clone()));
        let fleet = Fleet::start(&self.config, &self.metrics, &self.drain, self.sources);
        let readiness = readiness(&fleet, &self.drain);
        let liveness = liveness(&fleet, &self.drain, self.config.sync.unhealthy_after);
        let health = admin::health_routes(self.registry.clone(), liveness, readiness, NotReady::List);
        let metrics = AdminMetrics::On(self.health.local_addr().context("health listener")?.port());
        let admin = admin::admin_routes(metrics, self.config.profiling);
        for (listener, routes) in [(self.health, health), (self.admin, admin)] {
            self.drain.spawn("admin", admin::serve(listener, routes, self.drain.clone()));
        }
        if let Some(commands) = self.commands {
            let operating =
                Operating::new(&self.config, fleet.clone(), &self.metrics, &self.drain, self.started);
            socket::serve(commands, api::routes(operating), &self.drain);
        }
        let stopped = stop.await.context("signals");
        let cut = fleet.drain(&self.drain, self.config.grace).await;
        info!(cut, "drained");
        self.drain.finish().await;
        stopped
    }
}

/// Without a limit the agent is healthy as long as it runs.
fn liveness(fleet: &Fleet, drain: &Drain, limit: Option<Duration>) -> Liveness {
    let (servers, drain) = (fleet.servers.clone(), drain.clone());
    Arc::new(move || {
        let alone = servers.borrow().alone?.elapsed();
        let is_over = limit.is_some_and(|limit| alone >= limit) && !drain.has_started();
        let why = servers.borrow().failure.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        is_over.then(|| format!("no servers connected for {} s{why}", alone.as_secs()))
    })
}

fn readiness(fleet: &Fleet, drain: &Drain) -> Readiness {
    let (servers, drain) = (fleet.servers.clone(), drain.clone());
    Arc::new(move |query: Query<'_>| {
        let servers = servers.borrow();
        let failure = if drain.has_started() {
            Some("draining".to_owned())
        } else if servers.connected.is_empty() {
            let why = servers.failure.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            Some(format!("no servers connected{why}"))
        } else {
            None
        };
        let mut checks = vec![Check { name: "server-connected", failure, note: Some(servers.to_string()) }];
        checks.extend(query.values("servers").map(|wanted| {
            let failure = match wanted {
                "all" if servers.connected.len() >= servers.wanted => None,
                "all" => Some(servers.to_string()),
                _ => Some(format!("servers={wanted}: use servers=all")),
            };
            Check { name: "servers", failure, note: None }
        }));
        checks
    })
}
