//! kubeadm's ClusterConfiguration, from which `kubeadm upgrade` makes the kube-apiserver's
//! manifest anew.

use serde_json::{Value, json};

use crate::apiserver::{EGRESS_FLAG, MOUNTS, Mount, list};
use crate::fault::Fault;
use crate::yaml;

const NAME: &str = "ClusterConfiguration of the ConfigMap kubeadm-config";

/// A ClusterConfiguration, v1beta3 or v1beta4.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClusterConfiguration(Value);

impl ClusterConfiguration {
    /// # Errors
    /// When the text is not a ClusterConfiguration whose version is known.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        let value = yaml::parse(NAME, text)?;
        match value["apiVersion"].as_str() {
            Some("kubeadm.k8s.io/v1beta3" | "kubeadm.k8s.io/v1beta4") => Ok(Self(value)),
            version => Err(Fault::new(
                format!("{NAME} has the version {version:?}, of which v1beta3 and v1beta4 are known"),
                "kubeadm config migrate, or use the Helm chart",
            )),
        }
    }

    pub(crate) fn render(&self) -> String {
        yaml::render(&self.0)
    }

    /// With the egress configuration of the kube-apiserver.
    pub(crate) fn with_egress(&self, file: &str) -> Self {
        let mut config = self.without_egress();
        let listed = config.lists_args();
        let Some(root) = config.0.as_object_mut() else { return config };
        let apiserver = root.entry("apiServer").or_insert_with(|| json!({}));
        if let (true, Some(args)) = (listed, list(apiserver, "", "extraArgs")) {
            args.push(json!({"name": EGRESS_FLAG, "value": file}));
        } else if let Some(apiserver) = apiserver.as_object_mut() {
            apiserver.entry("extraArgs").or_insert_with(|| json!({}))[EGRESS_FLAG] = json!(file);
        }
        for Mount { name, path, kind } in MOUNTS {
            if let Some(volumes) = list(apiserver, "", "extraVolumes") {
                volumes.push(json!({
                    "name": name, "hostPath": path, "mountPath": path, "readOnly": true,
                    "pathType": kind,
                }));
            }
        }
        config
    }

    /// Without an egress configuration.
    pub(crate) fn without_egress(&self) -> Self {
        let mut config = self.clone();
        let Some(apiserver) = config.0.get_mut("apiServer").and_then(Value::as_object_mut) else {
            return config;
        };
        match apiserver.get_mut("extraArgs") {
            Some(Value::Array(args)) => args.retain(|arg| arg["name"] != EGRESS_FLAG),
            Some(Value::Object(args)) => drop(args.remove(EGRESS_FLAG)),
            _ => {}
        }
        if let Some(volumes) = apiserver.get_mut("extraVolumes").and_then(Value::as_array_mut) {
            volumes.retain(|volume| !MOUNTS.iter().any(|mount| volume["name"] == mount.name));
        }
        for key in ["extraArgs", "extraVolumes"] {
            let empty = |value: &Value| *value == json!([]) || *value == json!({});
            if apiserver.get(key).is_some_and(empty) {
                apiserver.remove(key);
            }
        }
        config
    }

    /// v1beta3 has a map of arguments, v1beta4 a list of names and values.
    fn lists_args(&self) -> bool {
        self.0["apiVersion"] != "kubeadm.k8s.io/v1beta3"
    }

    /// A configuration by which kubeadm knows this node's kube-apiserver, for commands of
    /// kubeadm that would look for a default route otherwise.
    pub(crate) fn for_node(&self, address: &str, port: u16) -> String {
        let node = json!({
            "apiVersion": self.0["apiVersion"],
            "kind": "InitConfiguration",
            "localAPIEndpoint": {"advertiseAddress": address, "bindPort": port},
        });
        format!("{}---\n{}", self.render(), yaml::render(&node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "/etc/kubernetes/tunnel/egress.yaml";
    const CURRENT: &str = include_str!("fixtures/cluster-configuration.yaml");

    #[test]
    fn arguments_are_a_list_in_v1beta4() {
        let config = ClusterConfiguration::parse(CURRENT).unwrap();
        assert_eq!(config.render(), CURRENT);
        let with = config.with_egress(FILE);
        let text = with.render();
        assert!(
            text.contains(&format!("  extraArgs:\n  - name: {EGRESS_FLAG}\n    value: {FILE}\n")),
            "{text}"
        );
        assert!(
            text.contains("  - hostPath: /run/tunnel\n    mountPath: /run/tunnel\n    name: tunnel-socket\n"),
            "{text}"
        );
        assert_eq!(with.with_egress(FILE), with);
        assert_eq!(with.without_egress(), config);
    }

    #[test]
    fn arguments_are_a_map_in_v1beta3_and_others_stay() {
        let text = "apiServer:\n  extraArgs:\n    audit-log-path: /var/log/audit\napiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\n";
        let config = ClusterConfiguration::parse(text).unwrap();
        let with = config.with_egress(FILE);
        assert_eq!(
            with.0["apiServer"]["extraArgs"],
            json!({"audit-log-path": "/var/log/audit", EGRESS_FLAG: FILE})
        );
        assert_eq!(with.0["apiServer"]["extraVolumes"][1]["pathType"], "DirectoryOrCreate");
        assert_eq!(with.without_egress(), config);
    }

    #[test]
    fn a_version_that_is_not_known_is_refused() {
        let error =
            ClusterConfiguration::parse("apiVersion: kubeadm.k8s.io/v1beta9\nkind: ClusterConfiguration\n");
        assert!(error.unwrap_err().to_string().contains("v1beta3 and v1beta4 are known"));
    }

    #[test]
    fn kubeadm_is_told_the_address_of_the_node() {
        let text = ClusterConfiguration::parse(CURRENT).unwrap().for_node("10.0.0.1", 6443);
        let node = &yaml::parse_all("both", &text).unwrap()[1];
        assert_eq!(node["localAPIEndpoint"], json!({"advertiseAddress": "10.0.0.1", "bindPort": 6443}));
    }
}
