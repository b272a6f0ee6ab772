//! Servers that keep Leases, and agents that count them.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::json;
use tunnel::transport::Link;
use tunnel_kube::leases::ADDRESS;
use tunnel_kube_fake::Verb;
use tunnel_tests::{Agent, AgentSpec, Balancer, LINKS, Pki, Server, ServerSpec, wait_for};

use crate::World;

const NAMESPACE: &str = "kube-system";

impl World {
    fn publishing_server(&self, id: &str) -> Server {
        self.publishing(id, "")
    }

    /// A server whose Lease has this address.
    fn publishing(&self, id: &str, address: &str) -> Server {
        let spec = ServerSpec::new(id)
            .flag("enable-lease-controller", "true")
            .flag("advertise-address", address)
            .flag("kubeconfig", &self.shown("kubeconfig"));
        Server::start(self.dir.path(), &self.pki, &spec).unwrap()
    }

    /// An agent that reads Leases and knows no more than this address.
    fn counting_agent(&self, link: Link, server: SocketAddr) -> Agent {
        let spec = AgentSpec::new("agent", link, Ipv4Addr::LOCALHOST)
            .flag("count-server-leases", "true")
            .flag("kubeconfig", &self.shown("kubeconfig"));
        Agent::start(&self.pki, &[server], &spec)
    }

    async fn until_leases(&self, wanted: &[&str]) {
        wait_for(&format!("the leases {wanted:?}"), async || {
            let there: Vec<_> = self.api.leases(NAMESPACE).into_keys().collect();
            if there == wanted { Ok(()) } else { Err(format!("{there:?}")) }
        })
        .await;
    }
}

async fn until_wanted(agent: &Agent, wanted: i64) {
    wait_for(&format!("an agent that wants {wanted} servers"), async || {
        let metrics = agent.metrics().await;
        match metrics.value("tunnel_agent_servers_wanted") {
            count if count == wanted => Ok(()),
            _ => Err(metrics.show("tunnel_agent_servers")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_keep_leases_and_agents_count_them() {
    let world = World::new().await;
    let old = json!({"leaseDurationSeconds": 30, "renewTime": "2020-01-01T00:00:00.000000Z"});
    let labels = json!({"k8s-app": "konnectivity-server"});
    world.api.put_lease(NAMESPACE, "konnectivity-proxy-server-gone", &labels, &old);
    let (one, two) = (world.publishing_server("one"), world.publishing_server("two"));
    let names = ["konnectivity-proxy-server-one", "konnectivity-proxy-server-two"];
    world.until_leases(&names).await;

    let agent = world.counting_agent(Link::H2, one.agents);
    until_wanted(&agent, 2).await;
    wait_for("a list and a watch that are counted", async || {
        let metrics = agent.metrics().await;
        let asked = |name| {
            let name = format!("konnectivity_network_proxy_agent_{name}");
            metrics.sum(&name, &["http_response_code=\"200\"", "reason=\"\""])
        };
        match (asked("lease_lists_total"), asked("lease_watches_total")) {
            (1, 1) => Ok(()),
            _ => Err(metrics.show("konnectivity_network_proxy_agent_lease")),
        }
    })
    .await;

    // A server that stops deletes its Lease at once, and is no longer counted.
    two.drain();
    two.ended(Duration::from_secs(10)).await;
    world.until_leases(&names[..1]).await;
    until_wanted(&agent, 1).await;

    // One of them has deleted the expired Lease of a third server.
    let metrics = one.metrics().await;
    assert!(
        metrics.sum("konnectivity_network_proxy_server_lease_list_total", &["http_status_code=\"200\""]) > 0
    );
    agent.kill().await;
    one.drain();
    one.ended(Duration::from_secs(10)).await;
    world.until_leases(&[]).await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_may_not_list_leases_works_with_what_it_has() {
    let world = World::new().await;
    world.api.fail(Verb::List, Some((403, "Forbidden")));
    let server = world.publishing_server("one");
    let agent = world.counting_agent(Link::Quic, server.agents);
    server.wait_for_tunnels(1).await;
    wait_for("a list that is refused", async || {
        let metrics = agent.metrics().await;
        let name = "konnectivity_network_proxy_agent_lease_lists_total";
        let refused = metrics.sum(name, &["http_response_code=\"403\"", "reason=\"Forbidden\""]);
        if refused > 0 { Ok(()) } else { Err(metrics.show("konnectivity_network_proxy_agent_lease")) }
    })
    .await;
    agent.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_tell_their_addresses_are_found_behind_a_balancer_that_always_leads_to_one() {
    for link in LINKS {
        let world = World::new().await;
        let (one, two) = (world.publishing("one", "127.0.0.1"), world.publishing("two", "127.0.0.1"));
        let names = ["konnectivity-proxy-server-one", "konnectivity-proxy-server-two"];
        world.until_leases(&names).await;
        let told = world.api.leases(NAMESPACE).remove(names[1]).unwrap();
        assert_eq!(told["metadata"]["annotations"][ADDRESS], two.agents.to_string(), "with the agents' port");

        let balancer = Balancer::to(&[one.agents]);
        let agent = world.counting_agent(link, balancer.addr);
        agent.wait_for_servers(2, 2).await;
        two.wait_for_tunnels(1).await;
        // The address goes with its Lease, and is not missed.
        two.drain();
        two.ended(Duration::from_secs(10)).await;
        agent.wait_for_servers(1, 1).await;
        agent.kill().await;
        one.kill().await;
        tunnel_tests::panics::assert_none();
    }
}

/// Writers of Leases can make agents knock, and nothing more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_a_lease_is_greeted_only_with_the_certificate_that_the_operator_asks_for() {
    let world = World::new().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let strangers = Pki::make(elsewhere.path());
    let rogue = Server::start(elsewhere.path(), &strangers, &ServerSpec::new("rogue")).unwrap();
    let server = world.publishing("one", "127.0.0.1");
    let names = ["konnectivity-proxy-server-one", "rogue"];
    let labels = json!({"k8s-app": "konnectivity-server"});
    let lease = json!({"leaseDurationSeconds": 30, "renewTime": "2100-01-01T00:00:00.000000Z"});
    world.api.put_lease(NAMESPACE, names[1], &labels, &lease);
    world.api.annotate_lease(NAMESPACE, names[1], ADDRESS, &rogue.agents.to_string());
    world.until_leases(&names).await;

    let agent = world.counting_agent(Link::H2, server.agents);
    wait_for("an agent that has knocked", async || match agent.attempts("tls").await {
        0 => Err(agent.metrics().await.show("tunnel_agent_tunnel_attempts")),
        _ => Ok(()),
    })
    .await;
    agent.wait_for_servers(1, 2).await;
    assert_eq!(agent.readiness().await.unwrap().0, 200);
    let metrics = rogue.metrics().await;
    assert_eq!(metrics.sum("tunnel_server_tunnels_established_total", &[]), 0, "nobody said a word to it");
    for server in [server, rogue] {
        server.kill().await;
    }
    agent.kill().await;
    tunnel_tests::panics::assert_none();
}
