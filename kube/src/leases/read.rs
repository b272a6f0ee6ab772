//! Reading all Leases of tunnel servers once, for people.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::expiry::runs_out;
use crate::access::Cluster;
use crate::requests::Requests;

/// Limit of the request's wait for its turn, and of the request. Somebody waits for it.
const PATIENCE: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(15);

/// Most Leases that are read: far above any number of tunnel servers.
const MOST: u32 = 500;

/// A Lease as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// The id of its server, if it names one.
    pub holder: Option<String>,
    /// Time since its last renewal; zero for one by a clock ahead of ours.
    pub age: Option<Duration>,
    /// Whether its server is counted.
    pub valid: bool,
    /// The value of the annotation that was asked for.
    pub annotation: Option<String>,
}

/// Why Leases cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot list the Leases of namespace {namespace}: {why}")]
pub struct ListError {
    namespace: String,
    why: String,
}

/// Lists the Leases of a namespace that `selector` selects, in the order of their names.
/// Cancel safe.
///
/// # Errors
/// When the API refuses, or cannot be reached within 15 s.
pub async fn list(
    cluster: &Cluster,
    namespace: &str,
    selector: &str,
    annotation: &str,
) -> Result<Vec<Seen>, ListError> {
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), namespace);
    let selected = ListParams::default().labels(selector).limit(MOST);
    let listed = Requests::new(cluster, PATIENCE, LIMIT).run(leases.list(&selected)).await;
    let listed =
        listed.map_err(|error| ListError { namespace: namespace.to_owned(), why: error.to_string() })?;
    let now = (cluster.clock)();
    let mut seen: Vec<_> = listed.items.iter().map(|lease| read(lease, annotation, now)).collect();
    seen.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(seen)
}

fn read(lease: &Lease, annotation: &str, now: Timestamp) -> Seen {
    let spec = lease.spec.as_ref();
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref().or(spec.acquire_time.as_ref()));
    Seen {
        name: lease.name_any(),
        holder: spec.and_then(|spec| spec.holder_identity.clone()),
        age: renewed.map(|at| Duration::try_from(now.duration_since(at.0)).unwrap_or_default()),
        valid: runs_out(lease).is_some_and(|end| end > now),
        annotation: lease.annotations().get(annotation).cloned(),
    }
}
