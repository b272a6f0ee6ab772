//! Frontends, spoken to without a client library.

use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tunnel_proto::packet::PROXY_PATH;

use crate::grpc::Call;
use crate::parts::Server;
use crate::pki::{Pki, Who};
use crate::task::{Task, spawn};
use crate::wait::within;

/// The first bytes of HTTP/2, with the empty SETTINGS behind them.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A socket of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

/// The two listeners for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listener {
    /// The Unix socket.
    Unix,
    /// TCP with mutual TLS.
    Tcp,
}

impl Listener {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Unix, Self::Tcp];

    /// A socket to the listener, with the TLS of an admitted client.
    pub async fn open(self, server: &Server, pki: &Pki) -> Box<dyn Io> {
        match self {
            Self::Unix => Box::new(UnixStream::connect(&server.unix).await.unwrap()),
            Self::Tcp => Box::new(tls(server, Arc::new(pki.client(Who::Client))).await.unwrap()),
        }
    }
}

/// TLS to the TCP frontend.
///
/// # Errors
/// When the handshake fails; with TLS 1.3 a refused client learns of it only
/// when it reads.
pub async fn tls(
    server: &Server,
    config: Arc<ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(server.tcp).await?;
    TlsConnector::from(config).connect(ServerName::try_from("localhost").unwrap(), tcp).await
}

/// The bytes up to the peer's end, orderly or not.
pub async fn read_to_any_end(from: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    // A reset is an end as well.
    let _ = within("the end of a connection", from.read_to_end(&mut all)).await;
    all
}

/// An HTTP/2 connection to a frontend.
#[derive(Debug)]
pub struct Channel {
    requests: SendRequest<Bytes>,
    driver: Task,
}

impl Channel {
    /// Speaks HTTP/2 on a socket.
    pub async fn over(io: Box<dyn Io>) -> Self {
        let (requests, connection) = h2::client::handshake(io).await.unwrap();
        let driver = spawn(async move {
            // The calls show how the connection ends.
            let _ = connection.await;
        });
        Self { requests, driver }
    }

    /// The answer to a request without a body.
    pub async fn request(&self, method: Method, path: &str, content_type: &str) -> Response<RecvStream> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://localhost{path}"))
            .header("content-type", content_type)
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        within("a response", response).await.unwrap()
    }

    /// A call of the method that dials.
    pub async fn call(&self) -> Call {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://localhost{PROXY_PATH}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (response, send) = requests.send_request(request, false).unwrap();
        let body = within("a response", response).await.unwrap().into_body();
        Call::new(send, body)
    }

    /// Whether the whole connection has ended.
    pub fn has_ended(&self) -> bool {
        self.driver.is_finished()
    }
}
