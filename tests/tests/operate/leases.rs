//! `status --kubeconfig`: only Leases, also while no tunnel works.

use serde_json::{Value, json};
use tunnel_kube_fake::Verb;
use tunnel_operate::summary::{ANNOTATION, MAX_SUMMARY, read};

use super::*;

const NAMESPACE: &str = "kube-system";

impl World {
    fn publishing(&self, id: &str) -> ServerSpec {
        self.spec(id)
            .flag("enable-lease-controller", "true")
            .flag("expected-nodes", "kubernetes.io/os=linux")
            .flag("kubeconfig", &self.shown("kubeconfig"))
    }

    fn lease(&self, id: &str) -> Option<Value> {
        self.api.leases(NAMESPACE).remove(&format!("konnectivity-proxy-server-{id}"))
    }

    async fn until_lease(&self, id: &str) -> Value {
        wait_for("a lease", async || self.lease(id).ok_or_else(|| "none".to_owned())).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_laptop_reads_the_servers_own_words_from_their_leases() {
    let world = World::new().await;
    for number in 0..100 {
        let name = format!("{}-{number}", "n".repeat(200));
        world.api.put_node(&name, &json!({"kubernetes.io/os": "linux"}), &["10.9.9.9"]);
    }
    let kubeconfig = world.shown("kubeconfig");
    let line = ["status", "--kubeconfig", &kubeconfig];
    assert_eq!(world.server_command(&line).await, Health::Down, "no Lease at all");

    let server = world.start(&world.publishing("cp-1"));
    world
        .until("cp-1", "all nodes", |status| status.nodes.as_ref().is_some_and(|nodes| nodes.expected == 100))
        .await;
    // The first Lease may be older than the list of nodes.
    world.until_lease("cp-1").await;
    let asked = (world.api.asked(Verb::Create), world.api.asked(Verb::Update), world.api.asked(Verb::Get));
    assert_eq!(asked, (1, 0, 1), "the status costs no request");
    let text =
        world.lease("cp-1").unwrap()["metadata"]["annotations"][ANNOTATION].as_str().unwrap().to_owned();
    assert!(text.len() <= MAX_SUMMARY, "{}", text.len());
    let status = read(&text).unwrap();
    assert_eq!((status.id.as_str(), status.agents.connected), ("cp-1", 0));
    // No tunnel at all, and still an answer.
    assert_eq!(world.server_command(&line).await, Health::Down);

    let foreign = [&line[..], &["--selector", "k8s-app=other"]].concat();
    assert_eq!(world.server_command(&foreign).await, Health::Down);
    world.api.fail(Verb::List, Some((403, "Forbidden")));
    assert_eq!(world.server_command(&line).await, Health::Down);
    server.kill().await;
    tunnel_tests::panics::assert_none();
}
