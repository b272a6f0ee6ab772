use super::*;
use crate::agents::Routes;
use tunnel_proto::ident::{Identifiers, UnknownKeys};

fn agent(id: &str, identifiers: &str) -> Arc<AgentTunnel> {
    let identifiers = Identifiers::parse(identifiers, UnknownKeys::Ignore).unwrap();
    Arc::new(AgentTunnel::detached(id, identifiers))
}

fn enter(view: &mut View, agent: &Arc<AgentTunnel>) {
    let routes = agent.routes();
    view.own(&routes.proven);
    view.enter(agent, &routes, agent.is_draining());
}

fn leave(view: &mut View, agent: &Arc<AgentTunnel>) {
    let routes = agent.routes();
    view.leave(agent, &routes);
    view.disown(&routes.proven);
}

fn viewed(agents: &[Arc<AgentTunnel>]) -> View {
    let mut view = View::default();
    for agent in agents {
        enter(&mut view, agent);
    }
    view
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
    assert!(viewed(&agents).has(DefaultRoute) && !viewed(&agents[1..]).has(DefaultRoute));
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
fn an_agent_is_once_under_each_of_its_names() {
    let ids = "host=a&host=a&host=A&ipv4=10.0.0.1&cidr=10.0.0.0/8&cidr=10.9.0.0/8&default-route=true";
    let agents = [agent("x", ids), agent("y", "host=a")];
    agents[1].set_draining();
    let mut view = viewed(&agents);
    for entry in [
        "any: [\"x\"] [\"y\"] of 0",
        "claimed a: [\"x\"] [\"y\"] of 0",
        "claimed 10.0.0.1: [\"x\"] [] of 0",
        "claimed 10.0.0.0/8: [\"x\"] [] of 0",
        "claimed default route: [\"x\"] [] of 0",
    ] {
        assert!(view.contents().contains(&entry.to_owned()), "{entry}: {:#?}", view.contents());
    }
    agents.iter().for_each(|agent| leave(&mut view, agent));
    assert_eq!(view.contents(), View::default().contents());
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

/// After any order of arrivals and departures, the view answers as one made of the agents that are left.
#[test]
fn a_view_that_has_changed_is_as_a_new_one() {
    use rand::RngExt as _;
    const IDS: [&str; 7] = [
        "host=a&host=a.&ipv4=10.0.0.1&ipv6=::ffff:10.0.0.1",
        "ipv4=10.0.0.1&cidr=10.0.0.0/8",
        "cidr=10.0.0.0/8&cidr=10.0.0.0/16",
        "cidr=10.0.0.0/16&cidr=::ffff:10.0.0.0/104&default-route=true",
        "cidr=fd00::/8&ipv6=fd00::1",
        "host=b&default-route=true",
        "",
    ];
    let parse = |text| Arc::new(Identifiers::parse(text, UnknownKeys::Refuse).unwrap());
    let mut rng = rand::rng();
    let mut ids = |_| parse(IDS[rng.random_range(0..IDS.len())]);
    let agents: Vec<_> = (0..30)
        .map(|at| {
            let (proven, claimed) = (ids(at), ids(at));
            Arc::new(AgentTunnel::routed(&format!("agent-{at}"), Routes { proven, claimed, any: at % 3 > 0 }))
        })
        .collect();
    agents.iter().step_by(4).for_each(|agent| agent.set_draining());
    let (mut view, mut there, mut rng) = (View::default(), Vec::<Arc<AgentTunnel>>::new(), rand::rng());
    for _ in 0..300 {
        let agent = &agents[rng.random_range(0..agents.len())];
        match there.iter().position(|one| Arc::ptr_eq(one, agent)) {
            Some(at) => leave(&mut view, &there.remove(at)),
            None => {
                enter(&mut view, agent);
                there.push(Arc::clone(agent));
            }
        }
        let new = viewed(&there);
        assert_eq!(view.contents(), new.contents());
    }
    there.iter().for_each(|agent| leave(&mut view, agent));
    assert_eq!(view.contents(), View::default().contents());
}
