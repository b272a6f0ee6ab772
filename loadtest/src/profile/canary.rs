//! Canaries: slow connections beside a profile, whose every byte is hashed at
//! both ends. A byte that is lost, or is another connection's, ends one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::copy::whole;
use crate::bench::{Bench, STUCK};
use crate::command::Command;
use crate::figures::Outcome;
use crate::payload::{Checker, Payload, Tally, compare_tallies};

/// Bytes that one canary sends at a time; not a power of two, so that its bytes
/// do not lie at the edges of anybody's buffers.
const PIECE: usize = 1021;

/// Pieces of one connection.
const PIECES: usize = 16;

/// Between two of them.
const PAUSE: Duration = Duration::from_millis(20);

/// Canaries that run.
pub(super) struct Canaries(JoinSet<anyhow::Result<u32>>);

/// Starts so many, which go on to the end of the connection during which `end`
/// passes.
pub(super) fn start(bench: &Arc<Bench>, count: u32, end: Instant) -> Canaries {
    let mut canaries = JoinSet::new();
    for _ in 0..count {
        let bench = Arc::clone(bench);
        canaries.spawn(async move {
            let mut whole = 0;
            loop {
                // Two directions take a second at most where nothing stalls.
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
    let mut line = String::new();
    BufReader::new(connection.take(1024)).read_line(&mut line).await.context("tally")?;
    whole(compare_tallies(line.trim_end(), &tally.text()))?;

    let mut connection = bench.command(Command::Source { count, seed }, &[]).await?;
    let mut checker = Checker::new(seed);
    loop {
        let read = connection.read(&mut piece).await.context("receive")?;
        if read == 0 {
            return whole(checker.verdict(count));
        }
        checker.take(&piece[..read]);
        sleep(PAUSE).await;
    }
}
