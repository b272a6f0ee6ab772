//! A load balancer in front of servers' agent ports.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use rand::seq::IndexedRandom as _;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tunnel::listen::bind_both;

use crate::task::{Task, spawn};

/// Forwards each TCP connection to a server that it picks at random, and
/// swallows all UDP of the same port.
#[derive(Debug)]
pub struct Balancer {
    /// Where it listens.
    pub addr: SocketAddr,
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    _task: Task,
}

impl Balancer {
    /// Forwards to these servers.
    pub fn to(servers: &[SocketAddr]) -> Self {
        let (listener, swallows) = bind_both(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let addr = listener.local_addr().unwrap();
        let servers = Arc::new(Mutex::new(servers.to_vec()));
        let picks = Arc::clone(&servers);
        let task = spawn(async move {
            let _swallows = swallows;
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let Some(server) = picks.lock().unwrap().choose(&mut rand::rng()).copied() else { continue };
                connections.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(server).await {
                        // How it ends concerns only its two ends.
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self { addr, servers, _task: task }
    }

    /// From now on it picks one of these. Connections that stand are left alone.
    pub fn set(&self, servers: &[SocketAddr]) {
        *self.servers.lock().unwrap() = servers.to_vec();
    }
}
