//! Packets of connections: their bytes, their closes, and receivers that do not read.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;
use tunnel_proto::packet::Packet;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::{Target, panics, wait_for, within};

use super::{NODE, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b28_an_agent_says_who_it_is_dials_and_closes() {
    let mut world = World::new().await;
    let call = &mut world.call;
    assert_eq!(call.field("agentid"), "agent-ours");
    assert_eq!(call.field("agentidentifiers"), format!("ipv4={NODE}"));
    assert!(!call.fields.contains_key("authorization"));
    let closes = Target::new(NODE, async |mut socket| {
        socket.read_exact(&mut [0; 5]).await?;
        socket.write_all(b"bye").await
    })
    .await;
    call.ask(&closes.to_string(), 42).await;
    call.call.expect_bytes(b"\x08\x01\x1a\x04\x10\x01\x18\x2a").await;
    call.data(1, b"hello").await;
    call.call.expect_bytes(b"\x08\x04\x22\x07\x08\x01\x1a\x03bye").await;
    call.call.expect_bytes(b"\x08\x03\x32\x02\x10\x01").await;
    // The connection's id is forgotten.
    call.close(1).await;
    call.expect_closed(1, "Unknown connectID").await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b28_closes_are_answered_and_what_is_unknown_refused() {
    let mut world = World::new().await;
    let (echo, nobody) = (Target::echo(NODE).await, Target::nobody(NODE));
    let call = &mut world.call;
    assert_eq!(call.dial(&echo.to_string(), i64::MAX).await, 1);
    call.ask(&nobody.to_string(), 0).await;
    let error = format!("dial tcp {nobody}: connect: connection refused");
    call.call.expect(Packet::DialResponse { error, connect_id: 0, random: 0 }).await;
    assert_eq!(call.dial(&echo.to_string(), 3).await, 3, "dials that fail are counted too");
    for error in ["", "Unknown connectID"] {
        call.close(1).await;
        call.expect_closed(1, error).await;
    }
    call.data(1, b"late").await;
    call.expect_closed(1, "unrecognized connectID").await;
    call.data(77, b"stray").await;
    call.expect_closed(77, "unrecognized connectID").await;
    // None of these has an answer.
    call.data(0, b"of no connection").await;
    call.call.packet(&Packet::CloseDial { random: 12345 }).await;
    call.call.packet(&Packet::Unknown(99)).await;
    call.data(3, b"x").await;
    assert_eq!(call.read(3, 1).await, b"x");
    call.close(3).await;
    call.expect_closed(3, "").await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b01_b02_bytes_arrive_whole_in_packets_of_at_most_32_kib() {
    let mut world = World::new().await;
    let source = Target::source(NODE).await;
    let header = Header { seed: 4, len: 20 << 20 };
    let id = world.call.dial(&source.to_string(), 1).await;
    // A message in two parts, and one that ends a part and begins the next.
    let wire = header.encode();
    world.call.data(id, &wire[..3]).await;
    world.call.data(id, &wire[3..]).await;
    let all = world.call.read(id, header.len).await;
    payload::assert_is(&all, header.seed, header.len);
    world.call.expect_closed(id, "").await;

    // Ten at the same time on the one call, each in its own order.
    let header = Header { seed: 5, len: 1 << 20 };
    let mut got = vec![Vec::new(); 12];
    for number in 2..12 {
        assert_eq!(world.call.dial(&source.to_string(), number).await, number);
    }
    for number in 2..12 {
        world.call.data(number, &header.encode()).await;
    }
    let mut open = 10;
    while open > 0 {
        let packet = world.call.call.next().await.unwrap();
        if let Packet::Data { connect_id, data } = packet {
            got[usize::try_from(connect_id).unwrap()].extend_from_slice(&data);
        } else if let Packet::CloseResponse { error, connect_id } = packet {
            assert_eq!(error, "");
            payload::assert_is(&got[usize::try_from(connect_id).unwrap()], header.seed, header.len);
            open -= 1;
        } else {
            panic!("{packet:?}");
        }
    }
    world.finish().await;
}

/// The real agent discards unwritten bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w06_what_came_before_a_close_is_written() {
    let mut world = World::new().await;
    let sink = Target::sink(NODE).await;
    for (number, len) in [(1_i64, 100), (2, 100_000), (3, 4_000_000)] {
        let header = Header { seed: number.unsigned_abs(), len };
        let id = world.call.dial(&sink.to_string(), number).await;
        for part in header.with_payload().chunks(60_000) {
            world.call.data(id, part).await;
        }
        world.call.close(id).await;
        world.call.expect_closed(id, "").await;
        let report = sink.report(header.seed).await;
        let expected = payload::digest(&payload::bytes(header.seed, len));
        assert_eq!((report.len, report.digest), (len, expected));
    }
    world.finish().await;
}

/// The real agent stops all connections for one target that does not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w01_a_target_that_does_not_read_loses_its_connection_alone() {
    const PART: usize = 32 * 1024;
    let mut world = World::new().await;
    let (stalls, echo) = (Target::stalls(NODE).await, Target::echo(NODE).await);
    let call = &mut world.call;
    let (stalled, healthy) = (call.dial(&stalls.to_string(), 1).await, call.dial(&echo.to_string(), 2).await);
    let part = vec![0x55; PART];
    let mut rounds = 0_u32;
    let error = loop {
        // After every megabyte the other connection has to work.
        for _ in 0..32 {
            call.data(stalled, &part).await;
        }
        call.data(healthy, &rounds.to_be_bytes()).await;
        let mut closed = None;
        let mut back = Vec::new();
        while back.len() < 4 {
            let packet = call.call.next().await.unwrap();
            if let Packet::CloseResponse { error, connect_id } = packet {
                assert_eq!(connect_id, stalled);
                closed.get_or_insert(error);
            } else if let Packet::Data { connect_id, data } = packet {
                assert_eq!(connect_id, healthy);
                back.extend_from_slice(&data);
            } else {
                panic!("{packet:?}");
            }
        }
        assert_eq!(back, rounds.to_be_bytes());
        rounds += 1;
        if let Some(error) = closed {
            break error;
        }
        assert!(rounds < 100, "100 MiB for a target that does not read");
    };
    assert!(!error.is_empty() && error != "unrecognized connectID", "{error}");
    assert_eq!(call.dial(&echo.to_string(), 3).await, 3);
    for id in [healthy, 3] {
        call.close(id).await;
        call.expect_closed(id, "").await;
    }
    drop(stalls);
    world.finish().await;
}

/// Back-pressure of a server that does not read reaches the targets; the agent keeps
/// no unbounded memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w01_a_server_that_does_not_read_slows_targets_down() {
    const STILL: Duration = Duration::from_millis(200);
    let mut world = World::new().await;
    let flood = Target::floods(NODE).await;
    world.call.dial(&flood.to_string(), 1).await;
    let mut before = 0;
    wait_for("the flood to stop", async || {
        // Not a wait for a condition: the interval is what is observed.
        sleep(STILL).await;
        let last = std::mem::replace(&mut before, flood.moved());
        if last == before && last > 0 { Ok(()) } else { Err(format!("{last} and then {before}")) }
    })
    .await;
    assert!(flood.moved() < 32 << 20, "{} bytes on their way", flood.moved());
    world.call.close(1).await;
    // Bytes in flight still arrive; then comes the end.
    loop {
        let packet = within("a packet", world.call.call.next()).await.unwrap();
        if packet == (Packet::CloseResponse { error: String::new(), connect_id: 1 }) {
            break;
        }
        assert!(matches!(packet, Packet::Data { connect_id: 1, .. }), "{packet:?}");
    }
    drop(flood);
    world.finish().await;
}

/// Packets whose payload is missing or of another type.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w03_packets_without_sense_do_not_end_an_agent() {
    let mut world = World::new().await;
    let echo = Target::echo(NODE).await;
    let messages: [&[u8]; 7] = [
        b"",
        b"\x08\x02",
        b"\x08\x04",
        b"\x08\x05",
        b"\x08\x04\x2a\x02\x08\x01",
        b"\x08\x01\x1a\x02\x18\x2a",
        b"\xff\xff\xff",
    ];
    for message in messages {
        world.call.call.message(message).await;
    }
    // The agent goes on, on this call or on a new one.
    let served = async {
        loop {
            world.call.ask(&echo.to_string(), 5).await;
            let answer = tokio::select! {
                answer = world.call.call.hear.message_or_cut() => answer,
                call = world.server.agent() => { world.call = call; continue }
            };
            if let Ok(Some(message)) = answer
                && let Ok(Packet::DialResponse { error, random: 5, .. }) = Packet::decode(message)
            {
                assert_eq!(error, "");
                return;
            }
        }
    };
    within("a dial", served).await;
    world.call.cut().await;
    world.agent.wait_until_idle().await;
    panics::assert_none();
}
