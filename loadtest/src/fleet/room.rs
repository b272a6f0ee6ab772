//! A server of ours, and what is asked of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use measuring_kit::Certificates;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::RoomArgs;
use super::processes::Spec;
use crate::cli::Link;
use crate::matrix::children::{Child, Ports, get};
use crate::matrix::tunnel::{HOST, server_flags};
use crate::process::Process;

/// How long a server that was asked to end may take.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How long its numbers may take to become what they should be.
const NUMBERS_LIMIT: Duration = Duration::from_secs(20);

/// A server, its certificates and its ports.
#[derive(Debug)]
pub(super) struct Room {
    server: Child,
    args: RoomArgs,
    pub(super) certificates: Certificates,
    pub(super) ports: Ports,
    pub(super) uds: PathBuf,
    log: PathBuf,
    // Dropped last: the socket and the certificates are in it.
    _dir: TempDir,
}

impl Room {
    pub(super) async fn open(args: &RoomArgs, name: &str) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let certificates = Certificates::write(dir.path(), HOST)?;
        let ports = Ports::free()?;
        let uds = dir.path().join("frontend.socket");
        let log = args.log_dir(dir.path()).join(format!("server-{name}.log"));
        let flags = flags(args, &certificates, &ports, &uds);
        let mut server = Child::start("server", &args.server_bin, &flags, &log)?;
        server.wait_for_port(ports.server_health).await?;
        Ok(Self { server, args: args.clone(), certificates, ports, uds, log, _dir: dir })
    }

    /// Ends the server, at once or in order, and starts it anew: when it was told
    /// to end, when the new one was started, and when that listened.
    pub(super) async fn restart(&mut self, at_once: bool) -> anyhow::Result<Restarted> {
        let told = Instant::now();
        if at_once {
            self.server.kill()?;
        } else {
            self.server.terminate(END_LIMIT).await?;
        }
        let started = Instant::now();
        let flags = flags(&self.args, &self.certificates, &self.ports, &self.uds);
        self.server = Child::start("server", &self.args.server_bin, &flags, &self.log)?;
        self.server.wait_for_port(self.ports.server_health).await?;
        Ok(Restarted { told, started, listening: Instant::now() })
    }

    pub(super) fn server(&self) -> Process {
        Process { name: "server".into(), pid: self.server.id() }
    }

    /// So many agents for the server.
    pub(super) fn agents(&self, link: Link, id: &str, count: u32, processes: u32) -> Spec {
        let Certificates { ca, agent, .. } = &self.certificates;
        Spec {
            server: format!("127.0.0.1:{}", self.ports.link),
            ca: ca.clone(),
            cert: agent.certificate.clone(),
            key: agent.key.clone(),
            link,
            count,
            rate: self.args.rate,
            flap: 0.0,
            processes,
            id: id.to_owned(),
            targets: false,
            agent_arg: self.args.agent_arg.clone(),
        }
    }

    /// The sum of all series of one of the server's metrics.
    pub(super) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = get(self.ports.server_health, "/metrics").await?;
        Ok(sum_of(&text, name))
    }

    /// Waits until the server counts so many.
    pub(super) async fn counts(&self, name: &str, count: u32) -> anyhow::Result<()> {
        let end = Instant::now() + NUMBERS_LIMIT;
        loop {
            let now = self.metric(name).await.context("metrics")?;
            if now == f64::from(count) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "{name} of the server is {now}, not {count}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub(super) fn last_words(&self) -> String {
        self.server.last_words()
    }
}

/// The moments of a restart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restarted {
    pub(super) told: Instant,
    pub(super) started: Instant,
    pub(super) listening: Instant,
}

fn flags(args: &RoomArgs, certificates: &Certificates, ports: &Ports, uds: &Path) -> Vec<String> {
    // One line per connection and agent is not what is measured.
    let quiet = "--log-level=warn".to_owned();
    [server_flags(certificates, ports, uds), vec![quiet], args.server_arg.clone()].concat()
}

fn sum_of(text: &str, name: &str) -> f64 {
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
    });
    // Not `sum`, which makes -0 of nothing.
    series.fold(0.0, |sum, value| sum + value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_metric_are_added_up() {
        let text = "# HELP a x\n# TYPE a gauge\na{link=\"h2\"} 3\na{link=\"quic\"} 4\nab 7\nb 1.5\n";
        assert_eq!((sum_of(text, "a"), sum_of(text, "b"), sum_of(text, "c")), (7.0, 1.5, 0.0));
    }
}
