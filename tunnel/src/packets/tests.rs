//! One side is a [`Mux`], the other a peer that says packets by hand, over real
//! HTTP/2 in memory.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use http::{Request, Response};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tunnel_proto::deframe::Deframer;
use tunnel_proto::packet::{MAX_MESSAGE, Packet};
use tunnel_proto::refusal::Refusal;

use super::*;
use crate::drain::Drain;
use crate::duplex::{Abort, Batch, Broken, Duplex as _, End, Flow};
use crate::packet_counters::PacketCounters;
use crate::transport::DialFailure;

mod dials;
mod ends;
mod queues;

const LIMITS: Limits = Limits { connection: 1 << 20, stream: 4 << 20 };

/// The peer at the other end of the packets.
struct Peer {
    send: SendStream<Bytes>,
    body: RecvStream,
    deframer: Deframer,
    drain: Drain,
}

impl Peer {
    fn say(&mut self, packet: &Packet) {
        self.send.send_data(packet.encode(), false).unwrap();
    }

    fn data(&mut self, connect_id: i64, data: impl Into<Bytes>) {
        self.say(&Packet::Data { connect_id, data: data.into() });
    }

    async fn hear(&mut self) -> Packet {
        let next = async {
            loop {
                if let Some(message) = self.deframer.next().unwrap() {
                    return Packet::decode(message).unwrap();
                }
                let data = self.body.data().await.expect("another packet").unwrap();
                self.body.flow_control().release_capacity(data.len()).unwrap();
                self.deframer.push(data);
            }
        };
        timeout(Duration::from_secs(60), next).await.expect("a packet in time")
    }

    /// Nothing is said for a while (of the paused clock).
    async fn hear_nothing(&mut self, time: Duration) {
        if let Ok(packet) = timeout(time, self.hear()).await {
            panic!("{packet:?}");
        }
    }

    /// Takes a dial and accepts it as connection `connect_id`.
    async fn accept(&mut self, connect_id: i64) {
        let Packet::DialRequest { random, .. } = self.hear().await else { panic!("no dial") };
        self.say(&Packet::DialResponse { error: String::new(), connect_id, random });
    }
}

fn counters() -> Counters {
    Counters { received: PacketCounters::default(), sent: PacketCounters::default(), begun: Arc::default() }
}

async fn pair(role: Role, limits: Limits) -> (Mux, mpsc::Receiver<PacketDial>, Peer) {
    let drain = Drain::new();
    let (near, far) = tokio::io::duplex(1 << 20);
    let serving = async {
        let mut connection = server::Builder::new()
            .initial_window_size(8 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake::<_, Bytes>(near)
            .await
            .unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        let send = respond.send_response(Response::new(()), false).unwrap();
        drain.spawn("server", async move { while connection.accept().await.is_some() {} });
        Halves { send, body: request.into_body(), called: true, counters: counters() }
    };
    let calling = async {
        let (requests, connection) = client::Builder::new()
            .initial_window_size(8 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake::<_, Bytes>(far)
            .await
            .unwrap();
        drain.spawn("client", async move { drop(connection.await) });
        let request = Request::post("https://server/call").body(()).unwrap();
        let (response, send) = requests.ready().await.unwrap().send_request(request, false).unwrap();
        (send, response.await.unwrap().into_body())
    };
    let (halves, (send, body)) = tokio::join!(serving, calling);
    let (mux, asked) = Mux::start(halves, role, limits, &drain);
    (mux, asked, Peer { send, body, deframer: Deframer::grpc(MAX_MESSAGE), drain })
}

async fn read(member: &mut Member) -> Result<Option<String>, Broken> {
    let mut batch = Batch::default();
    let flow = timeout(Duration::from_secs(60), poll_fn(|cx| member.poll_recv(cx, &mut batch)));
    match flow.await.expect("something in time")? {
        Flow::End(_) => Ok(None),
        Flow::More => {
            let mut text = Vec::new();
            batch.iter().for_each(|chunk| text.extend_from_slice(chunk));
            Ok(Some(String::from_utf8(text).unwrap()))
        }
    }
}

async fn write(member: &mut Member, data: &'static [u8]) -> Result<(), Broken> {
    let mut batch = Batch::default();
    batch.push(Bytes::from_static(data));
    poll_fn(|cx| member.poll_send(cx, &mut batch)).await
}

async fn dialled(mux: &Mux, peer: &mut Peer, connect_id: i64) -> Member {
    let (dialled, ()) = tokio::join!(mux.dial("10.0.0.1:80".to_owned(), None), peer.accept(connect_id));
    dialled.unwrap()
}

fn closed(connect_id: i64, error: &str) -> Packet {
    Packet::CloseResponse { error: error.to_owned(), connect_id }
}
