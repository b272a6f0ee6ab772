//! Paths to a server: one that blocks UDP, and one on which a test decides which datagrams
//! go on, from which address, and where to.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
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
            forward_tcp(listener, server).await;
        });
        Self { addr, _task: task }
    }
}

async fn forward_tcp(listener: TcpListener, server: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((mut from, _)) = listener.accept().await {
        connections.spawn(async move {
            if let Ok(mut to) = TcpStream::connect(server).await {
                // Its two ends see how the connection ends.
                let _ = copy_bidirectional(&mut from, &mut to).await;
            }
        });
    }
}

/// A direction on a [`Wire`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the server.
    Up,
    /// To the agent.
    Down,
}

/// Forwards datagrams to a server, each client's from a port of its own, as a
/// NAT does.
#[derive(Debug)]
pub struct Wire {
    /// The listener's address.
    pub addr: SocketAddr,
    state: Arc<Mutex<State>>,
    _tasks: Vec<Task>,
}

#[derive(Debug)]
struct State {
    server: SocketAddr,
    cut: bool,
    /// The direction in which every datagram is lost.
    lost: Option<Way>,
    /// The number of datagrams after which a flow is lost.
    flow: u32,
    /// Longer datagrams are dropped, to the server and to the agent.
    widest: [usize; 2],
    /// The longest datagram received, dropped ones included.
    longest: usize,
    /// The address from which datagrams go on.
    from: Ipv4Addr,
    mappings: HashMap<SocketAddr, Mapping>,
}

impl State {
    /// Whether a datagram of this length arrives, of this client if its flow is known.
    fn arrives(&mut self, len: usize, way: Way, client: SocketAddr) -> bool {
        self.longest = self.longest.max(len);
        if let Some(mapping) = self.mappings.get_mut(&client) {
            mapping.datagrams += 1;
            if mapping.datagrams > self.flow {
                return false;
            }
        }
        !self.cut && self.lost != Some(way) && len <= self.widest[way as usize]
    }
}

/// One client, as the server sees it. The port closes with it.
#[derive(Debug)]
struct Mapping {
    datagrams: u32,
    onward: Arc<UdpSocket>,
    _answers: Task,
}

impl Wire {
    /// Forwards to `server`. There is no TCP on it.
    pub async fn to(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::on(socket, server)
    }

    /// As [`Self::to`], with TCP on the same port. Nothing happens to that.
    pub fn with_tcp_to(server: SocketAddr) -> Self {
        let (listener, socket) = bind_both(Some(Ipv4Addr::LOCALHOST.into()), 0).unwrap();
        let mut wire = Self::on(UdpSocket::from_std(socket).unwrap(), server);
        wire._tasks.push(spawn(forward_tcp(listener, server)));
        wire
    }

    fn on(socket: UdpSocket, server: SocketAddr) -> Self {
        let socket = Arc::new(socket);
        let addr = socket.local_addr().unwrap();
        let state = State {
            server,
            cut: false,
            lost: None,
            flow: u32::MAX,
            widest: [DATAGRAM; 2],
            longest: 0,
            from: Ipv4Addr::LOCALHOST,
            mappings: HashMap::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let task = spawn(forward(socket, Arc::clone(&state)));
        Self { addr, state, _tasks: vec![task] }
    }

    /// Loses every datagram of a direction from now on, or of none.
    pub fn lose(&self, way: Option<Way>) {
        self.state.lock().unwrap().lost = way;
    }

    /// Loses the datagrams of each client, in both directions, after so many.
    pub fn limit_flows(&self, datagrams: u32) {
        self.state.lock().unwrap().flow = datagrams;
    }

    /// Forwards to another server from now on, as if it had taken the first one's address.
    pub fn move_to(&self, server: SocketAddr) {
        self.state.lock().unwrap().server = server;
    }

    /// Drops every datagram from now on, in either direction, or none.
    pub fn cut(&self, cut: bool) {
        self.state.lock().unwrap().cut = cut;
    }

    /// Drops longer datagrams from now on, in these directions.
    pub fn narrow(&self, ways: &[Way], widest: usize) {
        for way in ways {
            self.state.lock().unwrap().widest[*way as usize] = widest;
        }
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

async fn forward(socket: Arc<UdpSocket>, state: Arc<Mutex<State>>) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok((len, client)) = socket.recv_from(&mut datagram).await else { continue };
        let mut locked = state.lock().unwrap();
        if !locked.arrives(len, Way::Up, client) {
            continue;
        }
        let (from, server) = (locked.from, locked.server);
        let mapping = locked.mappings.entry(client).or_insert_with(|| {
            let onward = std::net::UdpSocket::bind((from, 0)).unwrap();
            onward.set_nonblocking(true).unwrap();
            let onward = Arc::new(UdpSocket::from_std(onward).unwrap());
            let answers = answer(Arc::clone(&onward), Arc::clone(&socket), client, Arc::clone(&state));
            Mapping { datagrams: 1, onward, _answers: spawn(answers) }
        });
        // As in any network, datagrams may be lost.
        let _ = mapping.onward.try_send_to(&datagram[..len], server);
    }
}

async fn answer(onward: Arc<UdpSocket>, back: Arc<UdpSocket>, client: SocketAddr, state: Arc<Mutex<State>>) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok((len, from)) = onward.recv_from(&mut datagram).await else { continue };
        let mut locked = state.lock().unwrap();
        if from == locked.server && locked.arrives(len, Way::Down, client) {
            let _ = back.try_send_to(&datagram[..len], client);
        }
    }
}
