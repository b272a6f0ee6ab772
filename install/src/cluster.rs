//! The cluster, as its administrator sees it.

mod pods;

use std::path::Path;
use std::time::Duration;

use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::fault::Fault;

pub(crate) use pods::{ApiServerPod, Pod, Workload};

/// Limit of a request. A kube-apiserver that just started answers the first ones slowly.
const LIMIT: Duration = Duration::from_secs(15);

/// The owner of fields that are applied.
const MANAGER: &str = "tunnel-installer";

/// Most nodes and pods that are listed, four times what Kubernetes supports.
const MOST: u32 = 20_000;

/// A node of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) name: String,
    /// Its first InternalIP.
    pub(crate) address: Option<String>,
    /// All its addresses and names.
    pub(crate) addresses: Vec<String>,
    pub(crate) kubelet_port: u16,
    pub(crate) ready: bool,
    pub(crate) linux: bool,
}

impl Machine {
    /// Whether an agent is expected to serve the node now.
    pub(crate) const fn is_awaited(&self) -> bool {
        self.ready && self.linux
    }
}

/// A client of the kube-apiserver.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    config: Config,
    source: String,
}

impl Cluster {
    /// # Errors
    /// When the kubeconfig is not usable. Does not connect.
    pub(crate) async fn new(kubeconfig: &Path) -> Result<Self, Fault> {
        let source = kubeconfig.display().to_string();
        let failed = |why: String| {
            Fault::new(
                format!("{source} is not usable: {why}"),
                "give the administrator's file with --kubeconfig",
            )
        };
        let file = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.to_string()))?;
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(file, &options)
            .await
            .map_err(|error| failed(error.to_string()))?;
        (config.connect_timeout, config.read_timeout) = (Some(LIMIT), Some(LIMIT));
        let client = Client::try_from(config.clone()).map_err(|error| failed(error.to_string()))?;
        Ok(Self { client, config, source })
    }

    /// A client of one kube-apiserver: a kubeconfig names a load balancer where there are several.
    ///
    /// # Errors
    /// When `endpoint` is no address and port.
    pub(crate) fn at(&self, endpoint: &str) -> Result<Self, Fault> {
        let failed = |why: String| {
            Fault::new(format!("cannot ask the kube-apiserver at {endpoint}: {why}"), "kubectl cluster-info")
        };
        let mut config = self.config.clone();
        config.cluster_url =
            format!("https://{endpoint}").parse().map_err(|error| failed(format!("{error}")))?;
        let client = Client::try_from(config.clone()).map_err(|error| failed(error.to_string()))?;
        Ok(Self { client, config, source: self.source.clone() })
    }

    async fn ask<T>(&self, what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T, Fault> {
        let why = match timeout(LIMIT, request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(kube::Error::Api(status))) => format!("{} ({})", status.message, status.code),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no answer within {} s", LIMIT.as_secs()),
        };
        Err(Fault::new(
            format!("cannot {what}: {why}"),
            format!("kubectl --kubeconfig {} get nodes", self.source),
        ))
    }

    /// The version of the kube-apiserver.
    pub(crate) async fn version(&self) -> Result<String, Fault> {
        let version =
            self.ask("ask the kube-apiserver for its version", self.client.apiserver_version()).await?;
        Ok(version.git_version)
    }

    pub(crate) async fn nodes(&self) -> Result<Vec<Machine>, Fault> {
        let nodes = self.list("nodes", &json!({"apiVersion": "v1", "kind": "Node"}), "").await?;
        Ok(nodes.iter().map(machine).collect())
    }

    /// kubeadm's ConfigMap, with its version.
    pub(crate) async fn kubeadm_config(&self) -> Result<Value, Fault> {
        let (api, name) = self.api(&kubeadm_config());
        let found = self.ask("read the ConfigMap kube-system/kubeadm-config", api.get(&name)).await?;
        Ok(serde_json::to_value(&found).unwrap_or_default())
    }

    /// Replaces kubeadm's ConfigMap, unless somebody else changed it meanwhile.
    pub(crate) async fn replace_kubeadm_config(&self, map: &Value) -> Result<(), Fault> {
        let (api, name) = self.api(map);
        let title = "replace the ConfigMap kube-system/kubeadm-config";
        let object = serde_json::from_value(map.clone());
        let object =
            object.map_err(|error| Fault::new(format!("cannot {title}: {error}"), "run this again"))?;
        self.ask(title, api.replace(&name, &PostParams::default(), &object)).await.map(drop)
    }

    /// All objects of a kind, in `like`'s namespace if it has one, that `labels` selects.
    async fn list(&self, what: &str, like: &Value, labels: &str) -> Result<Vec<Value>, Fault> {
        let (api, _) = self.api(like);
        let selected = ListParams::default().labels(labels).limit(MOST);
        let listed = self.ask(&format!("list {what}"), api.list(&selected)).await?;
        Ok(listed.items.iter().map(|item| serde_json::to_value(item).unwrap_or_default()).collect())
    }

    /// Applies an object; with `dry_run` nothing is stored. Returns the object as it is then,
    /// or `None` in a dry run whose namespace does not exist yet.
    pub(crate) async fn apply(&self, object: &Value, dry_run: bool) -> Result<Option<Value>, Fault> {
        let params = PatchParams { dry_run, ..PatchParams::apply(MANAGER).force() };
        let (api, name) = self.api(object);
        let request = async {
            match api.patch(&name, &params, &Patch::Apply(object)).await {
                Err(kube::Error::Api(status)) if dry_run && status.code == 404 => Ok(None),
                applied => applied.map(Some),
            }
        };
        Ok(self.ask(&format!("apply {}", title(object)), request).await?.map(|applied| plain(&applied)))
    }

    /// Merges a patch into the object that it names; with `dry_run` nothing is stored. Returns
    /// the object as it is then.
    pub(crate) async fn patch(&self, patch: &Value, dry_run: bool) -> Result<Value, Fault> {
        let params =
            PatchParams { dry_run, field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let (api, name) = self.api(patch);
        let merge = Patch::Merge(patch);
        let patched =
            self.ask(&format!("change {}", title(patch)), api.patch(&name, &params, &merge)).await?;
        Ok(plain(&patched))
    }

    /// All DaemonSets or Deployments of the cluster.
    pub(crate) async fn workloads(&self, kind: &str) -> Result<Vec<Value>, Fault> {
        let (api, _) = self.api(&json!({"apiVersion": "apps/v1", "kind": kind}));
        let listed = self.ask(&format!("list {kind}s"), api.list(&ListParams::default().limit(MOST))).await?;
        Ok(listed.items.iter().map(plain).collect())
    }

    /// The object as it is in the cluster.
    pub(crate) async fn get(&self, object: &Value) -> Result<Option<Value>, Fault> {
        let (api, name) = self.api(object);
        let found = self.ask(&format!("read {}", title(object)), api.get_opt(&name)).await?;
        Ok(found.map(|found| plain(&found)))
    }

    /// Deletes an object with all that it owns, if it is there.
    pub(crate) async fn delete(&self, object: &Value) -> Result<(), Fault> {
        let (api, name) = self.api(object);
        let request = async {
            match api.delete(&name, &DeleteParams::background()).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                deleted => deleted.map(drop),
            }
        };
        self.ask(&format!("delete {}", title(object)), request).await
    }

    fn api(&self, object: &Value) -> (Api<DynamicObject>, String) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let version = text(&object["apiVersion"]);
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &text(&object["kind"])));
        let api = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        (api, text(&object["metadata"]["name"]))
    }
}

/// Kind, namespace and name of an object.
pub(crate) fn title(object: &Value) -> String {
    let (kind, meta) = (object["kind"].as_str().unwrap_or("object"), &object["metadata"]);
    let name = meta["name"].as_str().unwrap_or("?");
    match meta["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

/// An object without what the kube-apiserver keeps for itself.
fn plain(object: &DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(root) = value.as_object_mut() {
        root.remove("status");
    }
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for key in ["creationTimestamp", "generation", "managedFields", "resourceVersion", "uid"] {
            meta.remove(key);
        }
    }
    value
}

fn machine(node: &Value) -> Machine {
    let addresses = || node.pointer("/status/addresses").and_then(Value::as_array).into_iter().flatten();
    let internal = addresses().find(|each| each["type"] == "InternalIP");
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    Machine {
        name: node["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        address: internal.and_then(|internal| internal["address"].as_str()).map(str::to_owned),
        addresses: addresses().filter_map(|each| each["address"].as_str()).map(str::to_owned).collect(),
        kubelet_port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(10250),
        ready: is_ready(node),
        linux: node["metadata"]["labels"]["kubernetes.io/os"].as_str().is_none_or(|os| os == "linux"),
    }
}

/// Whether the condition Ready of a node or pod holds.
fn is_ready(object: &Value) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|each| each["type"] == "Ready" && each["status"] == "True")
}

fn kubeadm_config() -> Value {
    let meta = json!({"name": "kubeadm-config", "namespace": "kube-system"});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
}

/// An error with its causes: the client's own text often says no more than "ServiceError".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_of_several_kube_apiservers_is_asked_by_its_own_address() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("admin.conf");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "k", "cluster": {"server": "https://load-balancer.example:6443"}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        });
        std::fs::write(&file, kubeconfig.to_string()).unwrap();
        let cluster = Cluster::new(&file).await.unwrap();
        assert_eq!(cluster.config.cluster_url.host(), Some("load-balancer.example"));
        for endpoint in ["10.0.0.2:6443", "[fd00::2]:6443"] {
            let local = cluster.at(endpoint).unwrap();
            assert_eq!(local.config.cluster_url.to_string(), format!("https://{endpoint}/"));
        }
        assert!(cluster.at("no address").is_err());
    }
}
