//! Agents' connections up to the end of their handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tracing::error;
use tunnel::listen::tune_link;
use tunnel::tls::{Listening, Renewed};
use tunnel::transport::{
    Arrived, HandshakeError, Link, Tunnel, accept_tcp as accept_link, link_on_tcp, quic,
};

use super::Sessions;
use crate::accept::accept;

/// Limit of a handshake, TLS and link together. Less turns away agents on slow networks; more
/// keeps connections of strangers.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Admits agents on TCP until the drain is killed.
pub(crate) async fn accept_tcp(listener: TcpListener, tls: Renewed<Listening>, sessions: Sessions) {
    let mut renewed = tls.changes();
    let mut config = config(&tls);
    let drain = sessions.drain.clone();
    loop {
        let (tcp, from) = tokio::select! {
            biased;
            () = drain.killed() => return,
            Ok(()) = renewed.changed() => {
                config = self::config(&tls);
                continue;
            }
            accepted = accept(&sessions.metrics, "agents", |cx| listener.poll_accept(cx)) => accepted,
        };
        tune_link(&tcp);
        drain.spawn("agent on tcp", handshake_tcp(sessions.clone(), tcp, Arc::clone(&config), from));
    }
}

fn config(tls: &Renewed<Listening>) -> Arc<ServerConfig> {
    // Konnectivity's agents know only this protocol; ours prefer their own.
    let mut config = ServerConfig::clone(&tls.get().config);
    config.alpn_protocols.push(b"h2".to_vec());
    Arc::new(config)
}

/// Does the handshake of an agent on TCP, and serves its tunnels.
async fn handshake_tcp(sessions: Sessions, tcp: TcpStream, config: Arc<ServerConfig>, from: SocketAddr) {
    let door = sessions.limits.door.clone();
    let tls = async move {
        let tls = Box::pin(door.tls(tcp, from.ip(), config)).await?;
        Ok((link_on_tcp(tls.get_ref().1)?, Box::new(tls)))
    };
    let (link, tls) = match timeout(HANDSHAKE_LIMIT, tls).await.unwrap_or(Err(HandshakeError::Timeout)) {
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
    let done = timeout(HANDSHAKE_LIMIT, sessions.limits.door.quic(incoming)).await;
    match done.unwrap_or(Some(Err(HandshakeError::Timeout))) {
        Some(Ok((tunnel, control))) => {
            let chain = tunnel.chain().into();
            sessions.spawn(Arrived::new(Tunnel::Quic(tunnel), control, chain));
        }
        Some(Err(error)) => sessions.handshake_failed(Link::Quic, from, &error),
        None => {}
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
