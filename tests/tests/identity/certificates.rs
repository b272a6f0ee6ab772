//! Agents with certificates of nodes.

use tunnel_tests::{Target, wait_for};

use super::*;

impl World {
    /// An agent with a node's certificate, and the token of another node, if any.
    fn certified(&self, link: Link, node: &str, token: Option<&str>) -> AgentSpec {
        let (cert, key) = self.pki.of_node(node);
        let spec = self.spec(link, "agent", token, "");
        let spec = if token.is_none() { spec.flag("service-account-token-path", "") } else { spec };
        spec.flag("agent-cert", &cert.display().to_string()).flag("agent-key", &key.display().to_string())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_a_node_proves_it_on_every_link() {
    for link in LINKS {
        let world = World::new().await;
        let ca = world.pki.ca().display().to_string();
        let by_certificate = [
            ("cluster-ca-cert", ca.as_str()),
            ("agent-namespace", ""),
            ("agent-service-account", ""),
            ("authentication-audience", ""),
        ];
        let server = world.server_with("strict", "nodes", &by_certificate);
        let agent = Agent::start(&world.pki, &[server.agents], &world.certified(link, A.name, None));
        server.wait_for_tunnels(1).await;
        wait_for("the nodes", async || match world.identities().await.nodes {
            Some(nodes) if nodes.count == 2 => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
        let on_a = Target::echo(A.address).await;
        wait_for("a route", async || {
            let dialed = server.dial(Frontend::ConnectUnix, &on_a.to_string()).await;
            dialed.map(drop).map_err(|error| error.to_string())
        })
        .await;
        assert_eq!(world.identities().await.kinds.get("node"), Some(&1), "{}", link.label());
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_and_a_certificate_of_two_nodes_admit_nobody() {
    for link in LINKS {
        let world = World::new().await;
        let ca = world.pki.ca().display().to_string();
        let server = world.server_with("audit", "claims", &[("cluster-ca-cert", &ca)]);
        let spec = world.certified(link, A.name, Some(B.name));
        let agent = Agent::start(&world.pki, &[server.agents], &spec);
        let labels = [format!("link=\"{}\"", link.label()), "reason=\"identity_conflict\"".to_owned()];
        wait_for("a rejection", async || {
            let metrics = server.metrics().await;
            let seen = metrics.sum("tunnel_server_rejected_agents_total", &[&labels[0], &labels[1]]);
            if seen > 0 { Ok(()) } else { Err(metrics.show("tunnel_server_rejected")) }
        })
        .await;
        assert_eq!(server.metrics().await.sum("tunnel_server_tunnels", &[]), 0);
        agent.kill().await;
        let spec = world.certified(link, A.name, Some(A.name));
        let agent = Agent::start(&world.pki, &[server.agents], &spec);
        server.wait_for_tunnels(1).await;
        agent.kill().await;
        server.kill().await;
    }
    tunnel_tests::panics::assert_none();
}
