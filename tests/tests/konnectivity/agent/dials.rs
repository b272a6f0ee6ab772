//! Dials that end without a connection: unanswered, cancelled, or to another network than TCP.

use std::time::Duration;

use tokio::time::Instant;
use tunnel_proto::packet::Packet;
use tunnel_tests::{LIMIT, Target, promptly};

use super::{NODE, World};
use crate::PROMPT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b04_a_dial_without_an_answer_is_given_up_after_five_seconds() {
    let mut world = World::new().await;
    let hole = Target::black_hole(NODE).await;
    let begin = Instant::now();
    world.call.ask(&hole.to_string(), 8).await;
    let error = format!("dial tcp {hole}: i/o timeout");
    let answer = world.call.call.expect(Packet::DialResponse { error, connect_id: 0, random: 8 });
    assert!(promptly(Duration::from_secs(7), answer).await.is_some(), "{:?}", begin.elapsed());
    assert!(begin.elapsed().as_secs_f64() > 4.5, "{:?}", begin.elapsed());
    world.finish().await;
}

/// The real agent does not know DIAL_CLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w09_a_cancelled_dial_is_not_made() {
    let mut world = World::new().await;
    let (hole, echo) = (Target::black_hole(NODE).await, Target::echo(NODE).await);
    world.call.ask(&hole.to_string(), 8).await;
    world.wait_for_connections(LIMIT, 1).await;
    world.call.call.packet(&Packet::CloseDial { random: 8 }).await;
    world.wait_for_connections(PROMPT, 0).await;
    let cancelled = world.agent.metrics().await.sum("tunnel_agent_dials_total", &["outcome=\"cancelled\""]);
    assert_eq!(cancelled, 1);
    // The cancelled dial has no answer, and its connection id was used up.
    assert_eq!(world.call.dial(&echo.to_string(), 9).await, 2);
    world.call.close(2).await;
    world.call.expect_closed(2, "").await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w05_other_networks_than_tcp_are_not_dialled() {
    let mut world = World::new().await;
    for (protocol, address) in [("unix", "/run/x.sock"), ("udp", "127.0.0.3:53"), ("sctp", "127.0.0.3:53")] {
        let ask = Packet::DialRequest { protocol: protocol.into(), address: address.into(), random: 2 };
        world.call.call.packet(&ask).await;
        let Some(Packet::DialResponse { error, connect_id: 0, random: 2 }) = world.call.call.next().await
        else {
            panic!("no refusal")
        };
        assert!(error.contains(&format!("unknown network {protocol}")), "{error}");
    }
    world.finish().await;
}
