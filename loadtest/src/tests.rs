//! Scenarios against a frontend inside the process, and every check against one with a fault. Tests that
//! start this program again are in `tests/stalled.rs`.

mod fleet;
mod profile;

use std::net::SocketAddr;
use std::sync::Arc;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tunnel_client::Protocol;
use tunnel_client::fake::{Fake, Fault};

use crate::bench::Bench;
use crate::figures::Outcome;
use crate::frontend::FrontendArgs;
use crate::plan::{Plan, Scenario};
use crate::scenario;
use crate::target::Target;

pub(crate) const BOTH: [Protocol; 2] = [Protocol::Connect, Protocol::Grpc];

/// A target and a frontend inside the process, which end with this value.
pub(crate) struct Scene {
    pub(crate) bench: Arc<Bench>,
    _target: JoinSet<()>,
    _fake: Fake,
    _dir: TempDir,
}

impl Scene {
    pub(crate) async fn new(protocol: Protocol, fault: Fault) -> anyhow::Result<Self> {
        let anywhere: SocketAddr = "127.0.0.1:0".parse()?;
        let target = Target::bind(anywhere, anywhere).await?;
        let addresses = target.addresses()?;
        let mut serving = JoinSet::new();
        serving.spawn(target.serve());
        let dir = TempDir::new()?;
        let path = dir.path().join("frontend.socket");
        let fake = Fake::unix(&path, protocol, fault)?;
        let frontend = FrontendArgs::unix(protocol, &path).resolve()?;
        let bench = Arc::new(Bench::new(frontend, addresses, Vec::new(), Plan::short()));
        Ok(Self { bench, _target: serving, _fake: fake, _dir: dir })
    }
}

pub(crate) async fn run(protocol: Protocol, fault: Fault, scenario: Scenario) -> anyhow::Result<Outcome> {
    let scene = Scene::new(protocol, fault).await?;
    Ok(scenario::run(&scene.bench, scenario).await)
}

pub(crate) fn figure(outcome: &Outcome, name: &str) -> f64 {
    let found = outcome.figures.iter().find(|figure| figure.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {outcome:?}")).value
}

pub(crate) async fn sound(protocol: Protocol, scenario: Scenario) -> Outcome {
    let outcome = run(protocol, Fault::None, scenario).await.unwrap();
    assert!(outcome.failures.is_empty(), "{protocol:?}: {:?}", outcome.failures);
    outcome
}

#[tokio::test]
async fn bulk_moves_bytes_both_ways() {
    for protocol in BOTH {
        let outcome = sound(protocol, Scenario::Bulk).await;
        for name in ["download x1", "download x4", "upload x1", "upload x4"] {
            assert!(figure(&outcome, name) > 1.0, "{protocol:?} {name}");
        }
        assert!(figure(&outcome, "download x1 cpu loadtest") > 0.0);
    }
}

#[tokio::test]
async fn ping_and_dial_count_and_time() {
    for protocol in BOTH {
        let outcome = sound(protocol, Scenario::Ping).await;
        assert!(figure(&outcome, "round trip p50") <= figure(&outcome, "round trip p99"));
        let outcome = sound(protocol, Scenario::PingBulk).await;
        assert!(figure(&outcome, "round trip p50") <= figure(&outcome, "round trip p99"));
        assert!(figure(&outcome, "download meanwhile") > 1.0);
        let outcome = sound(protocol, Scenario::Dial).await;
        assert!(figure(&outcome, "rate") > 10.0);
    }
}

#[tokio::test]
async fn idle_connections_are_held_and_still_answer() {
    for protocol in BOTH {
        let outcome = sound(protocol, Scenario::Idle).await;
        assert_eq!(figure(&outcome, "connections"), 20.0);
    }
}

#[tokio::test]
async fn bytes_are_whole_through_a_sound_frontend() {
    for protocol in BOTH {
        let outcome = sound(protocol, Scenario::Bytes).await;
        assert_eq!(figure(&outcome, "target writes, then closes, whole"), 20.0);
        assert_eq!(figure(&outcome, "client writes, then closes, whole"), 20.0);
        assert_eq!(figure(&outcome, "target speaks first, then closes, whole"), 20.0);
        assert_eq!(outcome.figures.iter().map(|figure| figure.value).sum::<f64>(), 80.0);
    }
}

#[tokio::test]
async fn a_byte_that_is_lost_or_changed_fails_the_run() {
    for protocol in BOTH {
        let outcome = run(protocol, Fault::LoseLast, Scenario::Bytes).await.unwrap();
        assert_eq!(figure(&outcome, "target writes, then closes, lost or mixed"), 20.0);
        assert!(outcome.failures.iter().any(|text| text.contains("lost: ")), "{:?}", outcome.failures);

        let outcome = run(protocol, Fault::Corrupt, Scenario::Bytes).await.unwrap();
        assert_eq!(figure(&outcome, "target writes, then closes, lost or mixed"), 20.0);
        assert!(outcome.failures.iter().any(|text| text.contains("byte 0 of ")), "{:?}", outcome.failures);
    }
}

#[tokio::test]
async fn bytes_with_the_answer_or_of_others_fail_the_run() {
    for protocol in BOTH {
        let outcome = run(protocol, Fault::Early(b"x"), Scenario::Bytes).await.unwrap();
        assert_eq!(figure(&outcome, "target writes, then closes, failed"), 20.0);
    }
    let outcome = run(Protocol::Grpc, Fault::Foreign, Scenario::Bytes).await.unwrap();
    assert_eq!(figure(&outcome, "target writes, then closes, failed"), 20.0);
}

#[tokio::test]
async fn a_refusal_is_told_with_its_words() {
    for protocol in BOTH {
        let outcome = run(protocol, Fault::Refuse("no agent available"), Scenario::Ping).await.unwrap();
        let [failure] = outcome.failures.as_slice() else { panic!("{:?}", outcome.failures) };
        assert!(failure.contains("no agent available"), "{failure}");
    }
}
