//! A connection that has to survive every event beside it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::interval;
use tunnel_client::Connection;

use crate::payload;
use crate::task::{Task, spawn};
use crate::wait::{wait_for, within};

/// Pause between two rounds. Shorter, the canary itself would load the test; longer, a
/// brief disturbance would fall between two rounds.
const PACE: Duration = Duration::from_millis(15);

/// Sends payloads to an echo over and over, and compares what comes back.
#[derive(Debug)]
pub struct Canary {
    name: String,
    rounds: Arc<AtomicU64>,
    task: Task,
}

impl Canary {
    /// Begins on a connection to an echo.
    pub fn new(name: String, mut echo: Connection) -> Self {
        let rounds = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&rounds);
        let task = spawn(async move {
            let mut pace = interval(PACE);
            loop {
                pace.tick().await;
                let round = counter.load(Ordering::Relaxed);
                let len = payload::size(round).min(20_000) + 1;
                let (sent, mut back) = (payload::bytes(round, len), vec![0; len]);
                let (mut from, mut to) = tokio::io::split(&mut echo);
                let there_and_back =
                    async { tokio::try_join!(to.write_all(&sent), from.read_exact(&mut back)) };
                within("a canary's round trip", there_and_back).await.unwrap();
                payload::assert_is(&back, round, len);
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { name, rounds, task }
    }

    /// The current round, for [`Canary::sings_since`].
    pub fn round(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Waits for a whole round trip that began after round `before`.
    pub async fn sings_since(&self, before: u64) {
        wait_for(&format!("the canary on {}", self.name), async || {
            let now = self.round();
            assert!(!self.task.is_finished(), "the canary on {} died in round {now}", self.name);
            if now >= before + 2 { Ok(()) } else { Err(format!("{now} rounds, {before} before")) }
        })
        .await;
    }
}
