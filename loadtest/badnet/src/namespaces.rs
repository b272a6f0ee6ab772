//! Two network namespaces with the bad line between them. Needs root; both vanish
//! with the value.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::emulator::Emulator;
use crate::line::Conditions;

/// Addresses on the line, in a network that is for tests (RFC 2544).
pub(crate) const SERVER: &str = "198.18.0.1";
pub(crate) const AGENT: &str = "198.18.0.2";
pub(crate) const OTHER_AGENT: &str = "198.18.0.3";

/// What fits through most tunnels and clouds, and is what Ethernet has.
const MTU: &str = "1500";

/// Packets that wait in a device: so many that none is lost before the line, which
/// has losses of its own.
const QUEUE: &str = "10000";

/// A namespace of our own, deleted when dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    fn new(name: String) -> anyhow::Result<Self> {
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, words: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", &self.name], words].concat())
    }

    /// A command in it.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    fn set_congestion_control(&self, name: &str) -> anyhow::Result<()> {
        let script = format!("echo {name} > /proc/sys/net/ipv4/tcp_congestion_control");
        run(self.command(Path::new("sh")).args(["-c", &script])).with_context(|| {
            format!("{name} has to be in the host's net.ipv4.tcp_allowed_congestion_control")
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "del", &self.name]) {
            crate::output::complain(&format!("{error:#}"));
        }
    }
}

/// Both ends, and what is between them.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) line: Emulator,
    pub(crate) server: Namespace,
    pub(crate) agent: Namespace,
    device: String,
}

impl Network {
    /// Makes all of it; `congestion` is TCP's, and the kernel's own without it.
    pub(crate) fn new(conditions: Conditions, seed: u64, congestion: Option<&str>) -> anyhow::Result<Self> {
        let id = std::process::id();
        let (server, agent) = (Namespace::new(format!("bad{id}s"))?, Namespace::new(format!("bad{id}a"))?);
        let devices = [format!("bad{id}s"), format!("bad{id}a")];
        let line = Emulator::start([&devices[0], &devices[1]], conditions, seed)?;
        for (namespace, device, address) in [(&server, &devices[0], SERVER), (&agent, &devices[1], AGENT)] {
            ip(&["link", "set", "dev", device, "netns", &namespace.name])?;
            namespace.ip(&["addr", "add", &format!("{address}/24"), "dev", device])?;
            namespace.ip(&["link", "set", "dev", device, "mtu", MTU, "txqueuelen", QUEUE, "up"])?;
            if let Some(congestion) = congestion {
                namespace.set_congestion_control(congestion)?;
            }
        }
        let [_, device] = devices;
        Ok(Self { line, server, agent, device })
    }

    /// The agent's host gets another address, and loses the one it has.
    pub(crate) fn change_address(&self) -> anyhow::Result<()> {
        self.agent.ip(&["addr", "del", &format!("{AGENT}/24"), "dev", &self.device])?;
        self.agent.ip(&["addr", "add", &format!("{OTHER_AGENT}/24"), "dev", &self.device])
    }
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(words))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(())
}
