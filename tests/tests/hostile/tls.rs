//! TLS with a wrong certificate, an incomplete handshake, and no TLS.

use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tunnel::drain::Drain;
use tunnel::tls::ALPN;
use tunnel::transport::{HandshakeError, Link};
use tunnel_tests::raw::{read_to_any_end, tls};
use tunnel_tests::{AgentSpec, LINKS, Target, Who, node, open_tunnel, payload, within};

use crate::{AGENTS, CLIENTS, Siege, say};

/// The first bytes of a ClientHello whose rest never comes.
const HALF_A_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 1, 2, 3, 4];

/// No certificate, and insufficient ones, each with its reason in metrics.
const STRANGERS: [(Option<Who>, &str); 3] = [
    (None, "reason=\"certificate_missing\""),
    (Some(Who::Stranger), "reason=\"certificate_unknown_issuer\""),
    (Some(Who::Expired), "reason=\"certificate_expired\""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_frontend_wants_a_good_certificate() {
    let siege = Siege::begin().await;
    let (server, pki) = (&siege.cluster.server, &siege.cluster.pki);
    for (who, reason) in STRANGERS {
        let mut config = who.map_or_else(|| Arc::unwrap_or_clone(pki.nobody()), |who| pki.client(who));
        for alpn in [&[][..], &[b"h2".to_vec()]] {
            config.alpn_protocols = alpn.to_vec();
            let asked = async {
                // A refusal may come with the handshake, or at the first read.
                let mut tls = tls(server, Arc::new(config.clone())).await.ok()?;
                tls.write_all(format!("CONNECT {} HTTP/1.1\r\n\r\n", siege.echoes[0]).as_bytes())
                    .await
                    .ok()?;
                Some(read_to_any_end(&mut tls).await)
            };
            let answer = siege.attack("a bad certificate", (CLIENTS, reason), asked).await;
            assert_eq!(answer.unwrap_or_default(), b"", "{who:?}");
        }
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tls_is_cut_on_both_tcp_listeners() {
    let siege = Siege::begin().await;
    let server = &siege.cluster.server;
    for (addr, counter) in
        [(server.tcp, (CLIENTS, "reason=\"no_request\"")), (server.agents, (AGENTS, "reason=\"tls\""))]
    {
        let garbage = payload::bytes(3, 5_000);
        for (what, bytes) in [
            ("garbage", &garbage[..]),
            ("plain HTTP", b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n\r\n"),
            ("a record of no kind", &[99, 3, 3, 0, 5, 1, 2, 3, 4, 5]),
        ] {
            let io = Box::new(TcpStream::connect(addr).await.unwrap());
            let answer = siege.attack(what, counter, say(io, bytes)).await;
            assert!(!answer.contains("HTTP"), "{what}: {answer:?}");
        }
        // Health checks of load balancers say nothing.
        let unused = (counter.0, "reason=\"said_nothing\"");
        for (begun, counter) in [(&b""[..], unused), (HALF_A_HELLO, counter)] {
            let mut io = TcpStream::connect(addr).await.unwrap();
            let left = async {
                io.write_all(begun).await.unwrap();
                io.shutdown().await.unwrap();
                read_to_any_end(&mut io).await
            };
            siege.attack("half a handshake", counter, left).await;
        }
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_listener_of_agents_wants_a_good_certificate_on_both_links() {
    let siege = Siege::begin().await;
    let (server, pki) = (&siege.cluster.server, &siege.cluster.pki);
    for link in LINKS {
        for (who, reason) in STRANGERS {
            let mut config = Arc::unwrap_or_clone(who.map_or_else(|| pki.nobody(), |who| pki.agent(who)));
            config.alpn_protocols = vec![ALPN.to_vec()];
            let drain = Drain::new();
            let opened = async {
                let (_, control) = open_tunnel(server.agents, link, Arc::new(config), &drain).await?;
                // With TLS 1.3 an agent learns of the refusal only at its first read.
                let mut messages = tunnel::messages::control_messages(control);
                messages.recv().await.map_err(|error| HandshakeError::Lost(error.to_string()))
            };
            let counter = format!("link=\"{}\",{reason}", link.label());
            let refused = siege.attack("a bad certificate", (AGENTS, &counter), opened).await;
            assert!(!matches!(refused, Ok(Some(_))), "{who:?} on {}: {refused:?}", link.label());
            drain.kill();
        }
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_another_protocol_is_refused_on_both_links() {
    let siege = Siege::begin().await;
    for link in LINKS {
        let mut config = Arc::unwrap_or_clone(siege.cluster.pki.agent(Who::Agent));
        // Another one, and none.
        for names in [vec![b"http/1.1".to_vec()], Vec::new()] {
            config.alpn_protocols = names;
            let (drain, tls) = (Drain::new(), Arc::new(config.clone()));
            let opened = open_tunnel(siege.cluster.server.agents, link, tls, &drain);
            let counter = format!("link=\"{}\",reason=\"tls\"", link.label());
            assert!(siege.attack("another ALPN", (AGENTS, &counter), opened).await.is_err());
            drain.kill();
        }
    }
    siege.end().await;
}

/// The QUIC library drops random datagrams without a trace in the metrics, which is
/// right: anybody can send any number of them from any address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_datagrams_disturb_nobody() {
    let siege = Siege::begin().await;
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    udp.connect(siege.cluster.server.agents).await.unwrap();
    for seed in 0..3_000 {
        let mut datagram = payload::bytes(seed, 1 + payload::size(seed) % 1_400);
        // A third looks like the first packet of a handshake, a third like a
        // packet of another version, with random bytes behind the header.
        let head: &[u8] = match seed % 3 {
            0 => &[],
            1 => &[0xc3, 0, 0, 0, 1, 8],
            _ => &[0xc3, 0xba, 0xba, 0xba, 0xba, 8],
        };
        let n = head.len().min(datagram.len());
        datagram[..n].copy_from_slice(&head[..n]);
        // The socket may report an ICMP error for an earlier datagram.
        let _ = udp.send(&datagram).await;
    }
    siege.canaries_sing().await;

    let agent = siege.cluster.start_agent(&AgentSpec::new("late", Link::Quic, node(Link::Quic)));
    siege.cluster.server.wait_for_tunnels(3).await;
    let echo = Target::echo(node(Link::Quic)).await;
    let dialled = siege.cluster.server.connect(tunnel_tests::Frontend::ConnectUnix, &echo).await;
    within("the end of a connection", dialled.close()).await.unwrap();
    agent.kill().await;
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_health_listeners_survive_nonsense() {
    let siege = Siege::begin().await;
    let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(1 << 20));
    for health in [siege.cluster.server.health, siege.cluster.agents[0].health] {
        for bytes in [
            &payload::bytes(4, 10_000)[..],
            long.as_bytes(),
            HALF_A_HELLO,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            let mut io = TcpStream::connect(health).await.unwrap();
            let _ = io.write_all(bytes).await;
            let _ = io.shutdown().await;
            let answer = String::from_utf8_lossy(&read_to_any_end(&mut io).await).into_owned();
            assert!(!answer.contains(" 200 "), "{answer:?}");
        }
        assert_eq!(tunnel_tests::get(health, "/livez").await.unwrap().0, 200);
        assert_eq!(tunnel_tests::get(health, "/nothing").await.unwrap().0, 404);
    }
    siege.canaries_sing().await;
    siege.end().await;
}
