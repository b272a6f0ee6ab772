//! Requests with their answers, as HTTP has them: webhooks, pages through a
//! port-forward, scrapes.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tunnel_client::Connection;

use super::schedule::{Gaps, Random, Schedule};
use super::score::Moved;
use super::stage::{Stage, Window};
use crate::bench::Bench;
use crate::command::Command;
use crate::payload::{Checker, Payload, Verdict};

/// Longest request and longest answer.
const MOST: u32 = 256 << 20;

/// Bytes per read and write.
const BLOCK: usize = 64 * 1024;

/// A request begins with the answer's seed, its own length and the answer's.
const HEAD: usize = 16;

/// How a client of one kind behaves.
pub(super) struct Habit {
    gaps: Gaps,
    mean: Duration,
    /// Connections at once.
    burst: RangeInclusive<u64>,
    /// Exchanges on one connection, one after the other.
    exchanges: RangeInclusive<u64>,
    request: RangeInclusive<u64>,
    answer: RangeInclusive<u64>,
}

/// Admission webhooks: an object is created, and several of them are asked.
pub(super) const WEBHOOKS: Habit = Habit {
    gaps: Gaps::Poisson,
    mean: Duration::from_millis(200),
    burst: 4..=16,
    exchanges: 1..=1,
    request: 1_000..=8_000,
    answer: 200..=1_000,
};

/// A browser behind a port-forward: six connections at once, as browsers do it.
pub(super) const PAGES: Habit = Habit {
    gaps: Gaps::Poisson,
    mean: Duration::from_millis(200),
    burst: 6..=6,
    exchanges: 1..=4,
    request: 400..=900,
    answer: 500..=40_000,
};

/// Something large behind the same port-forward.
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
    // No moment of it is that of an operation.
    let random = stage.random(u64::MAX);
    let schedule = Schedule::new(habit.gaps, stage.gap(habit.mean), random).in_bursts(habit.burst.clone());
    stage.arrivals(window, schedule, |bench, random| client(bench, random, habit)).await;
}

async fn client(bench: Arc<Bench>, mut random: Random, habit: &Habit) -> anyhow::Result<Moved> {
    let mut connection = bench.command(Command::Serve, &[]).await?;
    let mut moved = Moved::default();
    for _ in 0..random.within(habit.exchanges.clone()) {
        let request = u32::try_from(random.within(habit.request.clone()))?;
        let answer = u32::try_from(random.within(habit.answer.clone()))?;
        exchange(&mut connection, random.next(), request, answer).await?;
        moved.up += u64::from(request);
        moved.down += u64::from(answer);
    }
    if !bench.has_half_close() {
        connection.close().await?;
    }
    Ok(moved)
}

async fn exchange(connection: &mut Connection, seed: u64, request: u32, answer: u32) -> anyhow::Result<()> {
    let mut bytes = Vec::with_capacity(HEAD + request as usize);
    bytes.extend_from_slice(&seed.to_be_bytes());
    bytes.extend_from_slice(&request.to_be_bytes());
    bytes.extend_from_slice(&answer.to_be_bytes());
    bytes.resize(HEAD + request as usize, b'?');
    connection.write_all(&bytes).await.context("request")?;
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

/// The target's end: answers until the client has no more requests.
pub(crate) async fn serve(socket: TcpStream, rest: Vec<u8>) -> anyhow::Result<()> {
    let (read, mut write) = socket.into_split();
    let mut read = std::io::Cursor::new(rest).chain(read);
    let mut block = vec![0; BLOCK];
    loop {
        let mut head = [0; HEAD];
        if read.read(&mut head[..1]).await? == 0 {
            return Ok(());
        }
        read.read_exact(&mut head[1..]).await?;
        let [seed, lengths] =
            [&head[..8], &head[8..]].map(|half| half.try_into().map_or(0, u64::from_be_bytes));
        let (request, answer) = ((lengths >> 32) as u32, lengths as u32);
        anyhow::ensure!(request.max(answer) <= MOST, "a request of {request} for {answer} bytes");
        let mut left = request as usize;
        while left > 0 {
            let most = block.len().min(left);
            let got = read.read(&mut block[..most]).await?;
            anyhow::ensure!(got > 0, "the request ended too early");
            left -= got;
        }
        let (mut payload, mut left) = (Payload::new(seed), answer as usize);
        while left > 0 {
            let now = block.len().min(left);
            payload.fill(&mut block[..now]);
            write.write_all(&block[..now]).await?;
            left -= now;
        }
    }
}
