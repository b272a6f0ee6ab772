//! A frontend inside the process, for tests of clients and of the load
//! generator's checks: it connects to the target itself and relays over one
//! protocol, with a [`Fault`] on demand. It is simple rather than fast and trusts
//! its client.

mod fault;
mod grpc;
mod http;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::options::Protocol;
pub use fault::Fault;

/// A running fake frontend. A drop ends it and its connections.
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

/// Serves one client; any error ends its connection.
async fn serve<S>(socket: S, protocol: Protocol, fault: Fault)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let _ = match protocol {
        Protocol::Connect => http::serve(socket, fault).await,
        Protocol::Grpc => grpc::serve(socket, fault).await,
    };
}
