//! Servers and agents that belong together.

use std::net::Ipv4Addr;

use tempfile::TempDir;
use tunnel::transport::Link;

use crate::frontend::LINKS;
use crate::panics;
use crate::parts::{Agent, AgentSpec, Server, ServerSpec};
use crate::pki::Pki;

/// The loopback address of the node whose agent is on a link: a target's address
/// decides which link leads to it.
pub const fn node(link: Link) -> Ipv4Addr {
    match link {
        Link::Quic => Ipv4Addr::new(127, 0, 0, 1),
        Link::H2 => Ipv4Addr::new(127, 0, 0, 2),
        Link::Konnectivity => Ipv4Addr::new(127, 0, 0, 3),
    }
}

/// The parts of a cluster.
#[derive(Debug, Default)]
pub struct Builder {
    server: Option<ServerSpec>,
    agents: Vec<AgentSpec>,
}

impl Builder {
    /// Another server than the usual one.
    #[must_use]
    pub fn server(mut self, spec: ServerSpec) -> Self {
        self.server = Some(spec);
        self
    }

    /// One flag of the server, without its dashes.
    #[must_use]
    pub fn server_flag(mut self, name: &str, value: &str) -> Self {
        let spec = self.server.take().unwrap_or_else(|| ServerSpec::new("server"));
        self.server(spec.flag(name, value))
    }

    /// An agent on a link, which serves [`node`] of that link.
    #[must_use]
    pub fn agent_on(self, link: Link) -> Self {
        self.agent(AgentSpec::new(&format!("agent-{}", link.label()), link, node(link)))
    }

    /// One more agent.
    #[must_use]
    pub fn agent(mut self, spec: AgentSpec) -> Self {
        self.agents.push(spec);
        self
    }

    /// Starts the server and the agents, and waits until the agents are connected.
    pub async fn start(self) -> Cluster {
        panics::record();
        let dir = TempDir::new().unwrap();
        let pki = Pki::make(dir.path());
        let spec = self.server.unwrap_or_else(|| ServerSpec::new("server"));
        let server = Server::start(dir.path(), &pki, &spec).unwrap();
        let agents = self.agents.iter().map(|spec| Agent::start(&pki, &[server.agents], spec)).collect();
        let cluster = Cluster { server, agents, pki, dir };
        cluster.server.wait_for_tunnels(i64::try_from(cluster.agents.len()).unwrap()).await;
        cluster
    }
}

/// A server with its agents. Dropping the cluster cuts all connections.
#[derive(Debug)]
pub struct Cluster {
    /// The server.
    pub server: Server,
    /// The agents, as they were given to the builder.
    pub agents: Vec<Agent>,
    /// Certificates.
    pub pki: Pki,
    dir: TempDir,
}

impl Cluster {
    /// Begins with a server and no agents.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A server and one agent.
    pub async fn on(link: Link) -> Self {
        Self::builder().agent_on(link).start().await
    }

    /// A server and an agent on each link.
    pub async fn on_both_links() -> Self {
        let agents = LINKS.into_iter().fold(Self::builder(), Builder::agent_on);
        agents.start().await
    }

    /// One more server, unknown to the cluster's agents.
    ///
    /// # Errors
    /// When a port is not available.
    pub fn start_server(&self, spec: &ServerSpec) -> Result<Server, String> {
        Server::start(self.dir.path(), &self.pki, spec)
    }

    /// One more agent of the cluster's server, which may not be connected yet.
    pub fn start_agent(&self, spec: &AgentSpec) -> Agent {
        Agent::start(&self.pki, &[self.server.agents], spec)
    }

    /// The end of a test: waits until every gauge of open things is 0, and fails if
    /// the product has panicked.
    pub async fn finish(self) {
        self.server.wait_until_idle().await;
        for agent in &self.agents {
            agent.wait_until_idle().await;
        }
        panics::assert_none();
    }
}
