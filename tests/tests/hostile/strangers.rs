//! Crowds of peers that have proved nothing, beside an agent that comes.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tunnel::transport::Link;
use tunnel_tests::raw::Listener;
use tunnel_tests::{AgentSpec, LINKS, Who, initials, node, promptly, spawn, within};

use crate::Siege;

/// First packets of strangers at once: more than the handshakes that were once done at a time.
const MANY: usize = 300;

/// Silent strangers at once: more than the places of all handshakes, and of such strangers.
const SILENT: usize = 1100;

/// Time for an agent to be admitted beside strangers. Less than the five seconds for which a peer keeps a place that
/// others of its source wait for.
const SOON: Duration = Duration::from_secs(4);

/// Time after which a stranger repeats its first packets.
const AGAIN: Duration = Duration::from_secs(1);

/// A connection from an address of the host's own.
async fn from(host: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 0, host), 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

async fn an_agent_comes_soon(siege: &Siege, link: Link) {
    let agent = siege.cluster.start_agent(&AgentSpec::new("late", link, node(link)));
    promptly(SOON, siege.cluster.server.wait_for_tunnels(3)).await.expect("an agent that comes soon");
    agent.kill().await;
    siege.cluster.server.wait_for_tunnels(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_delay_neither_agents_nor_clients() {
    tunnel_program::process::raise_file_limit();
    let siege = Siege::begin().await;
    let server = &siege.cluster.server;
    let many = async |host, to| {
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.push(from(host, to).await);
        }
        silent
    };
    // From elsewhere, and from where agents and clients are, as behind a load balancer.
    for host in [9, 1] {
        let silent = many(host, server.agents).await;
        an_agent_comes_soon(&siege, Link::H2).await;
        drop(silent);
        let silent = many(host, server.tcp).await;
        let opened = promptly(SOON, Listener::Tcp.open(server, &siege.cluster.pki)).await;
        drop(opened.expect("a client that is served soon"));
        siege.canaries_sing().await;
        drop(silent);
    }
    siege.end().await;
}

/// As those of kube-apiservers behind one address, after a restart: more than the handshakes that are
/// done at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_of_one_address_come_at_once_and_all_are_served() {
    const CLIENTS: usize = 700;
    let siege = Siege::begin().await;
    let (to, config) = (siege.cluster.server.tcp, Arc::new(siege.cluster.pki.client(Who::Client)));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (tcp, config) = (TcpStream::connect(to).await.unwrap(), Arc::clone(&config));
        clients.push(spawn(async move {
            let name = ServerName::try_from("localhost").unwrap();
            let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
            tls.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
            let mut answer = [0; 8];
            tls.read_exact(&mut answer).await?;
            std::io::Result::Ok(answer)
        }));
    }
    let mut failed = Vec::new();
    for client in clients {
        match within("an answer", client.join()).await {
            Ok(answer) => assert_eq!(&answer, b"HTTP/1.1"),
            Err(error) => failed.push(error),
        }
    }
    assert!(failed.is_empty(), "{} of {CLIENTS}: {:?}", failed.len(), failed[0]);
    siege.end().await;
}

/// As with made-up sources, from which nothing follows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_packets_without_a_sequel_do_not_delay_an_agent() {
    let siege = Siege::begin().await;
    let spoofer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    spoofer.connect(siege.cluster.server.agents).await.unwrap();
    let packets = initials(siege.cluster.pki.agent(Who::Agent), MANY).await;
    // Once many handshakes are under way, strangers are asked to prove their address: by packets of the
    // long header's type 3.
    let is_retry = async {
        let mut datagram = vec![0; 65_536];
        loop {
            spoofer.recv(&mut datagram).await.unwrap();
            if datagram[0] & 0xf0 == 0xf0 {
                return;
            }
        }
    };
    let mut is_retry = pin!(is_retry);
    let asked = async {
        loop {
            for packet in &packets {
                spoofer.send(packet).await.unwrap();
            }
            // The answers to all of them do not fit into the socket, if nothing reads it meanwhile.
            if timeout(AGAIN, is_retry.as_mut()).await.is_ok() {
                return;
            }
        }
    };
    within("a Retry", asked).await;
    for link in LINKS {
        an_agent_comes_soon(&siege, link).await;
    }
    siege.canaries_sing().await;
    siege.end().await;
}
