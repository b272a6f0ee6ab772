//! The kube-apiserver's static pod: its flags, and the use of the tunnel.

use serde_json::{Value, json};

use crate::fault::Fault;
use crate::host::EGRESS;
use crate::yaml;

/// The kube-apiserver's flag for its egress configuration.
pub(crate) const EGRESS_FLAG: &str = "egress-selector-config-file";

/// A path of the host that the kube-apiserver mounts.
pub(crate) struct Mount {
    pub(crate) name: &'static str,
    pub(crate) path: &'static str,
    pub(crate) kind: &'static str,
}

/// The egress file alone, because its directory has the server's key; of the socket the
/// directory, because a restarted server makes another socket.
pub(crate) const MOUNTS: [Mount; 2] = [
    Mount { name: "tunnel-egress", path: EGRESS, kind: "File" },
    Mount { name: "tunnel-socket", path: "/run/tunnel", kind: "DirectoryOrCreate" },
];

/// A kube-apiserver's pod.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiServer(Value);

impl ApiServer {
    /// # Errors
    /// When the text is not the pod of a kube-apiserver.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self, Fault> {
        let pod = Self(yaml::parse(name, text)?);
        match pod.command().first() {
            Some(&"kube-apiserver") => Ok(pod),
            _ => Err(Fault::new(
                format!("{name}: the first container's command is not kube-apiserver"),
                "use the Helm chart; this command knows the pods that kubeadm makes",
            )),
        }
    }

    pub(crate) fn render(&self) -> String {
        yaml::render(&self.0)
    }

    fn command(&self) -> Vec<&str> {
        let command = self.0.pointer("/spec/containers/0/command").and_then(Value::as_array);
        command.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// The value of a flag; of a flag that is given twice, the last one counts.
    pub(crate) fn flag(&self, name: &str) -> Option<&str> {
        flag(self.command().into_iter(), name)
    }

    /// The address and port by which this kube-apiserver alone is reached.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.0["metadata"]["annotations"]["kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint"]
            .as_str()
    }

    /// The pod with an egress configuration, and the mounts that this needs, each where kubeadm
    /// puts it: a manifest that `kubeadm upgrade` makes anew is the same pod.
    pub(crate) fn with_egress(&self, file: &str) -> Self {
        let mut pod = self.without_egress();
        let flag = format!("--{EGRESS_FLAG}={file}");
        // A flag that is there keeps its place: kubeadm puts arguments that were added later after it.
        let place = self.command().iter().position(|other| *other == flag);
        if let Some(command) = list(&mut pod.0, "/spec/containers/0", "command") {
            command.insert(place.unwrap_or(command.len()).min(command.len()), json!(flag));
        }
        for Mount { name, path, kind } in MOUNTS {
            if let Some(mounts) = list(&mut pod.0, "/spec/containers/0", "volumeMounts") {
                insert(mounts, json!({"name": name, "mountPath": path, "readOnly": true}));
            }
            if let Some(volumes) = list(&mut pod.0, "/spec", "volumes") {
                insert(volumes, json!({"name": name, "hostPath": {"path": path, "type": kind}}));
            }
        }
        pod
    }

    /// The pod without an egress configuration.
    pub(crate) fn without_egress(&self) -> Self {
        let mut pod = self.clone();
        let prefix = format!("--{EGRESS_FLAG}=");
        if let Some(command) = list(&mut pod.0, "/spec/containers/0", "command") {
            command.retain(|flag| !flag.as_str().is_some_and(|flag| flag.starts_with(&prefix)));
        }
        for (parent, key) in [("/spec/containers/0", "volumeMounts"), ("/spec", "volumes")] {
            if let Some(entries) = list(&mut pod.0, parent, key) {
                entries.retain(|entry| !MOUNTS.iter().any(|mount| entry["name"] == mount.name));
            }
        }
        pod
    }
}

/// Inserts an entry by its name. kubeadm sorts mounts and volumes.
fn insert(entries: &mut Vec<Value>, entry: Value) {
    let place = entries.iter().position(|other| other["name"].as_str() > entry["name"].as_str());
    entries.insert(place.unwrap_or(entries.len()), entry);
}

/// The value of `--name=value` in a command.
pub(crate) fn flag<'a>(command: impl DoubleEndedIterator<Item = &'a str>, name: &str) -> Option<&'a str> {
    command.rev().find_map(|flag| flag.strip_prefix("--")?.strip_prefix(name)?.strip_prefix('='))
}

/// A list in an object, which is made if it is not there.
pub(crate) fn list<'a>(value: &'a mut Value, parent: &str, key: &str) -> Option<&'a mut Vec<Value>> {
    let parent = value.pointer_mut(parent)?.as_object_mut()?;
    parent.entry(key).or_insert_with(|| json!([])).as_array_mut()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = include_str!("fixtures/kube-apiserver.yaml");

    fn pod() -> ApiServer {
        ApiServer::parse("kube-apiserver.yaml", MANIFEST).unwrap()
    }

    #[test]
    fn a_manifest_of_kubeadm_is_written_as_kubeadm_wrote_it() {
        // Quotes are free, and addresses get them.
        assert_eq!(pod().render().replace('"', ""), MANIFEST);
    }

    #[test]
    fn the_egress_configuration_comes_and_goes_without_a_trace() {
        let with = pod().with_egress(EGRESS);
        assert_eq!(with.flag(EGRESS_FLAG), Some(EGRESS));
        assert_eq!(with.with_egress(EGRESS), with);
        let text = with.render();
        assert!(
            text.contains("apiserver.key\n    - --egress-selector-config-file="),
            "the flag is not the last: {text}"
        );
        for Mount { name, path, kind } in MOUNTS {
            assert!(
                text.contains(&format!(
                    "    - mountPath: {path}\n      name: {name}\n      readOnly: true\n"
                )),
                "{text}"
            );
            assert!(
                text.contains(&format!(
                    "  - hostPath:\n      path: {path}\n      type: {kind}\n    name: {name}\n"
                )),
                "{text}"
            );
        }
        assert_eq!(with.without_egress(), pod());
    }

    #[test]
    fn a_pod_that_kubeadm_made_with_further_arguments_stays_as_it_is() {
        let flag = format!("--{EGRESS_FLAG}={EGRESS}");
        let text =
            pod().with_egress(EGRESS).render().replace(&flag, &format!("{flag}\n    - --profiling=false"));
        let with = ApiServer::parse("kube-apiserver.yaml", &text).unwrap();
        assert_eq!(with.command().last(), Some(&"--profiling=false"));
        assert_eq!(with.with_egress(EGRESS), with);
    }

    #[test]
    fn the_pod_of_another_program_is_refused() {
        let text = MANIFEST.replace("- kube-apiserver\n", "- etcd\n");
        let error = ApiServer::parse("etcd.yaml", &text).unwrap_err().to_string();
        assert!(error.contains("etcd.yaml: the first container's command is not kube-apiserver"), "{error}");
    }

    #[test]
    fn the_last_of_two_equal_flags_counts() {
        assert_eq!(flag(["--a=1", "--ab=2", "--a=3"].into_iter(), "a"), Some("3"));
        assert_eq!(pod().endpoint(), Some("192.168.56.10:6443"));
    }
}
