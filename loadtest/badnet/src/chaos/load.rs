//! The clients: canaries that are replaced when they end, and dials at a steady rate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::board::{Board, agent_of};
use super::world::AGENTS;
use crate::canary::{Song, command, sing};
use crate::rig::connecting;

/// Time between two dials, which go to the agents in turn: two a second to each.
const DIAL_EVERY: Duration = Duration::from_millis(125);

/// Limit of a dial with its echo: longer than the client's own limit of a dial, whose error says more.
const DIAL_LIMIT: Duration = Duration::from_secs(35);

/// Pause of a canary whose dial has failed.
const PAUSE: Duration = Duration::from_millis(500);

/// Canaries of an agent that are dialled at once. More are a storm of dials; fewer take long to return.
const DIALLED: usize = 16;

/// Lives that a canary may have: seeds are told apart by it.
const LIVES: u64 = 1 << 20;

/// A canary, from its dial to its end.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) agent: usize,
    pub(crate) ended: Instant,
    pub(crate) song: Song,
}

#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) agent: usize,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) outcome: Result<(), String>,
}

#[derive(Debug)]
pub(crate) struct Load {
    over: watch::Sender<bool>,
    canaries: JoinSet<Vec<Life>>,
    dials: JoinSet<Vec<Dial>>,
}

impl Load {
    pub(crate) fn begin(board: &Arc<Board>, frontend: &Path, every: Duration) -> Self {
        let over = watch::Sender::new(false);
        let rooms = AGENTS.map(|_| Arc::new(Semaphore::new(DIALLED)));
        let (mut canaries, mut dials) = (JoinSet::new(), JoinSet::new());
        for number in 0..board.canaries() {
            let perch = Perch {
                number,
                board: Arc::clone(board),
                frontend: frontend.to_owned(),
                room: Arc::clone(&rooms[agent_of(number)]),
                every,
                over: over.subscribe(),
            };
            canaries.spawn(perch.sings());
        }
        dials.spawn(dial_all(Arc::clone(board), frontend.to_owned(), over.subscribe()));
        Self { over, canaries, dials }
    }

    /// Ends all canaries in order, and waits for the last dials.
    pub(crate) async fn end(self) -> anyhow::Result<(Vec<Life>, Vec<Dial>)> {
        self.over.send_replace(true);
        let (lives, dials) = tokio::join!(self.canaries.join_all(), self.dials.join_all());
        Ok((lives.into_iter().flatten().collect(), dials.into_iter().flatten().collect()))
    }
}

/// The place of a canary, where another one follows when it ends.
struct Perch {
    number: usize,
    board: Arc<Board>,
    frontend: PathBuf,
    /// For dials.
    room: Arc<Semaphore>,
    every: Duration,
    over: watch::Receiver<bool>,
}

impl Perch {
    async fn sings(self) -> Vec<Life> {
        let (agent, mut lives) = (agent_of(self.number), Vec::new());
        while !*self.over.borrow() {
            let seed = self.number as u64 * LIVES + lives.len() as u64;
            let Some(song) = self.sing(seed).await else {
                sleep(PAUSE).await;
                continue;
            };
            self.board.ended(self.number);
            lives.push(Life { agent, ended: Instant::now(), song });
        }
        lives
    }

    /// `None` if the dial fails.
    async fn sing(&self, seed: u64) -> Option<Song> {
        let connection = {
            // Never closed.
            let _permit = self.room.acquire().await.ok()?;
            connecting(&self.frontend, AGENTS[agent_of(self.number)].host, &command(seed, self.every))
                .await
                .ok()?
        };
        let (from, to) = tokio::io::split(connection);
        let heard = |gap| self.board.heard(self.number, gap);
        Some(sing(from, to, seed, self.every, self.over.clone(), heard).await)
    }
}

/// Dials to the agents in turn, whether earlier dials are answered or not.
async fn dial_all(board: Arc<Board>, frontend: PathBuf, over: watch::Receiver<bool>) -> Vec<Dial> {
    let (mut dialling, mut next) = (JoinSet::new(), Instant::now());
    for agent in (0..AGENTS.len()).cycle() {
        if *over.borrow() {
            break;
        }
        let (board, connecting) = (Arc::clone(&board), connecting(&frontend, AGENTS[agent].host, "echo"));
        dialling.spawn(async move {
            let began = Instant::now();
            let echo = async {
                let mut connection = connecting.await?;
                connection.write_all(b"x").await?;
                anyhow::ensure!(connection.read_u8().await? == b'x', "another byte came back");
                anyhow::Ok(())
            };
            let outcome = match timeout(DIAL_LIMIT, echo).await {
                Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
                Err(_) => Err(format!("no echo in {DIAL_LIMIT:?}")),
            };
            if outcome.is_ok() {
                board.works(agent, began);
            }
            Dial { agent, began, ended: Instant::now(), outcome }
        });
        next += DIAL_EVERY;
        sleep_until(next).await;
    }
    dialling.join_all().await
}
