//! Listeners for clients, which are kube-apiservers.
//!
//! Each listener serves both protocols: the first bytes of a connection are HTTP/2's preface
//! (gRPC) or an HTTP/1 request (CONNECT). Each connection has a task and limits of its own.

mod authority;
mod carried;
mod connect;
mod grpc;
mod record;

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::debug;
use tunnel::drain::Drain;
use tunnel::duplex::{Batch, Broken, Duplex, End, Flow};
use tunnel::listen::{UnixSocket, tune};
use tunnel::socket::Socket;
use tunnel::tls::{Listening, Renewed, refused_certificate};

use self::carried::Carried;
use crate::accept::accept;
use crate::cli::Mode;
use crate::dial::{CountedStream, Dialer};
use crate::metrics::Metrics;

/// Limit of everything before the dial: TLS, the request head. Less cuts clients on slow networks;
/// more keeps connections of strangers.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Longest time for which a target's first bytes wait for the client's. With less,
/// kube-apiservers fail on bytes that come together with the answer; more delays targets that
/// speak first.
const HOLD: Duration = Duration::from_millis(50);

/// Time for an agent to accept the last bytes of a client that has left. Less loses bytes for
/// slow targets; more keeps streams to dead ones.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);

/// Most bytes that a client may send during its dial. With less, clients that send ahead are not
/// watched, so their leaving does not cancel the dial; more is memory for strangers.
const EARLY_BYTES: usize = 64 * 1024;

/// Client connections at once. Each costs two files here and one at an agent.
const MAX_CLIENTS: usize = 100_000;

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
    clients: Arc<Semaphore>,
}

impl Frontend {
    /// A frontend without listeners.
    pub(crate) fn new(dialer: Dialer, metrics: Metrics, drain: Drain, mode: Option<Mode>) -> Arc<Self> {
        Arc::new(Self { dialer, metrics, drain, mode, clients: Arc::new(Semaphore::new(MAX_CLIENTS)) })
    }

    /// Accepts clients on a Unix socket until the drain starts.
    pub(crate) async fn accept_unix(self: Arc<Self>, socket: UnixSocket) {
        loop {
            let (stream, _) = tokio::select! {
                biased;
                () = self.drain.started() => return,
                accepted = accept(&self.metrics, "unix", |cx| socket.listener.poll_accept(cx)) => accepted,
            };
            self.spawn("unix", async move { Ok(stream.into()) });
        }
    }

    /// Accepts clients on TCP with TLS until the drain starts.
    pub(crate) async fn accept_tcp(self: Arc<Self>, listener: TcpListener, tls: Renewed<Listening>) {
        loop {
            let (tcp, _) = tokio::select! {
                biased;
                () = self.drain.started() => return,
                accepted = accept(&self.metrics, "tcp", |cx| listener.poll_accept(cx)) => accepted,
            };
            self.spawn("tcp", handshake(Arc::clone(&tls.get().config).into(), tcp));
        }
    }

    /// Serves a client in a task of its own, unless there are too many.
    fn spawn(
        self: &Arc<Self>,
        listener: &'static str,
        socket: impl Future<Output = io::Result<Socket>> + Send + 'static,
    ) {
        let Ok(permit) = Arc::clone(&self.clients).try_acquire_owned() else {
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
                Begun::Calls(socket, deadline) => {
                    Box::pin(grpc::serve(frontend, listener, *socket, deadline)).await;
                }
            }
            drop(permit);
        });
    }

    /// Brings a CONNECT client to its relay, and a gRPC client to its first call.
    async fn begin(
        self: Arc<Self>,
        listener: &'static str,
        socket: impl Future<Output = io::Result<Socket>>,
    ) -> Begun {
        let deadline = Instant::now() + HEAD_LIMIT;
        let begun = async {
            let mut socket = socket.await?;
            let protocol = sniff(&mut socket).await?;
            io::Result::Ok((socket, protocol))
        };
        let begun = tokio::select! {
            biased;
            () = self.drain.killed() => return Begun::Nothing,
            begun = timeout_at(deadline, begun) => begun,
        };
        let (socket, protocol) = match begun {
            Ok(Ok(begun)) => begun,
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
                let carried = connect::serve(self, listener, socket, deadline).await;
                carried.map_or(Begun::Nothing, Begun::Connected)
            }
            (Protocol::Http2, _) => Begun::Calls(Box::new(socket), deadline),
        }
    }

    /// Counts and logs a client that did not get as far as a dial: the client's fault, so no
    /// warning.
    fn bad_client(&self, reason: &str, listener: &str, why: &str) {
        self.metrics.bad_client(reason);
        debug!(reason, listener, why, "client dropped");
    }
}

/// The result of a client's beginning.
enum Begun {
    /// The client was refused, or has left.
    Nothing,
    /// A CONNECT client has its connection.
    Connected(Box<Carried<Socket>>),
    /// A gRPC client has until the deadline for its first call.
    Calls(Box<Socket>, Instant),
}

async fn handshake(acceptor: TlsAcceptor, tcp: TcpStream) -> io::Result<Socket> {
    tune(&tcp);
    Ok(acceptor.accept(tcp).await?.into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Reads until the protocols can be told apart, and puts the bytes back.
async fn sniff(socket: &mut Socket) -> io::Result<Protocol> {
    let mut seen = BytesMut::with_capacity(1024);
    let protocol = loop {
        if socket.read_buf(&mut seen).await? == 0 {
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
