//! A load balancer in front of servers' agent ports.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use rand::seq::IndexedRandom as _;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tunnel::listen::bind_both;

use crate::task::{Task, spawn};

/// Largest datagram there is.
const DATAGRAM: usize = 1 << 16;

/// Forwards each TCP connection, and the datagrams of each UDP port, to a
/// server that it picks at random.
#[derive(Debug)]
pub struct Balancer {
    /// The balancer's own address.
    pub addr: SocketAddr,
    servers: Servers,
    _tasks: [Task; 2],
}

#[derive(Debug, Clone)]
struct Servers(Arc<Mutex<Vec<SocketAddr>>>);

impl Servers {
    fn pick(&self) -> Option<SocketAddr> {
        self.0.lock().unwrap().choose(&mut rand::rng()).copied()
    }
}

impl Balancer {
    /// A balancer in front of these servers.
    pub fn to(servers: &[SocketAddr]) -> Self {
        let (tcp, udp) = bind_both(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let addr = tcp.local_addr().unwrap();
        let udp = UdpSocket::from_std(udp).unwrap();
        let servers = Servers(Arc::new(Mutex::new(servers.to_vec())));
        let tasks = [spawn(forward_tcp(tcp, servers.clone())), spawn(forward_udp(udp, servers.clone()))];
        Self { addr, servers, _tasks: tasks }
    }

    /// Picks one of these servers from now on. Open connections stay.
    pub fn set(&self, servers: &[SocketAddr]) {
        *self.servers.0.lock().unwrap() = servers.to_vec();
    }
}

async fn forward_tcp(listener: TcpListener, servers: Servers) {
    let mut connections = JoinSet::new();
    while let Ok((mut from, _)) = listener.accept().await {
        let Some(server) = servers.pick() else { continue };
        connections.spawn(async move {
            if let Ok(mut to) = TcpStream::connect(server).await {
                // Its two ends see how the connection ends.
                let _ = copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

async fn forward_udp(socket: UdpSocket, servers: Servers) {
    let socket = Arc::new(socket);
    let (mut clients, mut answers) = (HashMap::<SocketAddr, Arc<UdpSocket>>::new(), JoinSet::new());
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok((len, client)) = socket.recv_from(&mut datagram).await else { continue };
        if let Entry::Vacant(place) = clients.entry(client) {
            let Some(server) = servers.pick() else { continue };
            let onward = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
            onward.connect(server).await.unwrap();
            place.insert(Arc::clone(&onward));
            let back = Arc::clone(&socket);
            answers.spawn(async move {
                let mut datagram = vec![0; DATAGRAM];
                // A closed port shows as one receive error; clients are told nothing.
                while let Ok(len) = onward.recv(&mut datagram).await {
                    let _ = back.send_to(&datagram[..len], client).await;
                }
            });
        }
        // As in any network, datagrams may be lost.
        let _ = clients[&client].send(&datagram[..len]).await;
    }
}
