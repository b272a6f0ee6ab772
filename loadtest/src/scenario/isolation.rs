//! Isolation: a download and a round trip, with and without connections that
//! stall on the same agent, in blocks A B B A so that a drift of the machine
//! hits both alike.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tunnel_client::Connection;

use super::bulk::{Direction, Load};
use super::ping::ping;
use crate::bench::{Bench, within};
use crate::command::Command;
use crate::figures::{Outcome, histogram};

/// A connection is stalled once nothing moved on it for so long.
const STILL: Duration = Duration::from_millis(300);

/// Longest time until that.
const FILL_LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for side in [Side::Clients, Side::Targets] {
        if let Err(error) = compare(bench, side, &mut outcome).await {
            outcome.fail(format!("{}: {error:#}", side.name()));
        }
    }
    Ok(outcome)
}

/// Who stops reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Clients, in mid-download.
    Clients,
    /// Targets, in mid-upload.
    Targets,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Clients => "stalled clients",
            Self::Targets => "stalled targets",
        }
    }
}

/// Blocks of one kind, added up.
struct Blocks {
    bytes: f64,
    seconds: f64,
    times: Histogram<u64>,
    /// Most memory of each watched process at the end of a block, in bytes.
    resident: Vec<u64>,
}

impl Blocks {
    fn new(processes: usize) -> anyhow::Result<Self> {
        Ok(Self { bytes: 0.0, seconds: 0.0, times: histogram()?, resident: vec![0; processes] })
    }

    fn rate(&self) -> f64 {
        self.bytes / self.seconds / 1e6
    }

    fn p99(&self) -> f64 {
        self.times.value_at_quantile(0.99) as f64 / 1e3
    }
}

async fn compare(bench: &Bench, side: Side, outcome: &mut Outcome) -> anyhow::Result<()> {
    let processes = bench.watched.len();
    let (mut without, mut with) = (Blocks::new(processes)?, Blocks::new(processes)?);
    for _ in 0..bench.plan.rounds {
        for stalled in [0, bench.plan.stalled(), bench.plan.stalled(), 0] {
            bench.progress(&format!("isolation, {stalled} {}", side.name()));
            let blocks = if stalled == 0 { &mut without } else { &mut with };
            block(bench, side, stalled, blocks).await.with_context(|| format!("with {stalled}"))?;
        }
    }
    let name = format!("{} {}", bench.plan.stalled(), side.name());
    let download = with.rate() / without.rate();
    let p99 = with.p99() / without.p99();
    outcome.add(format!("download, no {}", side.name()), without.rate(), "MB/s");
    outcome.add(format!("download, {name}"), with.rate(), "MB/s");
    outcome.add(format!("download ratio, {name}"), download, "x");
    outcome.add(format!("round trip p99, no {}", side.name()), without.p99(), "us");
    outcome.add(format!("round trip p99, {name}"), with.p99(), "us");
    outcome.add(format!("round trip p99 ratio, {name}"), p99, "x");
    for (process, bytes) in bench.watched.iter().zip(&with.resident) {
        outcome.add(format!("memory {}, {name}", process.name), *bytes as f64 / 1e6, "MB");
    }
    if bench.plan.min_download_ratio.is_some_and(|least| download < least) || with.bytes == 0.0 {
        outcome.fail(format!("{name}: the download keeps {download:.2} of its speed"));
    }
    if bench.plan.max_p99_ratio.is_some_and(|most| p99 > most) {
        outcome.fail(format!("{name}: the p99 of the round trip is {p99:.2} times as long"));
    }
    Ok(())
}

async fn block(bench: &Bench, side: Side, stalled: u32, blocks: &mut Blocks) -> anyhow::Result<()> {
    let _stalled = match side {
        Side::Clients => stall_clients(bench, stalled).await?,
        Side::Targets => stall_targets(bench, stalled).await?,
    };
    let mut load = Load::start(bench, Direction::Download, 1).await?;
    let mut echo = bench.command(Command::Echo, &[]).await?;
    load.during(bench.plan.warm_up()).await?;
    let (before, time) = (load.bytes(), bench.plan.seconds());
    let both = async { tokio::try_join!(load.during(time), ping(&mut echo, time)) };
    let ((), times) = both.await?;
    blocks.bytes += (load.bytes() - before) as f64;
    blocks.seconds += time.as_secs_f64();
    blocks.times.add(times)?;
    for (most, process) in blocks.resident.iter_mut().zip(&bench.watched) {
        *most = process.resident()?.max(*most);
    }
    Ok(())
}

/// Connections that stay as they are until dropped.
pub(crate) struct Stalled {
    _unread: Vec<Connection>,
    _writers: JoinSet<()>,
}

/// Clients that stop reading in mid-download; returns once everything on the way
/// has filled up.
pub(crate) async fn stall_clients(bench: &Bench, count: u32) -> anyhow::Result<Stalled> {
    let mut unread = Vec::new();
    for _ in 0..count {
        let mut connection = bench.command(Command::Zeros, &[]).await?;
        within("first byte of a download", connection.read_u8()).await??;
        unread.push(connection);
    }
    if count > 0 {
        // For everything on the way to fill up.
        sleep(STILL * 3).await;
    }
    Ok(Stalled { _unread: unread, _writers: JoinSet::new() })
}

async fn stall_targets(bench: &Bench, count: u32) -> anyhow::Result<Stalled> {
    let mut filled = JoinSet::new();
    for _ in 0..count {
        let connection = bench.command(Command::Stall, &[]).await?;
        filled.spawn(fill(connection));
    }
    let mut writers = JoinSet::new();
    let all = async {
        while let Some(full) = filled.join_next().await {
            let mut connection = full??;
            writers.spawn(async move {
                // Still wants to write, like a client that does not know.
                while connection.write_all(&[0; 1024]).await.is_ok() {}
            });
        }
        anyhow::Ok(())
    };
    timeout(FILL_LIMIT, all).await.context("uploads to targets that do not read never stall")??;
    Ok(Stalled { _unread: Vec::new(), _writers: writers })
}

/// Writes until nothing goes any more.
async fn fill(mut connection: Connection) -> anyhow::Result<Connection> {
    let block = vec![0; 64 * 1024];
    while let Ok(written) = timeout(STILL, connection.write(&block)).await {
        anyhow::ensure!(written? > 0, "nothing can be written");
    }
    Ok(connection)
}
