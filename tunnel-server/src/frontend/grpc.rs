//! The gRPC frontend: Konnectivity's `ProxyService`, on raw HTTP/2.
//!
//! Kube-apiservers open one HTTP/2 connection with one `Proxy` call per dial;
//! newer clients open many calls on one connection. The dial of a call makes the
//! call the connection: its HTTP/2 flow-control window is the back-pressure. A
//! second dial on a call is refused for itself.

mod call;
mod client;
mod sender;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;
use tunnel::socket::Socket;
use tunnel_proto::packet::PROXY_PATH;

use super::Frontend;
use super::authority::Acceptable;

/// Unread bytes that one call may hold here. Clients are near and their data
/// goes straight on, so this need not be larger than a few writes.
const CALL_WINDOW: u32 = 1 << 20;

/// Larger than any number of stalled calls can use up.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Bytes of one call that wait for the socket.
const SEND_BUFFER: usize = 256 * 1024;

/// Frames that clients may send.
const FRAME: u32 = 64 * 1024;

/// Calls of one client connection at once; the reusable client opens one per dial.
const CALLS: u32 = 1 << 16;

/// Calls that a client cancelled in a burst.
const RESETS: usize = 1024;

/// Unread bytes of frames under 256 bytes cost more of this than their length;
/// keystrokes to a stalled target must not end the other calls.
const SMALL_FRAME_BUDGET: usize = 16 << 20;

/// How long a client that has no call may take to start one.
const IDLE_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// What calls of gRPC end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Ok = 0,
    InvalidArgument = 3,
    Unimplemented = 12,
}

/// Serves one HTTP/2 connection, of which the preface can be read.
pub(super) async fn serve(
    frontend: Arc<Frontend>,
    listener: &'static str,
    socket: Socket,
    deadline: Instant,
) {
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
    // Boxed, so that a connection has no room for its handshake all its life.
    let mut connection = match Box::pin(timeout_at(deadline, handshake)).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return frontend.bad_client("no_request", listener, &error.to_string()),
        Err(_) => return frontend.bad_client("slow_request", listener, "no HTTP/2 settings in time"),
    };
    let (mut draining, mut calls) = (false, 0_u64);
    loop {
        // A connection on which nothing was called yet is waited for like a head.
        let limit = if calls == 0 { deadline } else { Instant::now() + IDLE_LIMIT };
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
                start(&frontend, listener, request, respond);
            }
            Ok(Some(Err(error))) => {
                if calls == 0 || broke_http2(&error) {
                    frontend.bad_client("bad_request", listener, &error.to_string());
                }
                debug!(%error, listener, "client connection ended");
                return;
            }
            Ok(None) => return,
            Err(_) if calls == 0 => return frontend.bad_client("slow_request", listener, "no call in time"),
            Err(_) if connection.has_streams() => {}
            Err(_) => connection.graceful_shutdown(),
        }
    }
    // Killed: the calls have said so to their clients; let it out.
    connection.graceful_shutdown();
    let _ = timeout(Duration::from_millis(500), std::future::poll_fn(|cx| connection.poll_closed(cx))).await;
}

/// Whether a connection ended because of what the client sent, and not because
/// it went away.
fn broke_http2(error: &h2::Error) -> bool {
    let rewriter = |error: &std::io::Error| error.kind() == std::io::ErrorKind::InvalidData;
    error.is_library() || error.get_io().is_some_and(rewriter)
}

/// Starts one call, in a task of its own.
fn start(
    frontend: &Arc<Frontend>,
    listener: &'static str,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let refused = check(&request);
    if let Some((status, code, text)) = refused {
        frontend.bad_client("bad_request", listener, text);
        let mut response = Response::new(());
        *response.status_mut() = status;
        if let Some(code) = code {
            response.headers_mut().extend(trailers(code, text));
        }
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        // The client went away in the meantime: then nobody misses the answer.
        let _ = respond.send_response(response, true);
        return;
    }
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    // Clients wait for the head before anything else.
    let Ok(send) = respond.send_response(response, false) else { return };
    // Boxed, so that it costs nothing once the connection is relayed.
    let call = Box::pin(call::serve(Arc::clone(frontend), listener, send, request.into_body()));
    frontend.drain.spawn_connection("call", async move {
        if let Some(carried) = call.await {
            carried.run().await;
        }
    });
}

/// Only one method is served.
fn check(request: &Request<RecvStream>) -> Option<(StatusCode, Option<Code>, &'static str)> {
    let content = request.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if request.method() != Method::POST {
        return Some((
            StatusCode::METHOD_NOT_ALLOWED,
            None,
            "this frontend serves gRPC and HTTP/1.1 CONNECT",
        ));
    }
    if !content.starts_with(b"application/grpc") {
        return Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, None, "not a gRPC request"));
    }
    if request.uri().path() != PROXY_PATH {
        return Some((StatusCode::OK, Some(Code::Unimplemented), "unknown method"));
    }
    None
}

/// What ends a call. `text` is plain ASCII.
fn trailers(code: Code, text: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(2);
    trailers.insert("grpc-status", HeaderValue::from(code as u16));
    if !text.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_static(text));
    }
    trailers
}
