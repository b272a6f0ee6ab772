//! An agent's choice of link.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use tunnel::transport::Link;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::{
    Agent, AgentSpec, Cluster, Frontend, LINKS, Server, Target, TcpOnly, node, wait_for, within,
};

const NODE: std::net::Ipv4Addr = node(Link::Quic);

async fn transfer(server: &Server) {
    let source = Target::source(NODE).await;
    let mut connection = server.connect(Frontend::ConnectUnix, &source).await;
    let header = Header { seed: 3, len: 1 << 20 };
    payload::write(&mut connection, &header.encode()).await.unwrap();
    let all = within("a transfer", payload::read_all(&mut connection)).await.unwrap();
    payload::assert_is(&all, header.seed, header.len);
}

async fn tunnels(server: &Server, link: Link) -> i64 {
    let label = format!("link=\"{}\"", link.label());
    server.metrics().await.sum("tunnel_server_tunnels", &[&label])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_takes_quic_where_it_works() {
    let spec = AgentSpec::new("auto", Link::Quic, NODE).flag("transport", "auto");
    let cluster = Cluster::builder().agent(spec).start().await;
    assert_eq!(
        (tunnels(&cluster.server, Link::Quic).await, tunnels(&cluster.server, Link::H2).await),
        (1, 0)
    );
    transfer(&cluster.server).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_takes_h2_where_udp_is_blocked() {
    let cluster = Cluster::builder().start().await;
    let way = TcpOnly::to(cluster.server.agents);
    let spec = AgentSpec::new("auto", Link::Quic, NODE).flag("transport", "auto");
    let agent = Agent::start(&cluster.pki, &[way.addr], &spec);
    cluster.server.wait_for_tunnels(1).await;
    assert_eq!(
        (tunnels(&cluster.server, Link::Quic).await, tunnels(&cluster.server, Link::H2).await),
        (0, 1)
    );
    transfer(&cluster.server).await;
    agent.wait_until_idle().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_alone_does_not_fall_back() {
    let cluster = Cluster::builder().start().await;
    let way = TcpOnly::to(cluster.server.agents);
    let agent = Agent::start(
        &cluster.pki,
        &[way.addr],
        &AgentSpec::new("quic", Link::Quic, NODE).flag("transport", "quic"),
    );
    // The limit of an attempt is ten seconds.
    wait_for("a failed attempt", async || {
        let metrics = agent.metrics().await;
        match metrics.sum("tunnel_agent_tunnel_attempts_total", &["link=\"quic\"", "outcome=\"timeout\""]) {
            0 => Err(metrics.show("tunnel_agent")),
            _ => Ok(()),
        }
    })
    .await;
    let metrics = agent.metrics().await;
    assert_eq!(metrics.sum("tunnel_agent_tunnel_attempts_total", &["link=\"h2\""]), 0);
    assert_eq!(agent.readiness().await.unwrap().0, 503);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_takes_the_link_it_is_told() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        assert_eq!(tunnels(&cluster.server, link).await, 1);
        let attempts = cluster.agents[0].metrics().await;
        let label = format!("link=\"{}\"", link.label());
        let of_link = attempts.sum("tunnel_agent_tunnel_attempts_total", &[&label]);
        assert_eq!(attempts.sum("tunnel_agent_tunnel_attempts_total", &[]), of_link);
        cluster.finish().await;
    }
}
