//! One cell of the matrix: an agent on a network of its own, dials at an interval, and streams from before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use measuring_kit::{Link, Programs, complain};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tunnel_client::Connection;

use super::cells::{Cell, What, When};
use crate::measure::{Bulk, carry};
use crate::namespaces::Network;
use crate::rig::Rig;

/// Length of a blackout, for which streams on QUIC wait and those on TCP may.
const DARK: Duration = Duration::from_secs(10);

/// Time between the beginnings of two dials.
const DIAL_EVERY: Duration = Duration::from_millis(500);

/// Limit of a dial with its transfer: a person has given up by then.
const DIAL_LIMIT: Duration = Duration::from_secs(35);

/// Bytes that each dial sends, and that come back: enough for large packets in both directions.
const TRANSFER: usize = 32 * 1024;

/// Limit of that transfer.
const TRANSFER_LIMIT: Duration = Duration::from_secs(5);

/// Longest time without a dial that worked.
const OUTAGE: Duration = Duration::from_secs(20);

/// Longest cut across which streams on QUIC are asked to live: they wait for 70 s (`tunnel/src/liveness/signs.rs`).
const WAITS: Duration = Duration::from_secs(60);

/// Time for the streams from before to answer, once all packets arrive again: QUIC's back-off may wait for as long
/// as the cut lasted.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait until both bulk streams carry bytes.
const BULK_LIMIT: Duration = Duration::from_secs(20);

/// Interval of looks at the bulk streams' counters.
const LOOK: Duration = Duration::from_millis(50);

/// Shortest of the agent's first pause after a tunnel that fell silent; each later one is twice as long
/// (`tunnel-agent/src/fleet/pace.rs`: a minute, less a tenth).
const FIRST_PAUSE: Duration = Duration::from_secs(54);

/// Cells that start at a time. With more, handshakes on QUIC wait for the processor until the agent takes h2; with
/// fewer, cells wait for each other.
static STARTS: Semaphore = Semaphore::const_new(4);

/// The outcome of a cell.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) dials: usize,
    pub(super) failed: usize,
    /// Longest time without a dial that worked, from the beginning of a cut that leaves a path, and from the end of
    /// one that leaves none.
    pub(super) outage_s: f64,
    /// Whether the streams from before go on afterwards; `None` where there is none.
    pub(super) streams_live: Option<bool>,
    /// Tunnels that the agent made, on each link.
    pub(super) tunnels_quic: usize,
    pub(super) tunnels_h2: usize,
    /// The most tunnels that its growing pauses allow.
    pub(super) most_tunnels: usize,
    pub(super) holds: bool,
}

/// Runs a cell: `time` from the beginning of what happens to the last dial.
pub(super) async fn run(
    cell: Cell,
    network: Network,
    programs: &Programs,
    time: Duration,
) -> anyhow::Result<Outcome> {
    let links = [Link::Quic];
    let (rig, old) = match cell.on() {
        None => {
            network.line.filter(&cell.during());
            (Rig::launch(network, programs, &links).await?, None)
        }
        Some(link) => {
            network.line.filter(cell.before());
            let rig = {
                let _turn = STARTS.acquire().await?;
                Rig::start(network, programs, &links).await?
            };
            let [quic, h2] = made(&rig);
            let is_there = if link == Link::Quic { quic == 1 && h2 == 0 } else { quic == 0 && h2 == 1 };
            anyhow::ensure!(is_there, "the agent is not on {}\n{}", link.name(), rig.last_words());
            let old = Old::open(&rig, cell.when).await.with_context(|| rig.last_words())?;
            (rig, Some(old))
        }
    };
    let began = Instant::now();
    let (dials, streams_live) = tokio::join!(dial(&rig, began + time), happen(cell, &rig, old, time));
    let outcome = judge(cell, &rig, &dials?, began, time, streams_live?);
    if !outcome.holds {
        complain(&format!("{} does not hold\n{}", cell.name(), rig.last_words()));
    }
    Ok(outcome)
}

/// Lets it happen, and watches the old streams afterwards.
async fn happen(cell: Cell, rig: &Rig, old: Option<Old>, time: Duration) -> anyhow::Result<Option<bool>> {
    let line = &rig.network.line;
    match cell.what {
        What::Cut(_) => {
            line.filter(&cell.during());
            sleep(if cell.is_dark() { DARK } else { time }).await;
            line.filter(cell.after());
        }
        What::Rebinding => line.rebind(),
        What::Address => rig.network.change_address()?,
    }
    match old {
        Some(old) => Ok(Some(old.lives().await)),
        None => Ok(None),
    }
}

/// When a dial worked, if it did.
type Dial = Option<Instant>;

/// Dials at an interval, whether earlier ones are answered or not.
async fn dial(rig: &Rig, until: Instant) -> anyhow::Result<Vec<Dial>> {
    let mut dials = JoinSet::new();
    let mut next = Instant::now();
    while next < until {
        let connecting = rig.connecting(Link::Quic, "echo");
        dials.spawn(async move {
            let works = async { transfers(connecting.await.ok()?).await.then(Instant::now) };
            timeout(DIAL_LIMIT, works).await.ok().flatten()
        });
        next += DIAL_EVERY;
        sleep_until(next).await;
    }
    // Dials of the last seconds have their chance, too.
    sleep(Duration::from_secs(1)).await;
    let mut outcomes = Vec::new();
    while let Some(outcome) = dials.try_join_next() {
        outcomes.push(outcome?);
    }
    outcomes.extend(std::iter::repeat_n(None, dials.len()));
    Ok(outcomes)
}

/// Whether bytes go to the target and back.
async fn transfers(connection: Connection) -> bool {
    let (mut read, mut write) = tokio::io::split(connection);
    let (sent, mut back) = (vec![b'x'; TRANSFER], vec![0; TRANSFER]);
    let both = async { tokio::try_join!(write.write_all(&sent), read.read_exact(&mut back)) };
    matches!(timeout(TRANSFER_LIMIT, both).await, Ok(Ok(_))) && sent == back
}

/// Streams from before.
struct Old {
    still: Connection,
    /// The bytes that bulk streams have carried.
    carried: Vec<Arc<AtomicU64>>,
    bulk: JoinSet<anyhow::Result<()>>,
}

impl Old {
    /// Opens them, and waits until each carries bytes.
    async fn open(rig: &Rig, when: When) -> anyhow::Result<Self> {
        let mut still = rig.connect(Link::Quic, "echo").await?;
        anyhow::ensure!(answers(&mut still).await, "no echo at the beginning");
        let bulk = match when {
            When::Start | When::Idle(_) => Vec::new(),
            When::Bulk(_) => vec![(Bulk::Download, "zeros"), (Bulk::Upload, "discard")],
        };
        let mut old = Self { still, carried: Vec::new(), bulk: JoinSet::new() };
        for (bulk, command) in bulk {
            let carried = Arc::<AtomicU64>::default();
            old.bulk.spawn(carry(rig.connect(Link::Quic, command).await?, bulk, Arc::clone(&carried)));
            old.carried.push(carried);
        }
        anyhow::ensure!(old.carry(BULK_LIMIT).await, "no bulk at the beginning");
        Ok(old)
    }

    /// Whether all of them go on.
    async fn lives(mut self) -> bool {
        self.carry(ANSWER_LIMIT).await && answers(&mut self.still).await
    }

    /// Whether every bulk stream carries more than it has.
    async fn carry(&mut self, limit: Duration) -> bool {
        let carried = self.carried.clone();
        let count = || carried.iter().map(|bytes| bytes.load(Ordering::Relaxed));
        let before: Vec<u64> = count().collect();
        let end = Instant::now() + limit;
        while count().zip(&before).any(|(now, before)| now == *before) {
            if Instant::now() >= end || self.bulk.try_join_next().is_some() {
                return false;
            }
            sleep(LOOK).await;
        }
        true
    }
}

async fn answers(connection: &mut Connection) -> bool {
    let echo = async {
        connection.write_all(b"x").await.ok()?;
        connection.read_u8().await.ok()
    };
    timeout(ANSWER_LIMIT, echo).await == Ok(Some(b'x'))
}

/// Tunnels that the agent has made, on QUIC and on h2.
fn made(rig: &Rig) -> [usize; 2] {
    let made = rig.said(Link::Quic, " connected server=");
    let on_quic = made.iter().filter(|line| line.contains("link=\"quic\"")).count();
    [on_quic, made.len() - on_quic]
}

fn judge(
    cell: Cell,
    rig: &Rig,
    dials: &[Dial],
    began: Instant,
    time: Duration,
    streams_live: Option<bool>,
) -> Outcome {
    let counted = if cell.is_dark() { began + DARK } else { began };
    let outage = outage(dials, counted, began + time);
    let [tunnels_quic, tunnels_h2] = made(rig);
    let most_tunnels = most_tunnels(time);
    let streams_hold = streams_live != Some(false) || !cell.keeps_streams() || time > WAITS;
    Outcome {
        dials: dials.len(),
        failed: dials.iter().filter(|dial| dial.is_none()).count(),
        outage_s: outage.as_secs_f64(),
        streams_live,
        tunnels_quic,
        tunnels_h2,
        most_tunnels,
        holds: outage <= OUTAGE && streams_hold && tunnels_quic + tunnels_h2 <= most_tunnels,
    }
}

/// Longest time without a dial that worked.
fn outage(dials: &[Dial], from: Instant, until: Instant) -> Duration {
    let mut ends: Vec<Instant> = dials.iter().flatten().copied().filter(|at| *at > from).collect();
    ends.extend([from, until]);
    ends.sort();
    ends.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
}

/// Most tunnels that an agent makes: the first, another at once, and one more after each pause.
fn most_tunnels(time: Duration) -> usize {
    let (mut count, mut pause, mut next) = (2, FIRST_PAUSE, FIRST_PAUSE);
    while next < time {
        count += 1;
        pause *= 2;
        next += pause;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn pauses_allow_few_tunnels() {
        let times = [40, 54, 55, 162, 163, 378, 379].map(|time| most_tunnels(s(time)));
        assert_eq!(times, [2, 2, 3, 3, 4, 4, 5]);
    }

    #[test]
    fn an_outage_is_counted_from_its_beginning_to_the_next_dial_that_worked() {
        let from = Instant::now() + s(100);
        let dials = [Some(from + s(12)), None, Some(from - s(3)), Some(from + s(13)), Some(from + s(15))];
        assert_eq!(outage(&dials, from, from + s(20)), s(12));
        assert_eq!(outage(&dials, from, from + s(40)), s(25));
        assert_eq!(outage(&[], from, from + s(40)), s(40));
    }
}
