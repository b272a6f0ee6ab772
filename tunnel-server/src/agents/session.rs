//! Agents from the greeting through registration to the tunnel's end, on every link.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info, warn};
use tunnel::drain::Drain;
use tunnel::listen::Crowd;
use tunnel::liveness::{Health, Liveness, Party, Patience};
use tunnel::messages::Messages;
use tunnel::streams::Streams;
use tunnel::transport::konnectivity::BearerError;
use tunnel::transport::{Arrived, HandshakeError, Introduction, Link, Tunnel};
use tunnel_kube::{Reviewed, TokenError};
use tunnel_proto::ident::{Identifiers, UnknownKeys};
use tunnel_proto::message::{Hello, ON_TRIAL, RejectionKind, TOKEN_RENEWAL, VERSION, Welcome};

use super::authenticator::AuthenticationError;
use super::credential::{Credential, end_of};
use super::tokens::Review;
use super::turns::Turns;
use crate::agents::{Admitted, AgentTunnel, Authenticator, Registration, Registry, Trust};
use crate::door::Door;
use crate::metrics::{GaugeGuard, Metrics, TwinGuard};

/// Most agents that are being admitted, for half a minute each. Where agents need only tokens,
/// anybody can open a tunnel: more take memory, fewer turn away agents that come back together.
const STRANGERS: usize = 1024;

/// The part of the files of this process that they may take. As for connections in a handshake.
const FILES: usize = 16;

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
    pub(crate) authenticator: Authenticator,
    pub(crate) trust: Trust,
    pub(crate) patience: Patience,
    pub(crate) metrics: Metrics,
    pub(crate) drain: Drain,
    pub(crate) limits: Limits,
}

/// Limits of strangers. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(super) door: Door,
    /// Places of [`STRANGERS`].
    strangers: Crowd,
    reviews: Turns,
}

impl Limits {
    /// For a process that may open so many files.
    pub(crate) fn new(files: usize) -> Self {
        Self {
            door: Door::new(files),
            strangers: Crowd::new(STRANGERS.min(files / FILES)),
            reviews: Turns::default(),
        }
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
    fn serve(self, arrived: Arrived) -> impl Future<Output = ()> + Send {
        // Boxed, so that the memory of admission is free while the tunnel stands: 4.5 KB of 48 on QUIC.
        let begun = Box::pin(self.begin(arrived));
        async move {
            if let Some(mut session) = begun.await {
                let why = session.keep().await;
                session.end(&why);
            }
        }
    }

    /// Admits an agent and registers its tunnel, or tells the agent why not.
    async fn begin(self, mut arrived: Arrived) -> Option<Session> {
        let stranger = self.limits.strangers.enter(arrived.from().ip());
        let admitted = tokio::select! {
            biased;
            () = self.drain.killed() => {
                arrived.turn_away("the server stopped");
                return None;
            }
            admitted = self.admit(&mut arrived) => admitted,
            () = stranger.lost() => {
                self.handshake_failed(arrived.link(), arrived.from(), &HandshakeError::Crowded);
                arrived.turn_away("too many others came");
                return None;
            }
        };
        drop(stranger);
        match admitted {
            Ok(applicant) => return self.welcome(arrived, applicant).await,
            Err(Denial::NoHello(why)) => self.turn_away(arrived, "no_hello", &why),
            Err(Denial::Rejected { kind, reason, text }) => self.reject(arrived, kind, reason, text).await,
        }
        None
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
        let Introduced { id, claims, software, renews, on_trial } = introduced(hello)?;
        // Other agents cannot show another token; their tunnels outlive it, as Konnectivity's do.
        let end = token.as_ref().ok().and_then(Option::as_deref).filter(|_| renews).map(end_of);
        let holder = self.check(token, arrived.from().ip()).await.map_err(|error| {
            let (kind, reason, text) = (error.kind(), error.label(), error.to_string());
            Denial::Rejected { kind, reason, text }
        })?;
        let identity = self.trust.identify(holder.as_ref(), arrived.chain().first()).map_err(|error| {
            let (kind, text) = (RejectionKind::Unauthenticated, error.to_string());
            Denial::Rejected { kind, reason: "identity_conflict", text }
        })?;
        if self.registry.is_full(&identity, &claims) {
            let (kind, text) =
                (RejectionKind::Unavailable, format!("{identity} has too many tunnels or targets"));
            return Err(Denial::Rejected { kind, reason: "crowded", text });
        }
        if let Some(holder) = holder {
            let (account, node, pod) = (holder.username, holder.node_name, holder.pod_name);
            debug!(agent = id, account, node, pod, "token accepted");
        }
        let routes = self.trust.admit(&id, &identity, &claims);
        let end = end.filter(|_| self.authenticator.needs_tokens());
        let credential = Credential::new(Arc::clone(arrived.chain()), end);
        Ok(Applicant { agent: Admitted { id, identity, credential, claims, routes, on_trial }, software })
    }

    /// As [`Authenticator::check`]. The API is asked about so many agents of one source at a time.
    async fn check(
        &self,
        token: Result<Option<String>, BearerError>,
        from: IpAddr,
    ) -> Result<Option<Reviewed>, AuthenticationError> {
        let _turn = if self.authenticator.asks(&token) {
            Some(self.limits.reviews.take(from).ok_or(TokenError::Busy)?)
        } else {
            None
        };
        self.authenticator.check(token).await
    }

    /// Tells an agent that it is admitted, and registers its tunnel.
    async fn welcome(self, arrived: Arrived, applicant: Applicant) -> Option<Session> {
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
            Ok((tunnel, control)) => self.register(tunnel, control, applicant).await,
            Err(error) => {
                self.dropped(link, from, error.label(), &error.to_string());
                None
            }
        }
    }

    async fn register(
        self,
        tunnel: Tunnel,
        control: Option<Messages>,
        applicant: Applicant,
    ) -> Option<Session> {
        let Applicant { agent, software } = applicant;
        let streams = Arc::<Streams>::default();
        let (mut liveness, peer) =
            Liveness::new(tunnel.clone(), control, Party::Server, self.patience, Arc::clone(&streams));
        // Registered not before: dials fail on a tunnel that the agent does not want.
        if let Err(error) = liveness.begun().await {
            self.dropped(tunnel.link(), tunnel.remote(), "left", &error.to_string());
            tunnel.close(&error.to_string());
            return None;
        }
        let agent = Arc::new(AgentTunnel::new(agent, tunnel.clone(), peer, streams));
        if let Some(rival) = self.registry.rival(&agent) {
            rival.warn_of(&agent);
        }
        let registration = self.registry.register(Arc::clone(&agent));
        // Again, because the nodes may have changed before the tunnel could be seen.
        agent.route_anew(&self.trust);
        registration.changed();
        let (link, identity) = (tunnel.link(), &agent.identity);
        let counted = (self.metrics.tunnel(link), self.metrics.identity(identity.kind()));
        info!(agent = agent.id, %identity, from = %tunnel.remote(), link = link.label(), software, "agent connected");
        Some(Session { sessions: self, tunnel, liveness, agent, registration, counted, suspect: None })
    }

    /// Serves an agent in a task of its own.
    pub(super) fn spawn(&self, arrived: Arrived) {
        self.drain.spawn("agent", self.clone().serve(arrived));
    }
}

/// A tunnel that is registered.
struct Session {
    sessions: Sessions,
    tunnel: Tunnel,
    liveness: Liveness,
    agent: Arc<AgentTunnel>,
    registration: Registration,
    counted: (TwinGuard, GaugeGuard),
    /// Counts the tunnel while its agent is suspect.
    suspect: Option<GaugeGuard>,
}

impl Session {
    /// Keeps the tunnel until it is over, and returns the reason. By reference, because a future holds its
    /// arguments twice.
    async fn keep(&mut self) -> String {
        let mut review = Review::default();
        loop {
            let health = tokio::select! {
                biased;
                () = self.sessions.drain.killed() => return "server stopped".to_owned(),
                health = self.sessions.next(&mut self.liveness, &self.agent, &mut review) => health,
            };
            let (agent, link) = (&self.agent, self.tunnel.link());
            match health {
                // Tokens are reviewed by `next`, and only servers ask for renewal.
                Health::Token(_) | Health::Renew(_) => {}
                Health::Draining { reason, .. } => {
                    info!(agent = agent.id, link = link.label(), reason, "agent drains");
                    agent.set_draining();
                }
                Health::Suspect => {
                    warn!(
                        agent = agent.id,
                        link = link.label(),
                        streams = agent.streams(),
                        "agent is silent"
                    );
                    self.suspect = Some(self.sessions.metrics.suspect_tunnel(link));
                    agent.set_suspect(Some(Instant::now() - self.sessions.patience.suspect));
                }
                Health::Back => {
                    info!(agent = agent.id, link = link.label(), from = %self.tunnel.remote(), "agent is heard of again");
                    self.suspect = None;
                    agent.set_suspect(None);
                }
                Health::Dead(why) => return why,
            }
            self.registration.changed();
        }
    }

    fn end(self, why: &str) {
        let Self { sessions, tunnel, liveness: _, agent, registration, counted, suspect } = self;
        agent.set_ended(why);
        // The end of a lapsed credential says more than that of the link.
        let why = agent.why_ended().unwrap_or(why).to_owned();
        drop((registration, counted, suspect));
        tunnel.close(&why);
        sessions.metrics.tunnel_closed(tunnel.link());
        info!(
            agent = agent.id,
            link = tunnel.link().label(),
            why,
            streams = agent.streams(),
            "agent disconnected"
        );
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
    /// Whether its other tunnels get dials first.
    on_trial: bool,
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
    let can = |capability| hello.capabilities.iter().any(|name| name == capability);
    let (renews, on_trial) = (can(TOKEN_RENEWAL), can(ON_TRIAL));
    Ok(Introduced { id: hello.agent_id, claims: Arc::new(claims), software, renews, on_trial })
}
