//! The parts of a cluster: servers and agents, each with its own drain.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser as _;
use rustls::pki_types::ServerName;
use tunnel::drain::Drain;
use tunnel::liveness::Patience;
use tunnel::transport::Link;
use tunnel_client::{Connection, DialError, Early, Endpoint, Options};

use crate::frontend::Frontend;
use crate::pki::{Pki, Who};
use crate::scrape::{Metrics, get};
use crate::task::{Task, spawn};
use crate::wait::{wait_for, wait_within, within};

/// Flags by name; a later value replaces an earlier one.
type Flags = BTreeMap<String, String>;

fn command_line(program: &str, flags: &Flags) -> Vec<String> {
    let flags = flags.iter().map(|(name, value)| format!("--{name}={value}"));
    std::iter::once(program.to_owned()).chain(flags).collect()
}

/// A running program.
#[derive(Debug)]
struct Running {
    /// The program's own drain; killing it cuts all connections.
    program: Drain,
    /// Starts the drain, as SIGTERM does.
    signal: Drain,
    task: Task,
}

impl Running {
    fn start<R>(program: Drain, run: impl FnOnce(Stop) -> R) -> Self
    where
        R: Future<Output = ()> + Send + 'static,
    {
        let signal = Drain::new();
        let task = spawn(run(Stop { program: program.clone(), signal: signal.clone() }));
        Self { program, signal, task }
    }

    async fn ended(&self, limit: Duration, who: &str) {
        wait_within(limit, &format!("the end of {who}"), async || match self.task.is_finished() {
            true => Ok(()),
            false => Err(format!("{} connections", self.program.connections())),
        })
        .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.program.kill();
    }
}

struct Stop {
    program: Drain,
    signal: Drain,
}

impl Stop {
    async fn wait(self) -> std::io::Result<()> {
        tokio::select! {
            () = self.program.killed() => {}
            () = self.signal.started() => {}
        }
        Ok(())
    }
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    /// The server's id.
    pub id: String,
    /// Port for agents; 0 is any.
    pub agent_port: u16,
    /// How long it waits for silent agents; `None` is the default.
    pub patience: Option<Patience>,
    flags: Flags,
}

impl ServerSpec {
    /// A server with an id that is unique in the cluster.
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), agent_port: 0, patience: None, flags: Flags::new() }
    }

    /// One more flag, without its dashes.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.insert(name.to_owned(), value.to_owned());
        self
    }
}

/// A server in this process.
#[derive(Debug)]
pub struct Server {
    /// Its id.
    pub id: String,
    /// TCP frontend.
    pub tcp: SocketAddr,
    /// Unix frontend.
    pub unix: PathBuf,
    /// Listener of agents, TCP and UDP.
    pub agents: SocketAddr,
    /// Health listener.
    pub health: SocketAddr,
    tls: rustls::ClientConfig,
    running: Running,
}

impl Server {
    /// Starts a server from its flags.
    ///
    /// # Errors
    /// When the flags are wrong or a port is not available.
    pub fn start(dir: &Path, pki: &Pki, spec: &ServerSpec) -> Result<Self, String> {
        let unix = dir.join(format!("{}.socket", spec.id));
        let shown = |path: PathBuf| path.display().to_string();
        let mut flags: Flags = [
            ("uds-name", shown(unix.clone())),
            // Port 0 would mean "none" as a flag, so the configuration gets it below.
            ("server-port", "1".to_owned()),
            ("server-bind-address", "127.0.0.1".to_owned()),
            ("server-cert", shown(pki.cert(Who::Server))),
            ("server-key", shown(pki.key(Who::Server))),
            ("server-ca-cert", shown(pki.ca())),
            ("cluster-cert", shown(pki.cert(Who::Server))),
            ("cluster-key", shown(pki.key(Who::Server))),
            ("cluster-ca-cert", shown(pki.ca())),
            ("agent-bind-address", "127.0.0.1".to_owned()),
            ("agent-port", spec.agent_port.to_string()),
            ("admin-port", "0".to_owned()),
            ("health-bind-address", "127.0.0.1".to_owned()),
            ("health-port", "0".to_owned()),
            ("proxy-strategies", "destHost".to_owned()),
            ("server-id", spec.id.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        flags.extend(spec.flags.clone());
        let cli = tunnel_server::cli::Cli::try_parse_from(command_line("tunnel-server", &flags));
        let cli = cli.map_err(|error| error.to_string())?;
        let config = tunnel_server::config::Config::try_from(cli);
        let mut config = config.map_err(|error| format!("{error:#}"))?;
        if let Some((bind, _)) = &mut config.tcp {
            bind.port = 0;
        }
        config.patience = spec.patience.unwrap_or(config.patience);
        let app = tunnel_server::app::App::bind(config).map_err(|error| format!("{error:#}"))?;
        let at = app.addresses().map_err(|error| error.to_string())?;
        let running = Running::start(app.drain().clone(), |stop| async move {
            app.run(stop.wait()).await.unwrap();
        });
        Ok(Self {
            id: spec.id.clone(),
            tcp: at.frontend.ok_or("no frontend on TCP")?,
            unix,
            agents: at.agents,
            health: at.health,
            tls: pki.client(Who::Client),
            running,
        })
    }

    /// How a client reaches a frontend.
    pub fn endpoint(&self, frontend: Frontend) -> Endpoint {
        if frontend.is_unix() {
            return Endpoint::unix(self.unix.clone());
        }
        Endpoint::tls(self.tcp, ServerName::try_from("localhost").unwrap(), self.tls.clone())
    }

    /// Dials a target. Bytes that come with the answer are kept, where a
    /// kube-apiserver fails: a slow test may read them together.
    ///
    /// # Errors
    /// When the dial fails.
    pub async fn dial(&self, frontend: Frontend, target: &str) -> Result<Connection, DialError> {
        let options = Options { early: Early::Keep, ..Options::default() };
        tunnel_client::dial(frontend.protocol(), &self.endpoint(frontend), target, &options).await
    }

    /// As [`Server::dial`]; panics when the dial fails.
    pub async fn connect(&self, frontend: Frontend, target: impl ToString) -> Connection {
        let target = target.to_string();
        let dialed = within("a dial", self.dial(frontend, &target)).await;
        dialed.unwrap_or_else(|error| panic!("{frontend:?} to {target}: {error}"))
    }

    /// The text with which a dial fails, and on CONNECT the status.
    pub async fn refusal(&self, frontend: Frontend, target: &str) -> (Option<u16>, String) {
        match within("a refusal", self.dial(frontend, target)).await {
            Ok(_) => panic!("{frontend:?}: {target} was connected"),
            Err(error) => match error.reason() {
                Some(reason) => (error.status(), reason.to_owned()),
                None => panic!("{frontend:?}: {target}: no words of the server, but {error}"),
            },
        }
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Metrics {
        Metrics::of(self.health).await.unwrap()
    }

    /// Waits until so many tunnels are registered.
    pub async fn wait_for_tunnels(&self, wanted: i64) {
        wait_for(&format!("{wanted} tunnels at {}", self.id), async || {
            let metrics = self.metrics().await;
            match metrics.sum("tunnel_server_tunnels", &[]) == wanted {
                true => Ok(()),
                false => Err(metrics.show("tunnel_server")),
            }
        })
        .await;
    }

    /// Waits until no client is connected and no dial pending.
    pub async fn wait_until_idle(&self) {
        wait_for(&format!("{} to be idle", self.id), async || {
            let metrics = self.metrics().await;
            let busy =
                metrics.sum("tunnel_server_connections", &[]) + metrics.value("tunnel_server_pending_dials");
            if busy == 0 { Ok(()) } else { Err(metrics.show("tunnel_server")) }
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

    /// Drains, as after SIGTERM.
    pub fn drain(&self) {
        self.running.signal.start();
    }

    /// Cuts all connections and waits for the end.
    pub async fn kill(&self) {
        self.running.program.kill();
        self.ended(Duration::from_secs(10)).await;
    }

    /// Waits for the end of a drain that [`Server::drain`] began.
    pub async fn ended(&self, limit: Duration) {
        self.running.ended(limit, &self.id).await;
    }
}

/// How to start an agent.
#[derive(Debug, Clone)]
pub struct AgentSpec {
    /// Its id.
    pub id: String,
    /// How long it waits for silent servers; `None` is the default.
    pub patience: Option<Patience>,
    flags: Flags,
}

impl AgentSpec {
    /// An agent of this id on this link that serves the targets on an address.
    pub fn new(id: &str, link: Link, serves: Ipv4Addr) -> Self {
        let spec = Self { id: id.to_owned(), patience: None, flags: Flags::new() };
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
        let mut flags: Flags = [
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
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        flags.extend(spec.flags.clone());
        let cli = tunnel_agent::cli::Cli::try_parse_from(command_line("tunnel-agent", &flags)).unwrap();
        let mut config = tunnel_agent::config::Config::try_from(cli).unwrap();
        config.patience = spec.patience.unwrap_or(config.patience);
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
        self.running.program.kill();
        self.ended(Duration::from_secs(10)).await;
    }

    /// Waits for the end of a drain that [`Agent::drain`] began.
    pub async fn ended(&self, limit: Duration) {
        self.running.ended(limit, &self.id).await;
    }
}
