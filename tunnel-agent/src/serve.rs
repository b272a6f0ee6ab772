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
use tunnel_proto::message::Dial;
use tunnel_proto::refusal::Refusal;
use tunnel_proto::target::Target;

use crate::dial::connect;
use crate::metrics::{GaugeGuard, Metrics};

/// The most that a target gets to answer, whatever the server allows: it is
/// near, and Konnectivity's agents wait as long.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// How long a drain waits for the server to have the last bytes.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Answers dials in place of targets. It gets the stream once the server knows that the
/// dial succeeded, and is dropped when the agent is killed.
pub type Answer = Arc<dyn Fn(Target, Stream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What it takes to serve connections; all of an agent's share it.
pub(crate) struct Serving {
    /// Answers dials in place of targets, if given.
    pub(crate) answer: Option<Answer>,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
}

impl Serving {
    /// Everything before the relay. `None` when there is nothing to relay; the
    /// server has been told why, unless it is the one that left.
    pub(crate) async fn connect(self: Arc<Self>, asked: IncomingDial) -> Option<Box<Connected>> {
        let counted = self.metrics.connection();
        if let Some(answer) = &self.answer {
            self.answer_dial(asked, answer).await;
            return None;
        }
        let (dial, established, stream, socket) = self.dial(asked).await?;
        Some(Box::new(Connected {
            connection_id: dial.connection_id,
            target: dial.target,
            stream,
            socket,
            started: Instant::now(),
            serving: self,
            counted: (counted, established),
        }))
    }

    /// Leaves the connection to whoever answers in place of the target.
    async fn answer_dial(&self, mut asked: IncomingDial, answer: &Answer) {
        let Some(dial) = self.read_dial(&mut asked).await else { return };
        match dial {
            Ok(dial) => {
                let _counted = self.metrics.dialed(Duration::ZERO);
                let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, dial.target.port()));
                let Some(stream) = asked.connected(address, None).await else { return };
                tokio::select! {
                    biased;
                    () = self.drain.killed() => {}
                    () = answer(dial.target, stream) => {}
                }
            }
            Err(refusal) => asked.refuse(refusal).await,
        }
    }

    async fn dial(&self, mut asked: IncomingDial) -> Option<(Dial, GaugeGuard, Stream, Socket)> {
        let metrics = &self.metrics;
        let dial = match self.read_dial(&mut asked).await? {
            Ok(dial) => dial,
            Err(refusal) => {
                asked.refuse(refusal).await;
                return None;
            }
        };
        let started = Instant::now();
        let limit = dial.timeout.min(DIAL_LIMIT);
        let connected = tokio::select! {
            biased;
            () = self.drain.killed() => return None,
            () = asked.cancelled() => {
                metrics.dial_ended("cancelled");
                debug!(id = dial.connection_id, target = %dial.target, "dial cancelled");
                return None;
            }
            connected = connect(&dial.target, limit) => connected,
        };
        match connected {
            Ok((tcp, addr)) => {
                let took = started.elapsed();
                let counted = metrics.dialed(took);
                let stream = asked.connected(addr, dial.measure.then_some(took)).await?;
                Some((dial, counted, stream, tcp.into()))
            }
            Err(refusal) => {
                metrics.dial_failed(refusal.kind);
                info!(target: "access", id = dial.connection_id, target = %dial.target, error = %refusal, "refused");
                asked.refuse(refusal).await;
                None
            }
        }
    }

    /// What is to be dialled, counted where it is nothing.
    async fn read_dial(&self, asked: &mut IncomingDial) -> Option<Result<Dial, Refusal>> {
        let dial = asked.dial().await;
        match &dial {
            Some(Ok(_)) => {}
            Some(Err(refusal)) => self.metrics.dial_failed(refusal.kind),
            None => self.metrics.dial_ended("no_header"),
        }
        dial
    }
}

/// A target that has answered, and that the server knows of. Most of an agent's
/// connections are in this state and idle, so what one costs is what is in here.
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
    /// Relays to the connection's end, or until the drain kills.
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
        // One that does not take the last bytes in time does not get them.
        let _ = timeout(SETTLE_LIMIT, stream.settle(serving.drain.has_started())).await;
    }
}
