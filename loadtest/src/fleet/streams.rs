//! Idle streams: many on one gRPC connection, which needs few sockets, or each on a CONNECT of its own.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tunnel_client::grpc::Channel;
use tunnel_client::{Connection, Endpoint, Options, Protocol, dial};

use crate::dialing;

/// Streams on one gRPC connection. More need fewer sockets, but share one flow-control window.
const PER_CHANNEL: usize = 200;

/// Simulated agents do not look at it.
const TARGET: &str = "127.0.0.1:9";

/// The context of errors.
const OPENING: &str = "open an idle stream";

pub(crate) async fn open_grpc(uds: &Path, count: u32) -> anyhow::Result<Vec<Connection>> {
    let (endpoint, options) = (Endpoint::unix(uds), Options::default());
    let mut open = Vec::with_capacity(count as usize);
    while open.len() < count as usize {
        let channel = Channel::open(&endpoint, &options).await?;
        let dial = || {
            let channel = channel.clone();
            async move { dialing::with_echo(channel.dial(TARGET).await?).await }
        };
        open.extend(
            dialing::open(PER_CHANNEL.min(count as usize - open.len()), dial).await.context(OPENING)?,
        );
    }
    Ok(open)
}

pub(crate) async fn open_connect(uds: &Path, count: u32) -> anyhow::Result<Vec<Connection>> {
    let endpoint = Arc::new(Endpoint::unix(uds));
    dialing::open(count as usize, || {
        let endpoint = Arc::clone(&endpoint);
        async move {
            let connection = dial(Protocol::Connect, &endpoint, TARGET, &Options::default()).await?;
            dialing::with_echo(connection).await
        }
    })
    .await
    .context(OPENING)
}
