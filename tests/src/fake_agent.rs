//! Agents that speak our protocol, except for their answers to dials.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tunnel::drain::Drain;
use tunnel::liveness::{Health, Liveness, Party, Patience};
use tunnel::messages::{Messages, control_messages, greeting};
use tunnel::stream::Stream;
use tunnel::transport::quic::{self, Datagrams};
use tunnel::transport::{HandshakeError, Link, Tunnel, TunnelClosed, h2};
use tunnel_proto::message::{Control, Hello, MAX_DIAL, VERSION, encode_control};

use crate::cluster::Cluster;
use crate::pki::Who;
use crate::target::Gate;
use crate::task::{Task, spawn};
use crate::wait::within;

/// A fake agent's answer to a dial, after reading it.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Sends these bytes, and then nothing.
    Bytes(Bytes),
    /// Ends the stream.
    End,
    /// Resets the stream.
    Reset,
    /// Nothing.
    Silence,
    /// Closes the whole tunnel.
    Die,
    /// Sends these bytes when the gate is opened, and then nothing.
    When(Gate, Bytes),
}

/// An agent that is admitted, lives, and answers dials in its own way.
#[derive(Debug)]
pub struct FakeAgent {
    dials: Arc<AtomicU64>,
    drain: Drain,
    _tasks: [Task; 2],
}

/// A well-formed greeting.
pub fn hello(id: &str, identifiers: &str) -> Hello {
    Hello {
        version: VERSION,
        agent_id: id.to_owned(),
        identifiers: identifiers.to_owned(),
        ..Hello::default()
    }
}

/// A tunnel and its control stream, before the greeting. The drain holds the tasks of
/// the link.
///
/// # Errors
/// When the server refuses the tunnel; some refusals show only later.
pub async fn open_tunnel(
    server: SocketAddr,
    link: Link,
    tls: Arc<ClientConfig>,
    drain: &Drain,
) -> Result<(Tunnel, Stream), HandshakeError> {
    open_tunnel_from(Ipv4Addr::LOCALHOST, server, link, tls, drain).await
}

/// As [`open_tunnel`], from an address of this host.
///
/// # Errors
/// As [`open_tunnel`].
pub async fn open_tunnel_from(
    host: Ipv4Addr,
    server: SocketAddr,
    link: Link,
    tls: Arc<ClientConfig>,
    drain: &Drain,
) -> Result<(Tunnel, Stream), HandshakeError> {
    match link {
        Link::Quic => {
            let endpoint = quic::Dialer::new((host, 0).into(), Datagrams::of_this_host()).unwrap();
            let (tunnel, control) = Box::pin(endpoint.connect(server, "127.0.0.1", tls)).await?;
            Ok((Tunnel::Quic(tunnel), control.into()))
        }
        Link::H2 => {
            let tcp = TcpSocket::new_v4().unwrap();
            tcp.bind((host, 0).into()).unwrap();
            let tcp = tcp.connect(server).await.unwrap();
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let tls = TlsConnector::from(tls).connect(name, tcp).await;
            let tls = tls.map_err(|error| HandshakeError::Tls(error.to_string()))?;
            let (tunnel, control) = Box::pin(h2::connect(tls, server, drain)).await?;
            Ok((Tunnel::H2(tunnel), control.into()))
        }
        Link::Konnectivity => panic!("this fake speaks our own protocol"),
    }
}

impl FakeAgent {
    /// Connects to a cluster's server and is admitted.
    pub async fn join(cluster: &Cluster, link: Link, hello: Hello, answer: Answer) -> Self {
        Self::join_at(cluster.server.agents, cluster.pki.agent(Who::Agent), link, hello, answer).await
    }

    /// Connects to any server and is admitted.
    pub async fn join_at(
        server: SocketAddr,
        tls: Arc<ClientConfig>,
        link: Link,
        hello: Hello,
        answer: Answer,
    ) -> Self {
        Self::join_from(Ipv4Addr::LOCALHOST, server, tls, link, hello, answer).await
    }

    /// Connects to any server from an address of this host, and is admitted.
    pub async fn join_from(
        host: Ipv4Addr,
        server: SocketAddr,
        tls: Arc<ClientConfig>,
        link: Link,
        hello: Hello,
        answer: Answer,
    ) -> Self {
        let drain = Drain::new();
        let opened = open_tunnel_from(host, server, link, tls, &drain);
        let (tunnel, control) = within("a tunnel", opened).await.unwrap();
        let mut messages = control_messages(control);
        messages.send(encode_control(Control::Hello(hello)).unwrap()).await.unwrap();
        let welcome = within("a welcome", greeting(&mut messages)).await.unwrap();
        assert!(matches!(welcome, Control::Welcome(_)), "{welcome:?}");
        let judged = tunnel.clone();
        let heart = spawn(async move {
            let patience = Patience::default();
            let (mut liveness, _peer) =
                Liveness::new(judged, Some(messages), Party::Agent, patience, Arc::default());
            while !matches!(liveness.next().await, Health::Dead(_)) {}
        });
        let dials = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dials);
        let serving = spawn(async move {
            let mut streams = JoinSet::new();
            while let Ok(stream) = next_stream(&tunnel).await {
                counter.fetch_add(1, Ordering::Relaxed);
                streams.spawn(serve(tunnel.clone(), stream, answer.clone()));
            }
        });
        Self { dials, drain, _tasks: [heart, serving] }
    }

    /// Dials received.
    pub fn dials(&self) -> u64 {
        self.dials.load(Ordering::Relaxed)
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.drain.kill();
    }
}

async fn next_stream(tunnel: &Tunnel) -> Result<Stream, TunnelClosed> {
    match tunnel {
        Tunnel::H2(tunnel) => tunnel.accept().await.map(Stream::from),
        Tunnel::Quic(tunnel) => tunnel.accept().await.map(Stream::from),
        Tunnel::Konnectivity(_) => panic!("this fake speaks our own protocol"),
    }
}

async fn serve(tunnel: Tunnel, stream: Stream, answer: Answer) {
    let mut messages = Messages::new(stream, MAX_DIAL);
    if !matches!(messages.recv().await, Ok(Some(_))) {
        return;
    }
    match answer {
        // The test checks the server's reaction.
        Answer::Bytes(bytes) => drop(messages.send(bytes).await),
        Answer::End => drop(messages.finish().await),
        Answer::Reset => return,
        Answer::Silence => {}
        Answer::Die => tunnel.close("dies"),
        Answer::When(gate, bytes) => {
            gate.wait().await;
            drop(messages.send(bytes).await);
        }
    }
    std::future::pending().await
}
