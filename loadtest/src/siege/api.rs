//! A Kubernetes API that reviews the agents' tokens.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tunnel_kube_fake::{FakeApi, Holder, Served, token};

/// Life of a token: longer than a siege.
const LASTS: Duration = Duration::from_secs(24 * 3600);

const NAMESPACE: &str = "kube-system";
const ACCOUNT: &str = "agent";
const AUDIENCE: &str = "server";

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Api {
    api: FakeApi,
    _served: Served,
    next: AtomicU64,
    kubeconfig: PathBuf,
    /// Of all agents but bystanders.
    pub(crate) token: String,
    token_file: PathBuf,
}

/// A token with the right claims that the API does not know.
pub(crate) fn forged(number: u64) -> String {
    token(&format!("forged-{number}"), AUDIENCE, LASTS)
}

impl Api {
    /// Begins with a good token. Its files are in `dir`.
    pub(crate) async fn start(dir: &Path) -> anyhow::Result<Self> {
        let (api, kubeconfig, token_file) = (FakeApi::new(), dir.join("kubeconfig"), dir.join("token"));
        let served = api.serve().await?;
        std::fs::write(&kubeconfig, served.kubeconfig()).context("write a kubeconfig")?;
        let next = AtomicU64::new(0);
        let mut api = Self { api, _served: served, next, kubeconfig, token: String::new(), token_file };
        api.token = api.issue();
        std::fs::write(&api.token_file, &api.token).context("write a token")?;
        Ok(api)
    }

    /// A new token that is good.
    pub(crate) fn issue(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let token = token(&format!("good-{number}"), AUDIENCE, LASTS);
        let username = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let holder = Holder { username, audiences: vec![AUDIENCE.to_owned()], ..Holder::default() };
        self.api.know(&token, holder);
        token
    }

    pub(crate) fn server_flags(&self) -> [String; 4] {
        [
            format!("--kubeconfig={}", self.kubeconfig.display()),
            format!("--agent-namespace={NAMESPACE}"),
            format!("--agent-service-account={ACCOUNT}"),
            format!("--authentication-audience={AUDIENCE}"),
        ]
    }

    pub(crate) fn agent_flag(&self) -> String {
        format!("--service-account-token-path={}", self.token_file.display())
    }
}
