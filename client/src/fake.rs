//! A frontend inside the process, for tests: it connects to the target itself
//! and relays, over one protocol, with a [`Fault`] if one is wanted.
//!
//! It is there to test clients and the load generator's checks, so it is
//! simple rather than fast, believes its client, and ends with its value.

mod grpc;
mod http;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::Protocol;

/// How long the first bytes of a target are held for a client that does not
/// speak, so that they do not arrive together with the answer.
const HOLD: Duration = Duration::from_millis(50);

/// What a fake frontend does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Changes the first byte that a target sends.
    Corrupt,
    /// Sends this together with the answer to the dial.
    Early(&'static [u8]),
    /// gRPC: sends its data under the id of another connection.
    Foreign,
    /// Loses the last byte that a target sends.
    LoseLast,
    /// Refuses every dial with these words.
    Refuse(&'static str),
    /// Never answers a dial.
    Silent,
}

/// A running fake frontend; it and its connections end when it is dropped.
#[derive(Debug)]
pub struct Fake {
    _accepting: JoinSet<()>,
}

impl Fake {
    /// On a Unix socket at `path`.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn unix(path: &Path, protocol: Protocol, fault: Fault) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(async move { serve(socket, protocol, fault).await });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { _accepting: accepting })
    }

    /// On TCP with TLS, on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn tls(
        config: rustls::ServerConfig,
        protocol: Protocol,
        fault: Fault,
    ) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let handshake = acceptor.accept(socket);
                connections.spawn(async move {
                    if let Ok(socket) = handshake.await {
                        Box::pin(serve(socket, protocol, fault)).await;
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok((Self { _accepting: accepting }, address))
    }
}

/// Serves one client; whatever fails ends its connection.
async fn serve<S>(socket: S, protocol: Protocol, fault: Fault)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = match protocol {
        Protocol::Connect => http::serve(socket, fault).await,
        Protocol::Grpc => grpc::serve(socket, fault).await,
    };
}

/// The sending half of a target, seen through a [`Fault`].
struct Source {
    target: OwnedReadHalf,
    fault: Fault,
    /// The last byte read so far, while the fault is to lose it.
    held: Option<u8>,
    started: bool,
    /// Told once the client has said something.
    spoken: Arc<Notify>,
}

impl Source {
    fn new(target: OwnedReadHalf, fault: Fault) -> Self {
        Self { target, fault, held: None, started: false, spoken: Arc::default() }
    }

    /// What the target sends next; empty at its end.
    async fn next(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let mut bytes = Vec::with_capacity(16 * 1024);
            bytes.extend(self.held.take());
            if self.target.read_buf(&mut bytes).await? == 0 {
                return Ok(Vec::new());
            }
            if self.fault == Fault::Corrupt && !self.started {
                bytes[0] ^= 0x20;
            }
            if !self.started {
                let _ = timeout(HOLD, self.spoken.notified()).await;
            }
            self.started = true;
            if self.fault == Fault::LoseLast {
                self.held = bytes.pop();
            }
            if !bytes.is_empty() {
                return Ok(bytes);
            }
        }
    }
}
