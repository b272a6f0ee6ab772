//! The `h2` link: HTTP/2 over TLS over TCP, with the roles reversed.
//!
//! In HTTP/2 only clients open streams. So the agent dials TCP and TLS and serves HTTP/2 on
//! the connection; the tunnel server is the client, and opens one CONNECT stream per dialled
//! connection. The first stream is the control stream.

mod stream;
mod window;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, client, server};
use http::{Method, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::drain::Drain;
use crate::h2_error;
use crate::transport::error::{DialFailure, HandshakeError, TunnelClosed};

pub use stream::Stream;

/// Flow-control window of the connection, in bytes: HTTP/2's largest, so that stalled
/// streams cannot use it up for the others.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Bytes of one stream that wait for the TLS connection. Fewer slow a single stream; more are
/// memory that each stalled stream takes.
const SEND_BUFFER: usize = 512 * 1024;

/// Largest frame, in bytes. Smaller costs heads; larger delays other streams' bytes.
const FRAME: u32 = 64 * 1024;

/// Most streams that an agent serves on one tunnel.
const MAX_STREAMS: u32 = 1 << 16;

/// Streams that wait for [`Tunnel::accept`]; further ones are refused. Its caller only
/// spawns, so a longer queue would only wait on an overloaded agent.
const ACCEPT_QUEUE: usize = 256;

/// Longest wait for a place in that queue, in which the tunnel stands still. With less, dials that come at once are
/// refused on a busy machine; with more, an agent that takes none is late for its pings.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// Reset streams whose state h2 keeps. h2 closes the connection of a peer that resets more,
/// and cancelled dials come in bursts; the peer is authenticated.
const RESET_STREAMS: usize = 1024;

/// h2's budget for unread bytes, of which frames below 256 bytes use more than their length.
/// With less, keystrokes to stalled clients would close the tunnel.
const SMALL_FRAME_BUDGET: usize = 64 << 20;

/// Settings that both sides share. A macro, because h2's two builders have no common trait.
macro_rules! builder {
    ($side:ident) => {
        $side::Builder::new()
            .initial_window_size(window::LEAST)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(16 * 1024)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .max_pending_accept_reset_streams(RESET_STREAMS)
            .max_local_error_reset_streams(None)
            .data_frame_budget(SMALL_FRAME_BUDGET)
    };
}

/// The server's side of a tunnel: opens the control stream. The caller limits the time.
/// Cancel safe: dropping the future closes the connection.
///
/// # Errors
/// When the peer does not speak HTTP/2.
pub async fn accept<IO>(io: IO, remote: SocketAddr, drain: &Drain) -> Result<(Tunnel, Stream), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (requests, connection) = builder!(client)
        .initial_max_send_streams(MAX_STREAMS as usize)
        .max_concurrent_streams(0)
        .enable_push(false)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(|error| HandshakeError::Lost(error.to_string()))?;

    let state = Arc::new(ConnectionState::new(remote));
    let driver = drive_client(connection, Arc::clone(&state));
    drain.spawn("h2 driver", driver.in_current_span());
    let tunnel = Tunnel { requests: Requests::Sent(requests), connection: state };
    let control = tunnel.open().await.map_err(|error| HandshakeError::Lost(error.to_string()))?;
    Ok((tunnel, control))
}

async fn drive_client<IO>(mut connection: client::Connection<IO, Bytes>, state: Arc<ConnectionState>)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut measuring = Some(Box::pin(window::wanted(connection.ping_pong())));
    let why = loop {
        tokio::select! {
            biased;
            () = state.stop.cancelled() => break state.stop_reason(),
            result = &mut connection => break match result {
                Ok(()) => "closed by peer".to_owned(),
                Err(error) => h2_error::text(&error),
            },
            window = outcome(&mut measuring) => {
                measuring = None;
                // Fails only during another change; this is the only one.
                let _ = window.map(|window| connection.set_initial_window_size(window));
            }
        }
    };
    state.set_closed(why);
}

/// Waits for `work`; for ever, if it is over.
async fn outcome<T>(work: &mut Option<Pin<Box<impl Future<Output = T>>>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// The agent's side of a tunnel: serves HTTP/2 on a connection that it dialled. The caller
/// limits the time. Cancel safe: dropping the future closes the connection.
///
/// # Errors
/// When the server does not speak HTTP/2 or opens no control stream.
pub async fn connect<IO>(
    io: IO,
    remote: SocketAddr,
    drain: &Drain,
) -> Result<(Tunnel, Stream), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut connection = builder!(server)
        .max_concurrent_streams(MAX_STREAMS)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(|error| HandshakeError::Lost(error.to_string()))?;

    let control = match connection.accept().await {
        Some(Ok((request, respond))) => Stream::accepted(request, respond),
        Some(Err(error)) => return Err(HandshakeError::Lost(error.to_string())),
        None => return Err(HandshakeError::Lost("closed before the control stream".to_owned())),
    }
    .map_err(|error| HandshakeError::Lost(error.to_string()))?;

    let state = Arc::new(ConnectionState::new(remote));
    let (accepted, streams) = mpsc::channel(ACCEPT_QUEUE);
    let driver = drive_server(connection, accepted, Arc::clone(&state));
    drain.spawn("h2 driver", driver.in_current_span());
    let requests = Requests::Taken(Arc::new(Mutex::new(streams)));
    Ok((Tunnel { requests, connection: state }, control))
}

async fn drive_server<IO>(
    mut connection: server::Connection<IO, Bytes>,
    accepted: mpsc::Sender<Stream>,
    state: Arc<ConnectionState>,
) where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut measuring = Some(Box::pin(window::wanted(connection.ping_pong())));
    let why = loop {
        let next = tokio::select! {
            biased;
            () = state.stop.cancelled() => break state.stop_reason(),
            next = connection.accept() => next,
            window = outcome(&mut measuring) => {
                measuring = None;
                // As in `drive_client`.
                let _ = window.map(|window| connection.set_initial_window_size(window));
                continue;
            }
        };
        match next {
            Some(Ok((request, mut respond))) => match free(&accepted).await {
                // Fails only for a stream that is over.
                Some(slot) => drop(Stream::accepted(request, respond).map(|stream| slot.send(stream))),
                None => respond.send_reset(Reason::REFUSED_STREAM),
            },
            Some(Err(error)) => break h2_error::text(&error),
            None => break "closed by peer".to_owned(),
        }
    };
    state.set_closed(why);
}

/// A place in the queue. A burst is read in one turn of the driver, so it waits for the task that takes streams.
async fn free(accepted: &mpsc::Sender<Stream>) -> Option<mpsc::Permit<'_, Stream>> {
    if let Ok(slot) = accepted.try_reserve() {
        return Some(slot);
    }
    timeout(TAKEN_WITHIN, accepted.reserve()).await.ok()?.ok()
}

/// One HTTP/2 connection.
#[derive(Debug, Clone)]
pub struct Tunnel {
    requests: Requests,
    connection: Arc<ConnectionState>,
}

#[derive(Debug, Clone)]
enum Requests {
    /// Servers open streams by sending requests.
    Sent(client::SendRequest<Bytes>),
    /// Agents take them. The lock makes the tunnel `Clone`.
    Taken(Arc<Mutex<mpsc::Receiver<Stream>>>),
}

#[derive(Debug)]
struct ConnectionState {
    remote: SocketAddr,
    stop: CancellationToken,
    closed: CancellationToken,
    why: OnceLock<String>,
}

impl ConnectionState {
    fn new(remote: SocketAddr) -> Self {
        Self {
            remote,
            stop: CancellationToken::new(),
            closed: CancellationToken::new(),
            why: OnceLock::new(),
        }
    }

    fn stop_reason(&self) -> String {
        self.why.get().cloned().unwrap_or_default()
    }

    fn set_closed(&self, why: String) {
        // Keeps the first reason, which is the cause.
        let _ = self.why.set(why);
        self.closed.cancel();
    }
}

impl Tunnel {
    /// The peer's address.
    pub fn remote(&self) -> SocketAddr {
        self.connection.remote
    }

    /// Servers: opens a stream without a dial in it; [`Tunnel::dial`] opens one with. Waits
    /// while the agent allows no more streams. Cancel safe.
    ///
    /// [`Tunnel::dial`]: crate::transport::Tunnel::dial
    ///
    /// # Errors
    /// When the tunnel is gone or the agent refuses.
    pub async fn open(&self) -> Result<Stream, DialFailure> {
        let Requests::Sent(requests) = &self.requests else {
            return Err(DialFailure::Lost("agents open no streams".to_owned()));
        };
        let mut request = Request::new(());
        *request.method_mut() = Method::CONNECT;
        *request.uri_mut() = http::Uri::from_static("tunnel");
        let mut requests = requests.clone().ready().await.map_err(open_error)?;
        let (response, send) = requests.send_request(request, false).map_err(open_error)?;
        Ok(Stream::opened(response, send))
    }

    /// Agents: the next stream of the server, of which nothing was read. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is over.
    pub async fn accept(&self) -> Result<Stream, TunnelClosed> {
        if let Requests::Taken(streams) = &self.requests
            && let Some(stream) = streams.lock().await.recv().await
        {
            return Ok(stream);
        }
        Err(self.closed().await)
    }

    pub(crate) fn close(&self, why: &str) {
        let _ = self.connection.why.set(why.to_owned());
        self.connection.stop.cancel();
    }

    pub(crate) async fn closed(&self) -> TunnelClosed {
        self.connection.closed.cancelled().await;
        TunnelClosed(self.connection.stop_reason())
    }
}

fn open_error(error: h2::Error) -> DialFailure {
    if error.reason() == Some(Reason::REFUSED_STREAM) {
        DialFailure::Busy
    } else {
        DialFailure::Lost(h2_error::text(&error))
    }
}

#[cfg(test)]
mod tests;
