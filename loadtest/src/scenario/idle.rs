//! Idle: memory per connection that does nothing, and CPU time while many are held.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::sleep;

use crate::bench::Bench;
use crate::dialing::{DIALS, dead};
use crate::figures::{Meter, Outcome};
use crate::process::{Process, open_file_limit};

/// Most files that this process has open beside its connections.
const OTHER_FILES: usize = 64;

/// The context of errors.
pub(super) const OPENING: &str = "open an idle connection";

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    let count = bench.plan.idle;
    check_limit(count)?;
    bench.progress("idle, opening");
    // The first connections cost more than the others: programs keep buffers that they once needed.
    drop(bench.open_echoing(bench.target(), DIALS as u32).await.context(OPENING)?);
    sleep(Duration::from_millis(500)).await;
    let resident = || bench.watched.iter().map(Process::resident).collect::<anyhow::Result<Vec<_>>>();
    let before = resident()?;
    let connections = bench.open_echoing(bench.target(), count).await.context(OPENING)?;
    bench.progress("idle, holding");
    sleep(bench.plan.warm_up()).await;
    let meter = Meter::start(&bench.watched)?;
    sleep(bench.plan.seconds()).await;
    let used = meter.stop()?;
    let after = resident()?;

    let mut outcome = Outcome::default();
    outcome.add("connections", f64::from(count), "connections");
    for ((process, before), after) in bench.watched.iter().zip(before).zip(after) {
        let kilobytes = (after as f64 - before as f64) / 1e3 / f64::from(count);
        outcome.add(format!("memory {}", process.name), kilobytes, "KB/connection");
    }
    outcome.add_cpu("", &used, used.seconds, 1e3, "CPU-ms/s");
    bench.progress("idle, asking");
    let dead = dead(connections).await?;
    if dead > 0 {
        outcome.fail(format!("{dead} of {count} connections do not answer any more"));
    }
    Ok(outcome)
}

/// # Errors
/// When this process may not have as many files open.
pub(super) fn check_limit(count: u32) -> anyhow::Result<()> {
    let limit = open_file_limit()?;
    anyhow::ensure!(
        count as usize + OTHER_FILES <= limit,
        "{count} connections do not fit into {limit} open files; raise it with `ulimit -n`"
    );
    Ok(())
}
