//! Links that shake hands and carry nothing, or in one direction only: new dials find another
//! tunnel, and a dial under way reaches its target once.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout};
use tunnel::drain::Drain;
use tunnel::liveness::{Liveness, Party, Patience};
use tunnel::messages::{control_messages, greeting};
use tunnel::streams::Streams;
use tunnel::transport::Link;
use tunnel_client::Connection;
use tunnel_operate::client::Client;
use tunnel_operate::report::Status;
use tunnel_proto::message::{Control, Ping, decode_control, encode_control};
use tunnel_tests::payload::{self, Header};
use tunnel_tests::{
    Agent, AgentSpec, Cluster, Frontend, Pki, ServerSpec, Target, Way, Who, Wire, hello, node, open_tunnel,
    panics, promptly, wait_for, within,
};

const NODE: Ipv4Addr = node(Link::Quic);

/// The usual limits, shortened for tests that wait for them.
const SHORT: Patience = Patience {
    suspect: Duration::from_millis(1500),
    limit: Duration::from_secs(60),
    heartbeat: Duration::from_millis(300),
};

/// Longer than any step of these tests, and shorter than what they rule out: the limits of a
/// dial and of a silent tunnel.
const SOON: Duration = Duration::from_secs(20);

/// Longer than a heartbeat, its reset and a handshake take, and shorter than the silence for which an
/// agent waits.
const AT_ONCE: Duration = Duration::from_secs(5);

async fn ping(connection: &mut Connection) {
    payload::write(connection, b"x").await.unwrap();
    assert_eq!(within("an echo", connection.read_u8()).await.unwrap(), b'x');
}

async fn cluster() -> Cluster {
    let mut server = ServerSpec::new("server");
    server.patience = Some(SHORT);
    Cluster::builder().server(server).start().await
}

/// An agent's socket for commands.
fn admin_socket(cluster: &Cluster, agent: &str) -> PathBuf {
    cluster.pki.ca().with_file_name(format!("{agent}.admin"))
}

fn agent(cluster: &Cluster, transport: &str, wires: &[&Wire]) -> Agent {
    let socket = admin_socket(cluster, "agent").display().to_string();
    let spec = AgentSpec::new("agent", Link::Quic, NODE).flag("admin-socket", &socket);
    let mut spec = spec.flag("transport", transport);
    spec.patience = Some(SHORT);
    let addrs: Vec<_> = wires.iter().map(|wire| wire.addr).collect();
    Agent::start(&cluster.pki, &addrs, &spec)
}

/// Waits until the agent has made so many tunnels on a link for a reason.
async fn established(agent: &Agent, link: &str, reason: &str, wanted: i64) {
    wait_for(&format!("{wanted} tunnels on {link}, {reason}"), async || {
        let metrics = agent.metrics().await;
        let labels = [format!("link=\"{link}\""), format!("reason=\"{reason}\"")];
        match metrics.sum("tunnel_agent_tunnels_established_total", &[&labels[0], &labels[1]]) {
            found if found == wanted => Ok(()),
            _ => Err(metrics.show("tunnel_agent_tunnels")),
        }
    })
    .await;
}

/// The link of an agent's only tunnel, and the reason for it, as `status` tells them.
async fn told_link(cluster: &Cluster, agent: &str) -> (String, String) {
    let Status::Agent(status) = Client::new(&admin_socket(cluster, agent)).status().await.unwrap() else {
        panic!("{agent} is no server");
    };
    let [held] = &status.servers[..] else { panic!("{:?}", status.servers) };
    (held.link.clone(), held.why.clone())
}

async fn dial_works(cluster: &Cluster, target: &Target) {
    wait_for("a dial", async || {
        let dialled = cluster.server.dial(Frontend::ConnectUnix, &target.to_string()).await;
        dialled.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_that_dies_after_its_handshake_is_replaced_by_h2() {
    let cluster = cluster().await;
    let wire = Wire::with_tcp_to(cluster.server.agents);
    let agent = agent(&cluster, "auto", &[&wire]);
    cluster.server.wait_for_tunnels(1).await;
    established(&agent, "quic", "works", 1).await;
    // From now on no flow of UDP lives, though each shakes hands.
    wire.limit_flows(60);
    established(&agent, "h2", "silent", 1).await;
    let (link, why) = told_link(&cluster, "agent").await;
    assert_eq!(link, "h2");
    assert!(why.starts_with("QUIC connected and fell silent, tried again in "), "{why}");
    cluster.server.wait_for_tunnels(1).await;
    dial_works(&cluster, &Target::echo(NODE).await).await;
    established(&agent, "quic", "works", 1).await;
    agent.wait_until_idle().await;
    cluster.finish().await;
}

/// In each direction. The server hears an agent that does not hear it, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direction_that_is_lost_costs_the_tunnel_no_stream_and_no_new_dial() {
    for way in [Way::Up, Way::Down] {
        let cluster = cluster().await;
        let wire = Wire::with_tcp_to(cluster.server.agents);
        let agent = agent(&cluster, "auto", &[&wire]);
        cluster.server.wait_for_tunnels(1).await;
        let echo = Target::echo(NODE).await;
        let mut old = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
        ping(&mut old).await;
        let began = Instant::now();
        wire.lose(Some(way));
        established(&agent, "h2", "silent", 1).await;
        dial_works(&cluster, &echo).await;
        assert!(began.elapsed() < SOON, "{way:?}: {:?}", began.elapsed());
        wire.lose(None);
        ping(&mut old).await;
        drop(old);
        cluster.server.wait_for_tunnels(1).await;
        established(&agent, "h2", "silent", 1).await;
        agent.wait_until_idle().await;
        cluster.finish().await;
    }
}

/// An agent that does not prove for itself whether it is heard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_tells_an_agent_that_it_does_not_hear_it() {
    let cluster = cluster().await;
    let drain = Drain::new();
    let opened = open_tunnel(cluster.server.agents, Link::Quic, cluster.pki.agent(Who::Agent), &drain);
    let (tunnel, control) = within("a tunnel", opened).await.unwrap();
    let mut messages = control_messages(control);
    for said in [
        Control::Hello(hello("mute", &format!("ipv4={NODE}"))),
        Control::Ping(Ping { number: 1, ..Ping::default() }),
    ] {
        messages.send(encode_control(said).unwrap()).await.unwrap();
    }
    cluster.server.wait_for_tunnels(1).await;
    // A tunnel without a stream would be over.
    let target = format!("{NODE}:80");
    let dialling = cluster.server.connect(Frontend::ConnectUnix, &target);
    let answering = async {
        let mut asked = tunnel.accept().await.unwrap();
        asked.dial().await.unwrap().unwrap();
        asked.connected(format!("{NODE}:80").parse().unwrap(), None).await.unwrap()
    };
    let speaking = async {
        loop {
            messages
                .send(encode_control(Control::Ping(Ping { number: 2, ..Ping::default() })).unwrap())
                .await
                .unwrap();
            tokio::time::sleep(SHORT.suspect / 5).await;
        }
    };
    let (client, stream) = tokio::select! {
        both = async { tokio::join!(dialling, within("a dial", answering)) } => both,
        () = speaking => unreachable!("it speaks for ever"),
    };
    let told = async {
        loop {
            let message = messages.recv().await.unwrap().unwrap();
            if let Some(Control::Suspect(_)) = decode_control(message).unwrap() {
                return;
            }
        }
    };
    within("the server's word", told).await;
    drop((client, stream));
    tunnel.close("enough");
    drain.kill();
    cluster.finish().await;
}

/// A process that is stopped, or has no processor, for longer than a peer may be silent.
#[allow(clippy::disallowed_methods, reason = "what is tested is that nothing runs for a while")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_slept_itself_does_not_blame_its_server() {
    let cluster = Cluster::builder().start().await;
    let (server, tls) = (cluster.server.agents, cluster.pki.agent(Who::Agent));
    let sleeping = async move {
        let drain = Drain::new();
        let opened = open_tunnel(server, Link::Quic, tls, &drain);
        let (tunnel, control) = within("a tunnel", opened).await.unwrap();
        let mut messages = control_messages(control);
        let said = Control::Hello(hello("sleeper", &format!("ipv4={NODE}")));
        messages.send(encode_control(said).unwrap()).await.unwrap();
        within("a welcome", greeting(&mut messages)).await.unwrap();
        let streams = Arc::<Streams>::default();
        let (mut liveness, _peer) =
            Liveness::new(tunnel.clone(), Some(messages), Party::Agent, SHORT, Arc::clone(&streams));
        let _stream = streams.count();
        assert_eq!(timeout(SHORT.suspect * 2, liveness.next()).await.ok(), None);
        std::thread::sleep(SHORT.suspect * 3);
        assert_eq!(timeout(SHORT.suspect * 2, liveness.next()).await.ok(), None);
        tunnel.close("enough");
        drain.kill();
    };
    // A thread of its own, that the sleep stops nobody else.
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::spawn_blocking(move || runtime().block_on(sleeping)).await.unwrap();
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_moves_to_another_server_is_followed_in_spite_of_streams() {
    let cluster = cluster().await;
    let mut spec = ServerSpec::new("other");
    spec.patience = Some(SHORT);
    // Its key of stateless resets is another one.
    let key = cluster.pki.ca().with_file_name("other-reset.key").display().to_string();
    let other = cluster.start_server(&spec.flag("quic-reset-key-file", &key)).unwrap();
    let wire = Wire::to(cluster.server.agents).await;
    let agent = agent(&cluster, "quic", &[&wire]);
    cluster.server.wait_for_tunnels(1).await;
    let echo = Target::echo(NODE).await;
    let mut old = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
    ping(&mut old).await;
    let began = Instant::now();
    wire.move_to(other.agents);
    other.wait_for_tunnels(1).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    ping(&mut other.connect(Frontend::ConnectUnix, &echo).await).await;
    // Its end is not to be lost with the path.
    wait_for("the end of that", async || {
        let metrics = agent.metrics().await;
        let left = metrics.value("tunnel_agent_connections");
        if left == 1 { Ok(()) } else { Err(metrics.show("tunnel_agent_connections")) }
    })
    .await;
    wire.move_to(cluster.server.agents);
    ping(&mut old).await;
    drop(old);
    agent.wait_until_idle().await;
    other.wait_until_idle().await;
    cluster.finish().await;
}

/// Each server has a certificate's key of its own, from which the key of resets would be made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_moves_to_a_server_with_the_same_reset_key_is_followed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let shared = dir.path().join("reset.key").display().to_string();
    let cluster = Cluster::builder().server_flag("quic-reset-key-file", &shared).start().await;
    let others = Pki::make(dir.path());
    let shown = |path: PathBuf| path.display().to_string();
    let spec = ServerSpec::new("other")
        .flag("cluster-cert", &shown(others.cert(Who::Server)))
        .flag("cluster-key", &shown(others.key(Who::Server)));
    let other = cluster.start_server(&spec.flag("quic-reset-key-file", &shared)).unwrap();
    let both = [cluster.pki.ca(), others.ca()].map(|ca| std::fs::read_to_string(ca).unwrap()).concat();
    std::fs::write(dir.path().join("both.crt"), both).unwrap();
    let wire = Wire::to(cluster.server.agents).await;
    let spec = AgentSpec::new("agent", Link::Quic, NODE).flag("ca-cert", &shown(dir.path().join("both.crt")));
    let agent = Agent::start(&cluster.pki, &[wire.addr], &spec);
    cluster.server.wait_for_tunnels(1).await;
    let echo = Target::echo(NODE).await;
    let mut old = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
    ping(&mut old).await;
    wire.move_to(other.agents);
    promptly(AT_ONCE, other.wait_for_tunnels(1)).await.expect("a tunnel to the other server at once");
    ping(&mut other.connect(Frontend::ConnectUnix, &echo).await).await;
    agent.wait_until_idle().await;
    // It would wait for the agent.
    cluster.server.kill().await;
    panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_full_datagrams_vanish_bulk_moves_to_h2_and_small_streams_stay() {
    let cluster = cluster().await;
    let wire = Wire::with_tcp_to(cluster.server.agents);
    let agent = agent(&cluster, "auto", &[&wire]);
    cluster.server.wait_for_tunnels(1).await;
    let (echo, source) = (Target::echo(NODE).await, Target::source(NODE).await);
    let mut old = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
    ping(&mut old).await;
    wire.narrow(&[Way::Up, Way::Down], 1199);
    ping(&mut old).await;
    // Nothing large is under way: the agent finds it by itself.
    established(&agent, "h2", "silent", 1).await;
    dial_works(&cluster, &echo).await;
    let header = Header { seed: 7, len: 1 << 20 };
    let mut moved = cluster.server.connect(Frontend::ConnectUnix, &source).await;
    payload::write(&mut moved, &header.encode()).await.unwrap();
    let all = within("a download", payload::read_all(&mut moved)).await.unwrap();
    payload::assert_is(&all, header.seed, header.len);
    drop(moved);
    ping(&mut old).await;
    drop(old);
    agent.wait_until_idle().await;
    cluster.finish().await;
}

/// Heartbeats and answers pass, which are short.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_full_datagrams_of_the_agent_vanish_new_dials_move_to_h2() {
    let cluster = cluster().await;
    let wire = Wire::with_tcp_to(cluster.server.agents);
    let agent = agent(&cluster, "auto", &[&wire]);
    cluster.server.wait_for_tunnels(1).await;
    let source = Target::source(NODE).await;
    // An IP path of 1,200 bytes: repetitions may be a little smaller than the first packets.
    wire.narrow(&[Way::Up], 1172);
    let header = Header { seed: 7, len: 4000 };
    let mut old = cluster.server.connect(Frontend::ConnectUnix, &source).await;
    payload::write(&mut old, &header.encode()).await.unwrap();
    established(&agent, "h2", "silent", 1).await;
    dial_works(&cluster, &source).await;
    let mut moved = cluster.server.connect(Frontend::ConnectUnix, &source).await;
    payload::write(&mut moved, &header.encode()).await.unwrap();
    payload::assert_is(&within("an answer", payload::read_all(&mut moved)).await.unwrap(), 7, 4000);
    // The old tunnel delivers what it still has.
    wire.narrow(&[Way::Up], 1500);
    payload::assert_is(&within("the first answer", payload::read_all(&mut old)).await.unwrap(), 7, 4000);
    drop((old, moved));
    agent.wait_until_idle().await;
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dial_that_the_agent_does_not_hear_moves_to_its_next_tunnel_and_connects_once() {
    let cluster = cluster().await;
    let wire = Wire::with_tcp_to(cluster.server.agents);
    let agent = agent(&cluster, "auto", &[&wire]);
    cluster.server.wait_for_tunnels(1).await;
    let (echo, began) = (Target::echo(NODE).await, Instant::now());
    wire.lose(Some(Way::Down));
    let mut dialled = cluster.server.connect(Frontend::ConnectUnix, &echo).await;
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    ping(&mut dialled).await;
    established(&agent, "h2", "silent", 1).await;
    // The old tunnel delivers what it still has.
    wire.lose(None);
    drop(dialled);
    cluster.server.wait_for_tunnels(1).await;
    agent.wait_until_idle().await;
    assert_eq!(echo.accepted(), 1);
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_moves_its_agents_to_h2_unless_they_have_a_flag() {
    let spec = ServerSpec::new("server").flag("agent-transport", "h2");
    let cluster = Cluster::builder().server(spec).start().await;
    let wire = Wire::with_tcp_to(cluster.server.agents);
    let auto = agent(&cluster, "auto", &[&wire]);
    established(&auto, "h2", "told", 1).await;
    let socket = admin_socket(&cluster, "flagged").display().to_string();
    let spec = AgentSpec::new("flagged", Link::Quic, NODE).flag("admin-socket", &socket);
    let flagged = Agent::start(&cluster.pki, &[wire.addr], &spec);
    established(&flagged, "quic", "flag", 1).await;
    let told = [told_link(&cluster, "agent").await, told_link(&cluster, "flagged").await];
    let expected = [("h2", "the server asks for h2"), ("quic", "--transport=quic")];
    assert_eq!(told, expected.map(|(link, why)| (link.to_owned(), why.to_owned())));
    // The tunnel on QUIC from before the move may still be there.
    wait_for("a tunnel on each link", async || {
        let metrics = cluster.server.metrics().await;
        let of = |link| metrics.sum("tunnel_server_tunnels", &[link]);
        match (of("link=\"h2\""), of("link=\"quic\"")) {
            (1, 1) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
    cluster.finish().await;
}
