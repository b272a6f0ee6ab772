//! Establishing a tunnel to an endpoint: choose a link, race QUIC and h2, greet.

mod links;
mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, timeout};
use tunnel::drain::Drain;
use tunnel::tls::Dialling;
use tunnel::transport::{Chain, Greeted, GreetingError, HandshakeError, Link, Opened, quic};
use tunnel_proto::message::{Hello, TOKEN_RENEWAL, VERSION};

use crate::cli::Transport;
use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::metrics::Metrics;

pub(crate) use links::tcp_alpn;
pub(crate) use token::read as read_token;

/// Head start of the preferred link. Shorter than a handshake, and both links are
/// established each time; longer, and people wait for the tunnel where UDP is blocked.
const HEAD_START: Duration = Duration::from_millis(300);

/// Time limit of one attempt on one link. Shorter, and slow networks get no tunnel;
/// longer, and dead addresses hold the few attempts that run at once.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(10);

/// Time that QUIC has left once TCP has failed. A host without a server refuses TCP, but
/// nothing refuses UDP: longer, and an agent waits for an answer while the server comes
/// back; shorter, and a handshake that lost a packet fails.
const AFTER_TCP: Duration = Duration::from_secs(2);

/// Time for which h2 is preferred after it won. Shorter, and agents without UDP lose the
/// head start again and again; longer, and agents stay on h2 after a passing failure.
const MEMORY: Duration = Duration::from_secs(600);

/// Why there is no new tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("{0}")]
    Token(String),
}

/// A tunnel to a server that has admitted the agent.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) greeted: Greeted,
    pub(crate) made_with: MadeWith,
}

/// The credentials that a tunnel was made with.
pub(crate) struct MadeWith {
    /// The agent's own certificate, without its chain.
    pub(crate) own: Option<Arc<CertificateDer<'static>>>,
    /// The agent's token; empty if it has none.
    pub(crate) token: String,
    /// The server's certificates.
    pub(crate) chain: Chain,
    /// The name that the server's certificate is for.
    pub(crate) name: Arc<str>,
}

impl std::fmt::Debug for MadeWith {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeWith").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A connection before the greeting, and the server's certificates.
type Open = (Opened, Chain);

/// Dials servers.
#[derive(Debug)]
pub(crate) struct Connector {
    config: Arc<Config>,
    metrics: Metrics,
    drain: Drain,
    /// A UDP socket for all attempts; each has its own if `None`.
    dialer: Option<quic::Dialer>,
    /// Endpoints on which QUIC lost the race, and when.
    quic_lost: Mutex<HashMap<Endpoint, Instant>>,
}

impl Connector {
    pub(crate) fn new(
        config: Arc<Config>,
        metrics: Metrics,
        drain: Drain,
        dialer: Option<quic::Dialer>,
    ) -> Self {
        Self { config, metrics, drain, dialer, quic_lost: Mutex::default() }
    }

    /// Whether a server is reached through a proxy. The proxy resolves its name, which may
    /// be unknown on this host.
    pub(crate) fn is_proxied(&self, host: &str, port: u16) -> bool {
        self.config.proxies.to(host, port).is_some()
    }

    /// Establishes a tunnel on QUIC if it is an upgrade, otherwise on the links of the
    /// configuration. `held` returns the ids of the servers for Hello. Cancel safe: a
    /// dropped call gives the attempt up.
    ///
    /// # Errors
    /// When the token cannot be read, no link works, or the server does not admit the agent.
    pub(crate) async fn connect(
        &self,
        endpoint: &Endpoint,
        is_upgrade: bool,
        held: impl Fn() -> Vec<String>,
    ) -> Result<Established, ConnectError> {
        let token = match &self.config.token_path {
            Some(path) => token::read(path).map_err(|error| {
                self.metrics.tunnel_attempted(None, "no_token");
                ConnectError::Token(error)
            })?,
            None => String::new(),
        };
        let tls = self.config.tls.get();
        let (opened, chain) = match (is_upgrade, self.config.transport) {
            // Operators who name a proxy want no connection past it.
            (true, _) if self.is_proxied(&endpoint.name, endpoint.addr.port()) => {
                Err(HandshakeError::Config("quic does not go through a proxy".to_owned()))
            }
            (false, Transport::Auto) if !self.is_proxied(&endpoint.name, endpoint.addr.port()) => {
                Box::pin(self.race(endpoint, &tls)).await
            }
            (true, _) | (false, Transport::Quic) => self.attempt(endpoint, &tls, Link::Quic).await,
            (false, Transport::Auto | Transport::H2 | Transport::Konnectivity) => {
                self.attempt(endpoint, &tls, Link::H2).await
            }
        }?;
        let link = opened.link();
        let hello = Hello {
            version: VERSION,
            agent_id: self.config.agent_id.clone(),
            identifiers: self.config.identifiers.clone(),
            token: token.clone(),
            connected_servers: held(),
            capabilities: vec![TOKEN_RENEWAL.to_owned()],
            software: concat!("tunnel-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let greeted = opened.introduce(hello).await;
        let outcome = greeted.as_ref().map_or_else(GreetingError::label, |_| "connected");
        self.metrics.tunnel_attempted(Some(link), outcome);
        let made_with = MadeWith { own: tls.own.clone(), token, chain, name: Arc::clone(&endpoint.name) };
        Ok(Established { greeted: greeted?, made_with })
    }

    async fn race(&self, endpoint: &Endpoint, tls: &Dialling) -> Result<Open, HandshakeError> {
        let (first, second) =
            if self.quic_lost_lately(endpoint) { (Link::H2, Link::Quic) } else { (Link::Quic, Link::H2) };
        let mut ahead = Box::pin(self.attempt(endpoint, tls, first));
        let early = timeout(HEAD_START, &mut ahead).await;
        let mut behind = Box::pin(self.attempt(endpoint, tls, second));
        let (link, result, other_link, other) = match early {
            Ok(result) => (first, result, second, behind),
            Err(_) => tokio::select! {
                biased;
                result = &mut ahead => (first, result, second, behind),
                result = &mut behind => (second, result, first, ahead),
            },
        };
        let (won, result) = match (result, other_link) {
            (Ok(opened), _) => (link, Ok(opened)),
            (Err(error), Link::Quic) => {
                let last = timeout(AFTER_TCP, other).await.unwrap_or(Err(HandshakeError::Timeout));
                (other_link, last.map_err(|last| both(last, link, &error)))
            }
            (Err(error), Link::H2 | Link::Konnectivity) => {
                (other_link, other.await.map_err(|last| both(last, link, &error)))
            }
        };
        if result.is_ok() {
            self.remember(endpoint, won);
        }
        result
    }

    fn quic_lost_lately(&self, endpoint: &Endpoint) -> bool {
        let lost = self.quic_lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get(endpoint).is_some_and(|at| at.elapsed() < MEMORY)
    }

    fn remember(&self, endpoint: &Endpoint, won: Link) {
        let mut memory = self.quic_lost.lock().unwrap_or_else(PoisonError::into_inner);
        memory.retain(|_, at| at.elapsed() < MEMORY);
        match won {
            Link::Quic => drop(memory.remove(endpoint)),
            // The first win of h2 counts, so that QUIC is preferred again in the end.
            Link::H2 | Link::Konnectivity => {
                memory.entry(endpoint.clone()).or_insert_with(Instant::now);
            }
        }
    }

    /// One attempt on one link, without the greeting.
    async fn attempt(&self, endpoint: &Endpoint, tls: &Dialling, link: Link) -> Result<Open, HandshakeError> {
        let opening = async {
            // Boxed, because handshakes are large and few run at a time.
            match link {
                // The server chooses between the two.
                Link::H2 | Link::Konnectivity => Box::pin(self.tcp(endpoint, tls)).await,
                Link::Quic => Box::pin(self.quic(endpoint, tls)).await,
            }
        };
        let result = timeout(ATTEMPT_LIMIT, opening).await.unwrap_or(Err(HandshakeError::Timeout));
        result.inspect_err(|error| self.metrics.tunnel_attempted(Some(link), error.label()))
    }
}

/// The error of the last link, with the error of the other one in its text.
fn both(last: HandshakeError, other: Link, error: &HandshakeError) -> HandshakeError {
    let text = format!("{last}; {}: {error}", other.label());
    match last {
        HandshakeError::Tls(last) | HandshakeError::Certificate { text: last, .. } => {
            HandshakeError::Tls(format!("{last}; {}: {error}", other.label()))
        }
        HandshakeError::Config(_)
        | HandshakeError::Rejected(_)
        | HandshakeError::Lost(_)
        | HandshakeError::Crowded
        | HandshakeError::Timeout => HandshakeError::Lost(text),
    }
}
