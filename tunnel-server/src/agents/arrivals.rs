//! Agents from their first byte to the end of the handshake, on every link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::error;
use tunnel::listen::tune_link;
use tunnel::tls::{Listening, Renewed};
use tunnel::transport::{
    Arrived, HandshakeError, Link, Tunnel, accept_tcp as accept_link, link_on_tcp, quic,
};

use super::session::Sessions;
use crate::accept::{accept, says_something};

/// Limit of a handshake, TLS and link together. Less turns away agents on slow networks; more
/// keeps connections of strangers.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

impl Sessions {
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
        drain.spawn("agent on tcp", handshake_tcp(sessions.clone(), acceptor.clone(), tcp, from));
    }
}

fn acceptor(tls: &Renewed<Listening>) -> TlsAcceptor {
    // Konnectivity's agents know only this protocol; ours prefer their own.
    let mut config = rustls::ServerConfig::clone(&tls.get().config);
    config.alpn_protocols.push(b"h2".to_vec());
    TlsAcceptor::from(Arc::new(config))
}

/// Does the handshake of an agent on TCP, and serves its tunnels.
async fn handshake_tcp(sessions: Sessions, acceptor: TlsAcceptor, tcp: TcpStream, from: SocketAddr) {
    // Before a permit, which a connection that says nothing does not need.
    match timeout(HANDSHAKE_LIMIT, says_something(&tcp)).await {
        Ok(true) => {}
        Ok(false) => return sessions.metrics.agent_rejected(Link::H2, "said_nothing"),
        Err(_) => return sessions.handshake_failed(Link::H2, from, &HandshakeError::Timeout),
    }
    let tls = Box::pin(sessions.limited(async {
        let tls = acceptor.accept(tcp).await.map_err(|error| HandshakeError::tls(error.to_string()))?;
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

/// Does the handshake of an agent on UDP, and serves its tunnel.
async fn handshake_quic(sessions: Sessions, incoming: quic::Incoming) {
    let from = incoming.from();
    match sessions.limited(incoming.accept()).await {
        Ok((tunnel, control)) => {
            let chain = tunnel.chain().into();
            sessions.spawn(Arrived::new(Tunnel::Quic(tunnel), control, chain));
        }
        Err(error) => sessions.handshake_failed(Link::Quic, from, &error),
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
        drain.spawn("agent on quic", handshake_quic(sessions.clone(), incoming));
    }
    // Lets the close frames out.
    let _ = timeout(Duration::from_secs(1), listener.wait_idle()).await;
}
