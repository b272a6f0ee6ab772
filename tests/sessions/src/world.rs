//! The programs under test: a server, an agent on each link, and canaries through them.
//!
//! Each agent also has a tunnel to a place where sessions of servers are played. The canaries go from the
//! server's frontends through every agent to echoes, so they notice what is done to either.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tunnel::transport::Link;
use tunnel_tests::stock::alpn;
use tunnel_tests::{
    Agent, AgentSpec, Canary, Frontend, Metrics, Pki, Server, ServerSpec, Target, Who, node, panics, wait_for,
};

use crate::marks::Marks;

/// The links.
const LINKS: [Link; 3] = [Link::Quic, Link::H2, Link::Konnectivity];

/// Gauges of a server that count something that peers hold.
const OF_SERVER: [&str; 9] = [
    "tunnel_server_tunnels",
    "tunnel_server_streams",
    "tunnel_server_connections",
    "tunnel_server_pending_dials",
    "tunnel_server_suspect_tunnels",
    "tunnel_server_twin_tunnels",
    "tunnel_server_identities",
    "konnectivity_network_proxy_server_grpc_connections",
    "konnectivity_network_proxy_server_established_connections",
];

/// Gauges of an agent that count something that servers hold.
const OF_AGENT: [&str; 2] =
    ["tunnel_agent_connections", "konnectivity_network_proxy_agent_open_endpoint_connections"];

/// Time in which everything that mutated peers held is given back after they have left: the longest limit
/// is that of a client's direction whose other one has ended (10 s), and a busy machine is slower.
const GIVEN_BACK: Duration = Duration::from_secs(40);

/// Time over which the number of tasks is watched, of which the least counts: agents dial again and again.
const WATCHED: Duration = Duration::from_millis(500);

/// A debug assertion of the h2 library, at the drop of a connection whose client left within its calls. All that
/// the connection held is freed there, so nothing is left to be wrong.
const HARMLESS: &str = "assertion failed: !self.has_streams()";

/// A server, its agents, and canaries.
#[derive(Debug)]
pub struct World {
    pub(crate) server: Server,
    pub(crate) pki: Pki,
    pub(crate) places: Places,
    pub(crate) marks: Marks,
    agents: Vec<Agent>,
    canaries: Vec<Canary>,
    echoes: Vec<Target>,
    _dir: TempDir,
}

/// Where the agents find servers that are played, and from where agents are played on QUIC.
#[derive(Debug)]
pub(crate) struct Places {
    pub(crate) quic: quinn::Endpoint,
    pub(crate) h2: (TcpListener, Arc<ServerConfig>),
    pub(crate) konnectivity: (TcpListener, Arc<ServerConfig>),
    pub(crate) dialer: quinn::Endpoint,
}

impl Places {
    async fn open(pki: &Pki) -> anyhow::Result<Self> {
        const ANY: (&str, u16) = ("127.0.0.1", 0);
        let any = "127.0.0.1:0".parse()?;
        let config =
            quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(pki.agent_listener())?));
        let mut dialer = quinn::Endpoint::client(any)?;
        let agent = QuicClientConfig::try_from(alpn(pki, Who::Agent, &["tunnel/1"]))?;
        dialer.set_default_client_config(quinn::ClientConfig::new(Arc::new(agent)));
        Ok(Self {
            quic: quinn::Endpoint::server(config, any)?,
            h2: (TcpListener::bind(ANY).await?, listener(pki, "tunnel/1")),
            konnectivity: (TcpListener::bind(ANY).await?, listener(pki, "h2")),
            dialer,
        })
    }

    fn of(&self, link: Link) -> std::io::Result<std::net::SocketAddr> {
        match link {
            Link::Quic => self.quic.local_addr(),
            Link::H2 => self.h2.0.local_addr(),
            Link::Konnectivity => self.konnectivity.0.local_addr(),
        }
    }
}

fn listener(pki: &Pki, alpn: &str) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(&pki.agent_listener());
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Arc::new(config)
}

/// The open streams, tunnels and tasks of the programs under test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    gauges: Vec<String>,
    tasks: usize,
}

impl World {
    /// Starts everything, and waits until the canaries sing.
    ///
    /// # Errors
    /// When a port is not available.
    pub async fn start() -> anyhow::Result<Self> {
        panics::record();
        let dir = TempDir::new()?;
        let pki = Pki::make(dir.path());
        let places = Places::open(&pki).await?;
        let server =
            Server::start(dir.path(), &pki, &ServerSpec::new("server")).map_err(anyhow::Error::msg)?;
        let (mut agents, mut canaries, mut echoes) = (Vec::new(), Vec::new(), Vec::new());
        for (link, frontend) in LINKS.into_iter().zip(Frontend::ALL) {
            let spec = AgentSpec::new(&format!("agent-{}", link.label()), link, node(link));
            agents.push(Agent::start(&pki, &[server.agents, places.of(link)?], &spec));
            server.wait_for_tunnels(agents.len() as i64).await;
            let echo = Target::echo(node(link)).await;
            let name = format!("{frontend:?} over {}", link.label());
            canaries.push(Canary::new(name, server.connect(frontend, &echo).await));
            echoes.push(echo);
        }
        let marks = Marks::new(echoes[0].addr);
        let world = Self { server, pki, places, marks, agents, canaries, echoes, _dir: dir };
        world.canaries_sing().await;
        Ok(world)
    }

    /// Waits until every canary has made a round trip that began after this call. Panics if one has died.
    pub async fn canaries_sing(&self) {
        let before: Vec<u64> = self.canaries.iter().map(Canary::round).collect();
        for (canary, before) in self.canaries.iter().zip(before) {
            canary.sings_since(before).await;
        }
    }

    /// Starts several worlds. Returns what peers hold in each, canaries included.
    ///
    /// # Errors
    /// When a port is not available.
    pub async fn start_several(worlds: usize) -> anyhow::Result<Vec<(Arc<Self>, Held)>> {
        let mut started = Vec::new();
        for _ in 0..worlds {
            started.push(Arc::new(Box::pin(Self::start()).await?));
        }
        let mut tasks = usize::MAX;
        let until = Instant::now() + WATCHED;
        while Instant::now() < until {
            tasks = tasks.min(alive());
            sleep(Duration::from_millis(5)).await;
        }
        let mut held = Vec::new();
        for world in started {
            let gauges = world.gauges().await;
            held.push((world, Held { gauges, tasks }));
        }
        Ok(held)
    }

    /// Waits until peers hold no more than before. Panics if they do.
    pub async fn wait_until_given_back(&self, before: &Held) {
        let until = Instant::now() + GIVEN_BACK;
        loop {
            let gauges = self.gauges().await;
            let more: Vec<_> = gauges.iter().filter(|now| !before.gauges.contains(now)).collect();
            let tasks = alive();
            if more.is_empty() && tasks <= before.tasks {
                return;
            }
            let had = before.tasks;
            assert!(Instant::now() < until, "still held: {tasks} tasks, {had} before; {more:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn gauges(&self) -> Vec<String> {
        let mut gauges = of("the server", &OF_SERVER, &self.server.metrics().await);
        for agent in &self.agents {
            gauges.extend(of(&agent.id, &OF_AGENT, &agent.metrics().await));
        }
        gauges
    }

    /// Ends everything in order. Panics if anything is still held.
    pub async fn end(self) {
        let Self { server, agents, canaries, echoes, places, .. } = self;
        drop(canaries);
        server.wait_until_idle().await;
        for agent in &agents {
            wait_for(&format!("{} to be idle", agent.id), async || match agent.connections().await {
                0 => Ok(()),
                open => Err(format!("{open} connections")),
            })
            .await;
            agent.kill().await;
        }
        server.kill().await;
        let panics = panics_in_product();
        assert!(panics.is_empty(), "panics in the product: {panics:#?}");
        drop((echoes, places));
    }
}

/// The panics of the product.
pub(crate) fn panics_in_product() -> Vec<String> {
    panics::seen().into_iter().filter(|panic| !panic.contains(HARMLESS)).collect()
}

/// Tasks of this runtime, so of all worlds.
fn alive() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn of(whose: &str, names: &[&str], metrics: &Metrics) -> Vec<String> {
    let samples = names.iter().flat_map(|name| {
        let samples = metrics.samples(name).into_iter().filter(|(_, value)| *value != 0);
        samples.map(move |(labels, value)| format!("{name}{labels} {value} of {whose}"))
    });
    samples.collect()
}
