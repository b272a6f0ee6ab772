//! One change of the facts for each fault.

use super::of_agent::OF_AGENT;
use super::of_server::OF_SERVER;
use super::*;
use crate::witness::Fault;
use Program::{Agent, Server};

pub(super) type Change = fn(&mut Facts);

/// Check, program, change, verdict, and a part of detail and cure.
pub(super) type Fixture = (&'static str, Program, Change, Verdict, &'static str, &'static str);

pub(super) fn server(facts: &mut Facts) -> &mut ServerSetup {
    facts.server.as_mut().unwrap()
}

pub(super) fn agent(facts: &mut Facts) -> &mut AgentSetup {
    facts.agent.as_mut().unwrap()
}

/// Replaces text in the kube-apiserver's pod.
pub(super) fn pod(facts: &mut Facts, from: &str, to: &str) {
    assert!(POD.contains(from), "{from}");
    facts.manifest = manifest(&POD.replace(from, to));
}

/// Replaces text in the egress file.
pub(super) fn file(facts: &mut Facts, from: &str, to: &str) {
    assert!(EGRESS.contains(from), "{from}");
    facts.egress = egress(&EGRESS.replace(from, to));
}

pub(super) fn fail(facts: &mut Facts, link: Way, failed: Failed) {
    for shake in facts.handshakes.as_mut().unwrap().iter_mut().filter(|shake| shake.link == link) {
        shake.outcome = Err(failed.clone());
    }
}

pub(super) fn fault(facts: &mut Facts, fault: Fault) {
    fail(facts, Way::Http2, Failed::Certificate(fault));
}

pub(super) fn unreachable() -> Failed {
    Failed::Other("timed out".to_owned())
}

pub(super) fn expires(facts: &mut Facts, days: i64) {
    let file = "/pki/server.crt".to_owned();
    facts.certificates.as_mut().unwrap().push(Expiry { file, left: days * 86_400, ..Expiry::default() });
}

pub(super) fn stale(facts: &mut Facts) {
    facts.stale = vec![Expiry { file: "/pki/server.crt".to_owned(), ..Expiry::default() }];
}

pub(super) fn admitted(link: Way) -> Admission {
    admission(link, Admitted::Yes("cp-1".to_owned()))
}

pub(super) fn failure(kind: &str, health: Health) -> Option<Failure> {
    Some(Failure { stage: "tls".to_owned(), kind: kind.to_owned(), text: "refused".to_owned(), health })
}

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
