//! Agents: from a fresh connection to a server that has admitted the agent.
//!
//! The counterpart of [`arrival`](super::arrival), with the same two ways.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tunnel_proto::message::{Control, Hello, RejectionKind, Welcome, encode_control};
use tunnel_proto::refusal::printable;

use super::error::HandshakeError;
use super::link::{Link, link_on_tcp};
use super::tunnel::Tunnel;
use super::{h2, konnectivity};
use crate::drain::Drain;
use crate::duplex::Broken;
use crate::messages::{ControlError, GREETING_LIMIT, Messages, control_messages, greeting};
use crate::packets::Counters;
use crate::stream::Stream;

/// Longest server id, in bytes: as long as a DNS name.
const MAX_SERVER_ID: usize = 253;

/// A TLS connection to a server.
type Tls = tokio_rustls::client::TlsStream<TcpStream>;

/// Continues on a TLS connection to `name`, with the link of its ALPN protocol.
///
/// # Errors
/// When the server does not speak a link's protocol.
pub async fn open_on_tcp(
    tls: Tls,
    addr: SocketAddr,
    name: &str,
    counters: Counters,
    drain: &Drain,
) -> Result<Opened, HandshakeError> {
    if link_on_tcp(tls.get_ref().1)? == Link::H2 {
        let (tunnel, control) = h2::connect(tls, addr, drain).await?;
        return Ok(Opened::new(Tunnel::H2(tunnel), control));
    }
    let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
    let authority = format!("{host}:{}", addr.port());
    let calling = Calling { tls, addr, authority, counters, drain: drain.clone() };
    Ok(Opened(Greeting::Call(Box::new(calling))))
}

/// Agents: a connection to a server before the greeting.
#[derive(Debug)]
pub struct Opened(Greeting);

#[derive(Debug)]
enum Greeting {
    Control(Tunnel, Stream),
    Call(Box<Calling>),
}

#[derive(Debug)]
struct Calling {
    tls: Tls,
    addr: SocketAddr,
    authority: String,
    counters: Counters,
    drain: Drain,
}

/// Agents: a server that has admitted the agent.
#[derive(Debug)]
pub struct Greeted {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// The server's answer.
    pub welcome: Welcome,
    /// The control stream, on links that have one.
    pub control: Option<Messages>,
}

/// Why a greeting on an open connection failed.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The agent holds a tunnel to the server with this id already.
    #[error("there is a tunnel to server {0} already")]
    Duplicate(String),
    /// The control stream failed.
    #[error("{0}")]
    Control(#[from] ControlError),
    /// The call of a konnectivity server failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The server took longer than ten seconds.
    #[error("the server did not answer the greeting in time")]
    Timeout,
    /// The server named a reason.
    #[error("rejected by the server ({kind:?}): {text}")]
    Rejected {
        /// The kind of reason.
        kind: RejectionKind,
        /// The reason in words.
        text: String,
    },
    /// The server's message is no answer to a greeting.
    #[error("the server answered the greeting with something else")]
    Unexpected,
    /// The server's id cannot be used.
    #[error("the server's id is not 1 to {MAX_SERVER_ID} bytes long")]
    ServerId,
}

impl GreetingError {
    /// The reason sent to the server when the tunnel is closed.
    const fn close_reason(&self) -> &'static str {
        if let Self::Duplicate(_) = self { "duplicate" } else { "greeting failed" }
    }

    /// The name in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Duplicate(_) => "duplicate",
            Self::Handshake(error) => error.label(),
            Self::Rejected { .. } => "rejected",
            Self::Control(_) | Self::Timeout | Self::Unexpected | Self::ServerId => "greeting_failed",
        }
    }
}

impl Opened {
    /// A connection on a link with a control stream.
    pub fn new(tunnel: Tunnel, control: impl Into<Stream>) -> Self {
        Self(Greeting::Control(tunnel, control.into()))
    }

    /// Which link it is on.
    pub const fn link(&self) -> Link {
        match &self.0 {
            Greeting::Control(tunnel, _) => tunnel.link(),
            Greeting::Call(_) => Link::Konnectivity,
        }
    }

    /// Introduces the agent and waits for the answer, for ten seconds at most. A failure
    /// ends the tunnel. Not cancel safe.
    ///
    /// # Errors
    /// When the server does not admit the agent.
    pub async fn introduce(self, hello: Hello) -> Result<Greeted, GreetingError> {
        match self.0 {
            Greeting::Control(tunnel, control) => match greet(control, hello).await {
                Ok((messages, welcome)) => Ok(Greeted { tunnel, welcome, control: Some(messages) }),
                Err(error) => {
                    tunnel.close(error.close_reason());
                    Err(error)
                }
            },
            Greeting::Call(calling) => {
                let Calling { tls, addr, authority, counters, drain } = *calling;
                let connecting =
                    Box::pin(konnectivity::connect(tls, addr, &authority, &hello, counters, &drain));
                let (tunnel, welcome) =
                    timeout(GREETING_LIMIT, connecting).await.unwrap_or(Err(HandshakeError::Timeout))?;
                Ok(Greeted { tunnel: Tunnel::Konnectivity(tunnel), welcome, control: None })
            }
        }
    }
}

async fn greet(control: Stream, hello: Hello) -> Result<(Messages, Welcome), GreetingError> {
    let mut messages = control_messages(control);
    let hello = encode_control(Control::Hello(hello)).map_err(ControlError::from)?;
    let answer = async {
        messages.send(hello).await.map_err(|error: Broken| ControlError::from(error))?;
        greeting(&mut messages).await
    };
    match timeout(GREETING_LIMIT, answer).await.map_err(|_| GreetingError::Timeout)?? {
        Control::Welcome(welcome) => {
            check_id(&welcome.server_id)?;
            Ok((messages, welcome))
        }
        Control::Rejection(rejection) => match RejectionKind::from_code(rejection.code) {
            RejectionKind::Duplicate => {
                check_id(&rejection.server_id)?;
                Err(GreetingError::Duplicate(rejection.server_id))
            }
            kind @ (RejectionKind::Other
            | RejectionKind::Version
            | RejectionKind::Identity
            | RejectionKind::Unauthenticated
            | RejectionKind::Draining
            | RejectionKind::Unavailable) => {
                Err(GreetingError::Rejected { kind, text: printable(rejection.text) })
            }
        },
        Control::Hello(_)
        | Control::Ping(_)
        | Control::Pong(_)
        | Control::Alive(_)
        | Control::Drain(_)
        | Control::Token(_)
        | Control::Renew(_)
        | Control::Suspect(_) => Err(GreetingError::Unexpected),
    }
}

fn check_id(id: &str) -> Result<(), GreetingError> {
    if (1..=MAX_SERVER_ID).contains(&id.len()) { Ok(()) } else { Err(GreetingError::ServerId) }
}
