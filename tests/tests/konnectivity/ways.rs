//! The kinds of agent on a server: ours on each of our links, and Konnectivity's.

use std::net::Ipv4Addr;

use tokio::io::AsyncReadExt as _;
use tunnel::transport::Link;
use tunnel_client::{Connection, Options};
use tunnel_tests::grpc::Call;
use tunnel_tests::raw::{Channel, Listener};
use tunnel_tests::stock::{GoAgent, Metadata, StockAgent};
use tunnel_tests::{Agent, AgentSpec, Cluster, Frontend, Server, Task};
use tunnel_tests::{node, panics, payload, spawn, wait_for, within};

/// One frontend of each protocol; these tests do not depend on the socket below.
pub(crate) const FRONTENDS: [Frontend; 2] = [Frontend::ConnectUnix, Frontend::GrpcUnix];

/// Whose agent is on our server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Ours, on this link.
    Ours(Link),
    /// Konnectivity's.
    Stock,
}

/// All of them.
pub(crate) const WAYS: [Way; 3] = [Way::Ours(Link::Quic), Way::Ours(Link::H2), Way::Stock];

/// A server of ours with one agent.
pub(crate) struct Fleet {
    pub(crate) cluster: Cluster,
    pub(crate) stock: Option<GoAgent>,
    /// The address that the agent serves.
    pub(crate) node: Ipv4Addr,
}

impl Way {
    pub(crate) fn node(self) -> Ipv4Addr {
        match self {
            Self::Ours(link) => node(link),
            Self::Stock => node(Link::Konnectivity),
        }
    }
}

/// Runs a check on each way. The last way printed is the one that failed.
pub(crate) async fn on_every_way(check: impl AsyncFn(Way, Fleet)) {
    for way in WAYS {
        println!("{way:?}");
        check(way, Fleet::on(way).await).await;
    }
}

impl Fleet {
    pub(crate) async fn on(way: Way) -> Self {
        let node = way.node();
        let (cluster, stock) = match way {
            Way::Ours(link) => (Cluster::on(link).await, None),
            Way::Stock => {
                let cluster = Cluster::builder().start().await;
                let stock = stock_agent(&cluster, "agent-stock", &format!("ipv4={node}")).await;
                cluster.server.wait_for_tunnels(1).await;
                (cluster, Some(stock))
            }
        };
        Self { cluster, stock, node }
    }

    pub(crate) fn server(&self) -> &Server {
        &self.cluster.server
    }

    /// SIGKILL for the agent.
    pub(crate) async fn kill_agent(&mut self) {
        self.stock = None;
        for agent in self.cluster.agents.drain(..) {
            agent.kill().await;
        }
        self.cluster.server.wait_for_tunnels(0).await;
    }

    /// Another agent of the same kind and id, while the first may still be there.
    pub(crate) async fn start_agent(&mut self, way: Way) {
        match way {
            Way::Ours(link) => {
                let spec = AgentSpec::new(&format!("agent-{}", link.label()), link, self.node);
                let agent = self.cluster.start_agent(&spec);
                self.cluster.agents.push(agent);
            }
            Way::Stock => {
                let identifiers = format!("ipv4={}", self.node);
                self.stock = Some(stock_agent(&self.cluster, "agent-stock", &identifiers).await);
            }
        }
    }

    /// Dials that the agents were asked for.
    pub(crate) async fn dials(&self) -> u64 {
        let mut dials = self.stock.as_ref().map_or(0, GoAgent::dials);
        for agent in &self.cluster.agents {
            let counted = agent.metrics().await.sum("tunnel_agent_dials_total", &[]);
            dials += u64::try_from(counted).unwrap();
        }
        dials
    }

    /// The end of a test: waits until no connection is open at any program.
    pub(crate) async fn finish(self) {
        if let Some(stock) = &self.stock {
            stock.wait_until_idle().await;
        }
        self.cluster.finish().await;
        panics::assert_none();
    }
}

/// A stock agent that dials by itself.
pub(crate) async fn stock_agent(cluster: &Cluster, id: &str, identifiers: &str) -> GoAgent {
    let metadata = Metadata::of(id).identifiers(identifiers);
    GoAgent::join(cluster.server.agents, &cluster.pki, metadata).await
}

/// A server and one scripted stock agent, which serves the address of its link.
pub(crate) async fn scripted() -> (Cluster, StockAgent) {
    let cluster = Cluster::builder().start().await;
    let agent = scripted_agent(&cluster, "agent-stock").await;
    cluster.server.wait_for_tunnels(1).await;
    (cluster, agent)
}

/// One more scripted stock agent for the same address.
pub(crate) async fn scripted_agent(cluster: &Cluster, id: &str) -> StockAgent {
    let serves = format!("ipv4={}", Way::Stock.node());
    let metadata = Metadata::of(id).identifiers(&serves);
    StockAgent::join(cluster.server.agents, &cluster.pki, metadata).await
}

/// A target for scripted agents, which do not dial it.
pub(crate) fn imagined(port: u16) -> String {
    format!("{}:{port}", Way::Stock.node())
}

/// A gRPC call of a client, on a connection of its own.
pub(crate) async fn client_call(cluster: &Cluster) -> (Channel, Call) {
    let channel = Channel::over(Listener::Unix.open(&cluster.server, &cluster.pki).await).await;
    let call = channel.call().await;
    (channel, call)
}

/// A call with a connection through a scripted agent; the client's id of it.
pub(crate) async fn connected_call(
    cluster: &Cluster,
    agent: &mut StockAgent,
    connect_id: i64,
) -> (Channel, Call, i64) {
    let (channel, mut call) = client_call(cluster).await;
    let target = imagined(80);
    let (id, ()) = tokio::join!(call.dial(&target), agent.connects(&target, connect_id));
    (channel, call, id)
}

/// A connection by a frontend through a scripted agent.
pub(crate) async fn connected(
    cluster: &Cluster,
    frontend: Frontend,
    agent: &mut StockAgent,
    connect_id: i64,
) -> Connection {
    let target = imagined(80);
    let dial = cluster.server.connect(frontend, &target);
    tokio::join!(dial, agent.connects(&target, connect_id)).0
}

/// One byte there and back.
pub(crate) async fn ping(connection: &mut Connection) {
    payload::write(connection, b"x").await.unwrap();
    assert_eq!(within("an echo", connection.read_u8()).await.unwrap(), b'x');
}

/// Waits for the end of the connection, orderly or not.
pub(crate) async fn ended(connection: &mut Connection) {
    let mut rest = Vec::new();
    let _ = within("the end of a connection", connection.read_to_end(&mut rest)).await;
}

/// A dial under way; dropping it is a client that leaves.
pub(crate) fn dialing(cluster: &Cluster, frontend: Frontend, target: String) -> Task {
    let endpoint = cluster.server.endpoint(frontend);
    spawn(async move {
        let options = Options::default();
        let dial = tunnel_client::dial(frontend.protocol(), &endpoint, &target, &options);
        let _ = Box::pin(dial).await;
    })
}

/// Waits until so many dials that failed are counted, and all for this reason
/// of Konnectivity's.
pub(crate) async fn wait_for_dial_failures(server: &Server, reason: &str, wanted: i64) {
    const FAILURES: &str = "konnectivity_network_proxy_server_dial_failure_count";
    wait_for(&format!("{wanted} dials that failed for {reason}"), async || {
        let metrics = server.metrics().await;
        let label = format!("reason=\"{reason}\"");
        let counted = (metrics.sum(FAILURES, &[&label]), metrics.sum(FAILURES, &[]));
        if counted == (wanted, wanted) { Ok(()) } else { Err(metrics.show(FAILURES)) }
    })
    .await;
}

/// Fails unless an agent of ours counts so many failed dials, all for this
/// reason of Konnectivity's.
pub(crate) async fn assert_endpoint_failures(agent: &Agent, reason: &str, wanted: i64) {
    const FAILURES: &str = "konnectivity_network_proxy_agent_endpoint_dial_failure_total";
    let metrics = agent.metrics().await;
    let label = format!("reason=\"{reason}\"");
    assert_eq!(metrics.sum(FAILURES, &[&label]), wanted, "{}", metrics.show(FAILURES));
    assert_eq!(metrics.sum(FAILURES, &[]), wanted, "{}", metrics.show(FAILURES));
}
