//! Packets between the clients and the agents of connections, and clients that do not read.

use tokio::io::AsyncReadExt as _;
use tunnel_proto::packet::Packet;
use tunnel_tests::{Cluster, Frontend, panics, payload, wait_for, within};

use crate::ways::{client_call, connected, connected_call, imagined, scripted, scripted_agent};

/// Waits until so many connections hold agents' bytes that no client takes.
async fn full_receive_channels(cluster: &Cluster, wanted: i64) {
    const FULL: &str = "konnectivity_network_proxy_server_full_receive_channels";
    wait_for(&format!("{wanted} full channels"), async || {
        let metrics = cluster.server.metrics().await;
        match metrics.sum(FULL, &["service_method=\"Connect\""]) {
            full if full == wanted => Ok(()),
            _ => Err(metrics.show(FULL)),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b18_packets_arrive_as_they_are_and_in_their_order() {
    let (cluster, mut agent) = scripted().await;
    assert_eq!((agent.server_id.as_str(), agent.server_count.as_str()), ("server", "1"));
    let (_channel, mut call) = client_call(&cluster).await;
    let target = imagined(10250);
    call.packet(&Packet::DialRequest { protocol: "tcp".into(), address: target.clone(), random: 4711 }).await;
    let dial = agent.call.hear.message().await.unwrap();
    // No type, since that of a dial is the default; then the dial request.
    assert_eq!((dial[0], usize::from(dial[1])), (0x12, dial.len() - 2), "{dial:x?}");
    let head = [&b"\x0a\x03tcp\x12\x0f"[..], target.as_bytes(), b"\x18"].concat();
    assert!(dial[2..].starts_with(&head), "{dial:x?}");
    let Ok(Packet::DialRequest { random, .. }) = Packet::decode(dial) else { panic!("no dial") };
    assert!(random >= 0, "{random}");

    agent.answer(random, 1).await;
    let Some(Packet::DialResponse { error, connect_id, random: 4711 }) = call.next().await else {
        panic!("no answer to the dial")
    };
    assert_eq!(error, "");
    for data in ["hello", "again"] {
        call.packet(&Packet::Data { connect_id, data: data.into() }).await;
    }
    assert_eq!(agent.read(1, 10).await, b"helloagain");
    call.packet(&Packet::Data { connect_id, data: "hello".into() }).await;
    agent.call.expect_bytes(b"\x08\x04\x22\x09\x08\x01\x1a\x05hello").await;
    agent.data(1, b"yes").await;
    call.expect(Packet::Data { connect_id, data: "yes".into() }).await;

    call.packet(&Packet::CloseRequest { connect_id }).await;
    call.expect(Packet::CloseResponse { error: String::new(), connect_id }).await;
    agent.call.expect_bytes(b"\x08\x02\x2a\x02\x08\x01").await;
    agent.closed(1).await;
    assert_eq!(call.end().await, (Vec::new(), 0, String::new()));
    cluster.finish().await;
}

/// Half a message is memory, and no stock agent sends more than 4 KiB in one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_an_agent_has_at_most_one_mebibyte() {
    const MOST: usize = 1 << 20;
    let (cluster, mut agent) = scripted().await;
    let mut client = connected(&cluster, Frontend::ConnectUnix, &mut agent, 1).await;
    // Behind the five bytes that announce the message.
    let message = |len| Packet::Data { connect_id: 1, data: vec![7; len].into() }.encode()[5..].len();
    let longest = (0..MOST).rev().find(|len| message(*len) <= MOST).unwrap();
    assert_eq!(message(longest), MOST);
    let (sent, mut data) = (vec![7; longest], vec![0; longest]);
    let (read, ()) =
        tokio::join!(within("a long message", client.read_exact(&mut data)), agent.data(1, &sent));
    read.unwrap();
    cluster.server.wait_for_tunnels(1).await;
    let announced = u32::try_from(MOST + 1).unwrap().to_be_bytes();
    agent.call.send([&[0][..], &announced].concat()).await;
    cluster.server.wait_for_tunnels(0).await;
    drop((client, agent));
    cluster.finish().await;
}

/// The packets have no flow control, so the server keeps bytes that a client does not
/// take, up to a bound. Past it that one connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b19_a_client_that_does_not_read_loses_its_connection_alone() {
    const PART: usize = 256 * 1024;
    let (cluster, mut agent) = scripted().await;
    let (_channel, mut stalled, id) = connected_call(&cluster, &mut agent, 1).await;
    let mut healthy = connected(&cluster, Frontend::ConnectUnix, &mut agent, 2).await;
    let part = vec![0x55; PART];
    let mut sent = 0;
    // Half of the bound fits, and delays no other connection.
    while sent < 16 << 20 {
        agent.data(1, &part).await;
        sent += PART;
    }
    payload::write(&mut healthy, b"x").await.unwrap();
    assert_eq!(agent.read(2, 1).await, b"x");
    agent.data(2, b"y").await;
    assert_eq!(within("a byte", healthy.read_u8()).await.unwrap(), b'y');
    full_receive_channels(&cluster, 1).await;
    while sent < 48 << 20 {
        agent.data(1, &part).await;
        sent += PART;
    }
    agent.call.expect(Packet::CloseRequest { connect_id: 1 }).await;
    // Later bytes are dropped, and delay no other connection.
    for _ in 0..3 {
        agent.data(1, &part).await;
    }
    agent.closed(1).await;
    agent.data(2, b"z").await;
    assert_eq!(within("a byte", healthy.read_u8()).await.unwrap(), b'z');
    let error = loop {
        match stalled.next().await {
            Some(Packet::Data { connect_id, .. }) if connect_id == id => {}
            Some(Packet::CloseResponse { error, connect_id }) if connect_id == id => break error,
            other => panic!("{other:?} instead of the end of the connection"),
        }
    };
    assert!(!error.is_empty(), "it ended as if that were all");
    full_receive_channels(&cluster, 0).await;
    healthy.close().await.unwrap();
    cluster.server.wait_until_idle().await;
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b20_packets_before_a_dial_or_of_another_connection_are_refused() {
    let (cluster, mut agent) = scripted().await;
    let (_channel, mut call) = client_call(&cluster).await;
    call.packet(&Packet::Data { connect_id: 9, data: "early".into() }).await;
    let error = "backend not initialized".to_owned();
    call.expect(Packet::CloseResponse { error, connect_id: 9 }).await;
    let (_channel, mut call) = client_call(&cluster).await;
    call.packet(&Packet::CloseRequest { connect_id: 9 }).await;
    let error = "backend uninitialized".to_owned();
    call.expect(Packet::CloseResponse { error, connect_id: 9 }).await;

    // Konnectivity closes both; here the packet is refused and goes nowhere.
    let (_channel, mut call, id) = connected_call(&cluster, &mut agent, 1).await;
    let other = id + 1000;
    call.packet(&Packet::Data { connect_id: other, data: "stray".into() }).await;
    let error = "unrecognized connectID".to_owned();
    call.expect(Packet::CloseResponse { error, connect_id: other }).await;
    call.packet(&Packet::Data { connect_id: id, data: "mine".into() }).await;
    assert_eq!(agent.read(1, 4).await, b"mine");
    call.packet(&Packet::CloseRequest { connect_id: id }).await;
    agent.call.expect(Packet::CloseRequest { connect_id: 1 }).await;
    agent.closed(1).await;
    cluster.finish().await;
}

/// Connections belong to the call that made them, whatever ids agents give themselves
/// and their connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b23_two_agents_of_one_id_do_not_mix() {
    let (cluster, mut older) = scripted().await;
    let mut at_older = connected(&cluster, Frontend::GrpcUnix, &mut older, 1).await;
    let mut newer = scripted_agent(&cluster, "agent-stock").await;
    cluster.server.wait_for_tunnels(2).await;
    let mut at_newer = connected(&cluster, Frontend::GrpcUnix, &mut newer, 1).await;
    let mut second = connected(&cluster, Frontend::ConnectUnix, &mut newer, 2).await;

    older.data(1, b"older").await;
    newer.data(1, b"newer").await;
    let mut read = [0; 5];
    for (connection, expected) in [(&mut at_older, b"older"), (&mut at_newer, b"newer")] {
        within("five bytes", connection.read_exact(&mut read)).await.unwrap();
        assert_eq!(&read, expected);
    }
    // The older agent has no connection 2, and cannot send for the newer agent's.
    older.data(2, b"stray").await;
    older.call.expect(Packet::CloseRequest { connect_id: 2 }).await;
    older.closed(2).await;
    newer.data(2, b"right").await;
    within("five bytes", second.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"right");

    // One client leaves, which affects no other connection.
    second.close().await.unwrap();
    newer.call.expect(Packet::CloseRequest { connect_id: 2 }).await;
    newer.closed(2).await;
    // The end of the older agent does not affect the newer one.
    drop(older);
    let mut rest = Vec::new();
    let _ = within("the end", at_older.read_to_end(&mut rest)).await;
    cluster.server.wait_for_tunnels(1).await;
    newer.data(1, b"still").await;
    within("five bytes", at_newer.read_exact(&mut read)).await.unwrap();
    assert_eq!(&read, b"still");
    at_newer.close().await.unwrap();
    newer.call.expect(Packet::CloseRequest { connect_id: 1 }).await;
    newer.closed(1).await;
    cluster.finish().await;
}
