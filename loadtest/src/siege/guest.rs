//! An agent that is admitted, without an agent's habits.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use measuring_kit::Link;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tunnel::drain::Drain;
use tunnel::messages::{Messages, control_messages, greeting};
use tunnel::stream::Stream;
use tunnel::tls::ALPN;
use tunnel::transport::quic::{Datagrams, Dialer};
use tunnel::transport::{Tunnel, h2};
use tunnel_proto::message::{Control, Ping, encode_control};

use super::attack::tcp_from;
use super::ground::Ground;

/// Limit of a greeting.
const GREETING: Duration = Duration::from_secs(10);

/// Hosts of guests that flood and of those that are bystanders, `127.0.0.8` and `127.0.0.1`: the server's limits of
/// one source are not to spare bystanders for being of the same.
pub(crate) const AGENT: u8 = 8;
pub(crate) const BYSTANDER: u8 = 1;

/// An agent's tunnel; cut when dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    tunnel: Tunnel,
    pub(super) messages: Messages,
    drain: Drain,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.tunnel.close("leaves");
        self.drain.kill();
    }
}

impl Guest {
    pub(super) async fn come(ground: &Ground, link: Link, host: u8) -> anyhow::Result<Self> {
        let drain = Drain::new();
        let opened = Box::pin(open(ground, link, host, &drain));
        let (tunnel, control) = timeout(GREETING, opened).await.context("no tunnel in time")??;
        Ok(Self { tunnel, messages: control_messages(control), drain })
    }

    /// A tunnel of an agent that is admitted, from the host of floods.
    pub(super) async fn admitted(
        ground: &Ground,
        link: Link,
        id: &str,
        identifiers: &str,
    ) -> anyhow::Result<Self> {
        Self::with_token(ground, link, AGENT, id, identifiers, &ground.token).await
    }

    /// A tunnel of an agent that is admitted for its token.
    pub(crate) async fn with_token(
        ground: &Ground,
        link: Link,
        host: u8,
        id: &str,
        identifiers: &str,
        token: &str,
    ) -> anyhow::Result<Self> {
        let mut guest = Self::come(ground, link, host).await?;
        let hello = Ground::hello(id, identifiers, token);
        guest.messages.send(encode_control(Control::Hello(hello))?).await?;
        let answer =
            timeout(GREETING, greeting(&mut guest.messages)).await.context("no welcome in time")??;
        anyhow::ensure!(matches!(answer, Control::Welcome(_)), "{answer:?}");
        guest.messages.send(ping()?).await?;
        Ok(guest)
    }
}

/// A tunnel and its control stream, before the greeting.
async fn open(ground: &Ground, link: Link, host: u8, drain: &Drain) -> anyhow::Result<(Tunnel, Stream)> {
    let (from, tls) = (Ipv4Addr::new(127, 0, 0, host), ground.agent_tls(ALPN)?);
    match link {
        Link::Quic => {
            let dialer = Dialer::new(SocketAddr::from((from, 0)), Datagrams::of_this_host())?;
            let (tunnel, control) =
                Box::pin(dialer.connect(ground.agents, &Ipv4Addr::LOCALHOST.to_string(), tls)).await?;
            Ok((Tunnel::Quic(tunnel), control.into()))
        }
        Link::H2 => {
            let tcp = tcp_from(host, ground.agents).await?;
            let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
            let tls = Box::pin(TlsConnector::from(tls).connect(name, tcp)).await?;
            let (tunnel, control) = Box::pin(h2::connect(tls, ground.agents, drain)).await?;
            Ok((Tunnel::H2(tunnel), control.into()))
        }
    }
}

/// An agent's smallest message.
pub(super) fn ping() -> anyhow::Result<Bytes> {
    Ok(encode_control(Control::Ping(Ping { number: 1, ..Ping::default() }))?)
}
