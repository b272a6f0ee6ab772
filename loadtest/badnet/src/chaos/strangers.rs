//! Peers that connect to a server and say nothing: this program again, in the server's namespace.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::target::parent_gone;

/// Pause of a stranger that was turned away.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(crate) struct StrangersArgs {
    #[arg(long, value_name = "ADDRESS")]
    tcp: Vec<SocketAddr>,
    #[arg(long, value_name = "PATH")]
    uds: PathBuf,
    /// Strangers at each place.
    #[arg(long)]
    count: usize,
}

/// Stays until standard input ends.
pub(crate) async fn be_strangers(args: &StrangersArgs) -> anyhow::Result<bool> {
    let mut strangers = JoinSet::new();
    for _ in 0..args.count {
        for place in args.tcp.iter().copied() {
            strangers.spawn(async move {
                loop {
                    if let Ok(mut socket) = TcpStream::connect(place).await {
                        let _ = socket.read(&mut [0]).await;
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        let place = args.uds.clone();
        strangers.spawn(async move {
            loop {
                if let Ok(mut socket) = UnixStream::connect(&place).await {
                    let _ = socket.read(&mut [0]).await;
                }
                sleep(PAUSE).await;
            }
        });
    }
    let _ = parent_gone().await;
    Ok(true)
}
