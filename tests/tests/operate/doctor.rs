//! `doctor` with real sockets: handshakes, refusals, dials through the frontend, kubelets.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tunnel::tls::{Identity, Offer, agent_listener, load_roots};
use tunnel_operate::command::{AgentCommand, ServerCommand};
use tunnel_tests::{FAR_NAME, Task, TcpOnly, Who, spawn};

use super::*;

/// Answers one status to clients with a certificate of our CA, and 401 to others.
struct Kubelet {
    addr: SocketAddr,
    _task: Task,
}

impl Kubelet {
    async fn start(pki: &Pki, who: Who, status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Self::tls(pki, who));
        let task = spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
                let known = tls.get_ref().1.peer_certificates().is_some();
                let mut request = vec![0; 1024];
                let read = tls.read(&mut request).await.unwrap_or_default();
                let logs = request[..read].starts_with(b"GET /containerLogs/");
                let status = if known && logs { status } else { 401 };
                let answer = format!("HTTP/1.1 {status} Something\r\nContent-Length: 0\r\n\r\n");
                let _ = tls.write_all(answer.as_bytes()).await;
                let _ = tls.shutdown().await;
            }
        });
        Self { addr, _task: task }
    }

    fn tls(pki: &Pki, who: Who) -> Arc<rustls::ServerConfig> {
        let identity = Identity::load(&pki.cert(who), &pki.key(who)).unwrap();
        let mut config = (*agent_listener(&identity, None, &Offer::default()).unwrap()).clone();
        config.alpn_protocols.clear();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(load_roots(&pki.ca()).unwrap(), provider);
        let clients = clients.allow_unauthenticated().build().unwrap();
        // A configuration's verifier cannot be changed, so this takes another way to the same.
        let resolver = Arc::clone(&config.cert_resolver);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap();
        Arc::new(builder.with_client_cert_verifier(clients).with_cert_resolver(resolver))
    }
}

/// The verdict of each check, with its text.
struct Results(Value);

impl Results {
    fn check(&self, id: &str) -> &Value {
        let checks = self.0["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap_or_else(|| panic!("no {id}: {}", self.0))
    }

    #[track_caller]
    fn expect(&self, verdict: &str, ids: &[&str]) -> &Self {
        for id in ids {
            assert_eq!(self.check(id)["verdict"], verdict, "{}", self.check(id));
        }
        self
    }

    #[track_caller]
    fn says(&self, id: &str, text: &str) -> &Self {
        let shown = self.check(id).to_string();
        assert!(shown.contains(text), "no {text:?} in {shown}");
        self
    }
}

impl World {
    /// Writes an egress file and a kube-apiserver's pod that name a socket of this world.
    fn control_plane(&self, socket: &str, protocol: &str, flags: &[&str]) {
        let dir = self.dir.path().display();
        let egress = json!({
            "apiVersion": "apiserver.k8s.io/v1beta1", "kind": "EgressSelectorConfiguration",
            "egressSelections": [{"name": "cluster", "connection": {
                "proxyProtocol": protocol, "transport": {"uds": {"udsName": format!("/inside/{socket}")}},
            }}],
        });
        std::fs::write(self.path("egress.yaml"), egress.to_string()).unwrap();
        let flags: Vec<_> = flags.iter().map(|flag| flag.replace("PKI", "/inside")).collect();
        let command = [
            vec!["kube-apiserver".to_owned(), "--egress-selector-config-file=/inside/egress.yaml".to_owned()],
            flags,
        ];
        let pod = json!({"spec": {
            "containers": [{
                "image": "kube-apiserver:v1.37.2", "command": command.concat(),
                "volumeMounts": [{"name": "all", "mountPath": "/inside"}],
            }],
            "volumes": [{"name": "all", "hostPath": {"path": dir.to_string()}}],
        }});
        std::fs::write(self.path("kube-apiserver.yaml"), pod.to_string()).unwrap();
    }

    async fn server_doctor(&self, id: &str, flags: &[&str]) -> Results {
        let (socket, pod) = (self.shown(&format!("{id}.admin")), self.shown("kube-apiserver.yaml"));
        let line = ["tunnel-server", "doctor", "--admin-socket", &socket, "--apiserver-manifest", &pod];
        let cli = tunnel_server::cli::Cli::try_parse_from([&line, flags].concat()).unwrap();
        let Some(Command::Operate(ServerCommand::Doctor(args))) = cli.command else {
            panic!("{:?}", cli.command)
        };
        Results(serde_json::from_str(&args.json().await).unwrap())
    }

    async fn agent_doctor(&self, id: &str, flags: &[&str]) -> Results {
        let socket = self.shown(&format!("{id}.admin"));
        let line = ["tunnel-agent", "doctor", "--admin-socket", &socket];
        let cli = tunnel_agent::cli::Cli::try_parse_from([&line, flags].concat()).unwrap();
        let Some(AgentCommand::Doctor(args)) = cli.command else { panic!("{:?}", cli.command) };
        Results(serde_json::from_str(&args.json().await).unwrap())
    }
}

const KUBELET_FLAGS: [&str; 4] = [
    "--kubelet-client-certificate=PKI/client.crt",
    "--kubelet-client-key=PKI/client.key",
    "--kubelet-certificate-authority=PKI/ca.crt",
    "--kubelet-preferred-address-types=InternalIP",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_well_passes_every_check() {
    let world = World::new().await;
    world.api.put_node("worker", &json!({"kubernetes.io/os": "linux"}), &["127.0.0.1"]);
    let spec = world.spec("cp-1").flag("expected-nodes", "kubernetes.io/os=linux");
    let server = world.start(&spec.flag("kubeconfig", &world.shown("kubeconfig")));
    let agent = world.agent("worker", Link::Quic, Ipv4Addr::LOCALHOST, &[&server]);
    server.wait_for_tunnels(1).await;
    world
        .until("cp-1", "the node", |status| status.nodes.as_ref().is_some_and(|nodes| nodes.connected == 1))
        .await;
    let kubelet = Kubelet::start(&world.pki, Who::Server, 404).await;
    let port = kubelet.addr.port().to_string();
    for protocol in ["GRPC", "HTTPConnect"] {
        world.control_plane("cp-1.socket", protocol, &KUBELET_FLAGS);
        let found = world.server_doctor("cp-1", &["--kubelet-port", &port, "--agents-dial=localhost"]).await;
        found.expect("ok", &["T100", "T101", "T102", "T103", "T104", "T105", "T106"]);
        found.expect("ok", &["T110", "T111", "T112", "T113", "T201", "T202"]);
        found.expect("ok", &["T301", "T302", "T303", "T304", "T305", "T401"]);
    }
    assert_eq!(server.metrics().await.sum("tunnel_server_tunnels", &[]), 1, "no visitor is registered");
    agent.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubelets_are_told_apart_by_their_answer_and_their_certificate() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let agent = world.agent("worker", Link::H2, Ipv4Addr::LOCALHOST, &[&server]);
    server.wait_for_tunnels(1).await;
    world.control_plane("cp-1.socket", "GRPC", &KUBELET_FLAGS);
    for (who, status, verdict, text) in [
        (Who::Server, 403, "fail", "--user=client"),
        (Who::Server, 401, "fail", "does not know"),
        (Who::Server, 200, "ok", "accept"),
    ] {
        let kubelet = Kubelet::start(&world.pki, who, status).await;
        let found = world.server_doctor("cp-1", &["--kubelet-port", &kubelet.addr.port().to_string()]).await;
        found.expect(verdict, &["T111"]).says("T111", text).expect("ok", &["T112"]);
    }
    let stranger = Kubelet::start(&world.pki, Who::Stranger, 404).await;
    let found = world.server_doctor("cp-1", &["--kubelet-port", &stranger.addr.port().to_string()]).await;
    found.expect("ok", &["T111"]).expect("fail", &["T112"]).says("T112", "does not trust");
    let found = world.server_doctor("cp-1", &["--kubelet-port", "1"]).await;
    found.expect("fail", &["T111"]).says("T111", "connection refused").expect("skip", &["T112", "T401"]);
    agent.kill().await;
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_admits_anybody_is_found_out_on_both_links() {
    let world = World::new().await;
    let spec = world.spec("cp-1").flag("cluster-ca-cert", "").flag("insecure-allow-anonymous-agents", "true");
    let server = world.start(&spec);
    let found = world.server_doctor("cp-1", &[]).await;
    found
        .expect("fail", &["T301", "T302"])
        .says("T301", "is admitted on QUIC")
        .expect("ok", &["T201", "T202"]);
    found.expect("skip", &["T101", "T103", "T110", "T111"]).says("T101", "--apiserver-manifest");
    found.expect("ok", &["T106"]);
    assert_eq!(server.metrics().await.sum("tunnel_server_tunnels", &[]), 0, "no visitor is registered");
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_server_files_are_still_checked() {
    let world = World::new().await;
    world.control_plane("gone.socket", "GRPC", &[]);
    let found = world.server_doctor("nobody", &[]).await;
    found.expect("fail", &["T100", "T106", "T111"]).expect("ok", &["T101", "T102", "T103", "T104"]);
    found.expect("warn", &["T110"]).expect("skip", &["T105", "T201", "T301", "T401"]);
    assert_eq!(found.0["health"], "down");
    let line = ["doctor", "--admin-socket", "/nowhere", "--apiserver-manifest", "/nowhere"];
    assert_eq!(world.server_command(&line).await, Health::Down);
    assert_eq!(world.agent_command(&line[..3]).await, Health::Down);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_well_passes_and_keeps_its_tunnel() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    for link in [Link::Quic, Link::H2] {
        let agent = world.agent("worker", link, Ipv4Addr::LOCALHOST, &[&server]);
        agent.wait_for_servers(1, 1).await;
        let kubelet = Kubelet::start(&world.pki, Who::Server, 404).await;
        let found = world.agent_doctor("worker", &["--kubelet-port", &kubelet.addr.port().to_string()]).await;
        found.expect("ok", &["T100", "T205", "T206", "T303", "T304", "T402", "T403", "T404"]);
        found.says("T402", "admit it to cp-1").expect("skip", &["T306"]);
        let (used, other) = if link == Link::Quic { ("T201", "T202") } else { ("T202", "T201") };
        found.expect("ok", &[used]).expect("skip", &[other]);
        assert_eq!(world.agent_status("worker").await.servers.len(), 1);
        assert_eq!(server.metrics().await.sum("tunnel_server_tunnels", &[]), 1);
        agent.kill().await;
        server.wait_for_tunnels(0).await;
    }
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_names_the_fault_of_a_certificate() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let elsewhere = world.start(&world.spec("cp-3").flag("agent-bind-address", "127.0.0.2"));
    let stranger = world.pki.cert(Who::Stranger).display().to_string();
    let expired = world.spec("cp-2");
    let (cert, key) = (world.pki.cert(Who::Expired), world.pki.key(Who::Expired));
    let expired = expired.flag("cluster-cert", &cert.display().to_string());
    let expired = world.start(&expired.flag("cluster-key", &key.display().to_string()));
    let other_name = elsewhere.agents.to_string();
    let old = expired.agents.to_string();
    for (flag, value, text) in [
        ("proxy-server-host", other_name.as_str(), "is not for 127.0.0.2"),
        ("ca-cert", stranger.as_str(), "not in --ca-cert"),
        ("proxy-server-host", old.as_str(), "has expired"),
    ] {
        let spec = AgentSpec::new("worker", Link::H2, Ipv4Addr::LOCALHOST);
        let spec = spec.flag("transport", "auto").flag("admin-socket", &world.shown("worker.admin"));
        let agent = Agent::start(&world.pki, &[server.agents], &spec.flag(flag, value));
        let found = world.agent_doctor("worker", &["--kubelet-port", "1"]).await;
        found.expect("fail", &["T304", "T403", "T404"]).says("T304", text);
        assert_eq!(found.0["health"], "down");
        agent.kill().await;
    }
    expired.kill().await;
    elsewhere.kill().await;
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_agent_a_path_without_udp_and_a_bad_name_have_their_own_checks() {
    let world = World::new().await;
    let server = world.start(&world.spec("cp-1"));
    let (cert, key) = (world.pki.cert(Who::Stranger), world.pki.key(Who::Stranger));
    let spec = AgentSpec::new("worker", Link::H2, Ipv4Addr::LOCALHOST)
        .flag("transport", "auto")
        .flag("admin-socket", &world.shown("worker.admin"));
    let refused = spec.clone().flag("agent-cert", &cert.display().to_string());
    let agent =
        Agent::start(&world.pki, &[server.agents], &refused.flag("agent-key", &key.display().to_string()));
    let found = world.agent_doctor("worker", &[]).await;
    found.expect("fail", &["T402", "T403"]).says("T402", "refuses this agent").expect("ok", &["T304"]);
    agent.kill().await;

    let path = TcpOnly::to(server.agents);
    let agent = Agent::start(&world.pki, &[path.addr], &spec);
    agent.wait_for_servers(1, 1).await;
    let found = world.agent_doctor("worker", &[]).await;
    found.expect("warn", &["T201"]).says("T201", "UDP").expect("ok", &["T202", "T402", "T403"]);
    agent.kill().await;

    let nowhere = format!("no-such-host.invalid,{FAR_NAME}.invalid");
    let agent = Agent::start(&world.pki, &[], &spec.flag("proxy-server-host", &nowhere));
    let found = world.agent_doctor("worker", &[]).await;
    found.expect("fail", &["T205", "T403"]).says("T205", "no-such-host.invalid");
    found.expect("skip", &["T201", "T202", "T402"]);
    agent.kill().await;
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explanations_need_no_program() {
    let world = World::new().await;
    for line in [&["doctor", "list"][..], &["doctor", "explain", "t303"]] {
        assert_eq!(world.server_command(line).await, Health::Ok);
        assert_eq!(world.agent_command(line).await, Health::Ok);
    }
    assert_eq!(world.server_command(&["doctor", "explain", "T999"]).await, Health::Down);
}
