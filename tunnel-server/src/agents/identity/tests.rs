use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::*;

fn reviewed(node: &str) -> Reviewed {
    let node_name = (!node.is_empty()).then(|| node.to_owned());
    Reviewed { username: "system:serviceaccount:a:b".to_owned(), node_name, pod_name: Some("pod".to_owned()) }
}

/// A certificate: common name, organization, and names in the form of [`Identity::texts`].
fn certificate(common: &str, organization: &str, names: &[&str]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !common.is_empty() {
        params.distinguished_name.push(DnType::CommonName, common);
    }
    params.distinguished_name.push(DnType::OrganizationName, organization);
    let san = |text: &&str| match text.split_once(':') {
        Some(("dns", name)) => SanType::DnsName(name.try_into().unwrap()),
        Some(("ip", ip)) => SanType::IpAddress(ip.parse().unwrap()),
        _ => SanType::URI((*text).try_into().unwrap()),
    };
    params.subject_alt_names = names.iter().map(san).collect();
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn identity(token: Option<&str>, certificate: Option<&CertificateDer<'_>>) -> String {
    let holder = token.map(reviewed);
    let template = "spiffe://td/node/{node}".parse().unwrap();
    match Identity::of(holder.as_ref(), certificate, Some(&template)) {
        Ok(identity) => identity.to_string(),
        Err(Conflict(a, b)) => format!("conflict of {a} and {b}"),
    }
}

#[test]
fn a_credential_makes_an_identity() {
    let nodes = "system:nodes";
    for (common, organization, names, expected) in [
        ("system:node:n1", nodes, &[][..], "node:n1"),
        ("system:node:n1", "somebody", &[], "cn:system:node:n1"),
        ("system:node:n1/x", nodes, &[], "cn:system:node:n1/x"),
        ("system:node:", nodes, &[], "cn:system:node:"),
        ("system:node:n1", nodes, &["spiffe://td/node/n1"], "node:n1"),
        ("system:node:n1", nodes, &["spiffe://td/node/n2"], "conflict of n1 and n2"),
        ("", "o", &["spiffe://td/node/n1"], "node:n1"),
        ("", "o", &["spiffe://td/node/n1/x"], "spiffe://td/node/n1/x"),
        ("", "o", &["spiffe://other/node/n1"], "spiffe://other/node/n1"),
        // Not a SPIFFE certificate.
        ("agent", "o", &["spiffe://td/node/n1", "spiffe://td/node/n2"], "cn:agent"),
        ("", "o", &["https://td/node/n1"], "unknown"),
        ("agent", "o", &["dns:Agent.Example"], "dns:agent.example"),
        ("agent", "o", &["dns:b.example", "ip:10.0.0.1"], "ip:10.0.0.1 and 1 more"),
        ("agent", "o", &["ip:::ffff:10.0.0.1"], "ip:10.0.0.1"),
        ("agent", "o", &["dns:*.example"], "cn:agent"),
        ("agent", "o", &[], "cn:agent"),
        ("two words", "o", &[], "unknown"),
        ("", "o", &[], "unknown"),
    ] {
        assert_eq!(
            identity(None, Some(&certificate(common, organization, names))),
            expected,
            "{common} {names:?}"
        );
    }
    assert_eq!(identity(None, None), "unknown");
    assert_eq!(identity(None, Some(&CertificateDer::from(vec![1, 2, 3]))), "unknown");
}

#[test]
fn of_a_token_and_a_certificate_the_tokens_node_counts() {
    let shared = certificate("agent", "o", &["dns:agent.example"]);
    let of_n1 = certificate("system:node:n1", "system:nodes", &[]);
    for (token, certificate, expected) in [
        ("n1", None, "node:n1"),
        ("", None, "unknown"),
        ("a b", None, "unknown"),
        ("n1", Some(&shared), "node:n1"),
        ("", Some(&shared), "dns:agent.example"),
        ("n1", Some(&of_n1), "node:n1"),
        ("n2", Some(&of_n1), "conflict of n2 and n1"),
        ("", Some(&of_n1), "node:n1"),
    ] {
        assert_eq!(identity(Some(token), certificate), expected, "{token}");
    }
}

#[test]
fn a_template_names_a_whole_part_of_the_path() {
    for bad in [
        "",
        "{node}",
        "spiffe:///{node}",
        "spiffe://{node}",
        "spiffe://td/x{node}",
        "spiffe://td/{node}x",
        "spiffe://td/{node}/{node}",
        "https://td/{node}",
    ] {
        assert!(bad.parse::<Template>().is_err(), "{bad:?}");
    }
    let template: Template = "spiffe://td/node/{node}/agent".parse().unwrap();
    assert_eq!(template.node("spiffe://td/node/n1/agent"), Some("n1"));
    for other in ["spiffe://td/node/n1", "spiffe://td/node//agent", "spiffe://td/node/a/b/agent"] {
        assert_eq!(template.node(other), None, "{other}");
    }
}

#[test]
fn a_map_names_targets_and_a_fault_names_its_entry() {
    let map = IdentityMap::parse(
        "cn:agent:\n  hosts: [172.30.0.1, Api.Example., '::ffff:10.0.0.9']\n  cidrs: [10.96.0.0/12]\n\
         node:n1:\n  default-route: true\n",
    );
    let map = map.unwrap();
    let entries = map.of(&Identity::Subject("agent".to_owned()));
    let hosts: Vec<_> = entries[0].hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["172.30.0.1", "api.example", "10.0.0.9"]);
    assert!(map.of(&Identity::Node("n1".to_owned()))[0].default_route);
    assert!(map.of(&Identity::Unknown).is_empty());
    for (bad, named) in [
        ("agent: {}", "agent"),
        ("node:a: {hosts: ['a b']}", "node:a"),
        ("node:a: {cidrs: [10.0.0.0]}", "node:a"),
        ("node:a: {host: [b]}", "host"),
        ("- a", ""),
    ] {
        let error = format!("{:#}", IdentityMap::parse(bad).unwrap_err());
        assert!(error.contains(named), "{error}");
    }
}
