//! The one task that reads and writes a packet stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::{Instrument as _, debug, debug_span};
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, Packet, put_data_head};
use tunnel_proto::packet_kind::PacketKind;

use super::conn::{Conn, Turn};
use super::table::Taken;
use super::{Asked, Mux, Role};
use crate::duplex::{Batch, Broken};
use crate::packet_counters::{PacketCounters, StreamError};
use crate::transport::h2::told;

/// Bytes in one data packet, as Konnectivity's server reads them.
const PACKET: usize = 32 * 1024;

/// More than the heads of a data packet take.
const HEADS: usize = 32;

/// Packets handled before other tasks get their turn.
const TURNS: usize = 64;

/// Packets that make no sense, per stream. One costs nobody else anything; many
/// mean that the two sides do not understand each other.
const MAX_NONSENSE: u32 = 64;

/// How often a time of several is looked at; they need not be exact.
const TICK: Duration = Duration::from_millis(50);

/// How long the stream pauses for [`SLOWEST_PER`] bytes that go into a queue
/// which is nearly full. What is slower than that is closed in the end: a
/// reader of less than 640 KB/s whose sender is fast, after some seconds.
const SLOWEST: Duration = Duration::from_millis(100);

/// See [`SLOWEST`].
const SLOWEST_PER: f64 = 65536.0;

/// Shorter pauses are saved up: a timer is not exact enough for them.
const SHORTEST_PAUSE: Duration = Duration::from_millis(4);

/// Counters of the packets of both directions.
#[derive(Debug, Clone)]
pub struct Counters {
    /// From the peer.
    pub received: PacketCounters,
    /// To the peer.
    pub sent: PacketCounters,
}

/// The two directions of a gRPC call.
#[derive(Debug)]
pub struct Halves {
    /// Packets to the peer.
    pub send: SendStream<Bytes>,
    /// Packets of the peer.
    pub body: RecvStream,
    /// Whether the peer called, so that our end is said in trailers.
    pub called: bool,
    /// Counts both directions.
    pub counters: Counters,
}

/// Serves the stream until it ends, and then tells everybody.
pub(super) async fn drive(mux: Mux, halves: Halves, asked: mpsc::Sender<Asked>) {
    let called = halves.called;
    let mut driver = Driver {
        mux: mux.clone(),
        send: halves.send,
        body: halves.body,
        called,
        counters: halves.counters,
        deframer: Deframer::grpc(MAX_MESSAGE),
        asked,
        nonsense: 0,
        pause: None,
        owed: Duration::ZERO,
        delayed: VecDeque::new(),
        blocked: false,
        look: None,
        timer: None,
    };
    let why = tokio::select! {
        biased;
        () = mux.shared.stop.cancelled() => String::new(),
        why = poll_fn(|cx| driver.poll(cx)).instrument(debug_span!("packets")) => why,
    };
    mux.table().set_closed(&why);
    // What was said last still goes out, as far as the window allows.
    poll_fn(|cx| {
        let _ = driver.poll_send(cx);
        Poll::Ready(())
    })
    .await;
    end(&mut driver.send, called);
    let (conns, answers) = mux.table().clear();
    let why = mux.table().why().to_owned();
    for conn in conns {
        conn.ended(Err(Broken::Lost(why.clone())));
    }
    // Whoever waits for an answer reads the reason from the table.
    drop(answers);
    let mut outgoing = mux.outgoing();
    outgoing.ready.clear();
    outgoing.delayed.clear();
    drop(outgoing);
    mux.shared.closed.cancel();
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
    send: SendStream<Bytes>,
    body: RecvStream,
    called: bool,
    counters: Counters,
    deframer: Deframer,
    asked: mpsc::Sender<Asked>,
    nonsense: u32,
    /// Until when nothing is read, and what is to be added to the next pause.
    pause: Option<Pin<Box<Sleep>>>,
    owed: Duration,
    /// Connections to be closed later.
    delayed: VecDeque<(Instant, Arc<Conn>)>,
    /// The peer's window has no room for what waits.
    blocked: bool,
    /// When to look at them again.
    look: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    /// Ready with the reason when the stream is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        if let Poll::Ready(why) = self.poll_receive(cx) {
            return Poll::Ready(why);
        }
        self.poll_delayed(cx);
        self.poll_send(cx)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        for _ in 0..TURNS {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.deframer.next() {
                Ok(Some(message)) => {
                    if let Err(why) = self.take(message) {
                        return Poll::Ready(why);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    self.counters.received.failed(StreamError::Internal, None);
                    return Poll::Ready(error.to_string());
                }
            }
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // At once, whoever it is for: the stream never waits.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.deframer.push(data);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.failed(&error)),
                Poll::Ready(None) => return self.poll_status(cx),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The call broke while it was received from.
    fn failed(&self, error: &h2::Error) -> String {
        let code = if self.called { StreamError::of_caller(error) } else { StreamError::from(error) };
        self.counters.received.failed(code, None);
        told(error)
    }

    /// Reads slower while a queue fills up, so that its sender is held back
    /// before the queue overflows. The fuller the slower, and never so slow that
    /// the others would notice more than a delay.
    fn slow_down(&mut self, bytes: usize, fill: f64) {
        if fill > 0.0 {
            self.owed += SLOWEST.mul_f64(fill.min(1.0)).mul_f64(bytes as f64 / SLOWEST_PER);
            if self.owed >= SHORTEST_PAUSE {
                let pause = std::mem::take(&mut self.owed).min(SLOWEST);
                self.pause = Some(Box::pin(sleep_until(Instant::now() + pause)));
            }
        }
    }

    /// The peer's last words.
    fn poll_status(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.body.poll_trailers(cx).map(|trailers| {
            let field = |trailers: &HeaderMap, name| {
                trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
            };
            match trailers {
                Ok(Some(trailers)) if field(&trailers, "grpc-status") != "0" => {
                    let status = field(&trailers, "grpc-status").parse().ok();
                    let code = status.and_then(StreamError::of_status).unwrap_or(StreamError::Unknown);
                    self.counters.received.failed(code, None);
                    format!("the peer ended the call: {}", field(&trailers, "grpc-message"))
                }
                Ok(_) => "the peer ended the call".to_owned(),
                Err(error) => self.failed(&error),
            }
        })
    }

    fn take(&mut self, message: Bytes) -> Result<(), String> {
        let problem = match Packet::decode(message) {
            Ok(packet) => {
                self.counters.received.count(packet.kind());
                match self.mux.take(packet) {
                    Ok(Taken::Done) => return Ok(()),
                    Ok(Taken::Queued { bytes, fill }) => {
                        self.slow_down(bytes, fill);
                        return Ok(());
                    }
                    Ok(Taken::Asked(asked)) => {
                        // Refused by being dropped when too many wait.
                        let _ = self.asked.try_send(asked);
                        return Ok(());
                    }
                    Err(_) => "a packet that this side never gets".to_owned(),
                }
            }
            Err(error) => error.to_string(),
        };
        self.nonsense += 1;
        debug!(problem, "skipped a packet");
        if self.nonsense > MAX_NONSENSE { Err(format!("too many bad packets: {problem}")) } else { Ok(()) }
    }

    /// Lists connections whose time to be closed has come.
    fn poll_delayed(&mut self, cx: &mut Context<'_>) {
        let known = self.delayed.len();
        self.delayed.extend(self.mux.outgoing().delayed.drain(..));
        for (at, _) in self.delayed.iter().skip(known) {
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
            self.look_at_delayed(Instant::now());
        }
        self.timer = None;
    }

    fn look_at_delayed(&mut self, now: Instant) {
        for _ in 0..self.delayed.len() {
            let Some((at, conn)) = self.delayed.pop_front() else { break };
            let (due, later) = if at > now { (false, Some(at)) } else { conn.close_is_due(now) };
            if due {
                self.mux.ready(Arc::clone(&conn));
            }
            if let Some(later) = later {
                self.delayed.push_back((later, conn));
            }
        }
        // Rounded, so that thousands do not each wake this task.
        self.look = self.delayed.iter().map(|(at, _)| *at).min().map(|at| at.max(now + TICK));
    }

    /// Sends as much as the peer's window takes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        for _ in 0..TURNS {
            if !self.anything_to_send(cx) {
                self.set_blocked(false);
                // So that a reset by the peer is noticed.
                return self.poll_reset(cx);
            }
            let room = match self.poll_room(cx) {
                Poll::Ready(Ok(room)) => room,
                Poll::Ready(Err(why)) => return Poll::Ready(why),
                Poll::Pending => {
                    self.set_blocked(true);
                    return Poll::Pending;
                }
            };
            self.set_blocked(false);
            if let Err(why) = self.send_one(room) {
                return Poll::Ready(why);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn set_blocked(&mut self, blocked: bool) {
        if self.blocked != blocked {
            self.blocked = blocked;
            self.mux.outgoing().blocked = blocked.then(Instant::now);
        }
    }

    /// Registers for what comes later, too.
    fn anything_to_send(&self, cx: &Context<'_>) -> bool {
        let mut outgoing = self.mux.outgoing();
        outgoing.driver = Some(cx.waker().clone());
        if !outgoing.delayed.is_empty() {
            // Came after they were looked at.
            outgoing.wake();
        }
        !outgoing.control.is_empty() || !outgoing.ready.is_empty()
    }

    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.send.poll_reset(cx).map(|reset| match reset {
            Ok(reason) => format!("the peer reset the call: {reason}"),
            Err(error) => error.to_string(),
        })
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, String>> {
        self.send.reserve_capacity(PACKET + HEADS);
        loop {
            let room = self.send.capacity();
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match self.send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.to_string())),
                Poll::Ready(None) => return Poll::Ready(Err("the peer takes no more packets".to_owned())),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Control packets first, then connections in turn.
    fn send_one(&mut self, room: usize) -> Result<(), String> {
        let mut outgoing = self.mux.outgoing();
        if let Some((kind, control)) = outgoing.control.pop_front() {
            drop(outgoing);
            return self.put(kind, control);
        }
        let Some(conn) = outgoing.ready.pop_front() else { return Ok(()) };
        drop(outgoing);
        match conn.turn(room.saturating_sub(HEADS).clamp(1, PACKET)) {
            Turn::Data { data, more } => {
                let packet = data_packet(conn.id, data);
                if more {
                    self.mux.outgoing().ready.push_back(conn);
                }
                self.put(PacketKind::Data, packet)
            }
            Turn::Close(packet) => {
                if self.mux.shared.role == Role::Answerer {
                    self.mux.table().remove(conn.id);
                }
                self.put(packet.kind(), packet.encode())
            }
            Turn::Nothing => Ok(()),
        }
    }

    fn put(&mut self, kind: PacketKind, packet: Bytes) -> Result<(), String> {
        self.counters.sent.count(kind);
        self.send.send_data(packet, false).map_err(|error| {
            self.counters.sent.failed(StreamError::from(&error), Some(kind));
            error.to_string()
        })
    }
}

fn data_packet(id: i64, mut data: Batch) -> Bytes {
    let mut packet = BytesMut::with_capacity(HEADS + data.len());
    put_data_head(&mut packet, id, data.len());
    while let Some(chunk) = data.take(usize::MAX) {
        packet.put(chunk);
    }
    packet.freeze()
}
