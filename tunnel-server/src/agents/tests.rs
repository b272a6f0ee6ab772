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
    drop(registry.view());
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
    newer.changed();
    assert!(active(&registry).is_empty());
    new.suspected().await;
}

#[tokio::test]
async fn who_is_suspect_is_told_of_as_if_it_had_left() {
    let registry = Registry::default();
    let ids = Identifiers { hosts: vec![Host::Name("node".into())], ..Identifiers::default() };
    let silent = Arc::new(AgentTunnel::detached("a", ids));
    let _registered = registry.register(Arc::clone(&silent));
    assert!(registry.departed(&Host::Name("node".into())).is_none());
    let since = Instant::now();
    silent.set_suspect(Some(since));
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
    for _ in 0..2 * DEPARTED {
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
