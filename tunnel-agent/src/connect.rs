//! Establishing a tunnel to an endpoint: choose a link, race QUIC and h2, greet.

mod links;
mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tunnel::drain::Drain;
use tunnel::tls::ALPN;
use tunnel::transport::{Greeted, GreetingError, HandshakeError, Link, Opened, quic};
use tunnel_proto::message::{Hello, VERSION};

use crate::cli::Transport;
use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::metrics::Metrics;

pub(crate) use links::tcp_alpn;

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

/// Dials servers.
#[derive(Debug)]
pub(crate) struct Connector {
    config: Arc<Config>,
    metrics: Metrics,
    drain: Drain,
    /// A UDP socket for all attempts; each has its own if `None`.
    dialer: Option<quic::Dialer>,
    quic_tls: Arc<rustls::ClientConfig>,
    tcp_tls: Arc<rustls::ClientConfig>,
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
        let with_alpn = |alpn: Vec<Vec<u8>>| {
            let mut tls = (*config.tls).clone();
            tls.alpn_protocols = alpn;
            Arc::new(tls)
        };
        let quic_tls = with_alpn(vec![ALPN.to_vec()]);
        let tcp_tls = with_alpn(tcp_alpn(&config.alpn, config.transport));
        Self { config, metrics, drain, dialer, quic_tls, tcp_tls, quic_lost: Mutex::default() }
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
    ) -> Result<Greeted, ConnectError> {
        let token = match &self.config.token_path {
            Some(path) => token::read(path).map_err(|error| {
                self.metrics.tunnel_attempted(None, "no_token");
                ConnectError::Token(error)
            })?,
            None => String::new(),
        };
        let opened = match (is_upgrade, self.config.transport) {
            // Operators who name a proxy want no connection past it.
            (true, _) if self.is_proxied(&endpoint.name, endpoint.addr.port()) => {
                Err(HandshakeError::Config("quic does not go through a proxy".to_owned()))
            }
            (false, Transport::Auto) if !self.is_proxied(&endpoint.name, endpoint.addr.port()) => {
                Box::pin(self.race(endpoint)).await
            }
            (true, _) | (false, Transport::Quic) => self.attempt(endpoint, Link::Quic).await,
            (false, Transport::Auto | Transport::H2 | Transport::Konnectivity) => {
                self.attempt(endpoint, Link::H2).await
            }
        }?;
        let link = opened.link();
        let hello = Hello {
            version: VERSION,
            agent_id: self.config.agent_id.clone(),
            identifiers: self.config.identifiers.clone(),
            token,
            connected_servers: held(),
            software: concat!("tunnel-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Hello::default()
        };
        let greeted = opened.introduce(hello).await;
        let outcome = greeted.as_ref().map_or_else(GreetingError::label, |_| "connected");
        self.metrics.tunnel_attempted(Some(link), outcome);
        Ok(greeted?)
    }

    async fn race(&self, endpoint: &Endpoint) -> Result<Opened, HandshakeError> {
        let (first, second) =
            if self.quic_lost_lately(endpoint) { (Link::H2, Link::Quic) } else { (Link::Quic, Link::H2) };
        let mut ahead = Box::pin(self.attempt(endpoint, first));
        let early = timeout(HEAD_START, &mut ahead).await;
        let mut behind = Box::pin(self.attempt(endpoint, second));
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
    async fn attempt(&self, endpoint: &Endpoint, link: Link) -> Result<Opened, HandshakeError> {
        let opening = async {
            // Boxed, because handshakes are large and few run at a time.
            match link {
                // The server chooses between the two.
                Link::H2 | Link::Konnectivity => Box::pin(self.tcp(endpoint)).await,
                Link::Quic => Box::pin(self.quic(endpoint)).await,
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
        | HandshakeError::Timeout => HandshakeError::Lost(text),
    }
}
