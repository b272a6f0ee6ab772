//! Tokens that the agent shows again, and tunnels that end with their token.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;
use tunnel::transport::Link;
use tunnel_kube_fake::{FakeApi, Holder, Served, token};
use tunnel_tests::{Agent, Canary, Frontend, LINKS, Server, Target, node};

use super::{HOUR, World, lapsed};

const AUDIENCE: &str = "tunnel-server";
/// The time of the first token, or a little later.
static BEGAN: LazyLock<Instant> = LazyLock::new(|| {
    token("first of all", AUDIENCE, HOUR);
    Instant::now()
});

const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// The cluster's API, and agents with tokens.
struct Tokens {
    world: World,
    api: FakeApi,
    _served: Served,
}

impl Tokens {
    async fn new() -> Self {
        let (world, api) = (World::new(), FakeApi::new());
        let served = api.serve().await.unwrap();
        world.put("kubeconfig", &served.kubeconfig());
        Self { world, api, _served: served }
    }

    /// Writes a token of a node to the agent's file.
    fn give(&self, id: &str, node: &str, lasts: Duration) {
        // A token's end counts from the first token of this process.
        let token = token(id, AUDIENCE, BEGAN.elapsed() + lasts);
        let holder = Holder {
            username: "system:serviceaccount:kube-system:tunnel-agent".to_owned(),
            audiences: vec![AUDIENCE.to_owned()],
            extra: [(NODE_NAME.to_owned(), vec![node.to_owned()])].into_iter().collect(),
        };
        self.api.know(&token, holder);
        self.world.put("token", &token);
    }

    /// The API refuses the token of the agent's file from now on, as it does when that has expired.
    fn forget(&self) {
        self.api.forget(&std::fs::read_to_string(self.world.path("token")).unwrap());
    }

    fn server(&self) -> Server {
        self.world.server(&[
            ("cluster-ca-cert", ""),
            ("agent-namespace", "kube-system"),
            ("agent-service-account", "tunnel-agent"),
            ("authentication-audience", AUDIENCE),
            ("kubeconfig", &self.world.shown("kubeconfig")),
            ("kubeconfig-qps", "1000"),
            ("kubeconfig-burst", "1000"),
        ])
    }

    fn agent(&self, server: &Server, link: Link) -> Agent {
        let token = self.world.shown("token");
        self.world.agent(
            server,
            link,
            &[("agent-cert", ""), ("agent-key", ""), ("service-account-token-path", &token)],
        )
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_token_keeps_the_tunnel_and_its_streams() {
    for link in LINKS {
        let tokens = Tokens::new().await;
        let server = tokens.server();
        tokens.give("first", "node-a", Duration::from_secs(6));
        let agent = tokens.agent(&server, link);
        server.wait_for_tunnels(1).await;
        let target = Target::echo(node(link)).await;
        let canary =
            Canary::new("the tunnel".to_owned(), server.connect(Frontend::ConnectUnix, &target).await);
        tokens.forget();
        tokens.give("second", "node-a", Duration::from_secs(12));
        // Past the end of the first token and the grace.
        tokio::time::sleep(Duration::from_secs(9)).await;
        canary.sings_since(canary.round()).await;
        let metrics = server.metrics().await;
        assert_eq!(
            metrics.sum("tunnel_server_tunnels_closed_total", &[]),
            0,
            "{}",
            metrics.show("tunnel_server")
        );
        // No third token: the tunnel ends with the second.
        drop(canary);
        tokens.forget();
        lapsed(&server, "token_expired", 1).await;
        server.wait_for_tunnels(0).await;
        tokens.give("third", "node-a", HOUR);
        server.wait_for_tunnels(1).await;
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_node_does_not_extend_a_tunnel() {
    let tokens = Tokens::new().await;
    let server = tokens.server();
    tokens.give("first", "node-a", Duration::from_secs(6));
    let agent = tokens.agent(&server, Link::Quic);
    server.wait_for_tunnels(1).await;
    // Without a stream the agent closes the tunnel itself once it has a successor.
    let target = Target::echo(node(Link::Quic)).await;
    let stream = server.connect(Frontend::ConnectUnix, &target).await;
    tokens.forget();
    tokens.give("second", "node-b", HOUR);
    lapsed(&server, "token_expired", 1).await;
    // The agent comes again, as another node.
    server.wait_for_tunnels(1).await;
    drop(stream);
    agent.kill().await;
    server.kill().await;
    tunnel_tests::panics::assert_none();
}
