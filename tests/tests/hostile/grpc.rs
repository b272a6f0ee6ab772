//! Packets that do not match their type, the call's state, or the connection.

use bytes::Bytes;
use http::Method;
use tunnel::transport::Link;
use tunnel_proto::packet::{PROXY_PATH, Packet};
use tunnel_tests::grpc::{Call, status};
use tunnel_tests::raw::{Channel, Listener};
use tunnel_tests::{Cluster, Target, node};

use crate::{CLIENTS, DIALS, Siege};

const BAD: (&str, &str) = (CLIENTS, "reason=\"bad_request\"");
const NONE: (&str, &str) = (CLIENTS, "reason=\"no_request\"");

/// Statuses of gRPC.
const OK: u16 = 0;
const INVALID_ARGUMENT: u16 = 3;
const UNIMPLEMENTED: u16 = 12;

async fn channel(cluster: &Cluster, listener: Listener) -> Channel {
    Channel::over(listener.open(&cluster.server, &cluster.pki).await).await
}

/// Sends bytes on a call, and reads to its end.
async fn asked(mut call: Call, bytes: impl Into<Bytes>) -> (Vec<Packet>, u16, String) {
    call.send(bytes).await;
    call.end().await
}

fn dial(protocol: &str, address: &str) -> Packet {
    Packet::DialRequest { protocol: protocol.to_owned(), address: address.to_owned(), random: 99 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_dial_on_a_call_is_refused_and_the_first_connection_goes_on() {
    let siege = Siege::begin().await;
    let echo = Target::echo(node(Link::Quic)).await;
    for listener in Listener::BOTH {
        let channel = channel(&siege.cluster, listener).await;
        let mut call = channel.call().await;
        // Behind the first dial, which is not answered yet.
        let both =
            [dial("tcp", &echo.to_string()).encode(), dial("tcp", &echo.to_string()).encode()].concat();
        call.send(both).await;
        let mut answers = Vec::new();
        for _ in 0..2 {
            match call.next().await {
                Some(Packet::DialResponse { error, connect_id, random: 99 }) => {
                    answers.push((error, connect_id))
                }
                other => panic!("{other:?}"),
            }
        }
        answers.sort();
        let (connected, refused) = (&answers[0], &answers[1]);
        assert!(connected.0.is_empty() && connected.1 > 0, "{answers:?}");
        assert!(refused.0.contains("one call per connection") && refused.1 == 0, "{answers:?}");
        let connect_id = connected.1;
        for round in 0..3_u8 {
            call.packet(&dial("tcp", &echo.to_string())).await;
            match call.next().await {
                Some(Packet::DialResponse { error, connect_id: 0, .. }) => assert_eq!(error, refused.0),
                other => panic!("{other:?}"),
            }
            let data = Packet::Data { connect_id, data: Bytes::copy_from_slice(&[round]) };
            call.packet(&data).await;
            call.expect(data).await;
        }
        call.packet(&Packet::CloseRequest { connect_id }).await;
        call.expect(Packet::CloseResponse { error: String::new(), connect_id }).await;
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_packet_ends_its_call_and_no_other() {
    // In protobuf: field 1 is the type, field 2 a dial request.
    const DIAL_REQUEST: [u8; 2] = [0x12, 0];
    let siege = Siege::begin().await;
    let typed = |kind: u8| [&[0, 0, 0, 0, 4, 8, kind][..], &DIAL_REQUEST].concat();
    let cases = [
        ("an empty packet", vec![0; 5]),
        ("no protobuf", vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff]),
        ("a type alone", vec![0, 0, 0, 0, 2, 8, 4]),
        ("a DIAL_RSP with a dial request in it", typed(1)),
        ("a CLOSE_REQ with a dial request in it", typed(2)),
        ("a CLOSE_RSP with a dial request in it", typed(3)),
        ("a DATA with a dial request in it", typed(4)),
        ("a DIAL_CLS with a dial request in it", typed(5)),
        (
            "a DIAL_RSP",
            Packet::DialResponse { error: String::new(), connect_id: 1, random: 1 }.encode().to_vec(),
        ),
        ("a CLOSE_RSP", Packet::CloseResponse { error: String::new(), connect_id: 1 }.encode().to_vec()),
        ("a DRAIN", Packet::Drain.encode().to_vec()),
        ("a message over 4 MiB", vec![0, 0, 0x40, 0, 1]),
        ("a message of 4 GiB", vec![0, 0xff, 0xff, 0xff, 0xff]),
        ("a compressed message", vec![1, 0, 0, 0, 1, 7]),
    ];
    for listener in Listener::BOTH {
        let channel = channel(&siege.cluster, listener).await;
        let mut other = channel.call().await;
        let id = other.dial(&siege.echoes[0].to_string()).await;
        for (what, bytes) in &cases {
            let asked = asked(channel.call().await, bytes.clone());
            let (packets, status, text) = siege.attack(what, BAD, asked).await;
            assert_eq!((packets, status), (vec![], INVALID_ARGUMENT), "{what}: {text}");
            echoes(&mut other, id, what).await;
        }
        let half = async {
            let mut call = channel.call().await;
            call.send(vec![0, 0, 0, 0, 9, 1]).await;
            call.finish();
            call.end().await
        };
        let (_, status, _) = siege.attack("half a message", BAD, half).await;
        assert_eq!(status, INVALID_ARGUMENT);
    }
    siege.end().await;
}

/// A connection goes on.
async fn echoes(call: &mut Call, connect_id: i64, text: &str) {
    let data = Bytes::copy_from_slice(text.as_bytes());
    call.packet(&Packet::Data { connect_id, data }).await;
    let mut back = Vec::new();
    while back.len() < text.len() {
        match call.next().await {
            Some(Packet::Data { connect_id: id, data }) if id == connect_id => back.extend_from_slice(&data),
            other => panic!("{other:?} instead of {text:?} of connection {connect_id}"),
        }
    }
    assert_eq!(back, text.as_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_before_the_dial_are_answered_for_what_they_are() {
    let siege = Siege::begin().await;
    let closed = |error: &str, connect_id| Packet::CloseResponse { error: error.to_owned(), connect_id };
    let data = Bytes::from_static(b"x");
    for listener in Listener::BOTH {
        let channel = channel(&siege.cluster, listener).await;
        for (packet, answer) in [
            (Packet::Data { connect_id: 5, data: data.clone() }, vec![closed("backend not initialized", 5)]),
            (Packet::CloseRequest { connect_id: 6 }, vec![closed("backend uninitialized", 6)]),
            (Packet::CloseDial { random: 7 }, vec![]),
        ] {
            let asked = asked(channel.call().await, packet.encode());
            let (packets, status, _) = siege.attack("a packet before the dial", NONE, asked).await;
            assert_eq!((packets, status), (answer, OK), "{packet:?}");
        }
        let silent = async {
            let mut call = channel.call().await;
            call.finish();
            call.end().await
        };
        assert_eq!(siege.attack("a silent call", NONE, silent).await.1, OK);
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_of_nonsense_are_refused_in_words() {
    let siege = Siege::begin().await;
    for listener in Listener::BOTH {
        let channel = channel(&siege.cluster, listener).await;
        for (packet, text) in [
            (dial("unix", "/run/containerd.sock"), "dial unix: unknown network unix"),
            (dial("udp", "127.0.0.1:53"), "dial udp: unknown network udp"),
            (dial("TCP", "127.0.0.1:53"), "dial TCP: unknown network TCP"),
            (dial("", "127.0.0.1:53"), "dial : unknown network "),
            (dial("tcp", ""), "dial tcp: address : missing port in address"),
            (
                dial("tcp", "/run/containerd.sock"),
                "dial tcp: address /run/containerd.sock: missing port in address",
            ),
            (dial("tcp", "127.1:80"), "dial tcp: address 127.1:80: invalid host"),
            (dial("tcp", "a\r\nb:80"), "dial tcp: address a\\r\\nb:80: invalid host"),
        ] {
            let asked = asked(channel.call().await, packet.encode());
            let refused = siege.attack(text, (DIALS, "outcome=\"bad_request\""), asked).await;
            let answer = Packet::DialResponse { error: text.to_owned(), connect_id: 0, random: 99 };
            assert_eq!((refused.0, refused.1), (vec![answer], OK));
        }
        let asked = asked(channel.call().await, dial("tcp", &"x".repeat(1 << 20)).encode());
        let (packets, _, _) = siege.attack("a long name", (DIALS, "outcome=\"bad_request\""), asked).await;
        assert!(
            matches!(&packets[..], [Packet::DialResponse { error, .. }] if error.len() < 2_000),
            "{packets:?}"
        );
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_of_other_connections_are_refused_for_themselves_alone() {
    let siege = Siege::begin().await;
    for (listener, echo) in Listener::BOTH.into_iter().zip(&siege.echoes) {
        let channel = channel(&siege.cluster, listener).await;
        let (mut victim, mut call) = (channel.call().await, channel.call().await);
        let of_victim = victim.dial(&echo.to_string()).await;
        let ours = call.dial(&echo.to_string()).await;
        assert_ne!(of_victim, ours);
        for foreign in [of_victim, 0, -1, i64::MIN, i64::MAX] {
            call.packet(&Packet::Data { connect_id: foreign, data: Bytes::from_static(b"evil") }).await;
            let error = "unrecognized connectID".to_owned();
            assert_eq!(call.next().await, Some(Packet::CloseResponse { error, connect_id: foreign }));
            call.packet(&Packet::CloseRequest { connect_id: foreign }).await;
            let error = "Unknown connectID".to_owned();
            assert_eq!(call.next().await, Some(Packet::CloseResponse { error, connect_id: foreign }));
        }
        call.packet(&Packet::Unknown(42)).await;
        call.packet(&Packet::CloseDial { random: 7 }).await;
        echoes(&mut call, ours, "still ours").await;
        echoes(&mut victim, of_victim, "and theirs").await;
        siege.canaries_sing().await;
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonsense_on_a_connection_ends_it_with_a_reason() {
    let siege = Siege::begin().await;
    let foreign = Packet::CloseRequest { connect_id: -5 }.encode();
    let cases = [
        ("an empty packet", vec![0; 5], "payload of another kind"),
        ("no protobuf", vec![0, 0, 0, 0, 3, 0xff, 0xff, 0xff], "malformed packet"),
        ("a message over 4 MiB", vec![0, 0, 0x40, 0, 1], "over the limit"),
        ("a DRAIN", Packet::Drain.encode().to_vec(), "only agents send"),
        ("a thousand foreign packets", foreign.repeat(1_000), "too many packets of other connections"),
    ];
    for (listener, echo) in Listener::BOTH.into_iter().zip(&siege.echoes) {
        let channel = channel(&siege.cluster, listener).await;
        for (what, bytes, reason) in &cases {
            let mut call = channel.call().await;
            let id = call.dial(&echo.to_string()).await;
            let broken = ("tunnel_server_connections_ended_total", "how=\"near_broken\"");
            let (packets, _, _) = siege.attack(what, broken, asked(call, bytes.clone())).await;
            match packets.last() {
                Some(Packet::CloseResponse { error, connect_id }) if *connect_id == id => {
                    assert!(error.contains(reason), "{what}: {error:?}");
                }
                other => panic!("{what}: {other:?} at the end"),
            }
        }
        assert!(!channel.has_ended());
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_before_the_answer_to_the_dial_cancels_it() {
    let siege = Siege::begin().await;
    for (listener, link) in Listener::BOTH.into_iter().zip(tunnel_tests::LINKS) {
        let hole = Target::black_hole(node(link)).await;
        let channel = channel(&siege.cluster, listener).await;
        let data = Packet::Data { connect_id: 1, data: Bytes::from_static(b"hasty") };
        let both = [dial("tcp", &hole.to_string()).encode(), data.encode()].concat();
        let asked = asked(channel.call().await, both);
        let (packets, status, _) = siege.attack("hasty data", BAD, asked).await;
        assert_eq!((packets, status), (vec![], INVALID_ARGUMENT));
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_call_of_our_method_is_told_so() {
    let siege = Siege::begin().await;
    for listener in Listener::BOTH {
        let channel = channel(&siege.cluster, listener).await;
        for (method, path, content, http, grpc) in [
            (Method::POST, "/ProxyService/Other", "application/grpc", 200, Some(UNIMPLEMENTED)),
            (Method::POST, "/", "application/grpc+proto", 200, Some(UNIMPLEMENTED)),
            (Method::GET, PROXY_PATH, "application/grpc", 405, None),
            (Method::POST, PROXY_PATH, "text/plain", 415, None),
        ] {
            let asked = channel.request(method, path, content);
            let response = siege.attack(path, BAD, asked).await;
            assert_eq!(response.status().as_u16(), http, "{path}");
            assert_eq!(grpc, grpc.map(|_| status(response.headers()).0), "{path}");
        }
    }
    siege.end().await;
}

/// Messages whose rest never comes count with the bytes of stalled connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_do_not_end_take_no_more_than_the_budget() {
    let builder = Cluster::builder().server_flag("max-stalled-memory", "2097152");
    let builder = tunnel_tests::LINKS.into_iter().fold(builder, tunnel_tests::Builder::agent_on);
    let siege = Siege::of(builder.start().await).await;
    for listener in Listener::BOTH {
        let channel = channel(&siege.cluster, listener).await;
        let half = [&[0, 0, 0x3f, 0xff, 0xff][..], &[7; 900_000]].concat();
        let mut calls = Vec::new();
        let flood = async {
            for _ in 0..5 {
                let mut call = channel.call().await;
                call.send(half.clone()).await;
                calls.push(call);
            }
            // In whatever order they are read, not all fit.
            let ends: Vec<_> = calls.into_iter().map(|call| Box::pin(asked(call, Bytes::new()))).collect();
            let (first, _, rest) = futures_util::future::select_all(ends).await;
            (first, rest)
        };
        let ((packets, status, text), rest) = siege.attack("half messages", BAD, flood).await;
        assert_eq!(
            (packets, status, &text[..]),
            (vec![], INVALID_ARGUMENT, "malformed or unexpected packet")
        );
        let kept = siege.cluster.server.metrics().await.value("tunnel_server_stalled_bytes");
        assert!(kept <= 2 << 20, "{kept}");
        drop((rest, channel));
        tunnel_tests::wait_for("memory that is given back", async || {
            let kept = siege.cluster.server.metrics().await.value("tunnel_server_stalled_bytes");
            if kept == 0 { Ok(()) } else { Err(kept.to_string()) }
        })
        .await;
    }
    siege.end().await;
}
