//! The systems that are compared: where they come from, and how they are
//! started and ended.

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
use crate::bench::Frontend;
use crate::cli::{FrontendName, Link};
use crate::matrix::tunnel::{HOST, Programs, Tunnel};
use crate::process::Process;

/// How long a program may take to say where its system is.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long it may take to end once its standard input has.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Longest line of such a program, in bytes.
const MAX_LINE: u64 = 64 * 1024;

/// One of those that are compared.
#[derive(Debug)]
pub(super) struct System {
    pub(super) name: String,
    pub(super) origin: Origin,
}

#[derive(Debug)]
pub(super) enum Origin {
    /// Our programs, started here.
    Ours { programs: Programs, link: Link, frontend: FrontendName },
    /// Started by somebody else, and left alone.
    Running(Reachable),
    /// Started here by a program that says where the system is.
    Started(Vec<String>),
}

/// Where a running system is dialled, and its processes.
#[derive(Debug, Clone)]
pub(super) struct Reachable {
    pub(super) frontend: Frontend,
    pub(super) processes: Vec<Process>,
}

/// What starting systems needs.
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

/// A system that runs.
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
    /// Whether it can have new processes.
    pub(super) fn is_started_here(&self) -> bool {
        !matches!(self.origin, Origin::Running(_))
    }

    /// Starts it, if it is to be started. `label` is short and no other
    /// running system's.
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
    /// What its logs say last, where they are known.
    pub(super) fn last_words(&self) -> Option<String> {
        match &self.keeper {
            Keeper::Tunnel(tunnel) => Some(tunnel.last_words()),
            Keeper::Nobody | Keeper::Script(_) => None,
        }
    }

    /// Ends what was started.
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

/// A program that keeps a system running as long as its standard input is open.
/// Never killed: it would leave its own children behind.
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
