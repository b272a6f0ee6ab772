//! Establishing a tunnel on one endpoint: choose a link, race, greet.

mod links;
mod token;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tunnel::drain::Drain;
use tunnel::transport::{Greeted, GreetingError, HandshakeError, Link, Opened, quic};
use tunnel_proto::message::{Hello, VERSION};

use crate::cli::Transport;
use crate::config::Config;
use crate::endpoint::Endpoint;
use crate::metrics::Metrics;

use links::Links;
use token::{TokenError, read_token};

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

/// Why there is no new tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
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
    quic_lost: Mutex<HashMap<Endpoint, Instant>>,
}

impl Connector {
    /// `dialer` is a UDP socket for all attempts, if they are to share one.
    pub(crate) fn new(
        config: Arc<Config>,
        metrics: Metrics,
        drain: Drain,
        dialer: Option<quic::Dialer>,
    ) -> Self {
        let links = Links::new(&config, drain, dialer, metrics.packets());
        Self { config, metrics, links, quic_lost: Mutex::default() }
    }

    /// Establishes a tunnel and introduces us. Cancel safe: dropping it gives
    /// the attempt up.
    ///
    /// # Errors
    /// When no link works, or the server does not admit us.
    pub(crate) async fn connect(
        &self,
        endpoint: &Endpoint,
        choice: Choice,
        held: &Held,
    ) -> Result<Greeted, ConnectError> {
        let token = match &self.config.token_path {
            // Before a server is bothered.
            Some(path) => {
                read_token(path).inspect_err(|_| self.metrics.tunnel_attempted(None, "no_token"))?
            }
            None => String::new(),
        };
        // Boxed: handshakes are large, and only a few run at a time.
        let proxied = self.config.proxies.to(&endpoint.name, endpoint.addr.port()).is_some();
        let opened = match (choice, self.config.transport) {
            // Whoever names a proxy wants no other way to be taken.
            (Choice::Quic, _) if proxied => {
                Err(HandshakeError::Config("quic does not go through a proxy".to_owned()))
            }
            (Choice::Any, Transport::Auto) if proxied => Box::pin(self.attempt(endpoint, Link::H2)).await,
            (Choice::Quic, _) | (Choice::Any, Transport::Quic) => {
                Box::pin(self.attempt(endpoint, Link::Quic)).await
            }
            (Choice::Any, Transport::H2 | Transport::Konnectivity) => {
                Box::pin(self.attempt(endpoint, Link::H2)).await
            }
            (Choice::Any, Transport::Auto) => Box::pin(self.race(endpoint)).await,
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
        let early = tokio::select! {
            result = &mut ahead => Some(result),
            () = sleep(HEAD_START) => None,
        };
        let mut behind = Box::pin(self.attempt(endpoint, second));
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
            // A later win of h2 does not prolong the memory: QUIC gets its chance.
            Link::H2 | Link::Konnectivity => {
                drop(memory.entry(endpoint.clone()).or_insert_with(Instant::now))
            }
        }
    }

    /// One attempt on one link, below the greeting.
    async fn attempt(&self, endpoint: &Endpoint, link: Link) -> Result<Opened, HandshakeError> {
        let opening = async {
            match link {
                // Which of the two it is, the server says.
                Link::H2 | Link::Konnectivity => Box::pin(self.links.tcp(endpoint)).await,
                Link::Quic => Box::pin(self.links.quic(endpoint)).await,
            }
        };
        let result = timeout(ATTEMPT_LIMIT, opening).await.unwrap_or(Err(HandshakeError::Timeout));
        if let Err(error) = &result {
            self.metrics.tunnel_attempted(Some(link), error.label());
        }
        result
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
