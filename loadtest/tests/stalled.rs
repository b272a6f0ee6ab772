//! The program as a whole, where it starts itself again: isolation, and
//! profiles beside stalled readers, through a frontend inside the test.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tunnel_client::Protocol;
use tunnel_client::fake::{Fake, Fault};

const BOTH: [Protocol; 2] = [Protocol::Connect, Protocol::Grpc];

/// The figures of all scenarios, and all that the program printed.
struct Ran {
    outcomes: Vec<Value>,
    success: bool,
    printed: String,
}

impl Ran {
    fn figure(&self, scenario: &str, name: &str) -> f64 {
        let outcome = self.outcomes.iter().find(|outcome| outcome["scenario"] == scenario);
        let figures = outcome.and_then(|outcome| outcome["figures"].as_array());
        let found = figures.and_then(|figures| figures.iter().find(|figure| figure["name"] == name));
        found
            .and_then(|figure| figure["value"].as_f64())
            .unwrap_or_else(|| panic!("no {name}: {}", self.printed))
    }
}

async fn run(protocol: Protocol, fault: Fault, flags: &[&str]) -> Ran {
    let dir = TempDir::new().unwrap();
    let (socket, json) = (dir.path().join("socket"), dir.path().join("json"));
    let _fake = Fake::unix(&socket, protocol, fault).unwrap();
    let place = match protocol {
        Protocol::Connect => "--connect-uds",
        Protocol::Grpc => "--grpc-uds",
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.arg("run").arg(place).arg(&socket).arg("--json").arg(&json);
    command.args(["--seconds=0.3", "--stalled=8", "--scale=2", "--canaries=1"]).args(flags);
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    told(&output, &json)
}

fn told(output: &Output, json: &Path) -> Ran {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = text(&output.stdout) + &text(&output.stderr);
    let json = std::fs::read(json).unwrap_or_else(|error| panic!("{error}: {printed}"));
    let json: Value = serde_json::from_slice(&json).unwrap();
    let outcomes = json["results"].as_array().unwrap_or_else(|| panic!("{json}")).clone();
    Ran { outcomes, success: output.status.success(), printed }
}

#[tokio::test]
async fn isolation_compares_with_and_without() {
    for protocol in BOTH {
        let ran = run(protocol, Fault::None, &["--scenario=isolation", "--rounds=1"]).await;
        assert!(ran.success, "{protocol:?}: {}", ran.printed);
        for side in ["8 stalled clients", "8 stalled targets"] {
            let figure = |name: &str| ran.figure("isolation", &format!("{name}, {side}"));
            assert!(figure("download ratio lowest") > 0.0);
            assert!(figure("download ratio lowest") <= figure("download ratio"));
            assert!(figure("download ratio") <= figure("download ratio highest"));
            assert!(figure("round trip p99 ratio") > 0.0);
            assert!(figure("memory loadtest") > 0.0 && figure("time until gone") > 0.0);
        }
    }
}

#[tokio::test]
async fn every_profile_runs_beside_stalled_readers() {
    let profiles = ["exec", "logs", "watch", "webhook", "scrape", "cp", "port-forward", "mixed"];
    for protocol in BOTH {
        let ran = run(protocol, Fault::None, &["--scenario", &profiles.join(",")]).await;
        assert!(ran.success, "{protocol:?}: {}", ran.printed);
        for profile in profiles {
            assert_eq!(ran.figure(profile, "stalled readers"), 8.0, "{profile}");
            assert!(ran.figure(profile, "canaries whole") >= 1.0, "{profile}");
        }
    }
}

#[tokio::test]
async fn why_connections_cannot_be_held_is_told_in_the_childs_words() {
    let target = Target::start();
    let dir = TempDir::new().unwrap();
    let (socket, json) = (dir.path().join("socket"), dir.path().join("json"));
    let _fake = Fake::unix(&socket, Protocol::Connect, Fault::None).unwrap();
    // Enough for the healthy connections, but not for a hundred that stall.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -n 60; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_loadtest"), "run"]);
    command.arg("--connect-uds").arg(&socket).arg("--json").arg(&json);
    command.args(["--target", &target.commands, "--banner-target", &target.banner]);
    command.args(["--scenario=isolation,exec", "--seconds=0.3", "--stalled=100"]);
    let output = spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let ran = told(&output, &json);
    assert!(!ran.success, "{}", ran.printed);
    for outcome in &ran.outcomes {
        let failures = outcome["failures"].to_string();
        assert!(failures.contains("stalled clients ended with"), "{failures}");
        assert!(failures.contains("Too many open files"), "{failures}");
    }
    assert_eq!(ran.outcomes.len(), 2);
}

/// A target that ends with its value.
struct Target {
    process: Child,
    commands: String,
    banner: String,
}

impl Target {
    fn start() -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .args(["target", "--until-stdin-closes"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut words = line.split_whitespace().rev();
        let (banner, commands) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
        Self { process, commands, banner }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
