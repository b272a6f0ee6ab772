//! Establishing a tunnel to an endpoint: choose a link, race QUIC and h2, greet.

mod links;
mod token;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::time::timeout;
use tunnel::drain::Drain;
use tunnel::tls::Dialling;
use tunnel::transport::{Chain, Greeted, GreetingError, HandshakeError, Link, Opened, quic};
use tunnel_proto::message::{Hello, ON_TRIAL, TOKEN_RENEWAL, VERSION};

use crate::cli::Transport;
use crate::config::Config;
use crate::course::{Course, Order, Segments};
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

/// The outcome of an attempt.
#[derive(Debug)]
pub(crate) struct Tried {
    /// The link that won, if both were raced.
    pub(crate) won: Option<Link>,
    /// Whether a handshake on h2 timed out.
    pub(crate) h2_timed_out: bool,
    pub(crate) result: Result<Box<Established>, ConnectError>,
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

/// The outcome of an attempt before the greeting.
#[derive(Default)]
struct Links {
    won: Option<Link>,
    h2_timed_out: bool,
}

/// Dials servers.
#[derive(Debug)]
pub(crate) struct Connector {
    config: Arc<Config>,
    metrics: Metrics,
    drain: Drain,
    /// A UDP socket for all attempts; each has its own if `None`.
    dialer: Option<quic::Dialer>,
}

impl Connector {
    pub(crate) fn new(
        config: Arc<Config>,
        metrics: Metrics,
        drain: Drain,
        dialer: Option<quic::Dialer>,
    ) -> Self {
        Self { config, metrics, drain, dialer }
    }

    /// Whether a server is reached through a proxy. The proxy resolves its name, which may
    /// be unknown on this host.
    pub(crate) fn is_proxied(&self, host: &str, port: u16) -> bool {
        self.config.proxies.to(host, port).is_some()
    }

    /// Establishes a tunnel on the links of the configuration and of `course`. On QUIC it is on trial
    /// if `upgrades`. `held` returns the ids of the servers for Hello. Cancel safe: a dropped call gives the attempt up.
    pub(crate) async fn connect(
        &self,
        endpoint: &Endpoint,
        course: Course,
        upgrades: bool,
        held: impl Fn() -> Vec<String>,
    ) -> Tried {
        let mut links = Links::default();
        let result = self.establish(endpoint, course, upgrades, held, &mut links).await;
        Tried { won: links.won, h2_timed_out: links.h2_timed_out, result: result.map(Box::new) }
    }

    async fn establish(
        &self,
        endpoint: &Endpoint,
        course: Course,
        upgrades: bool,
        held: impl Fn() -> Vec<String>,
        links: &mut Links,
    ) -> Result<Established, ConnectError> {
        let token = match &self.config.token_path {
            Some(path) => token::read(path).map_err(|error| {
                self.metrics.tunnel_attempted(None, "no_token");
                ConnectError::Token(error)
            })?,
            None => String::new(),
        };
        let tls = self.config.tls.get();
        let (opened, chain) = Box::pin(self.open(endpoint, &tls, course, links)).await?;
        let link = opened.link();
        let hello = Hello {
            version: VERSION,
            agent_id: self.config.agent_id.clone(),
            identifiers: self.config.identifiers.clone(),
            token: token.clone(),
            connected_servers: held(),
            capabilities: capabilities(link, upgrades),
            software: concat!("tunnel-agent/", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        let greeted = opened.introduce(hello).await;
        let outcome = greeted.as_ref().map_or_else(GreetingError::label, |_| "connected");
        self.metrics.tunnel_attempted(Some(link), outcome);
        let made_with = MadeWith { own: tls.own.clone(), token, chain, name: Arc::clone(&endpoint.name) };
        Ok(Established { greeted: greeted?, made_with })
    }

    /// A connection on one of the links.
    async fn open(
        &self,
        endpoint: &Endpoint,
        tls: &Dialling,
        course: Course,
        links: &mut Links,
    ) -> Result<Open, HandshakeError> {
        let order = match (self.config.transport, course.order) {
            (Transport::Quic, _) => Order::QuicOnly,
            (Transport::H2 | Transport::Konnectivity, _) => Order::H2Only,
            // Operators who name a proxy want no connection past it.
            (Transport::Auto, Order::QuicOnly) if self.is_proxied(&endpoint.name, endpoint.addr.port()) => {
                return Err(HandshakeError::Config("quic does not go through a proxy".to_owned()));
            }
            (Transport::Auto, _) if self.is_proxied(&endpoint.name, endpoint.addr.port()) => Order::H2Only,
            (Transport::Auto, order) => order,
        };
        let segments = course.segments;
        let attempt = |link| self.attempt(endpoint, tls, link, segments);
        match order {
            Order::QuicOnly => attempt(Link::Quic).await,
            Order::H2Only => links.note(Link::H2, attempt(Link::H2).await),
            Order::H2First => match links.note(Link::H2, attempt(Link::H2).await) {
                Ok(opened) => Ok(opened),
                Err(error) => attempt(Link::Quic).await.map_err(|last| both(last, Link::H2, &error)),
            },
            Order::Race => race(Link::Quic, links, attempt).await,
            Order::H2Ahead => race(Link::H2, links, attempt).await,
        }
    }

    /// One attempt on one link, without the greeting.
    async fn attempt(
        &self,
        endpoint: &Endpoint,
        tls: &Dialling,
        link: Link,
        segments: Segments,
    ) -> Result<Open, HandshakeError> {
        let opening = async {
            // Boxed, because handshakes are large and few run at a time.
            match link {
                // The server chooses between the two.
                Link::H2 | Link::Konnectivity => Box::pin(self.tcp(endpoint, tls, segments)).await,
                Link::Quic => Box::pin(self.quic(endpoint, tls)).await,
            }
        };
        let result = timeout(ATTEMPT_LIMIT, opening).await.unwrap_or(Err(HandshakeError::Timeout));
        result.inspect_err(|error| self.metrics.tunnel_attempted(Some(link), error.label()))
    }
}

/// The capabilities of a new tunnel.
fn capabilities(link: Link, upgrades: bool) -> Vec<String> {
    let on_trial = (upgrades && link == Link::Quic).then_some(ON_TRIAL);
    [TOKEN_RENEWAL].into_iter().chain(on_trial).map(str::to_owned).collect()
}

/// Attempts both links, the second one after a head start or the failure of the first.
async fn race<A>(first: Link, links: &mut Links, attempt: impl Fn(Link) -> A) -> Result<Open, HandshakeError>
where
    A: Future<Output = Result<Open, HandshakeError>>,
{
    let second = if first == Link::Quic { Link::H2 } else { Link::Quic };
    let mut ahead = Box::pin(attempt(first));
    let early = timeout(HEAD_START, &mut ahead).await;
    let mut behind = Box::pin(attempt(second));
    let (link, result, other_link, other) = match early {
        Ok(result) => (first, result, second, behind),
        Err(_) => tokio::select! {
            biased;
            result = &mut ahead => (first, result, second, behind),
            result = &mut behind => (second, result, first, ahead),
        },
    };
    let (won, result) = match (links.note(link, result), other_link) {
        (Ok(opened), _) => (link, Ok(opened)),
        (Err(error), Link::Quic) => {
            let last = timeout(AFTER_TCP, other).await.unwrap_or(Err(HandshakeError::Timeout));
            (other_link, last.map_err(|last| both(last, link, &error)))
        }
        (Err(error), Link::H2 | Link::Konnectivity) => {
            let last = links.note(other_link, other.await);
            (other_link, last.map_err(|last| both(last, link, &error)))
        }
    };
    links.won = result.is_ok().then_some(won);
    result
}

impl Links {
    /// Notes the outcome on one link.
    fn note<T>(&mut self, link: Link, result: Result<T, HandshakeError>) -> Result<T, HandshakeError> {
        self.h2_timed_out |= link == Link::H2 && matches!(result, Err(HandshakeError::Timeout));
        result
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
        | HandshakeError::SaidNothing
        | HandshakeError::Crowded
        | HandshakeError::Timeout => HandshakeError::Lost(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_on_quic_in_place_of_one_on_h2_says_that_it_is_on_trial() {
        for (link, upgrades, is_on_trial) in
            [(Link::Quic, true, true), (Link::Quic, false, false), (Link::H2, true, false)]
        {
            let said = capabilities(link, upgrades);
            assert_eq!(said.iter().any(|name| name == ON_TRIAL), is_on_trial, "{link:?}, {upgrades}");
            assert_eq!(said.iter().filter(|name| *name == TOKEN_RENEWAL).count(), 1);
        }
    }
}
