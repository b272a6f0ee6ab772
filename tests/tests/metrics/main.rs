//! Metrics under Konnectivity's names equal Konnectivity's, and all metrics are true.
//!
//! Numbers such as b05 are those of docs/konnectivity-behaviours.md.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

mod agents;
mod connections;
mod dials;
mod documented;
mod golden;
mod konnectivity;
mod packets;
mod waits;

use std::collections::BTreeMap;

use tunnel_tests::{Agent, Server, wait_for};

/// Konnectivity's names begin with these.
const SERVER: &str = "konnectivity_network_proxy_server";
const AGENT: &str = "konnectivity_network_proxy_agent";

/// Waits until a metric of the server has exactly these samples, by labels.
async fn wait_for_samples(server: &Server, name: &str, wanted: &[(&str, i64)]) {
    let wanted: BTreeMap<String, i64> =
        wanted.iter().map(|(labels, value)| ((*labels).to_owned(), *value)).collect();
    wait_for(&format!("{name} {wanted:?}"), async || {
        let metrics = server.metrics().await;
        let found = metrics.samples(&format!("{SERVER}_{name}"));
        if found == wanted { Ok(()) } else { Err(format!("{found:?}; {}", metrics.show("tunnel_server"))) }
    })
    .await;
}

/// As [`wait_for_samples`], of an agent.
async fn wait_for_samples_of(agent: &Agent, name: &str, wanted: &[(&str, i64)]) {
    let wanted: BTreeMap<String, i64> =
        wanted.iter().map(|(labels, value)| ((*labels).to_owned(), *value)).collect();
    wait_for(&format!("{name} {wanted:?}"), async || {
        let metrics = agent.metrics().await;
        let found = metrics.samples(&format!("{AGENT}_{name}"));
        if found == wanted { Ok(()) } else { Err(format!("{found:?}; {}", metrics.show("tunnel_agent"))) }
    })
    .await;
}
