//! Canaries: streams through the tunnel that must not notice an attack. Each sends a piece now and then, and
//! compares every byte that comes back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep};

use crate::bystander::Echoed;
use crate::figures::{histogram, record};
use crate::reasons::Reasons;

/// Time between two looks for canaries that wait.
const LOOK: Duration = Duration::from_millis(10);

/// Streams that are all there at first. Dropping them cuts them.
#[derive(Debug)]
pub(crate) struct Canaries {
    flock: Arc<Mutex<Flock>>,
    stop: watch::Sender<bool>,
    singing: JoinSet<()>,
}

#[derive(Debug)]
struct Flock {
    /// The moment since which each waits for its bytes.
    waiting: Vec<Option<Instant>>,
    there: usize,
    harmed: Reasons,
    times: Histogram<u64>,
}

/// The canaries' view of an event.
#[derive(Debug)]
pub(crate) struct Noticed {
    /// Those that were there before it.
    pub(crate) there: usize,
    /// Why others are not there any more: the end of a stream, a wrong byte, or silence.
    pub(crate) harmed: Reasons,
    /// Round trips, in nanoseconds.
    pub(crate) times: Histogram<u64>,
}

impl Canaries {
    /// Lets streams sing, each once in `pause`, evenly spread.
    pub(crate) fn release(streams: Vec<Echoed>, pause: Duration) -> anyhow::Result<Self> {
        let (there, count) = (streams.len(), u32::try_from(streams.len())?);
        let flock =
            Flock { waiting: vec![None; there], there, harmed: Reasons::default(), times: histogram()? };
        let (flock, (stop, stopped)) = (Arc::new(Mutex::new(flock)), watch::channel(false));
        let mut singing = JoinSet::new();
        for (number, echoed) in (0..count).zip(streams) {
            let begin = Instant::now() + pause * number / count;
            let canary = Canary { number: number as usize, flock: Arc::clone(&flock) };
            singing.spawn(canary.sing(echoed, begin, pause, stopped.clone()));
        }
        Ok(Self { flock, stop, singing })
    }

    /// The canaries' view since the last call, up to the end of each round trip that has begun by now.
    pub(crate) async fn noticed(&self) -> anyhow::Result<Noticed> {
        let now = Instant::now();
        while self.flock().waiting.iter().flatten().any(|since| *since <= now) {
            sleep(LOOK).await;
        }
        self.take()
    }

    /// Ends all streams in order.
    pub(crate) async fn end(mut self) -> anyhow::Result<Noticed> {
        self.stop.send_replace(true);
        while let Some(ended) = self.singing.join_next().await {
            ended?;
        }
        self.take()
    }

    fn take(&self) -> anyhow::Result<Noticed> {
        let mut flock = self.flock();
        let (harmed, times) =
            (std::mem::take(&mut flock.harmed), std::mem::replace(&mut flock.times, histogram()?));
        let there = flock.there;
        flock.there -= usize::try_from(harmed.total())?;
        Ok(Noticed { there, harmed, times })
    }

    fn flock(&self) -> MutexGuard<'_, Flock> {
        self.flock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Canary {
    number: usize,
    flock: Arc<Mutex<Flock>>,
}

impl Canary {
    async fn sing(self, stream: Echoed, begin: Instant, pause: Duration, stopped: watch::Receiver<bool>) {
        if let Err(error) = self.until_stopped(stream, begin, pause, stopped).await {
            let mut flock = self.flock();
            flock.waiting[self.number] = None;
            flock.harmed.count(&format!("{error:#}"));
        }
    }

    async fn until_stopped(
        &self,
        mut stream: Echoed,
        begin: Instant,
        pause: Duration,
        mut stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let mut pace = interval_at(begin, pause);
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = pace.tick() => {}
                _ = stopped.changed() => return stream.finish().await,
            }
            let began = Instant::now();
            self.flock().waiting[self.number] = Some(began);
            stream.round_trip().await?;
            let mut flock = self.flock();
            flock.waiting[self.number] = None;
            record(&mut flock.times, began);
        }
    }

    fn flock(&self) -> MutexGuard<'_, Flock> {
        self.flock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tunnel_client::Protocol;
    use tunnel_client::fake::Fault;

    use super::*;
    use crate::target::command::Command;
    use crate::tests::{BOTH, Scene};

    async fn canaries(scene: &Scene, count: u64) -> Canaries {
        let mut streams = Vec::new();
        for seed in 0..count {
            let connection = scene.bench.command(Command::Echo, b"").await.unwrap();
            streams.push(Echoed::new(connection, seed, 100));
        }
        Canaries::release(streams, Duration::from_millis(20)).unwrap()
    }

    async fn heard(canaries: &Canaries, count: u64) {
        let heard = || {
            let flock = canaries.flock();
            flock.times.len() + flock.harmed.total()
        };
        while heard() < count {
            sleep(LOOK).await;
        }
    }

    #[tokio::test]
    async fn canaries_that_nothing_happens_to_are_all_there_in_the_end() {
        for protocol in BOTH {
            let scene = Scene::new(protocol, Fault::None).await.unwrap();
            let canaries = canaries(&scene, 5).await;
            heard(&canaries, 20).await;
            let noticed = canaries.noticed().await.unwrap();
            assert_eq!((noticed.there, noticed.harmed.total()), (5, 0), "{}", noticed.harmed);
            let end = canaries.end().await.unwrap();
            assert_eq!((end.there, end.harmed.total()), (5, 0), "{}", end.harmed);
        }
    }

    #[tokio::test]
    async fn a_wrong_byte_and_a_cut_stream_are_harm_of_their_time() {
        let scene = Scene::new(Protocol::Connect, Fault::Corrupt).await.unwrap();
        let corrupted = canaries(&scene, 3).await;
        heard(&corrupted, 3).await;
        let noticed = corrupted.noticed().await.unwrap();
        assert_eq!((noticed.there, noticed.harmed.to_string()), (3, "3 x other bytes came back".to_owned()));

        let scene = Scene::new(Protocol::Connect, Fault::None).await.unwrap();
        let cut = canaries(&scene, 3).await;
        heard(&cut, 3).await;
        drop(scene);
        while cut.flock().harmed.total() < 3 {
            sleep(LOOK).await;
        }
        assert_eq!(cut.noticed().await.unwrap().there, 3);
        assert_eq!(cut.end().await.unwrap().there, 0);
    }
}
