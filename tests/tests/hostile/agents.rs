//! Agents with a good certificate and bad manners.

use std::time::Duration;

use bytes::Bytes;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tunnel::drain::Drain;
use tunnel::messages::{Messages, control_messages, greeting};
use tunnel::transport::{Link, Tunnel};
use tunnel_proto::message::{
    Control, Drain as DrainNotice, Hello, Ping, Pong, RejectionKind, Renew, decode_control, encode_control,
};
use tunnel_tests::{
    Agent, AgentSpec, Cluster, FakeServer, Frontend, LINKS, Target, Who, hello, node, open_tunnel, payload,
    wait_for, within,
};

use crate::{AGENTS, Siege, say, say_and_leave};

/// A tunnel without a greeting.
struct Stranger {
    tunnel: Tunnel,
    messages: Messages,
    drain: Drain,
}

impl Stranger {
    async fn come(siege: &Siege, link: Link) -> Self {
        let (cluster, drain) = (&siege.cluster, Drain::new());
        let opened = open_tunnel(cluster.server.agents, link, cluster.pki.agent(Who::Agent), &drain);
        let (tunnel, control) = within("a tunnel", opened).await.unwrap();
        Self { tunnel, messages: control_messages(control), drain }
    }

    /// A tunnel of an agent that is admitted, and keeps it.
    async fn admitted(siege: &Siege, link: Link, id: &str) -> Self {
        let mut stranger = Self::come(siege, link).await;
        stranger.say(encode_control(Control::Hello(hello(id, ""))).unwrap()).await;
        let welcome = within("a welcome", greeting(&mut stranger.messages)).await.unwrap();
        assert!(matches!(welcome, Control::Welcome(_)), "{welcome:?}");
        // The first heartbeat says that the agent keeps the tunnel.
        stranger.say(encode_control(Control::Ping(Ping { number: 1, ..Ping::default() })).unwrap()).await;
        siege.cluster.server.wait_for_tunnels(3).await;
        stranger
    }

    async fn say(&mut self, bytes: impl Into<Bytes>) {
        // The write may be cut off.
        let _ = self.messages.send(bytes.into()).await;
    }

    /// Waits until the server has closed the tunnel.
    async fn until_dropped(self) {
        self.tunnel.closed().await;
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.drain.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_greet_is_dropped() {
    let siege = Siege::begin().await;
    let ping = encode_control(Control::Ping(Ping { number: 1, ..Ping::default() })).unwrap();
    let long = [&[0xff, 0xff][..], &payload::bytes(5, 65_535)].concat();
    for link in LINKS {
        let counter = format!("link=\"{}\",reason=\"no_hello\"", link.label());
        for (what, bytes) in [
            ("garbage", Bytes::from_static(&[0, 5, 0xff, 0xff, 0xff, 0xff, 0xff])),
            ("an empty message", Bytes::from_static(&[0, 0])),
            ("a greeting over the limit", long.clone().into()),
            ("a heartbeat", ping.clone()),
        ] {
            let mut stranger = Stranger::come(&siege, link).await;
            let dropped = async {
                stranger.say(bytes).await;
                stranger.until_dropped().await;
            };
            siege.attack(what, (AGENTS, &counter), dropped).await;
        }
        let mut stranger = Stranger::come(&siege, link).await;
        stranger.say(Bytes::from_static(&[0, 9, 1])).await;
        let dropped = async {
            stranger.messages.finish().await.unwrap();
            stranger.until_dropped().await;
        };
        siege.attack("half a greeting", (AGENTS, &counter), dropped).await;
    }
    assert_eq!(siege.cluster.server.metrics().await.sum("tunnel_server_tunnels", &[]), 2);
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_greets_wrongly_is_told_why() {
    let siege = Siege::begin().await;
    let many = "host=a&".repeat(600);
    let long = "a".repeat(254);
    let of_version = |version| Hello { version, ..hello("agent", "") };
    let cases = [
        (of_version(0), RejectionKind::Version, "version 1 of the protocol, the agent 0"),
        (of_version(2), RejectionKind::Version, "version 1 of the protocol, the agent 2"),
        (of_version(u32::MAX), RejectionKind::Version, "version 1 of the protocol"),
        (hello("", ""), RejectionKind::Identity, "an agent id is"),
        (hello("a b", ""), RejectionKind::Identity, "an agent id is"),
        (hello("a\nb", ""), RejectionKind::Identity, "an agent id is"),
        (hello(&long, ""), RejectionKind::Identity, "an agent id is"),
        (hello("agent", "host=a;host=b"), RejectionKind::Identity, "not a url query"),
        (hello("agent", "host=%4"), RejectionKind::Identity, "not a url query"),
        (hello("agent", &many), RejectionKind::Identity, "too many"),
    ];
    for link in LINKS {
        let counter = format!("link=\"{}\",reason=\"rejected\"", link.label());
        for (hello, kind, text) in &cases {
            let mut stranger = Stranger::come(&siege, link).await;
            let told = async {
                stranger.say(encode_control(Control::Hello(hello.clone())).unwrap()).await;
                let answer = greeting(&mut stranger.messages).await.unwrap();
                stranger.messages.finish().await.unwrap();
                stranger.until_dropped().await;
                answer
            };
            let answer = siege.attack(text, (AGENTS, &counter), told).await;
            let Control::Rejection(rejection) = answer else { panic!("{answer:?} instead of: {text}") };
            assert_eq!(RejectionKind::from_code(rejection.code), *kind);
            assert!(rejection.text.contains(text), "{}", rejection.text);
        }
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_talks_nonsense_later_is_disconnected() {
    let siege = Siege::begin().await;
    for link in LINKS {
        let counter = format!("link=\"{}\"", link.label());
        for bytes in [&[0, 5, 0xff, 0xff, 0xff, 0xff, 0xff][..], &[0xff, 0xff, 1]] {
            let disconnected = async {
                let mut stranger = Stranger::admitted(&siege, link, "turns").await;
                stranger.say(bytes).await;
                stranger.until_dropped().await;
            };
            let closed = ("tunnel_server_tunnels_closed_total", &counter[..]);
            siege.attack("later nonsense", closed, disconnected).await;
            siege.cluster.server.wait_for_tunnels(2).await;
        }
    }
    siege.end().await;
}

/// After a good TLS handshake, on h2: there a protocol lies below ours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_speak_http2_is_dropped() {
    let siege = Siege::begin().await;
    let (server, pki) = (siege.cluster.server.agents, &siege.cluster.pki);
    let open = async || {
        let tcp = TcpStream::connect(server).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        Box::new(TlsConnector::from(pki.agent(Who::Agent)).connect(name, tcp).await.unwrap())
    };
    let counter = (AGENTS, "link=\"h2\"");
    let garbage = payload::bytes(6, 100_000);
    siege.attack("garbage", counter, say(open().await, &garbage)).await;
    siege.attack("HTTP/1", counter, say(open().await, b"GET / HTTP/1.1\r\n\r\n")).await;
    // An agent is the HTTP/2 server here, so two clients wait for each other.
    siege.attack("a client", counter, say_and_leave(open().await, tunnel_tests::raw::PREFACE)).await;
    siege.attack("nothing", counter, say_and_leave(open().await, b"")).await;
    siege.end().await;
}

/// As fast as the window takes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_floods_its_control_stream_is_closed() {
    let siege = Siege::begin().await;
    let unknown = Bytes::from_static(&[0, 3, 0xa2, 0x06, 0]);
    let drain = Control::Drain(DrainNotice { reason: "tired".to_owned(), taken: None });
    for link in LINKS {
        let counter = format!("link=\"{}\"", link.label());
        for message in [
            encode_control(Control::Ping(Ping { number: 1, ..Ping::default() })).unwrap(),
            encode_control(drain.clone()).unwrap(),
            encode_control(Control::Hello(hello("another", ""))).unwrap(),
            unknown.clone(),
        ] {
            let closed = async {
                let mut stranger = Stranger::admitted(&siege, link, "floods").await;
                let tunnel = stranger.tunnel.clone();
                let flood = async {
                    // Until the write is cut off.
                    while stranger.messages.send(message.clone()).await.is_ok() {}
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = flood => {}
                    closed = tunnel.closed() => {
                        let why = closed.to_string();
                        // HTTP/2 has no place for the reason. On QUIC the agent answers the close frame with its own
                        // (RFC 9000, section 10.2.2). A server that has forgotten the connection by then, after three
                        // probe timeouts, answers with a stateless reset, which replaces the reason in quinn.
                        let told = ["too many control messages", "reset by peer"];
                        assert!(link == Link::H2 || told.iter().any(|text| why.contains(text)), "{why}");
                    }
                }
            };
            siege.attack("a flood", ("tunnel_server_tunnels_closed_total", &counter[..]), closed).await;
            siege.cluster.server.wait_for_tunnels(2).await;
        }
    }
    siege.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_floods_its_control_streams_is_left_and_others_stay() {
    let cluster = Cluster::on(Link::H2).await;
    let renew = Control::Renew(Renew { reason: "again".to_owned() });
    for message in [Control::Ping(Ping { number: 1, ..Ping::default() }), renew] {
        let flooding = FakeServer::flooding(&cluster.pki, "floods", encode_control(message).unwrap());
        let agent = Agent::start(
            &cluster.pki,
            &[flooding.addr, cluster.server.agents],
            &AgentSpec::new("both", Link::H2, node(Link::Quic)),
        );
        cluster.server.wait_for_tunnels(2).await;
        wait_for("the agent to leave and to come again", async || {
            if flooding.hellos().len() > 2 {
                Ok(())
            } else {
                Err(format!("{} hellos", flooding.hellos().len()))
            }
        })
        .await;
        let echo = Target::echo(node(Link::Quic)).await;
        let dialled = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
        within("the end of a connection", dialled.close()).await.unwrap();
        agent.kill().await;
        cluster.server.wait_for_tunnels(1).await;
    }
    cluster.finish().await;
}

/// Each of an agent's older tunnels may be of a process that was killed, and is asked. An agent that
/// comes again and again causes the same work each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_an_agent_that_comes_again_the_last_four_tunnels_are_asked() {
    const ASKED: usize = 4;
    let cluster = Cluster::builder().start().await;
    let drain = Drain::new();
    let asked = async |messages: &mut Messages| loop {
        let message = messages.recv().await.unwrap().unwrap();
        if let Some(Control::Ping(Ping { number, .. })) = decode_control(message).unwrap() {
            let answer = Control::Pong(Pong { number, ..Pong::default() });
            return messages.send(encode_control(answer).unwrap()).await.unwrap();
        }
    };
    let mut tunnels: Vec<(Tunnel, Messages)> = Vec::new();
    for number in 1..=ASKED + 3 {
        let opened = open_tunnel(cluster.server.agents, Link::Quic, cluster.pki.agent(Who::Agent), &drain);
        let (tunnel, control) = within("a tunnel", opened).await.unwrap();
        let mut messages = control_messages(control);
        messages.send(encode_control(Control::Hello(hello("again", ""))).unwrap()).await.unwrap();
        within("a welcome", greeting(&mut messages)).await.unwrap();
        let first = Control::Ping(Ping { number: 1, ..Ping::default() });
        messages.send(encode_control(first).unwrap()).await.unwrap();
        cluster.server.wait_for_tunnels(i64::try_from(number).unwrap()).await;
        for (_, messages) in tunnels.iter_mut().rev().take(ASKED) {
            within("a question", asked(messages)).await;
        }
        tunnels.push((tunnel, messages));
    }
    // All others were asked twice since.
    let again = timeout(Duration::from_millis(100), asked(&mut tunnels[0].1)).await;
    assert!(again.is_err(), "the oldest is asked still");
    drain.kill();
    drop(tunnels);
    cluster.finish().await;
}
