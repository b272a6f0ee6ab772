//! The target, which the agent connects to. One listener takes a [`Command`](command::Command); another one
//! speaks first. It trusts its clients; a connection lasts an hour at most.

mod behaviour;
pub(crate) mod command;
pub(crate) mod exchange;
pub(crate) mod groups;
pub(crate) mod lines;
pub(crate) mod process;
mod records;
pub(crate) mod shell;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use records::Records;

/// Longest life of a connection: longer than any scenario holds one, so that forgotten ones end.
const LIFE: Duration = Duration::from_secs(3600);

/// Where a target listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Waits for a command.
    pub(crate) commands: SocketAddr,
    /// Speaks first.
    pub(crate) banner: SocketAddr,
}

/// A target with its listeners bound.
pub(crate) struct Target {
    commands: TcpListener,
    banner: TcpListener,
    records: Arc<Records>,
}

impl Target {
    pub(crate) async fn bind(commands: SocketAddr, banner: SocketAddr) -> anyhow::Result<Self> {
        let commands = TcpListener::bind(commands).await.with_context(|| format!("listen on {commands}"))?;
        let banner = TcpListener::bind(banner).await.with_context(|| format!("listen on {banner}"))?;
        Ok(Self { commands, banner, records: Arc::default() })
    }

    pub(crate) fn addresses(&self) -> anyhow::Result<Addresses> {
        Ok(Addresses { commands: self.commands.local_addr()?, banner: self.banner.local_addr()? })
    }

    /// Serves until it is dropped, connections included.
    pub(crate) async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            let (accepted, speaks_first) = tokio::select! {
                accepted = self.commands.accept() => (accepted, false),
                accepted = self.banner.accept() => (accepted, true),
            };
            let Ok((socket, _)) = accepted else {
                // Out of file descriptors, most likely: some connections may end.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let records = Arc::clone(&self.records);
            connections.spawn(async move {
                // The client sees any error as an early end of the connection.
                let _ = timeout(LIFE, connection(socket, speaks_first, &records)).await;
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

async fn connection(socket: TcpStream, speaks_first: bool, records: &Records) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    if speaks_first { behaviour::banner(socket).await } else { behaviour::obey(socket, records).await }
}
