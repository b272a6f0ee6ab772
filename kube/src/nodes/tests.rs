//! Nodes over a fake API, in memory, on a paused clock.

use serde_json::json;
use tunnel_kube_fake::{FakeApi, Verb};

use super::*;
use crate::testing::cluster;

struct World {
    api: FakeApi,
    drain: Drain,
    nodes: watch::Receiver<Nodes>,
}

impl World {
    fn follow(api: FakeApi, selector: &str) -> Self {
        let drain = Drain::new();
        let nodes = follow(&cluster(&api, 0.0, 0), selector, &drain);
        Self { api, drain, nodes }
    }

    async fn until(&mut self, what: &str, wanted: impl FnMut(&Nodes) -> bool) {
        let seen = timeout(Duration::from_secs(600), self.nodes.wait_for(wanted)).await;
        assert!(seen.is_ok_and(|seen| seen.is_ok()), "{what}");
    }

    fn names(&self) -> Vec<String> {
        self.nodes.borrow().iter().map(|(node, _)| node.name.clone()).collect()
    }
}

fn linux() -> serde_json::Value {
    json!({"kubernetes.io/os": "linux"})
}

#[tokio::test(start_paused = true)]
async fn nodes_come_change_and_go_at_once() {
    let api = FakeApi::new();
    api.put_node("a", &linux(), &["10.0.0.1", "fd00::1"]);
    api.put_node("w", &json!({"kubernetes.io/os": "windows"}), &["10.0.0.9"]);
    let mut world = World::follow(api, "kubernetes.io/os=linux");
    world.until("a list", Nodes::is_listed).await;
    assert_eq!(world.names(), ["a"]);
    {
        let nodes = world.nodes.borrow();
        let (node, _) = nodes.iter().next().unwrap();
        assert_eq!(node.addresses, ["10.0.0.1", "fd00::1", "a"]);
        assert_eq!(node.pod_cidrs, ["10.244.0.0/24"]);
    }
    world.api.put_node("b", &linux(), &["10.0.0.2"]);
    world.until("a node more", |nodes| nodes.len() == 2).await;
    world.api.delete_node("a");
    world.until("a node less", |nodes| nodes.len() == 1).await;
    assert_eq!(world.names(), ["b"]);
    assert_eq!(world.api.asked(Verb::ListNodes), 1);
    world.drain.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_is_no_change() {
    let api = FakeApi::new();
    api.put_node("a", &linux(), &["10.0.0.1"]);
    let mut world = World::follow(api, "");
    world.until("a list", Nodes::is_listed).await;
    world.api.put_node("a", &linux(), &["10.0.0.1"]);
    world.api.put_node("b", &linux(), &["10.0.0.2"]);
    assert!(world.nodes.changed().await.is_ok());
    assert_eq!(world.names(), ["a", "b"], "the first change is the new node");
    world.drain.finish().await;
}

#[tokio::test(start_paused = true)]
async fn many_nodes_come_in_pages() {
    let api = FakeApi::new();
    for number in 0..600 {
        api.put_node(&format!("n{number:04}"), &linux(), &["10.0.0.1"]);
    }
    let mut world = World::follow(api, "");
    world.until("all pages", |nodes| nodes.len() == 600).await;
    assert_eq!(world.api.asked(Verb::ListNodes), 3);
    world.drain.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_api_the_nodes_stay_and_their_age_is_known() {
    let api = FakeApi::new();
    api.put_node("a", &linux(), &["10.0.0.1"]);
    let mut world = World::follow(api, "");
    world.until("a list", Nodes::is_listed).await;
    for verb in [Verb::ListNodes, Verb::WatchNodes] {
        world.api.fail(verb, Some((503, "ServiceUnavailable")));
    }
    world.api.cut_watches();
    world.until("stale nodes", |nodes| nodes.stale_since().is_some()).await;
    assert_eq!(world.names(), ["a"]);
    world.api.delete_node("a");
    for verb in [Verb::ListNodes, Verb::WatchNodes] {
        world.api.fail(verb, None);
    }
    world.until("fresh nodes", |nodes| nodes.stale_since().is_none()).await;
    assert_eq!(world.names(), Vec::<String>::new());
    world.drain.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lasted_goes_on_without_a_list() {
    let mut world = World::follow(FakeApi::new(), "");
    world.until("a list", Nodes::is_listed).await;
    // Longer than any watch: several have ended.
    sleep(Duration::from_secs(1000)).await;
    world.api.put_node("a", &linux(), &["10.0.0.1"]);
    world.until("a node of a later watch", |nodes| nodes.len() == 1).await;
    assert_eq!(world.api.asked(Verb::ListNodes), 1);
    assert!(world.api.asked(Verb::WatchNodes) >= 3);
    world.drain.finish().await;
}
