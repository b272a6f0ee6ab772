//! A running system: its start and its end.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use measuring_kit::Certificates;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep, timeout};

use super::spec::Spec;
use super::system::{Origin, Reachable, System};
use crate::ours::{HOST, Tunnel};

/// Longest start of a program that starts a system: containers take tens of seconds.
const START_LIMIT: Duration = Duration::from_secs(60);

/// Longest end of such a program once its standard input has ended.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Longest line of such a program, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// A directory with certificates, in which systems are started.
pub(super) struct Workshop {
    dir: TempDir,
    certificates: Certificates,
}

impl Workshop {
    pub(super) fn new() -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let certificates = Certificates::write(dir.path(), HOST)?;
        Ok(Self { dir, certificates })
    }

    fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// A running system.
pub(super) struct Instance {
    pub(super) reachable: Reachable,
    keeper: Keeper,
}

enum Keeper {
    Nobody,
    Script(Script),
    Tunnel(Box<Tunnel>),
}

impl System {
    /// Starts the system unless it runs already. `label` is unique among running systems, and short enough
    /// for the path of a Unix socket.
    pub(super) async fn start(&self, workshop: &Workshop, label: &str) -> anyhow::Result<Instance> {
        let (reachable, keeper) = match &self.origin {
            Origin::Running(reachable) => (reachable.clone(), Keeper::Nobody),
            Origin::Ours { programs, link, frontend } => {
                let (certificates, dir) = (&workshop.certificates, workshop.dir());
                let tunnel = Tunnel::start(programs, *link, certificates, dir, label).await?;
                let frontend = tunnel.frontend(*frontend)?;
                let reachable = Reachable { frontend, processes: tunnel.processes() };
                (reachable, Keeper::Tunnel(Box::new(tunnel)))
            }
            Origin::Started(command) => {
                let (script, reachable) = Script::start(command).await?;
                (reachable, Keeper::Script(script))
            }
        };
        Ok(Instance { reachable, keeper })
    }
}

impl Instance {
    /// The ends of its logs, where they are known.
    pub(super) fn last_words(&self) -> Option<String> {
        match &self.keeper {
            Keeper::Tunnel(tunnel) => Some(tunnel.last_words()),
            Keeper::Nobody | Keeper::Script(_) => None,
        }
    }

    /// Ends the processes that were started here.
    pub(super) async fn end(self) -> anyhow::Result<()> {
        match self.keeper {
            Keeper::Nobody => Ok(()),
            Keeper::Script(script) => script.end().await,
            Keeper::Tunnel(tunnel) => {
                drop(tunnel);
                Ok(())
            }
        }
    }
}

/// A program that keeps a system running as long as its standard input is open. It is never killed, or its
/// children would be left behind.
struct Script {
    process: Child,
}

impl Script {
    async fn start(command: &[String]) -> anyhow::Result<(Self, Reachable)> {
        let (program, arguments) = command.split_first().context("start names no program")?;
        let mut process = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let output = process.stdout.take().context("no standard output")?;
        let output = pipe::Receiver::from_owned_fd(output.into())?;
        let mut line = String::new();
        let mut reader = BufReader::new(output.take(MAX_LINE));
        timeout(START_LIMIT, reader.read_line(&mut line))
            .await
            .with_context(|| format!("{program} said nothing in {START_LIMIT:?}"))??;
        let line = line.strip_suffix('\n').with_context(|| format!("{program} ended after {line:?}"))?;
        let reachable = line.parse::<Spec>().and_then(Spec::reachable);
        let reachable = reachable.with_context(|| format!("{program} said {line:?}"))?;
        Ok((Self { process }, reachable))
    }

    async fn end(mut self) -> anyhow::Result<()> {
        drop(self.process.stdin.take());
        let end = Instant::now() + END_LIMIT;
        while self.process.try_wait()?.is_none() {
            anyhow::ensure!(Instant::now() < end, "the program did not end with its standard input");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// A script of a shell; its first argument is given to it.
    async fn run(script: &str, argument: &str) -> anyhow::Result<Instance> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(script.as_bytes()).unwrap();
        let path = file.path().display().to_string();
        let system = System {
            name: "script".into(),
            origin: Origin::Started(vec!["/bin/sh".into(), path, argument.into()]),
        };
        system.start(&Workshop::new().unwrap(), "x").await
    }

    #[tokio::test]
    async fn a_program_says_where_its_system_is_and_ends_with_its_input() {
        let dir = TempDir::new().unwrap();
        let mark = dir.path().join("mark");
        let script = "echo connect-uds=/run/s,pid=server:$$; cat; touch $1";
        let instance = run(script, mark.to_str().unwrap()).await.unwrap();
        assert_eq!(instance.reachable.frontend.name, "connect-uds");
        assert_eq!(instance.reachable.processes[0].name, "server");
        assert!(!mark.exists());
        instance.end().await.unwrap();
        assert!(mark.exists());
    }

    #[tokio::test]
    async fn a_program_that_says_something_else_is_told_with_its_words() {
        for (script, words) in [
            ("echo what", "said \"what\""),
            ("exit 1", "ended after \"\""),
            ("printf half", "after \"half\""),
        ] {
            let Err(error) = run(script, "").await else { panic!("{script}") };
            assert!(format!("{error:#}").contains(words), "{script}: {error:#}");
        }
    }
}
