//! One stream, which is one connection: read the dial, connect, answer, relay.

use std::net::{Ipv4Addr, SocketAddr};
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

use crate::dial;
use crate::embedded::Answer;
use crate::metrics::{GaugeGuard, Metrics};

/// A server writes the dial at once when it opens a stream.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// The most that a target gets to answer, whatever the server allows: it is
/// near, and Konnectivity's agents wait as long.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// How long a drain waits for the server to have the last bytes.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// What it takes to serve connections. Clones are the same.
#[derive(Clone)]
pub(crate) struct Serving {
    /// Who answers dials, if not the targets.
    pub(crate) answer: Option<Answer>,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
}

impl Serving {
    /// Serves one connection to its end, or until the drain kills.
    pub(crate) async fn serve(self, offered: Offered) {
        let Self { answer, metrics, drain } = self;
        let _counted = metrics.connection();
        let asker = match offered {
            Offered::Stream(stream) => Asker::Stream(Messages::new(stream, MAX_DIAL)),
            Offered::Dial(asked) => Asker::Packets(asked),
        };
        if let Some(answer) = answer {
            // Boxed, so that the connections of programs do not have its size.
            return Box::pin(answer_dial(asker, answer, &metrics, &drain)).await;
        }
        let Some(connected) = connect(asker, &metrics, &drain).await else { return };
        relay_connection(connected, &metrics, &drain).await;
    }
}

/// Leaves the connection to whoever answers in place of the target.
async fn answer_dial(mut asker: Asker, answer: Answer, metrics: &Metrics, drain: &Drain) {
    let Some(dial) = read_dial(&mut asker, metrics).await else { return };
    match dial {
        Ok(dial) => {
            let _counted = metrics.dialed(Duration::ZERO);
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, dial.target.port()));
            let Some(stream) = asker.accept(address).await else { return };
            tokio::select! {
                biased;
                () = drain.killed() => {}
                () = answer(dial.target, stream) => {}
            }
        }
        Err(refusal) => asker.refuse(refusal).await,
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

/// A target that has answered, and that the server knows of.
struct Connected {
    dial: Dial,
    stream: Stream,
    socket: Socket,
    counted: GaugeGuard,
}

/// Everything before the relay. `None` when there is nothing to relay; the
/// server has been told why, unless it is the one that left.
async fn connect(mut asker: Asker, metrics: &Metrics, drain: &Drain) -> Option<Connected> {
    let dial = match read_dial(&mut asker, metrics).await? {
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
        () = drain.killed() => return None,
        () = asker.cancelled() => {
            metrics.dial_ended("cancelled");
            debug!(id = dial.connection_id, target = %dial.target, "dial cancelled");
            return None;
        }
        connected = dial::connect(&dial.target, limit) => connected,
    };
    match connected {
        Ok((tcp, addr)) => {
            let counted = metrics.dialed(started.elapsed());
            let stream = asker.accept(addr).await?;
            Some(Connected { dial, stream, socket: tcp.into(), counted })
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
async fn read_dial(asker: &mut Asker, metrics: &Metrics) -> Option<Result<Dial, Refusal>> {
    let dial = asker.dial().await;
    match &dial {
        Some(Ok(_)) => {}
        Some(Err(refusal)) => metrics.dial_failed(refusal.kind),
        None => metrics.dial_ended("no_header"),
    }
    dial
}

fn bad_request(error: &MessageError) -> Refusal {
    Refusal { kind: RefusalKind::BadRequest, text: error.to_string() }
}

async fn relay_connection(connected: Connected, metrics: &Metrics, drain: &Drain) {
    let Connected { dial, mut stream, mut socket, counted } = connected;
    let (started, meter) = (Instant::now(), metrics.meter(stream.link()));
    let mut moved = Moved::default();
    let ending = tokio::select! {
        biased;
        () = drain.killed() => None,
        ending = relay(&mut stream, &mut socket, None, &meter, &mut moved) => Some(ending),
    };
    let label = ending.as_ref().map_or("killed", Ending::label);
    metrics.closed(stream.link(), ending.as_ref(), started.elapsed());
    info!(
        target: "access",
        id = dial.connection_id,
        target = %dial.target,
        ended = label,
        bytes_up = moved.up,
        bytes_down = moved.down,
        duration_ms = started.elapsed().as_millis(),
        "closed"
    );
    drop((socket, counted));
    let _ = timeout(SETTLE_LIMIT, stream.settle(drain.has_started())).await;
}
