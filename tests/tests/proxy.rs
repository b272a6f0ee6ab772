//! An agent that reaches its server through an HTTP proxy only.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use clap::Parser as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tunnel::drain::Drain;
use tunnel::transport::Link;
use tunnel_agent::app::{App, Lookup};
use tunnel_agent::cli::Cli;
use tunnel_agent::config::Config;
use tunnel_agent::proxy::Proxies;
use tunnel_kube::leases::Counted;
use tunnel_tests::{
    Cluster, FAR_NAME, Frontend, Pki, ServerSpec, Target, Task, Who, node, payload, spawn, wait_for, within,
};

/// A proxy to one server, with a password.
struct Proxy {
    addr: SocketAddr,
    /// First lines of requests.
    asked: Arc<Mutex<Vec<String>>>,
    _task: Task,
}

impl Proxy {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        let task = spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(forward(socket, server, Arc::clone(&record)));
            }
        });
        Self { addr, asked, _task: task }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn forward(mut socket: TcpStream, server: SocketAddr, record: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    record.lock().unwrap().push(head.lines().next().unwrap().to_owned());
    // agent:secret
    if !head.contains("Proxy-Authorization: Basic YWdlbnQ6c2VjcmV0\r\n") {
        let _ = socket.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        return;
    }
    let mut onward = TcpStream::connect(server).await.unwrap();
    socket.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
    // Its two ends see how the connection ends.
    let _ = copy_bidirectional(&mut socket, &mut onward).await;
}

/// An agent; dropping it ends it.
struct Agent {
    drain: Drain,
    health: SocketAddr,
    _task: Task,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.drain.kill();
    }
}

/// An agent with an operator's environment.
fn start_agent(pki: &Pki, port: u16, environment: &[(&str, String)], with: impl FnOnce(App) -> App) -> Agent {
    let file = |path: std::path::PathBuf| path.display().to_string();
    let cli = Cli::try_parse_from([
        "tunnel-agent".to_owned(),
        format!("--ca-cert={}", file(pki.ca())),
        format!("--agent-cert={}", file(pki.cert(Who::Agent))),
        format!("--agent-key={}", file(pki.key(Who::Agent))),
        format!("--proxy-server-host={FAR_NAME}"),
        format!("--proxy-server-port={port}"),
        format!("--agent-identifiers=ipv4={}", node(Link::H2)),
        "--health-server-host=127.0.0.1".to_owned(),
        "--health-server-port=0".to_owned(),
        "--admin-server-port=0".to_owned(),
        "--sync-interval=50ms".to_owned(),
        "--sync-interval-cap=200ms".to_owned(),
    ]);
    let mut config = Config::try_from(cli.unwrap()).unwrap();
    let variable =
        |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    config.proxies = Proxies::from_variables(variable).unwrap();
    let app = with(App::bind(config).unwrap());
    let health = app.health_addr().unwrap();
    let drain = app.drain().clone();
    let until = drain.clone();
    let stop = async move {
        until.killed().await;
        Ok(())
    };
    Agent { drain, health, _task: spawn(async move { app.run(stop).await.unwrap() }) }
}

/// With a resolver that knows no name: the proxy has to resolve the server's.
fn unknown(app: App) -> App {
    app.resolving_with(Arc::new(|_, _| Box::pin(async { Err(std::io::Error::other("no such host")) })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reaches_its_server_through_a_proxy_and_by_no_other_way() {
    let cluster = Cluster::builder().start().await;
    let agents = cluster.server.agents;
    let proxy = Proxy::to(agents).await;
    let url = format!("http://agent:secret@{}", proxy.addr);
    let _agent = start_agent(&cluster.pki, agents.port(), &[("HTTPS_PROXY", url)], unknown);
    cluster.server.wait_for_tunnels(1).await;
    assert_eq!(proxy.asked(), [format!("CONNECT {FAR_NAME}:{} HTTP/1.1", agents.port())]);
    let tunnels = cluster.server.metrics().await.sum("tunnel_server_tunnels", &["link=\"h2\""]);
    assert_eq!(tunnels, 1);

    let target = Target::echo(node(Link::H2)).await;
    let mut connection = cluster.server.connect(Frontend::ALL[0], &target).await;
    payload::write(&mut connection, b"x").await.unwrap();
    assert_eq!(within("an echo", connection.read_u8()).await.unwrap(), b'x');
    connection.close().await.unwrap();
    cluster.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_says_no_is_asked_again_and_no_proxy_is_not_asked() {
    let cluster = Cluster::builder().start().await;
    let agents = cluster.server.agents;
    let proxy = Proxy::to(agents).await;
    let url = format!("http://{}", proxy.addr);
    let agent = start_agent(&cluster.pki, agents.port(), &[("https_proxy", url)], unknown);
    wait_for("a second try at the proxy", async || match proxy.asked().len() {
        0 | 1 => Err("not asked again".to_owned()),
        _ => Ok(()),
    })
    .await;
    let (status, _) = tunnel_tests::get(agent.health, "/readyz").await.unwrap();
    assert_eq!(status, 503);

    let unasked = Proxy::to(agents).await;
    let url = format!("http://{}", unasked.addr);
    let known: Lookup = Arc::new(move |_, _| Box::pin(async move { Ok(vec![agents]) }));
    let environment = [("HTTPS_PROXY", url), ("NO_PROXY", ".test".to_owned())];
    let _agent = start_agent(&cluster.pki, agents.port(), &environment, |app| app.resolving_with(known));
    cluster.server.wait_for_tunnels(1).await;
    assert_eq!(unasked.asked(), [""; 0]);
}

/// The operator's networks lead to servers through the proxy alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_behind_a_proxy_ignores_addresses_in_leases() {
    let cluster = Cluster::builder().start().await;
    let other = cluster.start_server(&ServerSpec::new("other")).unwrap();
    let agents = cluster.server.agents;
    let proxy = Proxy::to(agents).await;
    let environment = [("HTTPS_PROXY", format!("http://agent:secret@{}", proxy.addr))];
    let counted = Counted { servers: 2, addresses: [other.agents].into() };
    let (_leases, count) = tokio::sync::watch::channel(Some(counted));
    let _agent =
        start_agent(&cluster.pki, agents.port(), &environment, |app| unknown(app).counting_leases(count));
    cluster.server.wait_for_tunnels(1).await;
    wait_for("a search", async || match proxy.asked().len() {
        0..5 => Err("the proxy was not asked again".to_owned()),
        _ => Ok(()),
    })
    .await;
    let to_the_name = format!("CONNECT {FAR_NAME}:{} HTTP/1.1", agents.port());
    assert!(proxy.asked().iter().all(|asked| *asked == to_the_name), "{:?}", proxy.asked());
    assert_eq!(other.metrics().await.sum("tunnel_server_tunnels", &[]), 0);
    cluster.finish().await;
}
