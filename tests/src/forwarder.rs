//! Paths to a server: one that blocks UDP, and one on which a test decides whether
//! and from which address datagrams go on.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tunnel::listen::bind_both;

use crate::task::{Task, spawn};

/// Largest datagram there is.
const DATAGRAM: usize = 1 << 16;

/// Forwards TCP to a server, and swallows all UDP of the same port, as many
/// firewalls do.
#[derive(Debug)]
pub struct TcpOnly {
    /// The listener's address.
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
                        // Its two ends see how the connection ends.
                        let _ = copy_bidirectional(&mut from, &mut to).await;
                    }
                });
            }
        });
        Self { addr, _task: task }
    }
}

/// Forwards datagrams to a server, each client's from a port of its own, as a
/// NAT does. There is no TCP on it.
#[derive(Debug)]
pub struct Wire {
    /// The listener's address.
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _task: Task,
}

#[derive(Debug)]
struct State {
    cut: bool,
    /// Longer datagrams are dropped.
    widest: usize,
    /// The longest datagram received, dropped ones included.
    longest: usize,
    /// The address from which datagrams go on.
    from: Ipv4Addr,
    mappings: HashMap<SocketAddr, Mapping>,
}

impl State {
    /// Whether a datagram of this length arrives.
    fn arrives(&mut self, len: usize) -> bool {
        self.longest = self.longest.max(len);
        !self.cut && len <= self.widest
    }
}

/// One client, as the server sees it. The port closes with it.
#[derive(Debug)]
struct Mapping {
    onward: Arc<UdpSocket>,
    _answers: Task,
}

impl Wire {
    /// Forwards to `server`.
    pub async fn to(server: SocketAddr) -> Self {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let addr = socket.local_addr().unwrap();
        let state = State {
            cut: false,
            widest: DATAGRAM,
            longest: 0,
            from: Ipv4Addr::LOCALHOST,
            mappings: HashMap::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let task = spawn(forward(socket, server, Arc::clone(&state)));
        Self { addr, state, _task: task }
    }

    /// Drops every datagram from now on, in either direction, or none.
    pub fn cut(&self, cut: bool) {
        self.state.lock().unwrap().cut = cut;
    }

    /// Drops longer datagrams from now on, in either direction.
    pub fn narrow(&self, widest: usize) {
        self.state.lock().unwrap().widest = widest;
    }

    /// The longest datagram received since the last call.
    pub fn longest(&self) -> usize {
        std::mem::take(&mut self.state.lock().unwrap().longest)
    }

    /// Forgets all clients: their next datagrams come from other ports of this
    /// address, and the old ports are closed.
    pub fn forget(&self, from: Ipv4Addr) {
        let mut state = self.state.lock().unwrap();
        state.from = from;
        state.mappings.clear();
    }
}

async fn forward(socket: Arc<UdpSocket>, server: SocketAddr, state: Arc<Mutex<State>>) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok((len, client)) = socket.recv_from(&mut datagram).await else { continue };
        let mut locked = state.lock().unwrap();
        if !locked.arrives(len) {
            continue;
        }
        let from = locked.from;
        let mapping = locked.mappings.entry(client).or_insert_with(|| {
            let onward = std::net::UdpSocket::bind((from, 0)).unwrap();
            onward.set_nonblocking(true).unwrap();
            let onward = Arc::new(UdpSocket::from_std(onward).unwrap());
            let answers = answer(Arc::clone(&onward), Arc::clone(&socket), client, Arc::clone(&state));
            Mapping { onward, _answers: spawn(answers) }
        });
        // As in any network, datagrams may be lost.
        let _ = mapping.onward.try_send_to(&datagram[..len], server);
    }
}

async fn answer(onward: Arc<UdpSocket>, back: Arc<UdpSocket>, client: SocketAddr, state: Arc<Mutex<State>>) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok((len, _)) = onward.recv_from(&mut datagram).await else { continue };
        if state.lock().unwrap().arrives(len) {
            let _ = back.try_send_to(&datagram[..len], client);
        }
    }
}
