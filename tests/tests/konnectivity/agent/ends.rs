//! The end of a call: a server that goes, a drain, a GOAWAY.

use std::time::Duration;

use tokio::time::sleep;
use tunnel_proto::packet::Packet;
use tunnel_tests::{LIMIT, Target, panics};

use super::{NODE, World, wait_for_servers};
use crate::PROMPT;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b29_a_server_that_goes_leaves_nothing_behind() {
    let mut world = World::new().await;
    let (hole, echo) = (Target::black_hole(NODE).await, Target::echo(NODE).await);
    let id = world.call.dial(&echo.to_string(), 1).await;
    world.call.data(id, b"x").await;
    assert_eq!(world.call.read(id, 1).await, b"x");
    world.call.ask(&hole.to_string(), 2).await;
    world.wait_for_connections(LIMIT, 2).await;
    world.call.cut().await;
    world.wait_for_connections(PROMPT, 0).await;
    // The agent comes back by itself, with connection ids from 1.
    world.call = world.server.agent().await;
    assert_eq!(world.call.dial(&echo.to_string(), 3).await, 1);
    world.call.close(1).await;
    world.call.expect_closed(1, "").await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b14_b29_an_agent_that_drains_says_so_once_and_finishes() {
    let mut world = World::new().await;
    let echo = Target::echo(NODE).await;
    let id = world.call.dial(&echo.to_string(), 1).await;
    world.agent.drain();
    world.call.call.expect_bytes(b"\x08\x06\x42\x00").await;
    // The agent still serves its connections, and dials of a server without other agents.
    for number in 2..6 {
        assert_eq!(world.call.dial(&echo.to_string(), number).await, number);
        world.call.data(number, b"y").await;
        assert_eq!(world.call.read(number, 1).await, b"y");
        world.call.close(number).await;
        world.call.expect_closed(number, "").await;
    }
    world.call.data(id, b"x").await;
    assert_eq!(world.call.read(id, 1).await, b"x");
    world.call.close(id).await;
    world.call.expect_closed(id, "").await;
    // Konnectivity's agent would wait to be killed.
    world.agent.ended(Duration::from_secs(10)).await;
    assert_eq!(world.call.call.hear.message_or_cut().await.ok().flatten(), None);
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b29_an_idle_agent_that_drains_says_so_and_ends() {
    let mut world = World::new().await;
    wait_for_servers(&world.agent, 1).await;
    world.agent.drain();
    world.call.call.expect(Packet::Drain).await;
    world.agent.ended(Duration::from_secs(10)).await;
    panics::assert_none();
}

/// A server in an orderly shutdown sends GOAWAY first. The real agent then drops all
/// its connections at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w10_goaway_cuts_nothing_before_the_server_goes() {
    let mut world = World::new().await;
    let echo = Target::echo(NODE).await;
    let id = world.call.dial(&echo.to_string(), 1).await;
    world.call.go_away().await;
    for round in 0..50 {
        world.call.data(id, &[round]).await;
        assert_eq!(world.call.read(id, 1).await, [round]);
        // In total longer than the agent's reaction takes.
        sleep(Duration::from_millis(10)).await;
    }
    world.call.cut().await;
    world.call = world.server.agent().await;
    let id = world.call.dial(&echo.to_string(), 1).await;
    world.call.close(id).await;
    world.call.expect_closed(id, "").await;
    world.finish().await;
}
