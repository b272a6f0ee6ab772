use clap::Parser as _;

use super::*;
use crate::cli::Cli;

/// The refusal of a command line, by the parser or after it; empty if there is none. `{}` in
/// a flag is a directory with certificates.
fn refused(flags: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    manifests::files(dir.path());
    let dir = dir.path().display().to_string();
    let words =
        std::iter::once("tunnel-server".to_owned()).chain(flags.iter().map(|flag| flag.replace("{}", &dir)));
    match Cli::try_parse_from(words) {
        Ok(cli) => Config::try_from(cli).err().map_or_else(String::new, |error| format!("{error:#}")),
        Err(error) => error.to_string(),
    }
}

/// As [`refused`], of a command line that is sound without `flags`.
fn refused_with(flags: &[&str]) -> String {
    let sound =
        ["--uds-name=/x", "--cluster-cert={}/cert", "--cluster-key={}/key", "--cluster-ca-cert={}/cert"];
    refused(&[&sound, flags].concat())
}

#[test]
fn a_server_that_would_leave_a_door_open_names_the_flags_that_close_it() {
    assert!(refused(&["--uds-name=/x", "--cluster-cert=c", "--cluster-key=k"]).contains("--cluster-ca-cert"));
    assert!(refused(&[]).contains("--server-ca-cert"));
    assert!(refused(&["--uds-name=/x", "--server-port=8090"]).contains("--server-ca-cert"));
    assert!(refused(&["--server-port=0"]).contains("--uds-name"));
    assert!(refused(&["--uds-name=/x", "--cluster-ca-cert=c"]).contains("--cluster-cert"));
    let contradiction = refused_with(&["--insecure-allow-anonymous-agents"]);
    assert!(contradiction.contains("contradicts"), "{contradiction}");
}

#[test]
fn flags_about_clients_of_a_frontend_that_does_not_exist_are_refused() {
    for flag in ["--uds-mode=0600", "--uds-owner=0", "--uds-allowed-uids=0"] {
        let said = refused(&["--server-port=8090", flag]);
        assert!(said.contains("for the frontend on a Unix socket") && said.contains("--uds-name"), "{said}");
        assert_eq!(refused_with(&[flag]), "");
    }
    let said = refused_with(&["--frontend-allowed-names=cn:a"]);
    assert!(said.contains("for the frontend on TCP"), "{said}");
    for (flag, why) in [
        ("--uds-mode=0888", "octal"),
        ("--uds-owner=:", "no group"),
        ("--uds-allowed-uids=0,none-such", "give its number"),
        ("--frontend-allowed-names=a*b", "at the end"),
    ] {
        let said = refused_with(&[flag]);
        assert!(said.contains(why) && said.contains(&flag[..10]), "{said}");
    }
    // As from a template whose values are empty.
    let empty = ["--uds-mode=", "--uds-owner=", "--uds-allowed-uids=", "--frontend-allowed-names="];
    assert_eq!(refused_with(&empty), "");
}

#[test]
fn files_that_are_no_good_are_named_with_their_flags() {
    let key_of_another = tempfile::NamedTempFile::new().unwrap();
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    std::fs::write(key_of_another.path(), key).unwrap();
    let other = key_of_another.path().display();
    for (flags, named) in [
        (
            format!("--cluster-cert={{}}/cert --cluster-key={other}"),
            "--cluster-cert, --cluster-key: private key",
        ),
        (
            "--cluster-cert={}/cert --cluster-key={}/none".to_owned(),
            "--cluster-cert, --cluster-key: private key",
        ),
        ("--cluster-cert={}/key --cluster-key={}/key".to_owned(), "--cluster-key: certificate"),
    ] {
        let flags: Vec<&str> =
            flags.split(' ').chain(["--uds-name=/x", "--cluster-ca-cert={}/cert"]).collect();
        let said = refused(&flags);
        assert!(said.contains(named), "{said}");
        assert_eq!(
            said.contains("not the key of the certificate"),
            flags[1].contains(&other.to_string()),
            "{said}"
        );
    }
    let said = refused(&[
        "--uds-name=/x",
        "--cluster-cert={}/cert",
        "--cluster-key={}/key",
        "--cluster-ca-cert={}/none",
    ]);
    assert!(said.starts_with("--cluster-ca-cert: certificate authority "), "{said}");
    let said = refused_with(&[
        "--server-port=1",
        "--server-cert={}/cert",
        "--server-key={}/key",
        "--server-ca-cert={}/none",
    ]);
    assert!(said.starts_with("--server-ca-cert: certificate authority "), "{said}");
}

#[test]
fn empty_values_mean_none() {
    assert!(refused(&["--uds-name=", "--server-port=0"]).contains("no frontend"));
    assert!(refused(&[]).contains("--server-ca-cert"));
}

#[test]
fn what_konnectivity_refuses_is_refused() {
    assert_eq!(refused_with(&[]), "");
    for (flags, said) in [
        (&["--server-ca-cert={}/cert"][..], "--server-ca-cert is for the frontend on TCP"),
        (&["--server-port=8090", "--server-ca-cert={}/cert"], "--server-cert and --server-key"),
        (&["--cluster-key="], "--cluster-cert and --cluster-key"),
        (&["--cluster-cert=/no/such/file"], "/no/such/file"),
        (&["--cluster-ca-cert=/no/such/file"], "/no/such/file"),
        (&["--kubeconfig=/no/such/file"], "--kubeconfig=/no/such/file"),
        (&["--mode=socks"], "socks"),
        (&["--agent-port=65536"], "65536"),
        (&["--enable-contention-profiling"], "--enable-profiling"),
        (&["--agent-namespace=a"], "--agent-service-account is missing"),
        (&["--agent-service-account=a", "--authentication-audience=a"], "--agent-namespace is missing"),
        (&["--agent-service-account=a", "--agent-namespace=a"], "--authentication-audience is missing"),
        (&["--proxy-strategies="], "at least one strategy"),
        (&["--proxy-strategies=invalid"], "\"invalid\""),
        (&["--routes-from=nodes"], "has no destHost"),
        (&["--routes-from=nodes", "--proxy-strategies=destHost"], "has no destCIDR"),
        (&["--routes-from=nodes", "--identity-mode=legacy"], "contradicts"),
        (&["--identity-mode=lax"], "strict"),
        (&["--spiffe-node-template=spiffe://td/node"], "--spiffe-node-template"),
        (&["--identity-map=/no/such/file"], "--identity-map=/no/such/file"),
        (&["--identity-map={}/key"], "--identity-map="),
        (&["--xfr-channel-size=0"], "must be greater than 0"),
        (&["--xfr-channel-size=-10"], "must be greater than 0"),
        (&["--tls-min-version=InvalidVersion"], "VersionTLS12"),
        (&["--cipher-suites=TLS_RSA_WITH_RC4_128_SHA"], "TLS_RSA_WITH_RC4_128_SHA"),
        (&["--enable-lease-controller", "--lease-label="], "--lease-label"),
        (&["--lease-label=a"], "key=value"),
        (&["--enable-lease-controller", "--lease-label=a"], "key=value"),
        (&["--enable-lease-controller", "--lease-namespace="], "--lease-namespace"),
        (&["--advertise-address=10.0.0.7"], "--enable-lease-controller"),
        (&["--enable-lease-controller", "--advertise-address=cp-1.example"], "give the IP address"),
        (&["--enable-lease-controller", "--advertise-address=$(HOST_IP)"], "give the IP address"),
        (&["--enable-lease-controller", "--advertise-address=10.0.0.7:"], "give the IP address"),
        (&["--enable-lease-controller", "--advertise-address=fd00::7:65536"], "give the IP address"),
        (&["--enable-lease-controller", "--advertise-address=10.0.0.7:0"], "port 0"),
        (&["--enable-lease-controller", "--advertise-address=0.0.0.0"], "one host"),
        (&["--enable-lease-controller", "--advertise-address=[::ffff:0.0.0.0]:8132"], "one host"),
        (&["--enable-lease-controller", "--advertise-address=[ff02::1]:8132"], "one host"),
        (&["--graceful-shutdown-timeout=-1s"], "must not be negative"),
        (&["--backend-dial-timeout=-1s"], "must not be negative"),
        (&["--health-bind-address=no such name"], "--health-bind-address"),
        (&["--server-count=many"], "many"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let refusal = refused_with(flags);
        assert!(refusal.contains(said), "{flags:?}: {refusal}");
    }
}

#[test]
fn the_address_in_a_lease_has_the_port_of_agents_unless_it_has_its_own() {
    for (text, address) in [
        ("", None),
        ("10.0.0.7", Some("10.0.0.7:8132")),
        ("10.0.0.7:443", Some("10.0.0.7:443")),
        ("fd00::7", Some("[fd00::7]:8132")),
        ("[fd00::7]", Some("[fd00::7]:8132")),
        ("[fd00::7]:443", Some("[fd00::7]:443")),
        ("::ffff:10.0.0.7", Some("10.0.0.7:8132")),
    ] {
        let flag = format!("--advertise-address={text}");
        let line = ["tunnel-server", "--enable-lease-controller", "--agent-port=8132", &flag];
        let cli = Cli::try_parse_from(line).unwrap();
        let publication = leases::publication(cli.leases, "cp-1", cli.agent_port).unwrap().unwrap();
        assert_eq!(publication.address, address.map(|address| address.parse().unwrap()), "{text}");
    }
}

#[test]
fn ports_outside_of_konnectivitys_range_are_taken() {
    // 443 is often the only way out of a node's network.
    assert_eq!(refused_with(&["--agent-port=443", "--health-port=50000", "--admin-port=0"]), "");
}

#[test]
fn go_style_values_parse() {
    let cli = Cli::try_parse_from([
        "tunnel-server",
        "--delete-existing-uds-file",
        "--mode=http-connect",
        "--proxy-strategies=destHost,defaultRoute,default",
        "--graceful-shutdown-timeout=1m30s",
    ])
    .unwrap();
    assert!(cli.delete_existing_uds_file);
    assert_eq!(cli.mode, Some(Mode::HttpConnect));
    assert_eq!(cli.proxy_strategies.0.len(), 3);
    assert_eq!(cli.graceful_shutdown_timeout, Duration::from_secs(90));
    let cli = Cli::try_parse_from(["tunnel-server", "--delete-existing-uds-file=false"]).unwrap();
    assert!(!cli.delete_existing_uds_file);
}
