//! Several connections on one gRPC call.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]
#![allow(clippy::wildcard_enum_match_arm, reason = "everything else fails the test")]

use bytes::Bytes;
use tunnel::transport::Link;
use tunnel_proto::packet::Packet;
use tunnel_tests::grpc::Call;
use tunnel_tests::raw::{Channel, Listener};
use tunnel_tests::{Cluster, Target, node, within};

/// A call, and what has to live as long.
async fn call(cluster: &Cluster, listener: Listener) -> (Channel, Call) {
    let channel = Channel::over(listener.open(&cluster.server, &cluster.pki).await).await;
    let call = channel.call().await;
    (channel, call)
}

fn dial(address: impl ToString, random: i64) -> Packet {
    Packet::DialRequest { protocol: "tcp".to_owned(), address: address.to_string(), random }
}

fn data(connect_id: i64, text: &'static str) -> Packet {
    Packet::Data { connect_id, data: Bytes::from_static(text.as_bytes()) }
}

async fn next(call: &mut Call) -> Packet {
    within("a packet", call.next()).await.expect("the call goes on")
}

/// The connection that a dial got.
async fn connected(call: &mut Call, of: i64) -> i64 {
    match next(call).await {
        Packet::DialResponse { error, connect_id, random } if random == of && error.is_empty() => connect_id,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_dial_makes_a_second_connection() {
    let cluster = Cluster::on_both_links().await;
    for (listener, link) in [(Listener::Unix, Link::Quic), (Listener::Tcp, Link::H2)] {
        let echo = Target::echo(node(link)).await;
        let nobody = Target::nobody(node(link)).await;
        let (_channel, mut call) = call(&cluster, listener).await;
        call.packet(&dial(&echo, 1)).await;
        let first = connected(&mut call, 1).await;
        call.packet(&data(first, "before")).await;
        assert_eq!(next(&mut call).await, data(first, "before"));
        call.packet(&dial(&echo, 2)).await;
        let second = connected(&mut call, 2).await;
        assert_ne!(first, second);
        for (id, text) in [(first, "one"), (second, "two"), (first, "three")] {
            call.packet(&data(id, text)).await;
            assert_eq!(next(&mut call).await, data(id, text));
        }
        call.packet(&dial(nobody, 3)).await;
        match next(&mut call).await {
            Packet::DialResponse { error, random: 3, .. } => assert!(error.contains("refused"), "{error}"),
            other => panic!("{other:?}"),
        }
        call.packet(&Packet::CloseRequest { connect_id: first }).await;
        let closed = Packet::CloseResponse { error: String::new(), connect_id: first };
        assert_eq!(next(&mut call).await, closed);
        call.packet(&data(second, "alive")).await;
        assert_eq!(next(&mut call).await, data(second, "alive"));
        call.packet(&data(first, "gone")).await;
        let error = "unrecognized connectID".to_owned();
        assert_eq!(next(&mut call).await, Packet::CloseResponse { error, connect_id: first });
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_may_come_before_the_first_is_answered() {
    let cluster = Cluster::on_both_links().await;
    let echo = Target::echo(node(Link::Quic)).await;
    let nobody = Target::nobody(node(Link::H2)).await;
    for listener in Listener::BOTH {
        // The first one may fail, and the call goes on.
        for first in [echo.to_string(), nobody.to_string()] {
            let (_channel, mut call) = call(&cluster, listener).await;
            let mut dials = dial(&first, 1).encode().to_vec();
            dials.extend_from_slice(&dial(&echo, 2).encode());
            dials.extend_from_slice(&dial(&echo, 3).encode());
            call.send(dials).await;
            let mut ids = Vec::new();
            for _ in 0..3 {
                match next(&mut call).await {
                    Packet::DialResponse { error, connect_id, .. } if error.is_empty() => {
                        ids.push(connect_id)
                    }
                    Packet::DialResponse { random: 1, .. } if first != echo.to_string() => {}
                    other => panic!("{other:?}"),
                }
            }
            assert!(ids.len() >= 2);
            for id in ids {
                call.packet(&data(id, "hello")).await;
                assert_eq!(next(&mut call).await, data(id, "hello"));
            }
        }
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_does_not_read_costs_only_its_own_connection() {
    let cluster = Cluster::on_both_links().await;
    let echo = Target::echo(node(Link::Quic)).await;
    let stalled = Target::stalls(node(Link::H2)).await;
    let (_channel, mut call) = call(&cluster, Listener::Unix).await;
    call.packet(&dial(&echo, 1)).await;
    let echoing = connected(&mut call, 1).await;
    call.packet(&dial(&stalled, 2)).await;
    let stalling = connected(&mut call, 2).await;
    // Beyond everything that the way to the target holds, and the queue.
    let block = Bytes::from(vec![7; 256 * 1024]);
    for sent in 0.. {
        assert!(sent < 4096, "1 GiB was taken for a target that reads nothing");
        call.packet(&Packet::Data { connect_id: stalling, data: block.clone() }).await;
        call.packet(&data(echoing, "ping")).await;
        match next(&mut call).await {
            Packet::Data { connect_id, .. } => assert_eq!(connect_id, echoing),
            Packet::CloseResponse { connect_id, error } => {
                assert_eq!(connect_id, stalling);
                assert!(error.contains("does not read"), "{error}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    drop(call);
    cluster.finish().await;
}
