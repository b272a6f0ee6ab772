//! Renewals under load.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsConnector;
use tunnel::drain::Drain;
use tunnel::tls::{Identity, agent_client, load_roots};
use tunnel::transport::{Link, Tunnel};
use tunnel_client::Connection;
use tunnel_tests::payload::{self, Hasher};
use tunnel_tests::{
    Agent, Authority, Frontend, LINKS, Metrics, Server, Target, Task, node, open_tunnel, spawn, wait_within,
    within,
};

use super::volume::Volume;
use super::{HOUR, World};

/// Streams on both links together.
const STREAMS: u64 = 1000;

/// Renewals of each file.
const ROUNDS: usize = 200;

/// Bytes that a stream sends at a time, and the pause between.
const CHUNK: usize = 700;
const PAUSE: Duration = Duration::from_secs(1);

/// Limit of a renewal.
const RENEWED: Duration = Duration::from_secs(15);

/// The content of the files of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    Good,
    Half,
    Garbage,
    Empty,
}

impl Content {
    const ALL: [Self; 4] = [Self::Good, Self::Half, Self::Garbage, Self::Empty];

    fn of(self, good: &str) -> String {
        match self {
            Self::Good => good.to_owned(),
            // In the middle of the last certificate: a list that ends between two is a good one.
            Self::Half => good.chars().take(good.len() * 3 / 4).collect(),
            Self::Garbage => format!("\u{0}{}", "x: [".repeat(100)),
            Self::Empty => String::new(),
        }
    }
}

/// Sends and receives until it is stopped, and returns the digests of both directions.
async fn hashed(mut echo: Connection, seed: u64, stop: watch::Receiver<bool>) -> bool {
    let (mut sent, mut back) = (Hasher::default(), Hasher::default());
    let mut at = Instant::now() + PAUSE.mul_f64(seed as f64 / STREAMS as f64);
    let mut round = seed << 20;
    while !*stop.borrow() {
        sleep_until(at).await;
        at += PAUSE;
        round += 1;
        let chunk = payload::bytes(round, CHUNK);
        sent.add(&chunk);
        let mut seen = vec![0; CHUNK];
        within("a chunk there", payload::write(&mut echo, &chunk)).await.unwrap();
        within("a chunk back", echo.read_exact(&mut seen)).await.unwrap();
        back.add(&seen);
    }
    sent.finish() == back.finish()
}

/// The certificate that a listener on TCP presents, and whether it takes the client's.
async fn presented(addr: std::net::SocketAddr, tls: Arc<rustls::ClientConfig>) -> (Vec<u8>, bool) {
    let tcp = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut tls = TlsConnector::from(tls).connect(name, tcp).await.unwrap();
    let certificate = tls.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    // The server of agents speaks first, the frontend answers.
    let spoken = async {
        tls.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
        tls.read_u8().await
    };
    (certificate, within("an answer", spoken).await.is_ok())
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

/// A client's TLS, with a certificate of an authority.
fn tls_of(dir: &Path, roots: &Path, client: &Authority) -> Arc<rustls::ClientConfig> {
    let issued = client.client("probe", HOUR);
    std::fs::write(dir.join("probe.crt"), &issued.cert).unwrap();
    std::fs::write(dir.join("probe.key"), &issued.key).unwrap();
    let identity = Identity::load(&dir.join("probe.crt"), &dir.join("probe.key")).unwrap();
    agent_client(Some(&identity), load_roots(roots).unwrap()).unwrap()
}

/// The files of a program that are refused, and how many changes of each were.
fn refusals(metrics: &Metrics, program: &str, file: &str) -> (i64, i64) {
    let label = format!("file=\"{file}\"");
    let refused = format!("{program}_file_renewals_total");
    let stale = metrics.sum(&format!("{program}_file_stale"), &[&label]);
    (metrics.sum(&refused, &[&label, "result=\"refused\""]), stale)
}

struct Rig {
    world: World,
    server: Server,
    agents: Vec<Agent>,
    frontend: Volume,
    of_agent: Volume,
    roots: std::path::PathBuf,
}

const POLICY: &str = "rules: []\ndefault: allow\n";
const MAP: &str = "cn:agent:\n  hosts: [somewhere]\n";

const OF_SERVER: [&str; 6] =
    ["cluster-cert", "cluster-ca-cert", "server-cert", "server-ca-cert", "policy-file", "identity-map"];
const OF_AGENT: [&str; 3] = ["agent-cert", "ca-cert", "policy-file"];

impl Rig {
    async fn new() -> Self {
        let mut world = World::new();
        world.period = Duration::from_millis(20);
        let roots = world.path("roots.crt");
        std::fs::write(&roots, world.ca.pem()).unwrap();
        let (own, client) = (world.ca.server(), world.ca.client("agent", HOUR));
        let files = [("tls.crt", own.cert.as_str()), ("tls.key", &own.key), ("ca.crt", world.ca.pem())];
        let frontend = Volume::new(&world.path("frontend"), &files);
        let files = [("tls.crt", client.cert.as_str()), ("tls.key", &client.key), ("ca.crt", world.ca.pem())];
        let of_agent = Volume::new(&world.path("of-agent"), &files);
        world.put("policy", POLICY);
        world.put("map", MAP);
        let server = world.server(&[
            ("server-cert", &world.shown("frontend/tls.crt")),
            ("server-key", &world.shown("frontend/tls.key")),
            ("server-ca-cert", &world.shown("frontend/ca.crt")),
            ("policy-file", &world.shown("policy")),
            ("identity-map", &world.shown("map")),
        ]);
        let agent = |link| {
            world.agent(
                &server,
                link,
                &[
                    ("agent-cert", &world.shown("of-agent/tls.crt")),
                    ("agent-key", &world.shown("of-agent/tls.key")),
                    ("ca-cert", &world.shown("of-agent/ca.crt")),
                    ("policy-file", &world.shown("policy")),
                ],
            )
        };
        let agents = LINKS.map(agent).into();
        server.wait_for_tunnels(2).await;
        Self { world, server, agents, frontend, of_agent, roots }
    }

    async fn streams(&self, stop: &watch::Receiver<bool>) -> (Vec<Task<bool>>, [Target; 2]) {
        let targets = [Target::echo(node(LINKS[0])).await, Target::echo(node(LINKS[1])).await];
        let mut streams = Vec::new();
        for number in 0..STREAMS {
            let target = targets[(number % 2) as usize].addr;
            let echo = self.server.connect(Frontend::ConnectUnix, target).await;
            streams.push(spawn(hashed(echo, number, stop.clone())));
        }
        (streams, targets)
    }

    /// How often each file of each program was refused so far.
    async fn refused(&self) -> Vec<(i64, i64)> {
        let (server, agent) = (self.server.metrics().await, self.agents[0].metrics().await);
        let of_server = OF_SERVER.iter().map(|file| refusals(&server, "tunnel_server", file));
        of_server.chain(OF_AGENT.iter().map(|file| refusals(&agent, "tunnel_agent", file))).collect()
    }

    /// Renews all files, with good certificates of `ca` and one more authority.
    fn renew(&mut self, content: Content, good: &Good) {
        let text = |text: &str| content.of(text);
        let Good { cluster, frontend, agent, authorities } = good;
        let world = &self.world;
        world.put("cluster.key", &text(&cluster.key));
        world.put("cluster.crt", &text(&cluster.cert));
        world.put("agents-ca.crt", &text(authorities));
        world.put("policy", &text(&format!("# {}\n{POLICY}", cluster.serial)));
        world.put("map", &text(&format!("# {}\n{MAP}", cluster.serial)));
        let authorities = text(authorities);
        let (cert, key) = (text(&frontend.cert), text(&frontend.key));
        self.frontend.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authorities)]);
        let (cert, key) = (text(&agent.cert), text(&agent.key));
        self.of_agent.put(&[("tls.crt", &cert), ("tls.key", &key), ("ca.crt", &authorities)]);
    }

    /// Waits until new handshakes see these files.
    async fn seen(&self, good: &Good, spare: &Authority) {
        let Good { cluster, frontend, .. } = good;
        let tls = tls_of(self.world.dir.path(), &self.roots, spare);
        let mut of_client = rustls::ClientConfig::clone(&tls);
        of_client.alpn_protocols.clear();
        let of_client = Arc::new(of_client);
        wait_within(RENEWED, "the newest good files", async || {
            let (agents, frontends) = (self.server.agents, self.server.tcp);
            let at_agents = presented(agents, Arc::clone(&tls)).await;
            let at_frontend = presented(frontends, Arc::clone(&of_client)).await;
            let drain = Drain::new();
            let on_quic = open_tunnel(agents, Link::Quic, Arc::clone(&tls), &drain).await;
            let on_quic = on_quic.map(|(tunnel, _)| match tunnel {
                Tunnel::Quic(tunnel) => tunnel.chain()[0].to_vec(),
                Tunnel::H2(_) | Tunnel::Konnectivity(_) => Vec::new(),
            });
            drain.kill();
            let wanted = (der(&cluster.cert), der(&frontend.cert));
            let is_new = at_agents == (wanted.0.clone(), true)
                && at_frontend == (wanted.1, true)
                && on_quic.is_ok_and(|seen| seen == wanted.0);
            if is_new { Ok(()) } else { Err(format!("{}, {}", at_agents.1, at_frontend.1)) }
        })
        .await;
    }
}

/// Good contents.
struct Good {
    cluster: tunnel_tests::Issued,
    frontend: tunnel_tests::Issued,
    agent: tunnel_tests::Issued,
    authorities: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_under_load_lose_no_stream_and_new_handshakes_see_the_newest_good_files() {
    tunnel_program::process::raise_file_limit();
    let mut rig = Rig::new().await;
    let (stop, stopped) = watch::channel(false);
    let (streams, _targets) = rig.streams(&stopped).await;
    for round in 0..ROUNDS {
        let content = Content::ALL[(round + 1) % Content::ALL.len()];
        let (ca, spare) = (&rig.world.ca, Authority::new(&format!("spare {round}")));
        let good = Good {
            cluster: ca.server(),
            frontend: ca.server(),
            agent: ca.client("agent", HOUR),
            authorities: format!("{}{}", ca.pem(), spare.pem()),
        };
        let before = rig.refused().await;
        rig.renew(content, &good);
        wait_within(RENEWED, "all files to be read", async || {
            let now = rig.refused().await;
            let files = OF_SERVER.iter().chain(&OF_AGENT);
            let is_read =
                files.zip(now.iter().zip(&before)).all(|(file, ((refused, stale), (before, _)))| {
                    match content {
                        Content::Good => *stale == 0,
                        // They may be empty.
                        Content::Empty if ["policy-file", "identity-map"].contains(file) => true,
                        Content::Half | Content::Garbage | Content::Empty => refused > before,
                    }
                });
            if is_read { Ok(()) } else { Err(format!("{content:?}: {before:?}, {now:?}")) }
        })
        .await;
        if content == Content::Good {
            rig.seen(&good, &spare).await;
        }
        sleep(Duration::from_millis(20)).await;
    }
    stop.send(true).unwrap();
    for stream in streams {
        assert!(stream.join().await, "a stream came back changed");
    }
    let metrics = rig.server.metrics().await;
    // The probes' tunnels are not registered.
    assert_eq!(
        metrics.sum("tunnel_server_tunnels_closed_total", &[]),
        0,
        "{}",
        metrics.show("tunnel_server")
    );
    for agent in &rig.agents {
        agent.kill().await;
    }
    rig.server.kill().await;
    tunnel_tests::panics::assert_none();
}
