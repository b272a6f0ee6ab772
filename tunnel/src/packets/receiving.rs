//! The direction of a packet stream that comes from the peer.

use std::fmt::Display;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::debug;
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, Packet};

use super::dial::PacketDial;
use super::driver::Counters;
use super::intake::Taken;
use super::mux::{Mux, Role};
use super::unfinished::Unfinished;
use crate::h2_error;
use crate::packet_counters::{PacketCounters, StreamError};

/// Packets handled in one poll before other tasks get their turn.
const TURNS: usize = 64;

/// Packets without a meaning that are skipped, per stream. A few harm nobody. More show
/// that the two sides do not understand each other.
const MAX_NONSENSE: u32 = 64;

/// Longest message of an agent, in bytes; agents of Konnectivity send 4 KiB of data at most, ours 32.
/// Longer ones are memory that an agent can take. A server forwards what its clients write, and may
/// send more.
const LONGEST_OF_AGENT: usize = 1 << 20;

/// Pause for [`SLOWEST_PER`] bytes that go into a queue which is nearly full. With it, a
/// reader of less than 640 KB/s whose sender is faster is closed after some seconds. A
/// longer pause would delay the other connections; a shorter one would close more readers.
const SLOWEST: Duration = Duration::from_millis(100);

/// See [`SLOWEST`].
const SLOWEST_PER: f64 = 65536.0;

/// Shorter pauses are added up until they are this long, since timers are not more exact.
const SHORTEST_PAUSE: Duration = Duration::from_millis(4);

/// Reads packets and hands them to their connections.
pub(super) struct Receiving {
    mux: Mux,
    body: RecvStream,
    /// Whether the peer made the call.
    called: bool,
    counters: PacketCounters,
    deframer: Deframer,
    dials: mpsc::Sender<PacketDial>,
    nonsense: u32,
    /// While it lasts, nothing is read.
    pause: Option<Pin<Box<Sleep>>>,
    /// Time to be added to the next pause.
    owed: Duration,
    unfinished: Unfinished,
}

impl Receiving {
    pub(super) fn new(
        mux: Mux,
        body: RecvStream,
        called: bool,
        Counters { received, begun, .. }: &Counters,
        dials: mpsc::Sender<PacketDial>,
    ) -> Self {
        let longest = match mux.role() {
            Role::Dialer => LONGEST_OF_AGENT,
            Role::Answerer => MAX_MESSAGE,
        };
        let (deframer, unfinished) = (Deframer::grpc(longest), Unfinished::new(Arc::clone(begun)));
        let (counters, owed) = (received.clone(), Duration::ZERO);
        Self { mux, body, called, counters, deframer, dials, nonsense: 0, pause: None, owed, unfinished }
    }

    /// Ready with the reason when the stream is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        for _ in 0..TURNS {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.pause = None;
            }
            match self.deframer.next() {
                Ok(Some(message)) => {
                    self.unfinished.finished();
                    if let Err(why) = self.take(message) {
                        return Poll::Ready(why);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(self.unreadable(&error)),
            }
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    // Before the bytes are delivered: the stream waits for no connection.
                    let _ = self.body.flow_control().release_capacity(data.len());
                    self.deframer.push(data);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(self.failed(&error)),
                Poll::Ready(None) => return self.poll_status(cx),
                Poll::Pending => {
                    let late = self.unfinished.poll(cx, self.deframer.waiting());
                    return late.map(|why| self.unreadable(&why));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn unreadable(&self, why: &dyn Display) -> String {
        self.counters.failed(StreamError::Internal, None);
        why.to_string()
    }

    /// Counts a failure to receive, and puts it in words.
    fn failed(&self, error: &h2::Error) -> String {
        let code = if self.called { StreamError::of_caller(error) } else { StreamError::from(error) };
        self.counters.failed(code, None);
        h2_error::text(error)
    }

    /// Reads the status with which the peer ended the call.
    fn poll_status(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        self.body.poll_trailers(cx).map(|trailers| {
            let field = |trailers: &HeaderMap, name| {
                trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
            };
            match trailers {
                Ok(Some(trailers)) if field(&trailers, "grpc-status") != "0" => {
                    let status = field(&trailers, "grpc-status").parse().ok();
                    let code = status.and_then(StreamError::of_status).unwrap_or(StreamError::Unknown);
                    self.counters.failed(code, None);
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
                self.counters.count(packet.kind());
                match self.mux.take(packet) {
                    Ok(Taken::Done) => return Ok(()),
                    Ok(Taken::Queued { bytes, fill }) => {
                        self.slow_down(bytes, fill);
                        return Ok(());
                    }
                    Ok(Taken::Dial(dial)) => {
                        // A dial that finds the queue full is dropped, which refuses it.
                        let _ = self.dials.try_send(dial);
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

    /// Reads slower while a queue fills up, so that its sender is held back before the
    /// queue overflows. The pause grows with the fill, up to [`SLOWEST`].
    fn slow_down(&mut self, bytes: usize, fill: f64) {
        if fill > 0.0 {
            self.owed += SLOWEST.mul_f64(fill.min(1.0)).mul_f64(bytes as f64 / SLOWEST_PER);
            if self.owed >= SHORTEST_PAUSE {
                let pause = std::mem::take(&mut self.owed).min(SLOWEST);
                self.pause = Some(Box::pin(sleep_until(Instant::now() + pause)));
            }
        }
    }
}
