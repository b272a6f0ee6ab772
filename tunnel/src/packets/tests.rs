//! One side is a [`Mux`], the other a peer that says packets by hand, over real
//! HTTP/2 in memory.

use std::future::poll_fn;
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
use crate::duplex::{Abort, Batch, Broken, Duplex as _, End, Flow};
use crate::packet_counters::PacketCounters;
use crate::transport::DialFailure;

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
    Counters { received: PacketCounters::default(), sent: PacketCounters::default() }
}

async fn pair(role: Role, limits: Limits) -> (Mux, mpsc::Receiver<Asked>, Peer) {
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

#[tokio::test(start_paused = true)]
async fn a_dialled_connection_carries_bytes_both_ways_until_the_peer_closes() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 7).await;
    write(&mut member, b"question").await.unwrap();
    assert_eq!(peer.hear().await, Packet::Data { connect_id: 7, data: Bytes::from_static(b"question") });
    peer.data(7, "answer");
    peer.say(&closed(7, ""));
    assert_eq!(read(&mut member).await.unwrap().as_deref(), Some("answer"));
    assert_eq!(read(&mut member).await, Ok(None));
    assert_eq!(write(&mut member, b"more").await, Err(Broken::Stopped));
    drop(member);
    peer.hear_nothing(Duration::from_secs(20)).await;
}

#[tokio::test(start_paused = true)]
async fn the_peers_words_for_a_failed_dial_are_kept() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let refuse = async {
        let Packet::DialRequest { random, protocol, address } = peer.hear().await else { panic!() };
        assert_eq!((protocol.as_str(), address.as_str()), ("tcp", "10.0.0.1:80"));
        assert!(random >= 0);
        peer.say(&Packet::DialResponse { error: "connection refused".into(), connect_id: 0, random });
    };
    let (dialled, ()) = tokio::join!(mux.dial("10.0.0.1:80".to_owned(), None), refuse);
    assert_eq!(dialled.unwrap_err(), DialFailure::Refused(Refusal::from_go("connection refused".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_is_given_up_is_taken_back_and_a_late_answer_closed() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let given_up = timeout(Duration::from_secs(1), mux.dial("10.0.0.1:80".to_owned(), None)).await;
    assert!(given_up.is_err());
    let Packet::DialRequest { random, .. } = peer.hear().await else { panic!() };
    assert_eq!(peer.hear().await, Packet::CloseDial { random });
    peer.say(&Packet::DialResponse { error: String::new(), connect_id: 3, random });
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 3 });
}

/// Whoever asked may then ask somebody else: this peer never hears of it.
#[tokio::test(start_paused = true)]
async fn a_dial_that_a_peer_does_not_read_is_taken_back_unsaid() {
    let (mux, _, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    let block: &[u8] = &[0x55; 64 * 1024];
    while let Ok(written) = timeout(Duration::from_secs(2), write(&mut member, block)).await {
        written.unwrap();
    }
    assert!(mux.is_stuck());
    let limit = Duration::from_secs(2);
    let untaken = mux.dial("10.0.0.2:80".to_owned(), Some(limit)).await;
    assert_eq!(untaken.unwrap_err(), DialFailure::Busy);
    // Nor is one spoken of that was given up before it could leave.
    let given_up = timeout(limit, mux.dial("10.0.0.2:80".to_owned(), None)).await;
    assert!(given_up.is_err());
    while let Ok(packet) = timeout(Duration::from_secs(1), peer.hear()).await {
        assert!(matches!(packet, Packet::Data { connect_id: 1, .. }), "{packet:?}");
    }
    assert!(!mux.is_stuck());
    let dial = mux.dial("10.0.0.2:80".to_owned(), Some(limit));
    let (second, ()) = tokio::join!(dial, peer.accept(2));
    second.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_id_in_use_is_a_bad_answer_and_harms_nobody() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut first = dialled(&mux, &mut peer, 1).await;
    let (second, ()) = tokio::join!(mux.dial("10.0.0.2:80".to_owned(), None), peer.accept(1));
    assert!(matches!(second, Err(DialFailure::BadAnswer(_))), "{second:?}");
    peer.data(1, "for the first");
    assert_eq!(read(&mut first).await.unwrap().as_deref(), Some("for the first"));
}

#[tokio::test(start_paused = true)]
async fn closing_waits_a_moment_after_data_and_longer_after_a_half_close() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    write(&mut member, b"last words").await.unwrap();
    peer.hear().await;
    let sent = Instant::now();
    poll_fn(|cx| member.poll_finish(cx, End::Closed)).await.unwrap();
    drop(member);
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 1 });
    let waited = sent.elapsed();
    assert!((Duration::from_millis(200)..Duration::from_secs(1)).contains(&waited), "{waited:?}");

    let mut member = dialled(&mux, &mut peer, 2).await;
    poll_fn(|cx| member.poll_finish(cx, End::Fin)).await.unwrap();
    for _ in 0..3 {
        peer.hear_nothing(Duration::from_secs(4)).await;
        peer.data(2, "still answering");
        assert_eq!(read(&mut member).await.unwrap().as_deref(), Some("still answering"));
    }
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 2 });
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_overflows_is_closed_alone() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut slow = dialled(&mux, &mut peer, 1).await;
    let mut other = dialled(&mux, &mut peer, 2).await;
    for _ in 0..40 {
        peer.data(1, vec![b'x'; 32 * 1024]);
    }
    peer.data(2, "not held up");
    assert_eq!(read(&mut other).await.unwrap().as_deref(), Some("not held up"));
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 1 });
    let why = read(&mut slow).await.unwrap_err();
    assert!(matches!(why, Broken::Overflow { .. }), "{why}");
    // What was on its way is dropped without a word.
    peer.data(1, "late");
    peer.say(&closed(1, ""));
    drop(slow);
    peer.hear_nothing(Duration::from_secs(20)).await;
    assert_eq!(mux.shared.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_is_only_slow_gets_everything_and_others_are_hardly_delayed() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut slow = dialled(&mux, &mut peer, 1).await;
    let mut other = dialled(&mux, &mut peer, 2).await;
    let sending = async {
        for turn in 0..400 {
            poll_fn(|cx| {
                peer.send.reserve_capacity(64 * 1024);
                if peer.send.capacity() < 64 * 1024 {
                    peer.send.poll_capacity(cx).map(drop)
                } else {
                    Poll::Ready(())
                }
            })
            .await;
            peer.data(1, vec![b'x'; 32 * 1024]);
            if turn % 10 == 0 {
                peer.data(2, "in between");
            }
        }
        peer.say(&closed(1, ""));
    };
    // 2.5 MB/s, of a sender without any limit of its own.
    let reading = async {
        let (mut all, mut batch) = (0, Batch::default());
        while let Flow::More = poll_fn(|cx| slow.poll_recv(cx, &mut batch)).await.unwrap() {
            all += batch.clear();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        all
    };
    let others = async {
        let mut longest = Duration::ZERO;
        for _ in 0..30 {
            let asked = Instant::now();
            read(&mut other).await.unwrap();
            longest = longest.max(asked.elapsed());
        }
        longest
    };
    let ((), all, longest) = tokio::join!(sending, reading, others);
    assert_eq!(all, 400 * 32 * 1024);
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn many_connections_that_do_not_read_share_one_bound() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut slow = Vec::new();
    for id in 1..=8 {
        slow.push(dialled(&mux, &mut peer, id).await);
    }
    for _ in 0..30 {
        for id in 1..=8 {
            peer.data(id, vec![b'x'; 32 * 1024]);
        }
    }
    // At 4 MiB for all of them somebody has to go, and the bound holds.
    assert!(matches!(peer.hear().await, Packet::CloseRequest { .. }));
    assert!(mux.shared.waiting.load(std::sync::atomic::Ordering::Relaxed) <= LIMITS.stream);
}

#[tokio::test(start_paused = true)]
async fn small_packets_that_wait_are_copied_together() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    for _ in 0..1000 {
        peer.data(1, "tick ");
    }
    peer.data(1, vec![b'x'; 5000]);
    peer.data(1, "end");
    // Once this is answered, everything before it has been received.
    peer.data(99, "unknown");
    assert_eq!(peer.hear().await, Packet::CloseRequest { connect_id: 99 });
    let mut batch = Batch::default();
    poll_fn(|cx| member.poll_recv(cx, &mut batch)).await.unwrap();
    assert_eq!((batch.len(), batch.iter().count() <= 4), (5000 + 5000 + 3, true));
}

#[tokio::test(start_paused = true)]
async fn an_agents_answers_are_those_of_konnectivitys() {
    let (_mux, mut asked, mut peer) = pair(Role::Answerer, LIMITS).await;
    peer.data(5, "nobody");
    assert_eq!(peer.hear().await, closed(5, "unrecognized connectID"));
    peer.say(&Packet::CloseRequest { connect_id: 5 });
    assert_eq!(peer.hear().await, closed(5, "Unknown connectID"));
    peer.data(0, "no connection at all");
    peer.say(&Packet::Unknown(77));
    peer.say(&Packet::CloseDial { random: 4 });
    let dial = |random| Packet::DialRequest { protocol: "tcp".into(), address: "10.0.0.1:80".into(), random };
    peer.say(&dial(11));
    asked.recv().await.unwrap().refuse("dial tcp: no".to_owned());
    let refused = Packet::DialResponse { error: "dial tcp: no".into(), connect_id: 0, random: 11 };
    assert_eq!(peer.hear().await, refused);
    peer.say(&dial(12));
    let mut member = asked.recv().await.unwrap().accept();
    let connected = Packet::DialResponse { error: String::new(), connect_id: 2, random: 12 };
    assert_eq!(peer.hear().await, connected, "failed dials count");
    write(&mut member, b"bye").await.unwrap();
    poll_fn(|cx| member.poll_finish(cx, End::Fin)).await.unwrap();
    assert_eq!(peer.hear().await, Packet::Data { connect_id: 2, data: Bytes::from_static(b"bye") });
    assert_eq!(peer.hear().await, closed(2, ""));
    peer.data(2, "too late");
    assert_eq!(peer.hear().await, closed(2, "unrecognized connectID"));
}

#[tokio::test(start_paused = true)]
async fn a_close_request_is_answered_after_the_data_and_what_came_before_it_is_read() {
    let (_mux, mut asked, mut peer) = pair(Role::Answerer, LIMITS).await;
    peer.say(&Packet::DialRequest { protocol: "tcp".into(), address: "10.0.0.1:80".into(), random: 1 });
    let mut member = asked.recv().await.unwrap().accept();
    peer.hear().await;
    peer.data(1, "the last of it");
    write(&mut member, b"queued").await.unwrap();
    peer.say(&Packet::CloseRequest { connect_id: 1 });
    assert_eq!(peer.hear().await, Packet::Data { connect_id: 1, data: Bytes::from_static(b"queued") });
    assert_eq!(peer.hear().await, closed(1, ""));
    assert_eq!(read(&mut member).await.unwrap().as_deref(), Some("the last of it"));
    assert_eq!(read(&mut member).await, Ok(None));
    peer.say(&Packet::CloseRequest { connect_id: 1 });
    assert_eq!(peer.hear().await, closed(1, "Unknown connectID"));
}

#[tokio::test(start_paused = true)]
async fn a_dial_taken_back_by_the_peer_is_not_answered() {
    let (_mux, mut asked, mut peer) = pair(Role::Answerer, LIMITS).await;
    peer.say(&Packet::DialRequest { protocol: "tcp".into(), address: "10.0.0.1:80".into(), random: 9 });
    let dial = asked.recv().await.unwrap();
    peer.say(&Packet::CloseDial { random: 9 });
    timeout(Duration::from_secs(5), dial.cancelled()).await.unwrap();
    drop(dial);
    peer.hear_nothing(Duration::from_secs(20)).await;
}

#[tokio::test(start_paused = true)]
async fn control_goes_ahead_of_data_and_connections_take_turns() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut first = dialled(&mux, &mut peer, 1).await;
    let mut second = dialled(&mux, &mut peer, 2).await;
    static LONG: [u8; 60 * 1024] = [1; 60 * 1024];
    // No other task runs between these, so the driver finds all of them.
    write(&mut first, &LONG).await.unwrap();
    write(&mut second, b"short").await.unwrap();
    mux.say_drain();
    assert_eq!(peer.hear().await, Packet::Drain);
    let order: Vec<i64> = [peer.hear().await, peer.hear().await, peer.hear().await]
        .iter()
        .map(|packet| if let Packet::Data { connect_id, .. } = packet { *connect_id } else { -1 })
        .collect();
    assert_eq!(order, [1, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stream_is_the_end_of_everything_on_it() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    let dialling = mux.dial("10.0.0.2:80".to_owned(), None);
    let end = async {
        peer.hear().await;
        peer.send.send_data(Bytes::new(), true).unwrap();
        mux.closed().await
    };
    let (failed, why) = tokio::join!(dialling, end);
    assert_eq!(why, "the peer ended the call");
    assert_eq!(failed.unwrap_err(), DialFailure::Lost(why.clone()));
    assert_eq!(read(&mut member).await, Err(Broken::Lost(why.clone())));
    assert_eq!(mux.dial("10.0.0.3:80".to_owned(), None).await.unwrap_err(), DialFailure::Lost(why));
    peer.drain.kill();
}

#[tokio::test(start_paused = true)]
async fn bad_packets_are_skipped_until_there_are_too_many() {
    let (mux, _asked, mut peer) = pair(Role::Dialer, LIMITS).await;
    let mut member = dialled(&mux, &mut peer, 1).await;
    // A data packet without a payload, which crashes others.
    let empty = Bytes::from_static(&[0, 0, 0, 0, 2, 8, 4]);
    peer.send.send_data(empty.clone(), false).unwrap();
    peer.say(&Packet::CloseRequest { connect_id: 1 });
    peer.data(1, "unharmed");
    assert_eq!(read(&mut member).await.unwrap().as_deref(), Some("unharmed"));
    for _ in 0..64 {
        peer.send.send_data(empty.clone(), false).unwrap();
    }
    assert!(mux.closed().await.starts_with("too many bad packets"));
}

#[tokio::test(start_paused = true)]
async fn a_reset_connection_is_closed_with_a_reason_by_agents() {
    let (_mux, mut asked, mut peer) = pair(Role::Answerer, LIMITS).await;
    peer.say(&Packet::DialRequest { protocol: "tcp".into(), address: "10.0.0.1:80".into(), random: 1 });
    let mut member = asked.recv().await.unwrap().accept();
    peer.hear().await;
    member.abort(Abort::AfterData);
    assert_eq!(peer.hear().await, closed(1, "connection reset by peer"));
}
