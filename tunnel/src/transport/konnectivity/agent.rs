//! Agents: the call to a server.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use h2::{PingPong, client};
use http::{Method, Request, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel_proto::message::{Hello, Welcome};

use super::http2::{self, BEARER, CONNECT_PATH, silence};
use super::tunnel::Tunnel;
use crate::drain::Drain;
use crate::packets::{Counters, Halves, Limits, Role};
use crate::transport::error::HandshakeError;

/// Received bytes that may wait on an agent for slow targets. Agents run with little memory:
/// 30 MiB in Konnectivity's examples.
const AGENT_LIMITS: Limits = Limits { connection: 8 << 20, stream: 16 << 20 };

/// Interval of pings to servers. Konnectivity's close connections that ping more often than
/// every 30 s; longer finds dead servers later.
const AGENT_PING: Duration = Duration::from_secs(35);

/// Calls `authority` (host and port) on a TLS connection. The caller limits the time. Cancel
/// safe: dropping the future closes the connection.
///
/// # Errors
/// When the server does not speak the protocol, or does not admit the agent.
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
    let (requests, mut connection) =
        http2::builder!(client).enable_push(false).handshake::<_, Bytes>(io).await.map_err(lost)?;
    let ping = connection.ping_pong();
    let stop = CancellationToken::new();
    // Until the agent is admitted, dropping this future closes the connection.
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
    let ended = tunnel.clone();
    drain.spawn("konnectivity end", async move {
        ended.closed().await;
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

/// Drives the agent's HTTP/2 connection until it ends or is stopped.
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
    // The tunnel's last packets still go out.
    let _ = timeout(Duration::from_millis(500), connection).await;
}
