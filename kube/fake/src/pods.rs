//! Pods: read one, and the controls of a test.

use axum::response::Response;
use serde_json::json;

use crate::state::{FakeApi, Refused, Verb, ok};

impl FakeApi {
    /// Creates a pod or writes over it, with this uid, on this node.
    pub fn put_pod(&self, namespace: &str, name: &str, uid: &str, node: &str) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "spec": {"nodeName": node, "containers": [{"name": "not read"}]},
            "status": {"phase": "Running"},
        });
        self.state().pods.insert((namespace.to_owned(), name.to_owned()), pod);
    }
}

pub(crate) async fn pod(api: &FakeApi, namespace: &str, name: &str) -> Result<Response, Refused> {
    api.admit(Verb::GetPod).await?;
    let pod = api.state().pods.get(&(namespace.to_owned(), name.to_owned())).cloned();
    pod.map(|pod| ok(200, &pod)).ok_or_else(|| Refused::new(404, "NotFound", name))
}
