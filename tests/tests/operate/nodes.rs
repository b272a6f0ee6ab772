//! Expected nodes against connected agents.

use serde_json::{Value, json};
use tunnel_kube_fake::Verb;

use super::*;

fn linux() -> Value {
    json!({"kubernetes.io/os": "linux"})
}

impl World {
    fn expecting(&self, id: &str) -> ServerSpec {
        self.spec(id)
            .flag("expected-nodes", "kubernetes.io/os=linux")
            .flag("kubeconfig", &self.shown("kubeconfig"))
    }
}

fn numbers(status: &ServerStatus) -> (usize, usize) {
    status.nodes.as_ref().map_or((0, 0), |nodes| (nodes.expected, nodes.connected))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_counts_for_a_node_by_its_id_or_its_identifiers() {
    let world = World::new().await;
    world.api.put_node("by-id", &linux(), &["10.9.9.9"]);
    world.api.put_node("by-address", &linux(), &["127.0.0.2"]);
    world.api.put_node("by-host", &linux(), &["10.9.9.8"]);
    world.api.put_node("of-windows", &json!({"kubernetes.io/os": "windows"}), &["10.9.9.7"]);
    let server = world.start(&world.expecting("cp-1"));
    let (one, two) = (Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2));
    let by_id = world.agent("by-id", Link::Quic, one, &[&server]);
    let by_address = world.agent("other", Link::H2, two, &[&server]);
    let spec = AgentSpec::new("third", Link::H2, one).flag("agent-identifiers", "host=by-host");
    let by_host = Agent::start(&world.pki, &[server.agents], &spec);
    let status = world.until("cp-1", "three nodes", |status| numbers(status) == (3, 3)).await;
    assert_eq!(status.nodes.unwrap().missing, []);
    let socket = world.shown("cp-1.admin");
    assert_eq!(world.server_command(&["status", "--admin-socket", &socket]).await, Health::Ok);
    for agent in [by_id, by_address, by_host] {
        agent.kill().await;
    }
    server.kill().await;
    tunnel_tests::panics::assert_none();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_node_is_named_and_a_removed_one_is_forgotten_at_once() {
    let world = World::new().await;
    let server = world.start(&world.expecting("cp-1"));
    let socket = world.shown("cp-1.admin");
    let line = ["status", "--admin-socket", &socket];
    world
        .until("cp-1", "an empty list", |status| status.nodes.as_ref().is_some_and(|nodes| nodes.listed))
        .await;
    assert_eq!(world.server_command(&line).await, Health::Ok, "no node, no agent, no fault");

    world.api.put_node("worker-1", &linux(), &["127.0.0.1"]);
    world.api.put_node("worker-2", &linux(), &["10.9.9.9"]);
    let agent = world.agent("worker-1", Link::Quic, Ipv4Addr::LOCALHOST, &[&server]);
    let status = world.until("cp-1", "one of two", |status| numbers(status) == (2, 1)).await;
    let missing = status.nodes.unwrap().missing;
    assert_eq!((missing.len(), missing[0].node.as_str(), missing[0].seen), (1, "worker-2", false));
    assert_eq!(world.server_command(&line).await, Health::Degraded);

    agent.kill().await;
    let status = world.until("cp-1", "none of two", |status| numbers(status) == (2, 0)).await;
    let missing = status.nodes.unwrap().missing;
    let left = missing.iter().find(|missing| missing.node == "worker-1").unwrap();
    assert!(left.seen && left.since < 60, "{left:?}");
    assert_eq!(world.server_command(&line).await, Health::Down);

    for node in ["worker-1", "worker-2"] {
        world.api.delete_node(node);
    }
    world.until("cp-1", "no node", |status| numbers(status) == (0, 0)).await;
    assert_eq!(world.server_command(&line).await, Health::Ok);
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_api_the_nodes_stay_expected() {
    let world = World::new().await;
    world.api.put_node("worker-1", &linux(), &["10.9.9.9"]);
    let server = world.start(&world.expecting("cp-1"));
    world.until("cp-1", "a node", |status| numbers(status) == (1, 0)).await;
    for verb in [Verb::ListNodes, Verb::WatchNodes] {
        world.api.fail(verb, Some((503, "ServiceUnavailable")));
    }
    world.api.cut_watches();
    let stale = |status: &ServerStatus| status.nodes.as_ref().is_some_and(|nodes| nodes.stale.is_some());
    let status = world.until("cp-1", "stale nodes", stale).await;
    assert_eq!(numbers(&status), (1, 0));
    server.kill().await;
}
