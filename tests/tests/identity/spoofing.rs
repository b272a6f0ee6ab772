//! Agents that claim what belongs to another node.

use tunnel_tests::{Frontend, Target, wait_for};

use super::*;

/// Dials of each target.
const DIALS: usize = 20;

/// Claims of the agent of node B about node A, and about services.
fn claims() -> [String; 8] {
    let of_b = B.identifiers();
    [
        String::new(),
        format!("&ipv4={}&ipv4={}", A.address, A.pod),
        "&cidr=127.0.0.0/8&cidr=0.0.0.0/0&cidr=::/0".to_owned(),
        format!("&host={}&host={}.", A.name, A.name),
        format!("&ipv6=::ffff:{}&cidr=::ffff:127.1.1.0/120", A.address),
        "&default-route=true".to_owned(),
        "&ipv4=127.96.0.10".to_owned(),
        format!("&{}", A.identifiers()),
    ]
    .map(|more| of_b.clone() + &more)
}

/// Node A's agent, and agents of node B with all kinds of claims.
async fn matrix(mode: &str, routes_from: &str, link: Link) {
    let world = World::new().await;
    let server = world.server(mode, routes_from);
    wait_for("nodes", async || match world.identities().await.nodes {
        Some(nodes) if nodes.count == 2 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let own = if routes_from == "nodes" { String::new() } else { A.identifiers() };
    let owner = world.agent(&server, link, "agent-a", Some(A.name), &own);
    server.wait_for_tunnels(1).await;
    let mut rogues = Vec::new();
    for (number, claims) in claims().iter().enumerate() {
        // The last one takes the owner's id as well.
        let id = if number == 7 { "agent-a".to_owned() } else { format!("rogue-{number}") };
        rogues.push(world.agent(&server, link, &id, Some(B.name), claims));
    }
    server.wait_for_tunnels(9).await;
    let case = format!("{mode}, routes from {routes_from}, {}", link.label());

    let (on_a, in_a) = (Target::echo(A.address).await, Target::echo(A.pod).await);
    for target in [&on_a, &in_a] {
        dial(&server, target, DIALS).await;
    }
    let mapped = format!("[::ffff:{}]:{}", A.address, on_a.addr.port());
    for _ in 0..DIALS {
        server.connect(Frontend::ConnectUnix, &mapped).await.close().await.unwrap();
    }
    let served = i64::try_from(3 * DIALS).unwrap();
    assert_eq!(owner.dials().await, served, "{case}");
    for rogue in &rogues {
        assert_eq!(rogue.dials().await, 0, "{case}: {}", rogue.id);
    }
    let on_b = Target::echo(B.address).await;
    dial(&server, &on_b, DIALS).await;
    assert_eq!(owner.dials().await, served, "{case}");

    let identities = world.identities().await;
    assert_eq!((identities.agents, identities.violating), (9, 7), "{case}: {identities:?}");
    assert_eq!(identities.kinds.get("node"), Some(&9));
    assert_eq!(identities.verdict().unwrap().contains("would lose"), mode == "audit");
    let metrics = server.metrics().await;
    assert_eq!(metrics.sum("tunnel_server_identities", &["kind=\"node\""]), 9, "{case}");
    assert!(metrics.sum("tunnel_server_unproven_claims_total", &["claim=\"address\""]) >= 4, "{case}");
    for agent in rogues.iter().chain([&owner]) {
        agent.kill().await;
    }
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_strict_mode_no_dial_is_misrouted() {
    for link in LINKS {
        matrix("strict", "claims", link).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_audit_mode_nothing_is_taken_from_a_proven_node() {
    for link in LINKS {
        matrix("audit", "claims", link).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_routes_from_nodes_claims_count_for_nothing() {
    for link in LINKS {
        matrix("strict", "nodes", link).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_works_in_legacy_mode_alone() {
    for (mode, rogue_serves) in [("legacy", true), ("audit", false), ("strict", false)] {
        let world = World::new().await;
        let server = world.server(mode, "claims");
        let owner = world.agent(&server, Link::Quic, "agent-a", Some(A.name), &A.identifiers());
        let rogue = world.agent(&server, Link::Quic, "rogue", Some(B.name), &A.identifiers());
        server.wait_for_tunnels(2).await;
        // Waits for the nodes, which prove the owner's address.
        wait_for("the owner's routes", async || {
            let violating = world.identities().await.violating;
            if violating == usize::from(mode != "legacy") { Ok(()) } else { Err(violating.to_string()) }
        })
        .await;
        dial(&server, &Target::echo(A.address).await, 64).await;
        assert_eq!(rogue.dials().await > 0, rogue_serves, "{mode}");
        for agent in [owner, rogue] {
            agent.kill().await;
        }
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}
