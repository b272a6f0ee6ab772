//! `loadtest run`: scenarios through one frontend.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::bench::Bench;
use crate::frontend::FrontendArgs;
use crate::plan::Plan;
use crate::process::Process;
use crate::report::Report;
use crate::scenario;
use crate::target::process::TargetAt;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    frontend: FrontendArgs,
    #[command(flatten)]
    plan: Plan,
    #[command(flatten)]
    target: TargetAt,
    /// A process whose CPU time and memory are counted; may be repeated.
    #[arg(long, value_name = "NAME=PID")]
    pid: Vec<Process>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) async fn run(args: &RunArgs) -> anyhow::Result<bool> {
    let frontend = args.frontend.resolve()?;
    let target = args.target.reach().await?;
    let bench = Arc::new(Bench::new(frontend, target.addresses, args.pid.clone(), args.plan.clone()));
    let mut report = Report::new(&args.plan);
    for scenario in args.plan.scenarios() {
        report.add(bench.frontend.name, "", scenario.name(), scenario::run(&bench, scenario).await);
    }
    report.deliver(args.json.as_deref(), false)
}
