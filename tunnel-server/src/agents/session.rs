//! Agents from the handshake through greeting and registration to the tunnel's end, on every link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};
use tunnel::drain::Drain;
use tunnel::listen::tune_link;
use tunnel::liveness::{Health, Liveness, Party, Patience};
use tunnel::messages::Messages;
use tunnel::streams::Streams;
use tunnel::tls::{Listening, Renewed};
use tunnel::transport::{
    Arrived, HandshakeError, Introduction, Link, Tunnel, accept_tcp as accept_link, link_on_tcp, quic,
};
use tunnel_operate::certificate;
use tunnel_proto::ident::{Identifiers, UnknownKeys};
use tunnel_proto::message::{Hello, Rejection, RejectionKind, TOKEN_RENEWAL, VERSION, Welcome};

use super::credential::{Credential, end_of};
use super::tokens::Review;
use crate::accept::accept;
use crate::agents::{Admitted, AgentTunnel, Authenticator, Registry, Trust};
use crate::metrics::Metrics;

/// Limit of a handshake, TLS and link together. Less turns away agents on slow networks; more
/// keeps connections of strangers.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Handshakes at once. Fewer leave cores idle when a thousand agents come back; more let
/// strangers take the memory.
const HANDSHAKES: usize = 256;

/// Most agents that are being admitted, for half a minute each. Where agents need only tokens,
/// anybody can open a tunnel: more take memory, fewer turn away agents that come back together.
const STRANGERS: usize = 1024;

/// Longest agent id, in bytes: that of a DNS name, as nodes have them.
const MAX_AGENT_ID: usize = 253;

/// Admits agents and keeps their tunnels. Clones share their limits.
#[derive(Debug, Clone)]
pub(crate) struct Sessions {
    pub(crate) registry: Registry,
    /// Told to agents.
    pub(crate) server_id: Arc<str>,
    /// Number of servers, told to agents; 0 is unknown.
    pub(crate) server_count: u32,
    /// The link that agents should use, told to them; empty leaves it to them.
    pub(crate) transport: &'static str,
    /// The agents' listener's.
    pub(crate) tls: Renewed<Listening>,
    pub(crate) authenticator: Authenticator,
    pub(crate) trust: Trust,
    pub(crate) patience: Patience,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    pub(crate) limits: Limits,
}

/// Permits of [`HANDSHAKES`] and [`STRANGERS`].
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    handshakes: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        let permits = |most| Arc::new(Semaphore::new(most));
        Self { handshakes: permits(HANDSHAKES), strangers: permits(STRANGERS) }
    }
}

impl Sessions {
    /// Asks all agents to prefer other servers.
    pub(crate) fn announce_drain(&self) {
        for agent in self.registry.tunnels() {
            if let Some(peer) = agent.peer() {
                peer.drain("the server is draining");
            }
        }
    }

    /// Serves one tunnel from the end of its handshake to the tunnel's own end.
    async fn serve(self, mut arrived: Arrived) {
        let Ok(stranger) = Arc::clone(&self.limits.strangers).try_acquire_owned() else {
            return self.turn_away(arrived, "crowded", "too many agents are being admitted");
        };
        // Boxed: a review is large, and the task lives as long as the tunnel.
        let admitted = tokio::select! {
            biased;
            () = self.drain.killed() => return arrived.turn_away("the server stopped"),
            admitted = Box::pin(self.admit(&mut arrived)) => admitted,
        };
        drop(stranger);
        match admitted {
            Ok(applicant) => Box::pin(self.welcome(arrived, applicant)).await,
            Err(Denial::NoHello(why)) => self.turn_away(arrived, "no_hello", &why),
            Err(Denial::Rejected { kind, reason, text }) => self.reject(arrived, kind, reason, text).await,
        }
    }

    /// Checks an agent's introduction, and then its token, which costs more.
    async fn admit(&self, arrived: &mut Arrived) -> Result<Applicant, Denial> {
        let Introduction { hello, token } =
            arrived.introduction().await.map_err(|why| match arrived.link() {
                // A konnectivity agent's metadata is its hello.
                Link::Konnectivity => rejected(RejectionKind::Identity, why),
                Link::H2 | Link::Quic => Denial::NoHello(why),
            })?;
        // First, because behind a load balancer duplicates are frequent, and the check is cheap.
        if hello.version == VERSION && hello.connected_servers.iter().any(|id| **id == *self.server_id) {
            let text = "the agent holds a tunnel to this server".to_owned();
            return Err(Denial::Rejected { kind: RejectionKind::Duplicate, reason: "duplicate", text });
        }
        if self.drain.has_started() {
            return Err(rejected(RejectionKind::Draining, "the server is draining".to_owned()));
        }
        let Introduced { id, claims, software, renews } = introduced(hello)?;
        // Other agents cannot show another token; their tunnels outlive it, as Konnectivity's do.
        let end = token.as_ref().ok().and_then(Option::as_deref).filter(|_| renews).map(end_of);
        let holder = self.authenticator.check(token).await.map_err(|error| {
            let (kind, reason, text) = (error.kind(), error.label(), error.to_string());
            Denial::Rejected { kind, reason, text }
        })?;
        // The handshake may have resumed a session from when it had not expired.
        if certificate::has_expired(arrived.chain())
            && let Err(text) = self.tls.get().check(arrived.chain())
        {
            let kind = RejectionKind::Unauthenticated;
            return Err(Denial::Rejected { kind, reason: "certificate_expired", text });
        }
        let identity = self.trust.identify(holder.as_ref(), arrived.chain().first()).map_err(|error| {
            let (kind, text) = (RejectionKind::Unauthenticated, error.to_string());
            Denial::Rejected { kind, reason: "identity_conflict", text }
        })?;
        if let Some(holder) = holder {
            let (account, node, pod) = (holder.username, holder.node_name, holder.pod_name);
            debug!(agent = id, account, node, pod, "token accepted");
        }
        let routes = self.trust.admit(&id, &identity, &claims);
        let end = end.filter(|_| self.authenticator.needs_tokens());
        let credential = Credential::new(Arc::clone(arrived.chain()), end);
        Ok(Applicant { agent: Admitted { id, identity, credential, claims, routes }, software })
    }

    fn turn_away(&self, arrived: Arrived, reason: &str, why: &str) {
        self.metrics.agent_rejected(arrived.link(), reason);
        info!(from = %arrived.from(), link = arrived.link().label(), why, "agent dropped");
        arrived.turn_away(why);
    }

    async fn reject(&self, arrived: Arrived, kind: RejectionKind, reason: &str, text: String) {
        let (from, link) = (arrived.from(), arrived.link().label());
        self.metrics.agent_rejected(arrived.link(), reason);
        let mut server_id = String::new();
        if kind == RejectionKind::Duplicate {
            debug!(%from, link, "the agent has a tunnel already");
            // Only a duplicate, which knows the id already, is told which server rejects.
            server_id = self.server_id.to_string();
        } else {
            warn!(%from, link, why = text, "agent rejected");
        }
        arrived.reject(Rejection { code: kind.code(), text, server_id }).await;
    }

    fn handshake_failed(&self, link: Link, from: SocketAddr, error: &HandshakeError) {
        let reason = error.reason();
        self.metrics.agent_rejected(link, reason);
        info!(%from, link = link.label(), reason, %error, "agent handshake failed");
    }

    /// Admits an agent, and keeps its tunnel until that is over.
    async fn welcome(self, arrived: Arrived, applicant: Applicant) {
        let (link, from) = (arrived.link(), arrived.from());
        let welcome = Welcome {
            version: VERSION,
            server_id: self.server_id.to_string(),
            server_count: self.server_count,
            transport: self.transport.to_owned(),
            software: concat!("tunnel-server/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Welcome::default()
        };
        match arrived.admit(welcome, &self.drain).await {
            Ok((tunnel, control)) => self.keep(tunnel, control, applicant).await,
            Err(error) => {
                self.metrics.agent_rejected(link, error.label());
                info!(%from, link = link.label(), why = %error, "agent dropped");
            }
        }
    }

    async fn keep(self, tunnel: Tunnel, control: Option<Messages>, applicant: Applicant) {
        let Applicant { agent, software } = applicant;
        let (link, streams) = (tunnel.link().label(), Arc::<Streams>::default());
        let (mut liveness, peer) =
            Liveness::new(tunnel.clone(), control, Party::Server, self.patience, Arc::clone(&streams));
        // Registered not before: dials fail on a tunnel that the agent does not want.
        if let Err(error) = liveness.begun().await {
            self.metrics.agent_rejected(tunnel.link(), "left");
            info!(from = %tunnel.remote(), link, why = %error, "agent dropped");
            return tunnel.close(&error.to_string());
        }
        let agent = Arc::new(AgentTunnel::new(agent, tunnel.clone(), peer, streams));
        let registration = self.registry.register(Arc::clone(&agent));
        // Again, because the nodes may have changed before the tunnel could be seen.
        agent.route_anew(&self.trust);
        registration.changed();
        let identity = &agent.identity;
        let counted = (self.metrics.tunnel(tunnel.link()), self.metrics.identity(identity.kind()));
        info!(agent = agent.id, %identity, from = %tunnel.remote(), link, software, "agent connected");

        let (mut suspect, mut review) = (None, Review::default());
        let why = loop {
            let health = tokio::select! {
                biased;
                () = self.drain.killed() => break "server stopped".to_owned(),
                health = self.next(&mut liveness, &agent, &mut review) => health,
            };
            match health {
                // Tokens are reviewed by `next`, and only servers ask for renewal.
                Health::Token(_) | Health::Renew(_) => {}
                Health::Draining { reason, .. } => {
                    info!(agent = agent.id, link, reason, "agent drains");
                    agent.set_draining();
                }
                Health::Suspect => {
                    warn!(agent = agent.id, link, streams = agent.streams(), "agent is silent");
                    suspect = Some(self.metrics.suspect_tunnel(tunnel.link()));
                    agent.set_suspect(Some(Instant::now() - self.patience.suspect));
                }
                Health::Back => {
                    info!(agent = agent.id, link, from = %tunnel.remote(), "agent is heard of again");
                    suspect = None;
                    agent.set_suspect(None);
                }
                Health::Dead(why) => break why,
            }
            registration.changed();
        };
        agent.set_ended(&why);
        // The end of a lapsed credential says more than that of the link.
        let why = agent.why_ended().unwrap_or(&why).to_owned();
        drop((suspect, registration, counted));
        tunnel.close(&why);
        self.metrics.tunnel_closed(tunnel.link());
        info!(agent = agent.id, link, why, streams = agent.streams(), "agent disconnected");
    }

    /// Runs a handshake within the limits of time and number.
    async fn limited<T>(
        &self,
        handshake: impl Future<Output = Result<T, HandshakeError>>,
    ) -> Result<T, HandshakeError> {
        let limited = async {
            let _permit = self.limits.handshakes.acquire().await.map_err(|_| HandshakeError::Timeout)?;
            handshake.await
        };
        timeout(HANDSHAKE_LIMIT, limited).await.unwrap_or(Err(HandshakeError::Timeout))
    }

    /// Serves an agent in a task of its own.
    fn spawn(&self, arrived: Arrived) {
        self.drain.spawn("agent", self.clone().serve(arrived));
    }
}

/// An agent that may be admitted.
struct Applicant {
    agent: Admitted,
    software: String,
}

/// An agent's own words.
struct Introduced {
    id: String,
    claims: Arc<Identifiers>,
    software: String,
    /// Whether it shows renewed tokens.
    renews: bool,
}

/// Why an agent is not admitted.
enum Denial {
    /// The agent did not introduce itself. It is not told why.
    NoHello(String),
    /// The agent is told `text`; `reason` is the name in metrics.
    Rejected { kind: RejectionKind, reason: &'static str, text: String },
}

const fn rejected(kind: RejectionKind, text: String) -> Denial {
    Denial::Rejected { kind, reason: "rejected", text }
}

/// Checks an agent's introduction.
fn introduced(hello: Hello) -> Result<Introduced, Denial> {
    if hello.version != VERSION {
        let text =
            format!("this server speaks version {VERSION} of the protocol, the agent {}", hello.version);
        return Err(rejected(RejectionKind::Version, text));
    }
    // Ids are printed in logs.
    let length = hello.agent_id.len();
    if !(1..=MAX_AGENT_ID).contains(&length) || !hello.agent_id.bytes().all(|b| b.is_ascii_graphic()) {
        let text = format!("an agent id is 1 to {MAX_AGENT_ID} printable characters without spaces");
        return Err(rejected(RejectionKind::Identity, text));
    }
    let claims = Identifiers::parse(&hello.identifiers, UnknownKeys::Ignore)
        .map_err(|error| rejected(RejectionKind::Identity, error.to_string()))?;
    let software = hello.software.chars().filter(char::is_ascii_graphic).take(64).collect();
    let renews = hello.capabilities.iter().any(|name| name == TOKEN_RENEWAL);
    Ok(Introduced { id: hello.agent_id, claims: Arc::new(claims), software, renews })
}

/// Admits agents on TCP until the drain is killed.
pub(crate) async fn accept_tcp(listener: TcpListener, tls: Renewed<Listening>, sessions: Sessions) {
    let mut renewed = tls.changes();
    let mut acceptor = acceptor(&tls);
    let drain = sessions.drain.clone();
    loop {
        let (tcp, from) = tokio::select! {
            biased;
            () = drain.killed() => return,
            Ok(()) = renewed.changed() => {
                acceptor = self::acceptor(&tls);
                continue;
            }
            accepted = accept(&sessions.metrics, "agents", |cx| listener.poll_accept(cx)) => accepted,
        };
        tune_link(&tcp);
        drain.spawn("agent on tcp", handshake_tcp(sessions.clone(), acceptor.accept(tcp), from));
    }
}

fn acceptor(tls: &Renewed<Listening>) -> TlsAcceptor {
    // Konnectivity's agents know only this protocol; ours prefer their own.
    let mut config = rustls::ServerConfig::clone(&tls.get().config);
    config.alpn_protocols.push(b"h2".to_vec());
    TlsAcceptor::from(Arc::new(config))
}

/// Does the handshake of an agent on TCP, and serves its tunnels.
async fn handshake_tcp(
    sessions: Sessions,
    tls: tokio_rustls::Accept<tokio::net::TcpStream>,
    from: SocketAddr,
) {
    let tls = Box::pin(sessions.limited(async {
        let tls = tls.await.map_err(|error| HandshakeError::tls(error.to_string()))?;
        Ok((link_on_tcp(tls.get_ref().1)?, Box::new(tls)))
    }));
    let (link, tls) = match tls.await {
        Ok(agreed) => agreed,
        Err(error) => return sessions.handshake_failed(Link::H2, from, &error),
    };
    let counters = sessions.metrics.packets_of_agent();
    let accepting =
        accept_link(link, tls, from, counters, &sessions.drain, |arrived| sessions.spawn(arrived));
    if let Err(error) = Box::pin(accepting).await {
        sessions.handshake_failed(link, from, &error);
    }
}

/// Admits agents on UDP until the drain is killed.
pub(crate) async fn accept_quic(listener: quic::Listener, tls: Renewed<Listening>, sessions: Sessions) {
    let (drain, mut renewed) = (sessions.drain.clone(), tls.changes());
    // It may have changed since the listener was made.
    renewed.mark_changed();
    loop {
        let incoming = tokio::select! {
            biased;
            () = drain.killed() => break,
            Ok(()) = renewed.changed() => {
                if let Err(error) = listener.renew(Arc::clone(&tls.get().config)) {
                    error!(%error, "agents on QUIC get the certificate from before its renewal");
                }
                continue;
            }
            incoming = listener.next() => incoming,
        };
        let Some(incoming) = incoming else {
            error!("the UDP listener of agents failed");
            break;
        };
        let (from, sessions) = (incoming.from(), sessions.clone());
        drain.spawn("agent on quic", async move {
            match Box::pin(sessions.limited(incoming.accept())).await {
                Ok((tunnel, control)) => {
                    let chain = tunnel.chain().into();
                    sessions.serve(Arrived::new(Tunnel::Quic(tunnel), control, chain)).await;
                }
                Err(error) => sessions.handshake_failed(Link::Quic, from, &error),
            }
        });
    }
    // Lets the close frames out.
    let _ = timeout(Duration::from_secs(1), listener.wait_idle()).await;
}
