//! Servers: from a fresh connection to an agent that is admitted or rejected.
//!
//! On links with a control stream the agent says Hello there, and the server answers
//! Welcome or a Rejection (`proto/tunnel.proto`). A konnectivity agent introduces itself in
//! the metadata of its gRPC call, and the server's answer is the head of the response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;
use tunnel_proto::message::{Control, Hello, Rejection, RejectionKind, Welcome, encode_control};

use super::error::HandshakeError;
use super::h2;
use super::konnectivity::{self, BearerError, Call, Status};
use super::link::Link;
use super::tunnel::Tunnel;
use crate::drain::Drain;
use crate::messages::{ControlError, GREETING_LIMIT, Messages, control_messages, greeting};
use crate::packets::Counters;
use crate::stream::Stream;

/// Time for HTTP/2 to start on a TLS connection. Less turns away agents on slow networks;
/// more keeps connections of strangers.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Hands the agents of one TLS connection to `arrived`. On a konnectivity link, which may
/// carry one agent after the other, returns when the connection is over. Not cancel safe.
///
/// # Errors
/// When the peer does not speak the link's protocol.
pub async fn accept_tcp(
    link: Link,
    tls: Box<tokio_rustls::server::TlsStream<TcpStream>>,
    from: SocketAddr,
    counters: Counters,
    drain: &Drain,
    mut arrived: impl FnMut(Arrived),
) -> Result<(), HandshakeError> {
    let chain: Chain = tls.get_ref().1.peer_certificates().unwrap_or_default().into();
    if link == Link::Konnectivity {
        let accepting = konnectivity::accept(tls, from, counters);
        let agents = timeout(HANDSHAKE_LIMIT, accepting).await.unwrap_or(Err(HandshakeError::Timeout))?;
        let on_call = |call| {
            arrived(Arrived { greeting: Greeting::Call(Box::new(call)), chain: Arc::clone(&chain) });
        };
        let why = agents.serve(drain, on_call).await;
        debug!(%from, why, "connection of a konnectivity agent ended");
    } else {
        let accepting = Box::pin(h2::accept(tls, from, drain));
        let (tunnel, control) =
            timeout(HANDSHAKE_LIMIT, accepting).await.unwrap_or(Err(HandshakeError::Timeout))?;
        arrived(Arrived::new(Tunnel::H2(tunnel), control, chain));
    }
    Ok(())
}

/// Servers: an agent that has not introduced itself yet.
#[derive(Debug)]
pub struct Arrived {
    greeting: Greeting,
    chain: Chain,
}

/// The certificates that a peer presented, its own first; empty if it presented none.
pub type Chain = Arc<[CertificateDer<'static>]>;

#[derive(Debug)]
enum Greeting {
    Control(Tunnel, Box<Messages>),
    Call(Box<Call>),
}

/// An agent's introduction of itself, without proof.
#[derive(Debug)]
pub struct Introduction {
    /// The greeting, without its token.
    pub hello: Hello,
    /// The token that the agent presents, or the fault of its metadata.
    pub token: Result<Option<String>, BearerError>,
}

/// Why an agent could not be admitted.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// Welcome could not be sent.
    #[error("{0}")]
    NoWelcome(ControlError),
    /// The agent closed the tunnel after Welcome, or fell silent.
    #[error("{0}")]
    Left(ControlError),
    /// The agent's call is over.
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
}

impl NotAdmitted {
    /// The name in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::NoWelcome(_) => "no_hello",
            Self::Left(_) => "left",
            Self::Handshake(error) => error.label(),
        }
    }
}

impl Arrived {
    /// An agent on a link with a control stream, and the certificates that it presented.
    pub fn new(tunnel: Tunnel, control: impl Into<Stream>, chain: Chain) -> Self {
        let greeting = Greeting::Control(tunnel, Box::new(control_messages(control)));
        Self { greeting, chain }
    }

    /// The agent's certificates, which TLS has verified; empty if the listener asks for none.
    pub const fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The link that the agent came on.
    pub const fn link(&self) -> Link {
        match &self.greeting {
            Greeting::Control(tunnel, _) => tunnel.link(),
            Greeting::Call(_) => Link::Konnectivity,
        }
    }

    /// The agent's address.
    pub fn from(&self) -> SocketAddr {
        match &self.greeting {
            Greeting::Control(tunnel, _) => tunnel.remote(),
            Greeting::Call(call) => call.remote(),
        }
    }

    /// Reads the agent's introduction, for ten seconds at most. Not cancel safe.
    ///
    /// # Errors
    /// With the fault of the introduction.
    pub async fn introduction(&mut self) -> Result<Introduction, String> {
        match &mut self.greeting {
            Greeting::Control(_, messages) => match timeout(GREETING_LIMIT, greeting(messages)).await {
                Ok(Ok(Control::Hello(mut hello))) => {
                    let token = std::mem::take(&mut hello.token);
                    Ok(Introduction { hello, token: Ok((!token.is_empty()).then_some(token)) })
                }
                Ok(Ok(_)) => Err("the first message is not a hello".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no hello in time".to_owned()),
            },
            Greeting::Call(call) => Ok(Introduction { hello: call.hello()?, token: call.token() }),
        }
    }

    /// Admits the agent. Returns the tunnel and, on links that have one, the control stream.
    /// Not cancel safe.
    ///
    /// # Errors
    /// When the agent has left.
    pub async fn admit(
        self,
        welcome: Welcome,
        drain: &Drain,
    ) -> Result<(Tunnel, Option<Messages>), NotAdmitted> {
        match self.greeting {
            Greeting::Control(tunnel, mut messages) => {
                let sent = async {
                    let message = encode_control(Control::Welcome(welcome))?;
                    Ok(timeout(GREETING_LIMIT, messages.send(message))
                        .await
                        .map_err(|_| ControlError::Silent(GREETING_LIMIT))??)
                };
                if let Err(error) = sent.await {
                    tunnel.close("no welcome was taken");
                    return Err(NotAdmitted::NoWelcome(error));
                }
                Ok((tunnel, Some(*messages)))
            }
            Greeting::Call(call) => Ok((Tunnel::Konnectivity(call.admit(&welcome, drain)?), None)),
        }
    }

    /// Tells the agent why it is not admitted, and ends the tunnel, within ten seconds. Not
    /// cancel safe.
    pub async fn reject(self, rejection: Rejection) {
        match self.greeting {
            Greeting::Control(tunnel, mut messages) => {
                let text = rejection.text.clone();
                if let Ok(message) = encode_control(Control::Rejection(rejection)) {
                    let told = async {
                        messages.send(message).await?;
                        messages.finish().await?;
                        // The agent closes once it has read why; closing first could lose it.
                        messages.recv().await
                    };
                    if !matches!(timeout(GREETING_LIMIT, told).await, Ok(Ok(_))) {
                        debug!("the agent left before it was told why it is rejected");
                    }
                }
                tunnel.close(&text);
            }
            Greeting::Call(call) => {
                let status = match RejectionKind::from_code(rejection.code) {
                    RejectionKind::Unauthenticated => Status::Unauthenticated,
                    RejectionKind::Unavailable | RejectionKind::Draining => Status::Unavailable,
                    RejectionKind::Other
                    | RejectionKind::Version
                    | RejectionKind::Identity
                    | RejectionKind::Duplicate => Status::Unknown,
                };
                call.refuse(status, &rejection.text);
            }
        }
    }

    /// Ends the tunnel at once.
    pub fn turn_away(self, why: &str) {
        match self.greeting {
            Greeting::Control(tunnel, _) => tunnel.close(why),
            Greeting::Call(call) => call.refuse(Status::Unavailable, why),
        }
    }
}
