//! The scripted agents and servers themselves: against each other, byte for byte.

use h2::{Ping, Reason};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tunnel_proto::packet::Packet;
use tunnel_tests::stock::{GoAgent, Manners, Metadata, NotServed, StockAgent, StockServer, alpn};
use tunnel_tests::{Target, Who, payload, spawn, wait_for, within};

use crate::{Certificates, LOCAL};

#[tokio::test]
async fn an_agent_says_who_it_is_and_packets_have_their_bytes() {
    let Certificates { pki, .. } = &Certificates::make();
    let mut server = StockServer::start(pki, Manners::of("server-a")).await;
    let metadata = Metadata::of("agent-a").identifiers("ipv4=10.0.0.1").and("authorization", "Bearer t");
    let (mut agent, mut call) = tokio::join!(StockAgent::join(server.addr, pki, metadata), server.agent());
    assert_eq!((agent.server_id.as_str(), agent.server_count.as_str()), ("server-a", "1"));
    for (name, value) in
        [("agentid", "agent-a"), ("agentidentifiers", "ipv4=10.0.0.1"), ("authorization", "Bearer t")]
    {
        assert_eq!(call.field(name), value);
    }

    call.ask("10.99.0.1:10250", 42).await;
    call.data(1, b"hello").await;
    call.close(1).await;
    call.call.packet(&Packet::CloseDial { random: 42 }).await;
    let dial_request = b"\x12\x18\x0a\x03tcp\x12\x0f10.99.0.1:10250\x18\x2a";
    agent.call.expect_bytes(dial_request).await;
    agent.call.expect_bytes(b"\x08\x04\x22\x09\x08\x01\x1a\x05hello").await;
    agent.call.expect_bytes(b"\x08\x02\x2a\x02\x08\x01").await;
    agent.call.expect_bytes(b"\x08\x05\x3a\x02\x08\x2a").await;

    agent.answer(42, 1).await;
    agent.refuse(-1, "no").await;
    agent.closed(300).await;
    agent.call.packet(&Packet::CloseResponse { error: "x".into(), connect_id: 9 }).await;
    agent.call.packet(&Packet::Drain).await;
    call.call.expect_bytes(b"\x08\x01\x1a\x04\x10\x01\x18\x2a").await;
    let minus_one = b"\x08\x01\x1a\x0f\x0a\x02no\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    call.call.expect_bytes(minus_one).await;
    call.call.expect_bytes(b"\x08\x03\x32\x03\x10\xac\x02").await;
    call.call.expect_bytes(b"\x08\x03\x32\x05\x0a\x01x\x10\x09").await;
    call.call.expect_bytes(b"\x08\x06\x42\x00").await;
}

#[tokio::test]
async fn the_automatic_agent_does_what_the_real_one_does() {
    let Certificates { pki, .. } = &Certificates::make();
    let mut server = StockServer::start(pki, Manners::of("server-a")).await;
    let (agent, mut call) =
        tokio::join!(GoAgent::join(server.addr, pki, Metadata::of("agent-a")), server.agent());
    let (echo, nobody) = (Target::echo(LOCAL).await, Target::nobody(LOCAL));

    assert_eq!(call.dial(&echo.to_string(), 7).await, 1);
    call.ask(&nobody.to_string(), 8).await;
    let error = format!("dial tcp {nobody}: connect: connection refused");
    call.call.expect(Packet::DialResponse { error, connect_id: 0, random: 8 }).await;
    assert_eq!(call.dial(&echo.to_string(), 9).await, 3, "dials that fail are counted too");

    let sent = payload::bytes(1, 20_000);
    call.data(1, &sent).await;
    payload::assert_is(&call.read(1, sent.len()).await, 1, sent.len());
    call.data(99, b"?").await;
    call.expect_closed(99, "unrecognized connectID").await;
    for error in ["", "Unknown connectID"] {
        call.close(1).await;
        call.expect_closed(1, error).await;
    }
    call.call.packet(&Packet::CloseDial { random: 9 }).await;
    call.data(0, b"of no connection").await;
    call.data(3, b"still there").await;
    assert_eq!(call.read(3, 11).await, b"still there");
    assert_eq!((agent.ignored(), agent.dials(), agent.connections()), (1, 3, 1));

    agent.drain().await;
    call.call.expect(Packet::Drain).await;
    assert!(!agent.has_left());
    call.go_away().await;
    wait_for("the agent to leave", async || if agent.has_left() { Ok(()) } else { Err(String::new()) }).await;
}

#[tokio::test]
async fn a_target_that_closes_is_told_of_after_its_last_byte_in_packets_of_4_kib() {
    let Certificates { pki, .. } = &Certificates::make();
    let mut server = StockServer::start(pki, Manners::of("server-a")).await;
    let (agent, mut call) =
        tokio::join!(GoAgent::join(server.addr, pki, Metadata::of("agent-a")), server.agent());
    let source = Target::source(LOCAL).await;
    let header = payload::Header { seed: 3, len: 100_000 };
    call.dial(&source.to_string(), 1).await;
    call.data(1, &header.encode()).await;
    let mut got = Vec::new();
    while got.len() < header.len {
        let Some(Packet::Data { connect_id: 1, data }) = call.call.next().await else { panic!("no data") };
        assert!(data.len() <= 4096);
        got.extend_from_slice(&data);
    }
    payload::assert_is(&got, header.seed, header.len);
    call.expect_closed(1, "").await;
    agent.wait_until_idle().await;
}

#[tokio::test]
async fn a_server_hangs_up_on_whoever_pings_too_often_or_has_no_alpn() {
    let Certificates { pki, .. } = &Certificates::make();
    let mut server = StockServer::start(pki, Manners::of("server-a")).await;
    let connected = StockAgent::connect(server.addr, alpn(pki, Who::Agent, &[]), Metadata::of("a")).await;
    assert!(matches!(connected, Err(NotServed::Connection(_))), "{connected:?}");

    let tcp = TcpStream::connect(server.addr).await.unwrap();
    let tls = TlsConnector::from(alpn(pki, Who::Agent, &["h2"]));
    let tls = tls.connect("127.0.0.1".try_into().unwrap(), tcp).await.unwrap();
    let (requests, mut connection) = h2::client::handshake(tls).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let driver = spawn(connection);
    let call = async {
        let request = http::Request::post("https://x/AgentService/Connect").header("agentid", "a");
        let request = request.header("content-type", "application/grpc").body(()).unwrap();
        let (response, say) = requests.ready().await.unwrap().send_request(request, false).unwrap();
        (response.await.unwrap(), say)
    };
    let (_answer, call) = tokio::join!(call, server.agent());
    for _ in 0..3 {
        within("a pong", pings.ping(Ping::opaque())).await.unwrap();
    }
    assert_eq!(call.pings(), 3);
    // Answered or not, this ping exceeds the limit.
    let _ = within("an answer", pings.ping(Ping::opaque())).await;
    let cut = within("the end of the connection", driver.join()).await.unwrap_err();
    assert_eq!(cut.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_server_refuses_in_its_own_words() {
    let Certificates { pki, .. } = &Certificates::make();
    let refuses = Some((2, "expected one agent ID in the context, got []"));
    let server = StockServer::start(pki, Manners { refuses, ..Manners::of("server-a") }).await;
    let tls = alpn(pki, Who::Agent, &["h2"]);
    let refused = StockAgent::connect(server.addr, tls, Metadata::empty()).await;
    let Err(NotServed::Status(2, text)) = refused else { panic!("{refused:?}") };
    assert_eq!(text, "expected one agent ID in the context, got []");
}
