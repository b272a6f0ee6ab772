//! Dial: dials per second, and the latency of a dial and an echo.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::bench::Bench;
use crate::dialing::within;
use crate::figures::{Meter, Outcome, histogram, record};
use crate::target::command::Command;

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    bench.progress("dial");
    // Fails here, with the reason, when no dial works at all.
    cycle(bench).await?;
    let meter = Meter::start(&bench.watched)?;
    let all = dials(bench, bench.plan.seconds()).await?;
    let used = meter.stop()?;
    let dials = all.times.len() as f64;
    let mut outcome = Outcome::default();
    outcome.add("rate", dials / used.seconds, "dials/s");
    outcome.add_latency("dial and echo", &all.times);
    outcome.add_cpu("", &used, dials, 1e6, "CPU-us/dial");
    if all.failed > 0 {
        outcome.fail(format!("{} dials failed, such as: {}", all.failed, all.failures.join("; ")));
    }
    Ok(outcome)
}

/// Dials of one or all workers.
pub(super) struct Worked {
    pub(super) times: Histogram<u64>,
    pub(super) failed: u64,
    /// The first failure of each worker.
    pub(super) failures: Vec<String>,
}

/// Dials with all workers for `time`.
pub(super) async fn dials(bench: &Arc<Bench>, time: Duration) -> anyhow::Result<Worked> {
    let end = Instant::now() + time;
    let mut workers = JoinSet::new();
    for _ in 0..bench.plan.workers {
        workers.spawn(work(Arc::clone(bench), end));
    }
    let mut all = Worked { times: histogram()?, failures: Vec::new(), failed: 0 };
    while let Some(worked) = workers.join_next().await {
        let worked = worked??;
        all.times.add(&worked.times)?;
        all.failed += worked.failed;
        all.failures.extend(worked.failures);
    }
    Ok(all)
}

async fn work(bench: Arc<Bench>, end: Instant) -> anyhow::Result<Worked> {
    let mut worked = Worked { times: histogram()?, failed: 0, failures: Vec::new() };
    while Instant::now() < end {
        let start = Instant::now();
        match cycle(&bench).await {
            Ok(()) => record(&mut worked.times, start),
            Err(error) => {
                worked.failed += 1;
                if worked.failures.is_empty() {
                    worked.failures.push(format!("{error:#}"));
                }
            }
        }
    }
    Ok(worked)
}

/// Dials, has a byte echoed, and closes.
pub(crate) async fn cycle(bench: &Bench) -> anyhow::Result<()> {
    let mut connection = bench.command(Command::Echo, b"!").await?;
    let back = within("echo", connection.read_u8()).await??;
    anyhow::ensure!(back == b'!', "another byte came back");
    if bench.has_half_close() {
        // The kube-apiserver only closes its socket.
        return Ok(());
    }
    Ok(connection.close().await?)
}
