//! Idle: memory per connection that does nothing, and CPU time while many do.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tunnel_client::Connection;

use crate::bench::{Bench, within};
use crate::command::Command;
use crate::figures::{Meter, Outcome};
use crate::process::{Process, open_file_limit};

/// Dials under way at once.
const DIALS: u32 = 32;

/// Files this process has open beside its connections, at most.
const OTHER_FILES: usize = 64;

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    let count = bench.plan.idle;
    check_limit(count)?;
    bench.progress("idle, opening");
    // What the first connections cost, such as buffers that are kept, is not
    // what every one of them costs.
    drop(open(bench, bench.target(), DIALS).await?);
    sleep(Duration::from_millis(500)).await;
    let resident = || bench.watched.iter().map(Process::resident).collect::<anyhow::Result<Vec<_>>>();
    let before = resident()?;
    let connections = open(bench, bench.target(), count).await?;
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
    let dead = still_echo(connections).await?;
    if dead > 0 {
        outcome.fail(format!("{dead} of {count} connections do not answer any more"));
    }
    Ok(outcome)
}

/// So many connections need so many open files.
pub(super) fn check_limit(count: u32) -> anyhow::Result<()> {
    let limit = open_file_limit()?;
    anyhow::ensure!(
        count as usize + OTHER_FILES <= limit,
        "{count} connections do not fit into {limit} open files; raise it with `ulimit -n`"
    );
    Ok(())
}

/// Connections that have carried a byte each way.
pub(super) async fn open(bench: &Arc<Bench>, target: &str, count: u32) -> anyhow::Result<Vec<Connection>> {
    let mut dials = JoinSet::new();
    let mut open = Vec::with_capacity(count as usize);
    for _ in 0..count {
        if dials.len() >= DIALS as usize {
            open.extend(dials.join_next().await.transpose()?.transpose()?);
        }
        let (bench, target) = (Arc::clone(bench), target.to_owned());
        dials.spawn(async move {
            let mut connection = bench.command_at(&target, Command::Echo, b"!").await?;
            within("echo", connection.read_u8()).await??;
            anyhow::Ok(connection)
        });
    }
    while let Some(dialled) = dials.join_next().await {
        open.push(dialled?.context("open an idle connection")?);
    }
    Ok(open)
}

/// How many no longer carry a byte.
async fn still_echo(connections: Vec<Connection>) -> anyhow::Result<usize> {
    use tokio::io::AsyncWriteExt as _;
    let mut dead = 0;
    let mut asked = JoinSet::new();
    for mut connection in connections {
        asked.spawn(async move {
            let echo = async {
                connection.write_all(b"?").await?;
                connection.read_u8().await
            };
            matches!(within("echo", echo).await, Ok(Ok(b'?')))
        });
    }
    while let Some(alive) = asked.join_next().await {
        dead += usize::from(!alive?);
    }
    Ok(dead)
}
