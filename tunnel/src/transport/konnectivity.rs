//! The `konnectivity` link: Konnectivity's gRPC, `/AgentService/Connect`, for
//! fleets in which one side is not ours yet.
//!
//! All connections of a tunnel share one gRPC call ([`crate::packets`]), so
//! what one stream per connection gives (see the other links) cannot be had
//! here. There is no control stream: an agent says what it is in metadata.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, PingPong, RecvStream, client, server};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use tunnel_proto::message::{Hello, VERSION, Welcome};

use super::arrival::Introduction;
use super::{DialFailure, HandshakeError, TunnelClosed};
use crate::drain::Drain;
use crate::packets::{Asked, Counters, Halves, Limits, Mux, Role};
use crate::stream::Stream;

/// How the value of an agent's `authorization` metadata begins. The case counts, as it does
/// for Konnectivity's server.
const BEARER: &str = "Bearer ";

/// The gRPC path of the agents' one method.
pub const CONNECT_PATH: &str = "/AgentService/Connect";

/// Unread bytes of one call: what may be on its way, and what everybody waits
/// behind when the stream is read slower.
const CALL_WINDOW: u32 = 1 << 20;

/// The same for a connection, which carries one call.
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Frames that peers may send.
const FRAME: u32 = 64 * 1024;

/// Bytes that wait for the TLS connection.
const SEND_BUFFER: usize = 512 * 1024;

/// Calls on one connection of an agent at once; agents make one.
const CALLS: u32 = 16;

/// What may wait on a server, for clients that are slower than the agent.
const SERVER_LIMITS: Limits = Limits { connection: 32 << 20, stream: 256 << 20 };

/// What may wait on an agent, for slow targets; agents run with little memory,
/// 30 MiB where Konnectivity's examples are followed.
const AGENT_LIMITS: Limits = Limits { connection: 8 << 20, stream: 16 << 20 };

/// How often an agent is asked for a sign of life.
const SERVER_PING: Duration = Duration::from_secs(5);

/// How often a server is asked: Konnectivity's hang up on whoever asks more
/// often than every 30 s.
const AGENT_PING: Duration = Duration::from_secs(35);

/// How long the answer may take.
const PONG_LIMIT: Duration = Duration::from_secs(10);

/// How long a connection may be without a call.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Longest metadata values that are taken.
const MAX_METADATA: usize = 16 * 1024;

/// One call and its packets.
#[derive(Debug, Clone)]
pub struct Tunnel {
    mux: Mux,
    remote: SocketAddr,
    /// Dials of the server; the lock is only there to make the tunnel `Clone`.
    asked: Arc<Mutex<mpsc::Receiver<Asked>>>,
}

impl Tunnel {
    fn start(halves: Halves, role: Role, limits: Limits, remote: SocketAddr, drain: &Drain) -> Self {
        let (mux, asked) = Mux::start(halves, role, limits, drain);
        Self { mux, remote, asked: Arc::new(Mutex::new(asked)) }
    }

    /// Where the peer is.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(crate) async fn dial(
        &self,
        address: String,
        untaken: Option<Duration>,
    ) -> Result<Stream, DialFailure> {
        self.mux.dial(address, untaken).await.map(Stream::from)
    }

    pub(crate) fn is_stuck(&self) -> bool {
        self.mux.is_stuck()
    }

    pub(crate) async fn accept(&self) -> Result<Asked, TunnelClosed> {
        match self.asked.lock().await.recv().await {
            Some(asked) => Ok(asked),
            None => Err(self.closed().await),
        }
    }

    /// Only agents can: no packet of a server says so, and a stock agent takes DRAIN for
    /// a protocol error.
    pub(crate) fn announce_drain(&self) {
        if self.mux.role() == Role::Answerer {
            self.mux.say_drain();
        }
    }

    pub(crate) async fn peer_drains(&self) {
        self.mux.peer_drains().await;
    }

    pub(crate) fn close(&self, why: &str) {
        self.mux.close(why);
    }

    pub(crate) async fn closed(&self) -> TunnelClosed {
        TunnelClosed(self.mux.closed().await)
    }
}

/// A connection of Konnectivity agents.
#[derive(Debug)]
pub(crate) struct Agents<IO> {
    connection: server::Connection<IO, Bytes>,
    remote: SocketAddr,
    counters: Counters,
}

/// Serves HTTP/2 to an agent. Cancel safe; the caller limits its time.
///
/// # Errors
/// When the peer does not speak HTTP/2.
pub(crate) async fn accept<IO>(
    io: IO,
    remote: SocketAddr,
    counters: Counters,
) -> Result<Agents<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connection = server::Builder::new()
        .initial_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(32 * 1024)
        .max_concurrent_streams(CALLS)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(|error| HandshakeError::Lost(error.to_string()))?;
    Ok(Agents { connection, remote, counters })
}

impl<IO> Agents<IO>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    /// Takes calls until the connection is over, and says why it is. An agent
    /// that does not answer pings is gone.
    pub(crate) async fn serve(mut self, drain: &Drain, mut on_call: impl FnMut(Call)) -> String {
        let gone = CancellationToken::new();
        let _gone = gone.clone().drop_guard();
        if let Some(ping) = self.connection.ping_pong() {
            let (gone, lost) = (gone.clone(), gone.clone());
            drain.spawn("pings", async move {
                tokio::select! {
                    () = silence(ping, SERVER_PING) => lost.cancel(),
                    () = gone.cancelled() => {}
                }
            });
        }
        loop {
            let idle = !self.connection.has_streams();
            let next = tokio::select! {
                biased;
                () = drain.killed() => {
                    // The calls say goodbye; let it out.
                    let _ = timeout(Duration::from_millis(500), std::future::poll_fn(|cx| {
                        self.connection.poll_closed(cx)
                    })).await;
                    return "server stopped".to_owned();
                }
                () = gone.cancelled() => return "no answer to pings".to_owned(),
                next = self.connection.accept() => next,
                () = sleep(CALL_LIMIT), if idle => return "no call".to_owned(),
            };
            match next {
                Some(Ok((request, respond))) => {
                    if let Some(call) = Call::new(request, respond, self.remote, self.counters.clone()) {
                        on_call(call);
                    }
                }
                Some(Err(error)) => return error.to_string(),
                None => return "closed by peer".to_owned(),
            }
        }
    }
}

/// Ready when the peer does not answer.
async fn silence(mut ping: PingPong, every: Duration) {
    let mut beat = interval_at(Instant::now() + every, every);
    loop {
        beat.tick().await;
        match timeout(PONG_LIMIT, ping.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// A call of an agent that was not answered yet.
#[derive(Debug)]
pub(crate) struct Call {
    metadata: HeaderMap,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    remote: SocketAddr,
    counters: Counters,
}

/// Metadata of an agent that carries no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// The metadata is there, but is no bearer token.
    #[error("the authorization metadata of the agent does not begin with {BEARER:?}")]
    NoBearer,
    /// There is more than one value, so it is not clear which one counts.
    #[error("the agent sent {0} values of authorization metadata instead of one")]
    Several(usize),
}

/// gRPC's status codes, as far as they are said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// What Go says for errors without a code.
    Unknown = 2,
    /// There is no such method.
    Unimplemented = 12,
    /// Not now.
    Unavailable = 14,
    /// The credentials are not good enough.
    Unauthenticated = 16,
}

impl Call {
    /// `None` when it is no call of this service; the caller has been told.
    fn new(
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        remote: SocketAddr,
        counters: Counters,
    ) -> Option<Self> {
        let (head, body) = request.into_parts();
        let call = Self { metadata: head.headers, body, respond, remote, counters };
        let content = call.metadata.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if head.method == Method::POST
            && content.starts_with(b"application/grpc")
            && head.uri.path() == CONNECT_PATH
        {
            return Some(call);
        }
        debug!(from = %remote, path = head.uri.path(), "an agent called something else");
        call.refuse(Status::Unimplemented, "unknown method");
        None
    }

    /// What the agent says of itself in metadata. The texts are as Konnectivity's agents
    /// know them.
    pub(crate) fn introduction(&self) -> Result<Introduction, String> {
        let ids = self.values("agentid");
        let [id] = ids[..] else {
            return Err(format!("expected one agent ID in the context, got [{}]", ids.join(" ")));
        };
        let identifiers = match self.values("agentidentifiers")[..] {
            [] => "",
            [identifiers] => identifiers,
            ref more => {
                return Err(format!("expected at most one set of agent identifiers, got {}", more.len()));
            }
        };
        let hello = Hello {
            version: VERSION,
            agent_id: id.to_owned(),
            identifiers: identifiers.to_owned(),
            software: "konnectivity".to_owned(),
            ..Hello::default()
        };
        Ok(Introduction { hello, token: self.token() })
    }

    fn token(&self) -> Result<Option<String>, BearerError> {
        match self.values("authorization")[..] {
            [] => Ok(None),
            [value] => {
                // Konnectivity's agents send their token file as it is.
                let token = value.strip_prefix(BEARER).ok_or(BearerError::NoBearer)?;
                Ok(Some(token.trim_ascii().to_owned()))
            }
            ref several => Err(BearerError::Several(several.len())),
        }
    }

    /// All values of a metadata key that are text.
    fn values(&self, key: &str) -> Vec<&str> {
        let text = |value: &'_ HeaderValue| value.len() <= MAX_METADATA;
        let values = self.metadata.get_all(key).iter().filter(|value| text(value));
        values.filter_map(|value| value.to_str().ok()).collect()
    }

    /// Where it comes from.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Ends the call with an error.
    pub(crate) fn refuse(mut self, status: Status, text: &str) {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from(status as u16));
        if let Ok(text) = HeaderValue::from_str(&percent_encoded(text)) {
            headers.insert("grpc-message", text);
        }
        // The agent went in the meantime: then nobody misses the answer.
        let _ = self.respond.send_response(response, true);
    }

    /// Takes the agent in: says who and how many the servers are.
    ///
    /// # Errors
    /// When the agent left, or the server's id is no header value.
    pub(crate) fn admit(mut self, welcome: &Welcome, drain: &Drain) -> Result<Tunnel, HandshakeError> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::OK;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let id = HeaderValue::from_str(&welcome.server_id)
            .map_err(|error| HandshakeError::Config(error.to_string()))?;
        headers.insert("serverid", id);
        headers.insert("servercount", HeaderValue::from(welcome.server_count));
        let send = self
            .respond
            .send_response(response, false)
            .map_err(|error| HandshakeError::Lost(error.to_string()))?;
        let halves = Halves { send, body: self.body, called: true, counters: self.counters };
        Ok(Tunnel::start(halves, Role::Dialer, SERVER_LIMITS, self.remote, drain))
    }
}

/// gRPC messages are ASCII; other bytes are percent-encoded.
fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes().take(512) {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => out.push_str(&format!("%{byte:02X}")),
            byte => out.push(byte.into()),
        }
    }
    out
}

/// The agent's side: calls `authority` (host and port) on a TLS connection.
///
/// Cancel safe: dropping it closes the connection. The caller limits its time.
///
/// # Errors
/// When the server does not speak this, or does not take the agent.
pub(crate) async fn connect<IO>(
    io: IO,
    remote: SocketAddr,
    authority: &str,
    hello: &Hello,
    counters: Counters,
    drain: &Drain,
) -> Result<(Tunnel, Welcome), HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let lost = |error: h2::Error| HandshakeError::Lost(error.to_string());
    let request = connect_request(authority, hello)?;
    let (requests, mut connection) = client::Builder::new()
        .initial_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(32 * 1024)
        .enable_push(false)
        .handshake::<_, Bytes>(io)
        .await
        .map_err(lost)?;
    let ping = connection.ping_pong();
    let stop = CancellationToken::new();
    // Until the tunnel is there, leaving closes the connection.
    let given_up = stop.clone().drop_guard();
    let driver = drive(connection, ping, stop.clone());
    drain.spawn("konnectivity driver", driver);
    let (response, send) =
        requests.ready().await.map_err(lost)?.send_request(request, false).map_err(lost)?;
    let (head, body) = response.await.map_err(lost)?.into_parts();
    let text = |key: &str| head.headers.get(key).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if head.status != StatusCode::OK || !matches!(text("grpc-status"), "" | "0") {
        let why = format!("the server answered {} {}", head.status.as_u16(), text("grpc-message"));
        return Err(HandshakeError::Rejected(why.trim_end().to_owned()));
    }
    let server_id = text("serverid").to_owned();
    if server_id.is_empty() {
        return Err(HandshakeError::Rejected("the server did not say its id".to_owned()));
    }
    let server_count = text("servercount").parse().unwrap_or(0);
    given_up.disarm();
    let halves = Halves { send, body, called: false, counters };
    let tunnel = Tunnel::start(halves, Role::Answerer, AGENT_LIMITS, remote, drain);
    let mux = tunnel.mux.clone();
    drain.spawn("konnectivity end", async move {
        mux.closed().await;
        stop.cancel();
    });
    let software = "konnectivity".to_owned();
    Ok((tunnel, Welcome { server_id, server_count, software, ..Welcome::default() }))
}

fn connect_request(authority: &str, hello: &Hello) -> Result<Request<()>, HandshakeError> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://{authority}{CONNECT_PATH}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, concat!("tunnel-agent/", env!("CARGO_PKG_VERSION")))
        .header("agentid", &hello.agent_id)
        .header("agentidentifiers", &hello.identifiers);
    if !hello.token.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("{BEARER}{}", hello.token));
    }
    request.body(()).map_err(|error| HandshakeError::Config(error.to_string()))
}

/// Runs the agent's HTTP/2 connection until it ends or is not wanted any more.
async fn drive<IO>(connection: client::Connection<IO, Bytes>, ping: Option<PingPong>, stop: CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut connection = pin!(connection);
    let silent = async {
        match ping {
            Some(ping) => silence(ping, AGENT_PING).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        // Dropping the connection fails the call, which ends the tunnel.
        () = silent => return,
        _ = &mut connection => return,
    }
    // What the tunnel said last still goes out.
    let _ = timeout(Duration::from_millis(500), connection).await;
}
