//! A stock agent that behaves as the real one does.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as Lock};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;
use tunnel_proto::packet::Packet;

use super::agent::{Connection, Metadata, StockAgent};
use crate::grpc::{Call, Hear, Say};
use crate::pki::Pki;
use crate::task::{Task, spawn};
use crate::wait::wait_for;

/// One read from a target, and so one DATA packet.
const READ: usize = 4096;

/// Packets that wait on one connection, in each direction.
const QUEUE: usize = 150;

/// Settings of the agent.
#[derive(Debug, Clone, Copy)]
pub struct GoSettings {
    /// Limit of a dial; fixed in the real agent.
    pub dial_limit: Duration,
    /// Interval of checks for the server's GOAWAY.
    pub probe_interval: Duration,
}

impl Default for GoSettings {
    fn default() -> Self {
        Self { dial_limit: Duration::from_secs(5), probe_interval: Duration::from_millis(100) }
    }
}

/// An agent that makes the dials it is asked for. Dropping it is SIGKILL.
#[derive(Debug)]
pub struct GoAgent {
    shared: Arc<Shared>,
    task: Task,
}

#[derive(Debug)]
struct Shared {
    settings: GoSettings,
    say: Mutex<Say>,
    last_id: AtomicI64,
    dials: AtomicU64,
    ignored: AtomicU64,
    table: Lock<HashMap<i64, Open>>,
}

/// A connection in the table.
#[derive(Debug)]
struct Open {
    data: mpsc::Sender<Bytes>,
    close: CancellationToken,
    /// Ready once CLOSE_RSP was sent.
    closed: oneshot::Receiver<()>,
}

impl GoAgent {
    /// Connects, and serves.
    pub async fn join(server: SocketAddr, pki: &Pki, metadata: Metadata) -> Self {
        Self::with(server, pki, metadata, GoSettings::default()).await
    }

    /// As [`GoAgent::join`], with other settings.
    pub async fn with(server: SocketAddr, pki: &Pki, metadata: Metadata, settings: GoSettings) -> Self {
        let (call, connection) = StockAgent::join(server, pki, metadata).await.apart();
        let Call { say, hear } = call;
        let shared = Arc::new(Shared {
            settings,
            say: Mutex::new(say),
            last_id: AtomicI64::new(0),
            dials: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            table: Lock::default(),
        });
        let serving = Arc::clone(&shared);
        let task = spawn(async move {
            let mut tasks = JoinSet::new();
            tokio::select! {
                () = serving.serve(hear, &mut tasks) => {}
                () = serving.probe(&connection) => {}
            }
            // All its connections end here, with the tasks.
        });
        Self { shared, task }
    }

    /// Connections to targets.
    pub fn connections(&self) -> usize {
        self.shared.table.lock().unwrap().len()
    }

    /// Dials that it was asked for.
    pub fn dials(&self) -> u64 {
        self.shared.dials.load(Ordering::Relaxed)
    }

    /// Packets that the agent ignores, DIAL_CLS among them.
    pub fn ignored(&self) -> u64 {
        self.shared.ignored.load(Ordering::Relaxed)
    }

    /// Whether it has left the server.
    pub fn has_left(&self) -> bool {
        self.task.is_finished()
    }

    /// The first SIGTERM: sends DRAIN and goes on.
    pub async fn drain(&self) {
        self.shared.say(&Packet::Drain).await;
    }

    /// Waits until it has no connection to a target.
    pub async fn wait_until_idle(&self) {
        wait_for("a stock agent to be idle", async || match self.connections() {
            0 => Ok(()),
            open => Err(format!("{open} connections")),
        })
        .await;
    }
}

impl Shared {
    async fn say(&self, packet: &Packet) {
        self.say.lock().await.packet(packet).await;
    }

    async fn say_closed(&self, connect_id: i64, error: &str) {
        self.say(&Packet::CloseResponse { error: error.to_owned(), connect_id }).await;
    }

    /// Drops all connections after the server's GOAWAY.
    async fn probe(&self, connection: &Connection) {
        let mut pace = interval(self.settings.probe_interval);
        while !connection.is_over().await {
            pace.tick().await;
        }
    }

    /// The only loop that receives: a wait in it makes all connections wait.
    async fn serve(self: &Arc<Self>, mut hear: Hear, tasks: &mut JoinSet<()>) {
        while let Ok(Some(message)) = hear.message_or_cut().await {
            while tasks.try_join_next().is_some() {}
            match Packet::decode(message).unwrap() {
                Packet::DialRequest { protocol, address, random } => {
                    let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
                    self.dials.fetch_add(1, Ordering::Relaxed);
                    tasks.spawn(Arc::clone(self).dial(id, protocol, address, random));
                }
                Packet::Data { connect_id: 0, .. } => {}
                Packet::Data { connect_id, data } => {
                    let known = self.table.lock().unwrap().get(&connect_id).map(|open| open.data.clone());
                    match known {
                        Some(queue) => drop(queue.send(data).await),
                        None => self.say_closed(connect_id, "unrecognized connectID").await,
                    }
                }
                Packet::CloseRequest { connect_id } => {
                    let known = self.table.lock().unwrap().remove(&connect_id);
                    match known {
                        Some(open) => {
                            open.close.cancel();
                            let _ = open.closed.await;
                        }
                        None => self.say_closed(connect_id, "Unknown connectID").await,
                    }
                }
                Packet::CloseDial { .. }
                | Packet::DialResponse { .. }
                | Packet::CloseResponse { .. }
                | Packet::Drain
                | Packet::Unknown(_) => {
                    self.ignored.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    async fn dial(self: Arc<Self>, id: i64, protocol: String, address: String, random: i64) {
        let connected = timeout(self.settings.dial_limit, TcpStream::connect(&address)).await;
        let error = match connected {
            _ if protocol != "tcp" => format!("dial {protocol}: unknown network {protocol}"),
            Ok(Ok(socket)) => return Box::pin(self.keep(id, socket, random)).await,
            Ok(Err(error)) => go_text(&address, &error),
            Err(_) => format!("dial tcp {address}: i/o timeout"),
        };
        self.say(&Packet::DialResponse { error, connect_id: 0, random }).await;
    }

    async fn keep(self: Arc<Self>, id: i64, socket: TcpStream, random: i64) {
        let (data, incoming) = mpsc::channel(QUEUE);
        let (done, closed) = oneshot::channel();
        let close = CancellationToken::new();
        self.table.lock().unwrap().insert(id, Open { data, close: close.clone(), closed });
        self.say(&Packet::DialResponse { error: String::new(), connect_id: id, random }).await;
        let (from, to) = socket.into_split();
        let (queue, queued) = mpsc::channel(QUEUE);
        tokio::select! {
            // Ends when the target does or the server wants it, after all that was read is sent.
            ((), ()) = async { tokio::join!(read(from, queue, close), self.send(id, queued)) } => {}
            () = write(to, incoming) => {}
        }
        self.say_closed(id, "").await;
        self.table.lock().unwrap().remove(&id);
        let _ = done.send(());
        // The socket is closed here, and unwritten bytes are lost.
    }

    async fn send(&self, connect_id: i64, mut queued: mpsc::Receiver<Bytes>) {
        while let Some(data) = queued.recv().await {
            self.say(&Packet::Data { connect_id, data }).await;
        }
    }
}

async fn read(mut from: OwnedReadHalf, queue: mpsc::Sender<Bytes>, close: CancellationToken) {
    let mut buffer = [0; READ];
    let reading = async {
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            if queue.send(Bytes::copy_from_slice(&buffer[..n])).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = close.cancelled() => {}
        () = reading => {}
    }
}

/// Never ends by itself: a target that takes no more is only found out by reading.
async fn write(mut to: OwnedWriteHalf, mut incoming: mpsc::Receiver<Bytes>) {
    while let Some(data) = incoming.recv().await {
        if to.write_all(&data).await.is_err() {
            while incoming.recv().await.is_some() {}
        }
    }
    std::future::pending().await
}

/// Go's text for the error.
fn go_text(address: &str, error: &io::Error) -> String {
    let texts = [
        (io::ErrorKind::ConnectionRefused, "connection refused"),
        (io::ErrorKind::NetworkUnreachable, "network is unreachable"),
        (io::ErrorKind::HostUnreachable, "no route to host"),
    ];
    match texts.iter().find(|(kind, _)| *kind == error.kind()) {
        Some((_, text)) => format!("dial tcp {address}: connect: {text}"),
        None => format!("dial tcp: lookup {address}: no such host"),
    }
}
