//! Pods: kube-apiservers, and agents whose log is read and in which a command runs.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{AttachParams, LogParams};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::{Cluster, Machine, is_ready};
use crate::apiserver::flag;
use crate::fault::Fault;

/// Limit of a command in a pod, output included.
const EXEC_LIMIT: Duration = Duration::from_secs(20);

/// Most bytes that are read of a command's output.
const MOST_OUTPUT: u64 = 64 * 1024;

/// A pod.
#[derive(Debug, Clone)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) node: String,
    pub(crate) ready: bool,
    annotations: Value,
}

impl Pod {
    fn is_on(&self, nodes: &[Machine]) -> bool {
        nodes.iter().any(|node| node.name == self.node)
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations[name].as_str()
    }
}

/// The pod of a kube-apiserver.
#[derive(Debug, Clone)]
pub(crate) struct ApiServerPod {
    pub(crate) pod: Pod,
    /// Changes with the manifest.
    pub(crate) hash: Option<String>,
    /// The address and port by which it alone is reached.
    pub(crate) endpoint: Option<String>,
    command: Vec<String>,
}

impl ApiServerPod {
    pub(crate) fn flag(&self, name: &str) -> Option<&str> {
        flag(self.command.iter().map(String::as_str), name)
    }
}

/// A DaemonSet or Deployment of agents.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// How far the pods of a workload have been replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rollout {
    observed: bool,
    pub(crate) updated: usize,
    pub(crate) desired: usize,
}

impl Rollout {
    /// Whether all pods have the newest template, but for those on `absent` nodes.
    pub(crate) const fn is_done(self, absent: usize) -> bool {
        self.observed && self.desired > 0 && self.updated + absent >= self.desired
    }
}

impl Cluster {
    /// The rollout of a DaemonSet or Deployment.
    pub(crate) async fn rollout(&self, of: &Workload) -> Result<Rollout, Fault> {
        let Workload { kind, namespace, name } = of;
        let object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"namespace": namespace, "name": name}});
        let (api, name) = self.api(&object);
        let found = self.ask(&format!("read {kind} {namespace}/{name}"), api.get(&name)).await?;
        let number = |path: &str| found.data.pointer(path).and_then(Value::as_u64);
        let count =
            |path: &str| number(path).and_then(|number| usize::try_from(number).ok()).unwrap_or_default();
        let updated = count("/status/updatedNumberScheduled").max(count("/status/updatedReplicas"));
        let observed = number("/status/observedGeneration")
            == found.metadata.generation.and_then(|at| u64::try_from(at).ok());
        Ok(Rollout {
            observed,
            // Before that the status counts pods of the template before.
            updated: if observed { updated } else { 0 },
            desired: count("/status/desiredNumberScheduled").max(count("/spec/replicas")),
        })
    }

    fn pods(&self, namespace: &str) -> Api<core::Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The pods of all kube-apiservers that kubeadm runs. That of a node that was deleted stays for a while.
    pub(crate) async fn apiservers(&self) -> Result<Vec<ApiServerPod>, Fault> {
        let labels = "component=kube-apiserver,tier=control-plane";
        let pods = self.list("the kube-apiservers' pods", &in_namespace("kube-system"), labels).await?;
        Ok(pods.iter().map(apiserver).collect())
    }

    /// The pods of kube-apiservers on these nodes.
    pub(crate) async fn apiservers_on(&self, nodes: &[Machine]) -> Result<Vec<ApiServerPod>, Fault> {
        let mut pods = self.apiservers().await?;
        pods.retain(|found| found.pod.is_on(nodes));
        Ok(pods)
    }

    /// Pods of a namespace that `labels` selects, on these nodes. A pod of a node that was deleted
    /// stays listed, and ready, for up to a minute, until the kube-controller-manager deletes it.
    pub(crate) async fn pods_of(
        &self,
        namespace: &str,
        labels: &str,
        nodes: &[Machine],
    ) -> Result<Vec<Pod>, Fault> {
        let pods = self.list(&format!("pods of {namespace}"), &in_namespace(namespace), labels).await?;
        Ok(pods.iter().map(pod).filter(|pod| pod.is_on(nodes)).collect())
    }

    /// The pods of tunnel servers beside kube-apiservers, on these nodes.
    pub(crate) async fn servers(&self, nodes: &[Machine]) -> Result<Vec<Pod>, Fault> {
        self.pods_of("kube-system", "app.kubernetes.io/name=tunnel-server", nodes).await
    }

    /// The last line of a pod's log.
    pub(crate) async fn last_line(&self, namespace: &str, name: &str) -> Result<String, Fault> {
        let params = LogParams { tail_lines: Some(1), ..LogParams::default() };
        let pods = self.pods(namespace);
        self.ask(&format!("read the log of {namespace}/{name}"), pods.logs(name, &params)).await
    }

    /// The standard output of a command in a pod.
    pub(crate) async fn output(
        &self,
        namespace: &str,
        name: &str,
        command: &[&str],
    ) -> Result<String, Fault> {
        let shown = command.join(" ");
        let failed = |why: String| {
            Fault::new(
                format!("cannot run {shown} in {namespace}/{name}: {why}"),
                format!("kubectl -n {namespace} exec {name} -- {shown}"),
            )
        };
        let run = async {
            let pods = self.pods(namespace);
            let params = AttachParams::default().stdin(false).stdout(true).stderr(false);
            let mut attached =
                pods.exec(name, command.to_vec(), &params).await.map_err(|error| super::chain(&error))?;
            let mut output = String::new();
            let stdout = attached.stdout().ok_or("there is no standard output")?;
            stdout.take(MOST_OUTPUT).read_to_string(&mut output).await.map_err(|error| error.to_string())?;
            Ok(output)
        };
        match timeout(EXEC_LIMIT, Box::pin(run)).await {
            Ok(output) => output.map_err(failed),
            Err(_) => Err(failed(format!("no end within {} s", EXEC_LIMIT.as_secs()))),
        }
    }
}

fn in_namespace(namespace: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace}})
}

fn pod(pod: &Value) -> Pod {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Pod {
        name: text(&pod["metadata"]["name"]),
        node: text(&pod["spec"]["nodeName"]),
        ready: is_ready(pod) && pod["metadata"]["deletionTimestamp"].is_null(),
        annotations: pod["metadata"]["annotations"].clone(),
    }
}

fn apiserver(listed: &Value) -> ApiServerPod {
    let pod = pod(listed);
    let annotation = |name: &str| pod.annotation(name).map(str::to_owned);
    let command = listed.pointer("/spec/containers/0/command").and_then(Value::as_array);
    ApiServerPod {
        hash: annotation("kubernetes.io/config.hash"),
        endpoint: annotation("kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint"),
        command: command.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        pod,
    }
}

#[cfg(test)]
mod tests {
    use super::super::machine;
    use super::*;

    #[test]
    fn a_ready_pod_of_a_deleted_node_is_on_no_node() {
        let node = |name: &str| machine(&json!({"metadata": {"name": name}}));
        let of = |name: &str| {
            pod(&json!({
                "metadata": {"name": format!("tunnel-agent-of-{name}")},
                "spec": {"nodeName": name},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            }))
        };
        let nodes = [node("worker")];
        assert!(of("worker").ready && of("worker").is_on(&nodes));
        assert!(of("deleted").ready && !of("deleted").is_on(&nodes));
    }
}
