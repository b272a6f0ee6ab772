//! A stock agent whose every packet is scripted.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tunnel_proto::packet::Packet;

use super::CONNECT_PATH;
use crate::grpc::{Call, status};
use crate::pki::{Pki, Who};
use crate::task::{Task, spawn};
use crate::wait::within;

/// Time between two looks whether the server has said GOAWAY.
const LOOK: Duration = Duration::from_millis(10);

/// The metadata of an agent's call.
#[derive(Debug, Clone)]
pub struct Metadata(HeaderMap);

impl Metadata {
    /// An agent of this id without identifiers; the real one sends the empty field too.
    pub fn of(id: &str) -> Self {
        Self::empty().and("agentid", id).and("agentidentifiers", "")
    }

    /// No fields.
    pub fn empty() -> Self {
        Self(HeaderMap::new())
    }

    /// Sets the identifiers.
    #[must_use]
    pub fn identifiers(mut self, identifiers: &str) -> Self {
        self.0.insert("agentidentifiers", HeaderValue::from_str(identifiers).unwrap());
        self
    }

    /// Adds a field, even if one of that name exists.
    #[must_use]
    pub fn and(mut self, name: &'static str, value: &str) -> Self {
        self.0.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }
}

/// How a server refuses an agent.
#[derive(Debug)]
pub enum NotServed {
    /// The connection ends before HTTP/2 with that ALPN is agreed.
    Connection(io::Error),
    /// The call ends without an answer.
    Cut(h2::Error),
    /// It answers with a status of gRPC.
    Status(u16, String),
}

/// An admitted agent.
#[derive(Debug)]
pub struct StockAgent {
    /// The server's id, as the server announces it.
    pub server_id: String,
    /// The number of servers, as the server announces it.
    pub server_count: String,
    /// The packets.
    pub call: Call,
    connection: Connection,
}

/// The connection under an agent's call.
#[derive(Debug)]
pub(super) struct Connection {
    requests: SendRequest<Bytes>,
    pings: PingPong,
    driver: Task<Result<(), h2::Error>>,
}

impl Connection {
    /// Whether the server has sent GOAWAY or cut the connection.
    pub(super) async fn is_over(&self) -> bool {
        self.driver.is_finished() || self.requests.clone().ready().await.is_err()
    }
}

impl StockAgent {
    /// Connects as an agent with the right certificate.
    pub async fn join(server: SocketAddr, pki: &Pki, metadata: Metadata) -> Self {
        let tls = alpn(pki, Who::Agent, &["h2"]);
        let joined = Box::pin(Self::connect(server, tls, metadata)).await;
        joined.unwrap_or_else(|error| panic!("a stock agent is not served: {error:?}"))
    }

    /// Connects and makes the call.
    ///
    /// # Errors
    /// When the server does not serve it.
    pub async fn connect(
        server: SocketAddr,
        tls: Arc<ClientConfig>,
        metadata: Metadata,
    ) -> Result<Self, NotServed> {
        let connecting = Box::pin(Self::connect_without_limit(server, tls, metadata));
        within("a stock agent's connection", connecting).await
    }

    async fn connect_without_limit(
        server: SocketAddr,
        tls: Arc<ClientConfig>,
        Metadata(metadata): Metadata,
    ) -> Result<Self, NotServed> {
        let (mut requests, mut connection) = Box::pin(open(server, tls)).await?;
        let pings = connection.ping_pong().ok_or_else(|| io::Error::other("no pings"));
        let pings = pings.map_err(NotServed::Connection)?;
        let driver = spawn(connection);
        let (response, send) =
            requests.send_request(request(server, metadata), false).map_err(NotServed::Cut)?;
        let response = response.await.map_err(NotServed::Cut)?;
        let (server_id, server_count) = welcome(&response)?;
        let call = Call::new(send, response.into_body());
        Ok(Self { server_id, server_count, call, connection: Connection { requests, pings, driver } })
    }

    /// The number of calls that the server allows on the connection.
    pub fn allowed_calls(&self) -> usize {
        self.connection.requests.current_max_send_streams()
    }

    /// The packets and the connection, apart.
    pub(super) fn apart(self) -> (Call, Connection) {
        (self.call, self.connection)
    }

    /// The next packet, which has to be a dial: its target and number.
    pub async fn dialed(&mut self) -> (String, i64) {
        match self.call.next().await {
            Some(Packet::DialRequest { protocol, address, random }) => {
                assert_eq!(protocol, "tcp");
                (address, random)
            }
            other => panic!("{other:?} instead of a dial"),
        }
    }

    /// Waits for a dial of `target` and answers it with a connection.
    pub async fn connects(&mut self, target: &str, connect_id: i64) {
        let (address, random) = self.dialed().await;
        assert_eq!(address, target);
        self.answer(random, connect_id).await;
    }

    /// Answers a dial with this connection.
    pub async fn answer(&mut self, random: i64, connect_id: i64) {
        self.call.packet(&Packet::DialResponse { error: String::new(), connect_id, random }).await;
    }

    /// Answers a dial with an error.
    pub async fn refuse(&mut self, random: i64, error: &str) {
        self.call.packet(&Packet::DialResponse { error: error.into(), connect_id: 0, random }).await;
    }

    /// Sends data of a connection.
    pub async fn data(&mut self, connect_id: i64, data: &[u8]) {
        self.call.packet(&Packet::Data { connect_id, data: Bytes::copy_from_slice(data) }).await;
    }

    /// Announces that a connection has closed.
    pub async fn closed(&mut self, connect_id: i64) {
        self.call.packet(&Packet::CloseResponse { error: String::new(), connect_id }).await;
    }

    /// Reads so many bytes of a connection; fails on any other packet.
    pub async fn read(&mut self, connect_id: i64, len: usize) -> Vec<u8> {
        read_data(&mut self.call, connect_id, len).await
    }

    /// Sends bytes as they are. A server that ends the tunnel takes no more.
    pub async fn send_until_told_to_go(&mut self, bytes: &[u8]) {
        let Self { call, connection, .. } = self;
        let told = async {
            while !connection.is_over().await {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = call.send(Bytes::copy_from_slice(bytes)) => {}
            () = told => {}
        }
    }

    /// A ping and its answer, without the half minute that should be between two.
    ///
    /// # Errors
    /// When the server has hung up.
    pub async fn ping(&mut self) -> Result<(), h2::Error> {
        self.connection.pings.ping(Ping::opaque()).await.map(drop)
    }

    /// Whether the server has said GOAWAY or cut the connection. The real
    /// agent looks every probe interval, and drops everything if so.
    pub async fn is_told_to_go(&self) -> bool {
        self.connection.is_over().await
    }
}

/// A connection that nobody drives yet.
async fn open(
    server: SocketAddr,
    tls: Arc<ClientConfig>,
) -> Result<(SendRequest<Bytes>, client::Connection<TlsStream<TcpStream>>), NotServed> {
    let tcp = TcpStream::connect(server).await.map_err(NotServed::Connection)?;
    // Go's default. Without it a packet waits 40 ms behind the acknowledgement of the server's settings.
    tcp.set_nodelay(true).map_err(NotServed::Connection)?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let tls = TlsConnector::from(tls).connect(name, tcp).await.map_err(NotServed::Connection)?;
    // grpc-go leaves a server that has not chosen HTTP/2.
    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(NotServed::Connection(io::Error::other("the server did not choose ALPN h2")));
    }
    let (requests, connection) = client::handshake(tls).await.map_err(NotServed::Cut)?;
    Ok((requests.ready().await.map_err(NotServed::Cut)?, connection))
}

fn request(server: SocketAddr, metadata: HeaderMap) -> Request<()> {
    let mut request = Request::post(format!("https://{server}{CONNECT_PATH}"))
        .header("content-type", "application/grpc")
        .header("user-agent", "grpc-go/1.83.0")
        .header("te", "trailers")
        .body(())
        .unwrap();
    request.headers_mut().extend(metadata);
    request
}

/// Reads so many bytes of data of one connection, of which nothing else may
/// come, in packets that are as small as they have to be.
pub(super) async fn read_data(call: &mut Call, connection: i64, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < len {
        match call.next().await {
            Some(Packet::Data { connect_id, data }) if connect_id == connection => {
                assert!((1..=super::LARGEST_DATA).contains(&data.len()), "DATA of {} bytes", data.len());
                all.extend_from_slice(&data);
            }
            other => panic!("{other:?} instead of data of {connection}, after {} of {len} bytes", all.len()),
        }
    }
    all
}

/// TLS of agents, with these ALPN names.
pub fn alpn(pki: &Pki, who: Who, names: &[&str]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&pki.agent(who));
    config.alpn_protocols = names.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// The real agent insists on exactly one field of each of the two names.
fn welcome<B>(response: &Response<B>) -> Result<(String, String), NotServed> {
    let fields = response.headers();
    assert_eq!(response.status(), 200, "{fields:?}");
    assert_eq!(fields.get("content-type").map(HeaderValue::as_bytes), Some(&b"application/grpc"[..]));
    if fields.contains_key("grpc-status") {
        let (code, text) = status(fields);
        return Err(NotServed::Status(code, text));
    }
    let only = |name| {
        let values: Vec<_> = fields.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0].to_str().unwrap().to_owned()
    };
    Ok((only("serverid"), only("servercount")))
}
