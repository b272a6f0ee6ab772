//! From a fresh connection to a tunnel whose ends know each other.
//!
//! On links with a control stream the agent says Hello there, and the server answers
//! Welcome or a Rejection (`proto/tunnel.proto`). A konnectivity agent introduces itself in
//! the metadata of its gRPC call, and the server's answer is the head of the response.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::debug;
use tunnel_proto::message::{Control, Hello, Rejection, RejectionKind, Welcome, encode_control};

use super::konnectivity::{self, BearerError, Call, Status};
use super::{HandshakeError, Link, Tunnel, h2};
use crate::drain::Drain;
use crate::duplex::Broken;
use crate::messages::{ControlError, Messages, control_messages, greeting};
use crate::packets::Counters;
use crate::stream::Stream;

/// How long each end may take for its part of the greeting.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// How long HTTP/2 may take to start on a TLS connection.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Longest server id, in bytes: that of a DNS name.
const MAX_SERVER_ID: usize = 253;

/// The name of gRPC in ALPN.
const ALPN_GRPC: &[u8] = b"h2";

/// A TLS connection of an agent, on the agent's side.
type ClientTls = tokio_rustls::client::TlsStream<TcpStream>;

/// The link of a TLS connection by its ALPN protocol, on either side.
///
/// # Errors
/// When the peers have agreed on no protocol of ours.
pub fn link_on_tcp(tls: &rustls::CommonState) -> Result<Link, HandshakeError> {
    match tls.alpn_protocol() {
        Some(crate::tls::ALPN) => Ok(Link::H2),
        Some(ALPN_GRPC) => Ok(Link::Konnectivity),
        Some(_) | None => Err(HandshakeError::Tls("the peer does not speak this protocol".to_owned())),
    }
}

/// Servers: takes in the agents of one TLS connection, each of which goes to `arrived`.
/// Konnectivity's agents may make several calls on one connection; then this returns when
/// the connection is over.
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
    if link == Link::Konnectivity {
        let accepting = konnectivity::accept(tls, from, counters);
        let agents = timeout(HANDSHAKE_LIMIT, accepting).await.unwrap_or(Err(HandshakeError::Timeout))?;
        let why = agents.serve(drain, |call| arrived(Arrived(Way::Call(Box::new(call))))).await;
        debug!(%from, why, "connection of a konnectivity agent ended");
    } else {
        let accepting = Box::pin(h2::accept(tls, from, drain));
        let (tunnel, control) =
            timeout(HANDSHAKE_LIMIT, accepting).await.unwrap_or(Err(HandshakeError::Timeout))?;
        arrived(Arrived::new(Tunnel::H2(tunnel), control));
    }
    Ok(())
}

/// Agents: continues on a TLS connection to `name`, with the link of its ALPN protocol.
///
/// # Errors
/// When the server does not speak a link's protocol.
pub async fn open_on_tcp(
    tls: ClientTls,
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
    Ok(Opened(Fresh::Call(Box::new(calling))))
}

/// Servers: an agent of which nothing is known yet.
#[derive(Debug)]
pub struct Arrived(Way);

#[derive(Debug)]
enum Way {
    Control(Tunnel, Messages),
    Call(Box<Call>),
}

/// What an agent says of itself. Nothing of it is proven.
#[derive(Debug)]
pub struct Introduction {
    /// The greeting; its token is taken out.
    pub hello: Hello,
    /// The token that the agent presents, or what is wrong with its metadata.
    pub token: Result<Option<String>, BearerError>,
}

/// An agent that was to be admitted and is not there any more.
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
    /// An agent on a link with a control stream.
    pub fn new(tunnel: Tunnel, control: Stream) -> Self {
        Self(Way::Control(tunnel, control_messages(control)))
    }

    /// The link that the agent came on.
    pub const fn link(&self) -> Link {
        match &self.0 {
            Way::Control(tunnel, _) => tunnel.link(),
            Way::Call(_) => Link::Konnectivity,
        }
    }

    /// The agent's address.
    pub fn from(&self) -> SocketAddr {
        match &self.0 {
            Way::Control(tunnel, _) => tunnel.remote(),
            Way::Call(call) => call.remote(),
        }
    }

    /// Reads the agent's introduction, for ten seconds at most. Not cancel safe.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub async fn introduction(&mut self) -> Result<Introduction, String> {
        match &mut self.0 {
            Way::Control(_, messages) => match timeout(GREETING_LIMIT, greeting(messages)).await {
                Ok(Ok(Control::Hello(mut hello))) => {
                    let token = std::mem::take(&mut hello.token);
                    Ok(Introduction { hello, token: Ok((!token.is_empty()).then_some(token)) })
                }
                Ok(Ok(_)) => Err("the first message is not a hello".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no hello in time".to_owned()),
            },
            Way::Call(call) => call.introduction(),
        }
    }

    /// Admits the agent. Returns the tunnel and what the greeting left of the control
    /// stream. Not cancel safe.
    ///
    /// # Errors
    /// When the agent has left.
    pub async fn admit(
        self,
        welcome: Welcome,
        drain: &Drain,
    ) -> Result<(Tunnel, Option<Messages>), NotAdmitted> {
        match self.0 {
            Way::Control(tunnel, mut messages) => {
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
                Ok((tunnel, Some(messages)))
            }
            Way::Call(call) => Ok((Tunnel::Konnectivity(call.admit(&welcome, drain)?), None)),
        }
    }

    /// Tells the agent why it is not admitted, and ends the tunnel. Takes ten seconds at
    /// most.
    pub async fn reject(self, rejection: Rejection) {
        match self.0 {
            Way::Control(tunnel, mut messages) => {
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
            Way::Call(call) => {
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
        match self.0 {
            Way::Control(tunnel, _) => tunnel.close(why),
            Way::Call(call) => call.refuse(Status::Unavailable, why),
        }
    }
}

/// Agents: a connection to a server on which nothing was said yet.
#[derive(Debug)]
pub struct Opened(Fresh);

#[derive(Debug)]
enum Fresh {
    Control(Tunnel, Stream),
    Call(Box<Calling>),
}

#[derive(Debug)]
struct Calling {
    tls: ClientTls,
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
    /// What the server says of itself.
    pub welcome: Welcome,
    /// What the greeting left of the control stream, on links that have one.
    pub control: Option<Messages>,
}

/// Why a server does not admit an agent although there was a connection.
#[derive(Debug, thiserror::Error)]
pub enum GreetingError {
    /// The server says that the agent holds a tunnel to it; its id.
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
    /// The answer is no answer to a greeting.
    #[error("the server answered the greeting with something else")]
    Unexpected,
    /// The server's id cannot be used.
    #[error("the server's id is not 1 to {MAX_SERVER_ID} bytes long")]
    ServerId,
}

impl GreetingError {
    /// The reason that the server is told when the tunnel is closed.
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
    pub const fn new(tunnel: Tunnel, control: Stream) -> Self {
        Self(Fresh::Control(tunnel, control))
    }

    /// Which link it is on.
    pub const fn link(&self) -> Link {
        match &self.0 {
            Fresh::Control(tunnel, _) => tunnel.link(),
            Fresh::Call(_) => Link::Konnectivity,
        }
    }

    /// Introduces the agent and waits for the answer, for ten seconds at most. A failure
    /// ends the tunnel. Not cancel safe.
    ///
    /// # Errors
    /// When the server does not admit the agent.
    pub async fn introduce(self, hello: Hello) -> Result<Greeted, GreetingError> {
        match self.0 {
            Fresh::Control(tunnel, control) => match greet(control, hello).await {
                Ok((messages, welcome)) => Ok(Greeted { tunnel, welcome, control: Some(messages) }),
                Err(error) => {
                    tunnel.close(error.close_reason());
                    Err(error)
                }
            },
            Fresh::Call(calling) => {
                let Calling { tls, addr, authority, counters, drain } = *calling;
                let connecting = konnectivity::connect(tls, addr, &authority, &hello, counters, &drain);
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
            | RejectionKind::Unavailable) => Err(GreetingError::Rejected { kind, text: rejection.text }),
        },
        Control::Hello(_) | Control::Ping(_) | Control::Pong(_) | Control::Alive(_) | Control::Drain(_) => {
            Err(GreetingError::Unexpected)
        }
    }
}

fn check_id(id: &str) -> Result<(), GreetingError> {
    if (1..=MAX_SERVER_ID).contains(&id.len()) { Ok(()) } else { Err(GreetingError::ServerId) }
}
