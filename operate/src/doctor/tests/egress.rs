//! The egress file as versions of Kubernetes read it.

use super::*;
use crate::doctor::egress::{Refused, Route};

fn faults(from: &str, to: &str) -> Vec<(Refused, String)> {
    assert!(EGRESS.contains(from), "{from}");
    let egress = Egress::parse(&EGRESS.replace(from, to)).unwrap();
    egress.faults.into_iter().map(|fault| (fault.refused, fault.text)).collect()
}

#[test]
fn each_fault_is_named_with_the_versions_that_refuse_it() {
    let uds = "{uds: {udsName: /run/tunnel/server.socket}}";
    let tls = "{tcp: {url: 'https://a:1', tlsConfig: {clientCert: /b, clientKey: /c, tlsServerName: d}}}";
    for (from, to, refused, text) in [
        ("egressSelections:", "EgressSelections:", Refused::From(32), "\"EgressSelections\" must be written"),
        ("kind: Egress", "kind: Other", Refused::ByAll, "kind must be"),
        ("apiserver.k8s.io/v1beta1", "apiserver.k8s.io/v1", Refused::From(32), "apiVersion"),
        (
            "name: controlplane",
            "name: controlplane\n  extra: 1",
            Refused::From(32),
            "unknown field \"extra\"",
        ),
        ("name: controlplane", "name: master", Refused::From(23), "called controlplane"),
        ("name: controlplane", "name: Cluster", Refused::From(23), "cluster is named twice"),
        ("name: controlplane", "name: nodes", Refused::ByAll, "use cluster, controlplane or etcd"),
        ("GRPC", "grpc", Refused::ByAll, "proxyProtocol \"grpc\""),
        (uds, "{tcp: {url: 'https://a:1'}}", Refused::ByAll, "GRPC needs transport.uds"),
        ("/run/tunnel/server.socket", "unix:///run/x", Refused::ByAll, "without unix://"),
        ("{proxyProtocol: Direct}", "{proxyProtocol: Direct, transport: {}}", Refused::ByAll, "no transport"),
        ("{proxyProtocol: Direct}", "{proxyProtocol: HTTPConnect}", Refused::ByAll, "needs one of"),
    ] {
        let found = faults(from, to);
        assert!(found.iter().any(|(by, words)| *by == refused && words.contains(text)), "{to}: {found:?}");
    }
    let direct = "{proxyProtocol: Direct}";
    for (transport, refused, text) in [
        ("{tcp: {url: 'http://a:1'}}", Refused::ByAll, "must begin with https://"),
        ("{tcp: {url: 'https://a:1'}}", Refused::ByAll, "needs tlsConfig"),
        (
            "{tcp: {url: 'https://a:1', tlsConfig: {caBundle: /a}}}",
            Refused::ByAll,
            "clientCert and clientKey",
        ),
        (tls, Refused::Before(36), "tlsServerName"),
    ] {
        let found = faults(direct, &format!("{{proxyProtocol: HTTPConnect, transport: {transport}}}"));
        assert!(found.iter().any(|(by, words)| *by == refused && words.contains(text)), "{found:?}");
    }
    assert_eq!(Refused::From(32).by(Some(31)), Some(false));
    assert_eq!(Refused::Before(36).by(Some(35)), Some(true));
    assert_eq!(Refused::From(32).by(None), None);
}

#[test]
fn routes_are_read_whatever_the_case_of_the_name() {
    let egress = Egress::parse(&EGRESS.replace("name: cluster", "name: CLUSTER")).unwrap();
    assert_eq!(egress.faults, []);
    assert_eq!(egress.route("cluster"), Some(&Route::Grpc("/run/tunnel/server.socket".into())));
    assert_eq!((egress.route("controlplane"), egress.route("etcd")), (Some(&Route::Direct), None));
}

#[test]
fn text_that_is_no_mapping_is_an_error_of_one_line() {
    for text in ["", "- a", "a: [", "a: 1\na: 2"] {
        let error = Egress::parse(text).unwrap_err();
        assert!(!error.is_empty() && !error.contains('\n'), "{text:?}: {error}");
    }
}

#[test]
fn traffic_is_shown_for_every_name() {
    let finding = judge("T102", Program::Server, &well(Program::Server));
    let shown = finding.notes.join("\n");
    assert!(shown.contains("cluster → tunnel (GRPC on /run/tunnel/server.socket): kubelets"), "{shown}");
    assert!(shown.contains("controlplane → direct: webhooks by URL"), "{shown}");
    assert!(shown.contains("etcd → direct (not named)"), "{shown}");
}
