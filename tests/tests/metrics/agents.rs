//! Agents at the server, and servers at the agent: behaviour b27.

use std::net::SocketAddr;

use tunnel::transport::Link;
use tunnel_tests::{Agent, AgentSpec, Cluster, LIMIT, LINKS, ServerSpec, get, node, wait_for};

use crate::{AGENT, wait_for_samples, wait_for_samples_of};

/// b27. An agent with many identifiers counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_are_counted_once_for_each_strategy_that_can_use_them() {
    let both = |default, host, route| {
        [
            ("{proxy_strategy=\"default\"}", default),
            ("{proxy_strategy=\"defaultRoute\"}", route),
            ("{proxy_strategy=\"destHost\"}", host),
        ]
    };
    let cluster =
        Cluster::builder().server_flag("proxy-strategies", "destHost,defaultRoute,default").start().await;
    wait_for_samples(&cluster.server, "ready_backends", &both(0, 0, 0)).await;
    let many = AgentSpec::new("many", Link::Quic, node(Link::Quic))
        .flag("agent-identifiers", "ipv4=10.0.0.1&ipv4=10.0.0.2&host=a&host=b&ipv6=fd00::1");
    let route =
        AgentSpec::new("route", Link::H2, node(Link::H2)).flag("agent-identifiers", "default-route=true");
    let plain = AgentSpec::new("plain", Link::H2, node(Link::H2)).flag("agent-identifiers", "");
    let many = cluster.start_agent(&many);
    let route = cluster.start_agent(&route);
    let plain = cluster.start_agent(&plain);
    wait_for_samples(&cluster.server, "ready_backends", &both(3, 1, 1)).await;
    wait_for_samples(&cluster.server, "ready_backend_connections", &[("", 3)]).await;
    many.kill().await;
    wait_for_samples(&cluster.server, "ready_backends", &both(2, 0, 1)).await;
    route.kill().await;
    plain.kill().await;
    wait_for_samples(&cluster.server, "ready_backends", &both(0, 0, 0)).await;
    wait_for_samples(&cluster.server, "ready_backend_connections", &[("", 0)]).await;
    cluster.finish().await;
}

/// An agent with two tunnels counts once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_came_again_is_one_agent() {
    let same = AgentSpec::new("same", Link::H2, node(Link::H2));
    let cluster = Cluster::builder().agent(same.clone()).start().await;
    let again = cluster.start_agent(&same);
    cluster.server.wait_for_tunnels(2).await;
    wait_for_samples(&cluster.server, "ready_backend_connections", &[("", 1)]).await;
    wait_for_samples(&cluster.server, "ready_backends", &[("{proxy_strategy=\"destHost\"}", 1)]).await;
    again.kill().await;
    cluster.server.wait_for_tunnels(1).await;
    wait_for_samples(&cluster.server, "ready_backend_connections", &[("", 1)]).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_tells_how_many_servers_it_has() {
    for link in LINKS {
        let cluster = Cluster::on(link).await;
        let second = cluster.start_server(&ServerSpec::new("second")).unwrap();
        let servers: [SocketAddr; 2] = [cluster.server.agents, second.agents];
        let spec = AgentSpec::new("two", link, node(link));
        let agent = Agent::start(&cluster.pki, &servers, &spec);
        second.wait_for_tunnels(1).await;
        wait_for_samples_of(&agent, "open_server_connections", &[("", 2)]).await;
        wait_for_samples_of(&agent, "known_server_count", &[("", 2)]).await;
        second.kill().await;
        wait_for_samples_of(&agent, "open_server_connections", &[("", 1)]).await;
        wait_for_samples_of(&agent, "known_server_count", &[("", 2)]).await;
        let metrics = agent.metrics().await;
        assert_eq!(metrics.value("tunnel_agent_servers_connected"), 1);
        assert_eq!(metrics.value("tunnel_agent_servers_wanted"), 2);
        agent.kill().await;
    }
}

/// Deployment tools read this gauge as soon as `/healthz` answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_a_server_tells_that_it_has_none() {
    let cluster = Cluster::builder().start().await;
    let dead = cluster.server.agents;
    cluster.server.kill().await;
    let agent = Agent::start(&cluster.pki, &[dead], &AgentSpec::new("alone", Link::H2, node(Link::H2)));
    wait_for("the agent to live", async || match get(agent.health, "/healthz").await {
        Ok((200, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let metrics = agent.metrics().await;
    for name in ["open_server_connections", "open_endpoint_connections"] {
        let samples = metrics.samples(&format!("{AGENT}_{name}"));
        assert_eq!(samples.into_iter().collect::<Vec<_>>(), [(String::new(), 0)], "{name}");
    }
    wait_for_samples_of(&agent, "known_server_count", &[("", 1)]).await;
    agent.kill().await;
}

/// A tunnel that its server ends counts as failed, as in Konnectivity; a tunnel that
/// the agent ends does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_lost_is_a_failure_to_receive() {
    for link in [Link::Quic, Link::H2, Link::Konnectivity] {
        let cluster = Cluster::on(link).await;
        let second = cluster.start_server(&ServerSpec::new("second")).unwrap();
        let servers = [cluster.server.agents, second.agents];
        let agent = Agent::start(&cluster.pki, &servers, &AgentSpec::new("two", link, node(link)));
        wait_for_samples_of(&agent, "open_server_connections", &[("", 2)]).await;
        wait_for_samples_of(&agent, "server_connection_failure_count", &[]).await;
        second.kill().await;
        let failed = [("{direction=\"from_server\"}", 1)];
        wait_for_samples_of(&agent, "server_connection_failure_count", &failed).await;
        agent.drain();
        agent.ended(LIMIT).await;
        cluster.server.kill().await;
    }
}
