//! Floods of failures write few log lines. The file has one test, because a process has one log.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tunnel::transport::Link;
use tunnel_program::args::LogArgs;
use tunnel_program::process::{Flush, init_logging};
use tunnel_tests::raw::{Channel, Listener, read_to_any_end};
use tunnel_tests::{AgentSpec, Cluster, Frontend, LINKS, Target, node, wait_for};

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
    for failure in ["agent handshake failed", "agent dropped"] {
        assert_eq!(log.lines(failure).await, Vec::<String>::new(), "health checks are no failures");
    }
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(server.agents).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    }
    rejected("tls", MANY).await;
    assert_eq!(log.lines("agent handshake failed").await.len(), 1);

    for _ in 0..MANY / 4 {
        for frontend in Frontend::ALL {
            server.refusal(frontend, "127.0.0.1:80").await;
        }
    }
    let dials = log.lines("dial failed").await;
    assert_eq!(dials.len(), 1, "{dials:?}");
    assert!(["127.0.0.1:80", "No agent available", "no_agent"].iter().all(|part| dials[0].contains(part)));

    // Connections that fail are told too, and those that their peers end are not.
    let agent = cluster.start_agent(&AgentSpec::new("agent", Link::Quic, node(Link::Quic)));
    server.wait_for_tunnels(1).await;
    let (echo, resets) = (
        Target::echo(node(Link::Quic)).await,
        Target::new(node(Link::Quic), async |tcp| tcp.set_zero_linger()).await,
    );
    for _ in 0..MANY / 4 {
        let channel = Channel::over(Listener::Unix.open(server, &cluster.pki).await).await;
        let mut call = channel.call().await;
        call.dial(&echo.to_string()).await;
        call.send(vec![0; 5]).await;
        call.end().await;
        read_to_any_end(&mut server.connect(Frontend::ConnectUnix, &resets).await).await;
    }
    agent.kill().await;
    server.wait_for_tunnels(0).await;
    let failed = log.lines("connection failed").await;
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].contains("payload of another kind"), "{}", failed[0]);

    // Another host under one id is named, with both addresses.
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
    assert_eq!(twins.len(), 1, "{twins:?}");
    assert_eq!(twins[0].matches("127.0.0.1:").count(), 2, "{}", twins[0]);
    cluster.finish().await;
}
