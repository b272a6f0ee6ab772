//! One stream, which is one connection: read the dial, connect, answer, relay.

use std::time::Duration;

use prometheus::IntGauge;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};
use tunnel::control::Messages;
use tunnel::drain::Drain;
use tunnel::duplex::Broken;
use tunnel::relay::{Ending, Moved, relay};
use tunnel::socket::Socket;
use tunnel::stream::Stream;
use tunnel_proto::message::{Dial, DialReply, MAX_DIAL, MessageError};
use tunnel_proto::refusal::{Refusal, RefusalKind};

use crate::dial;
use crate::metrics::Metrics;

/// A server writes the dial at once when it opens a stream.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// The most that a target gets to answer, whatever the server allows: it is
/// near, and Konnectivity's agents wait as long.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// How long a drain waits for the server to have the last bytes.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Counts a connection for as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Serves one stream to its end, or until the drain kills.
pub(crate) async fn serve(stream: Stream, metrics: Metrics, drain: Drain) {
    let _counted = Counted::new(&metrics.connections);
    let mut messages = Messages::new(stream, MAX_DIAL);
    let Some((dial, socket)) = connect(&mut messages, &metrics, &drain).await else { return };
    relay_connection(&dial, messages.into_stream(), socket, &metrics, &drain).await;
}

/// Everything before the relay. `None` when there is nothing to relay; the
/// server has been told why, unless it is the one that left.
async fn connect(messages: &mut Messages, metrics: &Metrics, drain: &Drain) -> Option<(Dial, Socket)> {
    let outcome = |label: &str| metrics.dials.with_label_values(&[label]).inc();
    let dial = match timeout(HEADER_LIMIT, messages.recv()).await {
        Ok(Ok(Some(message))) => Dial::decode(message),
        Ok(Ok(None) | Err(_)) | Err(_) => {
            outcome("no_header");
            return None;
        }
    };
    let dial = match dial {
        Ok(dial) => dial,
        Err(error) => {
            outcome(RefusalKind::BadRequest.label());
            refuse(messages, bad_request(&error)).await;
            return None;
        }
    };
    let started = Instant::now();
    let limit = dial.timeout.min(DIAL_LIMIT);
    let connected = tokio::select! {
        biased;
        () = drain.killed() => return None,
        () = messages.cancelled() => {
            outcome("cancelled");
            debug!(id = dial.connection_id, target = %dial.target, "dial cancelled");
            return None;
        }
        connected = dial::connect(&dial.target, limit) => connected,
    };
    match connected {
        Ok((tcp, addr)) => {
            outcome("connected");
            metrics.dial_seconds.observe(started.elapsed().as_secs_f64());
            let reply = DialReply::Connected { address: addr.to_string() };
            messages.send(reply.encode()).await.ok()?;
            Some((dial, tcp.into()))
        }
        Err(refusal) => {
            outcome(refusal.kind.label());
            info!(target: "access", id = dial.connection_id, target = %dial.target, error = %refusal, "refused");
            refuse(messages, refusal).await;
            None
        }
    }
}

fn bad_request(error: &MessageError) -> Refusal {
    Refusal { kind: RefusalKind::BadRequest, text: error.to_string() }
}

async fn refuse(messages: &mut Messages, refusal: Refusal) {
    let sent = async {
        messages.send(DialReply::Refused(refusal).encode()).await?;
        messages.finish().await
    };
    // A server that does not take the answer does not need it.
    let _: Result<Result<(), Broken>, _> = timeout(HEADER_LIMIT, sent).await;
}

async fn relay_connection(
    dial: &Dial,
    mut stream: Stream,
    mut socket: Socket,
    metrics: &Metrics,
    drain: &Drain,
) {
    let (started, meter) = (Instant::now(), metrics.meter());
    let mut moved = Moved::default();
    let ending = tokio::select! {
        biased;
        () = drain.killed() => None,
        ending = relay(&mut stream, &mut socket, None, &meter, &mut moved) => Some(ending),
    };
    let label = ending.as_ref().map_or("killed", Ending::label);
    metrics.endings.with_label_values(&[label]).inc();
    metrics.connection_seconds.observe(started.elapsed().as_secs_f64());
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
    drop(socket);
    let _ = timeout(SETTLE_LIMIT, stream.settle(drain.has_started())).await;
}
