//! The program's commands, as a person runs them.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::process::{Command, Output};

fn run(line: &[&str]) -> Output {
    // As in a pod of Konnectivity's manifests: flags from the environment are no conflict.
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-server"));
    command.args(line).env("PROXY_SERVER_ID", "cp-1").env("NO_COLOR", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn without_a_program_a_command_ends_with_2_and_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock").display().to_string();
    for line in [&["status"][..], &["probe", "10.0.0.1:80"]] {
        let ended = run(&[line, &["--admin-socket", &socket]].concat());
        let out = text(&ended.stdout);
        assert_eq!(ended.status.code(), Some(2), "{out}{}", text(&ended.stderr));
        assert!(out.contains("nothing answers on"), "{out}");
        assert!(out.contains("next: start tunnel-server with --admin-socket"), "{out}");
        assert!(!out.contains('\u{1b}'), "no colours without a terminal: {out}");
    }
}

#[test]
fn json_is_one_object_with_a_state_and_problems() {
    let ended = run(&["status", "-o", "json", "--admin-socket", "/nowhere/admin.sock"]);
    let out = text(&ended.stdout);
    assert!(
        out.starts_with("{\n  \"health\": \"down\",\n  \"problems\": [") && out.ends_with("}\n"),
        "{out}"
    );
    assert!(ended.stderr.is_empty(), "{}", text(&ended.stderr));
}

#[test]
fn a_wait_ends_and_says_what_it_waits_for() {
    let ended = run(&["status", "--wait=2s", "--admin-socket", "/nowhere/admin.sock"]);
    assert_eq!(ended.status.code(), Some(2));
    let progress = text(&ended.stderr);
    assert!(progress.starts_with("waiting: nothing answers on /nowhere/admin.sock"), "{progress}");
    assert_eq!(progress.lines().count(), 1, "the same line once: {progress}");
}

#[test]
fn a_policy_is_checked_without_a_program() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.yaml").display().to_string();
    let check = |target| {
        let ended = run(&["policy", "check", &file, target]);
        (ended.status.code().unwrap(), text(&ended.stdout))
    };
    assert!(matches!(check("10.0.0.1:80"), (2, text) if text.starts_with("cannot read the policy ")));
    std::fs::write(&file, "default: allow\nrules:\n- {name: lo, action: deny, to: [127.0.0.0/8]}\n").unwrap();
    assert!(matches!(check("10.0.0.1:80"), (0, text) if text.starts_with("allowed\n")));
    assert!(matches!(check("127.1:80"), (1, text) if text.contains("127.0.0.1:80  deny     lo ")));
    assert!(matches!(check("127.1"), (2, text) if text.contains("missing port")));
    std::fs::write(&file, "default: allow\nrule: []\n").unwrap();
    assert!(matches!(check("10.0.0.1:80"), (2, text) if text.contains("line 2")));
}

#[test]
fn help_has_examples_and_the_exit_codes() {
    for command in ["status", "probe", "doctor"] {
        let help = run(&[command, "--help"]);
        let out = text(&help.stdout);
        assert_eq!(help.status.code(), Some(0));
        for part in ["Examples:\n  tunnel-server ", "Exit codes: 0 well, 1 ", "--admin-socket", "--wait"] {
            assert!(out.contains(part), "{part}: {out}");
        }
    }
    assert!(text(&run(&["--help"]).stdout).contains("probe"));
}
