//! Faults of an agent's checks.

use Program::Agent;

use super::failing::*;
use super::*;
use crate::witness::Fault;

pub(super) const OF_AGENT: &[Fixture] = &[
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
        "tcp_mtu_probing",
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
