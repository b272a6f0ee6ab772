//! The gRPC frontend: Konnectivity's `ProxyService`, on raw HTTP/2.
//!
//! Kube-apiservers open an HTTP/2 connection with one `Proxy` call per dial; newer clients make
//! many calls on one connection. Each call carries one connection, and its flow-control window is
//! the back-pressure. A second dial on a call is refused, and the first goes on.

mod call;
mod client;
mod sender;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::task::coop;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;
use tunnel::socket::Socket;
use tunnel_proto::packet::PROXY_PATH;

use super::Frontend;
use super::authority::Acceptable;
use crate::clients::Client;

/// Flow-control window of a call: most unread bytes. Less delays writes of clients, which are on
/// the same network; more is memory for stalled calls.
const CALL_WINDOW: u32 = 1 << 20;

/// Flow-control window of a connection: HTTP/2's largest, so that stalled calls cannot use it up.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Most bytes of a call that wait for the socket. Less costs more wake-ups; more is memory for
/// clients that do not read.
const SEND_BUFFER: usize = 256 * 1024;

/// Longest frame of a client. Less costs more frames; more lets one call delay the others.
const FRAME: u32 = 64 * 1024;

/// Calls of one client connection at once, one per dial. With fewer, dials of a busy client fail.
const CALLS: u32 = 1 << 16;

/// Calls that a client may cancel in a burst. With fewer, kube-apiservers that give up many dials
/// lose their connection; more lets strangers make work.
const RESETS: usize = 1024;

/// h2's budget for unread frames under 256 bytes, which it charges more than their length. With
/// less, keystrokes to a stalled target end all calls of the connection; more is memory.
const SMALL_FRAME_BUDGET: usize = 16 << 20;

/// Time for a client without calls to make one. Less ends connections that clients keep for their
/// next dial; more keeps dead ones.
const IDLE_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Status codes of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Ok = 0,
    InvalidArgument = 3,
    PermissionDenied = 7,
    Unimplemented = 12,
}

/// Serves one HTTP/2 connection. Its preface has been put back.
pub(super) async fn serve(frontend: Arc<Frontend>, client: Arc<Client>, socket: Socket, deadline: Instant) {
    let io = Acceptable::new(socket, FRAME as usize);
    let handshake = server::Builder::new()
        .initial_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_send_buffer_size(SEND_BUFFER)
        .max_header_list_size(16 * 1024)
        .max_concurrent_streams(CALLS)
        .max_concurrent_reset_streams(RESETS)
        .max_pending_accept_reset_streams(RESETS)
        .data_frame_budget(SMALL_FRAME_BUDGET)
        .handshake::<_, Bytes>(io);
    // Boxed, so that the handshake costs nothing once it is over.
    let mut connection = match Box::pin(timeout_at(deadline, handshake)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return frontend.bad_client("no_request", client.listener, &error.to_string()),
        Err(_) => return frontend.bad_client("slow_request", client.listener, "no HTTP/2 settings in time"),
    };
    let (mut draining, mut calls) = (false, 0_u64);
    loop {
        // The first call is part of the beginning. A client that is not admitted makes no other.
        let limit =
            if calls == 0 || client.refusal().is_some() { deadline } else { Instant::now() + IDLE_LIMIT };
        let next = tokio::select! {
            biased;
            () = frontend.drain.killed() => break,
            () = frontend.drain.started(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
                continue;
            }
            next = timeout_at(limit, connection.accept()) => next,
        };
        match next {
            Ok(Some(Ok((request, respond)))) => {
                calls += 1;
                start(&frontend, &client, request, respond);
                // Calls that come at once are all read in one turn; others get theirs in between.
                coop::consume_budget().await;
                if client.refusal().is_some() {
                    connection.graceful_shutdown();
                }
            }
            Ok(Some(Err(error))) => {
                if calls == 0 || broke_http2(&error) {
                    frontend.bad_client("bad_request", client.listener, &error.to_string());
                }
                debug!(%error, client.listener, "client connection ended");
                return;
            }
            Ok(None) => return,
            Err(_) if calls == 0 => {
                return frontend.bad_client("slow_request", client.listener, "no call in time");
            }
            Err(_) if client.refusal().is_some() => return,
            Err(_) if connection.has_streams() => {}
            Err(_) => connection.graceful_shutdown(),
        }
    }
    // Sends the last packets of calls that the kill has ended.
    connection.graceful_shutdown();
    let _ = timeout(Duration::from_millis(500), std::future::poll_fn(|cx| connection.poll_closed(cx))).await;
}

/// Whether the client broke the protocol, rather than left.
fn broke_http2(error: &h2::Error) -> bool {
    let rewriter = |error: &std::io::Error| error.kind() == std::io::ErrorKind::InvalidData;
    error.is_library() || error.get_io().is_some_and(rewriter)
}

/// Starts one call, in a task of its own.
fn start(
    frontend: &Arc<Frontend>,
    client: &Arc<Client>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(refusal) = client.refusal() {
        response.headers_mut().extend(trailers(Code::PermissionDenied, &refusal.text));
        // Fails only when the client has left.
        let _ = respond.send_response(response, true);
        return;
    }
    if let Some((status, code, text)) = check(&request) {
        frontend.bad_client("bad_request", client.listener, text);
        *response.status_mut() = status;
        if let Some(code) = code {
            response.headers_mut().extend(trailers(code, text));
        }
        // Fails only when the client has left.
        let _ = respond.send_response(response, true);
        return;
    }
    // Sent at once, because clients wait for the head before anything else.
    let Ok(send) = respond.send_response(response, false) else { return };
    // Boxed, so that it costs nothing once the connection is relayed.
    let call = Box::pin(call::serve(Arc::clone(frontend), Arc::clone(client), send, request.into_body()));
    frontend.drain.spawn_connection("call", async move {
        if let Some(carried) = call.await {
            carried.run().await;
        }
    });
}

/// The refusal of any request but a call of `Proxy`.
fn check(request: &Request<RecvStream>) -> Option<(StatusCode, Option<Code>, &'static str)> {
    let content = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if request.method() != Method::POST {
        let text = "this frontend serves gRPC and HTTP/1.1 CONNECT";
        return Some((StatusCode::METHOD_NOT_ALLOWED, None, text));
    }
    if !content.starts_with(b"application/grpc") {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, None, "not a gRPC request"));
    }
    if request.uri().path() != PROXY_PATH {
        return Some((StatusCode::OK, Some(Code::Unimplemented), "unknown method"));
    }
    None
}

/// The trailers of a call. `text` is printable ASCII.
fn trailers(code: Code, text: &str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from(code as u16));
    // Percent signs are escaped (gRPC over HTTP/2, "Status-Message").
    if let (false, Ok(message)) = (text.is_empty(), HeaderValue::try_from(text.replace('%', "%25"))) {
        trailers.insert("grpc-message", message);
    }
    trailers
}
