//! A synthetic stream generator for tunnels: it dials through a frontend, as
//! the kube-apiserver does, to a target of its own behind the agent, and
//! measures bulk, round trips, dials, isolation and memory, and whether every
//! byte arrives; or it does what real clients do ([`profile`]), or is thousands of
//! agents ([`fleet`]).
//!
//! `run` works on any server that speaks HTTP CONNECT or Konnectivity's gRPC;
//! `target` is the other end; `matrix` starts our server and agent and runs
//! everything on every frontend and link; `compare` runs two or more such
//! systems in turn and tells how they differ.
//!
//! Exit codes: 0 all is well, 1 a check or a scenario failed, 2 nothing could be
//! run.

mod bench;
mod cli;
mod command;
mod compare;
mod figures;
mod fleet;
mod matrix;
mod output;
mod pace;
mod payload;
mod process;
mod profile;
mod report;
mod scenario;
mod stall;
mod target;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;

use crate::bench::Bench;
use crate::cli::{Cli, MatrixArgs, RunArgs, Task};
use crate::matrix::children::Child;
use crate::report::Report;

fn main() -> ExitCode {
    tunnel_program::process::keep_freed_memory();
    // Dropping the task ends its children.
    measuring_kit::run("loadtest", output::complain, perform(Cli::parse().task))
}

async fn perform(task: Task) -> anyhow::Result<bool> {
    match task {
        Task::Compare(args) => compare::run(&args).await,
        Task::Matrix(args) => matrix(args).await,
        Task::Fleet(task) => fleet::perform(task).await,
        Task::Run(args) => run(args).await,
        Task::Stall(args) => {
            stall::run(&args).await?;
            Ok(true)
        }
        Task::Target(args) => {
            target::run(args.listen, args.banner_listen, args.until_stdin_closes).await?;
            Ok(true)
        }
    }
}

async fn run(args: RunArgs) -> anyhow::Result<bool> {
    let frontend = args.frontend.resolve()?;
    let own_target = if args.target.is_none() { Some(Child::target().await?) } else { None };
    let target = match (&own_target, args.target, args.banner_target) {
        (Some((_, addresses)), _, _) => *addresses,
        (None, Some(commands), Some(banner)) => target::Addresses { commands, banner },
        (None, _, _) => anyhow::bail!("--target and --banner-target go together"),
    };
    let bench = Arc::new(Bench::new(frontend, target, args.pid, args.plan.clone()));
    let mut report = Report::new(&args.plan);
    for scenario in args.plan.scenarios() {
        report.add(&bench.frontend.name, "", scenario, bench.run(scenario).await);
    }
    report.deliver(args.json.as_deref(), false)
}

async fn matrix(args: MatrixArgs) -> anyhow::Result<bool> {
    let report = matrix::run(&args).await?;
    report.deliver(args.json.as_deref(), args.markdown)
}
