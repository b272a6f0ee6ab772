//! The scenarios: what is done through a frontend. Each gives an outcome.

mod bulk;
mod bytes;
pub(crate) mod dial;
mod dial_idle;
mod idle;
mod isolation;
mod ping;
mod profile;

use std::sync::Arc;

use crate::bench::Bench;
use crate::figures::Outcome;
use crate::plan::Scenario;
use profile::Shape::{Download, Events, Keystrokes, Large, LogLines, Pages, Scrapes, Upload, Webhooks};

/// Runs a scenario. One that could not be run to its end has a failed check.
pub(crate) async fn run(bench: &Arc<Bench>, scenario: Scenario) -> Outcome {
    let outcome = Box::pin(perform(bench, scenario)).await;
    bench.clear_progress();
    outcome.unwrap_or_else(|error| {
        let mut outcome = Outcome::default();
        outcome.fail(format!("{error:#}"));
        outcome
    })
}

async fn perform(bench: &Arc<Bench>, scenario: Scenario) -> anyhow::Result<Outcome> {
    let shapes: &[profile::Shape] = match scenario {
        Scenario::Bulk => return bulk::run(bench).await,
        Scenario::Ping => return ping::run(bench).await,
        Scenario::PingBulk => return ping::run_beside_bulk(bench).await,
        Scenario::Dial => return dial::run(bench).await,
        Scenario::Isolation => return isolation::run(bench).await,
        Scenario::Bytes => return bytes::run(bench).await,
        Scenario::Idle => return idle::run(bench).await,
        Scenario::DialIdle => return dial_idle::run(bench).await,
        Scenario::Cp => &[Upload, Download],
        Scenario::Exec => &[Keystrokes],
        Scenario::Logs => &[LogLines],
        Scenario::PortForward => &[Pages, Large],
        Scenario::Scrape => &[Scrapes],
        Scenario::Watch => &[Events],
        Scenario::Webhook => &[Webhooks],
        Scenario::Mixed => &[Keystrokes, LogLines, Upload, Download, Events, Webhooks, Pages, Large, Scrapes],
    };
    profile::run(bench, scenario.name(), shapes).await
}
