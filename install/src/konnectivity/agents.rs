//! Konnectivity's agents: DaemonSets and Deployments whose pods run `proxy-agent`.

use serde_json::{Value, json};

use crate::cluster::{Cluster, Workload};
use crate::fault::Fault;
use crate::manifests::Images;
use crate::plan::Change;

/// Keeps the image of before, for the way back.
const ANNOTATION: &str = "tunnel-installer/image-before";

/// A DaemonSet or Deployment of agents.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) namespace: String,
    /// Label selector of its pods.
    pub(crate) selector: String,
    name: String,
    kind: &'static str,
    containers: Vec<Value>,
    before: Option<String>,
    container: usize,
}

/// Finds all agents of the cluster.
///
/// # Errors
/// When there are none.
pub(crate) async fn find(cluster: &Cluster) -> Result<Vec<Found>, Fault> {
    let mut found = Vec::new();
    for kind in ["DaemonSet", "Deployment"] {
        found.extend(cluster.workloads(kind).await?.iter().filter_map(|workload| read(kind, workload)));
    }
    if found.is_empty() {
        return Err(Fault::new(
            "no DaemonSet and no Deployment runs Konnectivity's agent, proxy-agent",
            "change the agents' images as docs/MIGRATION.md says",
        ));
    }
    Ok(found)
}

fn read(kind: &'static str, workload: &Value) -> Option<Found> {
    let containers = workload.pointer("/spec/template/spec/containers")?.as_array()?;
    let container = containers.iter().position(is_agent)?;
    let labels = workload.pointer("/spec/selector/matchLabels")?.as_object()?;
    let labels: Vec<_> =
        labels.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(Found {
        namespace: text(&workload["metadata"]["namespace"])?,
        name: text(&workload["metadata"]["name"])?,
        selector: labels.join(","),
        kind,
        before: text(&workload["metadata"]["annotations"][ANNOTATION]),
        containers: containers.clone(),
        container,
    })
}

/// By the program it runs, or by the name of its image where the image decides.
fn is_agent(container: &Value) -> bool {
    let program = container.pointer("/command/0").and_then(Value::as_str);
    let image = container["image"].as_str().unwrap_or_default();
    let image = image.rsplit('/').next().unwrap_or_default().split([':', '@']).next();
    match program {
        Some(program) => program.rsplit('/').next() == Some("proxy-agent"),
        None => {
            image == Some("proxy-agent")
                || (image == Some("tunnel-agent") && container.to_string().contains("konnectivity"))
        }
    }
}

impl Found {
    /// Its rollout is waited for.
    pub(crate) fn workload(&self) -> Workload {
        Workload { kind: self.kind, namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The change to our image; `None` if it has it.
    ///
    /// # Errors
    /// When the kube-apiserver refuses it.
    pub(crate) async fn moved(&self, cluster: &Cluster, images: &Images) -> Result<Option<Change>, Fault> {
        let image = images.of("tunnel-agent");
        if self.image() == image {
            return Ok(None);
        }
        let before = self.before.clone().unwrap_or_else(|| self.image().to_owned());
        Change::of_patched(cluster, self.patch(&image, Some(&before))).await
    }

    /// The change to the image of before; `None` if it was never changed.
    ///
    /// # Errors
    /// When the kube-apiserver refuses it.
    pub(crate) async fn put_back(&self, cluster: &Cluster) -> Result<Option<Change>, Fault> {
        match &self.before {
            Some(before) => Change::of_patched(cluster, self.patch(before, None)).await,
            None => Ok(None),
        }
    }

    fn image(&self) -> &str {
        self.containers[self.container]["image"].as_str().unwrap_or_default()
    }

    /// A merge patch, in which lists are whole.
    fn patch(&self, image: &str, before: Option<&str>) -> Value {
        let mut containers = self.containers.clone();
        containers[self.container]["image"] = json!(image);
        json!({
            "apiVersion": "apps/v1",
            "kind": self.kind,
            "metadata": {
                "name": self.name, "namespace": self.namespace, "annotations": {ANNOTATION: before},
            },
            "spec": {"template": {"spec": {"containers": containers}}},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn daemonset(container: &Value) -> Value {
        json!({
            "metadata": {"name": "konnectivity-agent", "namespace": "kube-system"},
            "spec": {
                "selector": {"matchLabels": {"k8s-app": "konnectivity-agent"}},
                "template": {"spec": {"containers": [{"name": "other", "image": "other:1"}, container]}},
            },
        })
    }

    #[test]
    fn the_agents_of_the_documentation_are_found() {
        let objects = yaml::parse_all("agents", include_str!("../fixtures/konnectivity-agent.yaml")).unwrap();
        let found = read("DaemonSet", &objects[0]).unwrap();
        assert_eq!((found.namespace.as_str(), found.name.as_str()), ("kube-system", "konnectivity-agent"));
    }

    #[test]
    fn agents_are_found_by_their_program_or_their_image() {
        let image = "registry.k8s.io/kas-network-proxy/proxy-agent:v0.0.37";
        for container in [
            json!({"image": image, "command": ["/proxy-agent"], "args": ["--logtostderr=true"]}),
            json!({"image": image, "args": []}),
            json!({"image": "mirror.example:5000/x@sha256:00", "command": ["/usr/bin/proxy-agent"]}),
            json!({"image": "localhost/tunnel-agent:1", "args": ["--service-account-token-path=/t/konnectivity-agent-token"]}),
        ] {
            let found = read("DaemonSet", &daemonset(&container)).unwrap();
            assert_eq!((found.selector.as_str(), found.container), ("k8s-app=konnectivity-agent", 1));
        }
        for container in [json!({"image": "proxy-agents:1"}), json!({"image": image, "command": ["/bin/sh"]})]
        {
            assert!(read("DaemonSet", &daemonset(&container)).is_none(), "{container}");
        }
    }

    #[test]
    fn the_image_of_before_is_kept_and_other_containers_stay() {
        let found =
            read("DaemonSet", &daemonset(&json!({"image": "proxy-agent:1", "args": ["--a"]}))).unwrap();
        let patch = found.patch("localhost/tunnel-agent:2", Some("proxy-agent:1"));
        let containers = &patch["spec"]["template"]["spec"]["containers"];
        assert_eq!(
            *containers,
            json!([
                {"name": "other", "image": "other:1"}, {"image": "localhost/tunnel-agent:2", "args": ["--a"]},
            ])
        );
        assert_eq!(patch["metadata"]["annotations"][ANNOTATION], "proxy-agent:1");
        // A null removes the annotation.
        assert_eq!(found.patch("proxy-agent:1", None)["metadata"]["annotations"][ANNOTATION], Value::Null);
    }
}
