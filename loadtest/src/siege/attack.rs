//! The parts that every flood shares: the ground, its count, and means to do a thing often.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tunnel_tests::frames::{SETTINGS, frame};
use tunnel_tests::raw::PREFACE;

use super::ground::Ground;

/// The strangers' host, another than the bystanders': `127.0.0.9`.
pub(super) const STRANGER: u8 = 9;

/// Flag of an answer to SETTINGS.
const ACK: u8 = 1;

/// Longest time beyond its own for a flood that has to do a thing so many times.
const OVERTIME: Duration = Duration::from_secs(12);

/// Time between two looks at the count.
const LOOK: Duration = Duration::from_millis(20);

/// A flood that goes on.
#[derive(Debug)]
pub(crate) struct Attack {
    pub(super) ground: Ground,
    done: AtomicU64,
    failed: AtomicU64,
}

/// How often a flood did what it does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    /// Things sent, opened or asked.
    pub(crate) done: u64,
    /// Things that the server refused or cut.
    pub(crate) cut: u64,
}

impl Attack {
    pub(crate) fn new(ground: Ground) -> Arc<Self> {
        Arc::new(Self { ground, done: AtomicU64::new(0), failed: AtomicU64::new(0) })
    }

    /// Floods until it is over, or its time is and it has done `enough`.
    ///
    /// # Errors
    /// When the flood could not be prepared.
    pub(crate) async fn run(
        self: &Arc<Self>,
        flood: impl Future<Output = anyhow::Result<()>>,
        enough: u64,
    ) -> anyhow::Result<Tally> {
        tokio::select! {
            over = flood => over?,
            () = self.time(enough) => {}
        }
        Ok(Tally { done: self.done.load(Ordering::Relaxed), cut: self.failed.load(Ordering::Relaxed) })
    }

    async fn time(&self, enough: u64) {
        let own = Duration::from_secs_f64(self.ground.seconds);
        let end = Instant::now() + own + OVERTIME;
        sleep(own).await;
        while self.done.load(Ordering::Relaxed) < enough && Instant::now() < end {
            sleep(LOOK).await;
        }
    }

    /// Counts what was done.
    pub(super) fn did(&self, count: u64) {
        self.done.fetch_add(count, Ordering::Relaxed);
    }

    /// Does a thing `most` times, by so many workers at once.
    pub(super) async fn repeat<F>(
        self: &Arc<Self>,
        workers: usize,
        most: u64,
        act: impl Fn(Arc<Self>, u64) -> F,
    ) where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        drop(self.each(workers, most, act).await);
    }

    /// Opens `most` things, by so many workers at once, and holds them for the rest of the time.
    pub(super) async fn hold<F, T>(
        self: &Arc<Self>,
        workers: usize,
        most: u64,
        open: impl Fn(Arc<Self>, u64) -> F,
    ) where
        F: Future<Output = anyhow::Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let _held = self.each(workers, most, open).await;
        std::future::pending().await
    }

    async fn each<F, T>(
        self: &Arc<Self>,
        workers: usize,
        most: u64,
        act: impl Fn(Arc<Self>, u64) -> F,
    ) -> Vec<T>
    where
        F: Future<Output = anyhow::Result<T>> + Send + 'static,
        T: Send + 'static,
    {
        let (mut acting, mut results) = (JoinSet::new(), Vec::new());
        for number in 0..most + workers as u64 {
            if (acting.len() >= workers || number >= most)
                && let Some(ended) = acting.join_next().await
            {
                match ended {
                    Ok(Ok(result)) => results.push(result),
                    Ok(Err(_)) | Err(_) => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
                }
            }
            if number < most {
                acting.spawn(act(Arc::clone(self), number));
            }
        }
        results
    }

    /// A connection to the frontend's Unix socket.
    pub(super) async fn unix(&self) -> anyhow::Result<UnixStream> {
        Ok(UnixStream::connect(&self.ground.uds).await?)
    }

    /// An HTTP/2 connection to the frontend on the Unix socket.
    pub(super) async fn http2(&self) -> anyhow::Result<Http2> {
        Http2::over(self.unix().await?).await
    }
}

/// A TCP connection from another host.
pub(super) async fn tcp_from(host: u8, to: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into())?;
    let tcp = socket.connect(to).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Sends bytes, and reads to the other end's end. Returns the count of bytes read.
pub(super) async fn ask(mut io: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8]) -> anyhow::Result<u64> {
    io.write_all(bytes).await?;
    Ok(tokio::io::copy(&mut io, &mut tokio::io::sink()).await?)
}

/// An HTTP/2 connection whose frames are written by hand. What comes back is read and dropped.
#[derive(Debug)]
pub(super) struct Http2 {
    to: tokio::net::unix::OwnedWriteHalf,
    _reading: JoinSet<()>,
}

impl Http2 {
    async fn over(io: UnixStream) -> anyhow::Result<Self> {
        let (mut from, mut to) = io.into_split();
        to.write_all(PREFACE).await?;
        // The other end's settings apply from the answer to them on.
        from.read_u8().await?;
        to.write_all(&frame(SETTINGS, ACK, 0, &[])).await?;
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            // Its end shows at the next write.
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        });
        Ok(Self { to, _reading: reading })
    }

    pub(super) async fn send(&mut self, frames: &[u8]) -> anyhow::Result<()> {
        Ok(self.to.write_all(frames).await?)
    }
}
