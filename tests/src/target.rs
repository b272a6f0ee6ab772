//! Targets: servers that do one thing each.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::payload::{self, Digest, Hasher, Header};
use crate::task::{Task, spawn};
use crate::wait::within;

/// A sink's account of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Bytes behind the header.
    pub len: usize,
    /// Their digest.
    pub digest: Digest,
    /// Whether they ended with an orderly end, and not with a reset.
    pub clean: bool,
}

/// A server on a loopback address. Dropping it ends its connections.
#[derive(Debug)]
pub struct Target {
    /// The target's address.
    pub addr: SocketAddr,
    seen: Arc<Seen>,
    _task: Option<Task>,
    _held: Vec<TcpStream>,
    _listener: Option<TcpListener>,
}

/// Counts of all connections of a target.
#[derive(Debug, Default)]
struct Seen {
    moved: AtomicU64,
    accepted: AtomicU64,
    reports: watch::Sender<HashMap<u64, Report>>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.addr.fmt(f)
    }
}

/// Holds a target's bytes back until a test opens it.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }
}

impl Gate {
    /// Opens the gate for good.
    pub fn open(&self) {
        self.0.close();
    }

    pub(crate) async fn wait(&self) {
        // Closing the channel is the signal, so an error is expected.
        let _ = self.0.acquire().await;
    }
}

impl Target {
    /// Runs `serve` for each connection. A failure shows at the other end.
    pub async fn new<F>(ip: Ipv4Addr, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        Self::with(ip, move |socket, _| serve(socket)).await
    }

    async fn with<F>(ip: Ipv4Addr, serve: impl Fn(TcpStream, Arc<Seen>) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let (addr, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
        let by_task = Arc::clone(&seen);
        let task = spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                by_task.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(serve(socket, Arc::clone(&by_task)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, seen, _task: Some(task), _held: Vec::new(), _listener: None }
    }

    /// Sends everything back.
    pub async fn echo(ip: Ipv4Addr) -> Self {
        Self::new(ip, async |mut socket| {
            let (mut from, mut to) = socket.split();
            tokio::io::copy(&mut from, &mut to).await?;
            to.shutdown().await
        })
        .await
    }

    /// Reads a header and all bytes behind it, and keeps a [`Report`].
    pub async fn sink(ip: Ipv4Addr) -> Self {
        Self::with(ip, async |mut socket, seen| {
            let header = Header::read(&mut socket).await?;
            let (mut hasher, mut len, mut buffer) = (Hasher::default(), 0, vec![0; 64 * 1024]);
            let clean = loop {
                match socket.read(&mut buffer).await {
                    Ok(0) => break true,
                    Ok(n) => {
                        hasher.add(&buffer[..n]);
                        len += n;
                        seen.moved.fetch_add(n as u64, Ordering::Relaxed);
                    }
                    Err(_) => break false,
                }
            };
            let report = Report { len, digest: hasher.finish(), clean };
            seen.reports.send_modify(|reports| {
                reports.insert(header.seed, report);
            });
            Ok(())
        })
        .await
    }

    /// Reads a header, writes the payload that it names, and closes at once.
    pub async fn source(ip: Ipv4Addr) -> Self {
        Self::new(ip, async |mut socket| {
            let header = Header::read(&mut socket).await?;
            socket.write_all(&payload::bytes(header.seed, header.len)).await
        })
        .await
    }

    /// As [`Target::source`], but the second half waits for the gate.
    pub async fn gated(ip: Ipv4Addr, gate: Gate) -> Self {
        Self::new(ip, move |mut socket| {
            let gate = gate.clone();
            async move {
                let header = Header::read(&mut socket).await?;
                let bytes = payload::bytes(header.seed, header.len);
                socket.write_all(&bytes[..header.len / 2]).await?;
                gate.wait().await;
                socket.write_all(&bytes[header.len / 2..]).await
            }
        })
        .await
    }

    /// Writes a header and its payload before it reads a payload of the same
    /// length, then answers with the digest of what it read and closes.
    pub async fn speaks_first(ip: Ipv4Addr) -> Self {
        let next = AtomicU64::new(1 << 40);
        Self::new(ip, move |mut socket| {
            let header = Header::of(next.fetch_add(1, Ordering::Relaxed));
            async move {
                socket.write_all(&header.with_payload()).await?;
                let mut heard = vec![0; header.len];
                socket.read_exact(&mut heard).await?;
                socket.write_all(&payload::digest(&heard)).await
            }
        })
        .await
    }

    /// Reads a header and its payload, with `to_the_end` also the client's end,
    /// and answers with the payload's digest and the same payload again.
    pub async fn answers(ip: Ipv4Addr, to_the_end: bool) -> Self {
        Self::new(ip, move |mut socket| async move {
            let header = Header::read(&mut socket).await?;
            let mut heard = vec![0; header.len];
            socket.read_exact(&mut heard).await?;
            if to_the_end && socket.read(&mut [0]).await? != 0 {
                return Err(io::Error::other("more than was announced"));
            }
            socket.write_all(&payload::digest(&heard)).await?;
            socket.write_all(&heard).await
        })
        .await
    }

    /// Reads a header, writes the payload that it names, waits for one more
    /// byte, and resets.
    pub async fn resets(ip: Ipv4Addr) -> Self {
        Self::new(ip, async |mut socket| {
            let header = Header::read(&mut socket).await?;
            socket.write_all(&payload::bytes(header.seed, header.len)).await?;
            socket.read_u8().await?;
            socket.set_zero_linger()
        })
        .await
    }

    /// Neither reads nor writes.
    pub async fn stalls(ip: Ipv4Addr) -> Self {
        Self::new(ip, async |_socket| std::future::pending().await).await
    }

    /// Writes for ever, and never reads.
    pub async fn floods(ip: Ipv4Addr) -> Self {
        Self::with(ip, async |mut socket, seen| {
            let block = vec![0x55; 64 * 1024];
            loop {
                let n = socket.write(&block).await?;
                seen.moved.fetch_add(n as u64, Ordering::Relaxed);
            }
        })
        .await
    }

    /// A listener with a full queue: a client's SYN gets no answer.
    pub async fn black_hole(ip: Ipv4Addr) -> Self {
        const NO_ANSWER: std::time::Duration = std::time::Duration::from_millis(300);
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let (addr, mut held) = (listener.local_addr().unwrap(), Vec::new());
        while let Ok(connected) = tokio::time::timeout(NO_ANSWER, TcpStream::connect(addr)).await {
            held.push(connected.unwrap());
        }
        Self { addr, seen: Arc::default(), _task: None, _held: held, _listener: Some(listener) }
    }

    /// An address that nobody listens on, and that nobody else gets while the tests run.
    pub fn nobody(ip: Ipv4Addr) -> SocketAddr {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip, 0).into()).unwrap();
        let addr = socket.local_addr().unwrap();
        // Bound and not listening, it is refused as a free port is.
        std::mem::forget(socket);
        addr
    }

    /// Payload that a flood has written or a sink has read.
    pub fn moved(&self) -> u64 {
        self.seen.moved.load(Ordering::Relaxed)
    }

    /// Connections accepted.
    pub fn accepted(&self) -> u64 {
        self.seen.accepted.load(Ordering::Relaxed)
    }

    /// The report on the connection with this seed.
    pub async fn report(&self, seed: u64) -> Report {
        let mut reports = self.seen.reports.subscribe();
        let found = within("a sink's report", reports.wait_for(|reports| reports.contains_key(&seed))).await;
        found.unwrap()[&seed]
    }
}
