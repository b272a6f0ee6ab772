//! Behaviours that Konnectivity's own tests verify, and Konnectivity's defects, checked
//! on our programs.
//!
//! Tests are named after the behaviour or defect; docs/konnectivity-behaviours.md lists
//! them:
//!
//! * `b01` to `b16`, [`whole`]: client, server and agent together;
//! * `b17` to `b27`, [`server`]: a server, with scripted agents;
//! * `b28` to `b30`, [`agent`]: an agent, with scripted servers;
//! * `b21`, [`auth`]: tokens of agents;
//! * `w01` to `w17`, [`weaknesses`]: defects of Konnectivity; some are in [`agent`];
//! * [`peers`]: the scripted agents and servers themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::print_stdout, reason = "what was checked last is shown when a test fails")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

mod agent;
mod auth;
mod peers;
mod server;
mod ways;
mod weaknesses;
mod whole;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tunnel_tests::Pki;

/// The address of targets that no agent is bound to.
const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Shorter than every timer: an event within it was noticed, not suspected.
const PROMPT: Duration = Duration::from_secs(3);

/// Certificates without a cluster.
struct Certificates {
    pki: Pki,
    dir: TempDir,
}

impl Certificates {
    fn make() -> Self {
        let dir = TempDir::new().unwrap();
        Self { pki: Pki::make(dir.path()), dir }
    }

    /// A file beside them.
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}
