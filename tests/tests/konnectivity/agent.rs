//! An agent of ours, on stock servers whose every packet is scripted.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;
use tunnel::transport::Link;
use tunnel_proto::packet::Packet;
use tunnel_tests::payload::{self, Header};
use tunnel_tests::stock::{AgentCall, Manners, StockServer};
use tunnel_tests::{Agent, AgentSpec, Balancer, Target, panics, wait_for, wait_within, within};

use crate::Certificates;

const NODE: std::net::Ipv4Addr = tunnel_tests::node(Link::Konnectivity);

/// Shorter than every timer: an event within it was noticed, not suspected.
const PROMPT: Duration = Duration::from_secs(3);

/// An agent of ours on a stock server.
struct World {
    agent: Agent,
    server: StockServer,
    call: AgentCall,
    certificates: Certificates,
}

fn spec() -> AgentSpec {
    AgentSpec::new("agent-ours", Link::Konnectivity, NODE)
}

impl World {
    async fn new() -> Self {
        Self::with(Manners::of("server-a")).await
    }

    async fn with(manners: Manners) -> Self {
        panics::record();
        let certificates = Certificates::make();
        let mut server = StockServer::start(&certificates.pki, manners).await;
        let agent = Agent::start(&certificates.pki, &[server.addr], &spec());
        let call = server.agent().await;
        Self { agent, server, call, certificates }
    }

    /// The end of a test.
    async fn finish(self) {
        self.agent.wait_until_idle().await;
        assert_eq!(self.call.pings(), 0, "half a minute has not passed");
        panics::assert_none();
    }
}

async fn wait_for_servers(agent: &Agent, wanted: i64) {
    wait_for(&format!("{wanted} servers at {}", agent.id), async || {
        let metrics = agent.metrics().await;
        match metrics.value("tunnel_agent_servers_connected") == wanted {
            true => Ok(()),
            false => Err(metrics.show("tunnel_agent")),
        }
    })
    .await;
}

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
    let (echo, nobody) = (Target::echo(NODE).await, Target::nobody(NODE).await);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b21_an_agent_with_a_token_sends_it_as_it_is_now() {
    let certificates = Certificates::make();
    let mut server = StockServer::start(&certificates.pki, Manners::of("server-a")).await;
    let file = certificates.path("token");
    std::fs::write(&file, "first").unwrap();
    let spec = spec().flag("service-account-token-path", &file.display().to_string());
    let agent = Agent::start(&certificates.pki, &[server.addr], &spec);
    let call = server.agent().await;
    assert_eq!(call.field("authorization"), "Bearer first");
    std::fs::write(&file, "second").unwrap();
    call.cut().await;
    assert_eq!(server.agent().await.field("authorization"), "Bearer second");
    agent.wait_until_idle().await;
    panics::assert_none();
}

/// Load balancers choose by ALPN.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b15_other_names_are_offered_in_front_of_ours() {
    let certificates = Certificates::make();
    let listener = TcpListener::bind((NODE, 0)).await.unwrap();
    let spec = spec().flag("alpn-proto", "istio,konnectivity");
    let _agent = Agent::start(&certificates.pki, &[listener.local_addr().unwrap()], &spec);
    let (tcp, _) = within("an agent", listener.accept()).await.unwrap();
    let hello = within("a hello", LazyConfigAcceptor::new(Acceptor::default(), tcp)).await.unwrap();
    let offered: Vec<_> = hello.client_hello().alpn().unwrap().collect();
    assert_eq!(offered, [&b"istio"[..], b"konnectivity", b"h2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b30_an_agent_wants_as_many_servers_as_it_is_told_and_at_least_one() {
    for (told, wanted) in [("3", 3), ("1", 1), ("0", 1)] {
        let manners = Manners { count: told.to_owned(), ..Manners::of("server-a") };
        let world = World::with(manners).await;
        wait_for(&format!("{told} servers to be known"), async || {
            let metrics = world.agent.metrics().await;
            match metrics.value("konnectivity_network_proxy_agent_known_server_count") == wanted {
                true => Ok(()),
                false => Err(metrics.show("konnectivity_network_proxy_agent")),
            }
        })
        .await;
        wait_for_servers(&world.agent, 1).await;
        assert_eq!(world.agent.readiness().await.unwrap().0, 200);
        world.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b30_leases_and_the_servers_word_are_counted_together_as_the_flag_says() {
    let certificates = Certificates::make();
    for (source, leases, wanted) in [
        ("default", Some(2), 2),
        // Leases are not known yet, so the servers' count holds.
        ("default", None, 3),
        ("", Some(0), 1),
        ("max", Some(2), 3),
        ("max", Some(5), 5),
        ("max", None, 3),
    ] {
        let manners = Manners { count: "3".to_owned(), ..Manners::of("server-a") };
        let mut server = StockServer::start(&certificates.pki, manners).await;
        let (_leases, count) = tokio::sync::watch::channel(leases);
        let spec = spec().flag("server-count-source", source);
        let agent =
            Agent::start_with(&certificates.pki, &[server.addr], &spec, |app| app.counting_leases(count));
        let _call = server.agent().await;
        agent.wait_for_servers(1, wanted).await;
        let metrics = agent.metrics().await;
        assert_eq!(metrics.value("konnectivity_network_proxy_agent_known_server_count"), wanted);
    }
    panics::assert_none();
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b04_a_dial_without_an_answer_is_given_up_after_five_seconds() {
    let mut world = World::new().await;
    let hole = Target::black_hole(NODE).await;
    let begin = Instant::now();
    world.call.ask(&hole.to_string(), 8).await;
    let error = format!("dial tcp {hole}: i/o timeout");
    world.call.call.expect(Packet::DialResponse { error, connect_id: 0, random: 8 }).await;
    let took = begin.elapsed().as_secs_f64();
    assert!((4.5..7.0).contains(&took), "{took} s");
    world.finish().await;
}

/// The real agent does not know DIAL_CLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w09_a_cancelled_dial_is_not_made() {
    let mut world = World::new().await;
    let (hole, echo) = (Target::black_hole(NODE).await, Target::echo(NODE).await);
    world.call.ask(&hole.to_string(), 8).await;
    wait_for("the dial", async || match world.agent.connections().await {
        1 => Ok(()),
        other => Err(format!("{other} connections")),
    })
    .await;
    world.call.call.packet(&Packet::CloseDial { random: 8 }).await;
    wait_within(PROMPT, "its end", async || match world.agent.connections().await {
        0 => Ok(()),
        other => Err(format!("{other} connections")),
    })
    .await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b29_a_server_that_goes_leaves_nothing_behind() {
    let mut world = World::new().await;
    let (hole, echo) = (Target::black_hole(NODE).await, Target::echo(NODE).await);
    let id = world.call.dial(&echo.to_string(), 1).await;
    world.call.data(id, b"x").await;
    assert_eq!(world.call.read(id, 1).await, b"x");
    world.call.ask(&hole.to_string(), 2).await;
    wait_for("both", async || match world.agent.connections().await {
        2 => Ok(()),
        other => Err(format!("{other} connections")),
    })
    .await;
    world.call.cut().await;
    wait_within(PROMPT, "their end", async || match world.agent.connections().await {
        0 => Ok(()),
        other => Err(format!("{other} connections")),
    })
    .await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b11_an_agent_finds_a_restarted_server() {
    let mut world = World::new().await;
    let echo = Target::echo(NODE).await;
    wait_for_servers(&world.agent, 1).await;
    assert_eq!(world.agent.readiness().await.unwrap(), (200, "ok".to_owned()));
    let port = world.server.addr.port();
    drop(world.server);
    wait_within(PROMPT, "the agent to miss its server", async || {
        match world.agent.readiness().await.unwrap() {
            (503, text) if text.contains("no servers connected") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.server = StockServer::on(&world.certificates.pki, Manners::of("server-b"), port).await;
    world.call = world.server.agent().await;
    assert_eq!(world.call.dial(&echo.to_string(), 3).await, 1);
    wait_for_servers(&world.agent, 1).await;
    world.call.close(1).await;
    world.call.expect_closed(1, "").await;
    world.finish().await;
}

/// Without a listener TCP is refused at once and QUIC is not answered. The wait for
/// QUIC must not delay the next attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b11_an_agent_that_takes_any_link_finds_a_restarted_server_as_soon() {
    let certificates = Certificates::make();
    let mut server = StockServer::start(&certificates.pki, Manners::of("server-a")).await;
    let any = spec().flag("transport", "auto");
    let agent = Agent::start(&certificates.pki, &[server.addr], &any);
    server.agent().await;
    wait_for_servers(&agent, 1).await;
    let port = server.addr.port();
    drop(server);
    wait_for_servers(&agent, 0).await;
    // The agent has tried again, in vain.
    wait_for("a failed attempt", async || {
        let metrics = agent.metrics().await;
        let lost = ["link=\"h2\"", "outcome=\"lost\""];
        match metrics.sum("tunnel_agent_tunnel_attempts_total", &lost) {
            0 => Err(metrics.show("tunnel_agent_tunnel_attempts")),
            _ => Ok(()),
        }
    })
    .await;
    let mut server = StockServer::on(&certificates.pki, Manners::of("server-b"), port).await;
    tokio::time::timeout(Duration::from_secs(5), server.agent()).await.expect("the agent's call");
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b12_behind_a_load_balancer_an_agent_finds_every_server() {
    panics::record();
    let certificates = Certificates::make();
    let echo = Target::echo(NODE).await;
    let manners = |id: &str| Manners { count: "3".to_owned(), ..Manners::of(id) };
    let mut servers = Vec::new();
    for id in ["server-a", "server-b", "server-c"] {
        servers.push(StockServer::start(&certificates.pki, manners(id)).await);
    }
    let addresses = |servers: &[StockServer]| servers.iter().map(|server| server.addr).collect::<Vec<_>>();
    let balancer = Balancer::to(&addresses(&servers));
    let agent = Agent::start(&certificates.pki, &[balancer.addr], &spec());
    wait_for_servers(&agent, 3).await;
    let gone = servers.remove(0);
    balancer.set(&addresses(&servers));
    drop(gone);
    wait_for_servers(&agent, 2).await;
    servers.push(StockServer::start(&certificates.pki, manners("server-d")).await);
    balancer.set(&addresses(&servers));
    wait_for_servers(&agent, 3).await;
    for (server, number) in servers.iter_mut().zip(1..) {
        // The agent keeps its first call; later ones were duplicates.
        let mut call = server.agent().await;
        let id = call.dial(&echo.to_string(), number).await;
        call.data(id, b"x").await;
        assert_eq!(call.read(id, 1).await, b"x");
        call.close(id).await;
        call.expect_closed(id, "").await;
    }
    agent.wait_until_idle().await;
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b13_an_agent_is_ready_as_soon_as_it_has_a_server() {
    let certificates = Certificates::make();
    let refuses = Some((2, "not now"));
    let manners = Manners { refuses, ..Manners::of("server-a") };
    let server = StockServer::start(&certificates.pki, manners).await;
    let port = server.addr.port();
    let agent = Agent::start(&certificates.pki, &[server.addr], &spec());
    // The agent is refused and tries again.
    wait_for("three attempts", async || match server.accepted() {
        0..3 => Err(format!("{} attempts", server.accepted())),
        _ => Ok(()),
    })
    .await;
    assert_eq!(agent.readiness().await.unwrap().0, 503);
    drop(server);
    let mut server = StockServer::on(&certificates.pki, Manners::of("server-a"), port).await;
    let _call = server.agent().await;
    wait_for_servers(&agent, 1).await;
    assert_eq!(agent.readiness().await.unwrap(), (200, "ok".to_owned()));
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
