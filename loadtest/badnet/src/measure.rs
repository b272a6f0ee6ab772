//! Round trips on many streams beside one bulk stream, per link and loss, in alternating blocks on one line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use hdrhistogram::Histogram;
use measuring_kit::{Link, Programs, complain, say, write_json};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tunnel_client::Connection;

use crate::line_args::{LineArgs, share};
use crate::rig::Rig;

/// Before a block counts: slow start takes a second, and the congestion window needs some losses to settle.
const WARM_UP: Duration = Duration::from_secs(3);

/// Longest opening of a block's streams: 100 dials on a lossy line take seconds, a dead tunnel takes for
/// ever.
const OPEN_LIMIT: Duration = Duration::from_secs(60);

/// A round trip that takes longer ends the run. TCP's back-off on a lossy line reaches some seconds.
const PING_LIMIT: Duration = Duration::from_secs(30);

/// Bytes of a round trip, each way: as few as a keystroke and its echo.
const PING: usize = 32;

#[derive(Debug, Args)]
pub(crate) struct MeasureArgs {
    #[command(flatten)]
    line: LineArgs,
    #[command(flatten)]
    programs: Programs,
    /// Shares of packets that are lost, in each direction; the first is the baseline of the others.
    #[arg(long, value_name = "SHARE", value_delimiter = ',', default_value = "0,0.01", value_parser = share)]
    loss: Vec<f64>,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Link::H2, Link::Quic])]
    link: Vec<Link>,
    /// Direction of the bulk stream, as the client sees it.
    #[arg(long, value_enum, default_value_t = Bulk::Download)]
    bulk: Bulk,
    /// Streams with round trips.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    streams: u32,
    /// Round trips per second on each of them.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pings: u32,
    /// Seconds of each block.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Blocks of each link, in turn and in reversed order.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Fails when the p99 on quic is more than this part of that on h2, at the last of the losses.
    #[arg(long, value_name = "RATIO")]
    max_p99_ratio: Option<f64>,
    /// Fails when the bulk stream on quic carries less than this part of what it
    /// carries at the first of the losses, at the last of them.
    #[arg(long, value_name = "RATIO")]
    min_bulk_ratio: Option<f64>,
}

/// The stream beside the round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Bulk {
    Download,
    Upload,
    None,
}

/// The sum of the blocks of one link and loss.
#[derive(Debug)]
struct Blocks {
    link: Link,
    loss: f64,
    times: Histogram<u64>,
    bytes: u64,
    seconds: f64,
    /// The p99 of each block, in milliseconds.
    p99s: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Row {
    link: Link,
    loss: f64,
    pings: u64,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    block_p99s_ms: Vec<f64>,
    goodput_mb_s: f64,
    /// The p99 divided by that at the first of the losses.
    hol_index: f64,
}

/// True if the ratios that were asked for hold.
pub(crate) async fn run(args: &MeasureArgs) -> anyhow::Result<bool> {
    let network = args.line.network(0.0)?;
    let rig = Rig::start(network, &args.programs, &args.link).await?;
    let mut all = Vec::new();
    for loss in &args.loss {
        let mut blocks = Vec::new();
        for link in &args.link {
            let times = Histogram::new(3)?;
            blocks.push(Blocks { link: *link, loss: *loss, times, bytes: 0, seconds: 0.0, p99s: Vec::new() });
        }
        for round in 0..args.rounds {
            for n in 0..blocks.len() {
                // A B B A, so that a drift of the machine cancels out.
                let n = if round % 2 == 0 { n } else { blocks.len() - 1 - n };
                let block = &mut blocks[n];
                complain(&format!("loss {loss}, {}, round {round}", block.link.name()));
                rig.network.line.set(args.line.conditions(*loss));
                let measured = block.measure(&rig, args).await;
                rig.network.line.set(args.line.conditions(0.0));
                measured.map_err(|error| error.context(rig.last_words()))?;
            }
        }
        all.extend(blocks);
    }
    report(args, &all)
}

impl Blocks {
    async fn measure(&mut self, rig: &Rig, args: &MeasureArgs) -> anyhow::Result<()> {
        let (streams, bulk) =
            timeout(OPEN_LIMIT, open(rig, self.link, args)).await.map_err(anyhow::Error::from)??;
        let bytes = Arc::<AtomicU64>::default();
        let mut load = JoinSet::new();
        if let Some(bulk) = bulk {
            load.spawn(carry(bulk, args.bulk, Arc::clone(&bytes)));
        }
        let begin = Instant::now() + WARM_UP;
        let end = begin + Duration::from_secs(args.seconds.into());
        let every = Duration::from_secs(1) / args.pings;
        let mut pings = JoinSet::new();
        for (n, connection) in (0u32..).zip(streams) {
            let first = Instant::now() + every * n / args.streams;
            pings.spawn(ping(connection, first, every, begin, end));
        }
        sleep(WARM_UP).await;
        let (before, started) = (bytes.load(Ordering::Relaxed), Instant::now());
        sleep(Duration::from_secs(args.seconds.into())).await;
        self.bytes += bytes.load(Ordering::Relaxed) - before;
        self.seconds += started.elapsed().as_secs_f64();
        let mut times = Histogram::<u64>::new(3)?;
        while let Some(measured) = pings.join_next().await {
            times.add(measured??)?;
        }
        anyhow::ensure!(load.try_join_next().is_none(), "the bulk stream ended");
        self.p99s.push(ms(&times, 0.99));
        self.times.add(times)?;
        Ok(())
    }
}

fn ms(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1e3
}

async fn open(
    rig: &Rig,
    link: Link,
    args: &MeasureArgs,
) -> anyhow::Result<(Vec<Connection>, Option<Connection>)> {
    let mut streams = Vec::new();
    for _ in 0..args.streams {
        streams.push(rig.connect(link, "echo").await?);
    }
    let bulk = match args.bulk {
        Bulk::Download => Some(rig.connect(link, "zeros").await?),
        Bulk::Upload => Some(rig.connect(link, "discard").await?),
        Bulk::None => None,
    };
    Ok((streams, bulk))
}

/// Carries a bulk stream until it fails, and counts the bytes that have arrived.
pub(crate) async fn carry(connection: Connection, bulk: Bulk, bytes: Arc<AtomicU64>) -> anyhow::Result<()> {
    let (mut read, mut write) = tokio::io::split(connection);
    let mut buffer = vec![0; 256 * 1024];
    if bulk == Bulk::Download {
        loop {
            let len = read.read(&mut buffer).await?;
            anyhow::ensure!(len > 0, "the bulk stream ended");
            bytes.fetch_add(len as u64, Ordering::Relaxed);
        }
    }
    let reports = async {
        loop {
            // The bytes that have arrived; those that were written may still be in buffers.
            bytes.store(read.read_u64().await?, Ordering::Relaxed);
        }
    };
    let writes = async {
        loop {
            write.write_all(&buffer).await?;
        }
    };
    tokio::select! {
        end = reports => end,
        end = writes => end,
    }
}

/// Round trips, timed from the moment at which each was due, even if the one before it was late.
async fn ping(
    mut connection: Connection,
    first: Instant,
    every: Duration,
    begin: Instant,
    end: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let mut times = Histogram::<u64>::new(3)?;
    let mut tick = interval_at(first, every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut sent, mut back) = ([0u8; PING], [0u8; PING]);
    loop {
        let due = tick.tick().await;
        if due >= end {
            return Ok(times);
        }
        sent[0] = sent[0].wrapping_add(1);
        let round_trip = async {
            connection.write_all(&sent).await?;
            connection.read_exact(&mut back).await
        };
        timeout(PING_LIMIT, round_trip).await??;
        anyhow::ensure!(sent == back, "another echo");
        if due >= begin {
            times.record(u64::try_from(due.elapsed().as_micros())?)?;
        }
    }
}

fn report(args: &MeasureArgs, all: &[Blocks]) -> anyhow::Result<bool> {
    let rows: Vec<Row> = all
        .iter()
        .map(|block| {
            let clean = all.iter().find(|first| first.link == block.link).unwrap_or(block);
            Row {
                link: block.link,
                loss: block.loss,
                pings: block.times.len(),
                p50_ms: ms(&block.times, 0.5),
                p99_ms: ms(&block.times, 0.99),
                p999_ms: ms(&block.times, 0.999),
                block_p99s_ms: block.p99s.clone(),
                goodput_mb_s: block.bytes as f64 / block.seconds / 1e6,
                hol_index: ms(&block.times, 0.99) / ms(&clean.times, 0.99),
            }
        })
        .collect();
    say("| loss | link | p50 ms | p99 ms | p99.9 ms | p99 of the blocks | HOL index | bulk MB/s |");
    say("|---:|---|---:|---:|---:|---|---:|---:|");
    for row in &rows {
        let blocks: Vec<_> = row.block_p99s_ms.iter().map(|p99| format!("{p99:.0}")).collect();
        say(&format!(
            "| {} | {} | {:.1} | {:.1} | {:.1} | {} | {:.2} | {:.2} |",
            row.loss,
            row.link.name(),
            row.p50_ms,
            row.p99_ms,
            row.p999_ms,
            blocks.join(" "),
            row.hol_index,
            row.goodput_mb_s
        ));
    }
    if let Some(path) = &args.line.json {
        write_json(path, &rows)?;
    }
    Ok(args.holds(&rows))
}

impl MeasureArgs {
    /// Prints the ratios; false when one is beyond its limit.
    fn holds(&self, rows: &[Row]) -> bool {
        let of = |link| rows.iter().filter(move |row| row.link == link);
        let last = self.loss.last().unwrap_or(&0.0);
        let mut holds = true;
        if let (Some(quic), Some(h2)) = (of(Link::Quic).next_back(), of(Link::H2).next_back()) {
            let ratio = quic.p99_ms / h2.p99_ms;
            say(&format!("\np99 on quic / p99 on h2 at loss {last}: {ratio:.2}"));
            holds &= self.max_p99_ratio.is_none_or(|most| ratio <= most);
        }
        let quic = (of(Link::Quic).next(), of(Link::Quic).next_back());
        if let (Some(first), Some(lossy), true) = (quic.0, quic.1, self.bulk != Bulk::None) {
            let ratio = lossy.goodput_mb_s / first.goodput_mb_s;
            say(&format!("bulk on quic at loss {last} / at loss {}: {ratio:.2}", first.loss));
            holds &= self.min_bulk_ratio.is_none_or(|least| ratio >= least);
        }
        holds
    }
}
