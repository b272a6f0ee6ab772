//! A load balancer that knows nothing of what it balances.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rand::RngExt as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::task::{Task, spawn};

/// Forwards each TCP connection to one of its servers, taken at random.
#[derive(Debug)]
pub struct Balancer {
    /// Where it listens.
    pub addr: SocketAddr,
    servers: Arc<Mutex<Vec<SocketAddr>>>,
    _task: Task,
}

impl Balancer {
    /// Forwards to these servers.
    pub async fn over(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let servers = Arc::new(Mutex::new(servers.into_iter().collect::<Vec<_>>()));
        let choice = Arc::clone(&servers);
        let task = spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut from, _)) = listener.accept().await {
                let server = {
                    let servers = choice.lock().unwrap();
                    // Without a server the connection is closed at once.
                    if servers.is_empty() {
                        continue;
                    }
                    servers[rand::rng().random_range(0..servers.len())]
                };
                connections.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(server).await {
                        // How it ends concerns only its two ends.
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, servers, _task: task }
    }

    /// One more server for new connections.
    pub fn add(&self, server: SocketAddr) {
        self.servers.lock().unwrap().push(server);
    }

    /// No new connections for a server; those it has stay.
    pub fn remove(&self, server: SocketAddr) {
        self.servers.lock().unwrap().retain(|known| *known != server);
    }
}
