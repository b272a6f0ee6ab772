//! `kubectl cp`: files both ways, hashed or compared byte by byte at the end
//! that receives them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

use super::schedule::{Gaps, Random, Schedule};
use super::score::Moved;
use super::stage::{Stage, Window};
use crate::bench::Bench;
use crate::command::Command;
use crate::payload::{Checker, Payload, Tally, Verdict, compare_tallies};

/// Between two files one way, at scale 1.
const GAP: Duration = Duration::from_millis(500);

/// Bytes per read and write.
const BLOCK: usize = 256 * 1024;

/// Seen from the client.
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

/// Most files are small, some are not.
fn file_size(random: &mut Random) -> u64 {
    1 << random.within(16..=24)
}

/// Tells what was sent, by its count and hash.
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
    let mut line = String::new();
    BufReader::new(connection.take(1024)).read_line(&mut line).await.context("tally")?;
    whole(compare_tallies(line.trim_end(), &tally.text()))?;
    Ok(Moved { up: size, down: line.len() as u64 })
}

async fn download(bench: &Bench, mut random: Random) -> anyhow::Result<Moved> {
    let (count, seed) = (file_size(&mut random), random.next());
    let mut connection = bench.command(Command::Source { count, seed }, &[]).await?;
    let mut checker = Checker::new(seed);
    let mut buffer = vec![0; BLOCK];
    loop {
        let read = connection.read(&mut buffer).await.context("download")?;
        if read == 0 {
            break;
        }
        checker.take(&buffer[..read]);
    }
    whole(checker.verdict(count))?;
    Ok(Moved { up: 0, down: count })
}

pub(super) fn whole(verdict: Verdict) -> anyhow::Result<()> {
    match verdict {
        Verdict::Whole => Ok(()),
        Verdict::Lost(what) => anyhow::bail!("bytes were lost: {what}"),
        Verdict::Mixed(what) => anyhow::bail!("bytes were mixed up: {what}"),
    }
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
