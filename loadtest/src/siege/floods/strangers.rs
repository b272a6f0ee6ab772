//! Peers without a certificate that is admitted.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UdpSocket;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;
use tunnel::tls::ALPN;
use tunnel_tests::payload;

use crate::siege::attack::{Attack, STRANGER, ask, tcp_from};

/// Packets of a burst, and the time between two: 4,000 per second.
const BURST: usize = 100;
const BURST_EVERY: Duration = Duration::from_millis(25);

/// First packets at once, and the time between two more: a handshake is given up after ten seconds, and from 32 on
/// addresses are validated.
const FEW: usize = 20;
const FEW_EVERY: Duration = Duration::from_secs(1);

/// Time for an answer to random bytes.
const PATIENCE: Duration = Duration::from_millis(300);

/// Certificates of a chain: more do not fit into a message of TLS.
const CHAIN: usize = 100;

fn name() -> ServerName<'static> {
    ServerName::IpAddress(Ipv4Addr::LOCALHOST.into())
}

pub(super) async fn idle_sockets(attack: Arc<Attack>) -> anyhow::Result<()> {
    let to = [attack.ground.agents, attack.ground.frontend, attack.ground.health];
    attack
        .hold(64, 4500, move |attack, number| async move {
            let tcp = tcp_from(STRANGER, to[number as usize % to.len()]).await?;
            attack.did(1);
            Ok(tcp)
        })
        .await;
    Ok(())
}

/// The first message of a handshake, and nothing more.
pub(super) async fn silence(attack: Arc<Attack>) -> anyhow::Result<()> {
    let mut tls = ClientConnection::new(attack.ground.client_tls(ALPN)?, name())?;
    let mut hello = Vec::new();
    tls.write_tls(&mut hello)?;
    let (to, hello) = ([attack.ground.agents, attack.ground.frontend], Arc::<[u8]>::from(hello));
    attack
        .hold(64, 3000, move |attack, number| {
            let hello = Arc::clone(&hello);
            async move {
                let mut tcp = tcp_from(STRANGER, to[number as usize % to.len()]).await?;
                tcp.write_all(&hello).await?;
                attack.did(1);
                Ok(tcp)
            }
        })
        .await;
    Ok(())
}

pub(super) async fn handshakes(attack: Arc<Attack>) -> anyhow::Result<()> {
    let mut config = client(&attack)?.with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    shake_hands(attack, config).await
}

/// All certificates of the chain have one name, so each may be the issuer of each.
pub(super) async fn long_chains(attack: Arc<Attack>) -> anyhow::Result<()> {
    let params = || {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "x");
        params
    };
    let mut key = KeyPair::generate()?;
    let mut chain = vec![params().self_signed(&key)?.der().clone()];
    while chain.len() < CHAIN {
        let next = KeyPair::generate()?;
        let issuer = Issuer::new(params(), key);
        chain.insert(0, params().signed_by(&next, &issuer)?.der().clone());
        key = next;
    }
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = client(&attack)?.with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    shake_hands(attack, config).await
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client(attack: &Attack) -> anyhow::Result<Builder> {
    let ca = tunnel::tls::load_roots(&attack.ground.ca)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(RootCertStore::clone(&ca)))
}

async fn shake_hands(attack: Arc<Attack>, config: ClientConfig) -> anyhow::Result<()> {
    let (to, connector) =
        ([attack.ground.agents, attack.ground.frontend], TlsConnector::from(Arc::new(config)));
    attack
        .repeat(64, 100_000, move |attack, number| {
            let connector = connector.clone();
            async move {
                let tcp = tcp_from(STRANGER, to[number as usize % to.len()]).await?;
                let tls = Box::pin(connector.connect(name(), tcp)).await?;
                attack.did(1);
                // With TLS 1.3 the refusal comes behind the handshake.
                ask(tls, b"").await.map(drop)
            }
        })
        .await;
    Ok(())
}

/// As of sources that are made up: nothing follows.
pub(super) async fn initials(attack: Arc<Attack>) -> anyhow::Result<()> {
    let packets = tunnel_tests::initials(attack.ground.agent_tls(ALPN)?, 1000).await;
    let mut sources = Vec::new();
    for host in 1..=100 {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 2, host), 0)).await?;
        socket.connect(attack.ground.agents).await?;
        sources.push(socket);
    }
    let mut pace = interval(BURST_EVERY);
    for burst in packets.chunks(BURST).cycle().take(1000) {
        pace.tick().await;
        for (packet, source) in burst.iter().zip(&sources) {
            source.send(packet).await.context("send an Initial")?;
            attack.did(1);
        }
    }
    Ok(())
}

/// So few that the server does not ask for proof of their addresses: it answers each, and waits.
pub(super) async fn few_initials(attack: Arc<Attack>) -> anyhow::Result<()> {
    let packets = tunnel_tests::initials(attack.ground.agent_tls(ALPN)?, 200).await;
    let mut pace = interval(FEW_EVERY);
    for (number, packet) in packets.iter().enumerate() {
        if number >= FEW {
            pace.tick().await;
        }
        let host = u8::try_from(number % 250 + 1)?;
        let source = UdpSocket::bind((Ipv4Addr::new(127, 0, 3, host), 0)).await?;
        source.send_to(packet, attack.ground.agents).await.context("send an Initial")?;
        attack.did(1);
    }
    Ok(())
}

/// Half of them on TCP, half in datagrams.
pub(super) async fn garbage(attack: Arc<Attack>) -> anyhow::Result<()> {
    let ground = &attack.ground;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    udp.connect(ground.agents).await?;
    let to = [ground.agents, ground.frontend, ground.health, ground.admin];
    let datagrams = async {
        let mut pace = interval(BURST_EVERY);
        for seed in 0.. {
            if seed % BURST as u64 == 0 {
                pace.tick().await;
            }
            // The socket may report an ICMP error for an earlier datagram.
            let _ = udp.send(&payload::bytes(seed, 1 + payload::size(seed) % 1400)).await;
        }
    };
    let streams = attack.repeat(64, 100_000, move |attack, number| async move {
        let bytes = payload::bytes(number, 5000);
        attack.did(1);
        let said = async {
            match to.get(number as usize % (to.len() + 1)) {
                Some(&to) => ask(tcp_from(STRANGER, to).await?, &bytes).await,
                None => ask(attack.unix().await?, &bytes).await,
            }
        };
        // Bytes that could be the begin of a message wait for the rest.
        timeout(PATIENCE, said).await?.map(drop)
    });
    tokio::join!(datagrams, streams);
    Ok(())
}
