//! The way to the API: credentials, and a client with limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Response;
use http_body_util::Limited;
use kube::client::{ClientBuilder, DynBody};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::util::MapResponseLayer;

/// Requests a second and at once when the operator gave 0, as client-go has them.
const DEFAULT_QPS: f32 = 5.0;
const DEFAULT_BURST: u32 = 10;

/// Limit of TCP and TLS with the API server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Longest answer, in bytes: thousands of Leases fit in, or all events of one watch.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// How to reach the Kubernetes API, as flags have it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Access {
    /// A kubeconfig file; without one, the account of the pod this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Requests a second; 0 is 5, less than 0 is no limit.
    pub qps: f32,
    /// Requests at once; 0 is 10.
    pub burst: u32,
}

/// Credentials that make no client.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No kubeconfig was given, and this is no pod with an account.
    #[error("there is no --kubeconfig, and no service account of a pod either: {0}")]
    InCluster(String),
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {why}")]
    Kubeconfig {
        /// Where it is.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The client's TLS or credentials are not usable.
    #[error("client of the Kubernetes API: {0}")]
    Client(String),
}

impl Access {
    /// Reads the credentials and makes a client. Asks nothing of the API yet.
    /// Needs a runtime. Cancel safe.
    ///
    /// # Errors
    /// When the credentials are missing or not usable.
    pub async fn connect(&self) -> Result<Cluster, AccessError> {
        let mut config = match &self.kubeconfig {
            Some(path) => from_file(path).await?,
            None => Config::incluster_env().map_err(|error| AccessError::InCluster(chain(&error)))?,
        };
        config.connect_timeout = Some(CONNECT_LIMIT);
        // Who asks decides whether to ask again: a client that did it by itself
        // would make more requests than its limits say.
        config.default_retry = false;
        let builder = ClientBuilder::try_from(config).map_err(|error| AccessError::Client(chain(&error)))?;
        let client = builder
            .with_layer(&MapResponseLayer::new(|answer: Response<Box<DynBody>>| {
                answer.map(|body| Limited::new(body, MAX_ANSWER))
            }))
            .build();
        Ok(Cluster { client, qps: self.qps, burst: self.burst })
    }
}

async fn from_file(path: &Path) -> Result<Config, AccessError> {
    let fail = |why: String| AccessError::Kubeconfig { path: path.to_owned(), why };
    let file = Kubeconfig::read_from(path).map_err(|error| fail(chain(&error)))?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|error| fail(chain(&error)))
}

/// A client of one cluster's API; clones share its connections. Each use of it
/// has a rate of its own, so that reviews of tokens never hold up a Lease.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: Client,
    qps: f32,
    burst: u32,
}

impl Cluster {
    /// Requests a second and at once; `None` is no limit.
    pub(crate) fn rate(&self) -> Option<(f32, u32)> {
        let qps = if self.qps == 0.0 || self.qps.is_nan() { DEFAULT_QPS } else { self.qps };
        let burst = if self.burst == 0 { DEFAULT_BURST } else { self.burst };
        (qps > 0.0).then_some((qps, burst))
    }

    /// A cluster behind any client, without its own connections.
    #[cfg(test)]
    pub(crate) fn of(client: Client, qps: f32, burst: u32) -> Self {
        Self { client, qps, burst }
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").field("qps", &self.qps).field("burst", &self.burst).finish_non_exhaustive()
    }
}

/// An error with what is behind it: HTTP libraries say "connect" and leave the
/// reason to the source.
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
    fn nought_means_what_client_go_takes_it_for() {
        let rate = |qps, burst| {
            // A client needs a runtime; the rate does not need a client.
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _entered = runtime.enter();
            let client = Client::new(tower::service_fn(never), "default");
            Cluster::of(client, qps, burst).rate()
        };
        assert_eq!(rate(0.0, 0), Some((5.0, 10)));
        assert_eq!(rate(50.0, 100), Some((50.0, 100)));
        assert_eq!(rate(-1.0, 100), None);
        assert_eq!(rate(f32::NAN, 0), Some((5.0, 10)));
    }

    async fn never(
        _: http::Request<kube::client::Body>,
    ) -> Result<Response<kube::client::Body>, std::convert::Infallible> {
        std::future::pending().await
    }

    #[tokio::test]
    async fn credentials_that_are_not_there_are_named() {
        let nowhere = Access { kubeconfig: Some("/nowhere/kubeconfig".into()), ..Access::default() };
        let error = nowhere.connect().await.unwrap_err().to_string();
        assert!(error.contains("/nowhere/kubeconfig") && error.contains("No such file"), "{error}");
    }
}
