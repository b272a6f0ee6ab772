//! One stream, which is one connection: read the dial, connect, answer, relay.

use std::time::Duration;

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
use crate::metrics::{GaugeGuard, Metrics};

/// A server writes the dial at once when it opens a stream.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// The most that a target gets to answer, whatever the server allows: it is
/// near, and Konnectivity's agents wait as long.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

/// How long a drain waits for the server to have the last bytes.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Serves one stream to its end, or until the drain kills.
pub(crate) async fn serve(stream: Stream, metrics: Metrics, drain: Drain) {
    let _counted = metrics.connection();
    let mut messages = Messages::new(stream, MAX_DIAL);
    let Some(connected) = connect(&mut messages, &metrics, &drain).await else { return };
    relay_connection(connected, messages.into_stream(), &metrics, &drain).await;
}

/// A target that has answered, and that the server knows of.
struct Connected {
    dial: Dial,
    socket: Socket,
    counted: GaugeGuard,
}

/// Everything before the relay. `None` when there is nothing to relay; the
/// server has been told why, unless it is the one that left.
async fn connect(messages: &mut Messages, metrics: &Metrics, drain: &Drain) -> Option<Connected> {
    let dial = match timeout(HEADER_LIMIT, messages.recv()).await {
        Ok(Ok(Some(message))) => Dial::decode(message),
        Ok(Ok(None) | Err(_)) | Err(_) => {
            metrics.dial_ended("no_header");
            return None;
        }
    };
    let dial = match dial {
        Ok(dial) => dial,
        Err(error) => {
            metrics.dial_ended(RefusalKind::BadRequest.label());
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
            metrics.dial_ended("cancelled");
            debug!(id = dial.connection_id, target = %dial.target, "dial cancelled");
            return None;
        }
        connected = dial::connect(&dial.target, limit) => connected,
    };
    match connected {
        Ok((tcp, addr)) => {
            let counted = metrics.dialed(started.elapsed());
            let reply = DialReply::Connected { address: addr.to_string() };
            messages.send(reply.encode()).await.ok()?;
            Some(Connected { dial, socket: tcp.into(), counted })
        }
        Err(refusal) => {
            metrics.dial_failed(refusal.kind);
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

async fn relay_connection(connected: Connected, mut stream: Stream, metrics: &Metrics, drain: &Drain) {
    let Connected { dial, mut socket, counted } = connected;
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
