//! A bad network between a server and its agents, and how the tunnel fares on it:
//! round trips beside a bulk stream with packets lost, and what streams survive.
//!
//! The network is made here, of two namespaces and a line between them in user
//! space, because many kernels cannot lose or delay packets by themselves. Nothing
//! outside of these namespaces is touched.
//!
//! Exit codes: 0 all is well, 1 what was asked for does not hold, 2 nothing could
//! be run.

mod certificates;
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
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Task};

fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            output::complain(&format!("badnet: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // Dropping the task ends its children, and takes the namespaces away.
        tokio::select! {
            result = Box::pin(perform(cli.task)) => result,
            _ = terminate.recv() => anyhow::bail!("terminated"),
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
        }
    });
    runtime.shutdown_background();
    result
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
