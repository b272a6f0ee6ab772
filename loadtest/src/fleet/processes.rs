//! The processes that a fleet is spread over.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::args::AgentsArgs;
use super::events::{Order, Standing};
use crate::ours::this_program;

impl AgentsArgs {
    /// The flags of one of the processes.
    fn flags(&self, number: u32) -> Vec<String> {
        let share = f64::from(self.processes);
        let mut flags = vec![
            "agents".to_owned(),
            "--orders".to_owned(),
            format!("--server={}", self.server),
            format!("--ca={}", self.ca.display()),
            format!("--cert={}", self.cert.display()),
            format!("--key={}", self.key.display()),
            format!("--link={}", self.link.name()),
            format!("--count={}", self.share(number)),
            format!("--rate={}", (self.rate / share).max(0.1)),
            format!("--flap={}", self.flap / share),
            format!("--id={}-{number}", self.id),
        ];
        if self.targets {
            flags.push("--targets".to_owned());
        }
        flags.extend(self.agent_arg.iter().map(|flag| format!("--agent-arg={flag}")));
        flags
    }

    /// The agents of one of the processes.
    fn share(&self, number: u32) -> u32 {
        self.count / self.processes + u32::from(number < self.count % self.processes)
    }
}

/// Processes of agents; killed when dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    processes: Vec<Process>,
    told: watch::Receiver<Told>,
    _readers: JoinSet<()>,
    count: usize,
}

/// The last messages of the processes.
#[derive(Debug, Default)]
struct Told {
    standings: Vec<Standing>,
    /// The error of one that has ended.
    failure: Option<String>,
}

#[derive(Debug)]
struct Process {
    child: Child,
    orders: ChildStdin,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Either fails only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Fleet {
    /// Starts the processes: this program, again.
    pub(crate) fn start(args: &AgentsArgs) -> anyhow::Result<Self> {
        anyhow::ensure!(args.count >= args.processes, "fewer agents than processes");
        let standings = vec![Standing::default(); args.processes as usize];
        let (tell, told) = watch::channel(Told { standings, failure: None });
        let (mut processes, mut readers) = (Vec::new(), JoinSet::new());
        for number in 0..args.processes {
            let mut child = this_program(&args.flags(number))?
                .stdout(Stdio::piped())
                .spawn()
                .context("start a process of agents")?;
            let orders = child.stdin.take().context("standard input")?;
            let output = child.stdout.take().context("standard output")?;
            processes.push(Process { child, orders });
            let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
            readers.spawn(read(number as usize, output, tell.clone()));
        }
        Ok(Self { processes, told, _readers: readers, count: args.count as usize })
    }

    /// The sum of their numbers.
    pub(crate) fn standing(&self) -> Standing {
        Standing::sum(self.told.borrow().standings.iter().copied())
    }

    /// Waits until a number has changed. Cancel safe.
    ///
    /// # Errors
    /// When one of the processes has ended.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Standing> {
        self.told.changed().await.context("no process of agents is left")?;
        let told = self.told.borrow_and_update();
        if let Some(failure) = &told.failure {
            anyhow::bail!("{failure}");
        }
        Ok(Standing::sum(told.standings.iter().copied()))
    }

    /// Waits until the numbers satisfy `is_so`.
    ///
    /// # Errors
    /// When they do not within the limit, or a process has ended.
    pub(crate) async fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(Standing) -> bool,
    ) -> anyhow::Result<Instant> {
        let end = Instant::now() + limit;
        while !is_so(self.standing()) {
            let next = timeout_at(end, self.next()).await;
            if next.is_err() {
                anyhow::bail!("not {what} within {limit:?}: {}", self.standing());
            }
            next??;
        }
        Ok(Instant::now())
    }

    /// Waits until all agents are connected.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub(crate) async fn all(&mut self, limit: Duration) -> anyhow::Result<Instant> {
        let count = self.count;
        self.wait("all connected", limit, |standing| standing.connected == count).await
    }

    /// Sets the number of agents per second that leave and return.
    pub(crate) fn flap(&mut self, rate: f64) -> anyhow::Result<()> {
        let order = serde_json::to_string(&Order::Flap(rate / self.processes.len() as f64))?;
        for process in &mut self.processes {
            writeln!(process.orders, "{order}").context("a process of agents has ended")?;
        }
        Ok(())
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.processes.iter().map(|process| process.child.id()).collect()
    }
}

async fn read(number: usize, output: pipe::Receiver, tell: watch::Sender<Told>) {
    let mut lines = BufReader::new(output).lines();
    let failure = loop {
        let report = match lines.next_line().await {
            Ok(Some(line)) => serde_json::from_str(&line).map_err(anyhow::Error::from),
            Ok(None) => Err(anyhow::anyhow!("it has ended")),
            Err(error) => Err(error.into()),
        };
        match report {
            Ok(standing) => tell.send_modify(|told| told.standings[number] = standing),
            Err(error) => break error,
        }
    };
    tell.send_modify(|told| told.failure = Some(format!("process {number} of agents: {failure:#}")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use measuring_kit::Link;

    #[test]
    fn agents_are_spread_evenly() {
        let args = |count, processes| AgentsArgs {
            server: "127.0.0.1:1".into(),
            ca: "ca".into(),
            cert: "cert".into(),
            key: "key".into(),
            link: Link::H2,
            count,
            rate: 100.0,
            flap: 0.0,
            processes,
            id: "a".into(),
            targets: false,
            agent_arg: vec!["--sync-interval=1s".into()],
        };
        let shares = |count, processes| -> Vec<u32> {
            (0..processes).map(|number| args(count, processes).share(number)).collect()
        };
        assert_eq!(shares(10, 3), [4, 3, 3]);
        assert_eq!(shares(5000, 4), [1250; 4]);
        let flags = args(10, 2).flags(1).join(" ");
        assert!(flags.contains("--count=5 --rate=50") && flags.contains("--agent-arg=--sync-interval=1s"));
    }
}
