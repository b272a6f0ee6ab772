//! Which link an agent takes, and to how many servers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use tunnel::transport::Link;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::{
    Agent, AgentSpec, Cluster, Frontend, LINKS, Server, ServerSpec, Target, TcpOnly, node, wait_for, within,
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

async fn wait_for_servers(agent: &Agent, wanted: i64) {
    wait_for(&format!("{wanted} servers at {}", agent.id), async || {
        let metrics = agent.metrics().await;
        match metrics.value("tunnel_agent_servers_connected") == wanted {
            true => Ok(()),
            false => Err(metrics.show("tunnel_agent")),
        }
    })
    .await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_keeps_a_tunnel_to_every_server_of_its_list() {
    for transport in ["auto", "quic", "h2"] {
        let cluster = Cluster::builder().start().await;
        let other = cluster.start_server(&ServerSpec::new("other")).unwrap();
        let spec = AgentSpec::new("both", Link::Quic, NODE).flag("transport", transport);
        let agent = Agent::start(&cluster.pki, &[cluster.server.agents, other.agents], &spec);
        wait_for_servers(&agent, 2).await;
        for server in [&cluster.server, &other] {
            server.wait_for_tunnels(1).await;
            transfer(server).await;
        }

        // One that goes is missed, and found again.
        other.kill().await;
        wait_for_servers(&agent, 1).await;
        transfer(&cluster.server).await;
        let mut again = ServerSpec::new("other");
        again.agent_port = other.agents.port();
        let other = wait_for("the port", async || cluster.start_server(&again)).await;
        wait_for_servers(&agent, 2).await;
        transfer(&other).await;
        agent.wait_until_idle().await;
        cluster.finish().await;
    }
}

/// As behind a load balancer: the agent must not count one server twice, and
/// its attempts to find another one must not disturb the tunnel it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ways_to_one_server_are_one_tunnel() {
    let cluster = Cluster::builder().start().await;
    let echo = Target::echo(NODE).await;
    let way = TcpOnly::to(cluster.server.agents);
    let spec = AgentSpec::new("twice", Link::H2, NODE);
    let agent = Agent::start(&cluster.pki, &[cluster.server.agents, way.addr], &spec);
    let connected = async || {
        let metrics = agent.metrics().await;
        metrics.sum("tunnel_agent_tunnel_attempts_total", &["outcome=\"connected\""])
    };
    wait_for("both ways to be tried", async || match connected().await {
        n @ (0 | 1) => Err(format!("{n} attempts")),
        _ => Ok(()),
    })
    .await;
    while connected().await < 10 {
        for frontend in Frontend::ALL {
            cluster.server.connect(frontend, &echo).await.close().await.unwrap();
        }
    }
    assert_eq!(agent.metrics().await.value("tunnel_agent_servers_connected"), 1);
    drop(agent);
    cluster.server.wait_for_tunnels(0).await;
    cluster.finish().await;
}
