use super::*;
use crate::cli::Cli;
use clap::Parser as _;

fn refused(flags: &[&str]) -> String {
    let cli = Cli::try_parse_from([&["tunnel-server"], flags].concat()).unwrap();
    format!("{:#}", Config::try_from(cli.server).unwrap_err())
}

#[test]
fn a_server_that_would_leave_a_door_open_names_the_flags_that_close_it() {
    assert!(refused(&["--uds-name=/x", "--cluster-cert=c", "--cluster-key=k"]).contains("--cluster-ca-cert"));
    assert!(refused(&[]).contains("--server-ca-cert"));
    assert!(refused(&["--uds-name=/x", "--server-port=8090"]).contains("--server-ca-cert"));
    assert!(refused(&["--server-port=0"]).contains("--uds-name"));
    assert!(refused(&["--uds-name=/x", "--cluster-ca-cert=c"]).contains("--cluster-cert"));
    assert!(refused(&["--uds-name=/x", "--health-bind-address=nowhere"]).contains("--cluster-ca-cert"));
}

#[test]
fn empty_values_mean_none() {
    assert!(refused(&["--uds-name=", "--server-port=0"]).contains("no frontend"));
    assert!(refused(&[]).contains("--server-ca-cert"));
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
    assert!(cli.server.delete_existing_uds_file);
    assert_eq!(cli.server.mode, Some(Mode::HttpConnect));
    assert_eq!(Vec::from(cli.server.proxy_strategies).len(), 3);
    assert_eq!(cli.server.graceful_shutdown_timeout, Duration::from_secs(90));
    let cli = Cli::try_parse_from(["tunnel-server", "--delete-existing-uds-file=false"]).unwrap();
    assert!(!cli.server.delete_existing_uds_file);
}
