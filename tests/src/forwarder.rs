//! A way to a server on which UDP is blocked.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tunnel::listen::bind_both;

use crate::task::{Task, spawn};

/// Forwards TCP to a server, and swallows all UDP of the same port, as many
/// firewalls do.
#[derive(Debug)]
pub struct TcpOnly {
    /// Where it listens.
    pub addr: SocketAddr,
    _task: Task,
}

impl TcpOnly {
    /// Forwards to `server`.
    pub fn to(server: SocketAddr) -> Self {
        let (listener, swallows) = bind_both(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let addr = listener.local_addr().unwrap();
        let task = spawn(async move {
            let _swallows = swallows;
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                connections.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(server).await {
                        // How it ends concerns only its two ends.
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self { addr, _task: task }
    }
}
