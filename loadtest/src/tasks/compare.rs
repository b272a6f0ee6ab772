//! `loadtest compare`: the same client runs the same scenarios through two or more systems in turn, so that
//! disturbances of the machine hit all of them, and only differences beyond the noise get a verdict.
//!
//! A system that fails is asked again in its next block; its failures are part of the result.

mod analysis;
mod args;
mod block;
mod comparison;
mod html;
mod instance;
mod machine;
mod meaning;
mod spec;
mod system;
mod table;
#[cfg(test)]
mod tests;

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use measuring_kit::{complain, say, write_json};
use tokio::time::Instant;

pub(crate) use args::CompareArgs;

use crate::output::Diary;
use crate::plan::Scenario;
use crate::process::Process;
use args::Fresh;
use block::{Block, Place, Setting};
use comparison::{Circumstances, Comparison, Found, Shown};
use instance::{Instance, Workshop};
use system::System;

/// Runs a comparison and delivers it. False when something failed.
pub(crate) async fn run(args: &CompareArgs) -> anyhow::Result<bool> {
    let (systems, baseline) = args.systems()?;
    let circumstances = Circumstances::now();
    let target = args.target.reach().await?;
    let child = target.child.as_ref().map(|child| Process { name: "target".into(), pid: child.id() });
    let own = std::iter::once(Process::myself()).chain(child).collect();
    let setting = Setting { plan: &args.plan, schedule: &args.schedule, target: target.addresses };
    let mut contest = Contest::new(&systems, setting, own)?;
    for scenario in args.plan.scenarios() {
        contest.scenario(scenario).await?;
    }
    deliver(&contest.end(circumstances, baseline).await, args)
}

fn deliver(comparison: &Comparison, args: &CompareArgs) -> anyhow::Result<bool> {
    for line in table::lines(comparison) {
        say(&line);
    }
    for failure in &comparison.failures {
        let (system, scenario, blocks) = (&failure.system, failure.scenario, failure.blocks);
        complain(&format!("FAILED {system} {scenario}, {blocks} blocks, such as: {}", failure.such_as));
    }
    if let Some(path) = &args.json {
        write_json(path, comparison)?;
    }
    if let Some(path) = &args.html {
        fs::write(path, html::page(comparison)).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(comparison.failures.is_empty())
}

/// The systems while they are compared.
struct Contest<'a> {
    systems: &'a [System],
    setting: Setting<'a>,
    workshop: Workshop,
    /// The client and the target.
    own: Vec<Process>,
    /// By system; None while it does not run.
    running: Vec<Option<Instance>>,
    shown: Vec<Shown>,
    notes: Vec<String>,
    blocks: Vec<Block>,
    clock: Clock,
}

impl<'a> Contest<'a> {
    fn new(systems: &'a [System], setting: Setting<'a>, own: Vec<Process>) -> anyhow::Result<Self> {
        let shown = systems.iter().map(|system| Shown { name: system.name.clone(), ..Shown::default() });
        let blocks = setting.schedule.blocks as usize * systems.len() * setting.plan.scenarios().len();
        Ok(Self {
            systems,
            setting,
            workshop: Workshop::new()?,
            own,
            running: systems.iter().map(|_| None).collect(),
            shown: shown.collect(),
            notes: Vec::new(),
            blocks: Vec::new(),
            clock: Clock { start: Instant::now(), blocks, diary: Diary::default() },
        })
    }

    async fn scenario(&mut self, scenario: Scenario) -> anyhow::Result<()> {
        let fresh = self.setting.schedule.fresh;
        if fresh != Fresh::Run {
            self.end_all().await;
        }
        if scenario == Scenario::Idle {
            self.warn_of_used_memory(fresh);
        }
        for (turn, at) in self.setting.schedule.order(self.systems.len()) {
            let block = self.block(scenario, turn, at).await?;
            self.blocks.push(block);
            if fresh == Fresh::Block {
                self.end_one(at).await;
            }
        }
        Ok(())
    }

    async fn block(&mut self, scenario: Scenario, turn: u32, at: usize) -> anyhow::Result<Block> {
        let system = &self.systems[at];
        let name = system.name.as_str();
        let label = self.clock.label(self.blocks.len(), name);
        self.clock.diary.note(&format!("{label}: {}", scenario.name()));
        if self.running[at].is_none() {
            match system.start(&self.workshop, &at.to_string()).await {
                Ok(instance) => {
                    self.shown[at].learn(&instance.reachable);
                    self.running[at] = Some(instance);
                }
                Err(error) => return Ok(Block::not_run(Place { scenario, system: name, turn }, &error)),
            }
        }
        let running = self.running.iter().flatten();
        let others = running.flat_map(|instance| instance.reachable.processes.iter().cloned());
        let own: Vec<Process> = self.own.iter().cloned().chain(others).collect();
        let Some(instance) = &self.running[at] else { anyhow::bail!("{name} does not run") };
        let place = Place { scenario, system: name, turn };
        let mut block = self.setting.run(place, &instance.reachable, &own, &label).await?;
        if let (Some(failure), Some(words)) = (block.outcome.failures.first_mut(), instance.last_words()) {
            *failure = format!("{failure}\n{words}");
        }
        Ok(block)
    }

    fn warn_of_used_memory(&mut self, fresh: Fresh) {
        for system in self.systems.iter().filter(|system| fresh != Fresh::Block || !system.is_started_here())
        {
            self.notes.push(format!(
                "{}: the same processes in every block, so what idle connections cost is too low in all but \
                 the first: programs keep memory that they have once used",
                system.name
            ));
        }
    }

    async fn end_all(&mut self) {
        for at in 0..self.running.len() {
            self.end_one(at).await;
        }
    }

    async fn end_one(&mut self, at: usize) {
        let Some(instance) = self.running[at].take() else { return };
        if let Err(error) = instance.end().await {
            self.notes.push(format!("{}: {error:#}", self.systems[at].name));
        }
    }

    /// Ends the systems that run, and compares the blocks.
    async fn end(mut self, circumstances: Circumstances, baseline: usize) -> Comparison {
        self.end_all().await;
        let Setting { plan, schedule, .. } = self.setting;
        let (plan, schedule) = (plan.clone(), schedule.clone());
        let found = Found { systems: self.shown, baseline, notes: self.notes, blocks: self.blocks };
        Comparison::new(circumstances, plan, schedule, found)
    }
}

/// The progress of the run.
struct Clock {
    start: Instant,
    blocks: usize,
    diary: Diary,
}

impl Clock {
    /// The beginning of a progress line.
    fn label(&self, done: usize, system: &str) -> String {
        let (number, of) = (done + 1, self.blocks);
        match remaining(self.start.elapsed(), done, self.blocks) {
            Some(left) => format!("block {number} of {of}, about {left} left, {system}"),
            None => format!("block {number} of {of}, {system}"),
        }
    }
}

/// The time that is left, if blocks go on to take as long as those before.
fn remaining(elapsed: Duration, done: usize, all: usize) -> Option<String> {
    let left = elapsed.as_secs_f64() * all.saturating_sub(done) as f64 / (done > 0).then_some(done as f64)?;
    Some(if left < 90.0 { format!("{left:.0} s") } else { format!("{:.0} min", left / 60.0) })
}
