//! A canary: a stream with lines in both directions, whose every byte both ends know, until its client ends it.

use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::lines::{Checker, last_word, line, total};

/// A canary that hears nothing for this long is over: longer than a silent tunnel on QUIC keeps its streams.
const SILENCE: Duration = Duration::from_secs(90);

/// How a canary fared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Song {
    /// Why it ended before its client wanted that.
    pub(crate) cut: Option<String>,
    /// Whether every byte of both directions arrived once, of a canary that was not cut.
    pub(crate) whole: bool,
    /// Lines that were lost, repeated or changed before the end.
    pub(crate) bad: u64,
}

/// The command for [`answer`].
pub(crate) fn command(seed: u64, every: Duration) -> String {
    format!("canary {seed} {}", every.as_millis())
}

/// The target's end: says lines until the client's have ended, and then a verdict on those.
pub(crate) async fn answer(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    seed: u64,
    every: Duration,
) -> anyhow::Result<()> {
    let (end, mut ended) = watch::channel(false);
    let mut checker = Checker::new(!seed);
    let reads = async {
        hear(&mut from, &mut checker, |_| ()).await?;
        end.send_replace(true);
        anyhow::Ok(())
    };
    tokio::try_join!(reads, say(&mut to, seed, every, &mut ended))?;
    to.write_all(last_word(is_whole(&checker)).as_bytes()).await?;
    Ok(to.shutdown().await?)
}

/// The client's end, until `ended`. Tells `heard` the time since the last bytes, whenever some come.
pub(crate) async fn sing(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    seed: u64,
    every: Duration,
    mut ended: watch::Receiver<bool>,
    heard: impl FnMut(Duration),
) -> Song {
    let mut checker = Checker::new(seed);
    let says = async {
        say(&mut to, !seed, every, &mut ended).await?;
        anyhow::Ok(to.shutdown().await?)
    };
    let reads = async {
        hear(&mut from, &mut checker, heard).await?;
        anyhow::ensure!(checker.verdict.is_some(), "the stream ended early");
        anyhow::Ok(())
    };
    let outcome = tokio::try_join!(says, reads);
    let bad = checker.lost + checker.again + checker.wrong;
    Song {
        cut: outcome.err().map(|error| format!("{error:#}")),
        whole: is_whole(&checker) && checker.verdict == Some(true),
        bad,
    }
}

fn is_whole(checker: &Checker) -> bool {
    checker.total.is_some_and(|total| checker.is_whole(total))
}

async fn hear(
    from: &mut (impl AsyncRead + Unpin),
    checker: &mut Checker,
    mut heard: impl FnMut(Duration),
) -> anyhow::Result<()> {
    let (mut buffer, mut last) = (vec![0; 4096], Instant::now());
    loop {
        let len = timeout(SILENCE, from.read(&mut buffer)).await.context("silence")??;
        if len == 0 {
            return Ok(());
        }
        checker.take(&buffer[..len]);
        heard(last.elapsed());
        last = Instant::now();
    }
}

/// Says a line at each interval until `ended`, and then how many they were.
async fn say(
    to: &mut (impl AsyncWrite + Unpin),
    seed: u64,
    every: Duration,
    ended: &mut watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let (mut next, mut count) = (Instant::now(), 0);
    loop {
        tokio::select! {
            biased;
            // An error is the end of the other task.
            _ = ended.wait_for(|ended| *ended) => break,
            () = sleep_until(next) => {}
        }
        to.write_all(line(seed, count).as_bytes()).await?;
        count += 1;
        next += every;
    }
    Ok(to.write_all(total(count).as_bytes()).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(100);

    /// A canary through a pipe, whose target hears what `change` makes of the client's bytes.
    async fn sung(change: impl Fn(&mut Vec<u8>)) -> Song {
        let ((client, near), (far, target)) = (tokio::io::duplex(1 << 16), tokio::io::duplex(1 << 16));
        let (target_from, target_to) = tokio::io::split(target);
        let ((mut near_from, mut near_to), (mut far_from, mut far_to)) =
            (tokio::io::split(near), tokio::io::split(far));
        let (end, ended) = watch::channel(false);
        let up = async {
            let mut bytes = vec![0; 4096];
            loop {
                bytes.resize(4096, 0);
                let len = near_from.read(&mut bytes).await.unwrap();
                bytes.truncate(len);
                if len == 0 {
                    return far_to.shutdown().await.unwrap();
                }
                change(&mut bytes);
                far_to.write_all(&bytes).await.unwrap();
            }
        };
        let down = async {
            tokio::io::copy(&mut far_from, &mut near_to).await.unwrap();
            near_to.shutdown().await.unwrap();
        };
        let ends = async {
            tokio::time::sleep(10 * EVERY).await;
            end.send_replace(true);
        };
        let (from, to) = tokio::io::split(client);
        let sings = sing(from, to, 7, EVERY, ended, |_| ());
        let (song, _, (), (), ()) =
            tokio::join!(sings, answer(target_from, target_to, 7, EVERY), up, down, ends);
        song
    }

    #[tokio::test(start_paused = true)]
    async fn a_canary_is_whole_and_a_byte_that_changes_or_is_lost_is_seen() {
        assert_eq!(sung(|_| ()).await, Song { cut: None, whole: true, bad: 0 });
        let changed = sung(|bytes| bytes[0] = b'x').await;
        assert!(!changed.whole && changed.cut.is_none(), "{changed:?}");
        let lost = sung(|bytes| bytes.clear()).await;
        assert!(!lost.whole, "{lost:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_canary_whose_stream_ends_early_is_cut() {
        let (client, target) = tokio::io::duplex(1 << 16);
        let (_end, ended) = watch::channel(false);
        let (from, to) = tokio::io::split(client);
        let ends = async { drop(target) };
        let (song, ()) = tokio::join!(sing(from, to, 7, EVERY, ended, |_| ()), ends);
        assert!(song.cut.is_some() && !song.whole);
    }
}
