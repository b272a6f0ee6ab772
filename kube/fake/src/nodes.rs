//! Nodes: list in pages, watch, and the controls of a test.

use std::time::Duration;

use axum::response::Response;
use serde_json::{Value, json};

use crate::leases::{WATCH, selected, watch};
use crate::state::{FakeApi, Refused, Verb, ok};

impl FakeApi {
    /// Creates a node or writes over it, with these labels and internal addresses, and a network
    /// for pods that no other node has.
    pub fn put_node(&self, name: &str, labels: &Value, addresses: &[&str]) {
        let at = {
            let nodes = &self.state().nodes;
            let known = nodes.get(name).map(|node| node["spec"]["podCIDR"].clone());
            known.unwrap_or_else(|| {
                json!(format!("10.{}.{}.0/24", 244 + nodes.len() / 256, nodes.len() % 256))
            })
        };
        self.put_node_with_pods(name, labels, addresses, at.as_str().unwrap_or_default());
    }

    /// As [`FakeApi::put_node`], with this network for pods.
    pub fn put_node_with_pods(&self, name: &str, labels: &Value, addresses: &[&str], pods: &str) {
        let internal = addresses.iter().map(|at| json!({"type": "InternalIP", "address": at}));
        let hostname = json!({"type": "Hostname", "address": name});
        let addresses: Vec<_> = internal.chain([hostname]).collect();
        self.store_node(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"podCIDR": pods},
            "status": {"addresses": addresses, "images": [{"names": ["not read"]}]},
        }));
    }

    /// Deletes a node.
    pub fn delete_node(&self, name: &str) {
        let Some(node) = self.state().nodes.remove(name) else { return };
        self.tell_of_node("DELETED", node);
    }

    fn store_node(&self, node: Value) {
        let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = if self.state().nodes.contains_key(&name) { "MODIFIED" } else { "ADDED" };
        let node = self.tell_of_node(kind, node);
        self.state().nodes.insert(name, node);
    }

    fn tell_of_node(&self, kind: &'static str, mut node: Value) -> Value {
        let mut state = self.state();
        state.version += 1;
        let version = state.version;
        node["apiVersion"] = json!("v1");
        node["kind"] = json!("Node");
        node["metadata"]["resourceVersion"] = json!(version.to_string());
        state.history.push((version, kind, node.clone()));
        drop(state);
        self.version.send_replace(version);
        node
    }
}

pub(crate) async fn nodes(api: &FakeApi, query: &[(String, String)]) -> Result<Response, Refused> {
    let value = |key: &str| query.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let selector = value("labelSelector").unwrap_or_default();
    if matches!(value("watch"), Some("true" | "1")) {
        api.admit(Verb::WatchNodes).await?;
        let since = value("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let lasts = value("timeoutSeconds").and_then(|seconds| seconds.parse().ok());
        return Ok(watch(api, Value::Null, selector, since, lasts.map_or(WATCH, Duration::from_secs)));
    }
    api.admit(Verb::ListNodes).await?;
    let limit = value("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let state = api.state();
    // The token of a page is the name that the last one ended with.
    let after = value("continue").unwrap_or_default();
    let mut left =
        state.nodes.iter().filter(|(name, node)| name.as_str() > after && selected(node, selector));
    let page: Vec<_> = left.by_ref().take(limit).collect();
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if let (Some((last, _)), Some(_)) = (page.last(), left.next()) {
        metadata["continue"] = json!(last);
    }
    let items: Vec<_> = page.into_iter().map(|(_, node)| node).collect();
    Ok(ok(200, &json!({"apiVersion": "v1", "kind": "NodeList", "metadata": metadata, "items": items})))
}
