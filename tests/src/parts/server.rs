//! Servers in this process, and dials by their frontends.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser as _;
use rustls::pki_types::ServerName;
use tunnel::liveness::Patience;
use tunnel_client::{Connection, DialError, Early, Endpoint, Options};

use super::{Flags, Running, command_line};
use crate::frontend::Frontend;
use crate::pki::{Pki, Who};
use crate::scrape::{Metrics, get};
use crate::wait::{wait_for, within};

/// How to start a server.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    /// The server's id.
    pub id: String,
    /// Port for agents; 0 is any.
    pub agent_port: u16,
    /// How long it waits for silent agents; `None` is the default.
    pub patience: Option<Patience>,
    /// Time between two looks at its files; `None` is the default.
    pub renewal: Option<Duration>,
    flags: Flags,
}

impl ServerSpec {
    /// A server with an id that is unique in the cluster.
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), agent_port: 0, patience: None, renewal: None, flags: Flags::new() }
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
        let defaults = [
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
        ];
        let cli =
            tunnel_server::cli::Cli::try_parse_from(command_line("tunnel-server", defaults, &spec.flags));
        let cli = cli.map_err(|error| error.to_string())?;
        let config = tunnel_server::config::Config::try_from(cli);
        let mut config = config.map_err(|error| format!("{error:#}"))?;
        if let Some((bind, _)) = &mut config.tcp {
            bind.port = 0;
        }
        config.patience = spec.patience.unwrap_or(config.patience);
        config.renewal = spec.renewal.unwrap_or(config.renewal);
        let app = tunnel_server::app::App::bind(config).map_err(|error| format!("{error:#}"))?;
        let at = app.addresses().map_err(|error| error.to_string())?;
        let running = Running::start(app.drain().clone(), |stop| async move {
            Box::pin(app.run(stop.wait())).await.unwrap();
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
        self.running.kill(&self.id).await;
    }

    /// Waits for the end of a drain that [`Server::drain`] began.
    pub async fn ended(&self, limit: Duration) {
        self.running.ended(limit, &self.id).await;
    }
}
