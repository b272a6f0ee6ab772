//! Proven routes keep targets from the claims of others.

use std::slice::from_ref;

use tunnel_proto::ident::{Identifiers, UnknownKeys};

use super::*;
use crate::agents::Routes;

fn parse(text: &str) -> Arc<Identifiers> {
    Arc::new(Identifiers::parse(text, UnknownKeys::Refuse).unwrap())
}

fn agent(id: &str, proven: &str, claimed: &str) -> Arc<AgentTunnel> {
    let routes = Routes { proven: parse(proven), claimed: parse(claimed), any: true };
    Arc::new(AgentTunnel::routed(id, routes))
}

/// The agents that get dials of a target, of all strategies that look at claims.
fn picked(agents: &[Arc<AgentTunnel>], silent: &[Arc<AgentTunnel>], target: &str) -> Vec<String> {
    let mut view = View::default();
    for agent in agents.iter().chain(silent) {
        view.own(&agent.routes().proven);
    }
    for agent in agents {
        view.enter(agent, &agent.routes(), false);
    }
    let target = target.parse().unwrap();
    let mut ids = Vec::new();
    for strategy in [Strategy::DestCidr, Strategy::DefaultRoute, Strategy::DestHost] {
        let router = Router::new(vec![strategy]);
        ids.extend((0..50).filter_map(|_| router.pick(&view, &target, None)).map(|agent| agent.id.clone()));
    }
    ids.sort();
    ids.dedup();
    ids
}

#[test]
fn a_target_that_is_proven_goes_to_nobody_else() {
    let claims = [
        "ipv4=10.0.0.1",
        "ipv6=::ffff:10.0.0.1",
        "cidr=10.0.0.1/32",
        "cidr=10.0.0.0/8",
        "cidr=0.0.0.0/0",
        "cidr=::ffff:10.0.0.0/104",
        "cidr=::/0",
        "default-route=true",
        "host=a",
        "host=a.",
        "ipv4=10.244.0.9",
        "cidr=10.244.0.0/24",
        "cidr=10.244.0.128/25",
    ];
    let owner = agent("owner", "host=a&ipv4=10.0.0.1&cidr=10.244.0.0/24", "");
    let targets =
        ["10.0.0.1:80", "[::ffff:10.0.0.1]:80", "a:80", "A.:80", "10.244.0.9:80", "[::ffff:10.244.0.200]:80"];
    for claim in claims {
        let rogue = agent("rogue", "", claim);
        for target in targets {
            assert_eq!(picked(&[owner.clone(), rogue.clone()], &[], target), ["owner"], "{claim} {target}");
            let alone = picked(from_ref(&rogue), from_ref(&owner), target);
            assert_eq!(alone, [""; 0], "{claim} {target} while the owner is silent");
        }
    }
}

#[test]
fn what_nobody_proves_goes_where_it_is_claimed() {
    let owner = agent("owner", "host=a&ipv4=10.0.0.1", "");
    let other = agent("other", "", "cidr=10.0.0.0/8&host=b&default-route=true");
    let all = [owner, other];
    assert_eq!(picked(&all, &[], "10.0.0.2:80"), ["other"]);
    assert_eq!(picked(&all, &[], "b:80"), ["other"]);
    assert_eq!(picked(&all, &[], "c:80"), ["other"]);
    let shared = [agent("x", "ipv4=10.0.0.1", ""), agent("y", "ipv4=10.0.0.1", "")];
    assert_eq!(picked(&shared, &[], "10.0.0.1:80"), ["x", "y"], "two identities prove it");
}

#[test]
fn an_agent_without_proof_may_be_no_agent_for_any_target() {
    let routes = Routes { any: false, ..Routes::as_claimed(Arc::default()) };
    let mut view = View::default();
    view.enter(&Arc::new(AgentTunnel::routed("a", routes.clone())), &routes, false);
    let router = Router::new(vec![Strategy::Default]);
    assert!(router.pick(&view, &"10.0.0.1:80".parse().unwrap(), None).is_none());
    assert!(!view.has(Strategy::Default) && view.agents().len() == 1);
}
