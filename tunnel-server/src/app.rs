//! The life of a server: bind, run, drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use prometheus::Registry as Metering;
use prometheus::process_collector::ProcessCollector;
use tokio::net::TcpListener;
use tracing::info;
use tunnel::drain::Drain;
use tunnel::listen::{Presence, UnixSocket, bind_both};
use tunnel::transport::quic;
use tunnel_operate::{api, socket};
use tunnel_program::admin::{self, AdminMetrics, Check, NotReady, Query, Readiness};
use tunnel_program::args::Bind;
use tunnel_program::process;
use tunnel_program::renewal::Renewal;
use tunnel_program::seldom;

use crate::agents::{Authenticator, Limits, Registry, Sessions, Trust, accept_quic, accept_tcp};
use crate::cluster;
use crate::config::Config;
use crate::dial::Dialer;
use crate::door::Door;
use crate::frontend::Frontend;
use crate::metrics::{Backends, Metrics};
use crate::operate::{Operating, Overview};
use crate::renew;
use crate::route::{Router, Strategies};

/// Time for agents to close their tunnels after the last stream. Less cuts agents on slow networks
/// off from last bytes; more delays the end of the program where an agent hangs.
const TUNNELS_CLOSE: Duration = Duration::from_secs(2);

/// A server whose listeners are bound.
#[derive(Debug)]
pub struct App {
    config: Config,
    metering: Metering,
    metrics: Metrics,
    unix: Option<UnixSocket>,
    tcp: Option<TcpListener>,
    agents_tcp: TcpListener,
    agents_udp: std::net::UdpSocket,
    health: TcpListener,
    admin: TcpListener,
    commands: Option<UnixSocket>,
    overview: Arc<Overview>,
    registry: Registry,
    trust: Trust,
    renewal: Renewal,
    drain: Drain,
}

/// The addresses of a server's listeners.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Of the frontend on TCP, if there is one.
    pub frontend: Option<SocketAddr>,
    /// Of agents, on TCP and UDP.
    pub agents: SocketAddr,
    /// Of the health pages.
    pub health: SocketAddr,
}

impl App {
    /// Binds all listeners. Needs a tokio runtime.
    ///
    /// # Errors
    /// When an address is not available.
    pub fn bind(mut config: Config) -> anyhow::Result<Self> {
        let metering = Metering::new();
        let metrics = Metrics::register(&metering)?;
        metrics.limit_stalled(config.stalled_memory);
        let tcp = config.tcp.as_ref().map(|(bind, _)| bind.listen("frontend")).transpose()?;
        let Bind { ip, port } = config.agents;
        let (agents_tcp, agents_udp) =
            bind_both(ip, port).with_context(|| format!("listener of agents on port {port}"))?;
        if let Some(address) = config.leases.as_mut().and_then(|lease| lease.address.as_mut())
            && address.port() == 0
        {
            // --agent-port=0
            address.set_port(agents_tcp.local_addr().context("listener of agents")?.port());
        }
        let health = config.health.listen("health listener")?;
        let admin = config.admin.listen("admin listener")?;
        // Last, because a start that fails must not disturb a server that runs.
        let commands = socket::bind(&config.admin_socket, metrics.socket("admin"))?;
        let unix = config.unix.clone().map(|place| {
            let flag = format!("--uds-name={}", place.path.display());
            UnixSocket::bind(place, metrics.socket("frontend")).context(flag)
        });
        let unix = unix.transpose()?;
        let (registry, drain) = (Registry::default(), Drain::new());
        let trust = Trust::new(config.rules.clone(), metrics.clone());
        let overview = Overview::new(&config, &registry, &trust, &metrics, &drain);
        let renewal = Renewal::new(config.renewal, metrics.renewal(), drain.clone());
        Backends::register(&metering, registry.clone(), &config.strategies)?;
        metering.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Self {
            config,
            metering,
            metrics,
            unix,
            tcp,
            agents_tcp,
            agents_udp,
            health,
            admin,
            commands,
            overview,
            registry,
            trust,
            renewal,
            drain,
        })
    }

    /// The registry of this server's metrics.
    pub fn metering(&self) -> &Metering {
        &self.metering
    }

    /// The drain of this server's tasks.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// The addresses of the listeners.
    ///
    /// # Errors
    /// When the kernel does not know a socket's address.
    pub fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            frontend: self.tcp.as_ref().map(TcpListener::local_addr).transpose()?,
            agents: self.agents_tcp.local_addr()?,
            health: self.health.local_addr()?,
        })
    }

    /// Runs until a signal, then drains.
    ///
    /// # Errors
    /// When signals cannot be received or a listener cannot be used.
    pub async fn run_until_signal(self) -> anyhow::Result<()> {
        let drain = self.drain.clone();
        process::look_on_hangup(&self.renewal, &drain).context("signals")?;
        Box::pin(self.run(async move { process::wait_for_signal(&drain).await })).await
    }

    /// Runs until `stop`, then drains: accepts no clients, lets connections end within the grace
    /// period, and closes the tunnels. Not cancel safe.
    ///
    /// # Errors
    /// When `stop` fails, a listener cannot be used, or credentials for the Kubernetes API are
    /// needed and missing.
    pub async fn run(self, stop: impl Future<Output = io::Result<()>>) -> anyhow::Result<()> {
        let (drain, grace) = (self.drain.clone(), self.config.grace);
        self.announce()?;
        let Self { config, metrics, overview, registry, trust, renewal, .. } = &self;
        renew::follow(renewal, config, registry, trust);
        // Boxed, because it is large and needed at the start alone.
        let joining = Box::pin(cluster::join(config, metrics, overview, registry, trust, renewal));
        let authenticator = joining.await?;
        let sessions = self.start(authenticator)?;

        let stopped = stop.await.context("signals");
        drain.start();
        sessions.announce_drain();
        let drained = drain.run(grace).await;
        info!(cut = drained.cut, "drained");
        if drained.cut == 0 {
            // Agents close their tunnels, because those may still carry last bytes.
            let all_closed = async {
                while !sessions.registry.tunnels().is_empty() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let _ = tokio::time::timeout(TUNNELS_CLOSE, all_closed).await;
        }
        drain.finish().await;
        stopped
    }

    fn announce(&self) -> anyhow::Result<()> {
        let at = self.addresses()?;
        info!(
            server_id = self.config.server_id,
            unix = ?self.config.unix.as_ref().map(|place| &place.path),
            tcp = ?at.frontend,
            agents = %at.agents,
            health = %at.health,
            strategies = ?self.config.strategies,
            identity_mode = self.trust.mode().label(),
            routes_from = self.trust.source().label(),
            mode = ?self.config.mode,
            "tunnel server {}",
            env!("CARGO_PKG_VERSION")
        );
        Ok(())
    }

    /// Starts all listeners.
    fn start(self, authenticator: Authenticator) -> anyhow::Result<Sessions> {
        let agents = self.agents_tcp.local_addr().context("listener of agents")?;
        let Self { config, metering, metrics, registry, trust, drain, overview, .. } = self;
        let router = Arc::new(Router::new(config.strategies.clone()));
        let presence = self.unix.as_ref().map(UnixSocket::presence);
        let readiness = readiness(&registry, &router, &drain, presence);
        let health = admin::health_routes(metering.clone(), Arc::new(|| None), readiness, NotReady::Reason);
        let admin = admin::admin_routes(AdminMetrics::Here(metering), config.profiling);
        for (listener, routes) in [(self.health, health), (self.admin, admin)] {
            drain.spawn("admin", admin::serve(listener, routes, drain.clone()));
        }

        let files = process::file_limit();
        metrics.look_at_udp();
        let sessions = Sessions {
            registry: registry.clone(),
            server_id: config.server_id.as_str().into(),
            server_count: config.server_count,
            transport: config.agent_transport.told(),
            authenticator,
            trust: trust.clone(),
            patience: config.patience,
            metrics: metrics.clone(),
            drain: drain.clone(),
            limits: Limits::new(files),
        };
        let tls = config.agent_tls.now().clone();
        let config_now = Arc::clone(&tls.get().config);
        let listener =
            quic::Listener::new(self.agents_udp, config_now, &config.reset_secret, config.datagrams)
                .context("agents on UDP")?;
        drain.spawn("seldom lines", seldom::tell_the_rest(drain.clone()));
        drain.spawn("agents on UDP", accept_quic(listener, tls.clone(), sessions.clone()));
        drain.spawn("agents on TCP", accept_tcp(self.agents_tcp, tls, sessions.clone()));

        let agents_tls = config.agent_tls.now().clone();
        let lapsed = registry.clone().end_lapsed(agents_tls, config.renewal, metrics.clone(), drain.clone());
        drain.spawn("lapsed credentials", lapsed);
        let policy = Arc::clone(&config.policy);
        let dialer = Dialer::new(registry, router, trust, policy, metrics.clone(), config.dial_limit);
        if let Some(socket) = self.commands {
            let operating = Operating::new(overview, dialer.clone(), &config, agents);
            socket::serve(socket, api::routes(operating), &drain);
        }
        let frontend =
            Frontend::new(dialer, metrics, drain.clone(), config.mode, config.admission, Door::new(files));
        if let Some(socket) = self.unix {
            drain.spawn("clients on unix", Arc::clone(&frontend).accept_unix(socket));
        }
        if let (Some(listener), Some((_, tls))) = (self.tcp, config.tcp) {
            let clients = frontend.accept_tcp(listener, tls.now().clone(), config.ack_timeout);
            drain.spawn("clients on TCP", clients);
        }
        Ok(sessions)
    }
}

/// Ready while the first strategy has an agent, as with Konnectivity, and clients find the Unix socket.
fn readiness(
    registry: &Registry,
    router: &Arc<Router>,
    drain: &Drain,
    socket: Option<Presence>,
) -> Readiness {
    let (registry, router, drain) = (registry.clone(), Arc::clone(router), drain.clone());
    Arc::new(move |query: Query<'_>| {
        let failure = match router.strategies().first() {
            _ if drain.has_started() => Some("draining".to_owned()),
            Some(&first) if registry.view().has(first) => None,
            Some(_) | None => Some("no connection to any proxy agent".to_owned()),
        };
        let agents = Check { name: "agent-connected", failure, note: None };
        let socket = socket.as_ref().map(|socket| Check {
            name: "frontend-socket",
            failure: socket.fault(),
            note: None,
        });
        let mut checks: Vec<_> = [agents].into_iter().chain(socket).collect();
        checks.extend(query.values("strategy").map(|name| {
            let failure = match name.parse::<Strategies>() {
                Ok(Strategies(asked)) => asked
                    .into_iter()
                    .find(|strategy| !registry.view().has(*strategy))
                    .map(|strategy| format!("no agent for the strategy {}", strategy.label())),
                Err(why) => Some(why),
            };
            Check { name: "strategy", failure, note: None }
        }));
        checks
    })
}
