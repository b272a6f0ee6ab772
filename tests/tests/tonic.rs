//! tonic, a gRPC library that is not ours, as a client on the Unix socket.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::pin::Pin;
use std::task::{Context, Poll};

use prost::Message;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tunnel::transport::Link;
use tunnel_proto::packet::PROXY_PATH;
use tunnel_tests::{Cluster, Target, node, payload, within};

/// Konnectivity's packet, with the fields needed here. One-of members are plain
/// optional fields on the wire.
#[derive(Clone, PartialEq, Message)]
struct Packet {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    dial_request: Option<DialRequest>,
    #[prost(message, optional, tag = "3")]
    dial_response: Option<DialResponse>,
    #[prost(message, optional, tag = "4")]
    data: Option<Data>,
    #[prost(message, optional, tag = "5")]
    close_request: Option<CloseRequest>,
    #[prost(message, optional, tag = "6")]
    close_response: Option<CloseResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct DialRequest {
    #[prost(string, tag = "1")]
    protocol: String,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(int64, tag = "3")]
    random: i64,
}

#[derive(Clone, PartialEq, Message)]
struct DialResponse {
    #[prost(string, tag = "1")]
    error: String,
    #[prost(int64, tag = "2")]
    connect_id: i64,
    #[prost(int64, tag = "3")]
    random: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Data {
    #[prost(int64, tag = "1")]
    connect_id: i64,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct CloseRequest {
    #[prost(int64, tag = "1")]
    connect_id: i64,
}

#[derive(Clone, PartialEq, Message)]
struct CloseResponse {
    #[prost(string, tag = "1")]
    error: String,
    #[prost(int64, tag = "2")]
    connect_id: i64,
}

const DIAL_REQ: i32 = 0;
const DIAL_RSP: i32 = 1;
const CLOSE_REQ: i32 = 2;
const CLOSE_RSP: i32 = 3;
const DATA: i32 = 4;

/// The sending side of a call.
struct Outgoing(mpsc::Receiver<Packet>);

impl Stream for Outgoing {
    type Item = Packet;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        self.0.poll_recv(cx)
    }
}

/// A call of the method under a path.
async fn call(
    channel: &Channel,
    path: &'static str,
) -> Result<(mpsc::Sender<Packet>, Streaming<Packet>), Status> {
    let (say, outgoing) = mpsc::channel(4);
    let mut grpc = Grpc::new(channel.clone());
    within("a channel", grpc.ready()).await.unwrap();
    let request = Request::new(Outgoing(outgoing));
    let codec = ProstCodec::<Packet, Packet>::default();
    let called = grpc.streaming(request, PathAndQuery::from_static(path), codec);
    Ok((say, within("the head of a response", called).await?.into_inner()))
}

async fn channel(cluster: &Cluster) -> Channel {
    let endpoint = Endpoint::from_shared(format!("unix://{}", cluster.server.unix.display())).unwrap();
    within("a connection", endpoint.connect()).await.unwrap()
}

fn dial(address: &str, random: i64) -> Packet {
    let request = DialRequest { protocol: "tcp".to_owned(), address: address.to_owned(), random };
    Packet { kind: DIAL_REQ, dial_request: Some(request), ..Packet::default() }
}

async fn next(incoming: &mut Streaming<Packet>) -> Option<Packet> {
    within("a packet", incoming.message()).await.unwrap()
}

/// tonic turns status 0 in the trailers into an end without an error, and keeps the
/// trailers.
async fn assert_ends_well(incoming: &mut Streaming<Packet>) {
    assert_eq!(next(incoming).await, None);
    let trailers = within("trailers", incoming.trailers()).await.unwrap();
    assert!(trailers.is_some(), "the call ended without trailers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_dials_sends_receives_and_closes() {
    let cluster = Cluster::on_both_links().await;
    let channel = channel(&cluster).await;
    for link in tunnel_tests::LINKS {
        let echo = Target::echo(node(link)).await;
        let (say, mut incoming) = call(&channel, PROXY_PATH).await.unwrap();
        say.send(dial(&echo.to_string(), 4711)).await.unwrap();
        let answer = next(&mut incoming).await.unwrap();
        assert_eq!(answer.kind, DIAL_RSP);
        let answer = answer.dial_response.unwrap();
        assert_eq!((answer.error.as_str(), answer.random), ("", 4711));
        assert!(answer.connect_id > 0);

        let connect_id = answer.connect_id;
        let sent = payload::bytes(1, 1 << 20);
        let sending = async {
            for chunk in sent.chunks(50_000) {
                let data = Some(Data { connect_id, data: chunk.to_vec() });
                say.send(Packet { kind: DATA, data, ..Packet::default() }).await.unwrap();
            }
        };
        let mut back = Vec::new();
        let receiving = async {
            while back.len() < sent.len() {
                let packet = next(&mut incoming).await.unwrap();
                let data = packet.data.unwrap();
                assert_eq!((packet.kind, data.connect_id), (DATA, connect_id));
                back.extend_from_slice(&data.data);
            }
        };
        tokio::join!(sending, receiving);
        payload::assert_is(&back, 1, sent.len());

        let close_request = Some(CloseRequest { connect_id });
        say.send(Packet { kind: CLOSE_REQ, close_request, ..Packet::default() }).await.unwrap();
        let closed = next(&mut incoming).await.unwrap();
        assert_eq!(closed.kind, CLOSE_RSP);
        assert_eq!(closed.close_response, Some(CloseResponse { error: String::new(), connect_id }));
        assert_ends_well(&mut incoming).await;
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_sees_the_end_of_the_target() {
    let cluster = Cluster::on(Link::H2).await;
    let target = Target::new(node(Link::H2), async |mut socket| {
        tokio::io::AsyncWriteExt::write_all(&mut socket, b"bye").await
    })
    .await;
    let (say, mut incoming) = call(&channel(&cluster).await, PROXY_PATH).await.unwrap();
    say.send(dial(&target.to_string(), 1)).await.unwrap();
    let connect_id = next(&mut incoming).await.unwrap().dial_response.unwrap().connect_id;
    assert_eq!(next(&mut incoming).await.unwrap().data, Some(Data { connect_id, data: b"bye".to_vec() }));
    let closed = next(&mut incoming).await.unwrap().close_response;
    assert_eq!(closed, Some(CloseResponse { error: String::new(), connect_id }));
    assert_ends_well(&mut incoming).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_reads_a_refusal() {
    let cluster = Cluster::on(Link::Quic).await;
    let nobody = Target::nobody(node(Link::Quic));
    let (say, mut incoming) = call(&channel(&cluster).await, PROXY_PATH).await.unwrap();
    say.send(dial(&nobody.to_string(), -1)).await.unwrap();
    let answer = next(&mut incoming).await.unwrap().dial_response.unwrap();
    assert_eq!(answer.error, format!("dial tcp {nobody}: connect: connection refused"));
    assert_eq!((answer.connect_id, answer.random), (0, -1));
    assert_ends_well(&mut incoming).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_reads_the_status_of_what_is_not_served() {
    let cluster = Cluster::builder().start().await;
    let channel = channel(&cluster).await;
    for path in ["/ProxyService/Nothing", "/AgentService/Connect", "/"] {
        let status = match call(&channel, path).await {
            Err(status) => status,
            Ok((_say, mut incoming)) => within("a status", incoming.message()).await.unwrap_err(),
        };
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, "unknown method"), "{path}");
    }
    // A packet of a kind that only agents send.
    let (say, mut incoming) = call(&channel, PROXY_PATH).await.unwrap();
    say.send(Packet { kind: CLOSE_RSP, close_response: Some(CloseResponse::default()), ..Packet::default() })
        .await
        .unwrap();
    let status = within("a status", incoming.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    cluster.finish().await;
}
