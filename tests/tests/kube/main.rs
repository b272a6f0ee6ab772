//! Servers and agents beside a Kubernetes API: tokens that are reviewed, and
//! Leases by which servers are counted.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

mod leases;
mod stock;
mod tokens;

use std::path::PathBuf;

use tempfile::TempDir;
use tunnel_kube_fake::{FakeApi, Served};
use tunnel_tests::Pki;

/// A fake API on loopback, and what programs need to reach it.
struct World {
    api: FakeApi,
    served: Option<Served>,
    pki: Pki,
    dir: TempDir,
}

impl World {
    async fn new() -> Self {
        tunnel_tests::panics::record();
        let dir = TempDir::new().unwrap();
        let (api, pki) = (FakeApi::new(), Pki::make(dir.path()));
        let served = api.serve().await.unwrap();
        let world = Self { api, served: None, pki, dir };
        std::fs::write(world.kubeconfig(), served.kubeconfig()).unwrap();
        Self { served: Some(served), ..world }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// A file of this world, as a flag has it.
    fn shown(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The API is gone: its port is closed.
    fn end_api(&mut self) {
        self.served = None;
    }
}
