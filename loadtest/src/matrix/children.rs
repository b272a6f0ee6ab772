//! Programs that are started here, and ended with the value that stands for
//! them.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::target::Addresses;

/// How long a program may take to get ready.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How long one question to it may take.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Longest answer to it.
const MAX_ANSWER: u64 = 1 << 20;

/// Lines of a log that go with an error.
const LAST_LINES: usize = 15;

/// A running program; killed and reaped when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    name: &'static str,
    process: Process,
    log: Option<PathBuf>,
}

impl Child {
    /// Starts a program with its output in a file.
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        flags: &[String],
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let process = Command::new(program)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        Ok(Self { name, process, log: Some(log.to_owned()) })
    }

    /// Starts this program again with its output in a file, and with a standard
    /// input that stays open until [`Self::end`].
    pub(crate) fn start_again(name: &'static str, flags: &[String], log: &Path) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let process = Command::new(std::env::current_exe()?)
            .args(flags)
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start a process for {name}"))?;
        Ok(Self { name, process, log: Some(log.to_owned()) })
    }

    /// Starts a target: this program again, so that it has a process of its
    /// own, and with it CPU time and open files of its own.
    pub(crate) async fn target() -> anyhow::Result<(Self, Addresses)> {
        let [commands, banner] = free_ports()?.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let process = Command::new(std::env::current_exe()?)
            .arg("target")
            .arg(format!("--listen={commands}"))
            .arg(format!("--banner-listen={banner}"))
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("start the target")?;
        let mut child = Self { name: "target", process, log: None };
        child.wait_for_port(commands.port()).await?;
        Ok((child, Addresses { commands, banner }))
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the program listens.
    pub(crate) async fn wait_for_port(&mut self, port: u16) -> anyhow::Result<()> {
        self.wait("listens", START_LIMIT, async || connect(port).await.map(|_| true)).await
    }

    /// Waits until the program has said this line.
    pub(crate) async fn wait_for_line(&mut self, line: &str, limit: Duration) -> anyhow::Result<()> {
        let log = self.log.clone().context("nobody keeps what it says")?;
        let said = async || Ok(fs::read_to_string(&log)?.lines().any(|said| said == line));
        self.wait(&format!("said {line:?}"), limit, said).await
    }

    /// Waits until `/readyz` is answered with 200.
    pub(crate) async fn wait_until_ready(&mut self, port: u16) -> anyhow::Result<()> {
        self.wait("is ready", START_LIMIT, async || ask_readyz(port).await).await
    }

    /// Asks the program to end, and waits until it has.
    ///
    /// # Errors
    /// When it cannot be asked, or has not ended in time.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> anyhow::Result<()> {
        let asked = Command::new("kill").arg("-TERM").arg(self.id().to_string()).status();
        anyhow::ensure!(asked.context("kill")?.success(), "{} cannot be asked to end", self.name);
        self.ended(limit).await?;
        Ok(())
    }

    /// Closes the program's standard input, and waits until it has ended.
    ///
    /// # Errors
    /// With its last words when it failed, even before it was asked; and when it
    /// has not ended in time.
    pub(crate) async fn end(&mut self, limit: Duration) -> anyhow::Result<()> {
        drop(self.process.stdin.take());
        let status = self.ended(limit).await?;
        anyhow::ensure!(status.success(), "{} ended with {status}\n{}", self.name, self.last_words());
        Ok(())
    }

    async fn ended(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < end, "{} has not ended in {limit:?}", self.name);
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the program at once.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        Ok(())
    }

    async fn wait(
        &mut self,
        state: &str,
        limit: Duration,
        ask: impl AsyncFn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        loop {
            if timeout(ASK_LIMIT, ask()).await.is_ok_and(|answer| answer.unwrap_or(false)) {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                anyhow::bail!("{} ended with {status}\n{}", self.name, self.last_words());
            }
            if Instant::now() >= end {
                anyhow::bail!("{} never {state} in {limit:?}\n{}", self.name, self.last_words());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The end of its log.
    pub(crate) fn last_words(&self) -> String {
        let Some(log) = &self.log else { return String::new() };
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        format!("--- {} ---\n{}", self.name, last.join("\n"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn connect(port: u16) -> anyhow::Result<TcpStream> {
    Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?)
}

async fn ask_readyz(port: u16) -> anyhow::Result<bool> {
    Ok(get(port, "/readyz").await?.starts_with("HTTP/1.1 200 "))
}

/// What a program's health listener answers, its head included.
pub(crate) async fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let mut socket = connect(port).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Ports of a server and an agent; those that are 0 are left to the kernel.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    pub(crate) frontend: u16,
    /// TCP and UDP.
    pub(crate) link: u16,
    pub(crate) server_admin: u16,
    pub(crate) server_health: u16,
    pub(crate) agent_admin: u16,
    pub(crate) agent_health: u16,
}

impl Ports {
    pub(crate) fn free() -> anyhow::Result<Self> {
        let [frontend, link, server_admin, server_health, agent_admin, agent_health] = free_ports()?;
        Ok(Self { frontend, link, server_admin, server_health, agent_admin, agent_health })
    }
}

/// Ports that were free a moment ago, on TCP and UDP.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    // All are held until the last is found, or one would be found twice.
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        *port = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            let found = tcp.local_addr()?.port();
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, found));
            let is_free = udp.is_ok();
            held.push((tcp, udp));
            if is_free {
                break found;
            }
            anyhow::ensure!(held.len() < N + 100, "no free ports");
        };
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;
    use tokio::task::JoinSet;

    fn shell(script: &str, dir: &TempDir) -> Child {
        let flags = ["-c".to_owned(), script.to_owned()];
        Child::start("shell", Path::new("/bin/sh"), &flags, &dir.path().join("log")).unwrap()
    }

    #[tokio::test]
    async fn a_program_that_ends_is_told_with_its_last_words() {
        let dir = TempDir::new().unwrap();
        let mut child = shell("echo no such flag >&2; exit 3", &dir);
        let [port] = free_ports().unwrap();
        let error = child.wait_for_port(port).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such flag"), "{error}");
    }

    #[tokio::test]
    async fn a_program_is_ready_once_it_says_so_and_ends_with_its_handle() {
        let dir = TempDir::new().unwrap();
        let mut child = shell("exec sleep 600", &dir);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut health = JoinSet::new();
        health.spawn(async move {
            for status in ["503 Service Unavailable", "200 OK"] {
                let (mut socket, _) = listener.accept().await.unwrap();
                let _ = socket.read(&mut [0; 1024]).await.unwrap();
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        child.wait_until_ready(port).await.unwrap();
        health.join_next().await.unwrap().unwrap();
        let process = format!("/proc/{}", child.id());
        assert!(Path::new(&process).exists());
        drop(child);
        assert!(!Path::new(&process).exists());
    }

    #[test]
    fn free_ports_differ() {
        let mut ports: [u16; 20] = free_ports().unwrap();
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
