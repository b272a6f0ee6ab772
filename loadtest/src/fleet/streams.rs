//! Streams that are open and do nothing, many on one gRPC connection so as to
//! need few sockets, or each on a CONNECT of its own.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tunnel_client::grpc::Channel;
use tunnel_client::{Connection, Endpoint, Options, Protocol, dial};

use crate::bench::within;
use crate::command::Command;

/// Dials under way at once.
const DIALS: usize = 32;

/// Streams on one gRPC connection.
const PER_CHANNEL: usize = 200;

/// Simulated agents do not look at it.
const TARGET: &str = "127.0.0.1:9";

/// Opens so many by gRPC.
pub(super) async fn open_grpc(uds: &Path, count: u32) -> anyhow::Result<Vec<Connection>> {
    let (endpoint, options) = (Endpoint::unix(uds), Options::default());
    let mut open = Vec::with_capacity(count as usize);
    while open.len() < count as usize {
        let channel = Channel::open(&endpoint, &options).await?;
        let now = PER_CHANNEL.min(count as usize - open.len());
        open.extend(
            at_once(now, || {
                let channel = channel.clone();
                async move { Ok(channel.dial(TARGET).await?) }
            })
            .await?,
        );
    }
    Ok(open)
}

/// Opens so many by CONNECT.
pub(super) async fn open_connect(uds: &Path, count: u32) -> anyhow::Result<Vec<Connection>> {
    let endpoint = Arc::new(Endpoint::unix(uds));
    at_once(count as usize, || {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok(dial(Protocol::Connect, &endpoint, TARGET, &Options::default()).await?) }
    })
    .await
}

/// Dials, and sends a byte there and back on each connection.
async fn at_once<D>(count: usize, dial: impl Fn() -> D) -> anyhow::Result<Vec<Connection>>
where
    D: Future<Output = anyhow::Result<Connection>> + Send + 'static,
{
    let (mut dials, mut open) = (JoinSet::new(), Vec::with_capacity(count));
    for _ in 0..count {
        if dials.len() >= DIALS {
            open.extend(dials.join_next().await.transpose()?.transpose()?);
        }
        let dial = dial();
        dials.spawn(async move {
            let mut connection = dial.await?;
            let command = [Command::Echo.line().as_bytes(), b"!"].concat();
            within("room for a command", connection.write_all(&command)).await??;
            within("echo", connection.read_u8()).await??;
            anyhow::Ok(connection)
        });
    }
    while let Some(dialled) = dials.join_next().await {
        open.push(dialled?.context("open an idle stream")?);
    }
    Ok(open)
}

/// How many no longer carry a byte.
pub(super) async fn dead(streams: Vec<Connection>) -> anyhow::Result<usize> {
    let (mut asked, mut dead) = (JoinSet::new(), 0);
    for mut connection in streams {
        while asked.len() >= DIALS {
            dead += asked
                .join_next()
                .await
                .map_or(Ok(0), |alive| alive.map(|alive: bool| usize::from(!alive)))?;
        }
        asked.spawn(async move {
            let echo = async {
                connection.write_all(b"?").await?;
                connection.read_u8().await
            };
            matches!(within("echo", echo).await, Ok(Ok(b'?')))
        });
    }
    while let Some(alive) = asked.join_next().await {
        dead += usize::from(!alive?);
    }
    Ok(dead)
}
