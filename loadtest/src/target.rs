//! The target: what the tunnel's agent connects to.
//!
//! One listener does what the first line says ([`Command`]); another speaks
//! first, because that cannot be asked for without speaking. It believes its
//! clients, except in that a connection lasts an hour at most.

mod behaviour;
mod groups;

use std::collections::HashMap;
use std::future::pending;
use std::io::{IsTerminal as _, Read as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::output;
use groups::Groups;

#[cfg(doc)]
use crate::command::Command;

/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(3600);

/// Most deposits kept for a tally that is never asked for.
const MAX_DEPOSITS: usize = 100_000;

/// What a process that starts a target reads: one line on its standard output.
pub(crate) const READY: &str = "target listening on ";

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
                // Out of descriptors, most likely: some connections may end.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            let records = Arc::clone(&self.records);
            connections.spawn(async move {
                // Whatever fails, the client sees the connection end early.
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

/// Runs a target as a program of its own: says where it listens, and ends when
/// its standard input does, unless that is a terminal or empty from the start.
pub(crate) async fn run(commands: SocketAddr, banner: SocketAddr, until_stdin: bool) -> anyhow::Result<()> {
    let target = Target::bind(commands, banner).await?;
    let Addresses { commands, banner } = target.addresses()?;
    output::line(&format!("{READY}{commands} {banner}"));
    tokio::select! {
        () = target.serve() => {}
        () = end_of_stdin(until_stdin) => {}
    }
    Ok(())
}

/// A parent that dies, however it does, closes the pipe.
pub(crate) async fn end_of_stdin(wanted: bool) {
    if !wanted || std::io::stdin().is_terminal() {
        return pending().await;
    }
    let (sender, ended) = oneshot::channel();
    // Not a task: a blocking read of it would hold the runtime at its end.
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    let _ = ended.await;
}

/// What connections tell others.
#[derive(Default)]
struct Records {
    deposits: Deposits,
    groups: Groups,
}

/// Tallies of ended deposits, by their tokens.
#[derive(Default)]
struct Deposits {
    ended: Mutex<HashMap<u64, String>>,
    more: Notify,
}

impl Deposits {
    fn put(&self, token: u64, tally: String) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() < MAX_DEPOSITS {
            ended.insert(token, tally);
        }
        drop(ended);
        self.more.notify_waiters();
    }

    /// Takes out a tally, waiting for it if need be.
    async fn take(&self, token: u64) -> String {
        loop {
            let mut more = std::pin::pin!(self.more.notified());
            // Listening before looking, or a deposit in between would be missed.
            more.as_mut().enable();
            let found = self.ended.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
            if let Some(tally) = found {
                return tally;
            }
            more.await;
        }
    }
}
