//! Followers of lines that the target sends by a schedule: logs that are followed, and watches with an event
//! now and then.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tunnel_client::Connection;

use super::score::Moved;
use super::stage::{Stage, Window};
use crate::dialing::STUCK;
use crate::schedule::Gaps;
use crate::target::command::Command;
use crate::target::lines::Lines;

/// The habit of a kind of follower.
pub(super) struct Habit {
    /// Followers at scale 1.
    followers: f64,
    gaps: Gaps,
    mean: Duration,
    /// Bytes of a line.
    size: usize,
}

/// `kubectl logs -f` on busy pods.
pub(super) const LOGS: Habit =
    Habit { followers: 20.0, gaps: Gaps::Steady, mean: Duration::from_millis(20), size: 120 };

/// Watches: many, and mostly idle.
pub(super) const WATCHES: Habit =
    Habit { followers: 200.0, gaps: Gaps::Poisson, mean: Duration::from_secs(5), size: 500 };

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
        anyhow::ensure!(*buffer == *self.lines.line(number), "another line came");
        Ok(())
    }
}
