use tunnel_proto::ident::UnknownKeys;
use tunnel_proto::target::Host;

use super::*;

fn agent(id: &str) -> Arc<AgentTunnel> {
    Arc::new(AgentTunnel::detached(id, Identifiers::default()))
}

fn active(registry: &Registry) -> Vec<Arc<AgentTunnel>> {
    registry.view().agents().to_vec()
}

#[tokio::test]
async fn the_newest_tunnel_of_an_agent_is_active_and_the_older_one_is_promoted_back() {
    let registry = Registry::default();
    let (old, new) = (agent("a"), agent("a"));
    let _old = registry.register(Arc::clone(&old));
    let newer = registry.register(Arc::clone(&new));
    assert!(Arc::ptr_eq(&active(&registry)[0], &new) && active(&registry).len() == 1);
    drop(newer);
    assert!(Arc::ptr_eq(&active(&registry)[0], &old));
}

#[tokio::test]
async fn a_late_goodbye_of_an_old_tunnel_does_not_evict_the_new_one() {
    let registry = Registry::default();
    let new = agent("a");
    let older = registry.register(agent("a"));
    let _newer = registry.register(Arc::clone(&new));
    drop(older);
    assert!(Arc::ptr_eq(&active(&registry)[0], &new));
}

#[tokio::test]
async fn a_draining_newest_tunnel_gives_way_to_an_older_one() {
    let registry = Registry::default();
    let (old, new) = (agent("a"), agent("a"));
    let _old = registry.register(Arc::clone(&old));
    let newer = registry.register(Arc::clone(&new));
    new.set_draining();
    newer.changed();
    assert!(Arc::ptr_eq(&active(&registry)[0], &old));
}

#[tokio::test]
async fn nothing_of_an_agent_that_left_is_kept_but_its_words() {
    let (registry, agent) = (Registry::default(), agent("a"));
    drop(registry.register(Arc::clone(&agent)));
    assert_eq!(Arc::strong_count(&agent), 1);
}

#[tokio::test]
async fn a_suspect_tunnel_gets_no_dials_until_it_is_back() {
    let registry = Registry::default();
    let (old, new) = (agent("a"), agent("a"));
    let _old = registry.register(Arc::clone(&old));
    let newer = registry.register(Arc::clone(&new));
    new.set_suspect(Some(Instant::now()));
    newer.changed();
    assert!(Arc::ptr_eq(&active(&registry)[0], &old));
    new.set_suspect(None);
    newer.changed();
    assert!(Arc::ptr_eq(&active(&registry)[0], &new) && active(&registry).len() == 1);
    for agent in [&old, &new] {
        agent.set_suspect(Some(Instant::now()));
    }
    // One call looks at all tunnels of the agent.
    newer.changed();
    assert!(active(&registry).is_empty());
    new.suspected().await;
}

#[tokio::test]
async fn who_is_suspect_is_told_of_as_if_it_had_left() {
    let registry = Registry::default();
    let ids = Identifiers { hosts: vec![Host::Name("node".into())], ..Identifiers::default() };
    let silent = Arc::new(AgentTunnel::detached("a", ids));
    let registered = registry.register(Arc::clone(&silent));
    assert!(registry.departed(&Host::Name("node".into())).is_none());
    let since = Instant::now();
    silent.set_suspect(Some(since));
    registered.changed();
    assert_eq!(
        registry.departed(&Host::Name("node".into())),
        Some(LastSign { agent: "a".to_owned(), at: since })
    );
}

#[tokio::test]
async fn who_left_is_remembered_for_a_while() {
    let registry = Registry::default();
    let ids = Identifiers { hosts: vec![Host::Name("node".into())], ..Identifiers::default() };
    drop(registry.register(Arc::new(AgentTunnel::detached("a", ids))));
    assert_eq!(registry.departed(&Host::Name("node".into())).unwrap().agent, "a");
    assert!(registry.departed(&Host::Name("other".into())).is_none());
    assert_eq!(registry.last_departed().unwrap().agent, "a");
    for _ in 0..2 * 1024 {
        drop(registry.register(agent("b")));
    }
    assert!(registry.departed(&Host::Name("node".into())).is_none());
}

#[tokio::test]
async fn another_identity_does_not_replace_an_agent_by_its_id() {
    let registry = Registry::default();
    let owner = agent("a");
    let rogue = AgentTunnel {
        identity: Identity::Node("b".to_owned()),
        ..AgentTunnel::detached("a", Identifiers::default())
    };
    let _owner = registry.register(Arc::clone(&owner));
    let _rogue = registry.register(Arc::new(rogue));
    assert!(Arc::ptr_eq(&active(&registry)[0], &owner) && active(&registry).len() == 2);
}

fn serving(id: &str, identifiers: &str) -> Arc<AgentTunnel> {
    let identifiers = Identifiers::parse(identifiers, UnknownKeys::Refuse).unwrap();
    Arc::new(AgentTunnel::detached(id, identifiers))
}

#[tokio::test]
async fn an_agent_is_remembered_by_every_spelling_of_its_hosts() {
    let registry = Registry::default();
    drop(registry.register(serving("a", "ipv6=::ffff:10.0.0.1&host=node.&ipv4=10.0.0.2")));
    for host in ["10.0.0.1", "::ffff:10.0.0.1", "node", "node.", "NODE", "::ffff:10.0.0.2"] {
        let found = registry.departed(&Host::parse(host).unwrap());
        assert_eq!(found.map(|sign| sign.agent), Some("a".to_owned()), "{host}");
    }
}

#[tokio::test]
async fn of_agents_with_one_host_the_last_is_named() {
    let (registry, host) = (Registry::default(), Host::parse("node").unwrap());
    let named = || registry.departed(&host).map(|sign| sign.agent);
    drop(registry.register(serving("a", "host=node")));
    drop(registry.register(serving("b", "host=node")));
    assert_eq!(named().unwrap(), "b");
    let c = serving("c", "host=node");
    let registered = registry.register(Arc::clone(&c));
    c.set_suspect(Some(Instant::now()));
    registered.changed();
    assert_eq!(named().unwrap(), "c");
    c.set_suspect(None);
    registered.changed();
    assert_eq!(named().unwrap(), "b", "c is there");
}

#[tokio::test]
async fn an_agent_that_comes_too_often_loses_a_tunnel() {
    let registry = Registry::default();
    let agents: Vec<_> = (0..17).map(|_| agent("a")).collect();
    let _busy = agents[0].count_stream();
    let _all: Vec<_> = agents.iter().map(|agent| registry.register(Arc::clone(agent))).collect();
    let ended: Vec<_> = (0..17).filter(|at| agents[*at].why_ended().is_some()).collect();
    assert_eq!(ended, [1], "the oldest without streams");
}

#[tokio::test]
async fn an_identity_has_so_many_tunnels_and_targets() {
    let registry = Registry::default();
    let (node, fleet) = (Identity::Node("n".to_owned()), Identity::Subject("fleet".to_owned()));
    let claims = |from: usize, to: usize| {
        let hosts = (from..to).map(|n| Host::parse(&format!("h{n}")).unwrap());
        Identifiers { hosts: hosts.collect(), ..Identifiers::default() }
    };
    let come = |identity: &Identity, id: usize, claims: Identifiers| {
        let agent = AgentTunnel::detached(id.to_string(), claims);
        registry.register(Arc::new(AgentTunnel { identity: identity.clone(), ..agent }))
    };
    let is_full = |identity: &Identity, targets| registry.is_full(identity, &claims(0, targets));
    let mut of_node: Vec<_> = (0..64).map(|id| come(&node, id, claims(0, 0))).collect();
    let _of_fleet: Vec<_> = (0..200).map(|id| come(&fleet, id, claims(0, 0))).collect();
    assert!(is_full(&node, 0) && !is_full(&fleet, 512));
    assert!(!is_full(&Identity::Node("other".to_owned()), 512));
    of_node.pop();
    assert!(!is_full(&node, 0));

    of_node.clear();
    let mut of_node: Vec<_> = (0..8).map(|id| come(&node, id, claims(512 * id, 512 * (id + 1)))).collect();
    assert!(is_full(&node, 1) && !is_full(&node, 0));
    of_node.pop();
    assert!(is_full(&node, 513) && !is_full(&node, 512));
    let of_fleet: Vec<_> = (0..512).map(|id| come(&fleet, 1000 + id, claims(0, 512))).collect();
    assert!(is_full(&fleet, 1));
    drop(of_fleet);
    assert!(!is_full(&fleet, 512));
}
