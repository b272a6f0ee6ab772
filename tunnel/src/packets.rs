//! Many connections on one stream of Konnectivity's packets.
//!
//! The packets have no flow control of a connection's own: whoever does not
//! read would stop everybody else if the shared stream waited for them. So the
//! stream's reader never waits for anybody. Each connection has a queue, bounded
//! in bytes. While one fills up the stream is read slower, by a bounded delay
//! that holds its sender back and that others can live with; one that overflows
//! all the same is closed, alone, with its reason. Towards the peer
//! each connection has a small buffer, served in turn; packets that open and
//! close connections go ahead of data, except the one that closes a connection,
//! which follows its last byte.
//!
//! Used between a server and an agent when one of them is Konnectivity's. The other
//! links do not need it: there a connection has a stream of its own.

mod conn;
mod dial;
mod driver;
mod table;

pub use conn::Member;
pub use dial::Asked;
pub use driver::{Counters, Halves};

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel_proto::packet::Packet;
use tunnel_proto::packet_kind::PacketKind;

use crate::drain::Drain;
use conn::Conn;
use table::Table;

/// Packets that wait to be sent and open or close something, or answer
/// nonsense. A peer that reads has none; one that does not gets no more dials.
const MAX_CONTROL: usize = 1024;

/// How long a peer may take nothing before dials are better sent elsewhere. A
/// window that is full for a moment is how bulk transfers look.
const STUCK: Duration = Duration::from_secs(1);

/// Dials of the peer that wait to be taken. Their taker only spawns.
const MAX_ASKED: usize = 256;

/// What this side of the stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Asks for connections: a server towards an agent.
    Dialer,
    /// Makes them: an agent, or a server towards a client.
    Answerer,
}

/// How much may wait, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Received for one connection and not yet taken.
    pub connection: usize,
    /// The same for all connections of the stream together.
    pub stream: usize,
}

/// One stream of packets. Clones are the same stream.
#[derive(Debug, Clone)]
pub struct Mux {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    role: Role,
    limits: Limits,
    /// Bytes received and not yet taken, of all connections.
    waiting: AtomicUsize,
    // Neither lock is held while the other, or a connection's, is taken.
    table: Mutex<Table>,
    outgoing: Mutex<Outgoing>,
    peer_drains: CancellationToken,
    stop: CancellationToken,
    closed: CancellationToken,
}

/// What the driver is to send.
#[derive(Debug, Default)]
struct Outgoing {
    control: VecDeque<(PacketKind, Bytes)>,
    /// Connections that have something to send, each at most once.
    ready: VecDeque<Arc<Conn>>,
    /// Connections that are to be closed later.
    delayed: Vec<(Instant, Arc<Conn>)>,
    /// Since when the peer has taken nothing, while something waits for it.
    blocked: Option<Instant>,
    driver: Option<Waker>,
}

impl Mux {
    /// Begins to serve a stream. Dials of the peer come out of the receiver.
    pub fn start(halves: Halves, role: Role, limits: Limits, drain: &Drain) -> (Self, mpsc::Receiver<Asked>) {
        let (asked, dials) = mpsc::channel(MAX_ASKED);
        let mux = Self::new(role, limits);
        drain.spawn("packet stream", driver::drive(mux.clone(), halves, asked));
        (mux, dials)
    }

    fn new(role: Role, limits: Limits) -> Self {
        Self {
            shared: Arc::new(Shared {
                role,
                limits,
                waiting: AtomicUsize::new(0),
                table: Mutex::default(),
                outgoing: Mutex::default(),
                peer_drains: CancellationToken::new(),
                stop: CancellationToken::new(),
                closed: CancellationToken::new(),
            }),
        }
    }

    /// Whether the peer has taken nothing for a while, though something waits.
    pub fn is_stuck(&self) -> bool {
        self.outgoing().blocked.is_some_and(|since| since.elapsed() >= STUCK)
    }

    /// What this side of the stream does.
    pub(crate) fn role(&self) -> Role {
        self.shared.role
    }

    /// Tells the peer that this side wants no more dials.
    pub fn say_drain(&self) {
        self.control(&Packet::Drain);
    }

    /// Waits until the peer has said that it wants no more dials. Cancel safe.
    pub async fn peer_drains(&self) {
        self.shared.peer_drains.cancelled().await;
    }

    /// Ends the stream and all its connections at once.
    pub fn close(&self, why: &str) {
        self.table().set_closed(why);
        self.shared.stop.cancel();
    }

    /// Waits until the stream is over, and says why. Cancel safe.
    pub async fn closed(&self) -> String {
        self.shared.closed.cancelled().await;
        self.table().why().to_owned()
    }

    /// Queues a packet that goes ahead of data; `false` when too many wait.
    fn control(&self, packet: &Packet) -> bool {
        let mut outgoing = self.outgoing();
        if outgoing.control.len() >= MAX_CONTROL {
            return false;
        }
        outgoing.control.push_back((packet.kind(), packet.encode()));
        outgoing.wake();
        true
    }

    /// Takes a control packet back; whether it had not been sent yet.
    fn unsay(&self, packet: &Bytes) -> bool {
        let mut outgoing = self.outgoing();
        let at = outgoing.control.iter().position(|(_, queued)| queued == packet);
        at.is_some_and(|at| outgoing.control.remove(at).is_some())
    }

    /// A connection has something to send.
    fn ready(&self, conn: Arc<Conn>) {
        let mut outgoing = self.outgoing();
        outgoing.ready.push_back(conn);
        outgoing.wake();
    }

    /// A connection is to be looked at again at `at`.
    fn delay(&self, at: Instant, conn: Arc<Conn>) {
        let mut outgoing = self.outgoing();
        outgoing.delayed.push((at, conn));
        outgoing.wake();
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.shared.table)
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        lock(&self.shared.outgoing)
    }
}

impl Outgoing {
    fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

/// Nothing panics while it holds one of these locks, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "packets/tests.rs"]
mod tests;
