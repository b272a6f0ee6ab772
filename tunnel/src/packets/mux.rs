//! The state of a packet stream, which its connections and its driver share.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tunnel_proto::packet::Packet;
use tunnel_proto::packet_kind::PacketKind;

use super::conn::{Backlog, Conn, Limits, lock};
use super::member::Member;
use crate::duplex::Broken;
use crate::transport::error::DialFailure;

/// Packets that go ahead of data and wait to be sent. A peer that reads has none. Fewer would
/// refuse dials in bursts; more would queue for a peer that does not read.
const MAX_CONTROL: usize = 1024;

/// A peer that has taken nothing for this long gets no new dials if there are other agents.
/// Shorter mistakes the full window of a bulk transfer for it; longer delays dials.
const STUCK: Duration = Duration::from_secs(1);

/// Connections of one stream, including those being closed. Bounds the table of a peer that
/// only dials; no real stream comes near.
pub(super) const MAX_CONNECTIONS: usize = 1 << 16;

/// Where the answer to a dial goes.
pub(super) type AnswerSender = oneshot::Sender<Result<Member, DialFailure>>;

/// The part that this side of the stream plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Dials: a server towards an agent.
    Dialer,
    /// Answers dials: an agent, or a server towards a client.
    Answerer,
}

/// One stream of packets. Clones are the same stream.
#[derive(Debug, Clone)]
pub struct Mux {
    pub(super) state: Arc<MuxState>,
}

#[derive(Debug)]
pub(super) struct MuxState {
    role: Role,
    pub(super) backlog: Backlog,
    // Neither lock is held while the other, or a connection's, is taken.
    table: Mutex<Table>,
    outgoing: Mutex<Outgoing>,
    pub(super) peer_drains: CancellationToken,
    pub(super) stop: CancellationToken,
    pub(super) closed: CancellationToken,
}

impl Mux {
    pub(super) fn new(role: Role, limits: Limits) -> Self {
        Self {
            state: Arc::new(MuxState {
                role,
                backlog: Backlog::new(limits),
                table: Mutex::default(),
                outgoing: Mutex::default(),
                peer_drains: CancellationToken::new(),
                stop: CancellationToken::new(),
                closed: CancellationToken::new(),
            }),
        }
    }

    /// Whether packets have waited for a second without the peer taking any.
    pub fn is_stuck(&self) -> bool {
        self.outgoing().blocked.is_some_and(|since| since.elapsed() >= STUCK)
    }

    pub(crate) fn role(&self) -> Role {
        self.state.role
    }

    /// Tells the peer that this side wants no more dials.
    pub(crate) fn say_drain(&self) {
        self.control(&Packet::Drain);
    }

    /// Waits until the peer has said that it wants no more dials. Cancel safe.
    pub(crate) async fn peer_drains(&self) {
        self.state.peer_drains.cancelled().await;
    }

    /// Ends the stream and all its connections at once.
    pub fn close(&self, why: &str) {
        self.table().set_closed(why);
        self.state.stop.cancel();
    }

    /// Waits until the stream is over. Returns the reason. Cancel safe.
    pub async fn closed(&self) -> String {
        self.state.closed.cancelled().await;
        self.table().why().to_owned()
    }

    /// Queues a packet that goes ahead of data. Returns `false` when too many wait.
    pub(super) fn control(&self, packet: &Packet) -> bool {
        let mut outgoing = self.outgoing();
        if outgoing.control.len() >= MAX_CONTROL {
            return false;
        }
        outgoing.control.push_back((packet.kind(), packet.encode()));
        outgoing.wake();
        true
    }

    /// Takes a control packet back. Returns `false` when it was sent already.
    pub(super) fn unsay(&self, packet: &Bytes) -> bool {
        let mut outgoing = self.outgoing();
        let at = outgoing.control.iter().position(|(_, queued)| queued == packet);
        at.is_some_and(|at| outgoing.control.remove(at).is_some())
    }

    /// Lists a connection as ready to send. Each is listed at most once.
    pub(super) fn ready(&self, conn: Arc<Conn>) {
        let mut outgoing = self.outgoing();
        outgoing.ready.push_back(conn);
        outgoing.wake();
    }

    /// Has the driver check a connection's delayed close at `at`.
    pub(super) fn delay(&self, at: Instant, conn: Arc<Conn>) {
        let mut outgoing = self.outgoing();
        outgoing.delayed.push((at, conn));
        outgoing.wake();
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.state.table)
    }

    pub(super) fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        lock(&self.state.outgoing)
    }
}

/// The connections of a stream and their names.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) conns: HashMap<i64, Arc<Conn>>,
    /// This side's dials, by the number that the answer will carry.
    pub(super) dials: HashMap<i64, AnswerSender>,
    /// The peer's dials that are being made, by the peer's number.
    pub(super) asked: HashMap<i64, CancellationToken>,
    /// The newest connection id given by this side.
    pub(super) last_id: i64,
    closed: Option<String>,
}

impl Table {
    pub(super) fn why(&self) -> &str {
        self.closed.as_deref().unwrap_or_default()
    }

    /// Keeps the first reason, which is the cause.
    pub(super) fn set_closed(&mut self, why: &str) {
        self.closed.get_or_insert_with(|| why.to_owned());
    }

    /// Enters a dial of this side.
    pub(super) fn dial(&mut self, random: i64, answer: AnswerSender) -> Result<(), DialFailure> {
        if let Some(why) = &self.closed {
            return Err(DialFailure::Lost(why.clone()));
        }
        if self.conns.len() + self.dials.len() >= MAX_CONNECTIONS {
            return Err(DialFailure::Busy);
        }
        self.dials.insert(random, answer);
        Ok(())
    }

    /// Removes a dial. Returns whether it was still open.
    pub(super) fn forget_dial(&mut self, random: i64) -> bool {
        self.dials.remove(&random).is_some()
    }

    /// Enters a connection made for the peer.
    pub(super) fn insert(&mut self, conn: Arc<Conn>, random: i64) {
        self.asked.remove(&random);
        if self.closed.is_none() {
            self.conns.insert(conn.id, conn);
        } else {
            conn.ended(Err(Broken::Lost(self.why().to_owned())));
        }
    }

    pub(super) fn forget_asked(&mut self, random: i64) {
        self.asked.remove(&random);
    }

    pub(super) fn remove(&mut self, id: i64) -> Option<Arc<Conn>> {
        self.conns.remove(&id)
    }

    pub(super) fn get(&self, id: i64) -> Option<Arc<Conn>> {
        self.conns.get(&id).cloned()
    }

    /// Empties the table of a stream that is over. Returns the connections and dials to end.
    pub(super) fn clear(&mut self) -> (Vec<Arc<Conn>>, Vec<AnswerSender>) {
        for (_, cancelled) in self.asked.drain() {
            cancelled.cancel();
        }
        let conns = self.conns.drain().map(|(_, conn)| conn).collect();
        (conns, self.dials.drain().map(|(_, answer)| answer).collect())
    }
}

/// Packets and connections that wait for the driver.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) control: VecDeque<(PacketKind, Bytes)>,
    /// Connections that are ready to send, each at most once.
    pub(super) ready: VecDeque<Arc<Conn>>,
    /// New delayed closes.
    pub(super) delayed: Vec<(Instant, Arc<Conn>)>,
    /// Since when packets have waited without the peer taking any.
    pub(super) blocked: Option<Instant>,
    pub(super) driver: Option<Waker>,
}

impl Outgoing {
    pub(super) fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}
