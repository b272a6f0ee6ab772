use std::sync::Arc;

use prometheus::Registry as Metering;
use tunnel_proto::ident::UnknownKeys;

use super::*;

fn trust(mode: Mode, source: Source, default_routes: &[&str], map: &str) -> Trust {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), map).unwrap();
    let map = if map.is_empty() { IdentityMap::default() } else { IdentityMap::read(file.path()).unwrap() };
    let default_routes = default_routes.iter().map(|text| (*text).to_owned()).collect();
    let rules = Rules { mode, source, template: None, map, default_routes };
    Trust::new(rules, Metrics::register(&Metering::new()).unwrap())
}

/// Node `a` at 10.0.0.1 with pods in 10.244.0.0/24 is known from now on.
fn knows_a(trust: &Trust) {
    let node = Node {
        name: "a".to_owned(),
        addresses: vec!["10.0.0.1".to_owned()],
        pod_cidrs: vec!["10.244.0.0/24".to_owned()],
    };
    trust.take_nodes([node].iter(), true);
}

fn node(name: &str) -> Identity {
    Identity::Node(name.to_owned())
}

/// Proven and claimed routes.
fn routes(trust: &Trust, identity: &Identity, claims: &str) -> (Vec<String>, Vec<String>) {
    let claims = Arc::new(Identifiers::parse(claims, UnknownKeys::Refuse).unwrap());
    let routes = trust.routes(identity, &claims);
    (shown(&routes.proven, 99), shown(&routes.claimed, 99))
}

#[test]
fn a_mode_decides_about_unproven_claims() {
    let claims = "host=a&ipv4=10.0.0.1&ipv4=10.0.0.2&default-route=true";
    for (mode, proven, claimed) in [
        (Mode::Strict, &["a", "10.0.0.1"][..], &[][..]),
        (Mode::Audit, &["a", "10.0.0.1"], &["10.0.0.2", "default-route"]),
        (Mode::Legacy, &[], &["a", "10.0.0.1", "10.0.0.2", "default-route"]),
    ] {
        let trust = trust(mode, Source::Claims, &[], "");
        knows_a(&trust);
        let (is_proven, is_claimed) = routes(&trust, &node("a"), claims);
        assert_eq!(
            (is_proven, is_claimed),
            (
                proven.iter().map(ToString::to_string).collect(),
                claimed.iter().map(ToString::to_string).collect()
            ),
            "{mode:?}"
        );
    }
}

#[test]
fn without_its_object_a_node_proves_its_name() {
    let strict = trust(Mode::Strict, Source::Claims, &[], "");
    assert_eq!(routes(&strict, &node("a"), "host=a&ipv4=10.0.0.1").0, ["a"]);
    assert_eq!(routes(&strict, &node("10.0.0.1"), "ipv4=10.0.0.1").0, [""; 0]);
    let by_nodes = trust(Mode::Strict, Source::Nodes, &[], "");
    assert_eq!(routes(&by_nodes, &node("b"), "").0, ["b"]);
    knows_a(&by_nodes);
    assert_eq!(routes(&by_nodes, &node("b"), "host=b").0, [""; 0], "a node that is gone");
    assert_eq!(routes(&by_nodes, &node("a"), "ipv4=10.0.0.9").0, ["a", "10.0.0.1", "10.244.0.0/24"]);
}

#[test]
fn certificates_and_the_map_prove_what_is_written() {
    let map = "cn:agent: {hosts: [172.30.0.1], cidrs: [10.96.0.0/12], default-route: true}";
    let trust = trust(Mode::Strict, Source::Claims, &["node:infra-*", "node:edge"], map);
    let names = Identity::Names(vec![Host::parse("x.example").unwrap(), Host::parse("10.0.0.9").unwrap()]);
    assert_eq!(
        routes(&trust, &names, "host=x.example&ipv4=10.0.0.9&ipv4=10.0.0.8").0,
        ["x.example", "10.0.0.9"]
    );
    let subject = Identity::Subject("agent".to_owned());
    let claims = "ipv4=172.30.0.1&cidr=10.96.3.0/24&cidr=10.0.0.0/8&default-route=true";
    assert_eq!(routes(&trust, &subject, claims).0, ["172.30.0.1", "10.96.3.0/24", "default-route"]);
    for (identity, is_one) in
        [(node("infra-1"), true), (node("edge"), true), (node("edge-1"), false), (Identity::Unknown, false)]
    {
        let expected: &[&str] = if is_one { &["default-route"] } else { &[] };
        assert_eq!(routes(&trust, &identity, "default-route=true").0, expected, "{identity}");
        assert_eq!(routes(&trust, &identity, "").0, [""; 0], "not without a claim");
    }
}

#[test]
fn in_strict_mode_an_agent_that_proves_nothing_gets_no_dials_at_all() {
    let any = |trust: &Trust, identity: &Identity| trust.routes(identity, &Arc::default()).any;
    let strict = trust(Mode::Strict, Source::Claims, &[], "");
    assert!(any(&strict, &node("a")));
    assert!(!any(&strict, &Identity::Unknown));
    assert!(any(&trust(Mode::Audit, Source::Claims, &[], ""), &Identity::Unknown));
    assert!(any(&trust(Mode::Strict, Source::Claims, &["*"], ""), &Identity::Unknown));
}

#[test]
fn a_cause_is_logged_once_in_bounded_memory() {
    let trust = trust(Mode::Strict, Source::Claims, &[], "");
    assert!(trust.is_first("a", "host"));
    assert!(!trust.is_first("a", "host"));
    assert!(trust.is_first("a", "cidr") && trust.is_first("b", "host"));
    for number in 0..3 * MOST_LOGGED {
        trust.is_first(&number.to_string(), "host");
    }
    assert!(trust.0.logged.lock().unwrap().len() <= MOST_LOGGED);
}
