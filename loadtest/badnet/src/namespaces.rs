//! Two network namespaces with the bad line between them. Needs root; dropping them deletes them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;

use crate::emulator::Emulator;
use crate::line::Conditions;

/// Addresses on the line, from the network for benchmarks (RFC 2544).
pub(crate) const SERVER: &str = "198.18.0.1";
pub(crate) const AGENT: &str = "198.18.0.2";
pub(crate) const OTHER_AGENT: &str = "198.18.0.3";

/// Ethernet's MTU. A smaller one would hide what path MTU discovery does; a larger one is rare on the
/// Internet.
const MTU: &str = "1500";

/// Packets that a device queues: so many that none is lost before the line, whose losses are counted.
const QUEUE: &str = "10000";

/// A namespace of our own, deleted when dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    pub(crate) name: String,
}

impl Namespace {
    pub(crate) fn new(name: String) -> anyhow::Result<Self> {
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Moves an end of a line into the namespace, and gives it an address.
    pub(crate) fn take(&self, device: &str, address: &str) -> anyhow::Result<()> {
        ip(&["link", "set", "dev", device, "netns", &self.name])?;
        self.ip(&["addr", "add", &format!("{address}/24"), "dev", device])?;
        self.ip(&["link", "set", "dev", device, "mtu", MTU, "txqueuelen", QUEUE, "up"])
    }

    /// Runs `ip` in the namespace.
    pub(crate) fn ip(&self, words: &[&str]) -> anyhow::Result<()> {
        ip(&[&["-n", &self.name], words].concat())
    }

    /// A command that runs in the namespace.
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
            measuring_kit::complain(&format!("{error:#}"));
        }
    }
}

/// Both namespaces and the line.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) line: Emulator,
    pub(crate) server: Namespace,
    pub(crate) agent: Namespace,
    device: String,
}

impl Network {
    /// Makes the namespaces and the line. `congestion` is TCP's congestion control; the kernel's default
    /// without it.
    pub(crate) fn new(conditions: Conditions, seed: u64, congestion: Option<&str>) -> anyhow::Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        // A name of a device has at most 15 bytes.
        let id = format!("{}x{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let devices = [format!("bad{id}s"), format!("bad{id}a")];
        let [server, agent] = devices.clone().map(Namespace::new);
        let (server, agent) = (server?, agent?);
        let line = Emulator::start([&devices[0], &devices[1]], conditions, seed)?;
        for (namespace, device, address) in [(&server, &devices[0], SERVER), (&agent, &devices[1], AGENT)] {
            namespace.take(device, address)?;
            if let Some(congestion) = congestion {
                namespace.set_congestion_control(congestion)?;
            }
        }
        let [_, device] = devices;
        Ok(Self { line, server, agent, device })
    }

    /// Replaces the address of the agent's host.
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
