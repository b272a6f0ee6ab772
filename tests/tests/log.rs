//! The lines of the log, and how many there are. The file has one test, because a process has one log.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;
use tunnel::transport::{Link, quic};
use tunnel_program::args::LogArgs;
use tunnel_program::process::{Flush, init_logging};
use tunnel_tests::raw::{Channel, Listener, read_to_any_end};
use tunnel_tests::{
    Agent, AgentSpec, Answer, Cluster, FakeAgent, Frontend, LINKS, ServerSpec, Target, Who, hello, node,
    wait_for,
};

/// Failures of each kind.
const MANY: i64 = 100;

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    log: LogArgs,
}

/// The log of this process.
struct Log {
    file: PathBuf,
    _flush: Flush,
}

impl Log {
    /// Begins it, at Konnectivity's lowest level.
    fn begin(dir: &tempfile::TempDir) -> Self {
        let file = dir.path().join("log");
        let flag = format!("--log-file={}", file.display());
        let flags = ["tunnel-server", "--logtostderr=false", "--stderrthreshold=3", &flag, "-v=0"];
        let _flush = init_logging(&Flags::parse_from(flags).log, "debug").unwrap();
        Self { file, _flush }
    }

    /// The lines up to now with a text. They are written by a thread, in their order.
    async fn lines(&self, text: &str) -> Vec<String> {
        static MARKS: AtomicUsize = AtomicUsize::new(0);
        let mark = format!("mark {} of the test", MARKS.fetch_add(1, Ordering::Relaxed));
        tracing::warn!("{mark}");
        let read = || std::fs::read_to_string(&self.file).unwrap();
        wait_for("the log", async || if read().contains(&mark) { Ok(()) } else { Err(read()) }).await;
        read().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_a_kind_are_one_line_and_health_checks_none() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::begin(&dir);
    let cluster = Cluster::builder().start().await;
    at_the_start(&cluster, &log).await;
    floods(&cluster, &log).await;
    failures(&cluster, &log).await;
    collisions(&cluster, &log).await;
    links(&cluster, &log).await;
    cluster.finish().await;
    numbers_of_servers(&log).await;
}

/// Fails unless failures of a kind since `began` are one line, and one more for each ten seconds that they took.
fn assert_seldom(lines: &[String], began: Instant) {
    let most = 1 + began.elapsed().as_secs() / 10;
    assert!((1..=most).contains(&(lines.len() as u64)), "not 1 to {most}: {lines:#?}");
}

/// Lines of a server about its flags and its host.
async fn at_the_start(cluster: &Cluster, log: &Log) {
    // Tests have one authority, for clients and for agents.
    let shared = log.lines("--server-ca-cert and --cluster-ca-cert have an authority in common").await;
    assert!(shared.len() == 1 && shared[0].contains("--frontend-allowed-names"), "{shared:?}");
    let (requested, given) = quic::receive_buffer().unwrap();
    let refused = log.lines("the kernel refuses the receive buffer").await;
    assert_eq!(refused.len(), usize::from(given < requested), "{refused:?}");
    let metrics = cluster.server.metrics().await;
    assert_eq!(metrics.value("tunnel_server_udp_receive_buffer_bytes"), i64::try_from(given).unwrap());
}

async fn floods(cluster: &Cluster, log: &Log) {
    let server = &cluster.server;
    let rejected = async |reason: &str, wanted: i64| {
        wait_for(reason, async || {
            let label = format!("reason=\"{reason}\"");
            let metrics = server.metrics().await;
            let found = metrics.sum("tunnel_server_rejected_agents_total", &[&label]);
            if found == wanted { Ok(()) } else { Err(metrics.show("tunnel_server_rejected")) }
        })
        .await;
    };
    for _ in 0..MANY {
        drop(TcpStream::connect(server.agents).await.unwrap());
    }
    rejected("said_nothing", MANY).await;
    // And of both listeners of clients.
    for _ in 0..MANY {
        drop(TcpStream::connect(server.tcp).await.unwrap());
        drop(UnixStream::connect(&server.unix).await.unwrap());
    }
    wait_for("silent clients", async || {
        let metrics = server.metrics().await;
        let found = metrics.sum("tunnel_server_bad_clients_total", &["reason=\"said_nothing\""]);
        if found == 2 * MANY { Ok(()) } else { Err(metrics.show("tunnel_server_bad_clients")) }
    })
    .await;
    for failure in ["agent handshake failed", "agent dropped", "client dropped"] {
        assert_eq!(log.lines(failure).await, Vec::<String>::new(), "health checks are no failures");
    }
    let began = Instant::now();
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(server.agents).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    }
    rejected("tls", MANY).await;
    assert_seldom(&log.lines("agent handshake failed").await, began);

    for _ in 0..MANY / 4 {
        for frontend in Frontend::ALL {
            server.refusal(frontend, "127.0.0.1:80").await;
        }
    }
    let dials = log.lines("dial failed").await;
    assert_seldom(&dials, began);
    assert!(["127.0.0.1:80", "No agent available", "no_agent"].iter().all(|part| dials[0].contains(part)));
}

/// Connections that fail are told, and those that their peers end are not.
async fn failures(cluster: &Cluster, log: &Log) {
    let (server, began) = (&cluster.server, Instant::now());
    let agent = cluster.start_agent(&AgentSpec::new("agent", Link::Quic, node(Link::Quic)));
    server.wait_for_tunnels(1).await;
    let (echo, resets) = (
        Target::echo(node(Link::Quic)).await,
        Target::new(node(Link::Quic), async |mut tcp| {
            tcp.read_u8().await?;
            tcp.set_zero_linger()
        })
        .await,
    );
    for _ in 0..MANY / 4 {
        let channel = Channel::over(Listener::Unix.open(server, &cluster.pki).await).await;
        let mut call = channel.call().await;
        call.dial(&echo.to_string()).await;
        call.send(vec![0; 5]).await;
        call.end().await;
        let mut reset = server.connect(Frontend::ConnectUnix, &resets).await;
        reset.write_all(b"x").await.unwrap();
        read_to_any_end(&mut reset).await;
    }
    agent.kill().await;
    server.wait_for_tunnels(0).await;
    let failed = log.lines("connection failed").await;
    assert_seldom(&failed, began);
    assert!(failed[0].contains("payload of another kind"), "{}", failed[0]);
}

/// Another host under one id, or with one address, is named, with both addresses.
async fn collisions(cluster: &Cluster, log: &Log) {
    let (server, began) = (&cluster.server, Instant::now());
    for link in LINKS {
        let one = cluster.start_agent(&AgentSpec::new("clone", link, node(link)));
        one.wait_for_servers(1, 1).await;
        let other = cluster.start_agent(&AgentSpec::new("clone", link, [127, 0, 0, 9].into()));
        other.wait_for_servers(1, 1).await;
        server.wait_for_tunnels(2).await;
        one.kill().await;
        other.kill().await;
        server.wait_for_tunnels(0).await;
    }
    let twins = log.lines("two hosts use one agent id").await;
    assert_seldom(&twins, began);
    assert_eq!(twins[0].matches("127.0.0.1:").count(), 2, "{}", twins[0]);

    for link in LINKS {
        let join = async |host: [u8; 4]| {
            let hello = hello(&format!("at-{}", host[3]), "ipv4=192.0.2.1");
            let tls = cluster.pki.agent(Who::Agent);
            FakeAgent::join_from(host.into(), server.agents, tls, link, hello, Answer::Silence).await
        };
        let one = join([127, 0, 0, 8]).await;
        server.wait_for_tunnels(1).await;
        let other = join([127, 0, 0, 9]).await;
        server.wait_for_tunnels(2).await;
        drop((one, other));
        server.wait_for_tunnels(0).await;
    }
    let rivals = log.lines("an agent serves an address that an agent of another host serves").await;
    assert_seldom(&rivals, began);
    for part in ["at-9", "127.0.0.9:", "192.0.2.1", "at-8", "127.0.0.8:"] {
        assert!(rivals[0].contains(part), "{part} is not in {}", rivals[0]);
    }
}

/// The reason for its link is in the line of each new tunnel.
async fn links(cluster: &Cluster, log: &Log) {
    for (id, transport, told) in
        [("flagged", "h2", "link=\"h2\" why=by flag"), ("free", "auto", "link=\"quic\" why=QUIC works")]
    {
        let spec = AgentSpec::new(id, Link::Quic, node(Link::Quic)).flag("transport", transport);
        let agent = cluster.start_agent(&spec);
        agent.wait_for_servers(1, 1).await;
        let lines = log.lines(told).await;
        assert!(lines.iter().any(|line| line.contains("connected")), "{:?}", log.lines("connected").await);
        agent.kill().await;
        cluster.server.wait_for_tunnels(0).await;
    }
}

/// Agents say once that servers differ about their number, and that they do not find one.
async fn numbers_of_servers(log: &Log) {
    let spec = |id: &str, count: &str| ServerSpec::new(id).flag("server-count", count);
    let cluster = Cluster::builder().server(spec("one", "4")).start().await;
    let others = ["two", "three"].map(|id| cluster.start_server(&spec(id, "3")).unwrap());
    let addrs = [cluster.server.agents, others[0].agents, others[1].agents];
    let of_agent = AgentSpec::new("agent", Link::H2, Ipv4Addr::LOCALHOST);
    let agent = Agent::start(&cluster.pki, &addrs, &of_agent);
    agent.wait_for_servers(3, 4).await;
    let differ = log.lines("servers differ about their number").await;
    assert_eq!(differ.len(), 1, "{differ:?}");
    for said in ["one says 4", "says 3"] {
        assert!(differ[0].contains(said), "{}", differ[0]);
    }

    let vain = "3 of 4 servers, and no attempt leads to another one";
    wait_for("a search in vain", async || match log.lines(vain).await[..] {
        [] => Err(format!("{} duplicates", agent.attempts("duplicate").await)),
        _ => Ok(()),
    })
    .await;
    let before = agent.attempts("duplicate").await;
    wait_for("more of them", async || match agent.attempts("duplicate").await - before {
        0..5 => Err("few".to_owned()),
        _ => Ok(()),
    })
    .await;
    let told = log.lines(vain).await;
    assert_eq!(told.len(), 1, "{told:?}");
    for server in ["one", "two", "three"] {
        assert!(told[0].contains(&format!("led to {server}")), "{}", told[0]);
    }
    agent.kill().await;
    cluster.finish().await;
}
