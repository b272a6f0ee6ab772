//! The one task that reads and writes a packet stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{Instrument as _, debug_span};

use super::conn::{Conn, Limits};
use super::dial::PacketDial;
use super::mux::{Mux, Role};
use super::receiving::Receiving;
use super::sending::Sending;
use crate::drain::Drain;
use crate::duplex::Broken;
use crate::packet_counters::PacketCounters;
use crate::relay::Budget;

/// Dials of the peer that wait to be taken. The task that takes them only spawns. Fewer
/// would refuse dials of a burst; more would only wait on an overloaded agent.
const DIAL_QUEUE: usize = 256;

/// Least time between two searches for connections to close. Without it, thousands of
/// connections would wake this task once each; closing late by as much harms nobody.
const CLOSE_TICK: Duration = Duration::from_millis(50);

/// Accounts of a packet stream: the packets of both directions, and the memory of begun messages.
#[derive(Debug, Clone)]
pub struct Counters {
    /// From the peer.
    pub received: PacketCounters,
    /// To the peer.
    pub sent: PacketCounters,
    /// Counts messages of which only a part has come.
    pub begun: Arc<Budget>,
}

/// The two directions of a gRPC call.
#[derive(Debug)]
pub struct Halves {
    /// Packets to the peer.
    pub send: SendStream<Bytes>,
    /// Packets of the peer.
    pub body: RecvStream,
    /// Whether the peer made the call, so that this end finishes it with trailers.
    pub called: bool,
    /// Counts both directions.
    pub counters: Counters,
}

impl Mux {
    /// Begins to serve a stream. The receiver yields the peer's dials.
    pub fn start(
        halves: Halves,
        role: Role,
        limits: Limits,
        drain: &Drain,
    ) -> (Self, mpsc::Receiver<PacketDial>) {
        let (dials, asked) = mpsc::channel(DIAL_QUEUE);
        let mux = Self::new(role, limits);
        drain.spawn("packet stream", drive(mux.clone(), halves, dials));
        (mux, asked)
    }
}

/// Serves the stream until it ends, and then ends its connections and dials.
async fn drive(mux: Mux, halves: Halves, dials: mpsc::Sender<PacketDial>) {
    let Halves { send, body, called, counters } = halves;
    let mut driver = Driver {
        receiving: Receiving::new(mux.clone(), body, called, &counters, dials),
        closes: DelayedCloses::default(),
        sending: Sending::new(mux.clone(), send, counters.sent),
        mux: mux.clone(),
    };
    let why = tokio::select! {
        biased;
        () = mux.state.stop.cancelled() => String::new(),
        why = poll_fn(|cx| driver.poll(cx)).instrument(debug_span!("packets")) => why,
    };
    mux.table().set_closed(&why);
    // The last packets still go out, as far as the window allows.
    poll_fn(|cx| {
        let _ = driver.sending.poll(cx);
        Poll::Ready(())
    })
    .await;
    end(driver.sending.stream(), called);
    let (conns, answers) = mux.table().clear();
    let why = mux.table().why().to_owned();
    for conn in conns {
        conn.ended(Err(Broken::Lost(why.clone())));
    }
    // Dials that wait for an answer read the reason from the table.
    drop(answers);
    let mut outgoing = mux.outgoing();
    outgoing.ready.clear();
    outgoing.delayed.clear();
    drop(outgoing);
    mux.state.closed.cancel();
}

fn end(send: &mut SendStream<Bytes>, called: bool) {
    // Either fails only when the peer ended the call first.
    if called {
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = send.send_trailers(trailers);
    } else {
        let _ = send.send_data(Bytes::new(), true);
    }
}

struct Driver {
    mux: Mux,
    receiving: Receiving,
    closes: DelayedCloses,
    sending: Sending,
}

impl Driver {
    /// Ready with the reason when the stream is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        if let Poll::Ready(why) = self.receiving.poll(cx) {
            return Poll::Ready(why);
        }
        self.closes.poll(cx, &self.mux);
        self.sending.poll(cx)
    }
}

/// Connections to be closed later.
#[derive(Default)]
struct DelayedCloses {
    queue: VecDeque<(Instant, Arc<Conn>)>,
    /// When to search the queue again.
    look: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl DelayedCloses {
    /// Lists the connections whose time has come as ready to send.
    fn poll(&mut self, cx: &mut Context<'_>, mux: &Mux) {
        let known = self.queue.len();
        self.queue.extend(mux.outgoing().delayed.drain(..));
        for (at, _) in self.queue.iter().skip(known) {
            self.look = Some(self.look.map_or(*at, |look| look.min(*at)));
        }
        while let Some(look) = self.look {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(look)));
            if timer.deadline() != look {
                timer.as_mut().reset(look);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.search(Instant::now(), mux);
        }
        self.timer = None;
    }

    fn search(&mut self, now: Instant, mux: &Mux) {
        for _ in 0..self.queue.len() {
            let Some((at, conn)) = self.queue.pop_front() else { break };
            let (due, later) = if at > now { (false, Some(at)) } else { conn.close_is_due(now) };
            if due {
                mux.ready(Arc::clone(&conn));
            }
            if let Some(later) = later {
                self.queue.push_back((later, conn));
            }
        }
        self.look = self.queue.iter().map(|(at, _)| *at).min().map(|at| at.max(now + CLOSE_TICK));
    }
}
