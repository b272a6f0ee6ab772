//! Requests with their answers: webhooks, pages through a port-forward, scrapes.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunnel_client::Connection;

use super::score::Moved;
use super::stage::{Stage, Window};
use crate::bench::Bench;
use crate::payload::{Checker, Verdict};
use crate::schedule::{Gaps, Random, Schedule};
use crate::target::command::Command;
use crate::target::exchange::{BLOCK, Request};

/// The habit of a kind of client.
pub(super) struct Habit {
    gaps: Gaps,
    /// Mean gap at scale 1.
    mean: Duration,
    /// Connections at once.
    burst: RangeInclusive<u64>,
    /// Exchanges on one connection.
    exchanges: RangeInclusive<u64>,
    /// Bytes of a request.
    request: RangeInclusive<u64>,
    /// Bytes of an answer.
    answer: RangeInclusive<u64>,
}

/// Admission webhooks: an object is created, and several webhooks are asked.
pub(super) const WEBHOOKS: Habit = Habit {
    gaps: Gaps::Poisson,
    mean: Duration::from_millis(200),
    burst: 4..=16,
    exchanges: 1..=1,
    request: 1_000..=8_000,
    answer: 200..=1_000,
};

/// A browser behind a port-forward, with its six connections to a host.
pub(super) const PAGES: Habit = Habit {
    gaps: Gaps::Poisson,
    mean: Duration::from_millis(200),
    burst: 6..=6,
    exchanges: 1..=4,
    request: 400..=900,
    answer: 500..=40_000,
};

/// A large file behind a port-forward.
pub(super) const LARGE: Habit = Habit {
    gaps: Gaps::Steady,
    mean: Duration::from_secs(1),
    burst: 1..=1,
    exchanges: 1..=1,
    request: 300..=600,
    answer: 8_000_000..=16_000_000,
};

/// Metrics of kubelets, on a new connection each time.
pub(super) const SCRAPES: Habit = Habit {
    gaps: Gaps::Steady,
    mean: Duration::from_millis(100),
    burst: 1..=1,
    exchanges: 1..=1,
    request: 200..=400,
    answer: 50_000..=400_000,
};

pub(super) async fn run(stage: Arc<Stage>, window: Window, habit: &'static Habit) {
    // The sequence of a number that no operation has.
    let random = stage.random(u64::MAX);
    let schedule = Schedule::new(habit.gaps, stage.gap(habit.mean), random).in_bursts(habit.burst.clone());
    stage.arrivals(window, schedule, |bench, random| client(bench, random, habit)).await;
}

async fn client(bench: Arc<Bench>, mut random: Random, habit: &Habit) -> anyhow::Result<Moved> {
    let mut connection = bench.command(Command::Serve, &[]).await?;
    let mut moved = Moved::default();
    for _ in 0..random.within(habit.exchanges.clone()) {
        let length = u32::try_from(random.within(habit.request.clone()))?;
        let answer = u32::try_from(random.within(habit.answer.clone()))?;
        exchange(&mut connection, Request { seed: random.next(), length, answer }).await?;
        moved.up += u64::from(length);
        moved.down += u64::from(answer);
    }
    if !bench.has_half_close() {
        connection.close().await?;
    }
    Ok(moved)
}

async fn exchange(connection: &mut Connection, request: Request) -> anyhow::Result<()> {
    let Request { seed, answer, .. } = request;
    connection.write_all(&request.bytes()).await.context("request")?;
    connection.flush().await.context("request")?;
    let mut checker = Checker::new(seed);
    let mut buffer = vec![0; BLOCK.min(answer as usize)];
    let mut left = answer as usize;
    while left > 0 {
        let most = buffer.len().min(left);
        let read = connection.read(&mut buffer[..most]).await.context("answer")?;
        anyhow::ensure!(read > 0, "the answer ended too early");
        checker.take(&buffer[..read]);
        left -= read;
    }
    match checker.verdict(u64::from(answer)) {
        Verdict::Whole => Ok(()),
        Verdict::Lost(what) | Verdict::Mixed(what) => anyhow::bail!("a wrong answer: {what}"),
    }
}
