//! `probe` through the tunnel, and from an agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tunnel::tls::{Identity, Offer, agent_listener};
use tunnel_operate::report::{ProbeReport, ProbeRequest, TlsMode};
use tunnel_proto::message::DialReply;
use tunnel_tests::{Answer, Builder, Cluster, FakeAgent, Frontend, LINKS, Target, Task, Who, node, spawn};

use super::*;

/// A TLS server with one of our certificates, or a server of HTTP/1 without TLS.
struct Listener {
    addr: SocketAddr,
    _task: Task,
}

impl Listener {
    async fn start(at: Ipv4Addr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                match &tls {
                    Some(acceptor) => drop(acceptor.accept(tcp).await),
                    None => {
                        let _ = tcp.read(&mut [0; 64]).await;
                        let _ = tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                    }
                }
            }
        });
        Self { addr, _task: task }
    }

    async fn tls(at: Ipv4Addr, pki: &Pki, who: Who) -> Self {
        let identity = Identity::load(&pki.cert(who), &pki.key(who)).unwrap();
        let mut config = (*agent_listener(&identity, None, &Offer::default()).unwrap()).clone();
        config.alpn_protocols.clear();
        Self::start(at, Some(TlsAcceptor::from(Arc::new(config)))).await
    }
}

struct Probing {
    cluster: Cluster,
    dir: TempDir,
}

impl Probing {
    async fn start(with: impl FnOnce(Builder) -> Builder) -> Self {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("admin.sock").display().to_string();
        let cluster = with(Cluster::builder()).server_flag("admin-socket", &socket).start().await;
        Self { cluster, dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    async fn probe(&self, target: impl ToString, tls: TlsMode) -> ProbeReport {
        self.probe_within(10_000, target, tls).await
    }

    async fn probe_within(&self, timeout_ms: u64, target: impl ToString, tls: TlsMode) -> ProbeReport {
        let request = ProbeRequest { target: target.to_string(), tls, timeout_ms };
        Client::new(&self.socket()).probe(&request).await.unwrap()
    }
}

fn names(report: &ProbeReport) -> Vec<&str> {
    report.stages.iter().map(|stage| stage.name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_link_tells_its_stages_and_the_certificate() {
    let all = |builder: Builder| Link::ALL.into_iter().fold(builder, Builder::agent_on);
    let probing = Probing::start(all).await;
    for link in Link::ALL {
        let target = Listener::tls(node(link), &probing.cluster.pki, Who::Server).await;
        let report = probing.probe(target.addr, TlsMode::Auto).await;
        assert_eq!(report.failure, None, "{link:?}");
        assert_eq!((report.from.as_str(), &report.target), ("server", &target.addr.to_string()));
        match link {
            // Konnectivity's agents do not tell their own time.
            Link::Konnectivity => assert_eq!(names(&report), ["route", "open", "dial", "tls"]),
            Link::Quic | Link::H2 => {
                assert_eq!(names(&report), ["route", "open", "tunnel", "connect", "tls"]);
                assert_eq!(report.stages[3].detail, format!("agent → {}", target.addr));
            }
        }
        let route = &report.stages[0].detail;
        assert_eq!(route, &format!("agent-{} (destHost: {})", link.label(), node(link)));
        assert_eq!(report.stages[1].detail, format!("{} stream on server", link.label()));
        let sum: u64 = report.stages.iter().filter_map(|stage| stage.took_us).sum();
        assert!(sum <= report.total_us && report.total_us > 0, "{report:?}");
        let certificate = report.certificate.unwrap();
        assert!(certificate.subject.contains("CN=server"), "{certificate:?}");
        assert!(certificate.issuer.contains("CN=tests"), "{certificate:?}");
        assert!(certificate.names.contains(&"127.0.0.1".to_owned()) && certificate.left > 0);
    }
    probing.cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_targets_are_well_unless_tls_is_asked_for() {
    let probing = Probing::start(|builder| builder.agent_on(Link::Quic)).await;
    let at = node(Link::Quic);
    let (http, silent) = (Listener::start(at, None).await, Target::stalls(at).await);
    let echo = Target::echo(at).await;
    // A silent target costs the limit; that of the dial is the same.
    for (target, limit) in
        [(http.addr.to_string(), 10_000), (silent.to_string(), 2_000), (echo.to_string(), 10_000)]
    {
        let report = probing.probe_within(limit, &target, TlsMode::Auto).await;
        assert_eq!((&report.failure, &report.certificate), (&None, &None), "{target}");
        let tls = report.stages.last().unwrap();
        assert!(tls.detail.starts_with("the target does not speak it"), "{tls:?}");
        let report = probing.probe_within(limit, &target, TlsMode::Always).await;
        let failure = report.failure.unwrap();
        assert_eq!((failure.kind.as_str(), failure.health), ("plain", Health::Degraded), "{target}");
    }
    let sink = Target::sink(at).await;
    let report = probing.probe(&sink, TlsMode::Never).await;
    assert_eq!(names(&report), ["route", "open", "tunnel", "connect"]);
    assert_eq!(sink.moved(), 0, "the target got no byte");
    probing.cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_named_and_decide_the_exit_code() {
    let probing = Probing::start(|builder| builder.agent_on(Link::H2)).await;
    let at = node(Link::H2);
    let expired = Listener::tls(at, &probing.cluster.pki, Who::Expired).await;
    let (nobody, hole) = (Target::nobody(at), Target::black_hole(at).await);
    let report = probing.probe_within(500, &hole, TlsMode::Auto).await;
    let failure = report.failure.unwrap();
    let found = (failure.stage.as_str(), failure.kind.as_str(), failure.health);
    assert_eq!(found, ("dial", "timeout", Health::Down), "{}", failure.text);
    for (target, stage, kind, health) in [
        (nobody.to_string(), "dial", "refused", Health::Down),
        ("10.9.9.9:80".to_owned(), "route", "no_agent", Health::Down),
        ("nonsense".to_owned(), "target", "bad_request", Health::Down),
        (expired.addr.to_string(), "tls", "expired", Health::Degraded),
    ] {
        let report = probing.probe(&target, TlsMode::Auto).await;
        let failure = report.failure.unwrap();
        let found = (failure.stage.as_str(), failure.kind.as_str(), failure.health);
        assert_eq!(found, (stage, kind, health), "{target}: {}", failure.text);
    }
    let refused = probing.probe(nobody, TlsMode::Auto).await.failure.unwrap();
    assert_eq!(refused.text, format!("dial tcp {nobody}: connect: connection refused"));
    for agent in &probing.cluster.agents {
        agent.kill().await;
    }
    probing.cluster.server.wait_for_tunnels(0).await;
    let gone = probing.probe(nobody, TlsMode::Auto).await.failure.unwrap();
    assert!(gone.text.contains("No agent available"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_take_their_exit_code_from_the_probe() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let agent = world.agent("worker", Link::Quic, Ipv4Addr::LOCALHOST, &[&server]);
    server.wait_for_tunnels(1).await;
    let plain = Target::echo(Ipv4Addr::LOCALHOST).await;
    let expired = Listener::tls(Ipv4Addr::LOCALHOST, &world.pki, Who::Expired).await;
    let (echo, tls) = (plain.to_string(), expired.addr.to_string());
    let nobody = Target::nobody(Ipv4Addr::LOCALHOST).to_string();
    let (of_server, of_agent) = (world.shown("cp-1.admin"), world.shown("worker.admin"));
    for (line, health) in [
        (["probe", &echo, "--tls=never"], Health::Ok),
        (["probe", &nobody, "--tls=auto"], Health::Down),
        (["probe", &tls, "--timeout=5s"], Health::Degraded),
        (["probe", &echo, "--tls=always"], Health::Degraded),
    ] {
        let on = |socket| [&line[..], &["--admin-socket", socket]].concat();
        assert_eq!(world.server_command(&on(&of_server)).await, health, "{line:?}");
        assert_eq!(world.agent_command(&on(&of_agent)).await, health, "{line:?}");
    }
    agent.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_probes_from_where_it_is() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let agent = world.agent("worker", Link::Quic, Ipv4Addr::LOCALHOST, &[&server]);
    let tls = Listener::tls(Ipv4Addr::LOCALHOST, &world.pki, Who::Server).await;
    let probe = async |target: String| {
        let request = ProbeRequest { target, tls: TlsMode::Auto, timeout_ms: 5000 };
        world.client("worker").probe(&request).await.unwrap()
    };
    wait_for("the agent's socket", async || {
        let path = world.path("worker.admin");
        if path.exists() { Ok(()) } else { Err("absent".to_owned()) }
    })
    .await;
    let report = probe(tls.addr.to_string()).await;
    assert_eq!((names(&report), report.from.as_str()), (vec!["connect", "tls"], "worker"));
    assert!(report.certificate.is_some());
    let report = probe(format!("localhost:{}", tls.addr.port())).await;
    assert_eq!(names(&report), ["resolve", "connect", "tls"]);
    let failure = probe("no-such-host.invalid:80".to_owned()).await.failure.unwrap();
    assert_eq!((failure.stage.as_str(), failure.kind.as_str()), ("resolve", "dns"));
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_agent_answers_without_its_time() {
    for link in LINKS {
        let probing = Probing::start(|builder| builder).await;
        let reply = DialReply::Connected { address: "10.0.0.1:80".to_owned(), connect: None }.encode();
        let hello = tunnel_tests::hello("older", "ipv4=10.0.0.1");
        let _agent = FakeAgent::join(&probing.cluster, link, hello, Answer::Bytes(reply)).await;
        probing.cluster.server.wait_for_tunnels(1).await;
        let report = probing.probe("10.0.0.1:80", TlsMode::Never).await;
        assert_eq!((names(&report), &report.failure), (vec!["route", "open", "dial"], &None), "{link:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_is_counted_as_any_dial_and_leaves_nothing_open() {
    let probing = Probing::start(|builder| builder.agent_on(Link::Quic)).await;
    let echo = Target::echo(node(Link::Quic)).await;
    drop(probing.cluster.server.connect(Frontend::ConnectUnix, &echo).await);
    probing.probe(&echo, TlsMode::Never).await;
    wait_for("two dials at the agent, and none open", async || {
        let agent = &probing.cluster.agents[0];
        match (agent.dials().await, agent.connections().await) {
            (2, 0) => Ok(()),
            found => Err(format!("{found:?}")),
        }
    })
    .await;
    let metrics = probing.cluster.server.metrics().await;
    assert_eq!(metrics.sum("tunnel_server_dial_duration_seconds_count", &[]), 2);
    let limit = Duration::from_secs(10);
    tunnel_tests::wait_within(limit, "no open stream", async || {
        let metrics = probing.cluster.server.metrics().await;
        match metrics.sum("tunnel_server_streams", &[]) {
            0 => Ok(()),
            open => Err(format!("{open}")),
        }
    })
    .await;
    probing.cluster.finish().await;
}
