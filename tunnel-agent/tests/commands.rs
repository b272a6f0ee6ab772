//! The program's commands, as a person runs them.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::process::{Command, Output};

fn run(line: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tunnel-agent"));
    command.args(line).env("PROXY_AGENT_ID", "worker-7").output().unwrap()
}

#[test]
fn commands_need_no_flag_of_the_agent_and_name_its_socket() {
    for line in [&["status"][..], &["probe", "10.0.0.1:80"]] {
        let ended = run(&[line, &["--admin-socket", "/nowhere/admin.sock"]].concat());
        let out = String::from_utf8_lossy(&ended.stdout).into_owned();
        assert_eq!(ended.status.code(), Some(2), "{out}{}", String::from_utf8_lossy(&ended.stderr));
        assert!(out.contains("next: start tunnel-agent with --admin-socket"), "{out}");
    }
    let help = String::from_utf8_lossy(&run(&["status", "--help"]).stdout).into_owned();
    assert!(help.contains("Examples:\n  tunnel-agent status") && !help.contains("--kubeconfig"), "{help}");
}
