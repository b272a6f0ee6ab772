//! Canaries: slow connections beside a profile, whose every byte is hashed at both ends. A byte that is lost,
//! or another connection's, fails the run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::bench::Bench;
use crate::dialing::{STUCK, read_line};
use crate::figures::Outcome;
use crate::payload::{Checker, Payload, Tally, compare_tallies};
use crate::target::command::Command;

/// Bytes of one piece: a prime, so that pieces drift across the edges of all buffers.
const PIECE: usize = 1021;

/// Pieces of one connection: with [`PAUSE`], a third of a second each way.
const PIECES: usize = 16;

/// Time between two pieces.
const PAUSE: Duration = Duration::from_millis(20);

/// Running canaries; each counts its whole connections.
pub(super) struct Canaries(JoinSet<anyhow::Result<u32>>);

/// Starts `count` canaries, which end with their first connection after `end`.
pub(super) fn start(bench: &Arc<Bench>, count: u32, end: Instant) -> Canaries {
    let mut canaries = JoinSet::new();
    for _ in 0..count {
        let bench = Arc::clone(bench);
        canaries.spawn(async move {
            let mut whole = 0;
            loop {
                // Both directions take a second where nothing stalls.
                timeout(3 * STUCK, sing(&bench)).await.context("a canary is stuck")??;
                whole += 1;
                if Instant::now() >= end {
                    return Ok(whole);
                }
            }
        });
    }
    Canaries(canaries)
}

impl Canaries {
    pub(super) async fn report(mut self, outcome: &mut Outcome) {
        let (canaries, mut whole) = (self.0.len(), 0);
        while let Some(ended) = self.0.join_next().await {
            match ended.map_err(anyhow::Error::from).and_then(|ended| ended) {
                Ok(count) => whole += count,
                Err(error) => outcome.fail(format!("canary: {error:#}")),
            }
        }
        if canaries > 0 {
            outcome.add("canaries whole", f64::from(whole), "connections");
        }
    }
}

/// One connection up, one down.
async fn sing(bench: &Bench) -> anyhow::Result<()> {
    let seed = rand::random();
    let count = (PIECE * PIECES) as u64;
    let mut connection = bench.command(Command::Sink(count), &[]).await?;
    let (mut payload, mut tally, mut piece) = (Payload::new(seed), Tally::new(), [0; PIECE]);
    for _ in 0..PIECES {
        payload.fill(&mut piece);
        tally.take(&piece);
        connection.write_all(&piece).await.context("send")?;
        connection.flush().await.context("send")?;
        sleep(PAUSE).await;
    }
    let theirs = read_line(&mut BufReader::new(connection)).await.context("tally")?;
    compare_tallies(&theirs, &tally.text()).ensure_whole()?;

    let mut connection = bench.command(Command::Source { count, seed }, &[]).await?;
    let mut checker = Checker::new(seed);
    loop {
        let read = connection.read(&mut piece).await.context("receive")?;
        if read == 0 {
            return checker.verdict(count).ensure_whole();
        }
        checker.take(&piece[..read]);
        sleep(PAUSE).await;
    }
}
