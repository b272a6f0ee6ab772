//! A stream of Konnectivity's packets with one connection on it, over real
//! HTTP/2 in memory. What HTTP/2 needs is in the figures.

use std::future::poll_fn;
use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{Request, Response};
use tokio::runtime::Runtime;
use tunnel::drain::Drain;
use tunnel::duplex::{Batch, Duplex as _, Flow};
use tunnel::packet_counters::PacketCounters;
use tunnel::packets::{Counters, Halves, Limits, Member, Mux, Role};
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, Packet};

/// Windows and buffers that one packet never fills.
const WINDOW: u32 = 8 << 20;

const CONNECTION: i64 = 1000;

/// One connection, driven from both sides.
#[derive(Debug)]
pub struct PacketStream {
    runtime: Runtime,
    member: Member,
    peer: Peer,
    /// The bytes that a packet carries.
    data: Bytes,
    /// The same as a packet of the peer.
    packet: Bytes,
    batch: Batch,
    _mux: Mux,
    _drain: Drain,
}

#[derive(Debug)]
struct Peer {
    send: SendStream<Bytes>,
    body: RecvStream,
    deframer: Deframer,
}

impl PacketStream {
    /// A stream that has carried packets of `bytes` bytes both ways.
    pub fn warm(bytes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let drain = Drain::new();
        let (mux, member, peer) = runtime.block_on(dialled(&drain));
        let data = Bytes::from(vec![7; bytes]);
        let packet = Packet::Data { connect_id: CONNECTION, data: data.clone() }.encode();
        let batch = Batch::default();
        let mut stream = Self { runtime, member, peer, data, packet, batch, _mux: mux, _drain: drain };
        stream.receive(64);
        stream.send(64);
        stream
    }

    /// So many packets of the peer, one after the other, until the connection
    /// has them.
    pub fn receive(&mut self, packets: usize) {
        let Self { runtime, member, peer, packet, data, batch, .. } = self;
        runtime.block_on(async {
            for _ in 0..packets {
                peer.send.send_data(packet.clone(), false).unwrap();
                while batch.len() < data.len() {
                    let flow = poll_fn(|cx| member.poll_recv(cx, batch)).await;
                    assert_eq!(flow, Ok(Flow::More));
                }
                assert_eq!(batch.clear(), data.len());
            }
        });
    }

    /// So many packets of the connection, one after the other, until the peer
    /// has read them.
    pub fn send(&mut self, packets: usize) {
        let Self { runtime, member, peer, data, batch, .. } = self;
        runtime.block_on(async {
            for _ in 0..packets {
                batch.push(data.clone());
                poll_fn(|cx| member.poll_send(cx, batch)).await.unwrap();
                let Packet::Data { data: heard, .. } = peer.hear().await else { panic!("no data") };
                assert_eq!(heard.len(), data.len());
                black_box(heard);
            }
        });
    }
}

impl Peer {
    async fn hear(&mut self) -> Packet {
        loop {
            if let Some(message) = self.deframer.next().unwrap() {
                return Packet::decode(message).unwrap();
            }
            let data = self.body.data().await.unwrap().unwrap();
            self.body.flow_control().release_capacity(data.len()).unwrap();
            self.deframer.push(data);
        }
    }
}

/// Client and server in memory, and a connection that the client dials.
async fn dialled(drain: &Drain) -> (Mux, Member, Peer) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let serving = async {
        let mut connection = server::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake::<_, Bytes>(near)
            .await
            .unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let send = respond.send_response(Response::new(()), false).unwrap();
        drain.spawn("server", async move { while connection.accept().await.is_some() {} });
        Peer { send, body: request.into_body(), deframer: Deframer::grpc(MAX_MESSAGE) }
    };
    let calling = async {
        let (requests, connection) = client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake::<_, Bytes>(far)
            .await
            .unwrap();
        drain.spawn("client", async move { drop(connection.await) });
        let request = Request::post("https://server/call").body(()).unwrap();
        let (response, send) = requests.ready().await.unwrap().send_request(request, false).unwrap();
        Halves { send, body: response.await.unwrap().into_body(), called: false, counters: counters() }
    };
    let (mut peer, halves) = tokio::join!(serving, calling);
    let limits = Limits { connection: 1 << 20, stream: 4 << 20 };
    let (mux, _) = Mux::start(halves, Role::Dialer, limits, drain);
    let answer = async {
        let Packet::DialRequest { random, .. } = peer.hear().await else { panic!("no dial") };
        let answer = Packet::DialResponse { error: String::new(), connect_id: CONNECTION, random };
        peer.send.send_data(answer.encode(), false).unwrap();
    };
    let (member, ()) = tokio::join!(mux.dial("10.99.0.1:10250".to_owned(), None), answer);
    (mux, member.unwrap(), peer)
}

fn counters() -> Counters {
    Counters { received: PacketCounters::default(), sent: PacketCounters::default(), begun: Arc::default() }
}
