//! One stream, which is one connection: read the dial, connect, answer, relay.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{debug, info};
use tunnel::control::Messages;
use tunnel::drain::Drain;
use tunnel::duplex::Broken;
use tunnel::packets::Asked;
use tunnel::relay::{Ending, Moved, relay};
use tunnel::socket::Socket;
use tunnel::stream::Stream;
use tunnel::transport::Offered;
use tunnel_proto::message::{Dial, DialReply, MAX_DIAL, MessageError};
use tunnel_proto::refusal::{Refusal, RefusalKind};
use tunnel_proto::target::Target;

use crate::dial::connect;
use crate::embedded::Answer;
use crate::metrics::{GaugeGuard, Metrics};

/// A server writes the dial at once when it opens a stream.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// The most that a target gets to answer, whatever the server allows: it is
/// near, and Konnectivity's agents wait as long.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// How long a drain waits for the server to have the last bytes.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// What it takes to serve connections; all of an agent's share it.
pub(crate) struct Serving {
    /// Who answers dials, if not the targets.
    pub(crate) answer: Option<Answer>,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
}

impl Serving {
    /// Everything before the relay. `None` when there is nothing to relay; the
    /// server has been told why, unless it is the one that left.
    pub(crate) async fn connect(self: Arc<Self>, offered: Offered) -> Option<Box<Connected>> {
        let counted = self.metrics.connection();
        let asker = match offered {
            Offered::Stream(stream) => Asker::Stream(Messages::new(stream, MAX_DIAL)),
            Offered::Dial(asked) => Asker::Packets(asked),
        };
        if let Some(answer) = &self.answer {
            self.answer_dial(asker, answer).await;
            return None;
        }
        let (dial, established, stream, socket) = self.dial(asker).await?;
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
    async fn answer_dial(&self, mut asker: Asker, answer: &Answer) {
        let Some(dial) = self.read_dial(&mut asker).await else { return };
        match dial {
            Ok(dial) => {
                let _counted = self.metrics.dialed(Duration::ZERO);
                let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, dial.target.port()));
                let Some(stream) = asker.accept(address).await else { return };
                tokio::select! {
                    biased;
                    () = self.drain.killed() => {}
                    () = answer(dial.target, stream) => {}
                }
            }
            Err(refusal) => asker.refuse(refusal).await,
        }
    }

    async fn dial(&self, mut asker: Asker) -> Option<(Dial, GaugeGuard, Stream, Socket)> {
        let metrics = &self.metrics;
        let dial = match self.read_dial(&mut asker).await? {
            Ok(dial) => dial,
            Err(refusal) => {
                asker.refuse(refusal).await;
                return None;
            }
        };
        let started = Instant::now();
        let limit = dial.timeout.min(DIAL_LIMIT);
        let connected = tokio::select! {
            biased;
            () = self.drain.killed() => return None,
            () = asker.cancelled() => {
                metrics.dial_ended("cancelled");
                debug!(id = dial.connection_id, target = %dial.target, "dial cancelled");
                return None;
            }
            connected = connect(&dial.target, limit) => connected,
        };
        match connected {
            Ok((tcp, addr)) => {
                let counted = metrics.dialed(started.elapsed());
                let stream = asker.accept(addr).await?;
                Some((dial, counted, stream, tcp.into()))
            }
            Err(refusal) => {
                metrics.dial_failed(refusal.kind);
                info!(target: "access", id = dial.connection_id, target = %dial.target, error = %refusal, "refused");
                asker.refuse(refusal).await;
                None
            }
        }
    }

    /// What is to be dialled, counted where it is nothing.
    async fn read_dial(&self, asker: &mut Asker) -> Option<Result<Dial, Refusal>> {
        let dial = asker.dial().await;
        match &dial {
            Some(Ok(_)) => {}
            Some(Err(refusal)) => self.metrics.dial_failed(refusal.kind),
            None => self.metrics.dial_ended("no_header"),
        }
        dial
    }
}

/// Who wants a connection: a stream with the dial in front, or a packet.
enum Asker {
    Stream(Messages),
    Packets(Asked),
}

impl Asker {
    /// What is to be dialled; `None` when the server left before it said so.
    async fn dial(&mut self) -> Option<Result<Dial, Refusal>> {
        match self {
            Self::Stream(messages) => match timeout(HEADER_LIMIT, messages.recv()).await {
                Ok(Ok(Some(message))) => Some(Dial::decode(message).map_err(|error| bad_request(&error))),
                Ok(Ok(None) | Err(_)) | Err(_) => None,
            },
            Self::Packets(asked) => Some(asked_dial(asked)),
        }
    }

    async fn cancelled(&mut self) {
        match self {
            Self::Stream(messages) => messages.cancelled().await,
            Self::Packets(asked) => asked.cancelled().await,
        }
    }

    /// Says that the target answered; `None` when the server left.
    async fn accept(self, address: SocketAddr) -> Option<Stream> {
        match self {
            Self::Stream(mut messages) => {
                let reply = DialReply::Connected { address: address.to_string() };
                messages.send(reply.encode()).await.ok()?;
                Some(messages.into_stream())
            }
            Self::Packets(asked) => Some(asked.accept().into()),
        }
    }

    async fn refuse(self, refusal: Refusal) {
        match self {
            Self::Stream(mut messages) => {
                let sent = async {
                    messages.send(DialReply::Refused(refusal).encode()).await?;
                    messages.finish().await
                };
                // A server that does not take the answer does not need it.
                let _: Result<Result<(), Broken>, _> = timeout(HEADER_LIMIT, sent).await;
            }
            Self::Packets(asked) => asked.refuse(refusal.text),
        }
    }
}

/// Errors have the shape that Go's dialler gives them.
fn asked_dial(asked: &Asked) -> Result<Dial, Refusal> {
    let bad = |text: String| Refusal { kind: RefusalKind::BadRequest, text };
    if asked.protocol != "tcp" {
        let shown: String = asked.protocol.chars().take(32).flat_map(char::escape_default).collect();
        return Err(bad(format!("dial {shown}: unknown network {shown}")));
    }
    let target = asked.address.parse().map_err(|error| bad(format!("dial tcp: {error}")))?;
    Ok(Dial { target, timeout: DIAL_LIMIT, connection_id: asked.connect_id().unsigned_abs() })
}

fn bad_request(error: &MessageError) -> Refusal {
    Refusal { kind: RefusalKind::BadRequest, text: error.to_string() }
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
