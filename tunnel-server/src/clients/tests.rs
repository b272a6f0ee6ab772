use rcgen::{CertificateParams, DnType, KeyPair, SanType};

use super::*;

fn certificate(cn: &str, organizations: &[&str], alternatives: &[SanType]) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, cn);
    for name in organizations {
        params.distinguished_name.push(DnType::OrganizationName, *name);
    }
    params.subject_alt_names = alternatives.to_vec();
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn names(list: &[&str]) -> Admission {
    let names = list.iter().map(|name| name.parse().unwrap()).collect();
    Admission { names, ..Admission::default() }
}

/// A peer of this process, which is the credential of a socket pair's end.
fn peer() -> (u32, io::Result<UCred>) {
    let (one, _other) = tokio::net::UnixStream::pair().unwrap();
    (one.peer_cred().unwrap().uid(), one.peer_cred())
}

#[tokio::test]
async fn a_peer_is_its_user() {
    let (uid, credentials) = peer();
    let client = Admission::default().of_unix(credentials);
    assert_eq!((client.name(), client.refusal()), (Some(format!("uid:{uid}").as_str()), None));
    let admission = Admission { uids: [uid + 1].into(), ..Admission::default() };
    let refused = admission.of_unix(peer().1);
    let refusal = refused.refusal().unwrap();
    assert_eq!(refusal.reason, "uid_not_allowed");
    assert_eq!(refusal.text, format!("user {uid} may not use this socket: see --uds-allowed-uids"));
    let admission = Admission { uids: [uid + 1, uid].into(), ..Admission::default() };
    assert_eq!(admission.of_unix(peer().1).refusal(), None);
}

#[test]
fn a_peer_without_a_user_is_admitted_only_where_all_are() {
    let unknown = || Err(io::Error::from(io::ErrorKind::Unsupported));
    let client = Admission::default().of_unix(unknown());
    assert_eq!((client.name(), client.refusal()), (None, None));
    let admission = Admission { uids: [0].into(), ..Admission::default() };
    assert_eq!(admission.of_unix(unknown()).refusal().unwrap().reason, "uid_not_allowed");
}

#[test]
fn a_certificate_has_all_its_names_and_the_common_one_is_logged() {
    let uri = SanType::URI("spiffe://example.org/apiserver".try_into().unwrap());
    let address = SanType::IpAddress("10.0.0.1".parse().unwrap());
    let found = certificate("kube-apiserver", &["My Org"], &[dns("API.example"), uri, address]);
    let client = Admission::default().of_certificate(Some(&found));
    assert_eq!((client.name(), client.refusal()), (Some("cn:kube-apiserver"), None));
    let also: Vec<&str> = client.subject().also.iter().map(AsRef::as_ref).collect();
    let expected = ["spiffe://example.org/apiserver", "ip:10.0.0.1", "dns:api.example", "o:My Org"];
    assert_eq!(also, expected);
}

#[test]
fn an_entry_stands_for_the_names_that_it_says() {
    let found = certificate("system:kube-apiserver", &["system:masters"], &[dns("api.example")]);
    let by_dns = certificate("other", &[], &[dns("system.example")]);
    for (list, first, second) in [
        (&[][..], true, true),
        (&["system:kube-apiserver"], true, false),
        (&["cn:system:kube-apiserver"], true, false),
        (&["o:system:masters"], true, false),
        (&["o:other"], false, false),
        (&["API.example"], true, false),
        (&["dns:Api.Example."], true, false),
        (&["system*"], true, true),
        (&["cn:system*"], true, false),
        (&["dns:System*"], false, true),
        (&["kube-apiserver", "other"], false, true),
        (&["system"], false, false),
        // The organization is no common name.
        (&["system:masters"], false, false),
    ] {
        let admits = |certificate| names(list).of_certificate(Some(certificate)).refusal().is_none();
        assert_eq!((admits(&found), admits(&by_dns)), (first, second), "{list:?}");
    }
    let refused = names(&["cn:me"]).of_certificate(Some(&found));
    let refusal = refused.refusal().unwrap();
    assert_eq!(refusal.reason, "name_not_allowed");
    let text = "the certificate (cn:system:kube-apiserver, dns:api.example, o:system:masters) may not use this frontend: see --frontend-allowed-names";
    assert_eq!(refusal.text, text);
    assert!(names(&["cn:me"]).of_certificate(None).refusal().is_some());
}

#[test]
fn entries_that_can_match_nothing_are_refused() {
    for (text, why) in
        [("a*b", "at the end"), ("dns:a b", "no host name"), ("ip:1.2.3", "no host name"), ("cn:ü", "ASCII")]
    {
        let error = text.parse::<Name>().unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
    assert!("".parse::<Name>().unwrap().is_empty());
}
