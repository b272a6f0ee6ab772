//! One change of the facts for each fault.

use super::*;
use crate::witness::Fault;
use Program::{Agent, Server};

type Change = fn(&mut Facts);

/// Check, program, change, verdict, and a part of detail and cure.
type Fixture = (&'static str, Program, Change, Verdict, &'static str, &'static str);

fn server(facts: &mut Facts) -> &mut ServerSetup {
    facts.server.as_mut().unwrap()
}

fn agent(facts: &mut Facts) -> &mut AgentSetup {
    facts.agent.as_mut().unwrap()
}

/// Replaces text in the kube-apiserver's pod.
fn pod(facts: &mut Facts, from: &str, to: &str) {
    assert!(POD.contains(from), "{from}");
    facts.manifest = manifest(&POD.replace(from, to));
}

/// Replaces text in the egress file.
fn file(facts: &mut Facts, from: &str, to: &str) {
    assert!(EGRESS.contains(from), "{from}");
    facts.egress = egress(&EGRESS.replace(from, to));
}

fn fail(facts: &mut Facts, link: Way, failed: Failed) {
    for shake in facts.handshakes.as_mut().unwrap().iter_mut().filter(|shake| shake.link == link) {
        shake.outcome = Err(failed.clone());
    }
}

fn fault(facts: &mut Facts, fault: Fault) {
    fail(facts, Way::Http2, Failed::Certificate(fault));
}

fn unreachable() -> Failed {
    Failed::Other("timed out".to_owned())
}

fn expires(facts: &mut Facts, days: i64) {
    let file = "/pki/server.crt".to_owned();
    facts.certificates.as_mut().unwrap().push(Expiry { file, left: days * 86_400, ..Expiry::default() });
}

fn admitted(link: Way) -> Admission {
    admission(link, Admitted::Yes("cp-1".to_owned()))
}

fn failure(kind: &str, health: Health) -> Option<Failure> {
    Some(Failure { stage: "tls".to_owned(), kind: kind.to_owned(), text: "refused".to_owned(), health })
}

const OF_SERVER: &[Fixture] = &[
    (
        "T100",
        Server,
        |f| f.server = Err("nothing answers".to_owned()),
        Verdict::Fail,
        "nothing answers",
        "--admin-socket=/run/tunnel-server",
    ),
    (
        "T101",
        Server,
        |f| file(f, "name: cluster", "nAme: cluster"),
        Verdict::Fail,
        "does not start",
        "restart the kube-apiserver",
    ),
    (
        "T101",
        Server,
        |f| {
            file(f, "name: cluster", "nAme: cluster");
            pod(f, "v1.37.2", "v1.30.1");
        },
        Verdict::Warn,
        "another version",
        "correct",
    ),
    ("T101", Server, |f| f.egress = egress("- a"), Verdict::Fail, "no mapping", "doctor explain T101"),
    (
        "T102",
        Server,
        |f| file(f, "name: cluster", "name: etcd"),
        Verdict::Fail,
        "do not use the tunnel",
        "cluster",
    ),
    (
        "T103",
        Server,
        |f| pod(f, "--egress-selector-config-file", "--other"),
        Verdict::Fail,
        "no --egress",
        "--egress-selector-config-file=/etc",
    ),
    (
        "T103",
        Server,
        |f| pod(f, "mountPath: /etc/kubernetes/tunnel", "mountPath: /elsewhere"),
        Verdict::Fail,
        "does not mount",
        "mount the directory",
    ),
    (
        "T103",
        Server,
        |f| pod(f, "tunnel/egress.yaml", "tunnel/other.yaml"),
        Verdict::Fail,
        "other.yaml, and not",
        "change",
    ),
    (
        "T104",
        Server,
        |f| pod(f, "mountPath: /run/tunnel", "mountPath: /elsewhere"),
        Verdict::Fail,
        "cannot reach",
        "DirectoryOrCreate",
    ),
    (
        "T104",
        Server,
        |f| pod(f, "mountPath: /run/tunnel", "mountPath: /run/tunnel/server.socket"),
        Verdict::Fail,
        "itself",
        "the directory /run/tunnel",
    ),
    (
        "T105",
        Server,
        |f| {
            server(f).unix = "/other".to_owned();
            f.same_socket = Ok(false);
        },
        Verdict::Fail,
        "listens on /other",
        "--uds-name=/run",
    ),
    (
        "T105",
        Server,
        |f| server(f).mode = Some("http-connect".to_owned()),
        Verdict::Fail,
        "--mode=http-connect",
        "leave --mode out",
    ),
    ("T105", Server, |f| server(f).unix.clear(), Verdict::Fail, "the server has none", "--uds-name"),
    (
        "T106",
        Server,
        |f| f.dial.as_mut().unwrap().failure = Some("refused".to_owned()),
        Verdict::Fail,
        "does not answer a dial",
        "tunnel-server runs",
    ),
    (
        "T110",
        Server,
        |f| pod(f, "--kubelet-certificate-authority", "--other"),
        Verdict::Warn,
        "does not verify",
        "--kubelet-certificate-authority",
    ),
    (
        "T111",
        Server,
        |f| f.kubelets = Ok(vec![kubelet(Ok(404)), kubelet(Ok(403))]),
        Verdict::Fail,
        "forbids kube-apiserver-kubelet-client",
        "--user=kube-apiserver-kubelet-client",
    ),
    (
        "T111",
        Server,
        |f| f.kubelets = Ok(vec![kubelet(Ok(401))]),
        Verdict::Fail,
        "does not know",
        "clientCAFile",
    ),
    (
        "T111",
        Server,
        |f| f.kubelets = Ok(vec![kubelet(Err("No agent available"))]),
        Verdict::Fail,
        "No agent available",
        "probe 10.0.3.7:10250",
    ),
    (
        "T111",
        Server,
        |f| pod(f, "--kubelet-client-certificate", "--other"),
        Verdict::Fail,
        "Unauthorized",
        "--kubelet-client-certificate",
    ),
    (
        "T112",
        Server,
        |f| f.kubelets.as_mut().unwrap()[0].trusted = Err("of an unknown CA".to_owned()),
        Verdict::Fail,
        "unknown CA",
        "serverTLSBootstrap",
    ),
    (
        "T113",
        Server,
        |f| pod(f, "InternalIP,", ""),
        Verdict::Fail,
        "asks for Hostname",
        "InternalIP,ExternalIP,Hostname",
    ),
    (
        "T113",
        Server,
        |f| {
            pod(f, "InternalIP,", "");
            server(f).strategies.push("default".to_owned());
        },
        Verdict::Warn,
        "no agent serves a name",
        "host=$(NODE_NAME)",
    ),
    ("T201", Server, |f| fail(f, Way::Quic, unreachable()), Verdict::Warn, "QUIC fails", "UDP"),
    ("T202", Server, |f| fail(f, Way::Http2, unreachable()), Verdict::Warn, "HTTP/2 fails", "TCP"),
    (
        "T202",
        Server,
        |f| Way::BOTH.map(|link| fail(f, link, unreachable())).into_iter().collect(),
        Verdict::Fail,
        "timed out",
        "TCP",
    ),
    (
        "T203",
        Server,
        |f| f.buffer.as_mut().unwrap().given = 208 << 10,
        Verdict::Warn,
        "208 KiB of 4096 KiB",
        "rmem_max=4194304",
    ),
    ("T204", Server, |f| f.interfaces = Ok(1200), Verdict::Fail, "1200 bytes", "--transport=h2"),
    (
        "T204",
        Server,
        |f| server(f).connected[0].datagram.as_mut().unwrap().now = 1200,
        Verdict::Warn,
        "1 of 1 tunnels",
        "MTU",
    ),
    (
        "T301",
        Server,
        |f| f.anonymous.as_mut().unwrap()[0] = admitted(Way::Quic),
        Verdict::Fail,
        "is admitted on QUIC",
        "--cluster-ca-cert",
    ),
    (
        "T302",
        Server,
        |f| f.stranger.as_mut().unwrap()[1] = admitted(Way::Http2),
        Verdict::Fail,
        "unknown CA is admitted",
        "--cluster-ca-cert",
    ),
    ("T303", Server, |f| expires(f, 20), Verdict::Warn, "expires in 20d", "renew"),
    ("T303", Server, |f| expires(f, -1), Verdict::Fail, "expired 1d ago", "restart"),
    (
        "T304",
        Server,
        |f| f.named.as_mut().unwrap().1.push("a.b.example".to_owned()),
        Verdict::Fail,
        "not for a.b.example",
        "certSANs",
    ),
    (
        "T304",
        Server,
        |f| f.named.as_mut().unwrap().0.names.clear(),
        Verdict::Fail,
        "no subjectAltName",
        "--cluster-cert",
    ),
    ("T305", Server, |f| f.clock = Ok(-30), Verdict::Warn, "30s behind", "chronyd"),
    ("T305", Server, |f| f.clock = Ok(300), Verdict::Fail, "5m ahead of", "chronyd"),
    (
        "T401",
        Server,
        |f| {
            let Ok(Status::Server(status)) = &mut f.status else { panic!() };
            let missing = Missing { node: "worker-8".to_owned(), since: 42, seen: true };
            status.nodes =
                Some(Nodes { expected: 2, missing: vec![missing], ..status.nodes.clone().unwrap() });
        },
        Verdict::Fail,
        "worker-8 is not on",
        "on worker-8",
    ),
];

const OF_AGENT: &[Fixture] = &[
    (
        "T100",
        Agent,
        |f| f.agent = Err("nothing answers".to_owned()),
        Verdict::Fail,
        "nothing answers",
        "start tunnel-agent",
    ),
    ("T201", Agent, |f| fail(f, Way::Quic, unreachable()), Verdict::Warn, "QUIC fails with 1 of 1", "UDP"),
    (
        "T201",
        Agent,
        |f| {
            fail(f, Way::Quic, unreachable());
            agent(f).transport = "quic".to_owned();
        },
        Verdict::Fail,
        "QUIC fails",
        "UDP",
    ),
    (
        "T202",
        Agent,
        |f| {
            fail(f, Way::Http2, unreachable());
            agent(f).transport = "h2".to_owned();
        },
        Verdict::Fail,
        "HTTP/2 fails",
        "TCP",
    ),
    ("T203", Agent, |f| f.buffer.as_mut().unwrap().given = 1, Verdict::Warn, "bursts are lost", "sysctl"),
    (
        "T204",
        Agent,
        |f| agent(f).datagrams = vec![Datagram { now: 1200, most: 6500 }],
        Verdict::Warn,
        "1200 bytes",
        "MTU",
    ),
    (
        "T205",
        Agent,
        |f| f.lookups.as_mut().unwrap()[0].found = Err("no such host".to_owned()),
        Verdict::Fail,
        "no such host",
        "dnsPolicy",
    ),
    (
        "T206",
        Agent,
        |f| agent(f).servers[0].proxy = Some("proxy:3128".to_owned()),
        Verdict::Warn,
        "HTTP/2 only",
        "NO_PROXY",
    ),
    (
        "T206",
        Agent,
        |f| {
            agent(f).servers[0].proxy = Some("proxy:3128".to_owned());
            agent(f).transport = "quic".to_owned();
        },
        Verdict::Fail,
        "does not go through a proxy",
        "NO_PROXY",
    ),
    (
        "T207",
        Agent,
        |f| f.resolver.as_mut().unwrap().search = vec!["svc.cluster.local".to_owned()],
        Verdict::Warn,
        "may need this tunnel",
        "dnsPolicy: Default",
    ),
    (
        "T207",
        Agent,
        |f| f.resolver.as_mut().unwrap().servers.clear(),
        Verdict::Fail,
        "no resolver",
        "dnsPolicy: Default",
    ),
    ("T303", Agent, |f| expires(f, 1), Verdict::Warn, "expires in 1d", "renew"),
    ("T304", Agent, |f| fault(f, Fault::Name), Verdict::Fail, "is not for cp", "subjectAltName"),
    ("T304", Agent, |f| fault(f, Fault::Authority), Verdict::Fail, "not in --ca-cert", "kube-root-ca.crt"),
    ("T304", Agent, |f| fault(f, Fault::Expired), Verdict::Fail, "has expired", "--cluster-cert"),
    ("T304", Agent, |f| fault(f, Fault::Early), Verdict::Fail, "not valid yet", "clock"),
    ("T304", Agent, |f| fault(f, Fault::Other("bad use".to_owned())), Verdict::Fail, "bad use", "serverAuth"),
    ("T305", Agent, |f| f.clock = Ok(61), Verdict::Fail, "ahead of", "chronyd"),
    (
        "T306",
        Agent,
        |f| f.token.as_mut().unwrap().claims = Err("cannot read".to_owned()),
        Verdict::Fail,
        "cannot read",
        "audience tunnel",
    ),
    (
        "T306",
        Agent,
        |f| f.token.as_mut().unwrap().claims = Ok((vec!["tunnel".to_owned()], Some(0))),
        Verdict::Fail,
        "has expired",
        "kubelet",
    ),
    (
        "T306",
        Agent,
        |f| f.token.as_mut().unwrap().claims = Ok((vec!["tunnel".to_owned()], Some(9))),
        Verdict::Warn,
        "expires in 9s",
        "kubelet",
    ),
    (
        "T306",
        Agent,
        |f| f.token.as_mut().unwrap().expected = "other".to_owned(),
        Verdict::Warn,
        "not for other",
        "audience other",
    ),
    (
        "T402",
        Agent,
        |f| f.admissions = visits(|link| admission(link, Admitted::No("token".to_owned()))),
        Verdict::Fail,
        "refuses this agent: token",
        "--cluster-ca-cert",
    ),
    (
        "T403",
        Agent,
        |f| {
            let Ok(Status::Agent(status)) = &mut f.status else { panic!() };
            status.wanted = 2;
            let error = Some("timed out".to_owned());
            status.not_held =
                vec![NotHeld { address: "10.0.0.2:8132".to_owned(), error, failed: Some(9), led_to: None }];
        },
        Verdict::Fail,
        "1 of 2 servers",
        "probe 10.0.0.2:8132",
    ),
    (
        "T404",
        Agent,
        |f| f.own_kubelet.as_mut().unwrap().failure = failure("refused", Health::Down),
        Verdict::Fail,
        "does not reach the kubelet",
        "firewall",
    ),
    (
        "T404",
        Agent,
        |f| f.own_kubelet.as_mut().unwrap().failure = failure("expired", Health::Degraded),
        Verdict::Warn,
        "refused",
        "renew",
    ),
];

#[test]
fn every_fault_fails_its_check_and_names_the_cure() {
    for (id, program, change, verdict, detail, fix) in OF_SERVER.iter().chain(OF_AGENT) {
        let mut facts = well(*program);
        change(&mut facts);
        let finding = judge(id, *program, &facts);
        assert_eq!(finding.verdict, *verdict, "{id} {detail}: {finding:?}");
        assert!(finding.health != Health::Ok, "{id}: {finding:?}");
        let shown = format!("{} {}", finding.detail, finding.notes.join(" "));
        assert!(shown.contains(detail), "{id}: {shown:?} has no {detail:?}");
        let cure = finding.fix.unwrap_or_default();
        assert!(cure.contains(fix), "{id}: {cure:?} has no {fix:?}");
    }
}

#[test]
fn every_check_has_a_fixture_with_which_it_fails() {
    for program in [Server, Agent] {
        for check in CHECKS.iter().filter(|check| check.is_for(program)) {
            let mut all = OF_SERVER.iter().chain(OF_AGENT);
            assert!(all.any(|(id, of, ..)| (*id, *of) == (check.id, program)), "{} {program:?}", check.id);
        }
    }
}

#[test]
fn without_its_facts_a_check_is_skipped_with_a_reason() {
    for program in [Server, Agent] {
        let facts = crate::doctor::gather::nothing();
        for check in CHECKS.iter().filter(|check| check.is_for(program) && check.id != "T100") {
            let finding = check.judge(&facts, program);
            if matches!(check.id, "T203" | "T204") {
                continue; // This host shows them.
            }
            assert_eq!(finding.verdict, Verdict::Skip, "{}: {finding:?}", check.id);
            assert!(!finding.detail.is_empty(), "{}", check.id);
        }
    }
}

#[test]
fn the_socket_of_a_tunnel_on_tcp_is_its_port() {
    let tcp = "transport: {tcp: {url: 'https://127.0.0.1:8131', tlsConfig: {caBundle: /a, clientCert: /b, clientKey: /c}}}";
    let mut facts = well(Server);
    let text = EGRESS.replace("transport: {uds: {udsName: /run/tunnel/server.socket}}", tcp);
    facts.egress = egress(&text.replace("GRPC", "HTTPConnect"));
    assert_eq!(judge("T101", Server, &facts).verdict, Verdict::Ok);
    assert_eq!(judge("T105", Server, &facts).verdict, Verdict::Fail, "no frontend on TCP");
    server(&mut facts).tcp = Some(8131);
    assert_eq!(judge("T105", Server, &facts).verdict, Verdict::Ok);
    server(&mut facts).tcp = Some(8090);
    assert_eq!(judge("T105", Server, &facts).verdict, Verdict::Warn);
    server(&mut facts).mode = Some("grpc".to_owned());
    assert_eq!(judge("T105", Server, &facts).verdict, Verdict::Fail);
    assert_eq!(judge("T104", Server, &facts).verdict, Verdict::Skip);
}
