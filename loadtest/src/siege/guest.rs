//! An agent that is admitted, without an agent's habits.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use measuring_kit::Link;
use tokio::time::timeout;
use tunnel::drain::Drain;
use tunnel::messages::{Messages, control_messages, greeting};
use tunnel::tls::ALPN;
use tunnel::transport::{self, Tunnel};
use tunnel_proto::message::{Control, Ping, encode_control};
use tunnel_tests::{hello, open_tunnel};

use super::ground::Ground;

/// Limit of a greeting.
const GREETING: Duration = Duration::from_secs(10);

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
    pub(super) async fn come(ground: &Ground, link: Link) -> anyhow::Result<Self> {
        let link = match link {
            Link::Quic => transport::Link::Quic,
            Link::H2 => transport::Link::H2,
        };
        let drain = Drain::new();
        let opened = Box::pin(open_tunnel(ground.agents, link, ground.agent_tls(ALPN)?, &drain));
        let (tunnel, control) = timeout(GREETING, opened).await.context("no tunnel in time")??;
        Ok(Self { tunnel, messages: control_messages(control), drain })
    }

    /// A tunnel of an agent that is admitted.
    pub(crate) async fn admitted(
        ground: &Ground,
        link: Link,
        id: &str,
        identifiers: &str,
    ) -> anyhow::Result<Self> {
        let mut guest = Self::come(ground, link).await?;
        guest.messages.send(encode_control(Control::Hello(hello(id, identifiers)))?).await?;
        let answer =
            timeout(GREETING, greeting(&mut guest.messages)).await.context("no welcome in time")??;
        anyhow::ensure!(matches!(answer, Control::Welcome(_)), "{answer:?}");
        guest.messages.send(ping()?).await?;
        Ok(guest)
    }
}

/// An agent's smallest message.
pub(super) fn ping() -> anyhow::Result<Bytes> {
    Ok(encode_control(Control::Ping(Ping { number: 1, ..Ping::default() }))?)
}
