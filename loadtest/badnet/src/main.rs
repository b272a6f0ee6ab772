//! A bad network between a server and its agents, and how the tunnel fares on it:
//! round trips beside a bulk stream with packets lost, and what streams survive.
//!
//! The network is made here, of two namespaces and a line between them in user
//! space, because many kernels cannot lose or delay packets by themselves. Nothing
//! outside of these namespaces is touched.
//!
//! Exit codes: 0 all is well, 1 what was asked for does not hold, 2 nothing could
//! be run.

mod check;
mod cli;
mod emulator;
mod line;
mod lines;
mod measure;
mod namespaces;
mod nat;
mod output;
mod rig;
mod survive;
mod target;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Task};

fn main() -> ExitCode {
    // Dropping the task ends its children, and takes the namespaces away.
    measuring_kit::run("badnet", output::complain, perform(Cli::parse().task))
}

async fn perform(task: Task) -> anyhow::Result<bool> {
    match task {
        Task::Check(args) => check::run(&args),
        Task::Measure(args) => measure::run(&args).await,
        Task::Survive(args) => survive::run(&args).await,
        Task::Ping(args) => check::ping(&args.target, args.count).await.map(|()| true),
        Task::Target(args) => target::run(args.listen).await.map(|()| true),
    }
}
