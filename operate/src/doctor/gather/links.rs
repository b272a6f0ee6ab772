//! Handshakes and greetings on both links, by the agents' own code.
//!
//! A server registers an agent only after the agent's first heartbeat (`Liveness::begun`). These
//! agents leave before it, so no dial ever goes to them, and no other tunnel is touched.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tunnel::drain::Drain;
use tunnel::listen::tune_link;
use tunnel::packets::Counters;
use tunnel::tls::{ALPN, Identity, agent_client, load_roots};
use tunnel::transport::quic::{self, Datagrams};
use tunnel::transport::{GreetingError, HandshakeError, Link, Opened, Tunnel, link_on_tcp, open_on_tcp};
use tunnel_proto::message::{Hello, RejectionKind, VERSION};

use super::host::Found;
use super::{LIMIT, stranger};
use crate::doctor::facts::{Admission, Admitted, Failed, Handshake, Known, Way};
use crate::report::{AgentSetup, ServerSetup};
use crate::witness::{Seen, Witness};

/// Time for the last packets of closed tunnels. Without it servers wait ten seconds for a
/// greeting.
const GOODBYE: Duration = Duration::from_millis(500);

/// Most addresses of servers that are dialled.
const MOST: usize = 16;

/// The facts of a server's agents' port.
pub(super) struct OfServer {
    pub(super) handshakes: Known<Vec<Handshake>>,
    pub(super) anonymous: Known<Vec<Admission>>,
    pub(super) stranger: Known<Vec<Admission>>,
}

impl OfServer {
    pub(super) fn unknown(why: &str) -> Self {
        let why = || why.to_owned();
        Self { handshakes: Err(why()), anonymous: Err(why()), stranger: Err(why()) }
    }
}

/// The facts of an agent's servers.
pub(super) struct OfAgent {
    pub(super) handshakes: Known<Vec<Handshake>>,
    pub(super) admissions: Known<Vec<Admission>>,
}

/// An address of a server, and the name that its certificate has to be for.
#[derive(Debug, Clone)]
struct Peer {
    addr: SocketAddr,
    name: String,
}

/// An agent to be.
struct Visitor<'a> {
    identity: Option<&'a Identity>,
    roots: &'a Option<Arc<RootCertStore>>,
    /// ALPN protocols on TCP.
    alpn: &'a [Vec<u8>],
    hello: Hello,
}

/// The time of a completed handshake, and the connection after it.
type Shaken = (Duration, Result<Opened, HandshakeError>);

pub(super) async fn of_server(server: &ServerSetup) -> OfServer {
    let Ok(listener) = server.agents.parse::<SocketAddr>() else {
        return OfServer::unknown(&format!("{:?} is no address", server.agents));
    };
    let (addr, unknown) = (
        own(listener),
        match stranger::identity() {
            Ok(identity) => identity,
            Err(why) => return OfServer::unknown(&why),
        },
    );
    let (peer, alpn) = (Peer { addr, name: addr.ip().to_string() }, [ALPN.to_vec()]);
    let hello = Hello { version: VERSION, agent_id: "tunnel-doctor".to_owned(), ..Hello::default() };
    let visitor = |identity| Visitor { identity, roots: &None, alpn: &alpn, hello: hello.clone() };
    let (nobody, other) = (visitor(None), visitor(Some(&unknown)));
    let visits = Visits::new();
    let both = |visitor| join_all(Way::BOTH.map(|way| visits.visit(&peer, way, visitor)));
    let (by_nobody, by_other) = tokio::join!(Box::pin(both(&nobody)), Box::pin(both(&other)));
    visits.end().await;
    let (handshakes, anonymous) = by_nobody.into_iter().unzip();
    let stranger = by_other.into_iter().map(|(_, admission)| admission).collect();
    OfServer { handshakes: Ok(handshakes), anonymous: Ok(anonymous), stranger: Ok(stranger) }
}

/// The address at which a listener of this host is reached from this host.
fn own(listener: SocketAddr) -> SocketAddr {
    // Listeners on all IPv6 addresses take IPv4 as well.
    let ip = if listener.ip().is_unspecified() { Ipv4Addr::LOCALHOST.into() } else { listener.ip() };
    (ip, listener.port()).into()
}

pub(super) async fn of_agent(agent: &AgentSetup, found: &[Found]) -> OfAgent {
    let (identity, roots) = match credentials(agent) {
        Ok(credentials) => credentials,
        Err(why) => return OfAgent { handshakes: Err(why.clone()), admissions: Err(why) },
    };
    let token = if agent.token.is_empty() {
        Ok(String::new())
    } else {
        std::fs::read_to_string(&agent.token).map_err(|error| format!("token file {}: {error}", agent.token))
    };
    let hello = Hello {
        version: VERSION,
        agent_id: agent.id.clone(),
        identifiers: agent.identifiers.clone(),
        token: token.as_deref().unwrap_or_default().trim_ascii().to_owned(),
        ..Hello::default()
    };
    let alpn: Vec<_> = agent.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    let visitor = Visitor { identity: identity.as_ref(), roots: &Some(roots), alpn: &alpn, hello };
    let peers = found
        .iter()
        .flat_map(|named| named.addresses.iter().map(|addr| Peer { addr: *addr, name: named.name.clone() }));
    let peers: Vec<_> = peers.take(MOST).collect();
    let ways = Way::BOTH.into_iter().filter(|way| match way {
        Way::Quic => matches!(agent.transport.as_str(), "auto" | "quic"),
        Way::Http2 => agent.transport != "quic",
    });
    let ways: Vec<_> = ways.collect();
    let visits = Visits::new();
    let each = peers.iter().flat_map(|peer| ways.iter().map(move |way| (peer, *way)));
    let visited = Box::pin(join_all(each.map(|(peer, way)| visits.visit(peer, way, &visitor)))).await;
    visits.end().await;
    let (handshakes, admissions) = visited.into_iter().unzip();
    OfAgent { handshakes: Ok(handshakes), admissions: token.map(|_| admissions) }
}

fn credentials(agent: &AgentSetup) -> Known<(Option<Identity>, Arc<RootCertStore>)> {
    let text = |error: tunnel::tls::TlsError| error.to_string();
    let roots = load_roots(Path::new(&agent.ca_cert)).map_err(text)?;
    let (cert, key) = (Path::new(&agent.agent_cert), Path::new(&agent.agent_key));
    let identity =
        (!agent.agent_cert.is_empty()).then(|| Identity::load(cert, key)).transpose().map_err(text)?;
    Ok((identity, roots))
}

/// The sockets and tasks of all visits.
struct Visits {
    drain: Drain,
    sockets: std::sync::Mutex<Vec<quic::Dialer>>,
}

impl Visits {
    fn new() -> Self {
        Self { drain: Drain::new(), sockets: std::sync::Mutex::default() }
    }

    /// Lets last packets out, and ends all tasks.
    async fn end(self) {
        let sockets = self.sockets.into_inner().unwrap_or_default();
        let _ = timeout(GOODBYE, join_all(sockets.iter().map(quic::Dialer::wait_idle))).await;
        self.drain.kill();
    }

    /// Shakes hands on a link and greets the server.
    async fn visit(&self, peer: &Peer, link: Way, visitor: &Visitor<'_>) -> (Handshake, Admission) {
        let address = match peer.addr.ip().to_string() == peer.name {
            true => peer.addr.to_string(),
            false => format!("{} ({})", peer.addr, peer.name),
        };
        let (began, name) = (Instant::now(), peer.name.clone());
        let (shaken, seen) = self.shake(peer, link, visitor).await;
        let (outcome, admitted) = match (shaken, seen) {
            (Ok((took, opened)), _) => (Ok(took), greet(opened, visitor.hello.clone()).await),
            (Err(error), Seen { fault: Some(fault), .. }) => {
                (Err(Failed::Certificate(fault)), Admitted::Unknown(error.to_string()))
            }
            // After its certificate, a server speaks of the visitor's.
            (Err(HandshakeError::Tls(why)), Seen { certificate: Some(_), .. }) => {
                (Ok(began.elapsed()), Admitted::No(why))
            }
            (Err(error), _) => (Err(Failed::Other(error.to_string())), Admitted::Unknown(error.to_string())),
        };
        let handshake = Handshake { address: address.clone(), name, link, outcome };
        (handshake, Admission { address, link, outcome: admitted })
    }

    async fn shake(
        &self,
        peer: &Peer,
        link: Way,
        visitor: &Visitor<'_>,
    ) -> (Result<Shaken, HandshakeError>, Seen) {
        let witness = match visitor.roots {
            Some(roots) => Witness::of(Arc::clone(roots), true),
            None => Ok(Witness::curious()),
        };
        let witness = match witness {
            Ok(witness) => witness,
            Err(why) => return (Err(HandshakeError::Config(why)), Seen::default()),
        };
        let tried = async {
            let mut config = config(visitor, &witness)?;
            match link {
                Way::Quic => self.quic(peer, config).await,
                Way::Http2 => {
                    config.alpn_protocols = visitor.alpn.to_vec();
                    self.tcp(peer, config).await
                }
            }
        };
        let shaken = Box::pin(timeout(LIMIT, tried)).await.unwrap_or(Err(HandshakeError::Timeout));
        (shaken, witness.seen())
    }

    async fn quic(&self, peer: &Peer, config: ClientConfig) -> Result<Shaken, HandshakeError> {
        let any: IpAddr = match peer.addr {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let dialer = quic::Dialer::new((any, 0).into(), Datagrams::of_this_host())
            .map_err(|error| HandshakeError::Lost(error.to_string()))?;
        if let Ok(mut sockets) = self.sockets.lock() {
            sockets.push(dialer.clone());
        }
        let began = Instant::now();
        let (tunnel, control) = dialer.connect(peer.addr, &peer.name, Arc::new(config)).await?;
        Ok((began.elapsed(), Ok(Opened::new(Tunnel::Quic(tunnel), control))))
    }

    async fn tcp(&self, peer: &Peer, config: ClientConfig) -> Result<Shaken, HandshakeError> {
        let began = Instant::now();
        let tcp = TcpStream::connect(peer.addr).await;
        let tcp = tcp.map_err(|error| HandshakeError::Lost(error.to_string()))?;
        tune_link(&tcp);
        let name = ServerName::try_from(peer.name.clone());
        let name = name.map_err(|error| HandshakeError::Config(error.to_string()))?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        let tls = tls.map_err(|error| HandshakeError::Tls(error.to_string()))?;
        link_on_tcp(tls.get_ref().1).map_err(|error| HandshakeError::Lost(error.to_string()))?;
        let took = began.elapsed();
        let counters =
            Counters { received: Default::default(), sent: Default::default(), begun: Arc::default() };
        // Fails where the listener wants a certificate that the visitor does not have.
        let opened = Box::pin(open_on_tcp(tls, peer.addr, &peer.name, counters, &self.drain)).await;
        Ok((took, opened))
    }
}

fn config(visitor: &Visitor<'_>, witness: &Arc<Witness>) -> Result<ClientConfig, HandshakeError> {
    let roots = visitor.roots.clone().unwrap_or_else(|| Arc::new(RootCertStore::empty()));
    let config = agent_client(visitor.identity, roots);
    let mut config = (*config.map_err(|error| HandshakeError::Config(error.to_string()))?).clone();
    config.dangerous().set_certificate_verifier(Arc::clone(witness) as Arc<_>);
    Ok(config)
}

/// Greets a server, and leaves before the first heartbeat.
async fn greet(opened: Result<Opened, HandshakeError>, hello: Hello) -> Admitted {
    let opened = match opened {
        Ok(opened) if opened.link() == Link::Konnectivity => {
            return Admitted::Unknown("a Konnectivity server would register this agent".to_owned());
        }
        Ok(opened) => opened,
        Err(HandshakeError::Timeout) => return Admitted::Unknown("timed out".to_owned()),
        Err(error) => return Admitted::No(error.to_string()),
    };
    match opened.introduce(hello).await {
        Ok(greeted) => {
            greeted.tunnel.close("doctor is done");
            Admitted::Yes(greeted.welcome.server_id)
        }
        Err(GreetingError::Duplicate(id)) => Admitted::Yes(id),
        Err(GreetingError::Rejected { kind: RejectionKind::Draining | RejectionKind::Unavailable, text }) => {
            Admitted::Unknown(text)
        }
        Err(GreetingError::Rejected { text, .. }) => Admitted::No(text),
        Err(error @ (GreetingError::Control(_) | GreetingError::Handshake(_))) => {
            Admitted::No(error.to_string())
        }
        Err(error @ (GreetingError::Timeout | GreetingError::Unexpected | GreetingError::ServerId)) => {
            Admitted::Unknown(error.to_string())
        }
    }
}
