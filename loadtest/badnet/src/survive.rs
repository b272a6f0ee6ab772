//! What streams survive. On each there are lines in both directions, of which both
//! ends know every byte in advance.

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tunnel_client::Connection;

use crate::cli::{EventArgs, Link, SurviveArgs};
use crate::lines::Checker;
use crate::namespaces::Network;
use crate::output::{complain, say};
use crate::rig::Rig;
use crate::target::say_lines;

/// Before the event, for everything to be under way.
const BEFORE: Duration = Duration::from_secs(5);

/// After it. QUIC tries again at the latest when a blackout has been over for as
/// long as it lasted.
const AFTER: Duration = Duration::from_secs(15);

/// A stream that is silent for this long is over, whatever it thinks itself.
const SILENCE: Duration = Duration::from_secs(120);

/// Time between two dials that probe whether the tunnel works.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// What became of one stream.
#[derive(Debug, Default)]
struct Fate {
    /// It went on to its end in order.
    continued: bool,
    /// All of it arrived, once, in both directions.
    whole: bool,
    lines: u64,
    lost: u64,
    again: u64,
    wrong: u64,
    /// The longest time without a byte.
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
    /// The longest time without a byte on any stream.
    gap_s: f64,
    /// From the event's beginning to the end of the last stream that did not
    /// continue.
    cut_after_s: Option<f64>,
    /// From the event's end until a new connection works.
    dial_after_s: Option<f64>,
    /// Dials that failed meanwhile.
    dials_failed: u32,
}

/// True if what was asked for holds.
pub(crate) async fn run(args: &SurviveArgs) -> anyhow::Result<bool> {
    let conditions = args.line.conditions(args.loss);
    let network = Network::new(conditions, args.line.seed, args.line.tcp.as_deref())?;
    let rig = Rig::start(network, &args.programs, &args.link).await?;
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
    let probes = args.link.iter().map(|link| probe(&rig, *link, over + event + AFTER));
    let probes = futures(probes).await;
    let mut rows = Vec::new();
    for ((link, fates), (dial_after, dials_failed)) in streams.into_iter().zip(probes) {
        rows.push(row(link, fates.join_all().await, began, dial_after, dials_failed));
    }
    report(args, &rows).with_context(|| rig.last_words())
}

/// One after the other would do, but for the times.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    match &mut all[..] {
        [one, other] => {
            let (one, other) = tokio::join!(one, other);
            done.extend([one, other]);
        }
        all => {
            for one in all {
                done.push(one.await);
            }
        }
    }
    done
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
        // The reader sees what becomes of it.
        let _ = say_lines(&mut write, !seed, every, count).await;
        let _ = tokio::io::AsyncWriteExt::shutdown(&mut write).await;
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

/// Dials until one works: how long after now, and how many failed.
async fn probe(rig: &Rig, link: Link, until: Instant) -> (Option<Duration>, u32) {
    let (began, mut failed) = (Instant::now(), 0);
    while Instant::now() < until {
        let works = async {
            let mut connection = rig.connect(link, "echo").await?;
            tokio::io::AsyncWriteExt::write_all(&mut connection, b"x").await?;
            anyhow::Ok(connection.read_u8().await?)
        };
        if let Ok(Ok(b'x')) = timeout(Duration::from_secs(40), works).await {
            return (Some(began.elapsed()), failed);
        }
        failed += 1;
        sleep(PROBE_EVERY).await;
    }
    (None, failed)
}

fn row(link: Link, fates: Vec<Fate>, began: Instant, dial: Option<Duration>, dials_failed: u32) -> Row {
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
        dial_after_s: dial.map(|after| after.as_secs_f64()),
        dials_failed,
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
        std::fs::write(path, serde_json::to_vec_pretty(rows)?)?;
    }
    let quic_holds = |row: &Row| row.link != Link::Quic || row.whole == row.streams;
    Ok(!args.strict || rows.iter().all(quic_holds))
}
