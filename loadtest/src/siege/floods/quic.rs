//! An agent's QUIC without its habits. quinn keeps to the server's limits of streams and datagrams.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, VarInt};
use tokio::time::{sleep, timeout};
use tunnel::tls::ALPN;

use crate::siege::attack::Attack;
use crate::siege::guest::AGENT;

/// Time of a connection: each kind has its turn within a second.
const SLICE: Duration = Duration::from_millis(250);

/// Time between two moves.
const MOVE_EVERY: Duration = Duration::from_millis(5);

const CODE: VarInt = VarInt::from_u32(7);

/// The behaviour of a connection after its handshake.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Opens streams as fast as the server lets it, and resets each.
    Resets,
    /// Opens streams, and ends each without a byte.
    Empty,
    /// Opens a stream, and wants no byte of it.
    Stops,
    /// Sends datagrams.
    Datagrams,
    /// Comes from another port every moment.
    Moves,
    /// Closes with a long reason.
    Closes,
}

const KINDS: [Kind; 6] = [Kind::Resets, Kind::Empty, Kind::Stops, Kind::Datagrams, Kind::Moves, Kind::Closes];

pub(super) async fn frames(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .repeat(8, 100_000, |attack, number| async move {
            let kind = KINDS[number as usize % KINDS.len()];
            Box::pin(timeout(SLICE, flood(kind, &attack))).await.unwrap_or(Ok(()))
        })
        .await;
    Ok(())
}

async fn flood(kind: Kind, attack: &Attack) -> anyhow::Result<()> {
    let mut endpoint = Endpoint::client(here())?;
    let crypto = QuicClientConfig::try_from(attack.ground.agent_tls(ALPN)?)?;
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(crypto)));
    let connection = endpoint.connect(attack.ground.agents, &Ipv4Addr::LOCALHOST.to_string())?.await?;
    attack.did(1);
    match kind {
        Kind::Resets => streams(attack, &connection, true).await,
        Kind::Empty => streams(attack, &connection, false).await,
        Kind::Stops => {
            let (mut send, mut receive) = connection.open_bi().await?;
            receive.stop(CODE)?;
            while send.write_all(&[0; 1024]).await.is_ok() {
                attack.did(1);
            }
            Ok(())
        }
        Kind::Datagrams => loop {
            connection.send_datagram(vec![7; 100].into())?;
            attack.did(1);
        },
        Kind::Moves => {
            let (mut send, _receive) = connection.open_bi().await?;
            loop {
                endpoint.rebind(UdpSocket::bind(here())?)?;
                send.write_all(&[0]).await?;
                attack.did(1);
                sleep(MOVE_EVERY).await;
            }
        }
        Kind::Closes => {
            connection.close(CODE, &[b'\x1b'; 1000]);
            endpoint.wait_idle().await;
            Ok(())
        }
    }
}

async fn streams(attack: &Attack, connection: &Connection, reset: bool) -> anyhow::Result<()> {
    loop {
        let (mut send, _receive) = connection.open_bi().await?;
        if reset {
            send.write_all(&[0]).await?;
            send.reset(CODE)?;
        } else {
            send.finish()?;
        }
        attack.did(1);
    }
}

fn here() -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, AGENT), 0).into()
}
