//! Agents with tokens of their nodes, and the routes that those prove, on every link.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

mod certificates;
mod credentials;
mod fleet;
mod following;
mod spoofing;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tunnel::transport::Link;
use tunnel_kube_fake::{FakeApi, Holder, Served, token};
use tunnel_operate::client::Client;
use tunnel_operate::report::{Identities, Status};
use tunnel_tests::{Agent, AgentSpec, Frontend, Pki, Server, ServerSpec, Target};

const AUDIENCE: &str = "system:konnectivity-server";
const LINKS: [Link; 3] = [Link::Quic, Link::H2, Link::Konnectivity];

/// A node of a test: its name, its address and the network of its pods, all on loopback.
struct Node {
    name: &'static str,
    address: Ipv4Addr,
    pods: &'static str,
    pod: Ipv4Addr,
}

const A: Node = Node {
    name: "node-a",
    address: Ipv4Addr::new(127, 0, 1, 1),
    pods: "127.1.1.0/24",
    pod: Ipv4Addr::new(127, 1, 1, 7),
};
const B: Node = Node {
    name: "node-b",
    address: Ipv4Addr::new(127, 0, 1, 2),
    pods: "127.1.2.0/24",
    pod: Ipv4Addr::new(127, 1, 2, 7),
};

impl Node {
    fn identifiers(&self) -> String {
        format!("host={}&ipv4={}&cidr={}", self.name, self.address, self.pods)
    }
}

struct World {
    api: FakeApi,
    served: Option<Served>,
    pki: Pki,
    dir: TempDir,
}

impl World {
    /// A cluster of the nodes A and B.
    async fn new() -> Self {
        tunnel_tests::panics::record();
        let dir = TempDir::new().unwrap();
        let (api, pki) = (FakeApi::new(), Pki::make(dir.path()));
        let served = api.serve().await.unwrap();
        std::fs::write(dir.path().join("kubeconfig"), served.kubeconfig()).unwrap();
        let world = Self { api, served: Some(served), pki, dir };
        for node in [A, B] {
            world.put(node.name, &[&node.address.to_string()], node.pods);
        }
        world
    }

    fn put(&self, node: &str, addresses: &[&str], pods: &str) {
        self.api.put_node_with_pods(node, &json!({"kubernetes.io/os": "linux"}), addresses, pods);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A server that admits agents by their tokens and watches nodes.
    fn server(&self, mode: &str, routes_from: &str) -> Server {
        self.server_with(mode, routes_from, &[])
    }

    fn server_with(&self, mode: &str, routes_from: &str, flags: &[(&str, &str)]) -> Server {
        let shown = |name| self.path(name).display().to_string();
        let spec = ServerSpec::new("server")
            .flag("cluster-ca-cert", "")
            .flag("agent-namespace", "kube-system")
            .flag("agent-service-account", "konnectivity-agent")
            .flag("authentication-audience", AUDIENCE)
            .flag("kubeconfig", &shown("kubeconfig"))
            .flag("kubeconfig-qps", "1000")
            .flag("kubeconfig-burst", "1000")
            .flag("admin-socket", &shown("admin"))
            .flag("expected-nodes", "kubernetes.io/os=linux")
            .flag("proxy-strategies", "destHost,destCIDR,defaultRoute")
            .flag("identity-mode", mode)
            .flag("routes-from", routes_from);
        let spec = flags.iter().fold(spec, |spec, (name, value)| spec.flag(name, value));
        Server::start(self.dir.path(), &self.pki, &spec).unwrap()
    }

    /// An agent with a token of a node, or of none.
    fn agent(&self, server: &Server, link: Link, id: &str, node: Option<&str>, claims: &str) -> Agent {
        Agent::start(&self.pki, &[server.agents], &self.spec(link, id, node, claims))
    }

    fn spec(&self, link: Link, id: &str, node: Option<&str>, claims: &str) -> AgentSpec {
        let token = token(&format!("{id} on {node:?}"), AUDIENCE, Duration::from_secs(3600));
        let extra =
            node.map(|node| ("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]));
        let holder = Holder {
            username: "system:serviceaccount:kube-system:konnectivity-agent".to_owned(),
            audiences: vec![AUDIENCE.to_owned()],
            extra: extra.into_iter().collect(),
        };
        self.api.know(&token, holder);
        let file = self.path(&format!("{id}.{}.token", node.unwrap_or("none")));
        std::fs::write(&file, token).unwrap();
        AgentSpec::new(id, link, Ipv4Addr::LOCALHOST)
            .flag("agent-identifiers", claims)
            .flag("agent-cert", "")
            .flag("agent-key", "")
            .flag("service-account-token-path", &file.display().to_string())
    }

    async fn identities(&self) -> Identities {
        match Client::new(&self.path("admin")).status().await.unwrap() {
            Status::Server(status) => *status.identities.unwrap(),
            Status::Agent(status) => panic!("{status:?}"),
        }
    }
}

/// Dials a target so many times; each has to be connected.
async fn dial(server: &Server, target: &Target, times: usize) {
    for _ in 0..times {
        let connection = server.connect(Frontend::ConnectUnix, target).await;
        connection.close().await.unwrap();
    }
}
