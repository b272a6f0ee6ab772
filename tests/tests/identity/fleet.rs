//! Fifty nodes with an agent each, and fifty more whose agents make every kind of claim about one of
//! the first, on every link: 20,000 dials.

use futures_util::future::join_all;
use tunnel_tests::{Target, wait_for};

use super::*;

/// Nodes that are dialled; as many others have the agents that claim.
const NODES: u8 = 50;

/// Dials of each spelling of each target.
const DIALS: usize = 23;

/// Spellings of a node's targets.
const SPELLINGS: usize = 3;

fn address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, node + 1)
}

fn pod(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 2, node + 1, 7)
}

fn pods(node: u8) -> String {
    format!("127.2.{}.0/24", node + 1)
}

fn identifiers(node: u8) -> String {
    format!("host=n{node}&ipv4={}&cidr={}", address(node), pods(node))
}

/// The claims of a node's agent about its victim, and about services.
fn claims(own: u8, victim: u8) -> [String; 8] {
    [
        String::new(),
        format!("&ipv4={}&ipv4={}", address(victim), pod(victim)),
        "&cidr=127.0.0.0/8&cidr=0.0.0.0/0&cidr=::/0".to_owned(),
        format!("&host=n{victim}&host=n{victim}."),
        format!("&ipv6=::ffff:{}&cidr=::ffff:127.2.{}.0/120", address(victim), victim + 1),
        "&default-route=true".to_owned(),
        "&ipv4=127.96.0.10".to_owned(),
        format!("&{}", identifiers(victim)),
    ]
    .map(|more| identifiers(own) + &more)
}

async fn fleet(mode: &str, link: Link) {
    let world = World::new().await;
    for node in 0..2 * NODES {
        world.put(&format!("n{node}"), &[&address(node).to_string()], &pods(node));
    }
    let server = world.server(mode, "claims");
    wait_for("nodes", async || match world.identities().await.nodes {
        Some(nodes) if nodes.count == usize::from(2 * NODES) + 2 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let agent =
        |id: &str, node: u8, claims: &str| world.agent(&server, link, id, Some(&format!("n{node}")), claims);
    let owners: Vec<_> = (0..NODES).map(|at| agent(&format!("agent-{at}"), at, &identifiers(at))).collect();
    server.wait_for_tunnels(i64::from(NODES)).await;
    let mut rogues = Vec::new();
    for victim in 0..NODES {
        let own = NODES + victim;
        for (kind, claims) in claims(own, victim).iter().enumerate() {
            // The last one takes its victim's id as well.
            let id = if kind == 7 { format!("agent-{victim}") } else { format!("rogue-{victim}-{kind}") };
            rogues.push(agent(&id, own, claims));
        }
        // A few at a time, for which the limit of a wait is long on any machine.
        server.wait_for_tunnels(i64::from(NODES) + i64::try_from(rogues.len()).unwrap()).await;
    }

    join_all((0..NODES).map(|node| {
        let server = &server;
        async move {
            let (host, in_pod) = (Target::echo(address(node)).await, Target::echo(pod(node)).await);
            let mapped = format!("[::ffff:{}]:{}", address(node), host.addr.port());
            for target in [host.to_string(), in_pod.to_string(), mapped] {
                for _ in 0..DIALS {
                    server.connect(Frontend::ConnectUnix, &target).await.close().await.unwrap();
                }
            }
        }
    }))
    .await;
    let case = format!("{mode}, {}", link.label());
    let served = i64::try_from(SPELLINGS * DIALS).unwrap();
    for owner in &owners {
        assert_eq!(owner.dials().await, served, "{case}: {}", owner.id);
    }
    for rogue in &rogues {
        assert_eq!(rogue.dials().await, 0, "{case}: {}", rogue.id);
    }
    let identities = world.identities().await;
    // Of eight agents with claims, seven claim more than their node.
    assert_eq!(identities.violating, usize::from(NODES) * 7, "{case}");
    join_all(owners.iter().chain(&rogues).map(Agent::kill)).await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_dial_of_a_strict_fleet_is_misrouted() {
    for link in LINKS {
        fleet("strict", link).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_dial_of_a_fleet_in_audit_is_taken_from_a_proven_node() {
    for link in LINKS {
        fleet("audit", link).await;
    }
}
