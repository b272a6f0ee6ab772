//! A dial on a tunnel, from both sides.
//!
//! On links with a stream per connection the dial is the stream's first message, and the
//! answer the first one back (`proto/tunnel.proto`). On a konnectivity link both are
//! packets ([`crate::packets`]).

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;
use tunnel_proto::message::{Dial, DialReply, MAX_DIAL};
use tunnel_proto::refusal::{Refusal, RefusalKind};

use super::error::DialFailure;
use crate::duplex::Broken;
use crate::messages::Messages;
use crate::packets::PacketDial;
use crate::stream::Stream;

/// Time for a new stream's dial to arrive, and for a refusal to be taken. Servers send the
/// dial when they open the stream. Less cuts slow networks; more keeps streams of broken peers.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// A stream whose agent has connected, and the agent's words about it.
#[derive(Debug)]
pub struct Reached {
    /// The connection's bytes.
    pub stream: Stream,
    /// The address that the agent dialled; empty on konnectivity links.
    pub address: String,
    /// The time of the agent's lookup and connect, if [`Dial::measure`] asked for it and the
    /// agent knows how.
    pub connect: Option<Duration>,
}

impl From<Stream> for Reached {
    fn from(stream: Stream) -> Self {
        Self { stream, address: String::new(), connect: None }
    }
}

/// Dials on a stream of its own.
pub(super) async fn on_stream(
    stream: Stream,
    dial: &Dial,
    opened: impl FnOnce(),
) -> Result<Reached, DialFailure> {
    opened();
    let mut messages = Messages::new(stream, MAX_DIAL);
    messages.send(dial.encode()).await?;
    let reply = messages.recv().await?;
    let reply = reply.ok_or_else(|| DialFailure::BadAnswer("the stream ended".to_owned()))?;
    match DialReply::decode(reply).map_err(|error| DialFailure::BadAnswer(error.to_string()))? {
        DialReply::Connected { address, connect } => {
            Ok(Reached { stream: messages.into_stream(), address, connect })
        }
        DialReply::Refused(refusal) => Err(DialFailure::Refused(refusal)),
    }
}

/// A dial that a server asks an agent to make. Dropping it without an answer refuses it.
#[derive(Debug)]
pub struct IncomingDial(Carrier);

#[derive(Debug)]
enum Carrier {
    Stream(Messages),
    Packet(PacketDial),
}

impl IncomingDial {
    pub(super) fn on_stream(stream: Stream) -> Self {
        Self(Carrier::Stream(Messages::new(stream, MAX_DIAL)))
    }

    pub(super) const fn by_packet(asked: PacketDial) -> Self {
        Self(Carrier::Packet(asked))
    }

    /// Reads the dial, within ten seconds. Returns a refusal for one that is malformed, and
    /// `None` when the server left before it named one. Call it once. Not cancel safe.
    pub async fn dial(&mut self) -> Option<Result<Dial, Refusal>> {
        match &mut self.0 {
            Carrier::Stream(messages) => match timeout(HEADER_LIMIT, messages.recv()).await {
                Ok(Ok(Some(message))) => Some(Dial::decode(message).map_err(bad_request)),
                Ok(Ok(None) | Err(_)) | Err(_) => None,
            },
            Carrier::Packet(asked) => Some(asked.dial().map_err(bad_request)),
        }
    }

    /// Waits until the server has cancelled the dial. Cancel safe.
    pub async fn cancelled(&mut self) {
        match &mut self.0 {
            Carrier::Stream(messages) => messages.cancelled().await,
            Carrier::Packet(asked) => asked.cancelled().await,
        }
    }

    /// Answers that the target at `address` is connected, after `connect` if the dial asked for
    /// that time. Returns the stream that carries the connection, or `None` when the server
    /// left. Not cancel safe.
    pub async fn connected(self, address: SocketAddr, connect: Option<Duration>) -> Option<Stream> {
        match self.0 {
            Carrier::Stream(mut messages) => {
                let reply = DialReply::Connected { address: address.to_string(), connect };
                messages.send(reply.encode()).await.ok()?;
                Some(messages.into_stream())
            }
            Carrier::Packet(asked) => Some(asked.accept().into()),
        }
    }

    /// Answers that the target cannot be connected, within ten seconds. Not cancel safe.
    pub async fn refuse(self, refusal: Refusal) {
        match self.0 {
            Carrier::Stream(mut messages) => {
                let sent = async {
                    messages.send(DialReply::Refused(refusal).encode()).await?;
                    messages.finish().await
                };
                // A failure or timeout means that the server does not read the answer.
                let _: Result<Result<(), Broken>, _> = timeout(HEADER_LIMIT, sent).await;
            }
            Carrier::Packet(asked) => asked.refuse(refusal.text),
        }
    }
}

fn bad_request(error: impl std::fmt::Display) -> Refusal {
    Refusal { kind: RefusalKind::BadRequest, text: error.to_string() }
}
