//! Checked transfers through a frontend.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};
use tunnel_client::{Connection, Endpoint, Options, Protocol, dial};

/// Bytes of one transfer.
pub(super) const TRANSFER: usize = 8 << 20;

/// Limit of one transfer, generous for slow machines.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);

/// The name of a protocol in the demo's output.
pub(super) const fn label(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Connect => "CONNECT",
        Protocol::Grpc => "gRPC",
    }
}

/// Sends a pattern to the echo, checks every byte that comes back, and returns the
/// time taken.
pub(super) async fn transfer(
    endpoint: &Endpoint,
    protocol: Protocol,
    echo: SocketAddr,
) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let echo = echo.to_string();
    let connection = dial(protocol, endpoint, &echo, &Options::default()).await?;
    timeout(TRANSFER_LIMIT, there_and_back(connection)).await.context("the transfer took too long")??;
    Ok(started.elapsed())
}

async fn there_and_back(connection: Connection) -> anyhow::Result<()> {
    // 251 divides no buffer's size, so shifted bytes are found.
    let pattern: Vec<u8> = (0..TRANSFER).map(|i| (i % 251) as u8).collect();
    let (mut reader, mut writer) = tokio::io::split(connection);
    let send = async {
        writer.write_all(&pattern).await?;
        writer.flush().await
    };
    let receive = async {
        let mut back = vec![0; TRANSFER];
        reader.read_exact(&mut back).await?;
        std::io::Result::Ok(back)
    };
    let ((), back) = tokio::try_join!(send, receive)?;
    ensure!(back == pattern, "bytes changed on the way");
    reader.unsplit(writer).close().await?;
    Ok(())
}
