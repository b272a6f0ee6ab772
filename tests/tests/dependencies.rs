//! The crates that each part of the system may depend on.
//!
//! Asks cargo itself, with `cargo tree`: the manifests alone would not show what comes in
//! through another crate. `--offline --locked` keeps it to the lock file and to sources
//! that the build of this test has fetched.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]

use std::collections::BTreeSet;
use std::process::Command;

/// Names of all crates that end up in `package`, without tests and build scripts.
fn crates_of(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none", "-p", package])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<_> =
        tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(crates.contains(package), "{tree}");
    crates
}

fn assert_without(package: &str, unwanted: &[&str]) {
    let crates = crates_of(package);
    let found: Vec<_> = unwanted.iter().filter(|name| crates.contains(**name)).collect();
    assert!(found.is_empty(), "{package} depends on {found:?}");
}

// Both contain `tunnel-client`: `doctor` dials through the frontend as the kube-apiserver does.

#[test]
fn the_server_contains_no_agent_and_no_certificate_generator() {
    assert_without("tunnel-server", &["tunnel-agent", "rcgen", "tempfile"]);
}

#[test]
fn the_agent_contains_no_server_and_no_certificate_generator() {
    assert_without("tunnel-agent", &["tunnel-server", "rcgen", "tempfile"]);
}

#[test]
fn the_commands_know_neither_server_nor_agent() {
    assert_without("tunnel-install", &["tunnel-server", "tunnel-agent", "rcgen", "tempfile"]);
    let openssl = ["openssl-sys", "aws-lc-sys"];
    assert_without("tunnel-operate", &["tunnel-server", "tunnel-agent", "rcgen", "tempfile"]);
    assert_without("tunnel-server", &openssl);
    assert_without("tunnel-agent", &openssl);
}

#[test]
fn the_data_path_contains_no_flags_no_web_pages_no_metrics_and_no_log() {
    assert_without("tunnel", &["tunnel-program", "clap", "axum", "prometheus", "tracing-subscriber"]);
}
