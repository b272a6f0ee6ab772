//! A server's Lease, renewed as long as the server serves, and the deletion of
//! expired Leases of other servers.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, ResourceExt as _};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::address::ADDRESS;
use super::event::{LeaseEvent, Outcome};
use super::expiry::is_valid;
use crate::Observe;
use crate::access::Cluster;
use crate::backoff::Backoff;
use crate::requests::{RequestError, Requests};

/// Duration of the Lease and time between renewals, as Konnectivity has them: one
/// renewal may fail.
const DURATION_SECONDS: i32 = 30;
const RENEW: Duration = Duration::from_secs(15);

/// Time between searches for expired Leases, as Konnectivity has it.
const COLLECT: Duration = Duration::from_secs(15);

/// First and largest back-off after a failed renewal: several attempts fit into the
/// rest of the Lease. Less, and a failing API gets more load.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));

/// Limit of a request's wait for its turn, and of the request: one of both fits into
/// the rest of the Lease after a failed renewal.
const PATIENCE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(5);

/// Limit of the Lease's deletion, which delays the end of the program. Without a
/// deletion it expires.
const WITHDRAW: Duration = Duration::from_millis(1500);

/// An annotation that is written with every renewal, at no request of its own.
#[derive(Clone)]
pub struct Annotation {
    /// Its key.
    pub key: &'static str,
    /// Makes its value, which should have few kilobytes: all annotations of an object may
    /// have 256 KiB.
    pub value: Arc<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for Annotation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Annotation").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The Lease of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The server's id, a part of the Lease's name: lower-case letters, digits, `-`
    /// and `.`.
    pub server_id: String,
    /// The namespace of the Lease.
    pub namespace: String,
    /// Labels by which agents and servers find Leases.
    pub labels: Vec<(String, String)>,
    /// The address that agents may dial, if the server advertises one.
    pub address: Option<SocketAddr>,
}

/// Renews a Lease until `until` is ready, and then deletes it within 1.5 s.
/// Meanwhile deletes expired Leases with the same labels. Failures are logged and
/// tried again. After a drop of the future the Lease expires.
pub async fn publish(
    cluster: Cluster,
    publication: Publication,
    annotation: Annotation,
    observe: Observe<LeaseEvent>,
    until: impl Future<Output = ()>,
) {
    let publisher = Publisher::new(&cluster, publication, annotation, observe);
    // Boxed, because the futures are large.
    let (keep, collect) = (Box::pin(publisher.keep()), Box::pin(publisher.collect()));
    tokio::select! {
        biased;
        () = until => {}
        never = keep => match never {},
        never = collect => match never {},
    }
    publisher.withdraw().await;
}

pub(super) struct Publisher {
    leases: Api<Lease>,
    requests: Requests,
    publication: Publication,
    annotation: Annotation,
    name: String,
    observe: Observe<LeaseEvent>,
    clock: fn() -> Timestamp,
}

impl Publisher {
    pub(super) fn new(
        cluster: &Cluster,
        publication: Publication,
        annotation: Annotation,
        observe: Observe<LeaseEvent>,
    ) -> Self {
        Self {
            leases: Api::namespaced(cluster.client.clone(), &publication.namespace),
            requests: Requests::new(cluster, PATIENCE, LIMIT),
            name: format!("konnectivity-proxy-server-{}", publication.server_id),
            publication,
            annotation,
            observe,
            clock: cluster.clock,
        }
    }

    /// Renews the Lease for ever.
    async fn keep(&self) -> Infallible {
        let mut backoff = RETRY;
        let mut held = None;
        let mut told = None;
        loop {
            let wait = match self.renew(held.take()).await {
                Ok(lease) => {
                    if told != Some(true) {
                        info!(lease = self.name, namespace = self.publication.namespace, "lease published");
                    }
                    told = Some(true);
                    held = Some(lease);
                    backoff.reset();
                    RENEW
                }
                Err(error) => {
                    if told == Some(false) {
                        debug!(lease = self.name, %error, "the lease still cannot be renewed");
                    } else {
                        warn!(
                            lease = self.name, namespace = self.publication.namespace, %error,
                            "cannot renew the lease; agents that count leases miss this server once it expires"
                        );
                    }
                    told = Some(false);
                    backoff.next_wait()
                }
            };
            sleep(wait).await;
        }
    }

    /// Renews the held Lease, or else the one of the API, or else creates one.
    async fn renew(&self, held: Option<Lease>) -> Result<Lease, RequestError> {
        if let Some(held) = held {
            match self.write(held).await {
                // Changed or deleted by another client.
                Err(error) if error.is_status(404) || error.is_status(409) => {}
                other => return other,
            }
        }
        match self.requests.run(self.leases.get_opt(&self.name)).await? {
            Some(found) => self.write(found).await,
            None => {
                let new = self.renewed(Lease::default());
                self.requests.run(self.leases.create(&PostParams::default(), &new)).await
            }
        }
    }

    /// Fails with 409 if the API has a newer version than `lease`.
    async fn write(&self, lease: Lease) -> Result<Lease, RequestError> {
        let renewed = self.renewed(lease);
        self.requests.run(self.leases.replace(&self.name, &PostParams::default(), &renewed)).await
    }

    fn renewed(&self, lease: Lease) -> Lease {
        let now = MicroTime((self.clock)());
        let labels = self.publication.labels.iter().cloned().collect::<BTreeMap<_, _>>();
        let holder = Some(self.publication.server_id.clone());
        let spec = lease.spec.unwrap_or_default();
        let taken_over = spec.holder_identity != holder;
        let mut annotations = lease.metadata.annotations.unwrap_or_default();
        let Annotation { key, value } = &self.annotation;
        annotations.insert((*key).to_owned(), value());
        match self.publication.address {
            Some(address) => annotations.insert(ADDRESS.to_owned(), address.to_string()),
            // Of a process that had another command line.
            None => annotations.remove(ADDRESS),
        };
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.publication.namespace.clone()),
                labels: Some(labels),
                annotations: Some(annotations),
                ..lease.metadata
            },
            spec: Some(LeaseSpec {
                acquire_time: if taken_over { Some(now.clone()) } else { spec.acquire_time },
                holder_identity: holder,
                lease_duration_seconds: Some(DURATION_SECONDS),
                renew_time: Some(now),
                ..spec
            }),
        }
    }

    /// Deletes expired Leases for ever.
    async fn collect(&self) -> Infallible {
        let labels: Vec<_> =
            self.publication.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let selected = ListParams::default().labels(&labels.join(","));
        let mut failing = false;
        loop {
            let began = Instant::now();
            let listed = self.requests.run(self.leases.list(&selected)).await;
            (self.observe)(LeaseEvent::Listed(Outcome::of(&listed, began)));
            match listed {
                Ok(leases) => {
                    failing = false;
                    for lease in leases {
                        self.cull_if_expired(lease).await;
                    }
                }
                Err(error) if failing => debug!(%error, "leases still cannot be listed"),
                Err(error) => {
                    failing = true;
                    warn!(%error, "cannot list leases, so expired ones of other servers stay");
                }
            }
            // Jitter, so that servers do not list at the same moment.
            sleep(COLLECT.mul_f64(0.9 + 0.2 * rand::random::<f64>())).await;
        }
    }

    pub(super) async fn cull_if_expired(&self, lease: Lease) {
        let name = lease.name_any();
        // Our own is renewed, however late that is.
        if name == self.name || is_valid(&lease, (self.clock)()) {
            return;
        }
        // A renewal at this moment changes the version.
        let unchanged = Preconditions { resource_version: lease.resource_version(), uid: lease.uid() };
        let parameters = DeleteParams::default().preconditions(unchanged);
        let began = Instant::now();
        let deleted = self.requests.run(self.leases.delete(&name, &parameters)).await;
        (self.observe)(LeaseEvent::Deleted(Outcome::of(&deleted, began)));
        match deleted {
            Ok(_) => {
                (self.observe)(LeaseEvent::Culled);
                info!(lease = name, "deleted the expired lease of another server");
            }
            Err(error) if error.is_status(404) || error.is_status(409) => {
                debug!(lease = name, %error, "somebody else deleted or renewed an expired lease");
            }
            Err(error) => warn!(lease = name, %error, "cannot delete the expired lease of another server"),
        }
    }

    async fn withdraw(&self) {
        let parameters = DeleteParams::default();
        let deleted = timeout(WITHDRAW, self.requests.run(self.leases.delete(&self.name, &parameters))).await;
        match deleted.unwrap_or(Err(RequestError::Timeout(WITHDRAW))) {
            Ok(_) => info!(lease = self.name, "lease deleted"),
            Err(error) if error.is_status(404) => debug!(lease = self.name, "the lease was gone already"),
            Err(error) => {
                warn!(lease = self.name, %error, "cannot delete the lease; agents count this server until it expires");
            }
        }
    }
}
