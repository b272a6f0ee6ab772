//! Lines that the target sends by a schedule: logs that are followed, and
//! watches to which something happens now and then.
//!
//! Client and target make the same schedule, from the moment at which the client
//! asked. So the latency of a line holds the way of the question and the way of
//! the line, and needs no clock that both share.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tunnel_client::Connection;

use super::schedule::{Gaps, Random, Schedule};
use super::score::Moved;
use super::stage::{Stage, Window};
use crate::bench::STUCK;
use crate::command::Command;
use crate::pace;

/// Shortest line: its number, a blank and its end.
const LEAST_SIZE: usize = 22;

/// Longest line that is sent.
const MOST_SIZE: usize = 64 * 1024;

/// How followers are told things.
pub(super) struct Habit {
    followers: f64,
    gaps: Gaps,
    mean: Duration,
    size: usize,
}

/// `kubectl logs -f` on busy pods.
pub(super) const LOGS: Habit =
    Habit { followers: 20.0, gaps: Gaps::Steady, mean: Duration::from_millis(20), size: 120 };

/// Watches: many, and idle but for an event now and then.
pub(super) const WATCHES: Habit =
    Habit { followers: 200.0, gaps: Gaps::Poisson, mean: Duration::from_secs(5), size: 500 };

/// What the target is asked for: lines without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lines {
    pub(crate) gaps: Gaps,
    /// Mean gap, in microseconds.
    pub(crate) mean: u64,
    /// Bytes per line, its end included.
    pub(crate) size: usize,
    pub(crate) seed: u64,
}

impl Lines {
    fn schedule(&self) -> Schedule {
        Schedule::new(self.gaps, Duration::from_micros(self.mean), Random::new(self.seed))
    }
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gaps = match self.gaps {
            Gaps::Poisson => "poisson",
            Gaps::Steady => "steady",
        };
        write!(f, "{gaps} {} {} {}", self.mean, self.size, self.seed)
    }
}

impl FromStr for Lines {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split(' ').collect();
        let &[gaps, mean, size, seed] = parts.as_slice() else {
            anyhow::bail!("not GAPS MICROSECONDS SIZE SEED: {text:?}");
        };
        let gaps = match gaps {
            "poisson" => Gaps::Poisson,
            "steady" => Gaps::Steady,
            _ => anyhow::bail!("unknown gaps {gaps:?}"),
        };
        let lines = Self { gaps, mean: mean.parse()?, size: size.parse()?, seed: seed.parse()? };
        anyhow::ensure!((LEAST_SIZE..=MOST_SIZE).contains(&lines.size), "lines of {} bytes", lines.size);
        anyhow::ensure!(lines.mean >= 10, "a line every {} us", lines.mean);
        Ok(lines)
    }
}

/// The target's end: sends each line at its moment, or as soon after it as there
/// is room for it.
pub(crate) async fn tell(mut socket: TcpStream, lines: Lines) -> anyhow::Result<()> {
    let start = Instant::now();
    for (number, offset) in (0..).zip(lines.schedule()) {
        tokio::select! {
            biased;
            // Between two events of a watch the client may leave.
            ended = socket.readable() => {
                ended?;
                let mut byte = [0];
                anyhow::ensure!(socket.try_read(&mut byte).is_err(), "the client left, or said more");
                pace::until(start + offset).await;
            }
            () = pace::until(start + offset) => {}
        }
        socket.write_all(&line(number, lines.size)).await?;
    }
    Ok(())
}

fn line(number: u64, size: usize) -> Vec<u8> {
    let mut line = format!("{number:>20} ").into_bytes();
    line.resize(size - 1, b'.');
    line.push(b'\n');
    line
}

/// A connection on which lines are to come.
pub(super) struct Follower {
    connection: Connection,
    lines: Lines,
}

pub(super) async fn open(stage: &Stage, habit: &Habit) -> anyhow::Result<Vec<Follower>> {
    let connections = stage.open(stage.scaled(habit.followers)).await?;
    let mean = u64::try_from(habit.mean.as_micros())?;
    let (gaps, size) = (habit.gaps, habit.size);
    let lines = |number| Lines { gaps, mean, size, seed: stage.random(number).next() };
    let follow = |(number, connection)| Follower { connection, lines: lines(number) };
    Ok((0..).zip(connections).map(follow).collect())
}

pub(super) async fn run(stage: &Arc<Stage>, window: Window, followers: Vec<Follower>) {
    let mut tasks = JoinSet::new();
    for follower in followers {
        let stage = Arc::clone(stage);
        tasks.spawn(async move { follower.run(&stage, window).await });
    }
    while tasks.join_next().await.is_some() {}
}

impl Follower {
    async fn run(mut self, stage: &Stage, window: Window) {
        let asked = Instant::now();
        let question = Command::Lines(self.lines).line();
        let mut failure = self.connection.write_all(question.as_bytes()).await.err().map(|e| e.to_string());
        let mut buffer = vec![0; self.lines.size];
        for (number, offset) in (0..).zip(self.lines.schedule()) {
            let intended = asked + offset;
            if intended >= window.end {
                break;
            }
            if failure.is_none() {
                let read = self.next(&mut buffer, number, intended).await;
                failure = read.err().map(|error| format!("{error:#}"));
            }
            match &failure {
                None => stage.done(window, intended, Moved { up: 0, down: buffer.len() as u64 }),
                Some(why) => stage.lost(window, intended, why),
            }
        }
    }

    async fn next(&mut self, buffer: &mut [u8], number: u64, intended: Instant) -> anyhow::Result<()> {
        let read = self.connection.read_exact(buffer);
        timeout_at(intended + STUCK, read).await.context("no line in time")?.context("next line")?;
        anyhow::ensure!(*buffer == *line(number, buffer.len()), "another line came");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_survives_its_text() {
        for gaps in [Gaps::Poisson, Gaps::Steady] {
            let lines = Lines { gaps, mean: 20_000, size: 120, seed: u64::MAX };
            assert_eq!(lines.to_string().parse::<Lines>().unwrap(), lines);
        }
        for bad in
            ["", "steady 1 2", "odd 20000 120 1", "steady 20000 3 1", "steady 0 120 1", "steady -1 120 1"]
        {
            assert!(bad.parse::<Lines>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_have_their_size_and_number() {
        assert_eq!(line(7, LEAST_SIZE), b"                   7 \n");
        assert_eq!(line(u64::MAX, 120).len(), 120);
        assert_ne!(line(1, 30), line(2, 30));
    }
}
