//! HTTP/2 frames of an agent. With our protocol it is the server of the connection, and with Konnectivity's
//! the client (RFC 9113).

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncWriteExt as _, split};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tunnel::tls::ALPN;
use tunnel_tests::frames::{
    CONTINUATION, DATA, END_HEADERS, HEADERS, PING, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, call_of, frame, repeat,
};
use tunnel_tests::raw::PREFACE;

use super::clients::field;
use crate::siege::attack::{Attack, tcp_from};
use crate::siege::guest::AGENT;

/// Time of a connection in a flood of all kinds: each kind has its turn within a second.
const SLICE: Duration = Duration::from_millis(250);

/// Frames at once.
const BURST: u32 = 400;

/// Frames of one kind.
#[derive(Debug, Clone, Copy)]
struct Kind {
    as_client: bool,
    /// The bytes before them.
    begin: fn() -> Vec<u8>,
    /// As the frames of a number.
    frames: fn(u32) -> Vec<u8>,
}

/// Frames that want answers.
const ASKING: Kind = Kind {
    as_client: false,
    begin: Vec::new,
    frames: |_| [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[7; 8])].concat(),
};

/// Others. Bytes of a block are an empty field's.
const KINDS: [Kind; 14] = [
    both(false, |_| frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 7])),
    both(true, |_| frame(PRIORITY, 0, 3, &[0, 0, 0, 1, 7])),
    both(false, |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
    both(true, |_| frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
    both(false, |_| frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())),
    // CVE-2023-44487.
    both(true, |number| {
        [called(number), frame(RST_STREAM, 0, stream(number), &8_u32.to_be_bytes())].concat()
    }),
    Kind { as_client: false, begin: unfinished, frames: continued },
    Kind { as_client: true, begin: unfinished, frames: continued },
    both(false, |_| large(1, &[0x88])),
    both(true, |number| large(stream(number), &call_of(CONNECT))),
    both(false, |_| frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
    both(true, called),
    both(false, |_| frame(DATA, 0, 1, &[])),
    both(true, |number| frame(PING, 0, 0, &u64::from(number).to_be_bytes())),
];

/// The method by which Konnectivity's agents connect.
const CONNECT: &str = "/AgentService/Connect";

const fn both(as_client: bool, frames: fn(u32) -> Vec<u8>) -> Kind {
    Kind { as_client, begin: Vec::new, frames }
}

const fn stream(number: u32) -> u32 {
    2 * number + 1
}

fn called(number: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream(number), &call_of(CONNECT))
}

fn unfinished() -> Vec<u8> {
    frame(HEADERS, 0, 1, &call_of(CONNECT))
}

fn continued(_: u32) -> Vec<u8> {
    frame(CONTINUATION, 0, 1, &field(200))
}

/// A block beyond any limit of a list.
fn large(stream: u32, block: &[u8]) -> Vec<u8> {
    [
        frame(HEADERS, 0, stream, block),
        frame(CONTINUATION, 0, stream, &field(16_000)),
        frame(CONTINUATION, END_HEADERS, stream, &field(16_000)),
    ]
    .concat()
}

impl Kind {
    /// Sends frames until the server has enough of it.
    async fn flood(self, attack: &Attack) -> anyhow::Result<()> {
        let alpn = if self.as_client { b"h2" } else { ALPN };
        let connector = TlsConnector::from(attack.ground.agent_tls(alpn)?);
        let tcp = tcp_from(AGENT, attack.ground.agents).await?;
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        let (mut from, mut to) = split(Box::pin(connector.connect(name, tcp)).await?);
        let flood = async {
            let settings = frame(SETTINGS, 0, 0, &[]);
            to.write_all(if self.as_client { PREFACE } else { &settings }).await?;
            to.write_all(&(self.begin)()).await?;
            for first in (0..).step_by(BURST as usize) {
                to.write_all(&repeat(BURST, |number| (self.frames)(first + number))).await?;
                attack.did(BURST.into());
            }
            anyhow::Ok(())
        };
        // The server says why it leaves, and then reads no more.
        let mut sink = tokio::io::sink();
        tokio::select! {
            result = flood => result,
            read = tokio::io::copy(&mut from, &mut sink) => read.map(|_| ()).map_err(Into::into),
        }
    }
}

pub(super) async fn asking(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack.repeat(2, 10_000, |attack, _| async move { Box::pin(ASKING.flood(&attack)).await }).await;
    Ok(())
}

pub(super) async fn every_kind(attack: Arc<Attack>) -> anyhow::Result<()> {
    attack
        .repeat(4, 10_000, |attack, number| async move {
            let kind = KINDS[number as usize % KINDS.len()];
            Box::pin(timeout(SLICE, kind.flood(&attack))).await.unwrap_or(Ok(()))
        })
        .await;
    Ok(())
}
