//! Frontends without a client library in between.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, PROXY_PATH, Packet};

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

    /// A socket to it, with the TLS of a client that is allowed in.
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

/// Reads until the peer ends, in whichever way; what came until then.
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
            // Its end shows at the calls.
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
        Call { send, body, deframer: Deframer::grpc(MAX_MESSAGE) }
    }

    /// Whether the whole connection has ended.
    pub fn has_ended(&self) -> bool {
        self.driver.is_finished()
    }
}

/// One gRPC call.
#[derive(Debug)]
pub struct Call {
    send: SendStream<Bytes>,
    body: RecvStream,
    deframer: Deframer,
}

impl Call {
    /// Sends bytes as they are.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) {
        let mut left = bytes.into();
        while !left.is_empty() {
            self.send.reserve_capacity(left.len());
            let room = match self.send.capacity() {
                0 => match within("a window", poll_fn(|cx| self.send.poll_capacity(cx))).await {
                    Some(Ok(room)) => room,
                    // The server has ended the call; what it said of it is there to read.
                    Some(Err(_)) | None => return,
                },
                room => room,
            };
            let _ = self.send.send_data(left.split_to(room.min(left.len())), false);
        }
    }

    /// Sends a packet.
    pub async fn packet(&mut self, packet: &Packet) {
        self.send(packet.encode()).await;
    }

    /// Sends a gRPC message.
    pub async fn message(&mut self, message: &[u8]) {
        let mut framed = BytesMut::from(&[0][..]);
        framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(message);
        self.send(framed).await;
    }

    /// Ends our side.
    pub fn finish(&mut self) {
        let _ = self.send.send_data(Bytes::new(), true);
    }

    /// The next packet, or `None` at the end of the call.
    pub async fn next(&mut self) -> Option<Packet> {
        loop {
            if let Some(message) = self.deframer.next().unwrap() {
                return Some(Packet::decode(message).unwrap());
            }
            let data = within("a packet", self.body.data()).await?.unwrap();
            self.body.flow_control().release_capacity(data.len()).unwrap();
            self.deframer.push(data);
        }
    }

    /// Reads to the end of the call: the packets up to it, and the status.
    pub async fn end(mut self) -> (Vec<Packet>, u16, String) {
        let mut packets = Vec::new();
        while let Some(packet) = self.next().await {
            packets.push(packet);
        }
        let trailers = within("trailers", self.body.trailers()).await.unwrap().unwrap_or_default();
        let (status, message) = status(&trailers);
        (packets, status, message)
    }

    /// Dials, and gives the id of the connection.
    pub async fn dial(&mut self, address: &str) -> i64 {
        self.packet(&Packet::DialRequest { protocol: "tcp".into(), address: address.into(), random: 7 })
            .await;
        match self.next().await {
            Some(Packet::DialResponse { error, connect_id, random: 7 }) if error.is_empty() => connect_id,
            other => panic!("{other:?} instead of a connection to {address}"),
        }
    }
}

/// What gRPC says at the end.
pub fn status(fields: &HeaderMap) -> (u16, String) {
    let text = |name| fields.get(name).map(|value| value.to_str().unwrap().to_owned());
    (text("grpc-status").unwrap().parse().unwrap(), text("grpc-message").unwrap_or_default())
}
