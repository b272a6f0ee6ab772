//! `loadtest matrix`: every scenario on every frontend and link, through a server and an agent that are
//! started here.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum as _};
use measuring_kit::{Certificates, Link, Programs, ScoreArgs};
use tempfile::TempDir;

use crate::bench::Bench;
use crate::frontend::FrontendName;
use crate::ours::{HOST, Tunnel};
use crate::plan::Plan;
use crate::report::Report;
use crate::scenario;
use crate::target::process::TargetProcess;

#[derive(Debug, Args)]
pub(crate) struct MatrixArgs {
    #[command(flatten)]
    plan: Plan,
    #[command(flatten)]
    programs: Programs,
    /// Only these links.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Link::Quic, Link::H2])]
    link: Vec<Link>,
    /// Only these frontends.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = FrontendName::value_variants().to_vec())]
    frontend: Vec<FrontendName>,
    /// Write the figures to this file, as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print a Markdown table.
    #[arg(long)]
    markdown: bool,
    #[command(flatten)]
    scores: ScoreArgs,
}

pub(crate) async fn run(args: &MatrixArgs) -> anyhow::Result<bool> {
    // Dropped last: the children's logs and certificates are in it.
    let dir = TempDir::new()?;
    let certificates = Certificates::write(dir.path(), HOST)?;
    let target = TargetProcess::start().await?;
    let mut report = Report::new(&args.plan);
    for &link in &args.link {
        for &frontend in &args.frontend {
            // New processes for each column, which inherit no memory.
            let tunnel = Tunnel::start(&args.programs, link, &certificates, dir.path(), link.name()).await?;
            let bench = Bench::new(
                tunnel.frontend(frontend)?,
                target.addresses,
                tunnel.processes(),
                args.plan.clone(),
            );
            let bench = Arc::new(bench.labelled(&format!("{} {}", frontend.name(), link.name())));
            measure(&bench, &tunnel, link, &mut report).await;
        }
    }
    args.scores.write(report.scores())?;
    report.deliver(args.json.as_deref(), args.markdown)
}

/// Runs all scenarios; the first failure gets the ends of the logs.
async fn measure(bench: &Arc<Bench>, tunnel: &Tunnel, link: Link, report: &mut Report) {
    let mut logs_are_shown = false;
    for scenario in bench.plan.scenarios() {
        let mut outcome = scenario::run(bench, scenario).await;
        if let Some(failure) = outcome.failures.last_mut()
            && !std::mem::replace(&mut logs_are_shown, true)
        {
            *failure = format!("{failure}\n{}", tunnel.last_words());
        }
        report.add(bench.frontend.name, link.name(), scenario.name(), outcome);
    }
}
