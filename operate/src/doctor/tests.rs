//! For every check a fixture with which it fails, and one with which it passes.

mod documents;
mod egress;
mod failing;
mod files;
mod of_agent;
mod of_server;

use std::path::Path;
use std::time::Duration;

use super::egress::{Egress, EgressFile};
use super::facts::*;
use super::finding::{Finding, Verdict};
use super::manifest::Manifest;
use super::{CHECKS, Check};
use crate::Program;
use crate::report::*;

const EGRESS: &str = "
apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: GRPC
    transport: {uds: {udsName: /run/tunnel/server.socket}}
- name: controlplane
  connection: {proxyProtocol: Direct}
";

const POD: &str = "
kind: Pod
spec:
  containers:
  - image: registry.k8s.io/kube-apiserver:v1.37.2
    command:
    - kube-apiserver
    - --egress-selector-config-file=/etc/kubernetes/tunnel/egress.yaml
    - --kubelet-client-certificate=/pki/kubelet.crt
    - --kubelet-client-key=/pki/kubelet.key
    - --kubelet-certificate-authority=/pki/kubelets-ca.crt
    - --kubelet-preferred-address-types=InternalIP,Hostname
    volumeMounts:
    - {name: tunnel, mountPath: /etc/kubernetes/tunnel}
    - {name: run, mountPath: /run/tunnel}
  volumes:
  - {name: tunnel, hostPath: {path: /etc/kubernetes/tunnel}}
  - {name: run, hostPath: {path: /run/tunnel}}
";

fn manifest(text: &str) -> Known<Manifest> {
    Manifest::parse(Path::new("kube-apiserver.yaml"), text)
}

fn egress(text: &str) -> Known<EgressFile> {
    Ok(EgressFile { path: "/etc/kubernetes/tunnel/egress.yaml".into(), content: Egress::parse(text) })
}

fn visits<T>(make: impl Fn(Way) -> T) -> Known<Vec<T>> {
    Ok(Way::BOTH.map(make).into())
}

fn handshake(link: Way, outcome: Result<Duration, Failed>) -> Handshake {
    Handshake { address: "10.0.0.1:8132 (cp)".to_owned(), name: "cp".to_owned(), link, outcome }
}

fn admission(link: Way, outcome: Admitted) -> Admission {
    Admission { address: "10.0.0.1:8132".to_owned(), link, outcome }
}

fn kubelet(answer: Result<u16, &str>) -> Kubelet {
    Kubelet { target: "10.0.3.7:10250".to_owned(), answer: answer.map_err(str::to_owned), trusted: Ok(()) }
}

/// Facts with which every check passes.
fn well(program: Program) -> Facts {
    let absent = || "absent".to_owned();
    let expiry = Expiry { flag: "--cert".to_owned(), left: 90 * 86_400, ..Expiry::default() };
    let server = ServerSetup {
        unix: "/run/tunnel/server.socket".to_owned(),
        strategies: vec!["destHost".to_owned()],
        connected: vec![Connected {
            identity: "node:worker-7".to_owned(),
            id: "worker-7".to_owned(),
            hosts: vec!["10.0.3.7".to_owned()],
            datagram: Some(Datagram { now: 1452, most: 1452 }),
        }],
        ..ServerSetup::default()
    };
    let agent = AgentSetup {
        servers: vec![Named { host: "cp".to_owned(), port: 8132, proxy: None }],
        transport: "auto".to_owned(),
        ..AgentSetup::default()
    };
    let nodes = Nodes { listed: true, expected: 1, connected: 1, ..Nodes::default() };
    let agents = Agents { connected: 1, ..Agents::default() };
    let server_status = ServerStatus { agents, nodes: Some(nodes), ..ServerStatus::default() };
    let held = Held { state: "connected".to_owned(), ..Held::default() };
    let agent_status = AgentStatus { wanted: 1, servers: vec![held], ..AgentStatus::default() };
    let is_server = program == Program::Server;
    Facts {
        server: if is_server { Ok(server) } else { Err(absent()) },
        agent: if is_server { Err(absent()) } else { Ok(agent) },
        status: Ok(if is_server { Status::Server(server_status) } else { Status::Agent(agent_status) }),
        manifest: manifest(POD),
        egress: egress(EGRESS),
        same_socket: Ok(true),
        dial: Ok(Dial { frontend: "GRPC".to_owned(), took: Duration::from_millis(1), failure: None }),
        kubelets: Ok(vec![kubelet(Ok(404))]),
        kubelet_user: Ok("kube-apiserver-kubelet-client".to_owned()),
        handshakes: visits(|link| handshake(link, Ok(Duration::from_millis(2)))),
        anonymous: visits(|link| admission(link, Admitted::No("no certificate".to_owned()))),
        stranger: visits(|link| admission(link, Admitted::No("unknown CA".to_owned()))),
        admissions: visits(|link| admission(link, Admitted::Yes("cp-1".to_owned()))),
        certificates: Ok(vec![expiry]),
        stale: Vec::new(),
        named: Ok((
            Certificate {
                names: vec!["*.example".to_owned(), "10.0.0.1".to_owned()],
                ..Certificate::default()
            },
            vec!["tunnel.example".to_owned(), "10.0.0.1".to_owned()],
        )),
        clock: Ok(0),
        buffer: Ok(Buffer { requested: 4 << 20, given: 4 << 20 }),
        interfaces: Ok(1500),
        lookups: Ok(vec![Lookup { host: "cp".to_owned(), found: Ok(vec!["10.0.0.1".to_owned()]) }]),
        token: Ok(TokenFile {
            path: "/token".into(),
            claims: Ok((vec!["tunnel".to_owned()], Some(3000))),
            expected: "tunnel".to_owned(),
        }),
        resolver: Ok(Resolver { servers: vec!["10.0.0.53".to_owned()], search: Vec::new() }),
        own_kubelet: Ok(ProbeReport { target: "10.0.3.7:10250".to_owned(), ..ProbeReport::default() }),
    }
}

fn judge(id: &str, program: Program, facts: &Facts) -> Finding {
    Check::find(id).unwrap().judge(facts, program)
}

#[test]
fn every_check_passes_with_facts_that_are_well() {
    for program in [Program::Server, Program::Agent] {
        let facts = well(program);
        for check in CHECKS.iter().filter(|check| check.is_for(program)) {
            let finding = check.judge(&facts, program);
            assert_eq!(finding.verdict, Verdict::Ok, "{} {program:?}: {finding:?}", check.id);
        }
    }
}

#[test]
fn ids_are_unique_and_in_order() {
    let ids: Vec<_> = CHECKS.iter().map(|check| check.id).collect();
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "{ids:?}");
    assert!(Check::find("t111").is_some() && Check::find("T999").is_none());
}
