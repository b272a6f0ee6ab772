//! Streams across an event. Each carries lines in both directions, whose every byte both ends know.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use measuring_kit::{Link, Programs, Score, ScoreArgs, complain, say, write_json};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tunnel_client::Connection;

use crate::line_args::{LineArgs, share, time};
use crate::lines::Checker;
use crate::rig::Rig;
use crate::target::say_lines;

/// Time before the event: every stream is under way by then.
const BEFORE: Duration = Duration::from_secs(5);

/// Time after the event, beside the length of the blackout: QUIC's back-off may wait once more for as long as
/// the blackout lasted.
const AFTER: Duration = Duration::from_secs(15);

/// A stream without a byte for this long is over: no back-off of QUIC or TCP under test waits longer.
const SILENCE: Duration = Duration::from_secs(120);

/// Limit of a probe: longer than the client's own limit of a dial, whose error says more.
const PROBE_LIMIT: Duration = Duration::from_secs(40);

/// Time between two probes; it is the resolution of `dial works after`.
const PROBE_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct SurviveArgs {
    #[command(flatten)]
    line: LineArgs,
    #[command(flatten)]
    programs: Programs,
    #[command(flatten)]
    event: EventArgs,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Link::H2, Link::Quic])]
    link: Vec<Link>,
    /// Share of packets that are lost besides.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    loss: f64,
    /// Streams on each link.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    streams: u32,
    /// Time between two lines of a stream, in each direction.
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = time)]
    every: Duration,
    /// Fails unless all streams on quic continue, without a byte lost or repeated.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    scores: ScoreArgs,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct EventArgs {
    /// A blackout of this length.
    #[arg(long, value_name = "TIME", value_parser = time)]
    blackout: Option<Duration>,
    /// The address of the agent's host is replaced.
    #[arg(long)]
    address_change: bool,
    /// The agent's connections come from other ports.
    #[arg(long)]
    nat_rebinding: bool,
}

/// The fate of one stream.
#[derive(Debug, Default)]
struct Fate {
    /// Whether the stream went on to its orderly end.
    continued: bool,
    /// Whether every byte of both directions arrived once.
    whole: bool,
    lines: u64,
    lost: u64,
    again: u64,
    wrong: u64,
    /// Longest time without a byte.
    gap: Duration,
    ended_at: Option<Instant>,
}

#[derive(Debug, Serialize)]
struct Row {
    link: Link,
    streams: usize,
    continued: usize,
    whole: usize,
    lines: u64,
    lines_lost: u64,
    lines_repeated: u64,
    lines_wrong: u64,
    /// Longest time without a byte on any stream.
    gap_s: f64,
    /// From the event's beginning to the end of the last stream that did not continue.
    cut_after_s: Option<f64>,
    /// From the event's end until a new connection works.
    dial_after_s: Option<f64>,
    /// Dials that failed until then.
    dials_failed: u32,
}

/// True unless `--strict` does not hold.
pub(crate) async fn run(args: &SurviveArgs) -> anyhow::Result<bool> {
    let rig = Rig::start(args.line.network(args.loss)?, &args.programs, &args.link).await?;
    let event = args.event.blackout.unwrap_or_default();
    let time = BEFORE + 2 * event + AFTER;
    let count = u64::try_from(time.as_millis() / args.every.as_millis().max(1))?;
    let mut streams = Vec::new();
    for link in &args.link {
        streams.push((*link, open(&rig, args, *link, count).await?));
    }
    sleep(BEFORE).await;
    let began = Instant::now();
    happen(&args.event, &rig).await?;
    let over = Instant::now();
    complain(&format!("over after {:.1} s", (over - began).as_secs_f64()));
    let probes = probe_all(&rig, &args.link, over + event + AFTER).await;
    let mut rows = Vec::new();
    for ((link, fates), probe) in streams.into_iter().zip(probes) {
        rows.push(row(link, &fates.join_all().await, began, &probe));
    }
    report(args, &rows).with_context(|| rig.last_words())
}

impl EventArgs {
    const fn name(&self) -> &'static str {
        match self {
            Self { blackout: Some(_), .. } => "blackout",
            Self { address_change: true, .. } => "address change",
            Self { .. } => "NAT rebinding",
        }
    }
}

async fn happen(event: &EventArgs, rig: &Rig) -> anyhow::Result<()> {
    if let Some(time) = event.blackout {
        rig.network.line.set_dark(true);
        sleep(time).await;
        rig.network.line.set_dark(false);
    }
    if event.address_change {
        rig.network.change_address()?;
    }
    if event.nat_rebinding {
        rig.network.line.rebind();
    }
    Ok(())
}

async fn open(rig: &Rig, args: &SurviveArgs, link: Link, count: u64) -> anyhow::Result<JoinSet<Fate>> {
    let mut fates = JoinSet::new();
    for seed in 0..u64::from(args.streams) {
        let command = format!("log {seed} {} {count}", args.every.as_millis());
        let connection = rig.connect(link, &command).await?;
        fates.spawn(follow(connection, seed, args.every, count));
    }
    Ok(fates)
}

async fn follow(connection: Connection, seed: u64, every: Duration, count: u64) -> Fate {
    let (mut read, mut write) = tokio::io::split(connection);
    let mut checker = Checker::new(seed);
    let (mut gap, mut last) = (Duration::ZERO, Instant::now());
    let mut buffer = vec![0; 16 * 1024];
    let says = async {
        // An error shows at the reader, too.
        let _ = say_lines(&mut write, !seed, every, count).await;
        let _ = write.shutdown().await;
    };
    let reads = async {
        loop {
            let read = timeout(SILENCE, read.read(&mut buffer)).await;
            gap = gap.max(last.elapsed());
            last = Instant::now();
            let Ok(Ok(len)) = read else { return false };
            if len == 0 {
                return true;
            }
            checker.take(&buffer[..len]);
        }
    };
    let ((), ended) = tokio::join!(says, reads);
    let continued = ended && checker.verdict.is_some();
    Fate {
        continued,
        whole: continued && checker.is_whole(count) && checker.verdict == Some(true),
        lines: checker.lines(),
        lost: checker.lost,
        again: checker.again,
        wrong: checker.wrong,
        gap,
        ended_at: (!continued).then(Instant::now),
    }
}

/// The dials after the event.
struct Probe {
    /// From the event's end to the first dial that worked.
    works_after: Option<Duration>,
    failed: u32,
}

/// Probes all links at once.
async fn probe_all(rig: &Rig, links: &[Link], until: Instant) -> Vec<Probe> {
    let Some((link, more)) = links.split_first() else { return Vec::new() };
    let (first, rest) = tokio::join!(probe(rig, *link, until), Box::pin(probe_all(rig, more, until)));
    std::iter::once(first).chain(rest).collect()
}

/// Dials until one dial works.
async fn probe(rig: &Rig, link: Link, until: Instant) -> Probe {
    let (began, mut failed) = (Instant::now(), 0);
    while Instant::now() < until {
        let works = async {
            let mut connection = rig.connect(link, "echo").await?;
            connection.write_all(b"x").await?;
            anyhow::Ok(connection.read_u8().await?)
        };
        if let Ok(Ok(b'x')) = timeout(PROBE_LIMIT, works).await {
            return Probe { works_after: Some(began.elapsed()), failed };
        }
        failed += 1;
        sleep(PROBE_EVERY).await;
    }
    Probe { works_after: None, failed }
}

fn row(link: Link, fates: &[Fate], began: Instant, probe: &Probe) -> Row {
    let sum = |of: fn(&Fate) -> u64| fates.iter().map(of).sum();
    let last_cut = fates.iter().filter_map(|fate| fate.ended_at).max();
    Row {
        link,
        streams: fates.len(),
        continued: fates.iter().filter(|fate| fate.continued).count(),
        whole: fates.iter().filter(|fate| fate.whole).count(),
        lines: sum(|fate| fate.lines),
        lines_lost: sum(|fate| fate.lost),
        lines_repeated: sum(|fate| fate.again),
        lines_wrong: sum(|fate| fate.wrong),
        gap_s: fates.iter().map(|fate| fate.gap).max().unwrap_or_default().as_secs_f64(),
        cut_after_s: last_cut.map(|at| (at - began).as_secs_f64()),
        dial_after_s: probe.works_after.map(|after| after.as_secs_f64()),
        dials_failed: probe.failed,
    }
}

fn report(args: &SurviveArgs, rows: &[Row]) -> anyhow::Result<bool> {
    say(
        "| link | streams | continued | whole both ways | lines | lost | repeated | wrong | longest gap s | \
         cut after s | dial works after s | dials failed |",
    );
    say("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let seconds = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.1}"));
    for row in rows {
        say(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.1} | {} | {} | {} |",
            row.link.name(),
            row.streams,
            row.continued,
            row.whole,
            row.lines,
            row.lines_lost,
            row.lines_repeated,
            row.lines_wrong,
            row.gap_s,
            seconds(row.cut_after_s),
            seconds(row.dial_after_s),
            row.dials_failed
        ));
    }
    if let Some(path) = &args.line.json {
        write_json(path, &rows)?;
    }
    let on_quic = rows.iter().filter(|row| row.link == Link::Quic);
    args.scores.write(on_quic.map(|row| Score {
        what: format!("streams on quic: {}", args.event.name()),
        tried: row.streams as u64,
        lost: (row.streams - row.whole) as u64,
    }))?;
    let quic_holds = |row: &Row| row.link != Link::Quic || row.whole == row.streams;
    Ok(!args.strict || rows.iter().all(quic_holds))
}
