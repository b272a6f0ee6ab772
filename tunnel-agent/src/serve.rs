//! One stream, which is one connection: read the dial, connect, answer, relay.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, info};
use tunnel::drain::Drain;
use tunnel::relay::{Ending, Moved, relay};
use tunnel::socket::Socket;
use tunnel::stream::Stream;
use tunnel::transport::IncomingDial;
use tunnel_program::warn_seldom;
use tunnel_proto::message::Dial;
use tunnel_proto::target::Target;

use crate::dial::{Permits, connect};
use crate::metrics::{GaugeGuard, Metrics};

/// Longest time for a target to accept, whatever the server allows. It is Konnectivity's: shorter,
/// and slow targets fail that work there; longer, and dead targets hold dials.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// Time for the server to acknowledge the last bytes of a connection in a drain. Shorter,
/// and slow networks lose them; longer, and a silent server delays the exit.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Answers dials in place of targets. It gets the stream of a dial that has succeeded, and is
/// dropped when the agent is killed.
pub type Answer = Arc<dyn Fn(Target, Stream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The parts that all connections of an agent share.
pub(crate) struct Serving {
    /// Answers dials; the agent connects to targets if `None`.
    pub(crate) answer: Option<Answer>,
    /// The destinations that may be dialled.
    pub(crate) permits: Permits,
    /// Time without an acknowledgement after which a target is given up.
    pub(crate) ack_timeout: Option<Duration>,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
}

impl Serving {
    /// Serves a dial of `server` up to the relay. `None` is a dial that is over: refused, cancelled,
    /// or answered in place of a target.
    pub(crate) async fn connect(
        self: Arc<Self>,
        asked: IncomingDial,
        server: Arc<str>,
    ) -> Option<Box<Connected>> {
        let metrics = &self.metrics;
        let counted = metrics.connection();
        let (dial, mut asked) = self.read_dial(asked).await?;
        if let Some(answer) = &self.answer {
            self.answer_dial(dial, asked, answer).await;
            return None;
        }
        let started = Instant::now();
        let permit = |addrs| self.permits.check(Some(&server), &dial.target, addrs);
        let connected = tokio::select! {
            biased;
            () = self.drain.killed() => return None,
            () = asked.cancelled() => {
                metrics.dial_ended("cancelled");
                debug!(id = dial.connection_id, target = %dial.target, "dial cancelled");
                return None;
            }
            connected = connect(&dial.target, dial.timeout.min(DIAL_LIMIT), permit) => connected,
        };
        match connected {
            Ok((tcp, addr)) => {
                let took = started.elapsed();
                let counted = (counted, metrics.dialed(took));
                Some(Box::new(Connected {
                    connection_id: dial.connection_id,
                    target: dial.target,
                    stream: asked.connected(addr, dial.measure.then_some(took)).await?,
                    socket: Socket::from(tcp).ends_unacknowledged(self.ack_timeout),
                    started: Instant::now(),
                    serving: self,
                    counted,
                }))
            }
            Err(refusal) => {
                metrics.dial_failed(refusal.kind);
                let kind = ("dial", refusal.kind.label());
                warn_seldom!(kind, id = dial.connection_id, target = %dial.target, error = %refusal, "refused");
                asked.refuse(refusal).await;
                None
            }
        }
    }

    /// Reads the dial, and refuses a malformed one.
    async fn read_dial(&self, mut asked: IncomingDial) -> Option<(Dial, IncomingDial)> {
        match asked.dial().await {
            Some(Ok(dial)) => return Some((dial, asked)),
            Some(Err(refusal)) => {
                self.metrics.dial_failed(refusal.kind);
                asked.refuse(refusal).await;
            }
            None => self.metrics.dial_ended("no_header"),
        }
        None
    }

    async fn answer_dial(&self, dial: Dial, asked: IncomingDial, answer: &Answer) {
        let _counted = self.metrics.dialed(Duration::ZERO);
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, dial.target.port()));
        let Some(stream) = asked.connected(address, None).await else { return };
        tokio::select! {
            biased;
            () = self.drain.killed() => {}
            () = answer(dial.target, stream) => {}
        }
    }
}

/// A connection whose target and server know of each other. Most connections are in this
/// state and idle, so its size is the cost of a connection.
pub(crate) struct Connected {
    connection_id: u64,
    target: Target,
    stream: Stream,
    socket: Socket,
    started: Instant,
    serving: Arc<Serving>,
    counted: (GaugeGuard, GaugeGuard),
}

impl Connected {
    /// Relays until the connection ends or the agent is killed.
    pub(crate) async fn relay(mut self: Box<Self>) {
        let mut moved = Moved::default();
        let Self { stream, socket, serving, .. } = &mut *self;
        let meter = serving.metrics.meter(stream.link());
        let ending = tokio::select! {
            biased;
            () = serving.drain.killed() => None,
            ending = relay(stream, socket, None, meter, &mut moved) => Some(ending),
        };
        self.log(ending.as_ref(), moved);
        Box::pin(self.leave()).await;
    }

    fn log(&self, ending: Option<&Ending>, moved: Moved) {
        let lasted = self.started.elapsed();
        self.serving.metrics.closed(self.stream.link(), ending, lasted);
        if let Some(why) = ending.and_then(Ending::broken).filter(|why| why.is_fault()) {
            let (id, target) = (self.connection_id, &self.target);
            warn_seldom!(("connection", why.label()), id, %target, error = %why, "connection failed");
        }
        info!(
            target: "access",
            id = self.connection_id,
            target = %self.target,
            ended = ending.map_or("killed", Ending::label),
            bytes_up = moved.up,
            bytes_down = moved.down,
            duration_ms = lasted.as_millis(),
            error = ending.and_then(Ending::broken).map(tracing::field::display),
            "closed"
        );
    }

    async fn leave(self: Box<Self>) {
        let Self { mut stream, socket, serving, counted: (_counted, established), .. } = *self;
        drop((socket, established));
        let _ = timeout(SETTLE_LIMIT, stream.settle(serving.drain.has_started())).await;
    }
}
