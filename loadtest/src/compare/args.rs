//! The command line of a comparison.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::spec::Spec;
use super::system::System;
use crate::cli::{FrontendName, Link, Plan};

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// A system to compare, as KEY=VALUE pairs between commas; may be repeated.
    /// A running one: `name=N,connect-uds=PATH,pid=server:12,pid=agent:13`, or
    /// with grpc-uds, or connect-tcp or grpc-tcp=ADDRESS and ca, cert, key and
    /// server-name. One of ours, started here: `name=N,ours=h2`, with frontend,
    /// server-bin, agent-bin, server-arg and agent-arg. Any other, started here:
    /// `name=N,start=PROGRAM ARGUMENTS`; it prints the first form's pairs as one
    /// line when it is ready, and ends when its standard input does.
    #[arg(long, value_name = "PAIRS", verbatim_doc_comment)]
    pub(super) system: Vec<Spec>,
    /// A JSON file with an array of systems, each an object with the same keys;
    /// pid, server-arg and agent-arg are arrays.
    #[arg(long, value_name = "FILE")]
    pub(super) systems: Option<PathBuf>,
    /// Ours on these links, started here.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LINK")]
    pub(super) ours: Vec<Link>,
    /// How ours are dialled, unless a system says it.
    #[arg(long, value_enum, default_value = "connect-uds")]
    pub(super) frontend: FrontendName,
    /// The program of our server, unless a system says it; by default the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = measuring_kit::beside("tunnel-server"))]
    pub(super) server_bin: PathBuf,
    /// The program of our agent, unless a system says it; by default the one beside this program.
    #[arg(long, value_name = "FILE", default_value_os_t = measuring_kit::beside("tunnel-agent"))]
    pub(super) agent_bin: PathBuf,
    /// Flags added to those of every server of ours, such as `--server-arg=--v=2`.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(super) server_arg: Vec<String>,
    /// Flags added to those of every agent of ours.
    #[arg(long, value_name = "FLAG", allow_hyphen_values = true)]
    pub(super) agent_arg: Vec<String>,
    /// The system that the others are compared with; the first without this.
    #[arg(long, value_name = "NAME")]
    pub(super) baseline: Option<String>,
    #[command(flatten)]
    pub(super) plan: Plan,
    #[command(flatten)]
    pub(super) schedule: Schedule,
    /// Address of a `loadtest target`, as the agents reach it. Without it one
    /// is started on this machine.
    #[arg(long, value_name = "ADDRESS", requires = "banner_target")]
    pub(super) target: Option<SocketAddr>,
    /// Its second address, which speaks first.
    #[arg(long, value_name = "ADDRESS", requires = "target")]
    pub(super) banner_target: Option<SocketAddr>,
    /// Write everything, every block included, to this file as one JSON object.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Write a report with charts to this file, one page that needs no other.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

/// How blocks follow each other, and which of them count.
#[derive(Debug, Clone, Args, Serialize)]
pub(crate) struct Schedule {
    /// Blocks of each system and scenario, half of them in reverse order; an
    /// even number. With fewer than six there is no verdict.
    #[arg(long, default_value_t = 10, value_parser = even)]
    pub(super) blocks: u32,
    /// Leave out blocks in which the hypervisor took more than this part of the
    /// machine's CPU time.
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0, value_parser = percent)]
    pub(super) max_steal: f64,
    /// Leave out blocks in which other programs used more than this part of the
    /// machine's CPU time.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    pub(super) max_foreign: f64,
    /// Count such blocks all the same, and say so.
    #[arg(long)]
    pub(super) keep_disturbed: bool,
    /// How long a system that is started here lives. Two processes of one
    /// program differ, in memory and luck with the scheduler; blocks of the
    /// same processes would take that for a difference of the systems.
    #[arg(long, value_enum, default_value = "block")]
    pub(super) fresh: Fresh,
}

/// What gets new processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fresh {
    Block,
    Run,
    Scenario,
}

impl Schedule {
    /// Who is next: for each block, which of its system's blocks it is, and the
    /// system. A B C C B A and so on, so that a drift hits all alike.
    pub(super) fn order(&self, systems: usize) -> impl Iterator<Item = (u32, usize)> + use<> {
        (0..self.blocks).flat_map(move |turn| {
            (0..systems).map(move |at| (turn, if turn % 2 == 0 { at } else { systems - 1 - at }))
        })
    }
}

impl CompareArgs {
    /// The systems in the order of the command line, and which is the baseline.
    pub(super) fn systems(&self) -> anyhow::Result<(Vec<System>, usize)> {
        let mut specs = self.system.clone();
        if let Some(path) = &self.systems {
            let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            let more: Vec<Spec> =
                serde_json::from_str(&text).with_context(|| format!("systems in {}", path.display()))?;
            specs.extend(more);
        }
        specs.extend(self.ours.iter().map(|link| Spec::ours(*link)));
        let systems = specs.into_iter().map(|spec| spec.resolve(self)).collect::<Result<Vec<_>, _>>()?;
        anyhow::ensure!(systems.len() >= 2, "two systems at least are needed; see --system and --ours");
        for (at, system) in systems.iter().enumerate() {
            let twice = systems[..at].iter().any(|other| other.name == system.name);
            anyhow::ensure!(!twice, "two systems are called {}", system.name);
        }
        let baseline = match &self.baseline {
            Some(name) => systems.iter().position(|system| &system.name == name),
            None => Some(0),
        };
        Ok((systems, baseline.context("--baseline is the name of no system")?))
    }
}

fn even(text: &str) -> anyhow::Result<u32> {
    let blocks: u32 = text.parse()?;
    anyhow::ensure!(
        (2..=1000).contains(&blocks) && blocks.is_multiple_of(2),
        "not an even number within 2 to 1000"
    );
    Ok(blocks)
}

fn percent(text: &str) -> anyhow::Result<f64> {
    let percent: f64 = text.parse()?;
    anyhow::ensure!((0.0..=100.0).contains(&percent), "not within 0 to 100");
    Ok(percent)
}

#[cfg(test)]
impl Schedule {
    /// One that leaves nothing out.
    pub(super) fn of(blocks: u32) -> Self {
        Self { blocks, max_steal: 100.0, max_foreign: 100.0, keep_disturbed: false, fresh: Fresh::Block }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_mirrored() {
        let names = |systems: usize, blocks| -> String {
            Schedule::of(blocks).order(systems).map(|(_, system)| ["A", "B", "C"][system]).collect()
        };
        assert_eq!(names(2, 4), "ABBAABBA");
        assert_eq!(names(3, 2), "ABCCBA");
        let turns: Vec<u32> = Schedule::of(4).order(2).map(|(turn, _)| turn).collect();
        assert_eq!(turns, [0, 0, 1, 1, 2, 2, 3, 3]);
    }
}
