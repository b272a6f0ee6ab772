use super::*;
use tunnel_proto::ident::{Identifiers, UnknownKeys};
use tunnel_proto::target::Host;

fn agent(id: &str, identifiers: &str) -> Arc<AgentTunnel> {
    let identifiers = Identifiers::parse(identifiers, UnknownKeys::Ignore).unwrap();
    Arc::new(AgentTunnel::detached(id, identifiers))
}

fn viewed(agents: &[Arc<AgentTunnel>]) -> View {
    View::new(agents.to_vec(), &[])
}

fn picked(strategies: &[Strategy], agents: &[Arc<AgentTunnel>], target: &str) -> Vec<String> {
    let view = viewed(agents);
    let router = Router::new(strategies.to_vec());
    let target = target.parse().unwrap();
    let mut ids: Vec<String> =
        (0..100).filter_map(|_| router.pick(&view, &target, None)).map(|agent| agent.id.clone()).collect();
    ids.sort();
    ids.dedup();
    ids
}

#[test]
fn strategies_are_asked_in_order_and_the_first_that_knows_an_agent_decides() {
    use Strategy::{Default, DefaultRoute, DestHost};
    let agents = [
        agent("a", "host=node-a&ipv4=10.0.0.1"),
        agent("b", "ipv6=fd00::1"),
        agent("r", "default-route=true"),
    ];
    assert_eq!(picked(&[DestHost, Default], &agents, "10.0.0.1:80"), ["a"]);
    assert_eq!(picked(&[DestHost, Default], &agents, "NODE-A:80"), ["a"]);
    assert_eq!(picked(&[DestHost, Default], &agents, "[fd00:0::1]:80"), ["b"]);
    assert_eq!(picked(&[DestHost, DefaultRoute, Default], &agents, "10.9.9.9:80"), ["r"]);
    assert_eq!(picked(&[DestHost, Default], &agents, "10.9.9.9:80"), ["a", "b", "r"]);
    assert_eq!(picked(&[DestHost], &agents, "10.9.9.9:80"), [""; 0]);
    assert_eq!(picked(&[DefaultRoute], &agents[..2], "10.0.0.1:80"), [""; 0]);
    assert_eq!(picked(&[Default], &[], "10.0.0.1:80"), [""; 0]);
}

#[test]
fn draining_agents_come_last_but_before_the_next_strategy() {
    use Strategy::{Default, DestHost};
    let agents = [agent("a", "ipv4=10.0.0.1"), agent("b", "ipv4=10.0.0.1"), agent("c", "ipv4=10.0.0.3")];
    let of = |target: &str| picked(&[DestHost, Default], &agents, target);
    agents[0].set_draining();
    assert_eq!(of("10.0.0.1:80"), ["b"]);
    assert_eq!(of("10.0.0.3:80"), ["c"]);
    assert_eq!(of("10.0.0.9:80"), ["b", "c"]);
    agents[1].set_draining();
    assert_eq!(of("10.0.0.1:80"), ["a", "b"]);
    assert_eq!(of("10.0.0.3:80"), ["c"]);
    assert_eq!(of("10.0.0.9:80"), ["c"]);
    agents[2].set_draining();
    assert_eq!(of("10.0.0.9:80"), ["a", "b", "c"]);
}

#[test]
fn the_longest_network_with_the_address_decides() {
    use Strategy::{Default, DestCidr};
    let agents = [
        agent("ten", "cidr=10.0.0.0/8"),
        agent("pods1", "cidr=10.1.0.0/16"),
        agent("pods2", "cidr=10.1.2.3/16&cidr=fd00::/8"),
        agent("one", "cidr=10.1.0.7/32"),
        agent("all6", "cidr=::/0"),
        agent("none", "ipv4=10.1.0.7"),
    ];
    let of = |target: &str| picked(&[DestCidr], &agents, target);
    assert_eq!(of("10.2.0.1:80"), ["ten"]);
    assert_eq!(of("10.1.0.1:80"), ["pods1", "pods2"]);
    assert_eq!(of("10.1.0.7:80"), ["one"]);
    assert_eq!(of("[fd00::1]:80"), ["pods2"]);
    assert_eq!(of("[2001:db8::1]:80"), ["all6"]);
    assert_eq!(of("192.168.0.1:80"), [""; 0]);
    assert_eq!(of("node.example:80"), [""; 0]);
    assert_eq!(picked(&[DestCidr, Default], &agents[..1], "node.example:80"), ["ten"]);

    // The one that failed a dial is passed over for the next longest.
    let view = viewed(&agents);
    let router = Router::new(vec![DestCidr]);
    let target = "10.1.0.7:80".parse().unwrap();
    assert!(router.pick(&view, &target, Some(&agents[3])).unwrap().id.starts_with("pods"));
}

#[test]
fn default_routes_are_those_that_say_so() {
    use Strategy::DefaultRoute;
    let agents =
        [agent("yes", "default-route=true"), agent("no", "default-route=false"), agent("silent", "host=a")];
    assert_eq!(picked(&[DefaultRoute], &agents, "10.0.0.1:80"), ["yes"]);
    assert_eq!(viewed(&agents).size(DefaultRoute), 1);
}

#[test]
fn an_identifier_falls_to_its_other_holder_when_the_first_leaves() {
    use Strategy::DestHost;
    let agents = [agent("a", "host=node&ipv4=10.0.0.1"), agent("b", "ipv4=10.0.0.1&host=node")];
    assert_eq!(picked(&[DestHost], &agents, "node:80"), ["a", "b"]);
    assert_eq!(picked(&[DestHost], &agents[1..], "node:80"), ["b"]);
    assert_eq!(picked(&[DestHost], &agents[..1], "10.0.0.1:80"), ["a"]);
}

#[test]
fn tables_count_names_and_an_agent_is_once_in_each() {
    let ids = "host=a&host=a&host=A&ipv4=10.0.0.1&cidr=10.0.0.0/8&cidr=10.9.0.0/8&default-route=true";
    let agents = [agent("x", ids), agent("y", "host=a")];
    agents[1].set_draining();
    let view = viewed(&agents);
    let sizes = [Strategy::Default, Strategy::DefaultRoute, Strategy::DestCidr, Strategy::DestHost]
        .map(|strategy| view.size(strategy));
    assert_eq!(sizes, [2, 1, 1, 2]);
    let group = view.claimed.by_host.get(&Host::Name("a".to_owned())).unwrap();
    assert_eq!((group.agents.len(), group.ready), (2, 1));
}

#[test]
fn strategies_parse_as_konnectivitys_flag_does() {
    use Strategy::{Default, DefaultRoute, DestCidr, DestHost};
    for (text, expected) in [
        ("default", &[Default][..]),
        ("destHost,defaultRoute,default", &[DestHost, DefaultRoute, Default]),
        ("destHost,,destCIDR,", &[DestHost, DestCidr]),
        ("default,default", &[Default, Default]),
    ] {
        assert_eq!(text.parse::<Strategies>().unwrap().0, expected, "{text}");
    }
    for bad in ["", ",", "invalid", "desthost", "default, destHost"] {
        assert!(bad.parse::<Strategies>().is_err(), "{bad:?}");
    }
}

#[test]
fn the_excluded_agent_is_never_picked_and_load_decides() {
    let agents = [agent("a", ""), agent("b", "")];
    let view = viewed(&agents);
    let router = Router::new(vec![Strategy::Default]);
    let target = "10.0.0.1:80".parse().unwrap();
    for _ in 0..50 {
        assert_eq!(router.pick(&view, &target, Some(&agents[0])).unwrap().id, "b");
    }
    let only = viewed(&agents[..1]);
    assert!(router.pick(&only, &target, Some(&agents[0])).is_none());

    let _streams: Vec<_> = (0..10).map(|_| agents[0].count_stream()).collect();
    let chosen = (0..1000).filter(|_| router.pick(&view, &target, None).unwrap().id == "b").count();
    assert!(chosen > 600, "the idle agent was chosen only {chosen} times of 1000");
}
