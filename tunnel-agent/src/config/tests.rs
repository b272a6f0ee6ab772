use super::*;

#[test]
fn server_lists() {
    let shown = |list: &str| {
        servers(list, 8091).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(shown("10.0.0.1"), "10.0.0.1:8091");
    assert_eq!(shown("a, b:9000,a"), "a:8091 b:9000");
    assert_eq!(shown("::1,[::2],[::3]:9000"), "[::1]:8091 [::2]:8091 [::3]:9000");
    for bad in ["", ",", "a:x", "a:0", ":80"] {
        assert!(servers(bad, 8091).is_err(), "{bad:?}");
    }
}

/// The error of a command line, from the parser or the configuration.
fn refused(flags: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap().pem();
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).display().to_string()
    };
    let sound = [
        format!("--ca-cert={}", file("ca", &certificate)),
        format!("--agent-cert={}", file("cert", &certificate)),
        format!("--agent-key={}", file("key", &key.serialize_pem())),
    ];
    let words = std::iter::once("tunnel-agent").chain(sound.iter().map(String::as_str));
    match <Cli as clap::Parser>::try_parse_from(words.chain(flags.iter().copied())) {
        Ok(cli) => Config::try_from(cli).err().map_or_else(String::new, |error| format!("{error:#}")),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_konnectivity_refuses_is_refused() {
    assert_eq!(refused(&[]), "");
    for (flags, said) in [
        (&["--ca-cert="][..], "--ca-cert is needed"),
        (&["--ca-cert=/no/such/file"], "/no/such/file"),
        (&["--agent-key="], "--agent-cert needs --agent-key"),
        (&["--agent-cert="], "--agent-key needs --agent-cert"),
        (&["--agent-cert=", "--agent-key="], "--service-account-token-path"),
        (&["--agent-cert=/no/such/file"], "/no/such/file"),
        (&["--service-account-token-path=/no/such/file"], "--service-account-token-path=/no/such/file"),
        (&["--kubeconfig=/no/such/file"], "--kubeconfig=/no/such/file"),
        (&["--sync-interval=11s"], "--sync-interval-cap"),
        (&["--xfr-channel-size=0"], "must be greater than 0"),
        (&["--xfr-channel-size=-10"], "must be greater than 0"),
        (&["--enable-contention-profiling"], "--enable-profiling"),
        (&["--agent-identifiers=uid=a&zone=b"], "zone"),
        (&["--agent-identifiers=host=a;host=b"], "url query"),
        (&["--server-count-source=min"], "default or max"),
        (&["--lease-label-selector=a in b"], "requirement"),
        (&["--count-server-leases", "--lease-namespace="], "--lease-namespace"),
        (&["--keepalive-time=-1s"], "negative"),
        (&["--proxy-server-port=0"], "--proxy-server-port must be greater than 0"),
        (&["--proxy-server-port=65536"], "65536"),
        (&["--health-server-host=no such name"], "--health-server-host"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let refusal = refused(flags);
        assert!(refusal.contains(said), "{flags:?}: {refusal}");
    }
}
