//! A server of ours, with stock agents whose every packet is scripted.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::Instant;
use tunnel_proto::packet::Packet;
use tunnel_tests::stock::{GoAgent, Metadata, NotServed, StockAgent, alpn};
use tunnel_tests::{Answer, Cluster, FakeAgent, Frontend, LINKS, Target, Who, hello, node};
use tunnel_tests::{panics, payload, wait_for, within};

use crate::ways::{FRONTENDS, client_call, connected, connected_call, dialing, imagined, ping};
use crate::ways::{scripted, scripted_agent, stock_agent, wait_for_dial_failures};

/// Waits until the server has no dial under way.
async fn no_dial_pending(cluster: &Cluster) {
    wait_for("no pending dial", async || match cluster.server.metrics().await {
        metrics if metrics.value("tunnel_server_pending_dials") == 0 => Ok(()),
        metrics => Err(metrics.show("tunnel_server_pending")),
    })
    .await;
}

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
async fn b17_without_an_agent_the_answer_is_no_agent_available() {
    let cluster = Cluster::builder().start().await;
    let (_channel, mut call) = client_call(&cluster).await;
    let request = Packet::DialRequest { protocol: "tcp".into(), address: imagined(80), random: i64::MAX };
    call.packet(&request).await;
    let error = "No agent available".to_owned();
    call.expect(Packet::DialResponse { error, connect_id: 0, random: i64::MAX }).await;
    wait_for_dial_failures(&cluster.server, "no_agent", 1).await;
    cluster.finish().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b06_b18_a_dial_that_is_cancelled_is_closed_and_its_late_answer_too() {
    let (cluster, mut agent) = scripted().await;
    let target = imagined(80);
    for way in ["cancelled", "dropped", "closed"] {
        let (channel, mut call) = client_call(&cluster).await;
        let dial = Packet::DialRequest { protocol: "tcp".into(), address: target.clone(), random: 5 };
        call.packet(&dial).await;
        let (_, random) = agent.dialed().await;
        match way {
            "cancelled" => call.packet(&Packet::CloseDial { random: 5 }).await,
            "dropped" => drop((call, channel)),
            _ => call.say.cancel(),
        }
        agent.call.expect(Packet::CloseDial { random }).await;
        // Stock agents do not know that packet, and answer when they have dialled.
        agent.answer(random, 17).await;
        agent.call.expect(Packet::CloseRequest { connect_id: 17 }).await;
        agent.closed(17).await;
        no_dial_pending(&cluster).await;
    }
    // On CONNECT the client only closes its socket.
    let dial = dialing(&cluster, Frontend::ConnectUnix, target);
    let (_, random) = agent.dialed().await;
    drop(dial);
    agent.call.expect(Packet::CloseDial { random }).await;
    agent.refuse(random, "dial tcp 127.0.0.3:80: i/o timeout").await;
    wait_for_dial_failures(&cluster.server, "frontend_close", 4).await;
    cluster.finish().await;
}

/// The same on our own links: an agent that answers nothing learns of the cancellation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b06_a_cancelled_dial_is_forgotten() {
    for link in LINKS {
        let cluster = Cluster::builder().start().await;
        let silent = hello("silent", &format!("ipv4={}", node(link)));
        let agent = FakeAgent::join(&cluster, link, silent, Answer::Silence).await;
        cluster.server.wait_for_tunnels(1).await;
        for (frontend, asked) in FRONTENDS.into_iter().zip(1..) {
            let dial = dialing(&cluster, frontend, format!("{}:80", node(link)));
            wait_for("the dial", async || match agent.dials() {
                dials if dials == asked => Ok(()),
                dials => Err(format!("{dials} dials")),
            })
            .await;
            drop(dial);
            no_dial_pending(&cluster).await;
        }
        wait_for_dial_failures(&cluster.server, "frontend_close", 2).await;
        cluster.finish().await;
    }
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

/// An agent that has stopped reading, dials included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b22_an_agent_that_takes_no_dial_costs_its_limit_and_no_more() {
    let cluster = Cluster::builder().server_flag("backend-dial-timeout", "1s").start().await;
    let mut agent = scripted_agent(&cluster, "agent-stock").await;
    cluster.server.wait_for_tunnels(1).await;
    // Fills the window of the agent's call.
    let mut upload = connected(&cluster, Frontend::ConnectUnix, &mut agent, 1).await;
    let block = vec![0; 16 * 1024];
    while tokio::time::timeout(Duration::from_millis(500), upload.write_all(&block)).await.is_ok() {}

    let begin = Instant::now();
    let (status, text) = cluster.server.refusal(Frontend::ConnectUnix, &imagined(80)).await;
    assert_eq!((status, text.contains("timeout")), (Some(504), true), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    let (_, text) = cluster.server.refusal(Frontend::GrpcUnix, &imagined(80)).await;
    assert!(text.contains("timeout"), "{text}");
    no_dial_pending(&cluster).await;
    wait_for_dial_failures(&cluster.server, "backend_dial_timeout", 2).await;

    // The agent works again once it reads. Dials that were given up leave nothing
    // behind: the agent gets neither of DIAL_REQ and DIAL_CLS, or both.
    drop(upload);
    let mut open = Vec::new();
    loop {
        let packet = within("the rest", agent.call.next()).await.unwrap();
        if packet == (Packet::CloseRequest { connect_id: 1 }) {
            break;
        }
        if let Packet::DialRequest { random, .. } = packet {
            open.push(random);
        } else if let Packet::CloseDial { random } = packet {
            open.retain(|dial| *dial != random);
        } else {
            assert!(matches!(packet, Packet::Data { connect_id: 1, .. }), "{packet:?}");
        }
    }
    assert_eq!(open, [0; 0]);
    agent.closed(1).await;
    connected(&cluster, Frontend::ConnectUnix, &mut agent, 2).await.close().await.unwrap();
    agent.call.expect(Packet::CloseRequest { connect_id: 2 }).await;
    agent.closed(2).await;
    cluster.finish().await;
}

/// Konnectivity gives such an agent up for good; here others are preferred while the
/// agent reads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b22_an_agent_that_takes_no_dial_is_passed_over_where_there_is_another() {
    let cluster = Cluster::builder().start().await;
    let mut stuck = scripted_agent(&cluster, "stuck").await;
    cluster.server.wait_for_tunnels(1).await;
    let mut upload = connected(&cluster, Frontend::ConnectUnix, &mut stuck, 1).await;
    let block = vec![0; 16 * 1024];
    while tokio::time::timeout(Duration::from_millis(500), upload.write_all(&block)).await.is_ok() {}

    let node = crate::ways::Way::Stock.node();
    let healthy = stock_agent(&cluster, "healthy", &format!("ipv4={node}")).await;
    cluster.server.wait_for_tunnels(2).await;
    let echo = Target::echo(node).await;
    let begin = Instant::now();
    for _ in 0..20 {
        for frontend in FRONTENDS {
            let mut connection = cluster.server.connect(frontend, &echo).await;
            ping(&mut connection).await;
            connection.close().await.unwrap();
        }
    }
    // The first dial may have had to find that out; the others knew.
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    assert_eq!(healthy.dials(), 40);

    // The agent has seen none of these dials, and is asked again once it reads.
    drop(upload);
    loop {
        let packet = within("the rest", stuck.call.next()).await.unwrap();
        if packet == (Packet::CloseRequest { connect_id: 1 }) {
            break;
        }
        assert!(matches!(packet, Packet::Data { connect_id: 1, .. }), "{packet:?}");
    }
    stuck.closed(1).await;
    let target = echo.to_string();
    for round in 0.. {
        assert!(round < 100, "it is never asked again");
        let dial = cluster.server.dial(Frontend::ConnectUnix, &target);
        tokio::pin!(dial);
        tokio::select! {
            _ = &mut dial => {}
            (_, random) = stuck.dialed() => {
                stuck.refuse(random, "no").await;
                assert!(within("an answer", dial).await.is_err());
                break;
            }
        }
    }
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

/// The agents that are asked for a target.
async fn who(cluster: &Cluster, agents: &[(&str, &GoAgent)], target: &str) -> Vec<String> {
    let before: Vec<u64> = agents.iter().map(|(_, agent)| agent.dials()).collect();
    for frontend in FRONTENDS {
        // No target listens: the test is about the agent that is asked.
        let _ = within("a dial", cluster.server.dial(frontend, target)).await;
    }
    let asked = agents.iter().zip(before).filter(|((_, agent), before)| agent.dials() > *before);
    asked.map(|((id, _), _)| (*id).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b24_strategies_know_the_identifiers_of_stock_agents() {
    let flag = "destHost,defaultRoute,default";
    let cluster = Cluster::builder().server_flag("proxy-strategies", flag).start().await;
    let identifiers = [
        ("address", "ipv4=127.0.0.3&ipv6=%3A%3A1"),
        ("name", "host=localhost&default-route=false"),
        ("route", "default-route=true"),
        ("also-address", "ipv4=127.0.0.3"),
    ];
    let mut agents = Vec::new();
    for (id, identifiers) in identifiers {
        agents.push((id, stock_agent(&cluster, id, identifiers).await));
    }
    cluster.server.wait_for_tunnels(4).await;
    let all: Vec<(&str, &GoAgent)> = agents.iter().map(|(id, agent)| (*id, agent)).collect();
    assert_eq!(who(&cluster, &all, "[::1]:1").await, ["address"]);
    assert_eq!(who(&cluster, &all, "localhost:1").await, ["name"]);
    assert_eq!(who(&cluster, &all, "127.0.0.8:1").await, ["route"]);
    wait_for("both agents of one address to be asked", async || {
        match who(&cluster, &all, "127.0.0.3:1").await {
            asked if asked == ["address", "also-address"] => Ok(()),
            asked => Err(format!("{asked:?}")),
        }
    })
    .await;
    // The identifier falls to the other agent that has it.
    agents.remove(0);
    cluster.server.wait_for_tunnels(3).await;
    let left: Vec<(&str, &GoAgent)> = agents.iter().map(|(id, agent)| (*id, agent)).collect();
    for _ in 0..4 {
        assert_eq!(who(&cluster, &left, "127.0.0.3:1").await, ["also-address"]);
    }
    // Without a default route any agent is asked.
    agents.remove(1);
    cluster.server.wait_for_tunnels(2).await;
    let left: Vec<(&str, &GoAgent)> = agents.iter().map(|(id, agent)| (*id, agent)).collect();
    assert!(!who(&cluster, &left, "127.0.0.8:1").await.is_empty());
    drop(agents);
    cluster.server.wait_for_tunnels(0).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b25_metadata_that_makes_no_sense_is_refused_and_what_is_unknown_ignored() {
    let cluster = Cluster::builder().start().await;
    let join = async |metadata| {
        let tls = alpn(&cluster.pki, Who::Agent, &["h2"]);
        Box::pin(StockAgent::connect(cluster.server.agents, tls, metadata)).await
    };
    let of = Metadata::of;
    for (what, metadata, expected) in [
        ("no id", Metadata::empty(), Some("expected one agent ID in the context, got []")),
        ("two ids", of("a").and("agentid", "b"), Some("expected one agent ID in the context, got [a b]")),
        ("an empty id", of(""), None),
        ("two lists", of("a").and("agentidentifiers", "host=b"), None),
        ("a semicolon", of("a").identifiers("host=a;host=b"), None),
        ("half an escape", of("a").identifiers("host=%4"), None),
    ] {
        match join(metadata).await {
            Err(NotServed::Status(2, text)) => {
                assert!(expected.is_none_or(|expected| expected == text), "{what}: {text}");
                assert!(!text.is_empty(), "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    cluster.server.wait_for_tunnels(0).await;
    let odd = of("a").identifiers("uid=x&flavour=vanilla&default-route=yes").and("x-from-the-future", "1");
    let _agent = join(odd).await.unwrap();
    let _older = join(Metadata::empty().and("agentid", "b")).await.unwrap();
    cluster.server.wait_for_tunnels(2).await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b26_an_agent_that_drains_is_dialled_only_where_there_is_no_other() {
    for strategies in ["destHost", "default"] {
        let cluster = Cluster::builder().server_flag("proxy-strategies", strategies).start().await;
        let goes = stock_agent(&cluster, "goes", "ipv4=127.0.0.3&ipv4=127.0.0.4").await;
        let stays = stock_agent(&cluster, "stays", "ipv4=127.0.0.3").await;
        cluster.server.wait_for_tunnels(2).await;
        let both = [("goes", &goes), ("stays", &stays)];
        goes.drain().await;
        wait_for("the server to have heard of it", async || {
            match who(&cluster, &both, "127.0.0.3:1").await {
                asked if asked == ["stays"] => Ok(()),
                asked => Err(format!("{asked:?}")),
            }
        })
        .await;
        for _ in 0..10 {
            assert_eq!(who(&cluster, &both, "127.0.0.3:1").await, ["stays"]);
        }
        if strategies == "destHost" {
            assert_eq!(who(&cluster, &both, "127.0.0.4:1").await, ["goes"], "other hosts are not concerned");
        }
        drop(stays);
        cluster.server.wait_for_tunnels(1).await;
        assert_eq!(who(&cluster, &[("goes", &goes)], "127.0.0.3:1").await, ["goes"]);
        drop(goes);
        cluster.server.wait_for_tunnels(0).await;
        cluster.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b27_agents_connections_and_their_lives_are_counted() {
    let flag = "default,destHost,defaultRoute";
    let cluster = Cluster::builder().server_flag("proxy-strategies", flag).start().await;
    let server = &cluster.server;
    let value = async |name: &str| {
        let name = format!("konnectivity_network_proxy_server_{name}");
        server.metrics().await.value(&name)
    };
    let backends = async || {
        let metrics = server.metrics().await;
        ["default", "destHost", "defaultRoute"].map(|strategy| {
            let label = format!("proxy_strategy=\"{strategy}\"");
            metrics.sum("konnectivity_network_proxy_server_ready_backends", &[&label])
        })
    };
    assert_eq!((backends().await, value("ready_backend_connections").await), ([0; 3], 0));
    let plain = stock_agent(&cluster, "plain", "").await;
    let named = stock_agent(&cluster, "named", "ipv4=127.0.0.3&default-route=true").await;
    server.wait_for_tunnels(2).await;
    assert_eq!((backends().await, value("ready_backend_connections").await), ([2, 1, 1], 2));

    let echo = Target::echo([127, 0, 0, 3].into()).await;
    let mut open = Vec::new();
    for (frontend, established) in FRONTENDS.into_iter().zip(1..) {
        let mut connection = server.connect(frontend, &echo).await;
        ping(&mut connection).await;
        open.push(connection);
        assert_eq!(value("established_connections").await, established);
    }
    assert_eq!(value("connection_duration_seconds_count").await, 0);
    drop(open);
    server.wait_until_idle().await;
    assert_eq!(value("established_connections").await, 0);
    assert_eq!(value("connection_duration_seconds_count").await, 2);
    for agent in [plain, named] {
        agent.wait_until_idle().await;
    }
    server.wait_for_tunnels(0).await;
    assert_eq!(backends().await, [0; 3]);
    cluster.finish().await;
}

/// A stock agent drops all its connections on GOAWAY.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_agent_is_not_sent_away_for_its_pings_nor_by_a_drain() {
    let cluster = Cluster::builder().server_flag("graceful-shutdown-timeout", "30s").start().await;
    let mut agent = scripted_agent(&cluster, "agent-stock").await;
    cluster.server.wait_for_tunnels(1).await;
    for _ in 0..20 {
        within("a pong", agent.ping()).await.unwrap();
    }
    let mut kept = connected(&cluster, Frontend::GrpcUnix, &mut agent, 1).await;
    cluster.server.drain();
    wait_for("the server to drain", async || match cluster.server.readiness().await.unwrap() {
        (500, text) if text.contains("draining") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    for round in 0..20 {
        assert!(!agent.is_told_to_go().await, "after {round} rounds");
        agent.data(1, &[round]).await;
        assert_eq!(within("a byte", kept.read_u8()).await.unwrap(), round);
    }
    kept.close().await.unwrap();
    agent.call.expect(Packet::CloseRequest { connect_id: 1 }).await;
    agent.closed(1).await;
    cluster.server.ended(Duration::from_secs(10)).await;
    panics::assert_none();
}

/// Certificates of another authority, expired ones, a server's, and none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_agent_needs_the_right_certificate() {
    let cluster = Cluster::builder().start().await;
    for who in [Who::Stranger, Who::Expired, Who::Server] {
        let tls = alpn(&cluster.pki, who, &["h2"]);
        let joined = Box::pin(StockAgent::connect(cluster.server.agents, tls, Metadata::of("a"))).await;
        assert!(matches!(joined, Err(NotServed::Connection(_) | NotServed::Cut(_))), "{who:?}: {joined:?}");
    }
    let mut nobody = rustls::ClientConfig::clone(&cluster.pki.nobody());
    nobody.alpn_protocols = vec![b"h2".to_vec()];
    let joined = StockAgent::connect(cluster.server.agents, nobody.into(), Metadata::of("a"));
    let joined = Box::pin(joined).await;
    assert!(matches!(joined, Err(NotServed::Connection(_) | NotServed::Cut(_))), "{joined:?}");
    cluster.server.wait_for_tunnels(0).await;
    cluster.finish().await;
}

/// Both kinds of agents on one server, as during a migration.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_agents_and_ours_share_a_server() {
    let cluster = Cluster::on_both_links().await;
    let stock = stock_agent(&cluster, "agent-stock", "ipv4=127.0.0.3").await;
    cluster.server.wait_for_tunnels(3).await;
    for ip in [[127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]] {
        let echo = Target::echo(ip.into()).await;
        for frontend in Frontend::ALL {
            let mut connection = cluster.server.connect(frontend, &echo).await;
            ping(&mut connection).await;
            connection.close().await.unwrap();
        }
    }
    assert_eq!(stock.dials(), 4);
    stock.wait_until_idle().await;
    cluster.finish().await;
}
