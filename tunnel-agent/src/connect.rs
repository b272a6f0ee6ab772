//! Establishing a tunnel on one way: choose a link, race, greet.

mod greet;
mod links;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tunnel::control::Messages;
use tunnel::drain::Drain;
use tunnel::stream::Stream;
use tunnel::transport::konnectivity::{Connected, Introduction};
use tunnel::transport::quic;
use tunnel::transport::{HandshakeError, Link, Tunnel};
use tunnel_proto::message::{Hello, READS_ALIVE, Welcome};

use crate::cli::Transport;
use crate::config::Config;
use crate::fleet::Way;
use crate::metrics::Metrics;
use crate::session::ControlStream;

use greet::{Answer, GreetingError, TokenError};
use links::{Links, Opened, Tls};

/// Head start of the preferred link: longer than a handshake takes where it
/// works, too short to be noticed where it does not.
const HEAD_START: Duration = Duration::from_millis(300);

/// Limit of one attempt on one link.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// What QUIC still gets once TCP has failed. A host that refuses TCP has no server
/// at the moment, and nothing refuses UDP: without this, an agent would listen
/// into the silence for the whole limit while the server comes back.
const AFTER_TCP: Duration = Duration::from_secs(2);

/// For how long it is remembered that QUIC lost.
const MEMORY: Duration = Duration::from_secs(600);

/// A tunnel to a server that has admitted us.
#[derive(Debug)]
pub(crate) struct Greeted {
    pub(crate) tunnel: Tunnel,
    pub(crate) server_id: String,
    /// How many servers there are, if this one says so.
    pub(crate) server_count: Option<u32>,
    /// Name and version of the server program, for people.
    pub(crate) software: String,
    /// The control stream, on links that have one.
    pub(crate) control: Option<ControlStream>,
}

/// Why there is no new tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("there is a tunnel to server {0} already")]
    Duplicate(String),
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error(transparent)]
    Token(#[from] TokenError),
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// What the flags allow.
    Any,
    /// QUIC alone, to replace a tunnel on h2.
    Quic,
}

/// Ids of the servers to which there are tunnels, as they are when Hello is said.
pub(crate) type Held = Box<dyn Fn() -> Vec<String> + Send + Sync>;

/// Dials servers.
#[derive(Debug)]
pub(crate) struct Connector {
    config: Arc<Config>,
    metrics: Metrics,
    links: Links,
    /// Where QUIC lost the race, and when.
    quic_lost: Mutex<HashMap<Way, Instant>>,
}

impl Connector {
    /// `endpoint` is a UDP socket for all attempts, if they are to share one.
    pub(crate) fn new(
        config: Arc<Config>,
        metrics: Metrics,
        drain: Drain,
        endpoint: Option<quic::Dialer>,
    ) -> Self {
        let links = Links::new(&config, drain, endpoint);
        Self { config, metrics, links, quic_lost: Mutex::default() }
    }

    /// Establishes a tunnel and introduces us. Cancel safe: dropping it gives
    /// the attempt up.
    ///
    /// # Errors
    /// When no link works, or the server does not admit us.
    pub(crate) async fn connect(
        &self,
        way: &Way,
        choice: Choice,
        held: &Held,
    ) -> Result<Greeted, ConnectError> {
        let token = match &self.config.token_path {
            // Before a server is bothered.
            Some(path) => greet::read_token(path).inspect_err(|_| self.count("none", "no_token"))?,
            None => String::new(),
        };
        // Boxed: handshakes are large, and only a few run at a time.
        let proxied = self.config.proxies.to(&way.name, way.addr.port()).is_some();
        let opened = match (choice, self.config.transport) {
            // Whoever names a proxy wants no other way to be taken.
            (Choice::Quic, _) if proxied => {
                Err(HandshakeError::Config("quic does not go through a proxy".to_owned()))
            }
            (Choice::Any, Transport::Auto) if proxied => Box::pin(self.attempt(way, Link::H2)).await,
            (Choice::Quic, _) | (Choice::Any, Transport::Quic) => {
                Box::pin(self.attempt(way, Link::Quic)).await
            }
            (Choice::Any, Transport::H2 | Transport::Konnectivity) => {
                Box::pin(self.attempt(way, Link::H2)).await
            }
            (Choice::Any, Transport::Auto) => Box::pin(self.race(way)).await,
        }?;
        let (link, greeted) = match opened {
            Opened::Ours(tunnel, control) => {
                (tunnel.link(), self.introduce(tunnel, control, token, held()).await)
            }
            Opened::Grpc(tls) => (Link::Konnectivity, self.call(way, tls, token).await),
        };
        let outcome = match &greeted {
            Ok(_) => "connected",
            Err(ConnectError::Duplicate(_)) => "duplicate",
            Err(ConnectError::Greeting(GreetingError::Rejected { .. })) => "rejected",
            Err(ConnectError::Handshake(error)) => error.label(),
            Err(ConnectError::Greeting(_) | ConnectError::Token(_)) => "greeting_failed",
        };
        self.count(link.label(), outcome);
        greeted
    }

    /// Says Hello on a tunnel, and closes it where that leads to nothing.
    async fn introduce(
        &self,
        tunnel: Tunnel,
        control: Stream,
        token: String,
        connected_servers: Vec<String>,
    ) -> Result<Greeted, ConnectError> {
        let hello = Hello {
            agent_id: self.config.agent_id.clone(),
            identifiers: self.config.identifiers.clone(),
            token,
            connected_servers,
            ..Hello::default()
        };
        match greet::greet(control, hello).await {
            Ok(Answer::Welcome(welcomed)) => {
                let (control, welcome) = *welcomed;
                Ok(greeted(tunnel, control, welcome))
            }
            Ok(Answer::Duplicate(server_id)) => {
                tunnel.close("duplicate");
                Err(ConnectError::Duplicate(server_id))
            }
            Err(error) => {
                tunnel.close("greeting failed");
                Err(error.into())
            }
        }
    }

    /// Introduces us to a server that speaks Konnectivity's gRPC only.
    async fn call(&self, way: &Way, tls: Box<Tls>, token: String) -> Result<Greeted, ConnectError> {
        let introduction = Introduction {
            agent_id: self.config.agent_id.clone(),
            identifiers: self.config.identifiers.clone(),
            token: (!token.is_empty()).then_some(token),
        };
        let calling = self.links.call(way, tls, &introduction, &self.metrics);
        let Connected { tunnel, server_id, server_count } =
            timeout(ATTEMPT_LIMIT, calling).await.unwrap_or(Err(HandshakeError::Timeout))?;
        Ok(Greeted {
            tunnel: Tunnel::Konnectivity(tunnel),
            server_id,
            server_count: (server_count > 0).then_some(server_count),
            software: "konnectivity".to_owned(),
            control: None,
        })
    }

    fn count(&self, link: &str, outcome: &str) {
        self.metrics.tunnel_attempts.with_label_values(&[link, outcome]).inc();
    }

    async fn race(&self, way: &Way) -> Result<Opened, HandshakeError> {
        let (first, second) =
            if self.quic_lost_lately(way) { (Link::H2, Link::Quic) } else { (Link::Quic, Link::H2) };
        let mut ahead = Box::pin(self.attempt(way, first));
        let early = tokio::select! {
            result = &mut ahead => Some(result),
            () = sleep(HEAD_START) => None,
        };
        let mut behind = Box::pin(self.attempt(way, second));
        let (won, result) = match early {
            Some(Ok(opened)) => (first, Ok(opened)),
            Some(Err(error)) => (second, both(last(second, behind).await, first, error)),
            None => tokio::select! {
                biased;
                result = &mut ahead => match result {
                    Ok(opened) => (first, Ok(opened)),
                    Err(error) => (second, both(last(second, behind).await, first, error)),
                },
                result = &mut behind => match result {
                    Ok(opened) => (second, Ok(opened)),
                    Err(error) => (first, both(last(first, ahead).await, second, error)),
                },
            },
        };
        if result.is_ok() {
            self.remember(way, won);
        }
        result
    }

    fn quic_lost_lately(&self, way: &Way) -> bool {
        let lost = self.quic_lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get(way).is_some_and(|at| at.elapsed() < MEMORY)
    }

    fn remember(&self, way: &Way, won: Link) {
        let mut memory = self.quic_lost.lock().unwrap_or_else(PoisonError::into_inner);
        memory.retain(|_, at| at.elapsed() < MEMORY);
        match won {
            Link::Quic => drop(memory.remove(way)),
            // A later win of h2 does not prolong the memory: QUIC gets its chance.
            Link::H2 | Link::Konnectivity => drop(memory.entry(way.clone()).or_insert_with(Instant::now)),
        }
    }

    /// One attempt on one link, below the greeting.
    async fn attempt(&self, way: &Way, link: Link) -> Result<Opened, HandshakeError> {
        let opening = async {
            match link {
                // Which of the two it is, the server says.
                Link::H2 | Link::Konnectivity => Box::pin(self.links.tcp(way)).await,
                Link::Quic => Box::pin(self.links.quic(way)).await,
            }
        };
        let result = timeout(ATTEMPT_LIMIT, opening).await.unwrap_or(Err(HandshakeError::Timeout));
        if let Err(error) = &result {
            self.count(link.label(), error.label());
        }
        result
    }
}

fn greeted(tunnel: Tunnel, messages: Messages, welcome: Welcome) -> Greeted {
    let reads_alive = welcome.capabilities.iter().any(|capability| capability == READS_ALIVE);
    Greeted {
        tunnel,
        server_id: welcome.server_id,
        server_count: (welcome.server_count > 0).then_some(welcome.server_count),
        software: welcome.software,
        control: Some(ControlStream { messages, reads_alive }),
    }
}

/// The link that is left when the other has failed.
async fn last(
    link: Link,
    attempt: impl Future<Output = Result<Opened, HandshakeError>>,
) -> Result<Opened, HandshakeError> {
    match link {
        Link::Quic => timeout(AFTER_TCP, attempt).await.unwrap_or(Err(HandshakeError::Timeout)),
        Link::H2 | Link::Konnectivity => attempt.await,
    }
}

/// When both links fail, people need both reasons.
fn both(
    result: Result<Opened, HandshakeError>,
    other: Link,
    error: HandshakeError,
) -> Result<Opened, HandshakeError> {
    result.map_err(|own| match own {
        HandshakeError::Tls(text) => HandshakeError::Tls(format!("{text}; {}: {error}", other.label())),
        own @ (HandshakeError::Config(_)
        | HandshakeError::Rejected(_)
        | HandshakeError::Lost(_)
        | HandshakeError::Timeout) => HandshakeError::Lost(format!("{own}; {}: {error}", other.label())),
    })
}
