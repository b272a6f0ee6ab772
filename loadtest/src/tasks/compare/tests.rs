//! A whole comparison of two frontends inside the process, and parts for the tests of the modules.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;
use tokio::task::JoinSet;
use tunnel_client::Protocol;
use tunnel_client::fake::{Fake, Fault};

use super::analysis::Judgement;
use super::args::Schedule;
use super::block::{Block, Setting};
use super::comparison::{Circumstances, Comparison, Found, Shown};
use super::machine::Load;
use super::system::{Origin, Reachable, System};
use super::{Contest, html, remaining, table};
use crate::figures::{Figure, Outcome};
use crate::frontend::FrontendArgs;
use crate::plan::{Plan, Scenario};
use crate::process::Process;
use crate::target::Target;

pub(super) fn figure(name: &str, value: f64, unit: &'static str) -> Figure {
    Figure { name: name.into(), value, unit }
}

/// A block of a ping.
pub(super) fn block(system: &str, turn: u32, figures: Vec<Figure>) -> Block {
    Block {
        scenario: "ping",
        system: system.into(),
        turn,
        seconds: 1.0,
        machine: Some(Load { steal_percent: 0.0, foreign_percent: Some(1.0), busy_cpu_seconds: 1.0 }),
        disturbed: None,
        counts: true,
        processes: Vec::new(),
        outcome: Outcome { figures, ..Outcome::default() },
    }
}

/// A comparison of systems called old and new.
pub(super) fn comparison(blocks: Vec<Block>) -> Comparison {
    let systems = ["old", "new"].map(|name| Shown { name: name.into(), ..Shown::default() });
    let found = Found { systems: systems.to_vec(), baseline: 0, notes: Vec::new(), blocks };
    Comparison::new(Circumstances::now(), Plan::short(), Schedule::of(6), found)
}

fn fake(name: &str, dir: &Path, protocol: Protocol, fault: Fault) -> (Fake, System) {
    let path = dir.join(name);
    let fake = Fake::unix(&path, protocol, fault).unwrap();
    let frontend = FrontendArgs::unix(protocol, &path).resolve().unwrap();
    let reachable =
        Reachable { frontend, processes: vec![Process { name: "server".into(), ..Process::myself() }] };
    (fake, System { name: name.into(), origin: Origin::Running(reachable) })
}

/// Compares with a target inside the process.
async fn compare(systems: &[System], scenarios: &[Scenario]) -> Comparison {
    let anywhere: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let target = Target::bind(anywhere, anywhere).await.unwrap();
    let (plan, schedule) = (Plan::short(), Schedule::of(6));
    let setting = Setting { plan: &plan, schedule: &schedule, target: target.addresses().unwrap() };
    let mut serving = JoinSet::new();
    serving.spawn(target.serve());
    let mut contest = Contest::new(systems, setting, vec![Process::myself()]).unwrap();
    for scenario in scenarios {
        contest.scenario(*scenario).await.unwrap();
    }
    contest.end(Circumstances::now(), 0).await
}

#[tokio::test]
async fn two_frontends_are_compared_in_mirrored_blocks() {
    let dir = TempDir::new().unwrap();
    let (_one, one) = fake("one", dir.path(), Protocol::Connect, Fault::None);
    let (_two, two) = fake("two", dir.path(), Protocol::Grpc, Fault::None);
    let found = compare(&[one, two], &[Scenario::Dial, Scenario::Ping]).await;
    assert!(found.failures.is_empty(), "{:?}", found.failures);
    assert_eq!(found.scenarios(), ["dial", "ping"]);
    let order: Vec<&str> = found.blocks[..4].iter().map(|block| block.system.as_str()).collect();
    assert_eq!(order, ["one", "two", "two", "one"]);
    let row = found.rows.iter().find(|row| row.figure == "rate").unwrap();
    assert!(row.cells.iter().all(|cell| cell.points.len() == 6 && cell.median.unwrap() > 1.0));
    let against = row.cells[1].against_baseline.unwrap();
    assert_eq!(against.ratios, 6);
    assert!(against.low <= against.ratio && against.ratio <= against.high);
    assert!(found.blocks.iter().all(|block| block.processes[0].memory.unwrap().private > 0));
    assert!(found.systems[1].processes[0].starts_with("server: "));
}

#[tokio::test]
async fn a_system_that_fails_is_told_and_the_others_go_on() {
    let dir = TempDir::new().unwrap();
    let (_one, one) = fake("one", dir.path(), Protocol::Connect, Fault::None);
    let (_two, two) = fake("two", dir.path(), Protocol::Connect, Fault::Refuse("no agent available"));
    let absent = System { name: "absent".into(), origin: Origin::Started(vec!["/nowhere/program".into()]) };
    let found = compare(&[one, two, absent], &[Scenario::Ping]).await;
    let failed: Vec<_> =
        found.failures.iter().map(|failure| (failure.system.as_str(), failure.blocks)).collect();
    assert_eq!(failed, [("two", 6), ("absent", 6)]);
    assert!(found.failures[0].such_as.contains("no agent available"), "{:?}", found.failures);
    assert!(found.failures[1].such_as.contains("/nowhere/program"), "{:?}", found.failures);
    let row = found.rows.iter().find(|row| row.figure == "round trip p50").unwrap();
    assert!(row.cells[0].median.unwrap() > 0.0);
    assert_eq!(row.cells[1].median, None);
    let page = html::page(&found);
    assert!(page.contains("no agent available") && page.contains("round trip p50"));
    assert!(table::lines(&found).iter().any(|line| line.starts_with("two against one")));
}

#[test]
fn a_page_shows_every_judgement_and_needs_no_other_file() {
    let mut blocks = Vec::new();
    for turn in 0..6 {
        blocks.push(block(
            "old",
            turn,
            vec![figure("round trip p50", 400.0, "us"), figure("rate", 10.0, "x/s")],
        ));
        let figures = vec![figure("round trip p50", 100.0, "us"), figure("rate", 5.0, "x/s")];
        blocks.push(block("new", turn, figures));
    }
    blocks[2].disturbed = Some("steal <9> %".into());
    let found = comparison(blocks);
    let judgements: Vec<_> = found.rows.iter().filter_map(|row| row.cells[1].against_baseline).collect();
    assert_eq!(judgements[0].judgement, Judgement::Better);
    assert_eq!(judgements[1].judgement, Judgement::Worse);
    let page = html::page(&found);
    for part in
        ["<!doctype html>", "faster", "slower", "<svg", "steal &lt;9&gt; %", "prefers-color-scheme: dark"]
    {
        assert!(page.contains(part), "{part}");
    }
    for foreign in ["src=", "href=", "url(", "@import", "NaN", "inf"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
}

#[test]
fn what_is_left_is_told_in_words() {
    use std::time::Duration;
    assert_eq!(remaining(Duration::from_secs(10), 0, 10), None);
    assert_eq!(remaining(Duration::from_secs(10), 1, 6).unwrap(), "50 s");
    assert_eq!(remaining(Duration::from_secs(60), 1, 6).unwrap(), "5 min");
}
