//! The node of a pod, for tokens that name their pod alone: those of Kubernetes before 1.30.

use http::Request;
use kube::Client;
use serde::Deserialize;

use crate::requests::RequestError;

/// A pod, with nothing but what is read.
#[derive(Debug, Deserialize)]
struct Slim {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    #[serde(default)]
    uid: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    node_name: Option<String>,
}

/// The pod that a token is bound to, by the extras of its review.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Of another pod of this name the token says nothing.
    pub(super) uid: String,
}

/// The result of a look-up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Node(String),
    /// The pod is gone, or another one has its name.
    Gone,
    /// The server may not read pods.
    Forbidden,
    /// The pod has no node.
    Unknown,
}

/// Reads the pod. Cancel safe.
///
/// # Errors
/// When the API cannot be asked.
pub(super) async fn node_of(client: &Client, pod: &Bound) -> Result<Found, RequestError> {
    // Names come from the API's own review. One with a `/` would still be another path.
    if ![&pod.namespace, &pod.name].into_iter().all(|name| is_name(name)) {
        return Ok(Found::Unknown);
    }
    let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
    let request = Request::get(path).body(Vec::new());
    let request = request.map_err(|error| RequestError::Unreachable(error.to_string()))?;
    match client.request::<Slim>(request).await.map_err(RequestError::from) {
        Ok(found) if found.metadata.uid.as_deref() != Some(&pod.uid) => Ok(Found::Gone),
        Ok(found) => Ok(found.spec.node_name.map_or(Found::Unknown, Found::Node)),
        Err(error) if error.is_status(404) => Ok(Found::Gone),
        Err(error) if error.is_status(403) => Ok(Found::Forbidden),
        Err(error) => Err(error),
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}
