//! Bystanders of an event: dials at a steady rate, and streams of which every byte comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tunnel_client::Connection;

use crate::dialing::within;
use crate::figures::histogram;
use crate::pace;
use crate::payload::Payload;
use crate::reasons::Reasons;

/// Longest time until dials that are told to stop do so.
const LOOK: Duration = Duration::from_millis(50);

/// The results of dials.
pub(crate) struct Dials {
    pub(crate) done: u64,
    pub(crate) failed: Reasons,
    /// Of those that did not fail, in nanoseconds.
    pub(crate) times: Histogram<u64>,
}

impl Dials {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { done: 0, failed: Reasons::default(), times: histogram()? })
    }

    pub(crate) fn add(&mut self, more: Self) -> anyhow::Result<()> {
        self.done += more.done;
        self.failed.add(more.failed);
        Ok(self.times.add(more.times)?)
    }

    pub(crate) fn count(&mut self, dialled: anyhow::Result<Duration>) {
        self.done += 1;
        match dialled {
            Ok(took) => self.times.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)),
            Err(error) => self.failed.count(&format!("{error:#}")),
        }
    }
}

/// Dials at this rate per second, whether or not earlier ones have ended, until it is told to stop.
pub(crate) async fn dials<D, T>(
    mut dial: impl FnMut() -> D,
    rate: f64,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Dials>
where
    D: Future<Output = anyhow::Result<T>> + Send + 'static,
    T: Send,
{
    let mut dials = Dials::new()?;
    let mut dialling = JoinSet::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        pace::until(next.min(now + LOOK)).await;
        if now + LOOK < next {
            continue;
        }
        next += Duration::from_secs_f64(1.0 / rate);
        let dial = dial();
        dialling.spawn(async move {
            let began = Instant::now();
            dial.await.map(|_| began.elapsed())
        });
        while let Some(dialled) = dialling.try_join_next() {
            dials.count(dialled?);
        }
    }
    while let Some(dialled) = dialling.join_next().await {
        dials.count(dialled?);
    }
    Ok(dials)
}

/// A connection to an echo, and the bytes that it has to bring back.
pub(crate) struct Echoed {
    connection: Connection,
    payload: Payload,
    sent: Vec<u8>,
    back: Vec<u8>,
}

impl Echoed {
    /// Over a connection that echoes, with pieces of this length.
    pub(crate) fn new(connection: Connection, seed: u64, piece: usize) -> Self {
        Self { connection, payload: Payload::new(seed), sent: vec![0; piece], back: vec![0; piece] }
    }

    /// Sends a piece, and compares all that comes back.
    pub(crate) async fn round_trip(&mut self) -> anyhow::Result<()> {
        self.payload.fill(&mut self.sent);
        within("write", self.connection.write_all(&self.sent)).await??;
        within("echo", self.connection.read_exact(&mut self.back)).await??;
        anyhow::ensure!(self.sent == self.back, "other bytes came back");
        Ok(())
    }

    /// Ends in order, and reads to the other end's end.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        within("end of writing", self.connection.shutdown()).await??;
        let more = within("end of the echo", self.connection.read(&mut self.back)).await??;
        anyhow::ensure!(more == 0, "{more} bytes too many came back");
        Ok(())
    }
}
