//! A server and an agent of ours, started here and ended with their value.

use std::path::{Path, PathBuf};

use measuring_kit::{Certificates, Pair};

use super::children::{Child, Ports};
use crate::bench::Frontend;
use crate::cli::{FrontendArgs, FrontendName, LOCALHOST, Link, Place};
use crate::process::Process;

/// Where everything listens.
pub(crate) const HOST: &str = "127.0.0.1";

/// What is started: programs, and flags beside those that are needed.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) agent: PathBuf,
    pub(crate) server_flags: Vec<String>,
    pub(crate) agent_flags: Vec<String>,
}

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
    /// Starts both and waits until they are ready. Socket and logs are files in
    /// `dir` with this `label`.
    pub(crate) async fn start(
        programs: &Programs,
        link: Link,
        certificates: &Certificates,
        dir: &Path,
        label: &str,
    ) -> anyhow::Result<Self> {
        let ports = Ports::free()?;
        let uds = dir.join(format!("{label}.socket"));
        let server_flags = [server_flags(certificates, &ports, &uds), programs.server_flags.clone()].concat();
        let agent_flags = [agent_flags(certificates, &ports, link), programs.agent_flags.clone()].concat();
        let log = |name: &str| dir.join(format!("{name}-{label}.log"));
        let mut server = Child::start("server", &programs.server, &server_flags, &log("server"))?;
        server.wait_for_port(ports.server_health).await?;
        let mut agent = Child::start("agent", &programs.agent, &agent_flags, &log("agent"))?;
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

    /// One of the ways in.
    pub(crate) fn frontend(&self, name: FrontendName) -> anyhow::Result<Frontend> {
        let (uds, address) = (self.uds.clone(), ([127, 0, 0, 1], self.ports.frontend).into());
        let place = match name {
            FrontendName::ConnectUds => Place { connect_uds: Some(uds), ..Place::default() },
            FrontendName::GrpcUds => Place { grpc_uds: Some(uds), ..Place::default() },
            FrontendName::ConnectTcp => Place { connect_tcp: Some(address), ..Place::default() },
            FrontendName::GrpcTcp => Place { grpc_tcp: Some(address), ..Place::default() },
        };
        FrontendArgs {
            place,
            ca: Some(self.ca.clone()),
            cert: Some(self.client.certificate.clone()),
            key: Some(self.client.key.clone()),
            server_name: LOCALHOST.into(),
        }
        .resolve()
    }
}

pub(crate) fn server_flags(certificates: &Certificates, ports: &Ports, uds: &Path) -> Vec<String> {
    let (ca, server) = (certificates.ca.display(), &certificates.server);
    let (certificate, key) = (server.certificate.display(), server.key.display());
    let mut flags = vec![
        format!("--uds-name={}", uds.display()),
        "--delete-existing-uds-file=true".into(),
        "--proxy-strategies=default".into(),
        "--server-id=loadtest".into(),
    ];
    // Certificates of a frontend on TCP are refused where there is none.
    let with_certificates = if ports.frontend == 0 { &["cluster"][..] } else { &["server", "cluster"] };
    for name in with_certificates {
        flags.push(format!("--{name}-cert={certificate}"));
        flags.push(format!("--{name}-key={key}"));
        flags.push(format!("--{name}-ca-cert={ca}"));
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

fn agent_flags(certificates: &Certificates, ports: &Ports, link: Link) -> Vec<String> {
    vec![
        format!("--ca-cert={}", certificates.ca.display()),
        format!("--agent-cert={}", certificates.agent.certificate.display()),
        format!("--agent-key={}", certificates.agent.key.display()),
        format!("--proxy-server-host={HOST}"),
        format!("--proxy-server-port={}", ports.link),
        format!("--transport={}", link.name()),
        "--agent-id=loadtest".into(),
        format!("--health-server-host={HOST}"),
        format!("--health-server-port={}", ports.agent_health),
        format!("--admin-bind-address={HOST}"),
        format!("--admin-server-port={}", ports.agent_admin),
    ]
}
