//! `kubectl cp`: files both ways, hashed or compared at the end that receives them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncWriteExt as _, BufReader};

use super::score::Moved;
use super::stage::{Stage, Window};
use crate::bench::Bench;
use crate::dialing::read_line;
use crate::payload::{BLOCK, Checker, Payload, Tally, compare_tallies};
use crate::schedule::{Gaps, Random, Schedule};
use crate::target::command::Command;

/// Time between two files one way, at scale 1.
const GAP: Duration = Duration::from_millis(500);

/// The direction, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Down,
    Up,
}

pub(super) async fn run(stage: Arc<Stage>, window: Window, way: Way) {
    let schedule = Schedule::new(Gaps::Steady, stage.gap(GAP), stage.random(u64::MAX));
    stage
        .arrivals(window, schedule, |bench, random| async move {
            match way {
                Way::Down => download(&bench, random).await,
                Way::Up => upload(&bench, random).await,
            }
        })
        .await;
}

/// From 64 KiB to 16 MiB; each of the nine magnitudes is equally likely.
fn file_size(random: &mut Random) -> u64 {
    1 << random.within(16..=24)
}

/// Sends a file, and compares the target's count and hash.
async fn upload(bench: &Bench, mut random: Random) -> anyhow::Result<Moved> {
    let size = file_size(&mut random);
    let mut connection = bench.command(Command::Sink(size), &[]).await?;
    let (mut payload, mut tally) = (Payload::new(random.next()), Tally::new());
    let mut block = vec![0; BLOCK.min(usize::try_from(size)?)];
    let mut left = size;
    while left > 0 {
        let now = block.len().min(usize::try_from(left)?);
        payload.fill(&mut block[..now]);
        tally.take(&block[..now]);
        connection.write_all(&block[..now]).await.context("upload")?;
        left -= now as u64;
    }
    connection.flush().await.context("upload")?;
    let theirs = read_line(&mut BufReader::new(connection)).await.context("tally")?;
    compare_tallies(&theirs, &tally.text()).ensure_whole()?;
    Ok(Moved { up: size, down: theirs.len() as u64 + 1 })
}

async fn download(bench: &Bench, mut random: Random) -> anyhow::Result<Moved> {
    let (count, seed) = (file_size(&mut random), random.next());
    let mut connection = bench.command(Command::Source { count, seed }, &[]).await?;
    let mut checker = Checker::new(seed);
    checker.read_to_end(&mut connection, BLOCK).await.context("download")?;
    checker.verdict(count).ensure_whole()?;
    Ok(Moved { up: 0, down: count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_all_sizes() {
        let mut random = Random::new(1);
        let sizes: std::collections::BTreeSet<u64> = (0..1000).map(|_| file_size(&mut random)).collect();
        assert_eq!((sizes.first(), sizes.last(), sizes.len()), (Some(&(1 << 16)), Some(&(1 << 24)), 9));
    }
}
