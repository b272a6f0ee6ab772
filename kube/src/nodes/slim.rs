//! The parts of a node that are read. A whole one, with its images, is ten times as large.

use k8s_openapi::api::core::v1;
use kube::core::{ApiResource, Object};
use serde::{Deserialize, Serialize};

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its addresses and names.
    pub addresses: Vec<String>,
    /// The networks of its pods.
    pub pod_cidrs: Vec<String>,
}

/// The types of addresses by which a kube-apiserver may dial a kubelet
/// (`--kubelet-preferred-address-types`).
const KINDS: [&str; 5] = ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"];

/// A node on the wire.
pub(super) type Slim = Object<Spec, Status>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    /// In clusters of one address family, and of old API servers.
    #[serde(default, rename = "podCIDR")]
    pod_cidr: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// Where nodes are in the API.
pub(super) fn resource() -> ApiResource {
    ApiResource::erase::<v1::Node>(&())
}

impl From<Slim> for Node {
    fn from(slim: Slim) -> Self {
        let Spec { pod_cidrs, pod_cidr } = slim.spec;
        let addresses = slim.status.map(|status| status.addresses).unwrap_or_default();
        let ours = addresses.into_iter().filter(|at| KINDS.contains(&at.kind.as_str()));
        Self {
            name: slim.metadata.name.unwrap_or_default(),
            addresses: ours.map(|at| at.address).collect(),
            pod_cidrs: if pod_cidrs.is_empty() { pod_cidr.into_iter().collect() } else { pod_cidrs },
        }
    }
}
