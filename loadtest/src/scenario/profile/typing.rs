//! People who type into a shell: keys with their echo, the output of commands, and pauses.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunnel_client::Connection;

use super::score::Moved;
use super::stage::{Stage, Window};
use crate::dialing::within;
use crate::pace;
use crate::schedule::Random;
use crate::target::command::Command;
use crate::target::shell::PRINTED;

/// Shells at scale 1.
const SHELLS: f64 = 20.0;

/// Most keys without their echo: more than anybody types within the limit of an echo.
const AHEAD: usize = 4096;

/// A connection to a shell, and the keys that are typed.
pub(super) struct Shell {
    connection: Connection,
    keys: Keys,
}

pub(super) async fn open(stage: &Stage) -> anyhow::Result<Vec<Shell>> {
    let mut shells = Vec::new();
    for (number, mut connection) in (0..).zip(stage.open(stage.scaled(SHELLS)).await?) {
        connection.write_all(Command::Shell.line().as_bytes()).await?;
        shells.push(Shell { connection, keys: Keys::new(stage.random(number)) });
    }
    Ok(shells)
}

pub(super) async fn run(stage: &Arc<Stage>, window: Window, shells: Vec<Shell>) {
    let mut tasks = JoinSet::new();
    for shell in shells {
        let stage = Arc::clone(stage);
        tasks.spawn(async move { shell.run(&stage, window).await });
    }
    while tasks.join_next().await.is_some() {}
}

impl Shell {
    /// Types without waiting for the echo, as people do.
    async fn run(self, stage: &Stage, window: Window) {
        let (read, write) = tokio::io::split(self.connection);
        let (typed, expected) = mpsc::channel(AHEAD);
        let keys = self.keys.map_while(|(offset, key)| {
            let at = window.start + offset;
            (at < window.end).then_some((at, key))
        });
        tokio::join!(type_keys(write, keys, typed), read_echo(read, expected, stage, window));
    }
}

/// A key, and the moment at which it is due.
type Typed = (Instant, u8);

/// Types the keys. Keys behind a failed write are announced as well, and count as lost.
async fn type_keys(
    mut write: WriteHalf<Connection>,
    keys: impl Iterator<Item = Typed>,
    typed: mpsc::Sender<Typed>,
) {
    let mut broken = false;
    for (at, key) in keys {
        pace::until(at).await;
        if typed.send((at, key)).await.is_err() {
            return;
        }
        broken = broken || write.write_all(&[key]).await.is_err();
    }
}

async fn read_echo(
    mut read: ReadHalf<Connection>,
    mut expected: mpsc::Receiver<Typed>,
    stage: &Stage,
    window: Window,
) {
    let mut failure: Option<String> = None;
    let mut buffer = vec![0; 1 + PRINTED];
    while let Some((at, key)) = expected.recv().await {
        if let Some(why) = &failure {
            stage.lost(window, at, why);
            continue;
        }
        let echo = &mut buffer[..if key == b'\n' { 1 + PRINTED } else { 1 }];
        let read = within("echo", read.read_exact(echo)).await.and_then(|read| Ok(read?));
        match read.context("echo").and_then(|_| check(echo, key)) {
            Ok(()) => stage.done(window, at, Moved { up: 1, down: echo.len() as u64 }),
            Err(error) => {
                let why = format!("{error:#}");
                stage.lost(window, at, &why);
                failure = Some(why);
            }
        }
    }
}

fn check(echo: &[u8], key: u8) -> anyhow::Result<()> {
    anyhow::ensure!(echo[0] == key, "another key came back");
    anyhow::ensure!(echo[1..].iter().all(|byte| *byte == b'#'), "something else was printed");
    Ok(())
}

/// The keys of one person, with the times since the start at which they are typed.
#[derive(Debug, Clone)]
struct Keys {
    random: Random,
    at: Duration,
    /// Keys until the end of the line.
    left: u64,
}

impl Keys {
    fn new(mut random: Random) -> Self {
        let left = random.within(0..=20);
        Self { random, at: Duration::ZERO, left }
    }
}

impl Iterator for Keys {
    type Item = (Duration, u8);

    /// Never `None`.
    fn next(&mut self) -> Option<(Duration, u8)> {
        self.at += self.random.duration(60..=250);
        if self.left > 0 {
            self.left -= 1;
            return Some((self.at, b'a' + (self.random.next() % 26) as u8));
        }
        let at = self.at;
        self.left = self.random.within(5..=30);
        // The pause in which the output is read.
        self.at += self.random.duration(500..=3000);
        Some((at, b'\n'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_type_at_their_pace_and_think_between_lines() {
        let keys: Vec<_> = Keys::new(Random::new(5)).take(2000).collect();
        let lines = keys.iter().filter(|(_, key)| *key == b'\n').count();
        assert!((50..200).contains(&lines), "{lines}");
        for pair in keys.windows(2) {
            let gap = pair[1].0 - pair[0].0;
            let least = if pair[0].1 == b'\n' { 560 } else { 60 };
            assert!(gap >= Duration::from_millis(least), "{pair:?}");
        }
        assert!(keys.iter().all(|(_, key)| *key == b'\n' || key.is_ascii_lowercase()));
    }

    #[test]
    fn echoes_are_checked() {
        assert!(check(b"a", b'a').is_ok() && check(b"b", b'a').is_err());
        assert!(check(b"\n###", b'\n').is_ok() && check(b"\n#?#", b'\n').is_err());
    }
}
