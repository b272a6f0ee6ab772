//! Konnectivity's defects, absent here even where one side of the link is
//! Konnectivity's.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tunnel_proto::packet::Packet;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::stock::{Metadata, StockAgent};
use tunnel_tests::{Canary, Cluster, Frontend, Target, panics, wait_for, within};

use crate::ways::{FRONTENDS, Fleet, Way, client_call, connected, imagined, on_every_way, ping, scripted};
use crate::ways::{scripted_agent, stock_agent};

/// In Konnectivity one client that does not read stops all connections of its agent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w01_clients_that_do_not_read_stop_nobody() {
    let fleet = Fleet::on(Way::Stock).await;
    let (flood, echo) = (Target::floods(fleet.node).await, Target::echo(fleet.node).await);
    let mut stalled = Vec::new();
    for frontend in Frontend::ALL {
        stalled.push(fleet.server().connect(frontend, &flood).await);
    }
    for frontend in FRONTENDS {
        for _ in 0..10 {
            ping(&mut fleet.server().connect(frontend, &echo).await).await;
        }
    }
    drop(stalled);
    drop(flood);
    fleet.finish().await;
}

/// In Konnectivity any of these ends the process of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w03_packets_without_sense_hurt_at_most_their_sender() {
    let cluster = Cluster::builder().start().await;
    let good = stock_agent(&cluster, "good", "ipv4=127.0.0.4").await;
    cluster.server.wait_for_tunnels(1).await;
    let echo = Target::echo([127, 0, 0, 4].into()).await;
    let healthy = cluster.server.connect(Frontend::GrpcUnix, &echo).await;
    let canary = Canary::new("the stock link".to_owned(), healthy);
    let messages: [&[u8]; 14] = [
        b"",         // an empty packet, which is a dial request
        b"\x08\x01", // DIAL_RSP, CLOSE_REQ, CLOSE_RSP, DATA, DIAL_CLS without payload
        b"\x08\x02",
        b"\x08\x03",
        b"\x08\x04",
        b"\x08\x05",
        b"\x08\x06",                     // DRAIN, which has none
        b"\x08\x63",                     // a type of the future
        b"\x08\x03\x22\x03\x08\x01\x1a", // CLOSE_RSP with data, cut short
        b"\x08\x04\x32\x02\x10\x01",     // DATA with the payload of CLOSE_RSP
        b"\x08\x01\x1a\x02\x18\x2a",     // an answer to nothing
        b"\x08\x01\x1a\x0d\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x18\x2a", // connection -1
        b"\x08\x04\x22\x02\x08\x00",     // data of connection 0
        b"\xff\xff\xff\xff\xff",         // no protobuf at all
    ];
    for message in messages {
        let before = canary.round();
        let mut bad = scripted_agent(&cluster, "bad").await;
        cluster.server.wait_for_tunnels(2).await;
        let mut kept = connected(&cluster, Frontend::ConnectUnix, &mut bad, 1).await;
        bad.call.message(message).await;
        // The sender's stream may end; other streams are not disturbed.
        bad.data(1, b"x").await;
        let _ = within("a byte or the end", kept.read_u8()).await;
        canary.sings_since(before).await;
        drop((kept, bad));
        cluster.server.wait_for_tunnels(1).await;
    }
    let before = canary.round();
    let mut bad = scripted_agent(&cluster, "bad").await;
    cluster.server.wait_for_tunnels(2).await;
    // The length prefix announces a message of 4 GiB.
    bad.call.send(&b"\0\xff\xff\xff\xff"[..]).await;
    bad.call.send(vec![0; 100_000]).await;
    cluster.server.wait_for_tunnels(1).await;
    canary.sings_since(before).await;
    assert!(!good.has_left());
    panics::assert_none();
}

/// In Konnectivity they take as much memory as there are agents.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_agents_that_do_not_end_take_no_more_than_the_budget() {
    let cluster = Cluster::builder().server_flag("max-stalled-memory", "2097152").start().await;
    let kept = async || cluster.server.metrics().await.value("tunnel_server_stalled_bytes");
    let half = [&[0, 0, 0x0f, 0xff, 0xff][..], &[7; 900_000]].concat();
    let mut agents = Vec::new();
    for number in 0..5 {
        agents.push(scripted_agent(&cluster, &format!("half-{number}")).await);
    }
    cluster.server.wait_for_tunnels(5).await;
    for agent in &mut agents {
        agent.send_until_told_to_go(&half).await;
        assert!(kept().await <= 2 << 20);
    }
    // Two of them fit.
    cluster.server.wait_for_tunnels(2).await;
    drop(agents);
    // The memory of a tunnel is given back after its end is known.
    wait_for("memory that is given back", async || match kept().await {
        0 => Ok(()),
        bytes => Err(format!("{bytes} bytes")),
    })
    .await;
    cluster.server.wait_for_tunnels(0).await;
    cluster.finish().await;
}

/// In Konnectivity an agent dials whatever network a client names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w05_other_networks_than_tcp_are_not_dialled() {
    let (cluster, agent) = scripted().await;
    for protocol in ["unix", "udp", "tcp6", ""] {
        let (_channel, mut call) = client_call(&cluster).await;
        let address = imagined(80);
        call.packet(&Packet::DialRequest { protocol: protocol.into(), address, random: 1 }).await;
        let error = format!("dial {protocol}: unknown network {protocol}");
        call.expect(Packet::DialResponse { error, connect_id: 0, random: 1 }).await;
    }
    drop(agent);
    cluster.server.wait_for_tunnels(0).await;
    cluster.finish().await;
}

/// In Konnectivity most connections that write and close lose bytes. A stock agent
/// drops unwritten bytes on CLOSE_REQ, so our server sends it 250 ms after the last byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w06_what_is_written_before_a_close_arrives() {
    on_every_way(async |way, fleet| {
        let sink = &Target::sink(way.node()).await;
        let write = async |frontend: Frontend, seed, len| {
            let header = Header { seed, len };
            let mut connection = fleet.server().connect(frontend, sink).await;
            payload::write(&mut connection, &header.with_payload()).await.unwrap();
            match frontend {
                // A kube-apiserver closes without a half-close.
                Frontend::ConnectUnix => drop(connection),
                Frontend::ConnectMtls | Frontend::GrpcUnix | Frontend::GrpcMtls => {
                    connection.close().await.unwrap();
                }
            }
            let report = sink.report(seed).await;
            let expected = payload::digest(&payload::bytes(seed, len));
            assert_eq!((report.len, report.digest), (len, expected), "{frontend:?} over {way:?}");
        };
        // All at once, because the wait before a close differs by link.
        let [a, b, c, d] = Frontend::ALL;
        tokio::join!(
            async {
                write(a, 1, 100).await;
                write(a, 2, 1_000_000).await;
            },
            write(b, 3, 100_000),
            async {
                write(c, 4, 100).await;
                write(c, 5, 1_000_000).await;
            },
            write(d, 6, 100_000),
        );
        fleet.finish().await;
    })
    .await;
}

/// In Konnectivity a client that half-closes gets no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w06_a_client_that_has_finished_still_gets_its_answer() {
    on_every_way(async |way, fleet| {
        // The half-close itself reaches targets only on our own links.
        let target = Target::answers(way.node(), way != Way::Stock).await;
        for frontend in [Frontend::ConnectUnix, Frontend::ConnectMtls] {
            let header = Header { seed: 9, len: 50_000 };
            let mut connection = fleet.server().connect(frontend, &target).await;
            payload::write(&mut connection, &header.with_payload()).await.unwrap();
            within("a half-close", connection.shutdown()).await.unwrap();
            let answer = within("an answer", payload::read_all(&mut connection)).await.unwrap();
            let (digest, again) = answer.split_at(32);
            assert_eq!(digest, payload::digest(&payload::bytes(9, header.len)), "{frontend:?} over {way:?}");
            payload::assert_is(again, 9, header.len);
        }
        fleet.finish().await;
    })
    .await;
}

/// In Konnectivity the first bytes of a target overtake the answer to CONNECT.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w07_the_answer_comes_before_the_first_byte_of_a_target() {
    let (cluster, mut agent) = scripted().await;
    for connect_id in 1..=20 {
        let target = imagined(22);
        let (_channel, mut call) = client_call(&cluster).await;
        let dial = Packet::DialRequest { protocol: "tcp".into(), address: target, random: 3 };
        call.packet(&dial).await;
        let (_, random) = agent.dialed().await;
        // Answer and data in one write.
        let answer = Packet::DialResponse { error: String::new(), connect_id, random }.encode();
        let banner = Packet::Data { connect_id, data: Bytes::from_static(b"SSH-2.0") }.encode();
        agent.call.send([answer, banner].concat()).await;
        let Some(Packet::DialResponse { error, connect_id: id, .. }) = call.next().await else {
            panic!("something came before the answer")
        };
        assert_eq!(error, "");
        call.expect(Packet::Data { connect_id: id, data: "SSH-2.0".into() }).await;
        call.packet(&Packet::CloseRequest { connect_id: id }).await;
        call.expect(Packet::CloseResponse { error: String::new(), connect_id: id }).await;
        agent.call.expect(Packet::CloseRequest { connect_id }).await;
        agent.closed(connect_id).await;
    }
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w07_targets_that_speak_first_are_heard_after_the_answer() {
    on_every_way(async |way, fleet| {
        let target = Target::speaks_first(way.node()).await;
        for round in 0..4 {
            for frontend in FRONTENDS {
                let mut connection = fleet.server().connect(frontend, &target).await;
                assert!(!connection.early(), "{frontend:?} over {way:?}, round {round}");
                let header = within("a header", Header::read(&mut connection)).await.unwrap();
                let mut heard = vec![0; header.len];
                within("a payload", connection.read_exact(&mut heard)).await.unwrap();
                payload::assert_is(&heard, header.seed, header.len);
                payload::write(&mut connection, &heard).await.unwrap();
                let mut digest = [0; 32];
                within("a digest", connection.read_exact(&mut digest)).await.unwrap();
                assert_eq!(digest, payload::digest(&heard));
            }
        }
        fleet.finish().await;
    })
    .await;
}

/// In Konnectivity dials that an agent does not answer stay for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w08_dials_without_an_answer_end() {
    let cluster = Cluster::builder().server_flag("backend-dial-timeout", "500ms").start().await;
    let mut agent = scripted_agent(&cluster, "frozen").await;
    cluster.server.wait_for_tunnels(1).await;
    for frontend in FRONTENDS {
        let (status, text) = cluster.server.refusal(frontend, &imagined(80)).await;
        assert_eq!(status, (!frontend.is_grpc()).then_some(504));
        assert!(text.contains("timeout"), "{text}");
        let (_, random) = agent.dialed().await;
        agent.call.expect(Packet::CloseDial { random }).await;
        agent.answer(random, 5).await;
        agent.call.expect(Packet::CloseRequest { connect_id: 5 }).await;
        agent.closed(5).await;
    }
    cluster.finish().await;
}

/// In Konnectivity a dial is lost with its agent, or waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w11_a_dial_whose_agent_dies_goes_to_another() {
    let cluster = Cluster::builder().start().await;
    let serves = "ipv4=127.0.0.3";
    let good = stock_agent(&cluster, "good", serves).await;
    cluster.server.wait_for_tunnels(1).await;
    let echo = Target::echo([127, 0, 0, 3].into()).await;
    for frontend in FRONTENDS {
        // Keeps this agent busy, so that the other one is asked soon.
        let busy = cluster.server.connect(frontend, &echo).await;
        let metadata = Metadata::of("dies").identifiers(serves);
        let mut dies = Some(StockAgent::join(cluster.server.agents, &cluster.pki, metadata).await);
        cluster.server.wait_for_tunnels(2).await;
        for _ in 0..100 {
            let target = echo.to_string();
            let dial = cluster.server.connect(frontend, &target);
            let mut connection = match &mut dies {
                None => dial.await,
                Some(agent) => {
                    tokio::pin!(dial);
                    tokio::select! {
                        connection = &mut dial => connection,
                        _ = agent.dialed() => {
                            dies = None;
                            dial.await
                        }
                    }
                }
            };
            ping(&mut connection).await;
            if dies.is_none() {
                break;
            }
        }
        assert!(dies.is_none(), "it was never asked");
        cluster.server.wait_for_tunnels(1).await;
        drop(busy);
    }
    good.wait_until_idle().await;
    cluster.finish().await;
}

/// In Konnectivity these gauges grow for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w17_gauges_go_back_to_nothing() {
    on_every_way(async |way, mut fleet| {
        let echo = Target::echo(way.node()).await;
        let mut open = Vec::new();
        for frontend in Frontend::ALL {
            let mut connection = fleet.server().connect(frontend, &echo).await;
            ping(&mut connection).await;
            open.push(connection);
        }
        assert_eq!(fleet.server().metrics().await.sum("tunnel_server_connections", &[]), 4);
        // Two leave, and two lose their agent.
        open.truncate(2);
        wait_for("two to be left", async || {
            match fleet.server().metrics().await.sum("tunnel_server_connections", &[]) {
                2 => Ok(()),
                other => Err(format!("{other} connections")),
            }
        })
        .await;
        fleet.kill_agent().await;
        fleet.server().wait_until_idle().await;
        drop(open);
        fleet.finish().await;
    })
    .await;
}

/// In Konnectivity a drain cuts connections, and an agent's drain never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w10_a_server_that_drains_lets_connections_of_stock_agents_finish() {
    let cluster = Cluster::builder().server_flag("graceful-shutdown-timeout", "30s").start().await;
    let stock = stock_agent(&cluster, "agent-stock", "ipv4=127.0.0.3").await;
    cluster.server.wait_for_tunnels(1).await;
    let echo = Target::echo([127, 0, 0, 3].into()).await;
    let mut kept = cluster.server.connect(Frontend::GrpcUnix, &echo).await;
    ping(&mut kept).await;
    cluster.server.drain();
    wait_for("the server to drain", async || match cluster.server.readiness().await.unwrap() {
        (500, text) if text.contains("draining") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    for _ in 0..20 {
        ping(&mut kept).await;
        assert!(!stock.has_left());
    }
    kept.close().await.unwrap();
    cluster.server.ended(Duration::from_secs(10)).await;
    panics::assert_none();
}
