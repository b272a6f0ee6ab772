//! Bulk: bytes per second, and CPU time per byte. Nothing is hashed, since hashing would cost more than the
//! tunnel.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tunnel_client::Connection;

use crate::bench::Bench;
use crate::dialing::within;
use crate::figures::{Meter, Outcome};
use crate::payload::{BLOCK, ZEROS};
use crate::target::command::{Command, REPORT_EVERY};

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for direction in [Direction::Download, Direction::Upload] {
        for streams in [1, bench.plan.streams] {
            let name = format!("{} x{streams}", direction.name());
            bench.progress(&format!("bulk {name}"));
            measure(bench, direction, streams, &name, &mut outcome).await.context(name)?;
        }
    }
    Ok(outcome)
}

async fn measure(
    bench: &Arc<Bench>,
    direction: Direction,
    streams: u32,
    name: &str,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let mut load = Load::start(bench, direction, streams).await?;
    load.during(bench.plan.warm_up()).await?;
    let before = load.bytes();
    let meter = Meter::start(&bench.watched)?;
    load.during(bench.plan.seconds()).await?;
    let bytes = (load.bytes() - before) as f64;
    let used = meter.stop()?;
    outcome.add(name, bytes / used.seconds / 1e6, "MB/s");
    if bytes == 0.0 {
        outcome.fail(format!("{name}: no byte in {:.1} s", used.seconds));
    }
    outcome.add_cpu(&format!("{name} "), &used, bytes, 1e9, "CPU-s/GB");
    load.finish(bench).await.context("end of the streams")
}

/// The direction, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Download,
    Upload,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Download => "download",
            Self::Upload => "upload",
        }
    }
}

/// Streams that move bytes until they are dropped.
pub(super) struct Load {
    streams: JoinSet<anyhow::Result<()>>,
    bytes: Arc<AtomicU64>,
    /// Set once they are to end.
    enough: Arc<AtomicBool>,
}

impl Load {
    pub(super) async fn start(bench: &Bench, direction: Direction, streams: u32) -> anyhow::Result<Self> {
        let mut load = Self { streams: JoinSet::new(), bytes: Arc::default(), enough: Arc::default() };
        for _ in 0..streams {
            let (bytes, enough) = (Arc::clone(&load.bytes), Arc::clone(&load.enough));
            match direction {
                Direction::Download => {
                    let connection = bench.command(Command::Zeros, &[]).await?;
                    load.streams.spawn(download(connection, bytes, enough));
                }
                Direction::Upload => {
                    let connection = bench.command(Command::Discard, &[]).await?;
                    load.streams.spawn(upload(connection, bytes, enough));
                }
            }
        }
        Ok(load)
    }

    /// Bytes that have arrived so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Ends them. A gRPC client asks for the end and reads until it comes, or the server would go on with
    /// bytes that nobody reads. A CONNECT client can only close.
    pub(super) async fn finish(mut self, bench: &Bench) -> anyhow::Result<()> {
        if bench.has_half_close() {
            return Ok(());
        }
        self.enough.store(true, Ordering::Relaxed);
        let ended = async {
            while let Some(ended) = self.streams.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        within("end of a stream", ended).await?
    }

    /// Lets them run.
    ///
    /// # Errors
    /// As soon as one of them ends.
    pub(super) async fn during(&mut self, time: Duration) -> anyhow::Result<()> {
        tokio::select! {
            () = sleep(time) => Ok(()),
            Some(ended) = self.streams.join_next() => match ended? {
                Ok(()) => anyhow::bail!("a stream ended on its own"),
                Err(error) => Err(error.context("a stream failed")),
            },
        }
    }
}

async fn download(
    mut connection: Connection,
    bytes: Arc<AtomicU64>,
    enough: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; BLOCK];
    while !enough.load(Ordering::Relaxed) {
        let read = connection.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        bytes.fetch_add(read as u64, Ordering::Relaxed);
    }
    connection.shutdown().await?;
    while connection.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Counts the bytes that the target reports; those that were written may still be in buffers.
async fn upload(
    connection: Connection,
    bytes: Arc<AtomicU64>,
    enough: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let (mut read, mut write) = tokio::io::split(connection);
    let reports = async {
        let mut last = 0;
        loop {
            let total = match read.read_u64().await {
                Err(_) if enough.load(Ordering::Relaxed) => return Ok(()),
                total => total?,
            };
            anyhow::ensure!(total >= last + REPORT_EVERY, "the target reports {total} after {last}");
            bytes.fetch_add(total - last, Ordering::Relaxed);
            last = total;
        }
    };
    let writes = async {
        while !enough.load(Ordering::Relaxed) {
            write.write_all(&ZEROS).await?;
        }
        write.shutdown().await?;
        anyhow::Ok(())
    };
    let mut reports = pin!(reports);
    tokio::select! {
        end = &mut reports => end,
        end = writes => { end?; reports.await }
    }
}
