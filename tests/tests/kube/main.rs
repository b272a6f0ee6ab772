//! Servers and agents beside a Kubernetes API: token reviews, and Leases by which
//! agents count servers.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]

mod leases;
mod stock;
mod tokens;

use std::path::PathBuf;

use tempfile::TempDir;
use tunnel_kube_fake::{FakeApi, Served};
use tunnel_tests::Pki;

/// A fake API on loopback, and the files by which programs reach it.
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

    /// The path of a file, as a flag's value.
    fn shown(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// The API is gone: its port is closed.
    fn end_api(&mut self) {
        self.served = None;
    }
}
