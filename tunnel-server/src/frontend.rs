//! Listeners for clients, which are kube-apiservers.
//!
//! Each listener serves both protocols: the first bytes of a connection are HTTP/2's preface
//! (gRPC) or an HTTP/1 request (CONNECT). Each connection has a task and limits of its own.

mod authority;
mod carried;
mod connect;
mod grpc;
mod record;

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::ServerConfig;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::UCred;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tunnel::drain::Drain;
use tunnel::duplex::{Batch, Broken, Duplex, End, Flow};
use tunnel::listen::{UnixSocket, tune};
use tunnel::socket::Socket;
use tunnel::tls::{Listening, Renewed, refused_certificate};
use tunnel::transport::HandshakeError;
use tunnel_program::warn_seldom;

use self::carried::Carried;
use crate::accept::accept;
use crate::cli::Mode;
use crate::clients::{Admission, Client};
use crate::dial::{CountedStream, Dialer};
use crate::door::Door;
use crate::metrics::Metrics;

/// Limit of everything before the dial: TLS, the request head. Less cuts clients on slow networks;
/// more keeps connections of strangers.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Longest time, from the answer, for which a target's first bytes wait for the client's, where nothing
/// tells when the client has read the answer: on TCP. With less, kube-apiservers fail on bytes that come
/// together with the answer: on a busy machine one in a hundred reads it after 50 ms. More delays targets
/// that speak first to clients that say nothing, which kube-apiservers never do; nothing else waits.
const HOLD: Duration = Duration::from_millis(500);

/// Time for an agent to accept the last bytes of a client that has left. Less loses bytes for
/// slow targets; more keeps streams to dead ones.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);

/// Most bytes that a client may send during its dial. With less, clients that send ahead are not
/// watched, so their leaving does not cancel the dial; more is memory for strangers.
const EARLY_BYTES: usize = 64 * 1024;

/// Client connections at once. Each costs two files here and one at an agent.
const MAX_CLIENTS: usize = 100_000;

/// Clients at once that are not admitted and wait for their refusal. More are closed without one.
const MAX_STRANGERS: usize = 64;

/// Users of a Unix socket that are remembered, so that their connections share one client.
const USERS: usize = 64;

/// The first bytes of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves clients.
#[derive(Debug)]
pub(crate) struct Frontend {
    dialer: Dialer,
    metrics: Metrics,
    drain: Drain,
    /// The only protocol; both if `None`.
    mode: Option<Mode>,
    admission: Admission,
    door: Door,
    room: Arc<Semaphore>,
    room_for_strangers: Arc<Semaphore>,
}

impl Frontend {
    /// A frontend without listeners.
    pub(crate) fn new(
        dialer: Dialer,
        metrics: Metrics,
        drain: Drain,
        mode: Option<Mode>,
        admission: Admission,
        door: Door,
    ) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            metrics,
            drain,
            mode,
            admission,
            door,
            room: Arc::new(Semaphore::new(MAX_CLIENTS)),
            room_for_strangers: Arc::new(Semaphore::new(MAX_STRANGERS)),
        })
    }

    /// Accepts clients on a Unix socket until the drain starts.
    pub(crate) async fn accept_unix(self: Arc<Self>, mut socket: UnixSocket) {
        let mut users = HashMap::new();
        loop {
            let stream = tokio::select! {
                biased;
                () = self.drain.started() => return,
                accepted = accept(&self.metrics, "unix", |cx| socket.poll_accept(cx)) => accepted,
            };
            let client = self.client_on_unix(&mut users, stream.peer_cred());
            self.note_stranger(&client);
            let room = if client.refusal().is_none() { &self.room } else { &self.room_for_strangers };
            self.spawn("unix", room, async move { Ok((stream.into(), client)) });
        }
    }

    /// The client with the credentials of a peer.
    fn client_on_unix(&self, users: &mut HashMap<u32, Arc<Client>>, peer: io::Result<UCred>) -> Arc<Client> {
        let Ok(uid) = peer.as_ref().map(UCred::uid) else { return Arc::new(self.admission.of_unix(peer)) };
        if let Some(known) = users.get(&uid) {
            return Arc::clone(known);
        }
        let client = Arc::new(self.admission.of_unix(peer));
        if users.len() < USERS {
            users.insert(uid, Arc::clone(&client));
        }
        client
    }

    /// Accepts clients on TCP with TLS until the drain starts. Those that acknowledge nothing for
    /// `ack_timeout` are given up.
    pub(crate) async fn accept_tcp(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Renewed<Listening>,
        ack_timeout: Option<Duration>,
    ) {
        loop {
            let (tcp, from) = tokio::select! {
                biased;
                () = self.drain.started() => return,
                accepted = accept(&self.metrics, "tcp", |cx| listener.poll_accept(cx)) => accepted,
            };
            let config = Arc::clone(&tls.get().config);
            let shaken = Arc::clone(&self).handshake(config, tcp, from.ip());
            self.spawn("tcp", &self.room, async move {
                let (socket, client) = shaken.await?;
                Ok((socket.ends_unacknowledged(ack_timeout), client))
            });
        }
    }

    /// Serves a client in a task of its own, unless there are too many.
    fn spawn(
        self: &Arc<Self>,
        listener: &'static str,
        room: &Arc<Semaphore>,
        socket: impl Future<Output = io::Result<(Socket, Arc<Client>)>> + Send + 'static,
    ) {
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
            let why = "the limit of client connections is reached";
            return self.bad_client("too_many_clients", listener, why);
        };
        // Each stage is boxed, so that it costs nothing once it is over.
        let beginning = Box::pin(Arc::clone(self).begin(listener, socket));
        let frontend = Arc::clone(self);
        self.drain.spawn_connection("client", async move {
            match beginning.await {
                Begun::Nothing => {}
                Begun::Connected(carried) => carried.run().await,
                Begun::Calls(socket, client, deadline) => {
                    Box::pin(grpc::serve(frontend, client, *socket, deadline)).await;
                }
            }
            drop(permit);
        });
    }

    /// Brings a CONNECT client to its relay, and a gRPC client to its first call.
    async fn begin(
        self: Arc<Self>,
        listener: &'static str,
        socket: impl Future<Output = io::Result<(Socket, Arc<Client>)>>,
    ) -> Begun {
        let deadline = Instant::now() + HEAD_LIMIT;
        let begun = async {
            let (mut socket, client) = socket.await?;
            let protocol = sniff(&mut socket).await?;
            io::Result::Ok((socket, client, protocol))
        };
        let begun = tokio::select! {
            biased;
            () = self.drain.killed() => return Begun::Nothing,
            begun = timeout_at(deadline, begun) => begun,
        };
        let (socket, client, protocol) = match begun {
            Ok(Ok(begun)) => begun,
            // A health check of a load balancer.
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotConnected => {
                self.metrics.bad_client("said_nothing");
                return Begun::Nothing;
            }
            Ok(Err(error)) => {
                let why = error.to_string();
                self.bad_client(refused_certificate(&why).unwrap_or("no_request"), listener, &why);
                return Begun::Nothing;
            }
            Err(_) => {
                self.bad_client("slow_request", listener, "no request in time");
                return Begun::Nothing;
            }
        };
        if let (Protocol::Http1, Some(refusal)) = (protocol, client.refusal()) {
            connect::refuse_client(socket, refusal).await;
            return Begun::Nothing;
        }
        match (protocol, self.mode) {
            (Protocol::Http1, Some(Mode::Grpc)) => {
                self.bad_client("wrong_mode", listener, "an HTTP/1 request, but --mode=grpc");
                connect::refuse_mode(socket).await;
                Begun::Nothing
            }
            (Protocol::Http2, Some(Mode::HttpConnect)) => {
                self.bad_client("wrong_mode", listener, "an HTTP/2 preface, but --mode=http-connect");
                Begun::Nothing
            }
            (Protocol::Http1, _) => {
                let carried = connect::serve(self, client, socket, deadline).await;
                carried.map_or(Begun::Nothing, Begun::Connected)
            }
            (Protocol::Http2, _) => Begun::Calls(Box::new(socket), client, deadline),
        }
    }

    /// Does TLS, and learns who the client is.
    async fn handshake(
        self: Arc<Self>,
        config: Arc<ServerConfig>,
        tcp: TcpStream,
        from: IpAddr,
    ) -> io::Result<(Socket, Arc<Client>)> {
        tune(&tcp);
        let tls = Box::pin(self.door.tls(tcp, from, config)).await.map_err(|error| {
            if matches!(error, HandshakeError::SaidNothing) {
                io::ErrorKind::NotConnected.into()
            } else {
                io::Error::other(error)
            }
        })?;
        let certificate = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let client = self.admission.of_certificate(certificate);
        self.note_stranger(&client);
        Ok((tls.into(), Arc::new(client)))
    }

    /// Counts and logs a client that did not get as far as a dial.
    fn bad_client(&self, reason: &'static str, listener: &str, why: &str) {
        self.metrics.bad_client(reason);
        warn_seldom!(("client", reason), reason, listener, why, "client dropped");
    }

    /// Counts and logs a client that is not admitted. Does nothing for others.
    fn note_stranger(&self, client: &Client) {
        let Some(refusal) = client.refusal() else { return };
        self.metrics.bad_client(refusal.reason);
        let (listener, identity) = (client.listener, client.name());
        warn_seldom!(("client", refusal.reason), listener, identity, "client refused: {}", refusal.text);
    }
}

/// The result of a client's beginning.
enum Begun {
    /// The client was refused, or has left.
    Nothing,
    /// A CONNECT client has its connection.
    Connected(Box<Carried<Socket>>),
    /// A gRPC client has until the deadline for its first call.
    Calls(Box<Socket>, Arc<Client>, Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Reads until the protocols can be told apart, and puts the bytes back.
///
/// # Errors
/// `NotConnected` if the client ends before its first byte.
async fn sniff(socket: &mut Socket) -> io::Result<Protocol> {
    let mut seen = BytesMut::with_capacity(1024);
    let protocol = loop {
        if socket.read_buf(&mut seen).await? == 0 {
            if seen.is_empty() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before a request"));
        }
        let common = seen.len().min(PREFACE.len());
        if seen[..common] != PREFACE[..common] {
            break Protocol::Http1;
        }
        if common == PREFACE.len() {
            break Protocol::Http2;
        }
    };
    socket.unread(seen.freeze());
    Ok(protocol)
}

/// Runs a dial, and cancels it if the client leaves: the result is `None` then.
///
/// Returns with it the bytes that the client has sent meanwhile, at most [`EARLY_BYTES`] and one
/// read more; beyond them the client is no longer read, and no longer watched.
async fn watched<C: Duplex, T>(client: &mut C, dial: impl Future<Output = T>) -> (Option<T>, Bytes) {
    let mut early = Batch::default();
    let mut dial = pin!(dial);
    let mut deaf = false;
    let done = poll_fn(|cx| {
        if let Poll::Ready(done) = dial.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        while !deaf && early.len() < EARLY_BYTES {
            match client.poll_recv(cx, &mut early) {
                Poll::Ready(Ok(Flow::More)) => {}
                // The client has sent its whole request and waits for the answer.
                Poll::Ready(Ok(Flow::End(End::Fin))) if !early.is_empty() => deaf = true,
                Poll::Ready(Ok(Flow::End(_)) | Err(_)) => return Poll::Ready(None),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await;
    let mut sent = BytesMut::with_capacity(early.len());
    early.iter().for_each(|chunk| sent.extend_from_slice(chunk));
    (done, sent.freeze())
}

/// Waits until the agent has all bytes of a client that has left.
async fn settle(mut counted: CountedStream, drain: &Drain) {
    tokio::select! {
        biased;
        () = drain.killed() => {}
        _ = timeout(SETTLE_LIMIT, counted.stream.settle(drain.has_started())) => {}
    }
}

/// Sends all of `bytes` before the deadline.
async fn send_all<C: Duplex>(client: &mut C, bytes: Bytes, deadline: Instant) -> Result<(), Broken> {
    let mut batch = Batch::default();
    batch.push(bytes);
    let sent = poll_fn(|cx| {
        if let Poll::Ready(result) = client.poll_send(cx, &mut batch) {
            result?;
            return client.poll_flush(cx);
        }
        Poll::Pending
    });
    timeout_at(deadline, sent).await.unwrap_or(Err(Broken::Stopped))
}
