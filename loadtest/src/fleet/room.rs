//! A server of ours for a fleet: its life, its agents and its metrics.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use measuring_kit::{Certificates, Child, Link, get};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::args::{AgentsArgs, RoomArgs};
use super::processes::Fleet;
use crate::figures::Outcome;
use crate::ours::{HOST, Ports, server_flags, start};
use crate::process::Process;
use crate::report::Report;

/// Longest end of a server after SIGTERM: its drain takes some seconds.
const END_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for a metric to become what it should be: tunnels that are gone are noticed by time-outs.
const METRIC_LIMIT: Duration = Duration::from_secs(20);

/// Longest wait for agents to join, beside the time that their rate takes: some back-offs.
pub(crate) const JOIN_LIMIT: Duration = Duration::from_secs(60);

/// Runs a task on each link, on a server of its own, and delivers the report. An error of the task is a
/// failed check, with the end of the server's log.
pub(crate) async fn on_each_link(
    args: &RoomArgs,
    task: &'static str,
    measure: impl AsyncFn(&mut Room, Link, &mut Outcome) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    tunnel_program::process::raise_file_limit();
    let mut report = Report::bare();
    for &link in &args.link {
        let mut room = Room::open(args, link.name()).await?;
        let mut outcome = Outcome::default();
        if let Err(error) = Box::pin(measure(&mut room, link, &mut outcome)).await {
            outcome.fail(format!("{error:#}\n{}", room.server.last_words()));
        }
        report.add("", link.name(), task, outcome);
    }
    report.deliver(args.json.as_deref(), false)
}

/// A server, its certificates and its ports.
#[derive(Debug)]
pub(crate) struct Room {
    server: Child,
    args: RoomArgs,
    certificates: Certificates,
    ports: Ports,
    pub(crate) uds: PathBuf,
    log: PathBuf,
    // Dropped last: the socket and the certificates are in it.
    _dir: TempDir,
}

impl Room {
    async fn open(args: &RoomArgs, name: &str) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let certificates = Certificates::write(dir.path(), HOST)?;
        let ports = Ports::free()?;
        let uds = dir.path().join("frontend.socket");
        let log = args.log_dir(dir.path()).join(format!("server-{name}.log"));
        let flags = flags(args, &certificates, &ports, &uds);
        let mut server = start("server", &args.server_bin, &flags, &log)?;
        server.wait_for_port(ports.server_health).await?;
        Ok(Self { server, args: args.clone(), certificates, ports, uds, log, _dir: dir })
    }

    /// Kills the server, or terminates it, and starts it anew.
    pub(crate) async fn restart(&mut self, at_once: bool) -> anyhow::Result<Restarted> {
        let told = Instant::now();
        if at_once {
            self.server.kill()?;
        } else {
            self.server.terminate(END_LIMIT).await?;
        }
        let started = Instant::now();
        let flags = flags(&self.args, &self.certificates, &self.ports, &self.uds);
        self.server = start("server", &self.args.server_bin, &flags, &self.log)?;
        self.server.wait_for_port(self.ports.server_health).await?;
        Ok(Restarted { told, started, listening: Instant::now() })
    }

    pub(crate) fn server(&self) -> Process {
        Process { name: "server".into(), pid: self.server.id() }
    }

    /// Has `count` agents join, and returns them with the time that it took.
    pub(crate) async fn join(&self, joining: Joining<'_>) -> anyhow::Result<(Fleet, Duration)> {
        let Joining { link, id, count, processes } = joining;
        let Certificates { ca, agent, .. } = &self.certificates;
        let began = Instant::now();
        let mut fleet = Fleet::start(&AgentsArgs {
            server: format!("{HOST}:{}", self.ports.link),
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
        })?;
        let all = fleet.all(JOIN_LIMIT + Duration::from_secs_f64(f64::from(count) / self.args.rate)).await?;
        Ok((fleet, all - began))
    }

    /// The sum of all series of one of the server's metrics.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = get(self.ports.server_health, "/metrics").await?;
        Ok(sum_of(&text, name))
    }

    /// Waits until the sum of a metric is `count`.
    pub(crate) async fn counts(&self, name: &str, count: u32) -> anyhow::Result<()> {
        let end = Instant::now() + METRIC_LIMIT;
        loop {
            let now = self.metric(name).await.context("metrics")?;
            if now == f64::from(count) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "{name} of the server is {now}, not {count}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The agents that join.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Joining<'a> {
    pub(crate) link: Link,
    pub(crate) id: &'a str,
    pub(crate) count: u32,
    pub(crate) processes: u32,
}

/// The moments of a restart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restarted {
    /// When the old server was told to end.
    pub(crate) told: Instant,
    /// When the new server was started.
    pub(crate) started: Instant,
    /// When the new server listened.
    pub(crate) listening: Instant,
}

fn flags(args: &RoomArgs, certificates: &Certificates, ports: &Ports, uds: &Path) -> Vec<String> {
    // A line of log for each connection and agent would cost more than they do.
    let quiet = "--log-level=warn".to_owned();
    [server_flags(certificates, ports, uds), vec![quiet], args.server_arg.clone()].concat()
}

/// The sum of all series of a metric.
pub(crate) fn sum_of(text: &str, name: &str) -> f64 {
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
    });
    // Not `sum`, which is -0.0 without values.
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
