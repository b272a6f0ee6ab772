//! Peers of what is under test: they make the handshake of a lane, and play a session behind it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tunnel_tests::raw::Io;
use tunnel_tests::stock::alpn;
use tunnel_tests::{Frontend, Who};

use crate::lane::Lane;
use crate::play::{Manner, Played, play};
use crate::quic;
use crate::session::{Act, Step};
use crate::world::World;

/// Time in which an agent comes back to a server that was played, whatever it was told. Its interval is
/// 200 ms at most here; a handshake that hangs takes ten seconds.
const COMES_BACK: Duration = Duration::from_secs(30);

/// Time for a handshake. One that the agent has given up in the queue of the listener takes none.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// Between two dials of an agent that is not admitted yet.
const AGAIN: Duration = Duration::from_millis(10);

/// Time for the other end of a connection to an agent that is played.
const CONVERSATION: Duration = Duration::from_secs(2);

/// The request of a played agent's client: a message behind its length.
pub(crate) const PING: &[u8] = b"\0\x04ping";

/// A connection after its handshake.
pub(crate) enum Opened {
    /// On TCP or a Unix socket.
    Bytes(Box<dyn Io>),
    /// On QUIC.
    Quic(Box<quic::Opened>),
}

/// How a session went, with its dials.
#[derive(Debug, Default)]
pub struct Outcome {
    /// On the connection.
    pub played: Played,
    /// The bytes of clients that dialled the played agent.
    pub dials: Vec<String>,
}

impl World {
    /// Plays a session on a lane. No two sessions of a lane may be played at the same time, but those of
    /// clients.
    ///
    /// # Errors
    /// When there is no handshake, as none of the peers is mutated before it.
    pub async fn play(&self, lane: Lane, steps: &[Step], manner: Manner) -> io::Result<Outcome> {
        let resets = steps.iter().any(|step| step.act == Act::Reset);
        let opened = Box::pin(self.open(lane, resets)).await?;
        let playing = async {
            match opened {
                Opened::Bytes(io) => play(io, lane, steps, &self.marks, manner).await,
                Opened::Quic(opened) => quic::play(*opened, steps, &self.marks, manner).await,
            }
        };
        let dials = Mutex::default();
        let played = match lane.served() {
            None => playing.await,
            Some(host) => {
                let mut dialling = pin!(self.dial(host, &dials));
                let played = tokio::select! {
                    played = playing => played,
                    () = &mut dialling => Played::default(),
                };
                let until = Instant::now() + manner.dial;
                while Instant::now() < until && dials.lock().await.is_empty() {
                    // Never over: what it does meanwhile counts.
                    let _ = timeout(AGAIN, &mut dialling).await;
                }
                played
            }
        };
        Ok(Outcome { played, dials: dials.into_inner() })
    }

    /// Dials an agent that is played, until it has answered. Never returns.
    pub(crate) async fn dial(&self, host: &str, dials: &Mutex<Vec<String>>) {
        loop {
            sleep(AGAIN).await;
            match self.server.dial(Frontend::ConnectUnix, &format!("{host}:80")).await {
                Ok(mut connection) => {
                    let mut bytes = Vec::new();
                    let talk = async {
                        connection.write_all(PING).await?;
                        connection.read_to_end(&mut bytes).await
                    };
                    // The bytes are kept below, also after an error.
                    let _ = timeout(CONVERSATION, talk).await;
                    dials.lock().await.push(String::from_utf8_lossy(&bytes).into_owned());
                }
                Err(error) => {
                    let error = error.to_string();
                    if !error.contains("agent") {
                        dials.lock().await.push(error);
                    }
                }
            }
        }
    }

    /// Makes the handshake. A connection that resets does so when it is dropped.
    pub(crate) async fn open(&self, lane: Lane, resets: bool) -> io::Result<Opened> {
        let Self { server, pki, places, .. } = self;
        Ok(match lane {
            Lane::AgentH2 => {
                let config = alpn(pki, Who::Agent, &["tunnel/1"]);
                connect(TcpStream::connect(server.agents).await?, config, resets).await?
            }
            Lane::AgentKonnectivity => {
                let config = alpn(pki, Who::Agent, &["h2"]);
                connect(TcpStream::connect(server.agents).await?, config, resets).await?
            }
            Lane::ClientConnect => Opened::Bytes(Box::new(UnixStream::connect(&server.unix).await?)),
            Lane::ClientGrpc => {
                let config = Arc::new(pki.client(Who::Client));
                connect(TcpStream::connect(server.tcp).await?, config, resets).await?
            }
            Lane::AgentQuic => {
                let dialling = places.dialer.connect(server.agents, "127.0.0.1").map_err(io::Error::other)?;
                let connection = dialling.await?;
                let control = connection.open_bi().await?;
                Opened::Quic(Box::new(quic::Opened { connection, control, opens: false }))
            }
            Lane::ServerH2 => came(accept(&places.h2, resets)).await?,
            Lane::ServerKonnectivity => came(accept(&places.konnectivity, resets)).await?,
            Lane::ServerQuic => came(accept_quic(&places.quic)).await?,
        })
    }
}

async fn connect(tcp: TcpStream, config: Arc<ClientConfig>, resets: bool) -> io::Result<Opened> {
    tcp.set_nodelay(true)?;
    if resets {
        tcp.set_zero_linger()?;
    }
    let name = ServerName::try_from("127.0.0.1").map_err(io::Error::other)?;
    Ok(Opened::Bytes(Box::new(TlsConnector::from(config).connect(name, tcp).await?)))
}

/// An agent that does not come back is a finding.
async fn came<T>(coming: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::other(format!("the agent did not come back within {COMES_BACK:?}"));
    timeout(COMES_BACK, coming).await.map_err(late)?
}

async fn accept((listener, config): &(TcpListener, Arc<ServerConfig>), resets: bool) -> io::Result<Opened> {
    loop {
        let (tcp, _) = listener.accept().await?;
        tcp.set_nodelay(true)?;
        if resets {
            tcp.set_zero_linger()?;
        }
        let accepting = TlsAcceptor::from(Arc::clone(config)).accept(tcp);
        if let Ok(Ok(tls)) = timeout(HANDSHAKE, accepting).await {
            return Ok(Opened::Bytes(Box::new(tls)));
        }
    }
}

async fn accept_quic(endpoint: &quinn::Endpoint) -> io::Result<Opened> {
    loop {
        let incoming = endpoint.accept().await.ok_or(io::ErrorKind::NotConnected)?;
        let accepting = async {
            let connection = incoming.await?;
            let control = connection.accept_bi().await?;
            Ok::<_, quinn::ConnectionError>(quic::Opened { connection, control, opens: true })
        };
        if let Ok(Ok(opened)) = timeout(HANDSHAKE, accepting).await {
            return Ok(Opened::Quic(Box::new(opened)));
        }
    }
}
