//! CONNECT (RFC 9110 section 9.3.6), from the client's side.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};
use tunnel::listen::tune_link;

use super::{Proxy, ProxyError};

/// Longest head of an answer, in bytes. Proxies send a few hundred.
const MAX_HEAD: usize = 8 * 1024;

/// Most header fields of an answer.
const MAX_FIELDS: usize = 64;

/// Longest reason of a refusal that is told on.
const MAX_REASON: usize = 100;

/// Connects to `server` (`host:port`) through a proxy. The caller ends it at
/// the deadline, which is here only to be shared among the proxy's addresses.
pub(super) async fn through(proxy: &Proxy, server: &str, deadline: Instant) -> Result<TcpStream, ProxyError> {
    let lost = |why: String| ProxyError::Lost { proxy: proxy.to_string(), why };
    let mut socket = reach(proxy, deadline).await?;
    tune_link(&socket);
    let request = request(proxy, server);
    socket.write_all(request.as_bytes()).await.map_err(|error| lost(error.to_string()))?;
    let mut head = Vec::with_capacity(1024);
    loop {
        if let Some(answer) = Answer::parse(&head).map_err(|why| bad(proxy, why))? {
            return accepted(proxy, server, answer, head.len()).map(|()| socket);
        }
        if head.len() >= MAX_HEAD {
            return Err(bad(proxy, "its answer is too long"));
        }
        let room = (MAX_HEAD - head.len()) as u64;
        let read = (&mut socket).take(room).read_buf(&mut head).await;
        if read.map_err(|error| lost(error.to_string()))? == 0 {
            return Err(lost("it closed the connection before it answered".to_owned()));
        }
    }
}

/// Tries the proxy's addresses, each with its share of the time that is left.
async fn reach(proxy: &Proxy, deadline: Instant) -> Result<TcpStream, ProxyError> {
    let lost = |why: String| ProxyError::Lost { proxy: proxy.to_string(), why };
    let found = lookup_host((proxy.host.as_str(), proxy.port)).await;
    let addrs: Vec<SocketAddr> =
        found.map_err(|error| lost(format!("lookup {}: {error}", proxy.host)))?.collect();
    let mut last = io::Error::other("it has no address");
    for (done, addr) in addrs.iter().enumerate() {
        let left = u32::try_from(addrs.len() - done).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match timeout(share, TcpStream::connect(addr)).await {
            Ok(Ok(socket)) => return Ok(socket),
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(lost(last.to_string()))
}

fn request(proxy: &Proxy, server: &str) -> String {
    let mut text = format!(
        "CONNECT {server} HTTP/1.1\r\nHost: {server}\r\nUser-Agent: tunnel-agent/{}\r\n",
        env!("CARGO_PKG_VERSION")
    );
    if let Some(authorization) = &proxy.authorization {
        text.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
    }
    text.push_str("\r\n");
    text
}

/// The head of a proxy's answer.
struct Answer {
    status: u16,
    reason: String,
    /// Bytes of the head.
    length: usize,
}

impl Answer {
    /// `None` while there is more to come.
    fn parse(head: &[u8]) -> Result<Option<Self>, &'static str> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut answer = httparse::Response::new(&mut fields);
        match answer.parse(head) {
            Ok(httparse::Status::Complete(length)) => {
                let reason = answer.reason.unwrap_or_default();
                let reason = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
                Ok(Some(Self { status: answer.code.unwrap_or_default(), reason, length }))
            }
            Ok(httparse::Status::Partial) => Ok(None),
            Err(_) => Err("its answer is not HTTP"),
        }
    }
}

fn accepted(proxy: &Proxy, server: &str, answer: Answer, received: usize) -> Result<(), ProxyError> {
    match answer.status {
        // In TLS the client speaks first.
        200..=299 if received > answer.length => Err(bad(proxy, "it sent something before it was spoken to")),
        200..=299 => Ok(()),
        status => Err(ProxyError::Refused {
            proxy: proxy.to_string(),
            server: server.to_owned(),
            status,
            reason: answer.reason,
        }),
    }
}

fn bad(proxy: &Proxy, why: &'static str) -> ProxyError {
    ProxyError::Answer { proxy: proxy.to_string(), why }
}
