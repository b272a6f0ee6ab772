//! A stock server whose every packet is scripted.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Connection, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tunnel_proto::packet::Packet;

use super::CONNECT_PATH;
use super::agent::read_data;
use super::keepalive::{Pings, Watched};
use crate::grpc::Call;
use crate::pki::Pki;
use crate::task::{Task, spawn};
use crate::wait::within;

/// Calls that wait for a test.
const CALLS: usize = 64;

/// How a stock server treats agents.
#[derive(Debug, Clone)]
pub struct Manners {
    /// The server's id.
    pub id: String,
    /// The announced number of servers.
    pub count: String,
    /// Whether it hangs up on peers without ALPN, as grpc-go 1.67 and later does.
    pub wants_alpn: bool,
    /// Ends each call with this status instead of serving it.
    pub refuses: Option<(u16, &'static str)>,
    /// Never answers a call.
    pub is_mute: bool,
}

impl Manners {
    /// The manners of a single server with this id.
    pub fn of(id: &str) -> Self {
        let (id, count) = (id.to_owned(), "1".to_owned());
        Self { id, count, wants_alpn: true, refuses: None, is_mute: false }
    }
}

/// A server for agents. Dropping it cuts its connections.
#[derive(Debug)]
pub struct StockServer {
    /// Where agents connect.
    pub addr: SocketAddr,
    calls: mpsc::Receiver<AgentCall>,
    accepted: watch::Receiver<u64>,
    _task: Task,
}

/// The call of an agent.
#[derive(Debug)]
pub struct AgentCall {
    /// All fields of the request, but for the ones of HTTP/2.
    pub fields: HeaderMap,
    /// The packets.
    pub call: Call,
    pings: Arc<Pings>,
    order: mpsc::Sender<Order>,
}

/// A test's command to a connection.
#[derive(Debug)]
enum Order {
    Cut,
    GoAway,
}

impl StockServer {
    /// Listens on any port.
    pub async fn start(pki: &Pki, manners: Manners) -> Self {
        Self::on(pki, manners, 0).await
    }

    /// Listens on a port, such as that of an earlier server.
    pub async fn on(pki: &Pki, manners: Manners, port: u16) -> Self {
        let listener = crate::wait::wait_for("the port of a stock server", async || {
            TcpListener::bind(("127.0.0.1", port)).await.map_err(|error| error.to_string())
        })
        .await;
        let addr = listener.local_addr().unwrap();
        let (ready, calls) = mpsc::channel(CALLS);
        let (count, accepted) = watch::channel(0);
        let tls = TlsAcceptor::from(tls(pki));
        let task = spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                count.send_modify(|count| *count += 1);
                connections.spawn(serve(tcp, tls.clone(), manners.clone(), ready.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { addr, calls, accepted, _task: task }
    }

    /// The next call of an agent.
    pub async fn agent(&mut self) -> AgentCall {
        within("an agent's call", self.calls.recv()).await.unwrap()
    }

    /// Connections so far, failed ones included.
    pub fn accepted(&self) -> u64 {
        *self.accepted.borrow()
    }
}

impl AgentCall {
    /// The only field of a name.
    pub fn field(&self, name: &str) -> String {
        let values: Vec<_> = self.fields.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        values[0].to_str().unwrap().to_owned()
    }

    /// Asks for a connection.
    pub async fn ask(&mut self, target: &str, random: i64) {
        let request = Packet::DialRequest { protocol: "tcp".into(), address: target.into(), random };
        self.call.packet(&request).await;
    }

    /// Dials a target; panics on failure. Returns the connection's id.
    pub async fn dial(&mut self, target: &str, number: i64) -> i64 {
        self.ask(target, number).await;
        match self.call.next().await {
            Some(Packet::DialResponse { error, connect_id, random }) if error.is_empty() => {
                assert_eq!(random, number);
                connect_id
            }
            other => panic!("{other:?} instead of a connection to {target}"),
        }
    }

    /// Sends data of a connection.
    pub async fn data(&mut self, connect_id: i64, data: &[u8]) {
        self.call.packet(&Packet::Data { connect_id, data: Bytes::copy_from_slice(data) }).await;
    }

    /// Asks for the end of a connection.
    pub async fn close(&mut self, connect_id: i64) {
        self.call.packet(&Packet::CloseRequest { connect_id }).await;
    }

    /// Fails unless the next packet closes this connection.
    pub async fn expect_closed(&mut self, connect_id: i64, error: &str) {
        self.call.expect(Packet::CloseResponse { error: error.to_owned(), connect_id }).await;
    }

    /// Reads so many bytes of a connection; fails on any other packet.
    pub async fn read(&mut self, connect_id: i64, len: usize) -> Vec<u8> {
        read_data(&mut self.call, connect_id, len).await
    }

    /// Cuts the agent's connection.
    pub async fn cut(&self) {
        let _ = self.order.send(Order::Cut).await;
    }

    /// Sends GOAWAY, as a server in an orderly shutdown does.
    pub async fn go_away(&self) {
        let _ = self.order.send(Order::GoAway).await;
    }

    /// Pings of the agent so far. More than three within half a minute end
    /// the connection.
    pub fn pings(&self) -> u32 {
        self.pings.received()
    }
}

/// Agents need a certificate; no name but gRPC's is known.
fn tls(pki: &Pki) -> Arc<ServerConfig> {
    let mut config = ServerConfig::clone(&pki.agent_listener());
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// One connection of an agent, until it ends or the server does.
async fn serve(tcp: TcpStream, tls: TlsAcceptor, manners: Manners, ready: mpsc::Sender<AgentCall>) {
    // An agent without the right TLS sees the failure itself.
    let Ok(tls) = tls.accept(tcp).await else { return };
    if manners.wants_alpn && tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        return;
    }
    let pings = Arc::new(Pings::default());
    let socket = Watched::new(tls, Arc::clone(&pings));
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    let (order, mut orders) = mpsc::channel(1);
    // Calls that are not to be answered are kept, or they would be reset.
    let mut kept = Vec::new();
    loop {
        tokio::select! {
            biased;
            ordered = orders.recv() => match ordered {
                Some(Order::Cut) | None => return,
                Some(Order::GoAway) => connection.graceful_shutdown(),
            },
            () = pings.too_many.notified() => return Box::pin(too_many_pings(connection)).await,
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                match answer(request, respond, &manners) {
                    Answered::Served(fields, call) => {
                        let call = AgentCall { fields, call, pings: Arc::clone(&pings), order: order.clone() };
                        if ready.send(call).await.is_err() {
                            return;
                        }
                    }
                    Answered::Not => {}
                    Answered::Never(respond) => kept.push(respond),
                }
            }
        }
    }
}

/// The treatment of a call.
enum Answered {
    Served(HeaderMap, Call),
    Not,
    Never(SendResponse<Bytes>),
}

fn answer(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, manners: &Manners) -> Answered {
    if manners.is_mute {
        return Answered::Never(respond);
    }
    let (head, body) = request.into_parts();
    let content_type = head.headers.get("content-type").map(HeaderValue::as_bytes);
    let refusal = if content_type.is_none_or(|value| !value.starts_with(b"application/grpc")) {
        Some(Response::builder().status(415))
    } else if head.uri.path() != CONNECT_PATH || head.method != http::Method::POST {
        let text = format!("unknown service or method {}", head.uri.path());
        Some(Response::builder().header("grpc-status", 12).header("grpc-message", text))
    } else {
        let (code, text) = manners.refuses.unzip();
        code.map(|code| Response::builder().header("grpc-status", code).header("grpc-message", text.unwrap()))
    };
    if let Some(refusal) = refusal {
        let refusal = refusal.header("content-type", "application/grpc").body(()).unwrap();
        let _ = respond.send_response(refusal, true);
        return Answered::Not;
    }
    let welcome = Response::builder()
        .header("content-type", "application/grpc")
        .header("serverid", &manners.id)
        .header("servercount", &manners.count)
        .body(())
        .unwrap();
    match respond.send_response(welcome, false) {
        Ok(send) => Answered::Served(head.headers, Call::new(send, body)),
        Err(_) => Answered::Not,
    }
}

/// Ends the agent's streams and tells it why.
async fn too_many_pings(mut connection: Connection<Watched<TlsStream<TcpStream>>, Bytes>) {
    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    while connection.accept().await.is_some() {}
}
