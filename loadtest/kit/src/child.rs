//! Child processes, with their output in a log file.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// Longest start of a program. A debug build under load needs seconds; a program that hangs costs this long.
const START_LIMIT: Duration = Duration::from_secs(20);

/// Longest wait for one answer before the question is repeated.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Longest answer to [`get`], in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Lines of a log that go with an error: enough for a panic's message, few enough for a terminal.
const LAST_LINES: usize = 15;

/// A child process; killed and reaped when dropped.
#[derive(Debug)]
pub struct Child {
    name: &'static str,
    process: std::process::Child,
    log: Option<PathBuf>,
}

impl Child {
    /// Starts a command. Its output goes to the file `log`, or to nowhere. A piped standard input stays open
    /// until [`Self::end`].
    ///
    /// # Errors
    /// When the log cannot be created, or the program not be started.
    pub fn start(name: &'static str, mut command: Command, log: Option<&Path>) -> anyhow::Result<Self> {
        match log {
            Some(log) => {
                let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
                command.stdout(file.try_clone()?).stderr(file)
            }
            None => command.stdout(Stdio::null()),
        };
        let process =
            command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
        Ok(Self { name, process, log: log.map(Path::to_owned) })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until the program listens on this port of 127.0.0.1.
    ///
    /// # Errors
    /// When the program has ended, or takes too long; with the end of its log.
    pub async fn wait_for_port(&mut self, port: u16) -> anyhow::Result<()> {
        self.wait("listens", START_LIMIT, async || connect(port).await.map(|_| true)).await
    }

    /// Waits until the log has this line.
    ///
    /// # Errors
    /// When the program has no log, has ended, or takes too long; with the end of its log.
    pub async fn wait_for_line(&mut self, line: &str, limit: Duration) -> anyhow::Result<()> {
        let log = self.log.clone().context("the output goes nowhere")?;
        let said = async || Ok(fs::read_to_string(&log)?.lines().any(|said| said == line));
        self.wait(&format!("said {line:?}"), limit, said).await
    }

    /// Waits until `/readyz` on this port answers 200.
    ///
    /// # Errors
    /// When the program has ended, or takes too long; with the end of its log.
    pub async fn wait_until_ready(&mut self, port: u16) -> anyhow::Result<()> {
        let is_ready = async || Ok(get(port, "/readyz").await?.starts_with("HTTP/1.1 200 "));
        self.wait("is ready", START_LIMIT, is_ready).await
    }

    /// Sends SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When the signal cannot be sent, or the program has not ended in time.
    pub async fn terminate(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.signal("TERM")?;
        self.ended(limit).await?;
        Ok(())
    }

    /// Sends a signal, such as `STOP`.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let sent = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
        anyhow::ensure!(sent.context("kill")?.success(), "{} cannot be sent SIG{name}", self.name);
        Ok(())
    }

    /// Whether the program still runs.
    ///
    /// # Errors
    /// When it has ended; with the end of its log.
    pub fn lives(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            Some(status) => anyhow::bail!("{} ended with {status}\n{}", self.name, self.last_words()),
            None => Ok(()),
        }
    }

    /// Writes a line to the program's standard input, which has to be piped. Blocks while the pipe is full.
    ///
    /// # Errors
    /// When the program does not read it any more.
    pub fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.process.stdin.as_mut().with_context(|| format!("{} has no input", self.name))?;
        writeln!(input, "{line}").with_context(|| format!("tell {} {line:?}", self.name))
    }

    /// Closes the program's standard input, and waits for the end.
    ///
    /// # Errors
    /// When the program fails, now or earlier, with the end of its log; and when it has not ended in time.
    pub async fn end(&mut self, limit: Duration) -> anyhow::Result<()> {
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

    /// Kills the program, and reaps it.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
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
            self.lives()?;
            if Instant::now() >= end {
                anyhow::bail!("{} never {state} in {limit:?}\n{}", self.name, self.last_words());
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The end of the log, under the program's name; empty without a log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let Some(log) = &self.log else { return String::new() };
        let text = fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
        format!("--- {} ---\n{}", self.name, last.join("\n"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Either fails only when the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn connect(port: u16) -> anyhow::Result<TcpStream> {
    Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?)
}

/// Asks an HTTP listener on 127.0.0.1; the answer includes its head.
///
/// # Errors
/// When the connection fails, or the answer is not UTF-8.
pub async fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let mut socket = connect(port).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    fn shell(script: &str, dir: &TempDir) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Child::start("shell", command, Some(&dir.path().join("log"))).unwrap()
    }

    #[tokio::test]
    async fn a_program_that_ends_is_told_with_its_last_words() {
        let dir = TempDir::new().unwrap();
        let mut child = shell("echo no such flag >&2; exit 3", &dir);
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let error = child.wait_for_port(port).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no such flag"), "{error}");
    }

    #[tokio::test]
    async fn a_program_is_ready_once_it_says_so_and_ends_with_its_handle() {
        let dir = TempDir::new().unwrap();
        let mut child = shell("exec sleep 600", &dir);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
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
}
