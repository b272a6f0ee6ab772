use super::*;
use crate::report::{Agents, Held, Missing, Nodes, NotHeld};

fn server(id: &str, missing: &[&str]) -> ServerStatus {
    let missing: Vec<_> =
        missing.iter().map(|node| Missing { node: (*node).to_owned(), since: 42, seen: true }).collect();
    let connected = 412 - missing.len();
    ServerStatus {
        id: id.to_owned(),
        version: "0.2.0".to_owned(),
        up: 3 * 86_400 + 4 * 3600,
        agents: Agents { connected, quic: connected - 14, h2: 14, ..Agents::default() },
        nodes: Some(Nodes { listed: true, expected: 412, connected, missing, ..Nodes::default() }),
        streams: 1204,
        certificate: Some(Expiry {
            flag: "--cluster-cert".to_owned(),
            file: "/pki/server.crt".to_owned(),
            left: 61 * 86_400,
            ..Expiry::default()
        }),
        ..ServerStatus::default()
    }
}

fn lease(status: &ServerStatus, valid: bool) -> Seen {
    Seen {
        name: format!("konnectivity-proxy-server-{}", status.id),
        holder: Some(status.id.clone()),
        age: Some(Duration::from_secs(if valid { 9 } else { 44 })),
        valid,
        annotation: Some(summary::write(status.clone())),
    }
}

#[test]
fn leases_of_two_servers_are_a_table_and_the_missing_node() {
    let (one, two) = (server("cp-1", &[]), server("cp-2", &["worker-7"]));
    let shown = Shown::of_leases(&[lease(&one, true), lease(&two, true)]);
    let expected = "\
SERVER  VERSION  UP    AGENTS   QUIC/H2/KONN  STREAMS  STALLED  STATE
cp-1    0.2.0    3d4h  412/412  398/14/0      1204     0        ok
cp-2    0.2.0    3d4h  411/412  397/14/0      1204     0        degraded
nodes: 412 expected, 412 reachable, 411 on all servers
! worker-7 is not on cp-2 since 42s
  next: tunnel-agent status, on worker-7
certificates: the first expires in 61d (--cluster-cert of cp-1, /pki/server.crt)
source: Leases, 9s old
";
    assert_eq!(shown.painted(Paint::plain()), expected);
    assert_eq!(shown.health.exit_code(), 1);
}

#[test]
fn a_lease_that_ran_out_is_a_server_that_is_down() {
    let one = server("cp-1", &[]);
    let gone = Shown::of_leases(&[lease(&one, false)]);
    assert_eq!(gone.health.exit_code(), 2);
    assert_eq!(gone.problems[0].what, "the Lease of cp-1 has run out, renewed 44s ago");
    let half = Shown::of_leases(&[lease(&one, false), lease(&server("cp-2", &[]), true)]);
    assert_eq!(half.health.exit_code(), 1, "the other one works");
    let foreign = Seen { annotation: None, ..lease(&one, true) };
    let foreign = Shown::of_leases(&[foreign]);
    assert_eq!(foreign.health.exit_code(), 1);
    assert!(foreign.painted(Paint::plain()).contains("cp-1    ?"), "{}", foreign.painted(Paint::plain()));
}

#[test]
fn an_agent_shows_its_tunnels_and_why_others_are_missing() {
    let held = Held {
        id: "cp-1".to_owned(),
        address: "10.0.0.1:8132".to_owned(),
        link: "quic".to_owned(),
        why: "it answered first".to_owned(),
        since: 61,
        streams: 2,
        state: "connected".to_owned(),
    };
    let missing = NotHeld {
        address: "10.0.0.2:8132 (cp.example)".to_owned(),
        error: Some("timed out".to_owned()),
        failed: Some(3),
        ..NotHeld::default()
    };
    let agent = AgentStatus {
        id: "worker-7".to_owned(),
        version: "0.2.0".to_owned(),
        wanted: 2,
        servers: vec![held],
        not_held: vec![missing],
        ..AgentStatus::default()
    };
    let shown = Shown::of_program(Status::Agent(agent), "/a.sock");
    let expected = "\
AGENT     VERSION  UP  SERVERS  STREAMS  STALLED  STATE
worker-7  0.2.0    0s  1/2      0        0        degraded

SERVER  ADDRESS        LINK  SINCE  STREAMS  STATE      WHY THIS LINK
cp-1    10.0.0.1:8132  quic  1m1s   2        connected  it answered first
no tunnel: 10.0.0.2:8132 (cp.example): failed 3s ago: timed out
! worker-7 has a tunnel to 1 of 2 servers
  next: tunnel-agent probe 10.0.0.2:8132
source: /a.sock
";
    assert_eq!(shown.painted(Paint::plain()), expected);
}

#[test]
fn json_has_the_state_the_problems_and_the_reports() {
    let shown = Shown::of_program(Status::Server(server("cp-2", &["worker-7"])), "/a.sock");
    let json: serde_json::Value = serde_json::from_str(&shown.json()).unwrap();
    assert_eq!(json["health"], "degraded");
    assert_eq!(json["problems"][0]["next"], "tunnel-agent status, on worker-7");
    assert_eq!(json["servers"][0]["status"]["agents"]["quic"], 397);
    assert_eq!(json["servers"][0]["status"]["nodes"]["missing"][0]["node"], "worker-7");
    assert_eq!(json["nodes"]["everywhere"], 411);
    let none: serde_json::Value =
        serde_json::from_str(&Shown::down("gone".to_owned(), "start it".to_owned(), "/a.sock").json())
            .unwrap();
    assert_eq!((&none["health"], &none["problems"][0]["what"]), (&"down".into(), &"gone".into()));
}
