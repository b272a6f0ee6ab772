//! The result of a comparison, as it goes to JSON; the table and the page show it.

use std::fs;

use jiff::Timestamp;
use serde::Serialize;

use super::analysis::{Row, rows};
use super::args::Schedule;
use super::block::Block;
use super::system::Reachable;
use crate::plan::Plan;
use crate::process::Process;
use crate::report::{cpus, kernel};

#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) circumstances: Circumstances,
    pub(super) plan: Plan,
    pub(super) schedule: Schedule,
    pub(super) systems: Vec<Shown>,
    /// Name of the system that the others are compared with.
    pub(super) baseline: String,
    /// Reservations about the figures.
    pub(super) notes: Vec<String>,
    pub(super) failures: Vec<Failure>,
    pub(super) rows: Vec<Row>,
    /// In the order in which they were run.
    pub(super) blocks: Vec<Block>,
}

/// The parts of a comparison that a run gives.
pub(super) struct Found {
    pub(super) systems: Vec<Shown>,
    /// Index of the baseline among the systems.
    pub(super) baseline: usize,
    pub(super) notes: Vec<String>,
    pub(super) blocks: Vec<Block>,
}

/// The machine and the time of a run.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Circumstances {
    pub(super) version: &'static str,
    pub(super) started: String,
    pub(super) ended: String,
    pub(super) kernel: String,
    pub(super) cpu_model: String,
    pub(super) cpus: usize,
    /// The load average of the minute before the start.
    pub(super) load_at_start: String,
}

/// A system as it is shown.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Shown {
    pub(super) name: String,
    /// Empty if it never ran.
    pub(super) frontend: String,
    /// Its processes, as `NAME: COMMAND LINE`.
    pub(super) processes: Vec<String>,
}

/// The failures in the blocks of one system and scenario.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failure {
    pub(super) system: String,
    pub(super) scenario: &'static str,
    /// Blocks in which something failed.
    pub(super) blocks: usize,
    /// The first failure of the first of them.
    pub(super) such_as: String,
}

impl Comparison {
    pub(super) fn new(circumstances: Circumstances, plan: Plan, schedule: Schedule, found: Found) -> Self {
        let Found { systems, baseline, mut notes, blocks } = found;
        let names: Vec<&str> = systems.iter().map(|system| system.name.as_str()).collect();
        notes.extend(disturbances(&blocks, &schedule));
        notes.extend(unjudged(&blocks, &names));
        Self {
            circumstances: circumstances.ended(),
            plan,
            schedule,
            baseline: names[baseline].to_owned(),
            failures: failures(&blocks, &names),
            rows: rows(&blocks, &names, baseline),
            notes,
            systems,
            blocks,
        }
    }

    /// Index of the baseline among the systems.
    pub(super) fn baseline(&self) -> usize {
        self.systems.iter().position(|system| system.name == self.baseline).unwrap_or(0)
    }

    /// The scenarios in the order in which they were run.
    pub(super) fn scenarios(&self) -> Vec<&'static str> {
        let mut scenarios: Vec<&'static str> = self.blocks.iter().map(|block| block.scenario).collect();
        scenarios.dedup();
        scenarios
    }
}

impl Circumstances {
    pub(super) fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started: now(),
            ended: String::new(),
            kernel: kernel(),
            cpu_model: model.unwrap_or_default().trim_start_matches(['\t', ' ', ':']).to_owned(),
            cpus: cpus(),
            load_at_start: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    fn ended(mut self) -> Self {
        self.ended = now();
        self
    }
}

/// UTC, to the second.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

impl Shown {
    /// Notes the frontend and the processes.
    pub(super) fn learn(&mut self, reachable: &Reachable) {
        reachable.frontend.name.clone_into(&mut self.frontend);
        let line = |process: &Process| {
            let command = process.command_line().unwrap_or_else(|_| "?".into());
            format!("{}: {command}", process.name)
        };
        self.processes = reachable.processes.iter().map(line).collect();
    }
}

fn failures(blocks: &[Block], systems: &[&str]) -> Vec<Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    for block in blocks {
        let Some(first) = block.outcome.failures.first() else { continue };
        let known = failures.iter_mut().find(|f| f.system == block.system && f.scenario == block.scenario);
        match known {
            Some(failure) => failure.blocks += 1,
            None => failures.push(Failure {
                system: block.system.clone(),
                scenario: block.scenario,
                blocks: 1,
                such_as: first.clone(),
            }),
        }
    }
    failures.sort_by_key(|failure| systems.iter().position(|name| *name == failure.system));
    failures
}

fn disturbances(blocks: &[Block], schedule: &Schedule) -> Option<String> {
    let disturbed: Vec<&Block> = blocks.iter().filter(|block| block.disturbed.is_some()).collect();
    if disturbed.is_empty() {
        return None;
    }
    let (steal, foreign) = (schedule.max_steal, schedule.max_foreign);
    let done = if schedule.keep_disturbed { "are counted all the same" } else { "are left out" };
    Some(format!(
        "{} of {} blocks {done}: steal was above {steal} % or foreign load above {foreign} % of the machine",
        disturbed.len(),
        blocks.len()
    ))
}

fn unjudged(blocks: &[Block], systems: &[&str]) -> Vec<String> {
    let of = |name: &str| {
        let mut loads = blocks.iter().filter(|block| block.system == name).filter_map(|block| block.machine);
        loads.any(|load| load.foreign_percent.is_none())
    };
    let unjudged = systems.iter().filter(|name| of(name));
    unjudged
        .map(|name| format!("{name}: not all its processes are known, so foreign load is not noticed"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::compare::tests::{block, comparison, figure};

    #[test]
    fn failures_are_gathered_and_disturbed_blocks_are_said() {
        let mut blocks: Vec<Block> = (0..4).map(|turn| block("new", turn, Vec::new())).collect();
        blocks[1].outcome.fail("no agent");
        blocks[2].outcome.fail("no server");
        blocks[3].disturbed = Some("steal 9 %".into());
        blocks.push(block("old", 0, vec![figure("it", 1.0, "us")]));
        let all = comparison(blocks);
        let expected =
            Failure { system: "new".into(), scenario: "ping", blocks: 2, such_as: "no agent".into() };
        assert_eq!(all.failures, [expected]);
        assert!(
            all.notes.iter().any(|note| note.starts_with("1 of 5 blocks are left out")),
            "{:?}",
            all.notes
        );
        let text = serde_json::to_string(&all).unwrap();
        assert!(
            text.contains(r#""disturbed":"steal 9 %""#) && text.contains(r#""baseline":"old""#),
            "{text}"
        );
    }
}
