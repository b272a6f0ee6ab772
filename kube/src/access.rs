//! Credentials for the API, and a client with limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Response;
use http_body_util::Limited;
use k8s_openapi::jiff::Timestamp;
use kube::client::{ClientBuilder, DynBody};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::watch;
use tower::util::MapResponseLayer;

/// Requests per second and at once for a flag of 0, as in client-go.
const DEFAULT_QPS: f32 = 5.0;
const DEFAULT_BURST: u32 = 10;

/// Limit of TCP and TLS with the API server. The review of a token and a Lease's
/// renewal have 5 s for all of a request.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Longest answer, in bytes. Thousands of Leases fit, or all events of a watch; more
/// could exhaust memory.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Access to the Kubernetes API, from flags.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Access {
    /// A kubeconfig file; without one, the service account of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// Requests per second; 0 is 5, less than 0 is no limit.
    pub qps: f32,
    /// Requests at once; 0 is 10.
    pub burst: u32,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No kubeconfig, and no pod's service account.
    #[error("there is no --kubeconfig, and no service account of a pod either: {0}")]
    InCluster(String),
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {why}")]
    Kubeconfig {
        /// Path of the file.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// The TLS settings or credentials are not usable.
    #[error("client of the Kubernetes API: {0}")]
    Client(String),
}

impl Access {
    /// Reads the credentials and makes a client, without a request. Needs a tokio
    /// runtime. Cancel safe.
    ///
    /// # Errors
    /// When the credentials are missing or not usable.
    pub async fn connect(&self) -> Result<Cluster, AccessError> {
        let current = watch::Sender::new(self.client().await?);
        let latest = current.subscribe();
        let namespace = latest.borrow().default_namespace().to_owned();
        let service = tower::service_fn(move |request| {
            let client = latest.borrow().clone();
            async move { client.send(request).await }
        });
        let client = Client::new(service, namespace);
        Ok(Cluster { client, current, clock: Timestamp::now, rate: self.rate() })
    }

    /// Reads the credentials again; requests that begin later use them. Cancel safe.
    ///
    /// # Errors
    /// As [`Self::connect`]; the cluster keeps the credentials from before.
    pub async fn renew(&self, cluster: &Cluster) -> Result<(), AccessError> {
        cluster.current.send_replace(self.client().await?);
        Ok(())
    }

    /// The files whose change calls for [`Self::renew`]: the kubeconfig, and those that it names. The
    /// token and the CA of a pod's service account are read again by the client.
    pub fn files(&self) -> Vec<PathBuf> {
        let Some(path) = &self.kubeconfig else { return Vec::new() };
        let mut files = vec![path.clone()];
        let Ok(config) = Kubeconfig::read_from(path) else { return files };
        let clusters = config.clusters.into_iter().filter_map(|of| of.cluster?.certificate_authority);
        files.extend(clusters.map(PathBuf::from));
        for user in config.auth_infos.into_iter().filter_map(|of| of.auth_info) {
            files.extend([user.client_certificate, user.client_key].into_iter().flatten().map(PathBuf::from));
        }
        files
    }

    async fn client(&self) -> Result<Client, AccessError> {
        let mut config = match &self.kubeconfig {
            Some(path) => from_file(path).await?,
            None => Config::incluster_env().map_err(|error| AccessError::InCluster(chain(&error)))?,
        };
        config.connect_timeout = Some(CONNECT_LIMIT);
        // The callers retry: retries of the client would exceed its rate.
        config.default_retry = false;
        let builder = ClientBuilder::try_from(config).map_err(|error| AccessError::Client(chain(&error)))?;
        Ok(builder
            .with_layer(&MapResponseLayer::new(|answer: Response<Box<DynBody>>| {
                answer.map(|body| Limited::new(body, MAX_ANSWER))
            }))
            .build())
    }

    /// Requests per second, and requests at once; `None` is no limit.
    pub fn rate(&self) -> Option<(f32, u32)> {
        let qps = if self.qps == 0.0 || self.qps.is_nan() { DEFAULT_QPS } else { self.qps };
        let burst = if self.burst == 0 { DEFAULT_BURST } else { self.burst };
        (qps > 0.0).then_some((qps, burst))
    }
}

async fn from_file(path: &Path) -> Result<Config, AccessError> {
    let fail = |why: String| AccessError::Kubeconfig { path: path.to_owned(), why };
    let file = Kubeconfig::read_from(path).map_err(|error| fail(chain(&error)))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|error| fail(chain(&error)))
}

/// A client of one cluster's API; clones share its connections. Reviews and Leases
/// each have a rate of their own, so reviews never delay a Lease.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: Client,
    /// The client with the credentials of now, to which `client` hands its requests.
    pub(crate) current: watch::Sender<Client>,
    /// The cluster's time, by which Leases of other hosts are measured. Not the
    /// runtime's, which tests pause.
    pub(crate) clock: fn() -> Timestamp,
    /// As [`Access::rate`].
    pub(crate) rate: Option<(f32, u32)>,
}

/// An error with its sources: HTTP libraries leave the reason to them.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_0_is_the_default_of_client_go() {
        let rate = |qps, burst| Access { kubeconfig: None, qps, burst }.rate();
        assert_eq!(rate(0.0, 0), Some((5.0, 10)));
        assert_eq!(rate(50.0, 100), Some((50.0, 100)));
        assert_eq!(rate(-1.0, 100), None);
        assert_eq!(rate(f32::NAN, 0), Some((5.0, 10)));
    }

    #[tokio::test]
    async fn missing_credentials_are_named() {
        let nowhere = Access { kubeconfig: Some("/nowhere/kubeconfig".into()), ..Access::default() };
        let error = nowhere.connect().await.err().unwrap().to_string();
        assert!(error.contains("/nowhere/kubeconfig") && error.contains("No such file"), "{error}");
    }
}
