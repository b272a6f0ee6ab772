//! Bytes: every byte arrives, whichever end closes or speaks first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tunnel_client::Connection;

use crate::bench::Bench;
use crate::dialing::read_line;
use crate::figures::Outcome;
use crate::payload::{Checker, Payload, Tally, Verdict, compare_tallies, random_size};
use crate::target::command::Command;

/// Limit of one connection, which carries a megabyte at most: longer than any wait of the target.
const LIMIT: Duration = Duration::from_secs(30);

/// Connections beyond [`LIMIT`] after which a worker gives up. More would make a stuck tunnel take an hour to
/// be found; fewer would stop at a single hiccup.
const STUCK: u32 = 3;

/// Failures that are shown as examples.
const EXAMPLES: usize = 3;

pub(super) async fn run(bench: &Arc<Bench>) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    for kind in [Kind::TargetCloses, Kind::ClientAsks, Kind::ClientCloses, Kind::TargetFirst] {
        let name = kind.name(bench);
        let counts = all_of(bench, kind).await.context(name)?;
        outcome.add(format!("{name}, whole"), f64::from(counts.whole), "connections");
        outcome.add(format!("{name}, lost or mixed"), f64::from(counts.wrong), "connections");
        outcome.add(format!("{name}, failed"), f64::from(counts.failed), "connections");
        let lost = counts.wrong + counts.failed;
        outcome.tried(name, (counts.whole + lost).into(), lost.into());
        if lost > 0 {
            let (wrong, failed) = (counts.wrong, counts.failed);
            let such_as = counts.examples.join("; ");
            outcome.fail(format!("{name}: {wrong} lost or mixed, {failed} failed, such as: {such_as}"));
        }
    }
    Ok(outcome)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The client sends and half-closes, or tells the length in advance where there is no half-close; the
    /// target answers.
    ClientAsks,
    /// The client sends and closes at once; the target is asked later.
    ClientCloses,
    /// The target sends and closes at once.
    TargetCloses,
    /// The target sends and closes at once, before the client has sent anything.
    TargetFirst,
}

impl Kind {
    fn name(self, bench: &Bench) -> &'static str {
        match self {
            Self::ClientAsks if bench.has_half_close() => "half-close",
            Self::ClientAsks => "answer, then close",
            Self::ClientCloses => "client writes, then closes",
            Self::TargetCloses => "target writes, then closes",
            Self::TargetFirst => "target speaks first, then closes",
        }
    }

    async fn once(self, bench: &Bench) -> anyhow::Result<Verdict> {
        match self {
            Self::ClientAsks => client_asks(bench).await,
            Self::ClientCloses => client_closes(bench).await,
            Self::TargetCloses => target_closes(bench).await,
            Self::TargetFirst => target_first(bench).await,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    whole: u32,
    wrong: u32,
    failed: u32,
    examples: Vec<String>,
}

impl Counts {
    fn count(&mut self, result: anyhow::Result<Verdict>) {
        let example = match result {
            Ok(Verdict::Whole) => {
                self.whole += 1;
                return;
            }
            Ok(Verdict::Lost(what)) => {
                self.wrong += 1;
                format!("lost: {what}")
            }
            Ok(Verdict::Mixed(what)) => {
                self.wrong += 1;
                format!("mixed: {what}")
            }
            Err(error) => {
                self.failed += 1;
                format!("{error:#}")
            }
        };
        if self.examples.len() < EXAMPLES {
            self.examples.push(example);
        }
    }

    fn add(&mut self, other: Self) {
        self.whole += other.whole;
        self.wrong += other.wrong;
        self.failed += other.failed;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES);
    }
}

async fn all_of(bench: &Arc<Bench>, kind: Kind) -> anyhow::Result<Counts> {
    let started = Arc::new(AtomicU32::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..bench.plan.workers {
        let (bench, started) = (Arc::clone(bench), Arc::clone(&started));
        workers.spawn(async move {
            let mut counts = Counts::default();
            let mut stuck = 0;
            while stuck < STUCK {
                let at = started.fetch_add(1, Ordering::Relaxed);
                if at >= bench.plan.count {
                    break;
                }
                if at.is_multiple_of(100) {
                    bench.progress(&format!("bytes, {}, {at} of {}", kind.name(&bench), bench.plan.count));
                }
                let once = timeout(LIMIT, kind.once(&bench)).await;
                stuck += u32::from(once.is_err());
                let once = once.with_context(|| format!("not done within {LIMIT:?}"));
                counts.count(once.and_then(|result| result));
            }
            counts
        });
    }
    let mut all = Counts::default();
    while let Some(counts) = workers.join_next().await {
        all.add(counts?);
    }
    Ok(all)
}

async fn target_closes(bench: &Bench) -> anyhow::Result<Verdict> {
    let (count, seed) = (random_size(), rand::random());
    let connection = bench.command(Command::Source { count, seed }, &[]).await?;
    check(connection, count, seed).await
}

async fn target_first(bench: &Bench) -> anyhow::Result<Verdict> {
    let mut connection = BufReader::new(bench.banner().await?);
    let line = read_line(&mut connection).await?;
    let (count, seed) = line.split_once(' ').with_context(|| format!("a banner of {line:?}"))?;
    let (count, seed) = (count.parse().context("count")?, seed.parse().context("seed")?);
    check(connection, count, seed).await
}

async fn client_asks(bench: &Bench) -> anyhow::Result<Verdict> {
    let count = random_size();
    let command = if bench.has_half_close() { Command::SinkToEnd } else { Command::Sink(count) };
    let mut connection = bench.command(command, &[]).await?;
    let ours = send(&mut connection, count).await?;
    if bench.has_half_close() {
        connection.shutdown().await?;
    }
    let mut connection = BufReader::new(connection);
    let theirs = read_line(&mut connection).await?;
    connection.into_inner().close().await?;
    Ok(compare_tallies(&theirs, &ours))
}

async fn client_closes(bench: &Bench) -> anyhow::Result<Verdict> {
    let (count, token) = (random_size(), rand::random());
    let mut connection = bench.command(Command::Deposit(token), &[]).await?;
    let ours = send(&mut connection, count).await?;
    connection.close().await?;
    let mut connection = BufReader::new(bench.command(Command::Tally(token), &[]).await?);
    Ok(compare_tallies(&read_line(&mut connection).await?, &ours))
}

/// Sends `count` bytes, and returns their tally.
async fn send(connection: &mut Connection, count: u64) -> anyhow::Result<String> {
    let mut bytes = vec![0; usize::try_from(count)?];
    Payload::new(rand::random()).fill(&mut bytes);
    let mut tally = Tally::new();
    tally.take(&bytes);
    connection.write_all(&bytes).await?;
    connection.flush().await?;
    Ok(tally.text())
}

async fn check(mut from: impl AsyncRead + Unpin, count: u64, seed: u64) -> anyhow::Result<Verdict> {
    let mut checker = Checker::new(seed);
    checker.read_to_end(&mut from, 64 * 1024).await?;
    Ok(checker.verdict(count))
}
