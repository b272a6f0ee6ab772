//! Taking agents in: handshake, greeting, registration, and the conversation
//! until the tunnel is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, error, info, warn};
use tunnel::control::{
    ControlError, Conversation, Event, Messages, Patience, Role, control_messages, greeting,
};
use tunnel::drain::Drain;
use tunnel::listen::{ACCEPT_PAUSE, tune_link};
use tunnel::signs::{ASK_AGAIN, ASKED, on_grid, overdue_at};
use tunnel::stream::Stream;
use tunnel::transport::{HandshakeError, Link, Tunnel, h2, quic};
use tunnel_proto::ident::{Identifiers, UnknownKeys};
use tunnel_proto::message::{
    Control, Drain as DrainNotice, Hello, Ping, READS_ALIVE, Rejection, RejectionKind, VERSION, Welcome,
    encode_control,
};

use crate::agents::{Agent, Authenticator, Registry, Said};
use crate::metrics::{GaugeGuard, Metrics};

/// Limit of a handshake, TLS and link together.
pub(super) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How long an agent may take to say Hello.
const GREETING_LIMIT: Duration = Duration::from_secs(10);

/// Handshakes at once: enough to use all cores through a storm of agents, few
/// enough that strangers cannot take the memory.
const HANDSHAKES: usize = 256;

/// Tunnels at once whose agents are not known yet: where tokens are all that
/// agents need, anybody can open one. Each has half a minute at most.
const STRANGERS: usize = 1024;

/// Notices that wait for an agent's control stream.
const NOTICES: usize = 8;

/// How long an agent has to answer when another process has taken its name, and
/// when it is suspect besides: after a cut of the network both may be back in one
/// moment.
const SUCCEEDED: Duration = Duration::from_millis(250);
const SUSPECT_SUCCEEDED: Duration = Duration::from_secs(2);

/// Promises of less than this are of an agent whose streams are in use: it is
/// looked at twice as often, so that a death is found in half the time.
const SHORT_PROMISE: Duration = Duration::from_secs(1);

/// How often it is asked whether a suspect agent has streams left.
const LOOK: Duration = Duration::from_secs(1);

/// Longest agent id.
const MAX_AGENT_ID: usize = 253;

/// What it takes to serve agents. Clones are the same.
#[derive(Debug, Clone)]
pub struct Sessions {
    /// Where agents are registered.
    pub registry: Registry,
    /// This server's id, told to agents.
    pub server_id: Arc<str>,
    /// How many servers agents should be connected to, told to agents.
    pub server_count: u32,
    /// Who is taken for an agent.
    pub authenticator: Authenticator,
    /// How long silent agents are waited for.
    pub patience: Patience,
    /// Metrics.
    pub metrics: Metrics,
    /// The drain that ends it all.
    pub drain: Drain,
    handshakes: Arc<Semaphore>,
    pub(super) strangers: Arc<Semaphore>,
}

impl Sessions {
    /// Sessions for a server of this id, which is one of so many (0 when that
    /// is not known).
    pub fn new(
        registry: Registry,
        server_id: &str,
        server_count: u32,
        authenticator: Authenticator,
        patience: Patience,
        metrics: Metrics,
        drain: Drain,
    ) -> Self {
        Self {
            registry,
            server_id: server_id.into(),
            server_count,
            authenticator,
            patience,
            metrics,
            drain,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
        }
    }

    /// Tells all agents that this server is on its way out.
    pub fn announce_drain(&self) {
        for agent in self.registry.tunnels() {
            agent.say(Control::Drain(DrainNotice { reason: "the server is draining".to_owned() }));
        }
    }

    /// One tunnel, from the end of its handshake to its own.
    async fn serve(
        self,
        established: Result<(Tunnel, Stream), HandshakeError>,
        link: Link,
        from: SocketAddr,
    ) {
        let (tunnel, control) = match established {
            Ok(established) => established,
            Err(error) => {
                return self.handshake_failed(link, from, &error);
            }
        };
        let Ok(stranger) = Arc::clone(&self.strangers).try_acquire_owned() else {
            return self.drop_tunnel(&tunnel, "crowded", "too many agents are being admitted");
        };
        let mut messages = control_messages(control);
        let hello = match timeout(GREETING_LIMIT, greeting(&mut messages)).await {
            Ok(Ok(Control::Hello(hello))) => hello,
            Ok(Ok(_)) => return self.drop_tunnel(&tunnel, "no_hello", "something else than a hello"),
            Ok(Err(error)) => return self.drop_tunnel(&tunnel, "no_hello", &error.to_string()),
            Err(_) => return self.drop_tunnel(&tunnel, "no_hello", "no hello in time"),
        };
        // First of all: it is said often, and costs nothing.
        if hello.version == VERSION && hello.connected_servers.iter().any(|id| **id == *self.server_id) {
            return self.send_back(&tunnel, messages).await;
        }
        // Boxed: a review is large, and the task lives as long as the tunnel.
        let admitted = tokio::select! {
            biased;
            () = self.drain.killed() => return tunnel.close("server stopped"),
            admitted = Box::pin(self.admit(hello)) => admitted,
        };
        match admitted {
            Ok((id, identifiers, software)) => {
                drop(stranger);
                Box::pin(self.converse(tunnel, messages, id, identifiers, &software)).await;
            }
            Err((kind, reason, text)) => {
                warn!(%from, link = link.label(), why = text, "agent rejected");
                self.rejected(link, reason);
                self.reject(messages, kind, &text).await;
                tunnel.close(&text);
            }
        }
    }

    /// Checks what an agent says of itself, and then who it is, which costs more.
    async fn admit(
        &self,
        mut hello: Hello,
    ) -> Result<(String, Identifiers, String), (RejectionKind, &'static str, String)> {
        if self.drain.has_started() {
            return Err((RejectionKind::Draining, "rejected", "the server is draining".to_owned()));
        }
        let token = std::mem::take(&mut hello.token);
        let (id, identifiers, software) =
            introduced(hello).map_err(|(kind, text)| (kind, "rejected", text))?;
        let token = (!token.is_empty()).then_some(token.as_str());
        match self.authenticator.check(token).await {
            Ok(Some(holder)) => {
                debug!(
                    agent = id,
                    account = holder.username,
                    node = holder.node_name,
                    pod = holder.pod_name,
                    "token accepted"
                );
            }
            Ok(None) => {}
            Err(rejected) => return Err((rejected.kind(), rejected.label(), rejected.to_string())),
        }
        Ok((id, identifiers, software))
    }

    /// An agent has come to a server that it holds a tunnel to, and says so.
    async fn send_back(&self, tunnel: &Tunnel, messages: Messages) {
        debug!(from = %tunnel.remote(), link = tunnel.link().label(), "the agent has a tunnel already");
        self.rejected(tunnel.link(), "duplicate");
        let text = "the agent holds a tunnel to this server";
        self.reject(messages, RejectionKind::Duplicate, text).await;
        tunnel.close(text);
    }

    fn drop_tunnel(&self, tunnel: &Tunnel, reason: &str, why: &str) {
        self.rejected(tunnel.link(), reason);
        info!(from = %tunnel.remote(), link = tunnel.link().label(), why, "agent dropped");
        tunnel.close(why);
    }

    pub(super) fn handshake_failed(&self, link: Link, from: SocketAddr, error: &HandshakeError) {
        self.rejected(link, error.label());
        info!(%from, link = link.label(), %error, "agent handshake failed");
    }

    pub(super) fn rejected(&self, link: Link, reason: &str) {
        self.metrics.rejected_agents.with_label_values(&[link.label(), reason]).inc();
    }

    async fn converse(
        self,
        tunnel: Tunnel,
        mut messages: Messages,
        id: String,
        identifiers: Identifiers,
        software: &str,
    ) {
        let link = tunnel.link().label();
        let (say, mut outgoing) = mpsc::channel(NOTICES);
        let agent = Arc::new(Agent::new(id, identifiers, tunnel.clone(), say));
        if let Err(error) = self.welcome(&mut messages).await {
            return self.drop_tunnel(&tunnel, "no_hello", &error.to_string());
        }
        let patience = self.patience.on(tunnel.link());
        let mut conversation = Conversation::new(messages, Role::Server, patience);
        // Not before: a dial sent to a tunnel that the agent does not want fails.
        let begun = conversation.begin(|event| {
            if let Event::Alive(next) = event {
                agent.set_alive(next);
            }
        });
        if let Err(error) = begun.await {
            return self.drop_tunnel(&tunnel, "left", &error.to_string());
        }
        let registration = self.registry.register(Arc::clone(&agent));
        let counted = GaugeGuard::new(self.metrics.tunnels.with_label_values(&[link]));
        info!(agent = agent.id, from = %tunnel.remote(), link, software, "agent connected");

        let mut suspect = None;
        let hear = |event| {
            match event {
                Event::Said(Control::Drain(notice)) => {
                    info!(agent = agent.id, link, reason = notice.reason, "agent drains");
                    agent.set_draining();
                }
                Event::Said(_) => return,
                Event::Alive(next) => return agent.set_alive(next),
                Event::Suspect => {
                    warn!(agent = agent.id, link, streams = agent.streams(), "agent is silent");
                    suspect = Some(GaugeGuard::new(self.metrics.suspect_tunnels.with_label_values(&[link])));
                    agent.set_suspect(Some(Instant::now() - patience.suspect));
                }
                Event::Back => {
                    info!(agent = agent.id, link, from = %tunnel.remote(), "agent is heard of again");
                    suspect = None;
                    agent.set_suspect(None);
                }
            }
            registration.changed();
        };
        let why = tokio::select! {
            biased;
            () = self.drain.killed() => "server stopped".to_owned(),
            closed = tunnel.closed() => closed.to_string(),
            why = conversation.keep(&mut outgoing, None, hear) => why.to_string(),
            () = died(&agent, &tunnel) => "the agent's process is gone".to_owned(),
            () = abandoned(&agent) => format!("{}", ControlError::Silent(patience.suspect)),
        };
        agent.set_ended(&why);
        drop(suspect);
        drop((registration, counted));
        tunnel.close(&why);
        self.metrics.tunnels_closed.with_label_values(&[link]).inc();
        info!(agent = agent.id, link, why, streams = agent.streams(), "agent disconnected");
    }

    async fn welcome(&self, messages: &mut Messages) -> Result<(), ControlError> {
        let welcome = Welcome {
            version: VERSION,
            server_id: self.server_id.to_string(),
            server_count: self.server_count,
            capabilities: vec![READS_ALIVE.to_owned()],
            software: concat!("tunnel-server/", env!("CARGO_PKG_VERSION")).to_owned(),
            ..Welcome::default()
        };
        let message = encode_control(Control::Welcome(welcome))?;
        timeout(GREETING_LIMIT, messages.send(message))
            .await
            .map_err(|_| ControlError::Silent(GREETING_LIMIT))??;
        Ok(())
    }

    async fn reject(&self, mut messages: Messages, kind: RejectionKind, text: &str) {
        // A duplicate knows the name already; nobody else is told who rejects.
        let server_id = match kind {
            RejectionKind::Duplicate => self.server_id.to_string(),
            RejectionKind::Other
            | RejectionKind::Version
            | RejectionKind::Identity
            | RejectionKind::Unauthenticated
            | RejectionKind::Draining
            | RejectionKind::Unavailable => String::new(),
        };
        let rejection = Rejection { code: kind.code(), text: text.to_owned(), server_id };
        let Ok(message) = encode_control(Control::Rejection(rejection)) else { return };
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
}

/// Ready when the agent's process turns out to be gone although nobody said so;
/// never on links where that is said.
///
/// Watched are agents with streams, for whom somebody waits, and those of whose
/// id another tunnel came: a process that was killed and replaced. One that is
/// overdue is dead when its host says that nobody listens on its port, and it gives no
/// sign of life then when it is asked for one. A host that does not answer says
/// nothing: there may be a cut in the network that streams survive. `tunnel::signs`
/// has the whole of it.
async fn died(agent: &Agent, tunnel: &Tunnel) {
    let Some(received) = tunnel.received() else { return std::future::pending().await };
    let (mut seen, mut number) = (Seen { received, said: agent.alive(), at: Instant::now() }, 0);
    loop {
        let patience = tokio::select! {
            () = overdue(agent, tunnel, &mut seen) => ASKED,
            () = agent.succeeded() => {
                seen.look(agent, tunnel);
                if agent.silent_since().is_some() { SUSPECT_SUCCEEDED } else { SUCCEEDED }
            }
        };
        let asked = Instant::now();
        number += 1;
        // The host first: it does not answer every datagram, and QUIC repeats the ping.
        let (closed, ()) = tokio::join!(biased; tunnel.is_port_closed(), async {
            tunnel.nudge();
            agent.say(Control::Ping(Ping { number }));
            sleep(patience + 2 * tunnel.round_trip()).await;
        });
        if !seen.look(agent, tunnel) && closed {
            return;
        }
        sleep_until(asked + ASK_AGAIN).await;
    }
}

/// The last signs of life that are known of.
#[derive(Debug)]
struct Seen {
    received: u64,
    said: Said,
    /// When something came at the latest.
    at: Instant,
}

impl Seen {
    /// Whether anything came since this was asked last.
    fn look(&mut self, agent: &Agent, tunnel: &Tunnel) -> bool {
        let (received, said) = (tunnel.received().unwrap_or_default(), agent.alive());
        let (came, words) = (received - self.received, said.times - self.said.times);
        (self.received, self.said) = (received, said);
        // When a word came is known, and mostly there is nothing else.
        self.at = if came > words { Instant::now() } else { self.at.max(said.at) };
        came > 0
    }
}

/// Ready when an agent with streams was not heard of for longer than it promised.
async fn overdue(agent: &Agent, tunnel: &Tunnel, seen: &mut Seen) {
    loop {
        agent.busy().await;
        seen.look(agent, tunnel);
        let (now, promised) = (Instant::now(), seen.said.next);
        let overdue = overdue_at(seen.at, promised, tunnel.round_trip());
        if overdue <= now {
            return;
        }
        let look = if promised < SHORT_PROMISE { overdue.min(now + promised / 2) } else { overdue };
        sleep_until(on_grid(look)).await;
    }
}

/// Ready when the agent is suspect and has no streams for which to wait.
async fn abandoned(agent: &Agent) {
    loop {
        agent.suspected().await;
        if agent.streams() == 0 {
            return;
        }
        sleep(LOOK).await;
    }
}

/// Whether a name is fit for logs and metrics.
pub(super) fn is_agent_id(id: &str) -> bool {
    (1..=MAX_AGENT_ID).contains(&id.len()) && id.chars().all(|c| c.is_ascii_graphic())
}

/// Checks what an agent says of itself.
fn introduced(hello: Hello) -> Result<(String, Identifiers, String), (RejectionKind, String)> {
    if hello.version != VERSION {
        let text =
            format!("this server speaks version {VERSION} of the protocol, the agent {}", hello.version);
        return Err((RejectionKind::Version, text));
    }
    if !is_agent_id(&hello.agent_id) {
        let text = format!("an agent id is 1 to {MAX_AGENT_ID} printable characters without spaces");
        return Err((RejectionKind::Identity, text));
    }
    let identifiers = Identifiers::parse(&hello.identifiers, UnknownKeys::Ignore)
        .map_err(|error| (RejectionKind::Identity, error.to_string()))?;
    let software = hello.software.chars().filter(char::is_ascii_graphic).take(64).collect();
    Ok((hello.agent_id, identifiers, software))
}

/// Who came over TCP.
enum Taken {
    /// An agent of ours, with its control stream.
    Ours(Tunnel, Stream),
    /// An agent that speaks gRPC.
    Konnectivity(Box<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>),
}

/// Takes agents in on TCP until the drain ends the listener.
pub async fn accept_tcp(listener: TcpListener, tls: Arc<rustls::ServerConfig>, sessions: Sessions) {
    // Konnectivity's agents know only this name; ours prefer their own.
    let mut tls = rustls::ServerConfig::clone(&tls);
    tls.alpn_protocols.push(b"h2".to_vec());
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let drain = sessions.drain.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.killed() => return,
            accepted = listener.accept() => accepted,
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                sessions.metrics.accept_errors.with_label_values(&["agents"]).inc();
                warn!(%error, "cannot accept an agent");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        tune_link(&tcp);
        let (acceptor, sessions) = (acceptor.clone(), sessions.clone());
        drain.spawn("agent on h2", async move {
            // Boxed: a handshake is large, and the task lives as long as the tunnel.
            let handshake = Box::pin(async {
                let tls =
                    acceptor.accept(tcp).await.map_err(|error| HandshakeError::Tls(error.to_string()))?;
                if tls.get_ref().1.alpn_protocol() == Some(b"h2") {
                    return Ok(Taken::Konnectivity(Box::new(tls)));
                }
                let (tunnel, control) = Box::pin(h2::accept(tls, from, &sessions.drain)).await?;
                Ok(Taken::Ours(Tunnel::H2(tunnel), control))
            });
            match limited(&sessions, handshake).await {
                Ok(Taken::Konnectivity(tls)) => Box::pin(sessions.serve_konnectivity(tls, from)).await,
                Ok(Taken::Ours(tunnel, control)) => {
                    sessions.serve(Ok((tunnel, control)), Link::H2, from).await;
                }
                Err(error) => sessions.handshake_failed(Link::H2, from, &error),
            }
        });
    }
}

/// Takes agents in on UDP until the drain ends the endpoint.
pub async fn accept_quic(listener: quic::Listener, sessions: Sessions) {
    let drain = sessions.drain.clone();
    loop {
        let incoming = tokio::select! {
            biased;
            () = drain.killed() => break,
            incoming = listener.next() => incoming,
        };
        let Some(incoming) = incoming else {
            error!("the UDP listener of agents failed");
            break;
        };
        let (from, sessions) = (incoming.from(), sessions.clone());
        drain.spawn("agent on quic", async move {
            let handshake = Box::pin(async {
                let (tunnel, control) = incoming.accept().await?;
                Ok((Tunnel::Quic(tunnel), control))
            });
            let established = limited(&sessions, handshake).await;
            sessions.serve(established, Link::Quic, from).await;
        });
    }
    // Lets the close frames out.
    let _ = timeout(Duration::from_secs(1), listener.wait_idle()).await;
}

/// Runs a handshake with its limits of time and number.
async fn limited<T>(
    sessions: &Sessions,
    handshake: impl Future<Output = Result<T, HandshakeError>>,
) -> Result<T, HandshakeError> {
    let limited = async {
        let _permit = sessions.handshakes.acquire().await.map_err(|_| HandshakeError::Timeout)?;
        handshake.await
    };
    timeout(HANDSHAKE_LIMIT, limited).await.unwrap_or(Err(HandshakeError::Timeout))
}
