//! Routes that follow Node objects.

use tunnel_kube_fake::Verb;
use tunnel_tests::{Frontend, Target, wait_for, wait_within};

use super::*;

/// Routes have to follow a change of a node within this time.
const FOLLOWS: Duration = Duration::from_secs(10);

/// Waits until a target is served, or is not.
async fn until(server: &Server, what: &str, target: &str, served: bool) {
    wait_within(FOLLOWS, what, async || {
        let dialed = server.dial(Frontend::ConnectUnix, target).await;
        match (dialed, served) {
            (Ok(connection), true) => connection.close().await.map_err(|error| error.to_string()),
            (Err(_), false) => Ok(()),
            (Ok(_), false) => Err("it is served".to_owned()),
            (Err(error), true) => Err(error.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_without_identifiers_serves_its_node_as_that_changes() {
    for link in LINKS {
        let world = World::new().await;
        let server = world.server("strict", "nodes");
        let a = world.agent(&server, link, "agent-a", Some(A.name), "");
        let b = world.agent(&server, link, "agent-b", Some(B.name), "");
        server.wait_for_tunnels(2).await;
        let (on_a, in_a, in_b) =
            (Target::echo(A.address).await, Target::echo(A.pod).await, Target::echo(B.pod).await);
        until(&server, "node A", &on_a.to_string(), true).await;
        let (of_a, of_b) = (a.dials().await, b.dials().await);
        dial(&server, &in_a, 5).await;
        dial(&server, &in_b, 5).await;
        assert_eq!((a.dials().await - of_a, b.dials().await - of_b), (5, 5), "pods are their nodes'");

        let moved = Target::echo(Ipv4Addr::new(127, 0, 1, 9)).await;
        let (status, text) = server.refusal(Frontend::ConnectUnix, &moved.to_string()).await;
        assert_eq!(status, Some(503), "{text}");
        world.put(A.name, &["127.0.1.9"], A.pods);
        until(&server, "the new address", &moved.to_string(), true).await;
        until(&server, "the old address", &on_a.to_string(), false).await;
        world.api.delete_node(A.name);
        until(&server, "a node that is gone", &moved.to_string(), false).await;
        until(&server, "its pods", &in_a.to_string(), false).await;
        dial(&server, &in_b, 1).await;
        for agent in [a, b] {
            agent.kill().await;
        }
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_of_two_nodes_stays_with_the_earlier_one() {
    let world = World::new().await;
    let server = world.server("strict", "nodes");
    let a = world.agent(&server, Link::Quic, "agent-a", Some(A.name), "");
    let b = world.agent(&server, Link::H2, "agent-b", Some(B.name), "");
    server.wait_for_tunnels(2).await;
    let on_a = Target::echo(A.address).await;
    until(&server, "node A", &on_a.to_string(), true).await;
    // The kubelet of node B writes the addresses of its own node.
    world.put(B.name, &[&B.address.to_string(), &A.address.to_string()], B.pods);
    wait_for("a conflict", async || match world.identities().await.contested.as_slice() {
        [one] if one.kept_by.as_deref() == Some(A.name) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(server.metrics().await.value("tunnel_server_contested_addresses"), 1);
    let of_b = b.dials().await;
    dial(&server, &on_a, 20).await;
    assert_eq!(b.dials().await, of_b);
    for agent in [a, b] {
        agent.kill().await;
    }
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

/// The strategy `default`, which charts set last, gives any agent what no agent serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_agent_is_served_by_no_other() {
    let world = World::new().await;
    let server = world.server_with("strict", "nodes", &[("proxy-strategies", "destHost,destCIDR,default")]);
    let a = world.agent(&server, Link::Quic, "agent-a", Some(A.name), "");
    server.wait_for_tunnels(1).await;
    let (on_a, on_b, in_b) =
        (Target::echo(A.address).await, Target::echo(B.address).await, Target::echo(B.pod).await);
    let elsewhere = Target::echo(Ipv4Addr::new(127, 5, 5, 5)).await;
    until(&server, "node A", &on_a.to_string(), true).await;
    until(&server, "an address of no node", &elsewhere.to_string(), true).await;
    let of_a = a.dials().await;
    let mapped = format!("[::ffff:{}]:{}", B.address, on_b.addr.port());
    for target in [on_b.to_string(), in_b.to_string(), mapped, format!("{}:{}", B.name, on_b.addr.port())] {
        for _ in 0..10 {
            let (status, text) = server.refusal(Frontend::ConnectUnix, &target).await;
            assert_eq!(status, Some(503), "{target}: {text}");
        }
    }
    assert_eq!(a.dials().await, of_a);
    let b = world.agent(&server, Link::H2, "agent-b", Some(B.name), "");
    server.wait_for_tunnels(2).await;
    dial(&server, &on_b, 5).await;
    dial(&server, &in_b, 5).await;
    assert_eq!(b.dials().await, 10);
    for agent in [a, b] {
        agent.kill().await;
    }
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_api_the_last_routes_stay_and_their_age_is_told() {
    let mut world = World::new().await;
    let server = world.server("strict", "nodes");
    let a = world.agent(&server, Link::Quic, "agent-a", Some(A.name), "");
    server.wait_for_tunnels(1).await;
    let on_a = Target::echo(A.address).await;
    until(&server, "node A", &on_a.to_string(), true).await;
    for verb in [Verb::ListNodes, Verb::WatchNodes] {
        world.api.fail(verb, Some((503, "ServiceUnavailable")));
    }
    world.api.cut_watches();
    world.served = None;
    wait_for("the age of the routes", async || match world.identities().await.nodes {
        Some(nodes) if nodes.listed && nodes.stale.is_some() && nodes.count == 2 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    dial(&server, &on_a, 10).await;
    a.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_no_node_proves_nothing() {
    let world = World::new().await;
    let server = world.server("strict", "nodes");
    let nobody = world.agent(&server, Link::H2, "nobody", None, &A.identifiers());
    server.wait_for_tunnels(1).await;
    let on_a = Target::echo(A.address).await;
    let (status, text) = server.refusal(Frontend::ConnectUnix, &on_a.to_string()).await;
    assert_eq!(status, Some(503), "{text}");
    let identities = world.identities().await;
    assert_eq!(identities.violations[0].identity, "unknown");
    assert_eq!(identities.violations[0].claims, [A.name, "127.0.1.1", A.pods]);
    nobody.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}
