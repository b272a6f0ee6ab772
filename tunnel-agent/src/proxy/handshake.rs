//! CONNECT (RFC 9110 section 9.3.6), from the client's side.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;
use tunnel::listen::tune_link;

use super::{Proxy, ProxyError};
use crate::dial::connect_any;

/// Longest head of a response, in bytes. Proxies send a few hundred.
const MAX_HEAD: usize = 8 * 1024;

/// Most header fields of a response. Proxies send fewer than ten.
const MAX_FIELDS: usize = 64;

/// Longest reason of a refusal in the error, in characters, so that it fits a log line.
const MAX_REASON: usize = 100;

/// Connects to `server` (`host:port`) through a proxy. The proxy's addresses share the time
/// until `deadline`, at which the caller drops this. Cancel safe.
pub(super) async fn through(proxy: &Proxy, server: &str, deadline: Instant) -> Result<TcpStream, ProxyError> {
    let mut socket = reach(proxy, deadline).await?;
    tune_link(&socket);
    let request = request(proxy, server);
    socket.write_all(request.as_bytes()).await.map_err(|error| proxy.failed(error))?;
    let mut received = Vec::with_capacity(1024);
    while !is_connected(proxy, server, &received)? {
        let room = (MAX_HEAD - received.len()) as u64;
        let read = (&mut socket).take(room).read_buf(&mut received).await;
        if read.map_err(|error| proxy.failed(error))? == 0 {
            return Err(proxy.failed("it closed the connection before it answered"));
        }
    }
    Ok(socket)
}

async fn reach(proxy: &Proxy, deadline: Instant) -> Result<TcpStream, ProxyError> {
    let host = proxy.addr.host.as_str();
    let found = lookup_host((host, proxy.addr.port)).await;
    let addrs: Vec<SocketAddr> =
        found.map_err(|error| proxy.failed(format!("lookup {host}: {error}")))?.collect();
    match connect_any(&addrs, deadline, Duration::ZERO).await {
        Ok((socket, _)) => Ok(socket),
        Err(Some((_, error))) => Err(proxy.failed(error)),
        Err(None) => Err(proxy.failed("it has no address")),
    }
}

fn request(proxy: &Proxy, server: &str) -> String {
    let authorization = match &proxy.authorization {
        Some(value) => format!("Proxy-Authorization: {value}\r\n"),
        None => String::new(),
    };
    format!(
        "CONNECT {server} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: tunnel-agent/{}\r\n{authorization}\r\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Whether the received bytes are a response that connects; false while it is incomplete.
fn is_connected(proxy: &Proxy, server: &str, received: &[u8]) -> Result<bool, ProxyError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if received.len() < MAX_HEAD => return Ok(false),
        Ok(httparse::Status::Partial) => return Err(proxy.failed("its answer is too long")),
        Err(_) => return Err(proxy.failed("its answer is not HTTP")),
    };
    match response.code.unwrap_or_default() {
        // In TLS the client speaks first.
        200..=299 if received.len() > length => {
            Err(proxy.failed("it sent something before it was spoken to"))
        }
        200..=299 => Ok(true),
        status => {
            let reason = response.reason.unwrap_or_default().chars();
            Err(ProxyError::Refused {
                proxy: proxy.to_string(),
                server: server.to_owned(),
                status,
                reason: reason.filter(|c| !c.is_control()).take(MAX_REASON).collect(),
            })
        }
    }
}
