//! Our server and agent, started here.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use measuring_kit::{Certificates, Child, Link, Pair, Programs};

use crate::frontend::{Frontend, FrontendArgs, FrontendName, LOCALHOST};
use crate::process::Process;

/// The address of every listener.
pub(crate) const HOST: &str = "127.0.0.1";

/// A server and an agent on one link.
#[derive(Debug)]
pub(crate) struct Tunnel {
    server: Child,
    agent: Child,
    uds: PathBuf,
    ports: Ports,
    ca: PathBuf,
    client: Pair,
}

impl Tunnel {
    /// Starts both, and waits until they are ready. Socket and logs are files in `dir` with this `label`.
    pub(crate) async fn start(
        programs: &Programs,
        link: Link,
        certificates: &Certificates,
        dir: &Path,
        label: &str,
    ) -> anyhow::Result<Self> {
        let ports = Ports::free()?;
        let uds = dir.join(format!("{label}.socket"));
        let server_flags = [server_flags(certificates, &ports, &uds), programs.server_arg.clone()].concat();
        let servers = format!("{HOST}:{}", ports.link);
        let (health, admin) = (ports.agent_health, ports.agent_admin);
        let at = AgentAt { servers: &servers, link, id: "loadtest", health, admin };
        let agent_flags = [agent_flags(certificates, &at), programs.agent_arg.clone()].concat();
        let log = |name: &str| dir.join(format!("{name}-{label}.log"));
        let mut server = start("server", &programs.server_bin, &server_flags, &log("server"))?;
        server.wait_for_port(ports.server_health).await?;
        let mut agent = start("agent", &programs.agent_bin, &agent_flags, &log("agent"))?;
        agent.wait_until_ready(ports.agent_health).await?;
        server.wait_until_ready(ports.server_health).await?;
        let (ca, client) = (certificates.ca.clone(), certificates.client.clone());
        Ok(Self { server, agent, uds, ports, ca, client })
    }

    /// Server and agent, to be watched.
    pub(crate) fn processes(&self) -> Vec<Process> {
        [("server", &self.server), ("agent", &self.agent)]
            .map(|(name, child)| Process { name: name.into(), pid: child.id() })
            .to_vec()
    }

    /// The ends of both logs.
    pub(crate) fn last_words(&self) -> String {
        format!("{}\n{}", self.server.last_words(), self.agent.last_words())
    }

    pub(crate) fn frontend(&self, name: FrontendName) -> anyhow::Result<Frontend> {
        FrontendArgs {
            place: name.at(self.uds.clone(), ([127, 0, 0, 1], self.ports.frontend).into()),
            ca: Some(self.ca.clone()),
            cert: Some(self.client.certificate.clone()),
            key: Some(self.client.key.clone()),
            server_name: LOCALHOST.into(),
        }
        .resolve()
    }
}

/// Starts one of our programs.
pub(crate) fn start(
    name: &'static str,
    program: &Path,
    flags: &[String],
    log: &Path,
) -> anyhow::Result<Child> {
    let mut command = Command::new(program);
    command.args(flags).stdin(Stdio::null());
    Child::start(name, command, Some(log))
}

/// This program again, with a standard input that stays open as long as its [`Child`].
pub(crate) fn this_program(flags: &[String]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(flags).stdin(Stdio::piped());
    Ok(command)
}

pub(crate) fn server_flags(certificates: &Certificates, ports: &Ports, uds: &Path) -> Vec<String> {
    let mut flags = vec![
        format!("--uds-name={}", uds.display()),
        "--delete-existing-uds-file=true".into(),
        "--proxy-strategies=default".into(),
        "--server-id=loadtest".into(),
    ];
    flags.extend(certificates.server_flags("cluster"));
    // The server refuses certificates of a frontend on TCP where there is none.
    if ports.frontend != 0 {
        flags.extend(certificates.server_flags("server"));
    }
    let listeners = [
        ("server", ports.frontend),
        ("agent", ports.link),
        ("admin", ports.server_admin),
        ("health", ports.server_health),
    ];
    for (name, port) in listeners {
        flags.push(format!("--{name}-bind-address={HOST}"));
        flags.push(format!("--{name}-port={port}"));
    }
    flags
}

/// An agent, its servers (`host:port`, separated by commas) and its ports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AgentAt<'a> {
    pub(crate) servers: &'a str,
    pub(crate) link: Link,
    pub(crate) id: &'a str,
    pub(crate) health: u16,
    pub(crate) admin: u16,
}

pub(crate) fn agent_flags(certificates: &Certificates, at: &AgentAt<'_>) -> Vec<String> {
    let mut flags = vec![
        format!("--proxy-server-host={}", at.servers),
        format!("--transport={}", at.link.name()),
        format!("--agent-id={}", at.id),
        format!("--health-server-host={HOST}"),
        format!("--health-server-port={}", at.health),
        format!("--admin-bind-address={HOST}"),
        format!("--admin-server-port={}", at.admin),
    ];
    flags.extend(certificates.agent_flags());
    flags
}

/// Ports of a server and an agent; the kernel chooses those that are 0.
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
pub(crate) fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
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

    #[test]
    fn free_ports_differ() {
        let mut ports: [u16; 20] = free_ports().unwrap();
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
