//! One block: a scenario, run once through one system, with the load of the machine and of the system's
//! processes.

use std::sync::Arc;

use serde::Serialize;
use tokio::time::Instant;

use super::args::Schedule;
use super::machine::{Load, Snapshot};
use super::system::Reachable;
use crate::bench::Bench;
use crate::figures::{Figure, Outcome};
use crate::plan::{Plan, Scenario};
use crate::process::{Memory, Process};
use crate::scenario;
use crate::target::Addresses;

/// The result of one block.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Block {
    pub(super) scenario: &'static str,
    pub(super) system: String,
    /// Number of the block among the system's blocks of this scenario; blocks of the same turn are compared.
    pub(super) turn: u32,
    pub(super) seconds: f64,
    /// None where the system could not be started.
    pub(super) machine: Option<Load>,
    /// The load that is beyond a limit.
    pub(super) disturbed: Option<String>,
    /// Whether its figures count.
    pub(super) counts: bool,
    pub(super) processes: Vec<Usage>,
    #[serde(flatten)]
    pub(super) outcome: Outcome,
}

/// The load of one process of the system.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Usage {
    pub(super) name: String,
    pub(super) pid: u32,
    pub(super) cpu_seconds: f64,
    /// At the end of the block; None where it may not be read.
    pub(super) memory: Option<Memory>,
}

/// Which block: the scenario, the system, and the turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) scenario: Scenario,
    pub(super) system: &'a str,
    pub(super) turn: u32,
}

impl Block {
    /// A block whose system could not be started.
    pub(super) fn not_run(place: Place<'_>, error: &anyhow::Error) -> Self {
        let mut outcome = Outcome::default();
        outcome.fail(format!("{error:#}"));
        Self {
            scenario: place.scenario.name(),
            system: place.system.to_owned(),
            turn: place.turn,
            seconds: 0.0,
            machine: None,
            counts: true,
            disturbed: None,
            processes: Vec::new(),
            outcome,
        }
    }
}

/// The setting of all blocks.
pub(super) struct Setting<'a> {
    pub(super) plan: &'a Plan,
    pub(super) schedule: &'a Schedule,
    pub(super) target: Addresses,
}

impl Setting<'_> {
    /// Runs a block. `own` are all processes of the comparison, those of other systems included.
    pub(super) async fn run(
        &self,
        place: Place<'_>,
        reachable: &Reachable,
        own: &[Process],
        label: &str,
    ) -> anyhow::Result<Block> {
        let Reachable { frontend, processes } = reachable;
        let bench = Bench::new(frontend.clone(), self.target, processes.clone(), self.plan.clone());
        let bench = Arc::new(bench.labelled(label));
        let cpu = |process: &Process| process.cpu_seconds().ok();
        let cpu_before: Vec<Option<f64>> = processes.iter().map(cpu).collect();
        let (before, start) = (Snapshot::take(own)?, Instant::now());
        let mut outcome = scenario::run(&bench, place.scenario).await;
        let seconds = start.elapsed().as_secs_f64();
        let mut machine = before.until(&Snapshot::take(own)?);
        if processes.is_empty() {
            // The system's own CPU time would count as foreign.
            machine.foreign_percent = None;
        }
        let mut usage = Vec::new();
        for (process, before) in processes.iter().zip(cpu_before) {
            let (Some(before), Some(after)) = (before, cpu(process)) else {
                outcome.fail(format!("process {} ({}) is gone", process.name, process.pid));
                continue;
            };
            let (name, pid) = (process.name.clone(), process.pid);
            let memory = process.memory().ok();
            usage.push(Usage { name, pid, cpu_seconds: (after - before).max(0.0), memory });
        }
        add_memory(&mut outcome, &usage);
        add_sums(&mut outcome, processes);
        let disturbed = self.disturbance(&machine);
        Ok(Block {
            scenario: place.scenario.name(),
            system: place.system.to_owned(),
            turn: place.turn,
            seconds,
            machine: Some(machine),
            counts: disturbed.is_none() || self.schedule.keep_disturbed,
            disturbed,
            processes: usage,
            outcome,
        })
    }

    fn disturbance(&self, load: &Load) -> Option<String> {
        let (steal, foreign) = (load.steal_percent, load.foreign_percent.unwrap_or(0.0));
        let mut reasons = Vec::new();
        if steal > self.schedule.max_steal {
            reasons.push(format!("steal {steal:.1} %"));
        }
        if foreign > self.schedule.max_foreign {
            reasons.push(format!("foreign load {foreign:.1} %"));
        }
        if reasons.is_empty() { None } else { Some(reasons.join(", ")) }
    }
}

fn add_memory(outcome: &mut Outcome, usage: &[Usage]) {
    for Usage { name, memory, .. } in usage {
        if let Some(memory) = memory {
            outcome.add(format!("private memory {name}"), memory.private as f64 / 1e6, "MB");
        }
    }
}

/// Adds the sums of CPU time and of memory over the system's processes: a process that saves at another one's
/// cost saves nothing. The name of a figure has the name of its process.
fn add_sums(outcome: &mut Outcome, processes: &[Process]) {
    let Some((first, others)) = processes.split_first() else { return };
    if others.is_empty() {
        return;
    }
    let all = processes.iter().map(|process| process.name.as_str()).collect::<Vec<_>>().join("+");
    let mut with_sums = Vec::with_capacity(outcome.figures.len());
    for figure in &outcome.figures {
        let at = with_sums.len();
        with_sums.push(figure.clone());
        let Some(name) = of_another(&figure.name, &first.name, &all) else { continue };
        let others = others.iter().map(|other| {
            let name = of_another(&figure.name, &first.name, &other.name)?;
            outcome.figures.iter().find(|other| other.name == name).map(|other| other.value)
        });
        if let Some(rest) = others.sum::<Option<f64>>() {
            // The sum stands in front of its parts.
            with_sums.insert(at, Figure { name, value: figure.value + rest, unit: figure.unit });
        }
    }
    outcome.figures = with_sums;
}

/// The name of the same figure of another process.
fn of_another(name: &str, process: &str, other: &str) -> Option<String> {
    ["cpu ", "memory "].iter().find_map(|what| {
        let (before, after) = name.split_once(&format!("{what}{process}"))?;
        let is_whole_word = after.is_empty() || after.starts_with([' ', ',']);
        is_whole_word.then(|| format!("{before}{what}{other}{after}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_all_processes_are_added_up() {
        let mut outcome = Outcome::default();
        outcome.add("download x1", 100.0, "MB/s");
        outcome.add("download x1 cpu server", 1.0, "CPU-s/GB");
        outcome.add("download x1 cpu agent", 2.0, "CPU-s/GB");
        outcome.add("download x1 cpu loadtest", 4.0, "CPU-s/GB");
        outcome.add("memory server, 8 stalled clients", 8.0, "MB");
        outcome.add("memory agent, 8 stalled clients", 16.0, "MB");
        outcome.add("cpu server-side", 32.0, "CPU-ms/s");
        let processes = ["server", "agent"].map(|name| Process { name: name.into(), pid: 1 });
        add_sums(&mut outcome, &processes);
        let value =
            |name: &str| outcome.figures.iter().find(|figure| figure.name == name).map(|found| found.value);
        assert_eq!(value("download x1 cpu server+agent"), Some(3.0));
        assert_eq!(value("memory server+agent, 8 stalled clients"), Some(24.0));
        assert_eq!(outcome.figures.len(), 9);
        let before = outcome.figures.len();
        add_sums(&mut outcome, &processes[..1]);
        assert_eq!(outcome.figures.len(), before);
    }

    #[test]
    fn blocks_beyond_a_limit_are_disturbed() {
        let mut schedule = Schedule::of(2);
        (schedule.max_steal, schedule.max_foreign) = (2.0, 5.0);
        let target = Addresses { commands: ([127, 0, 0, 1], 1).into(), banner: ([127, 0, 0, 1], 1).into() };
        let setting = Setting { plan: &Plan::short(), schedule: &schedule, target };
        let load =
            |steal_percent, foreign_percent| Load { steal_percent, foreign_percent, busy_cpu_seconds: 1.0 };
        assert_eq!(setting.disturbance(&load(2.0, Some(5.0))), None);
        assert_eq!(setting.disturbance(&load(0.0, None)), None);
        let both = setting.disturbance(&load(2.1, Some(7.0))).unwrap();
        assert_eq!(both, "steal 2.1 %, foreign load 7.0 %");
    }
}
